"""Extraction on hand-made pages, one a formula encoding, and on real pages with gold formulas and code."""

# ruff: noqa: E501

import gzip
import json
import re
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openmimo.data.pages.charset import decode
from openmimo.data.pages.code_blocks import fenced
from openmimo.data.pages.extract import Dropped, extract
from openmimo.data.read import DOCUMENT, Page
from openmimo.types import Document

FILLER = "<p>The following paragraph says enough about the matter that a reader takes it for the main content.</p>" * 3


def text_of(body: str, head: str = "<title>T</title>") -> str:
    page = f"<html><head>{head}</head><body><main>{FILLER}{body}{FILLER}</main></body></html>"
    document = extract(Page("http://a.b/c", page.encode(), "text/html; charset=utf-8", "web"))
    assert isinstance(document, Document), document
    return document.text


MATHML = (
    '<math display="block"><mfrac><mi>a</mi><msup><mi>b</mi><mn>2</mn></msup></mfrac>'
    '<annotation encoding="application/x-tex">\\frac{a}{b^2}</annotation></math>'
)
BARE = re.sub("<annotation.*</annotation>", "", MATHML)

ENCODINGS = {
    "round": r"<p>so \(\frac{a}{b^2}\) holds</p>",
    "square": r"<p>so \[\frac{a}{b^2}\] holds</p>",
    "dollar": r"<p>so $\frac{a}{b^2}$ holds</p>",
    "dollars": r"<p>so $$\frac{a}{b^2}$$ holds</p>",
    "katex": f'<p>so <span class="katex"><span class="katex-mathml">{MATHML}</span><span class="katex-html">ab2</span></span></p>',
    "mathjax 2": r'<p>so <span class="MathJax">ab2</span><script type="math/tex">\frac{a}{b^2}</script> holds</p>',
    "mathjax 3": f'<p>so <mjx-container><mjx-math></mjx-math><mjx-assistive-mml>{BARE}</mjx-assistive-mml></mjx-container></p>',
    "mathml annotated": f"<p>so {MATHML} holds</p>",
    "mathml": f"<p>so {BARE} holds</p>",
    "wikipedia": '<p>so <span class="mwe-math-element"><img class="mwe-math-fallback-image-inline" '
    r'alt="{\displaystyle \frac{a}{b^2}}"></span></p>',
    "wordpress": r'<p>so <img class="latex" src="https://s0.wp.com/latex.php?latex=%5Cfrac%7Ba%7D%7Bb%5E2%7D&bg=fff" alt=""></p>',
    "codecogs": r'<p>so <img src="https://latex.codecogs.com/gif.latex?\inline&space;\frac{a}{b^2}"></p>',
    "alt": r'<p>so <img src="x.png" alt="\frac{a}{b^2}"> holds</p>',
}  # fmt: skip


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_formula_survives_in_every_encoding(encoding: str) -> None:
    text = text_of(ENCODINGS[encoding])
    assert len(re.findall(r"\$?\$\\frac{a}{b\^2}\$\$?", text)) == 1, text
    assert "ab2" not in text and "Qzx" not in text


def test_display_formulas_get_two_dollars_and_inline_ones_one() -> None:
    text = text_of(r"<p>with \(x\) in \[y = 1\] here</p>")
    assert "with $x$ in" in text and "$$y = 1$$" in text


def test_money_is_no_formula() -> None:
    text = text_of("<p>It costs $5 per day or 10$ a week, at most $20 per stay and $3 more.</p>")
    assert "It costs $5 per day or 10$ a week, at most $20 per stay and $3 more." in text


def test_delimiters_in_code_are_left_alone() -> None:
    text = text_of(r"<p>write <code>\(x\)</code></p><pre>echo $HOME \(x\) $x$</pre>")
    assert r"write \(x\)" in text and r"echo $HOME \(x\) $x$" in text


def test_code_is_byte_exact_fenced_and_named() -> None:
    code = "def f(x):\n\tif x < 1 && y:\n\n\n        return  'a'   \n    # `tick`  Qzx0Q"
    markup = code.replace("&", "&amp;").replace("<", "&lt;")
    text = text_of(f'<div class="highlight"><pre><code class="language-python">{markup}\n</code></pre></div>')
    assert f"```python\n{code}\n```" in text


