"""Formulas between delimiters, in addresses, and where they must not be seen."""

# ruff: noqa: E501

import pytest
from selectolax.lexbor import LexborHTMLParser

from openmimo.data.pages.code_blocks import save_inline_code
from openmimo.data.pages.extract import extract, save_pieces
from openmimo.data.pages.formulas import save_delimited
from openmimo.data.pages.plain_text import plain_text
from openmimo.data.pages.saved import MARK, Saved
from openmimo.data.pages.source_names import source_names
from openmimo.data.read import Page
from openmimo.types import Document


def delimited(text: str) -> str:
    saved = Saved()
    return saved.put_back(save_delimited(text, saved)).strip()


def elements(markup: str) -> str:
    tree, saved = LexborHTMLParser(f"<body>{markup}</body>"), Saved()
    save_pieces(tree, source_names(markup.encode()), saved)
    return saved.put_back(plain_text(tree.body.html or "")).strip()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"so \(x_1\) and \[y\] end", "so $x_1$ and\n$$y$$\nend"),
        (r"$$a$$", "$$a$$"),
        (r"a \begin{align*}x &= 1 \\ y &= 2\end{align*} b", "a\n$$\\begin{align*}x &= 1 \\\\ y &= 2\\end{align*}$$\nb"),
        ("physics [itex]E = mc^2[/itex] forum", "physics $E = mc^2$ forum"),
        ("a blog $latex \\pi$ entry", "a blog $\\pi$ entry"),
        (r"costs \$5 and $6 and $7", r"costs \$5 and $6 and $7"),
        ("\\(a\n\nb\\)", "\\(a\n\nb\\)"),  # no formula runs over paragraphs
    ],
)
def test_delimiters(text: str, expected: str) -> None:
    assert delimited(text) == expected


@pytest.mark.parametrize(
    ("source", "tex"),
    [
        ("https://s0.wp.com/latex.php?latex=x%5E2+%2B+1&bg=fff", "x^2 + 1"),
        ("https://s0.wp.com/latex.php?latex=%5Cfrac%7B1%7D%7B2%7D%2B%5Cfrac%7B7%7D%7B8%7D", r"\frac{1}{2}+\frac{7}{8}"),
        (r"https://latex.codecogs.com/gif.latex?\inline&space;a+\sqrt{b}", r"a+\sqrt{b}"),
        ("https://latex.codecogs.com/png.latex?9%2B%5Csqrt%7Bn%7D", r"9+\sqrt{n}"),
        ("https://www.zhihu.com/equation?tex=a%2Bb", "a+b"),
    ],
)
def test_a_formula_in_an_address(source: str, tex: str) -> None:
    assert elements(f'<p>so <img src="{source}" alt=""> holds</p>') == f"so ${tex}$ holds"


def test_mathjax_2_shows_a_formula_once_with_or_without_its_script() -> None:
    shown = '<span class="MathJax_Preview">x2</span><div class="MathJax_Display"><span class="MathJax" data-mathml="&lt;math display=&quot;block&quot;&gt;&lt;msup&gt;&lt;mi&gt;x&lt;/mi&gt;&lt;mn&gt;2&lt;/mn&gt;&lt;/msup&gt;&lt;/math&gt;">x2</span></div>'
    assert elements(f"<p>so</p>{shown}" + '<script type="math/tex; mode=display">x^{2}</script>') == "so\n\n$$x^{2}$$"
    assert elements(f"<p>so</p>{shown}") == "so\n\n$$x^2$$"


def test_an_escaped_formula_is_unescaped_and_columns_are_not() -> None:
    assert elements('<script type="math/tex">a &lt; b &amp; c &sum</script>') == "$a < b & c &sum$"


def test_inline_code_is_never_a_formula() -> None:
    saved = Saved()
    text = plain_text(save_inline_code("<p><code>$x$</code> is <b>not</b> <code>y</code> or $z$</p>", saved))
    assert saved.put_back(save_delimited(text, saved)) == "$x$ is not y or $z$" and len(saved.pieces) == 2


def test_a_page_may_hold_the_mark_of_placeholders() -> None:
    page = f"<title>T</title><p>{MARK}0; and {MARK}7; and {MARK} with \\(x\\), long enough to be kept.</p>"
    document = extract(Page("u", page.encode(), "text/html; charset=utf-8", "web"))
    assert isinstance(document, Document) and MARK not in document.text and "with $x$, long" in document.text


def test_openings_without_an_end_are_read_once() -> None:
    for opening in (r"\[ ", r"\( ", "$ ", r"\begin{align} ", "[tex] "):
        text = (opening * 50_000).strip()
        assert delimited(text) == text  # a second reading of each would take hours


def test_mathml_nested_beyond_reason_costs_itself_alone() -> None:
    text = elements("<p>before</p><math>" + "<mrow>" * 20_000 + "<mi>x</mi></math>")
    assert text.startswith("before")
