r"""Formulas of a page, as TeX between dollars (MiMo 2.1: common extractors lose equations).

`save_formula` works on the parsed page, for encodings that are elements: MathJax 2 and 3, KaTeX, MathML, Wikipedia,
images that a TeX service drew or whose alternative text is TeX. `save_delimited` works on text: `\( \)`, `\[ \]`,
`$`, `$$` and bare environments. Each formula is found once, by the first of these that knows it.
"""

from __future__ import annotations

import html as html_entities
import re
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from openmimo.data.pages.mathml import clean_tex, mathml_to_tex
from openmimo.data.pages.saved import MARK, Saved

_IMAGE_HOSTS = re.compile(
    r"latex\.codecogs\.com|latex\.php|/mathtex\.cgi|/mimetex\.cgi|quicklatex\.com|/latex/|math\.wikimedia|"
    r"wikimedia\.org/.*/math/|texvc|cht=tx|render\.githubusercontent\.com/render/math|/math/[0-9a-f]{6,}|/imgmath|"
    r"i\.upmath\.me|math\.now\.sh|zhihu\.com/equation",
    re.IGNORECASE,
)
_IMAGE_CLASSES = frozenset(
    "math tex latex mathimg mathimage mwe-math-fallback-image-inline mwe-math-fallback-image-display "
    "ql-img-inline-formula ql-img-displayed-equation wp-katex-eq formula equation".split()
)
_ALT_TEX = re.compile(r"\\[a-zA-Z]{2,}|[_^]\{|\$.+\$")
_IMAGE_STYLE = re.compile(
    r"^(?:(?:\\(?:inline|displaystyle|dpi\{\d+\}|bg_\w+|fn_\w+|normalsize|large|huge|small|tiny|LARGE)\b|from=|&)\s*)+"
)
"""What TeX image services take before the formula itself."""
_TEXISH = re.compile(r"\\[a-zA-Z]{2,}|[_^]\{|\\frac|[A-Za-z0-9)]\s*[\^_]\s*[A-Za-z0-9{]|=")
FORMULAS = "math, mjx-container, script, img"
"""Selects what may be a formula, beside `FORMULA_CLASSES`; `is_formula` says whether it is."""
FORMULA_CLASSES = (
    "MathJax",
    "MathJax_Preview",
    "MathJax_SVG",
    "MathJax_CHTML",
    "katex",
    "mwe-math-element",
    "ztext-math",
)
_ENTITY = re.compile(r"&(?:lt|gt|amp|quot|nbsp|#\d+|#x[0-9a-fA-F]+);")
_DELIMITED = re.compile(  # each branch starts with the character it is searched by, and none holds its own opening:
    r"\\\[(?P<bracket>(?:(?!\n\n|\\\[).)+?)\\\]|\\\((?P<round>(?:(?!\n\n|\\\().)+?)\\\)"  # so no text is read twice
    r"|\$\$(?<!\\\$\$)(?P<double>(?:(?!\n\n)[^$])+?)\$\$"
    r"|(?P<environment>\\begin\{(?P<name>equation|align|gather|multline|eqnarray|alignat|displaymath)(?P<star>\*?)\}"
    r"(?:(?!\n\n|\\begin\{(?P=name)).)+?\\end\{(?P=name)(?P=star)\})"
    r"|\[(?P<tag>i?tex|latex|math)\](?P<tagged>(?:(?!\n\n|\[(?P=tag)\]).)+?)\[/(?P=tag)\]"
    r"|\$(?<![\\$\w]\$)(?:latex )?(?P<single>[^\s$](?:[^$\n]{0,300}?[^\s$\\])?)\$(?![\d$])",
    re.DOTALL,
)
DELIMITER = re.compile(r"\$|\\[\[(]|\\begin\{|\[(?:i?tex|latex|math)\]")


def is_formula(node: Any) -> bool:
    """Whether `save_formula` knows what to do with this element."""
    if node.tag == "script":
        return (node.attributes.get("type") or "").lower().startswith("math/")
    return node.tag != "img" or bool(_image_tex(node))


