"""Presentation MathML to TeX (MiMo 2.1: common extractors lose equations).

For pages that carry no TeX beside their MathML. Structure is kept exactly (scripts, fractions, roots, tables, fences);
spacing and styling are not. Symbols come out as TeX commands where TeX has one, else as the character itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from openmimo.data.pages.mathml_symbols import (
    ACCENTS,
    FUNCTIONS,
    INVISIBLE,
    SPECIAL,
    STYLED_BLOCKS,
    SYMBOLS,
    VARIANTS,
    WIDE,
)

_UNDER_AS_SCRIPT = re.compile(
    r"\\(?:sum|prod|coprod|int|iint|iiint|oint|big[a-z]+|lim|liminf|limsup|max|min|sup|inf|det|gcd|Pr|operatorname\*\{.*\})"
)


def mathml_to_tex(math: Any) -> str:
    """TeX of a `<math>` element (a selectolax node), without delimiters.

    TeX that the element itself carries wins: an `application/x-tex` annotation, then `alttext`.
    """
    if stated := stated_tex(math):
        return stated
    try:
        return _tidy(_row(math))
    except RecursionError:  # nested deeper than any formula
        return ""


def stated_tex(math: Any) -> str:
    """The TeX an author put beside the MathML, or an empty string."""
    for note in math.css("annotation"):
        if "tex" in (note.attributes.get("encoding") or "").lower() and note.text():
            return clean_tex(note.text())
    return clean_tex(math.attributes.get("alttext") or "")


def clean_tex(tex: str) -> str:
    r"""Strip blanks, delimiters and the `{\displaystyle ...}` that MediaWiki wraps around each formula."""
    tex = tex.strip()
    for opening, closing in (("$$", "$$"), (r"\(", r"\)"), (r"\[", r"\]"), ("$", "$")):
        if tex.startswith(opening) and tex.endswith(closing) and len(tex) >= len(opening) + len(closing):
            tex = tex[len(opening) : -len(closing)].strip()
            break
    for style in (r"{\displaystyle", r"{\textstyle", r"{\scriptstyle"):
        if tex.startswith(style) and tex.endswith("}") and not tex[len(style) : len(style) + 1].isalpha():
            tex = tex[len(style) : -1].strip()
    return re.sub(r"%\s*\n", "\n", tex).strip()  # LaTeXML ends lines with a comment sign


def _children(node: Any) -> list[Any]:
    return [child for child in node.iter() if child.tag not in ("annotation", "annotation-xml")]


def _row(node: Any) -> str:
    children = _children(node)
    if len(children) > 1 and _is_fence(children[0]) and _is_fence(children[-1]):
        left, right = (_delimiter(end.text() or "") for end in (children[0], children[-1]))
        return f"\\left{left} {_joined(children[1:-1]).strip()} \\right{right}"
    return _joined(children)


def _delimiter(text: str) -> str:
    r"""What stands after `\left` or `\right`; nothing is a point."""
    text = text.strip()
    return "|" if text == "∣" else _symbols(text).strip() or "."


def _is_fence(node: Any) -> bool:
    """Whether a renderer says that an operator grows with what it encloses, as `\\left(` does."""
    attributes = node.attributes
    stated = attributes.get("fence") == "true" or attributes.get("data-mjx-texclass") in ("OPEN", "CLOSE")
    text = (node.text() or "").strip()
    return node.tag == "mo" and stated and attributes.get("stretchy") != "false" and len(text) <= 1


def _joined(children: list[Any]) -> str:
    parts = [_convert(child) for child in children]
    for i in range(1, len(parts) - 1):  # \\binom draws the parentheses that stand around it
        if parts[i - 1].strip() == "(" and parts[i + 1].strip() == ")" and (found := _over_each_other(children[i])):
            parts[i - 1 : i + 2] = ["", f"\\binom{{{found[0]}}}{{{found[1]}}}", ""]
    # An empty element is an argument too (MathML's {}), but adds nothing to a row.
    out = ""
    for part in parts:
        if out and part and re.search(r"\\[a-zA-Z]+$", out) and part[0].isalpha():
            out += " "
        out += part
    return out


def _over_each_other(node: Any) -> tuple[str, str] | None:
    """The two parts of a fraction without a line, which may be wrapped in styles."""
    while node.tag in ("mstyle", "mrow", "mpadded") and len(_children(node)) == 1:
        (node,) = _children(node)
    if node.tag != "mfrac" or len(_children(node)) < 2 or not _has_no_line(node):
        return None
    top, bottom = _children(node)[:2]
    return _convert(top).strip(), _convert(bottom).strip()


def _has_no_line(fraction: Any) -> bool:
    return re.fullmatch(r"0+(\.0+)?(px|pt|em)?", fraction.attributes.get("linethickness") or "") is not None


def _convert(node: Any) -> str:
    tag = (node.tag or "").lower().removeprefix("m:")
    handler = _HANDLERS.get(tag)
    return handler(node) if handler else _row(node) if _children(node) else _symbols(node.text() or "")


def _group(node: Any) -> str:
    """One argument in braces, unless it is a single character."""
    tex = _convert(node).strip()
    return tex if len(tex) == 1 and tex not in "^_'" else f"{{{tex}}}"


def _arguments(node: Any, count: int) -> list[Any]:
    children = _children(node)
    if len(children) < count:  # broken markup: show what is there
        raise _BrokenMathML
    return children


class _BrokenMathML(ValueError):
    pass


def _guard(build: Callable[[Any], str]) -> Callable[[Any], str]:
    def guarded(node: Any) -> str:
        try:
            return build(node)
        except _BrokenMathML:
            return _row(node)

    return guarded


def _symbols(text: str) -> str:
    out = ""
    for character in text.strip():
        if character in INVISIBLE:
            continue
        tex = SYMBOLS.get(character) or SPECIAL.get(character) or _styled(character)
        if character == "\xa0":
            tex = "~"
        out += tex + (" " if tex.startswith("\\") and tex[-1].isalpha() else "")
    return out


def _styled(character: str) -> str:
    code = ord(character)
    if code < 0x1D400 or code > 0x1D7FF:
        return character
    for start, command, letter in STYLED_BLOCKS:
        if start <= code < start + 26:
            plain = chr(ord(letter) + code - start)
            return f"\\{command}{{{plain}}}" if command else plain
    import unicodedata

    return unicodedata.normalize("NFKC", character)


def _identifier(node: Any) -> str:
    text = "".join(c for c in (node.text() or "").strip() if c not in INVISIBLE)
    variant = VARIANTS.get((node.attributes.get("mathvariant") or "").lower())
    if text in FUNCTIONS:
        return f"\\{text} "
    tex = _symbols(text)
    if variant:
        return f"\\{variant}{{{tex.strip()}}}"
    if len(text) > 1 and text.isascii() and text.isalpha():
        return f"\\operatorname{{{text}}}" if text.islower() else f"\\mathrm{{{text}}}"
    return tex


def _operator(node: Any) -> str:
    text = "".join(c for c in (node.text() or "").strip() if c not in INVISIBLE)
    if text in FUNCTIONS:
        return f"\\{text} "
    if len(text) > 1 and text.isascii() and text.isalpha():
        return f"\\operatorname{{{text}}}"
    return _symbols(text)


def _text(node: Any) -> str:
    text = node.text() or ""
    if not text.strip():
        return r"\ " if text else ""
    if re.fullmatch(r"\\[a-zA-Z]+", text):  # a command that the renderer did not know
        return f"{text} "
    command = _TEXT_COMMANDS.get((node.attributes.get("mathvariant") or "").lower(), "text")
    return f"\\{command}{{{_escape_text(text)}}}"


_TEXT_COMMANDS = {"bold": "textbf", "italic": "textit", "sans-serif": "textsf", "monospace": "texttt"}


def _escape_text(text: str) -> str:
    pieces = re.split(r"(\\)", re.sub(r"\s+", " ", text))
    return "".join(r"\textbackslash{}" if p == "\\" else re.sub(r"([%#&_{}$])", r"\\\1", p) for p in pieces)


def _number(node: Any) -> str:
    tex = _symbols(node.text() or "")
    variant = VARIANTS.get((node.attributes.get("mathvariant") or "").lower())
    return f"\\{variant}{{{tex.strip()}}}" if variant else tex


def _fraction(node: Any) -> str:
    top, bottom = _arguments(node, 2)[:2]
    if _has_no_line(node):
        return f"{{{_convert(top).strip()} \\atop {_convert(bottom).strip()}}}"
    return f"\\frac{{{_convert(top).strip()}}}{{{_convert(bottom).strip()}}}"


def _root(node: Any) -> str:
    base, index = _arguments(node, 2)[:2]
    return f"\\sqrt[{_convert(index).strip()}]{{{_convert(base).strip()}}}"


def _base(node: Any) -> str:
    """The base of a script: a script on a script needs braces."""
    tex = _convert(node).strip()
    if re.search(r"(?<!\\)[\^_']", tex) and not re.fullmatch(r"\\[a-zA-Z]+\{.*\}", tex):
        return f"{{{tex}}}"
    if _children(node) and len(tex) > 1 and (node.tag or "") in ("mrow", "mstyle") and not tex.startswith("\\"):
        return f"{{{tex}}}"
    return tex


def _sup(node: Any) -> str:
    base, high = _arguments(node, 2)[:2]
    exponent = _convert(high).strip()
    return _base(base) + (exponent if exponent and set(exponent) == {"'"} else f"^{_group(high)}")


def _sub(node: Any) -> str:
    base, low = _arguments(node, 2)[:2]
    return f"{_base(base)}_{_group(low)}"


def _subsup(node: Any) -> str:
    base, low, high = _arguments(node, 3)[:3]
    exponent = _convert(high).strip()
    primes = exponent and set(exponent) == {"'"}
    return f"{_base(base)}_{_group(low)}" + (exponent if primes else f"^{_group(high)}")


def _over(node: Any) -> str:
    base, top = _arguments(node, 2)[:2]
    mark = (top.text() or "").strip()
    if mark in ACCENTS:
        command = ACCENTS[mark]
        inner = _convert(base).strip()
        command = WIDE.get(command, command) if len(inner) > 1 and not re.fullmatch(r"\\[a-zA-Z]+", inner) else command
        return f"\\{command}{{{inner}}}"
    tex = _base(base)
    if _UNDER_AS_SCRIPT.fullmatch(tex):
        return f"{tex}^{_group(top)}"
    return f"\\overset{{{_convert(top).strip()}}}{{{tex}}}"


def _under(node: Any) -> str:
    base, low = _arguments(node, 2)[:2]
    mark = (low.text() or "").strip()
    tex = _base(base)
    if mark in ("_", "¯", "‾", "―", "̲"):
        return f"\\underline{{{tex}}}"
    if mark == "⏟":
        return f"\\underbrace{{{tex}}}"
    if _UNDER_AS_SCRIPT.fullmatch(tex) or r"\underbrace" in tex:
        return f"{tex}_{_group(low)}"
    return f"\\underset{{{_convert(low).strip()}}}{{{tex}}}"


def _underover(node: Any) -> str:
    base, low, high = _arguments(node, 3)[:3]
    return f"{_base(base)}_{_group(low)}^{_group(high)}"


def _prescripts(node: Any) -> str:
    children = _children(node)
    if not children:
        raise _BrokenMathML
    base, after, before = _base(children[0]), "", ""
    target: list[Any] = []
    pre: list[Any] = []
    bucket = target
    for child in children[1:]:
        if child.tag == "mprescripts":
            bucket = pre
        else:
            bucket.append(child)
    for scripts, side in ((target, "after"), (pre, "before")):
        text = ""
        for i in range(0, len(scripts) - 1, 2):
            low, high = _convert(scripts[i]).strip(), _convert(scripts[i + 1]).strip()
            text += (f"_{{{low}}}" if low else "") + (f"^{{{high}}}" if high else "")
        if side == "after":
            after = text
        else:
            before = "{}" + text if text else ""
    return before + base + after


def _fenced(node: Any) -> str:
    opening = node.attributes.get("open", "(") or ""
    closing = node.attributes.get("close", ")") or ""
    separators = (node.attributes.get("separators") if "separators" in node.attributes else ",") or ""
    out = ""
    for i, child in enumerate(_children(node)):
        if i and separators.strip():
            out += separators.strip()[min(i - 1, len(separators.strip()) - 1)] + " "
        out += _convert(child)
    left, right = _delimiter(opening), _delimiter(closing)
    return f"\\left{left} {out.strip()} \\right{right}" if "." in (left, right) else f"{left}{out.strip()}{right}"


def _table(node: Any) -> str:
    rows = [child for child in _children(node) if child.tag in ("mtr", "mlabeledtr")]
    lines = []
    for row in rows:
        cells = [c for c in _children(row) if c.tag == "mtd"]
        cells = cells[1:] if row.tag == "mlabeledtr" and len(cells) > 1 else cells
        lines.append(" & ".join(_row(cell).strip() for cell in cells))
    sides = (node.attributes.get("columnalign") or "").split()
    if sides[:2] == ["right", "left"]:
        return "\\begin{aligned} " + " \\\\ ".join(lines) + " \\end{aligned}"
    columns = "".join(side[0] for side in sides if side in ("left", "right", "center"))
    if columns.strip("c"):
        return f"\\begin{{array}}{{{columns}}} " + " \\\\ ".join(lines) + " \\end{array}"
    return "\\begin{matrix} " + " \\\\ ".join(lines) + " \\end{matrix}"


def _space(node: Any) -> str:
    match = re.match(r"(-?[\d.]+)em", node.attributes.get("width") or "")
    size = float(match.group(1)) if match else 0.0
    for least, command in (
        (1.9, r"\qquad "),
        (0.9, r"\quad "),
        (0.3, r"\ "),
        (0.27, r"\;"),
        (0.2, r"\:"),
        (0.1, r"\,"),
    ):
        if size >= least:
            return command
    return r"\!" if size < -0.1 else ""


def _enclosed(node: Any) -> str:
    notation = node.attributes.get("notation") or ""
    inner = _row(node).strip()
    for name, command in (
        ("box", "boxed"),
        ("updiagonalstrike", "cancel"),
        ("top", "overline"),
        ("bottom", "underline"),
    ):
        if name in notation:
            return f"\\{command}{{{inner}}}"
    return inner


_MATRICES = (("(", ")", "pmatrix"), ("[", "]", "bmatrix"), ("|", "|", "vmatrix"), (r"\|", r"\|", "Vmatrix"))
_CASES = re.compile(
    r"\\left\\\{ \\begin\{(?:array|matrix)\}(?:\{l+\})?((?:(?!\\begin).)*?)\\end\{(?:array|matrix)\} \\right\."
)


def _tidy(tex: str) -> str:
    tex = re.sub(r"\s+", " ", tex)
    tex = re.sub(r"(?<!\\) (?=[\^_{}),.;])", "", tex)
    for left, right, kind in _MATRICES if r"\begin{matrix}" in tex else ():
        body = r"\s*\\begin\{matrix\}((?:(?!\\begin\{matrix\}).)*?)\\end\{matrix\}\s*"
        for opening, closing in ((rf"\left{left}", rf"\right{right}"), (left, right)):
            pattern = re.escape(opening) + body + re.escape(closing)
            tex = re.sub(pattern, lambda m, kind=kind: f"\\begin{{{kind}}}{m.group(1)}\\end{{{kind}}}", tex)  # type: ignore[misc]
    return _CASES.sub(r"\\begin{cases}\1\\end{cases}", tex).strip()


_HANDLERS: dict[str, Callable[[Any], str]] = {
    "mi": _identifier,
    "mn": _number,
    "mo": _operator,
    "mtext": _text,
    "ms": _text,
    "mspace": _space,
    "mfrac": _guard(_fraction),
    "msqrt": lambda node: f"\\sqrt{{{_row(node).strip()}}}",
    "mroot": _guard(_root),
    "msup": _guard(_sup),
    "msub": _guard(_sub),
    "msubsup": _guard(_subsup),
    "mover": _guard(_over),
    "munder": _guard(_under),
    "munderover": _guard(_underover),
    "mmultiscripts": _guard(_prescripts),
    "mfenced": _fenced,
    "mtable": _table,
    "menclose": _enclosed,
    "mphantom": lambda node: "",
    "maction": lambda node: _convert(_children(node)[0]) if _children(node) else "",
    "none": lambda node: "",
    "mprescripts": lambda node: "",
}