def test_line_numbers_and_buttons_are_no_code() -> None:
    table = (
        '<table class="highlighttable"><tr><td class="linenos"><pre>1\n2</pre></td>'
        '<td class="code"><div class="highlight"><pre>a = 1\nb = 2\n</pre></div></td></tr></table>'
    )
    assert "```\na = 1\nb = 2\n```" in text_of(table)
    assert "```\na\nb\n```" in text_of('<pre><button>copy</button><span class="lineno">1</span>a<br>b</pre>')


def test_a_fence_is_longer_than_any_inside() -> None:
    assert fenced("```\nx\n```") == "````\n```\nx\n```\n````"


def test_boilerplate_goes_and_the_title_stays() -> None:
    page = f"<html lang=de-AT><head><title> My\n page </title></head><body><nav><a href=x>Home</a></nav><main>{FILLER}</main><footer>Imprint</footer></body></html>"
    document = extract(Page("http://a.b/", page.encode(), "text/html", "web"))
    assert isinstance(document, Document)
    assert document.title == "My page" and document.language == "de" and "Imprint" not in document.text


def test_bytes_are_decoded_as_the_page_or_the_server_says() -> None:
    assert decode("grün".encode("latin-1"), "text/html; charset=ISO-8859-1") == "grün"
    assert decode(b'<meta charset="shift_jis">' + "日本".encode("shift_jis")).endswith("日本")
    assert decode(b"\xef\xbb\xbfa") == "a"


def test_pages_without_text_are_dropped_with_a_reason() -> None:
    assert extract(Page("u", b"", "text/html", "web")) == Dropped("empty")
    assert extract(Page("u", b"\x89PNG", "image/png", "web")) == Dropped("not a text page", "image/png")
    broken = extract(Page("u", b"%PDF-1.4 nothing", "application/pdf", "pdf"))
    assert isinstance(broken, Dropped) and broken.reason == "broken page"
    row = extract(Page("u", b"{", DOCUMENT, "x"))
    assert isinstance(row, Dropped) and row.reason == "broken row"


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=300) | st.text(alphabet="<>/ap$\\()[]{}&;!-=\"'rempthscodx \n", max_size=300).map(str.encode))
def test_no_page_is_an_error(content: bytes) -> None:
    result = extract(Page("http://x.y/", content, "text/html", "web"))
    assert isinstance(result, (Document, Dropped))


def canonical(tex: str) -> str:
    """TeX without what the same formula may be written with or without: blanks, braces, styles, order of scripts."""
    tex = re.sub(r"\s+|\\[,;! ]|~|&|\\\\|\\(left|right|limits|displaystyle|operatorname|mathrm|text)(?![a-z])", "", tex)
    tex = re.sub(r"\\begin\{\w+\*?\}|\\end\{\w+\*?\}", "", tex)
    for old, new in ((r"\leq", "<="), (r"\geq", ">="), (r"\ldots", "..."), (r"\dots", "..."), (r"\rm", "")):
        tex = tex.replace(old, new)
    tex = re.sub(r"\^(\{[^{}]*\}|\\?\w|\*)_(\{[^{}]*\}|\\?\w)", r"_\2^\1", tex)
    return re.sub(r"[{}]", "", tex).removesuffix(",").removesuffix(".")


def test_real_pages_keep_97_percent_of_formulas_and_code_of_each_kind() -> None:
    path = Path(__file__).parents[3] / "shared/data/pages/pages.jsonl.gz"
    if not path.exists():
        pytest.skip(f"real pages with gold are not at {path}")
    with gzip.open(path, "rb") as file:
        pages = [json.loads(line) for line in file]
    seen: Counter[str] = Counter()
    kept: Counter[str] = Counter()
    for page in pages:
        document = extract(Page(page["src"], page["html"].encode(), "text/html; charset=utf-8", "web"))
        assert isinstance(document, Document)
        text = canonical(document.text)
        for formula in page["formulas"]:
            seen[page["kind"]] += 1
            kept[page["kind"]] += canonical(formula) in text
        lines = re.sub(r"[ \t]+\n", "\n", document.text)  # the gold has no blanks at a line's end, the pages do
        for code in page["code"]:
            seen["code blocks"] += 1
            kept["code blocks"] += code in lines
        seen["boilerplate"] += len(page["boil"])
        kept["boilerplate"] += sum(line in document.text for line in page["boil"])
    rates = {kind: kept[kind] / seen[kind] for kind in seen}
    assert rates.pop("boilerplate") < 0.01
    assert min(rates.values()) >= 0.97, rates