def save_formula(node: Any, saved: Saved, *, scripts: bool) -> None:
    """Replace a formula by a placeholder for its TeX.

    Args:
        scripts: whether the page has MathJax's scripts: what MathJax drew beside them goes, they stay.
    """
    classes = (node.attributes.get("class") or "").split()
    drawn = any(name.startswith("MathJax") for name in classes)
    if node.tag == "script":
        _script(node, saved)
    elif node.tag == "img":
        tex = _image_tex(node)
        shown = "displaystyle" in tex or any("display" in name for name in classes) or _alone_in_block(node)
        _put(node, saved, clean_tex(_IMAGE_STYLE.sub("", tex)), display=shown)
    elif "MathJax_Preview" in classes or (drawn and scripts and node.tag != "mjx-container"):
        node.decompose()
    elif drawn or node.tag == "mjx-container":
        _mathjax(node, saved)
    elif node.tag == "math":
        _put(node, saved, mathml_to_tex(node), display=_is_display(node))
    elif "mwe-math-element" in classes:
        _wikipedia(node, saved)
    else:
        around = (node.parent.attributes.get("class") or "") if node.parent is not None else ""
        _katex(node, saved, display="katex-display" in around or "katex-block" in around)


def _put(node: Any, saved: Saved, tex: str, *, display: bool) -> None:
    if tex:
        node.replace_with(f" {saved.formula(tex, display=True)} " if display else saved.formula(tex, display=False))


def _script(node: Any, saved: Saved) -> None:
    """MathJax 2 and 3 keep what an author wrote in a script of a type of its own."""
    kind = (node.attributes.get("type") or "").lower()
    if kind.startswith("math/mml"):
        tex = _tex_of_markup(node.text())
    else:
        tex = clean_tex(re.sub(r"^%\s*<!\[CDATA\[|\]\]>\s*$", "", _unescape(node.text()).strip()))
    _put(node, saved, tex, display="mode=display" in kind.replace(" ", ""))


def _unescape(tex: str) -> str:
    """TeX that somebody escaped for a page once too often; `&` between columns stays."""
    return _ENTITY.sub(lambda match: html_entities.unescape(match.group()), tex)


def _tex_of_markup(markup: str) -> str:
    """TeX of MathML that is text: in a script or in an attribute."""
    from selectolax.lexbor import LexborHTMLParser

    math = LexborHTMLParser(markup).css_first("math")
    return mathml_to_tex(math) if math is not None else ""


def _mathjax(node: Any, saved: Saved) -> None:
    math = node.css_first("math")
    tex = mathml_to_tex(math) if math is not None else ""
    tex = tex or _tex_of_markup(node.attributes.get("data-mathml") or "")
    tex = tex or clean_tex(node.attributes.get("data-latex") or _data_latex(node) or _mjx_characters(node))
    shown = node.attributes.get("display") == "true" or _is_display(math) or _in_display(node)
    _put(node, saved, tex, display=shown)


def _data_latex(node: Any) -> str:
    inner = node.css_first("[data-latex]")
    return (inner.attributes.get("data-latex") or "") if inner is not None else ""


def _mjx_characters(node: Any) -> str:
    """Last resort: the characters of a rendered formula, in order; its structure is lost."""
    found = []
    for part in node.css("mjx-c"):
        match = re.search(r"mjx-c([0-9A-F]{2,5})\b", part.attributes.get("class") or "")
        if match:
            found.append(chr(int(match.group(1), 16)))
    import unicodedata

    return unicodedata.normalize("NFKC", "".join(found))


def _katex(node: Any, saved: Saved, *, display: bool) -> None:
    math = node.css_first("math")
    tex = mathml_to_tex(math) if math is not None else ""
    stated = node.attributes.get("data-tex") or node.attributes.get("data-expr") or ""
    _put(node, saved, tex or clean_tex(stated), display=display or _is_display(math))


def _wikipedia(node: Any, saved: Saved) -> None:
    math, image = node.css_first("math"), node.css_first("img")
    tex = mathml_to_tex(math) if math is not None else ""
    tex = tex or clean_tex((image.attributes.get("alt") if image is not None else "") or "")
    marks = node.css_first(".mwe-math-fallback-image-display, .mwe-math-mathml-display") is not None
    _put(node, saved, tex, display=marks or _is_display(math))


def _image_tex(node: Any) -> str:
    """The TeX that an image draws, by its address or its alternative text; empty if it is a picture."""
    attributes = node.attributes
    source = attributes.get("src") or attributes.get("data-src") or ""
    alt = attributes.get("data-latex") or attributes.get("data-formula") or attributes.get("alt")
    alt = alt or attributes.get("title") or ""
    hosted = _is_hosted(source[:300])
    if hosted or not _IMAGE_CLASSES.isdisjoint((attributes.get("class") or "").split()):
        return (_tex_in_address(source) if hosted else "") or clean_tex(_unescape(alt))
    if ("\\" in alt or "{" in alt or "$" in alt) and len(alt) < 2000 and _ALT_TEX.search(alt):
        return clean_tex(_unescape(alt))
    return ""


def _is_hosted(address: str) -> bool:
    """Whether a service that draws TeX serves this image."""
    address = address.lower()
    likely = any(word in address for word in ("tex", "math", "codecogs", "cht=tx", "equation"))
    return likely and not address.startswith("data:") and _IMAGE_HOSTS.search(address) is not None


def _tex_in_address(source: str) -> str:
    """The formula in the address of an image that a TeX service renders."""
    parts = urlsplit(source)
    named = dict(parse_qsl(_with_blanks(parts.query, form="%" in parts.query), keep_blank_values=True))
    for key in ("latex", "tex", "chl", "math", "eq", "formula"):
        if named.get(key):
            return clean_tex(named[key])
    if "codecogs" in parts.netloc or "cgi" in parts.path or "upmath" in parts.netloc or "math.now" in parts.netloc:
        tail = source.split("?", 1)[1] if "?" in source else parts.path.rsplit("/", 1)[-1]
        tex = unquote(_with_blanks(tail, form=False).replace("&space;", " "))
        return clean_tex(_IMAGE_STYLE.sub("", tex.strip()))
    return ""


def _with_blanks(encoded: str, *, form: bool) -> str:
    """An encoded formula whose `+` are percent-encoded, or blanks where they stand for them.

    In a form's encoding they do, and an addition is `%2B`; an address written by hand has its additions as they are.
    """
    return encoded.replace("+", "%20" if form or "%2b" in encoded.lower() else "%2B")


def save_delimited(text: str, saved: Saved) -> str:
    """Text whose formulas between delimiters are placeholders."""
    if not DELIMITER.search(text):
        return text
    return _DELIMITED.sub(lambda match: _delimited_piece(match, saved), text)


def _delimited_piece(match: re.Match[str], saved: Saved) -> str:
    found = match.groupdict()
    if MARK in match.group():  # a formula or code stands between: these are no delimiters
        return match.group()
    if found["environment"]:
        return f" {saved.formula(found['environment'].strip(), display=True)} "
    for name, display in (("bracket", True), ("double", True), ("round", False), ("single", False), ("tagged", False)):
        if found[name] is not None:
            if name == "single" and not _looks_like_tex(found[name]):
                return match.group()
            piece = saved.formula(found[name].strip(), display=display)
            return f" {piece} " if display else piece
    return match.group()


def _looks_like_tex(text: str) -> bool:
    """`$5 per day, or $` is money: words in a row without a TeX sign between two dollars are no formula."""
    return bool(_TEXISH.search(text)) or not re.search(r"[A-Za-z]{2,}\s+[A-Za-z]{2,}", text)


def _is_display(node: Any) -> bool:
    return node is not None and (
        (node.attributes.get("display") or "") == "block" or "display" in (node.attributes.get("mode") or "")
    )


def _in_display(node: Any) -> bool:
    """Whether MathJax 2 drew this for a line of its own."""
    return node.parent is not None and "_Display" in (node.parent.attributes.get("class") or "")


def _alone_in_block(node: Any) -> bool:
    """Whether an image is all its paragraph holds: a displayed equation."""
    parent = node.parent
    return bool(
        parent is not None
        and parent.tag in ("p", "div", "center", "td", "dd", "figure")
        and not (parent.text() or "").strip()
        and len(parent.css("img")) == 1
    )
