"""Presentation MathML to TeX (MiMo 2.1: common extractors lose equations).

For pages that carry no TeX beside their MathML. Structure is kept exactly (scripts, fractions, roots, tables, fences);
spacing and styling are not. Symbols come out as TeX commands where TeX has one, else as the character itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

SYMBOLS = dict(
    pair.split("=", 1)
    for pair in (
        r"α=\alpha β=\beta γ=\gamma δ=\delta ϵ=\epsilon ε=\varepsilon ζ=\zeta η=\eta θ=\theta ϑ=\vartheta ι=\iota "
        r"κ=\kappa λ=\lambda μ=\mu µ=\mu ν=\nu ξ=\xi π=\pi ϖ=\varpi ρ=\rho ϱ=\varrho σ=\sigma ς=\varsigma τ=\tau "
        r"υ=\upsilon ϕ=\phi φ=\varphi χ=\chi ψ=\psi ω=\omega Γ=\Gamma Δ=\Delta Θ=\Theta Λ=\Lambda Ξ=\Xi Π=\Pi "
        r"Σ=\Sigma Υ=\Upsilon Φ=\Phi Ψ=\Psi Ω=\Omega ℵ=\aleph ℏ=\hbar ℓ=\ell ℘=\wp ℜ=\Re ℑ=\Im ∂=\partial ∞=\infty "
        r"∅=\emptyset ∇=\nabla ∀=\forall ∃=\exists ∄=\nexists ¬=\neg ∧=\wedge ∨=\vee ∩=\cap ∪=\cup ∈=\in ∉=\notin "
        r"∋=\ni ⊂=\subset ⊃=\supset ⊆=\subseteq ⊇=\supseteq ⊄=\not\subset ⊊=\subsetneq ≤=\leq ⩽=\leqslant ≥=\geq "
        r"⩾=\geqslant ≠=\neq ≡=\equiv ≢=\not\equiv ≈=\approx ≅=\cong ≃=\simeq ∼=\sim ∝=\propto ≪=\ll ≫=\gg ≺=\prec "
        r"≻=\succ ⪯=\preceq ⪰=\succeq ⊥=\perp ∥=\parallel ∣=\mid ∤=\nmid ⊢=\vdash ⊨=\models ±=\pm ∓=\mp ×=\times "
        r"÷=\div ⋅=\cdot ∗=\ast ⋆=\star ∘=\circ •=\bullet ⊕=\oplus ⊗=\otimes ⊙=\odot ∑=\sum ∏=\prod ∐=\coprod "
        r"∫=\int ∬=\iint ∭=\iiint ∮=\oint ⋃=\bigcup ⋂=\bigcap ⨁=\bigoplus ⨂=\bigotimes ⋁=\bigvee ⋀=\bigwedge "
        r"←=\leftarrow →=\rightarrow ↔=\leftrightarrow ⇐=\Leftarrow ⇒=\Rightarrow ⇔=\Leftrightarrow "
        r"⟶=\longrightarrow ⟵=\longleftarrow ⟹=\Longrightarrow ⟺=\Longleftrightarrow ↦=\mapsto ⟼=\longmapsto "
        r"↑=\uparrow ↓=\downarrow ↗=\nearrow ↘=\searrow ↪=\hookrightarrow ⇝=\rightsquigarrow ⟨=\langle ⟩=\rangle "
        r"〈=\langle 〉=\rangle ⌊=\lfloor ⌋=\rfloor ⌈=\lceil ⌉=\rceil ‖=\| …=\ldots ⋯=\cdots ⋮=\vdots ⋱=\ddots ′=' "
        r"″='' ‴=''' °=^{\circ} †=\dagger ‡=\ddagger √=\surd ∠=\angle △=\triangle ∖=\setminus ∴=\therefore "
        r"∵=\because ℝ=\mathbb{R} ℂ=\mathbb{C} ℕ=\mathbb{N} ℤ=\mathbb{Z} ℚ=\mathbb{Q} ℙ=\mathbb{P} 𝔼=\mathbb{E} "
        r"−=- ∕=/ ⩵== ∶=: ≔=:= ≜=\triangleq ⊤=\top ⋉=\ltimes ⋊=\rtimes ⊣=\dashv □=\square ⋄=\diamond "
        r"∎=\blacksquare ø=\o ı=\imath ȷ=\jmath ≐=\doteq ≲=\lesssim ≳=\gtrsim"
    ).split()
)
INVISIBLE = frozenset("\u2061\u2062\u2063\u2064\u200b\u200c\u200d\ufeff")
FUNCTIONS = frozenset(
    "arccos arcsin arctan arg cos cosh cot coth csc deg det dim exp gcd hom inf ker lg lim liminf limsup ln log max "
    "min Pr sec sin sinh sup tan tanh".split()
)
ACCENTS = {
    "^": "hat", "ˆ": "hat", "~": "tilde", "˜": "tilde", "¯": "bar", "‾": "overline", "―": "overline", "_": "bar",
    "→": "vec", "⃗": "vec", "˙": "dot", ".": "dot", "¨": "ddot", "..": "ddot", "ˇ": "check", "˘": "breve", "´": "acute",
    "`": "grave", "⏞": "overbrace", "⏟": "underbrace", "←": "overleftarrow", "↔": "overleftrightarrow",
}  # fmt: skip
WIDE = {"hat": "widehat", "tilde": "widetilde", "bar": "overline", "vec": "overrightarrow"}
VARIANTS = {
    "bold": "mathbf", "double-struck": "mathbb", "script": "mathcal", "fraktur": "mathfrak", "sans-serif": "mathsf",
    "monospace": "mathtt", "bold-italic": "boldsymbol", "bold-script": "mathcal", "bold-fraktur": "mathfrak",
}  # fmt: skip
_SPECIAL = {"%": r"\%", "#": r"\#", "&": r"\&", "$": r"\$", "{": r"\{", "}": r"\}", "_": r"\_", "\\": r"\backslash"}
_UNDER_AS_SCRIPT = re.compile(
    r"\\(?:sum|prod|coprod|int|iint|iiint|oint|big[a-z]+|lim|liminf|limsup|max|min|sup|inf|det|gcd|Pr|operatorname\*\{.*\})"
)


def mathml_to_tex(math: Any) -> str:
    """TeX of a `<math>` element (a selectolax node), without delimiters.

    TeX that the element itself carries wins: an `application/x-tex` annotation, then `alttext`.
    """
    stated = stated_tex(math)
    return stated if stated else _tidy(_row(math))


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
    parts = [_convert(child) for child in children]
    for i, child in enumerate(children[1:-1], 1):  # \\binom draws the parentheses that stand around it
        if parts[i].startswith("\\binom") and child.tag == "mfrac" and (parts[i - 1], parts[i + 1]) == ("(", ")"):
            parts[i - 1] = parts[i + 1] = ""
    # An empty element is an argument too (MathML's {}), but adds nothing to a row.
    out = ""
    for part in parts:
        if out and part and re.search(r"\\[a-zA-Z]+$", out) and part[0].isalpha():
            out += " "
        out += part
    return out


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
        tex = SYMBOLS.get(character) or _SPECIAL.get(character) or _styled(character)
        if character == "\xa0":
            tex = "~"
        out += tex + (" " if tex.startswith("\\") and tex[-1].isalpha() else "")
    return out


_STYLED_BLOCKS = (  # mathematical alphanumeric symbols: first code point, command, first letter
    (0x1D400, "mathbf", "A"), (0x1D41A, "mathbf", "a"), (0x1D434, "", "A"), (0x1D44E, "", "a"),
    (0x1D468, "boldsymbol", "A"), (0x1D482, "boldsymbol", "a"),
    (0x1D49C, "mathcal", "A"), (0x1D4B6, "mathcal", "a"), (0x1D504, "mathfrak", "A"),
    (0x1D51E, "mathfrak", "a"), (0x1D538, "mathbb", "A"), (0x1D552, "mathbb", "a"), (0x1D5A0, "mathsf", "A"),
    (0x1D5BA, "mathsf", "a"), (0x1D670, "mathtt", "A"), (0x1D68A, "mathtt", "a"),
)  # fmt: skip


def _styled(character: str) -> str:
    code = ord(character)
    if code < 0x1D400 or code > 0x1D7FF:
        return character
    for start, command, letter in _STYLED_BLOCKS:
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
    return "\\text{" + _escape_text(text) + "}"


def _escape_text(text: str) -> str:
    return re.sub(r"([%#&_{}])", r"\\\1", re.sub(r"\s+", " ", text))


def _fraction(node: Any) -> str:
    top, bottom = _arguments(node, 2)[:2]
    if (node.attributes.get("linethickness") or "") in ("0", "0px", "0pt", "0em"):
        return f"\\binom{{{_convert(top).strip()}}}{{{_convert(bottom).strip()}}}"
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
    left, right = _symbols(opening).strip() or ".", _symbols(closing).strip() or "."
    return f"\\left{left} {out.strip()} \\right{right}" if "." in (left, right) else f"{left}{out.strip()}{right}"


def _table(node: Any) -> str:
    rows = [child for child in _children(node) if child.tag in ("mtr", "mlabeledtr")]
    lines = []
    for row in rows:
        cells = [c for c in _children(row) if c.tag == "mtd"]
        cells = cells[1:] if row.tag == "mlabeledtr" and len(cells) > 1 else cells
        lines.append(" & ".join(_row(cell).strip() for cell in cells))
    return "\\begin{matrix} " + " \\\\ ".join(lines) + " \\end{matrix}"


def _space(node: Any) -> str:
    width = node.attributes.get("width") or ""
    match = re.match(r"(-?[\d.]+)em", width)
    size = float(match.group(1)) if match else 0.0
    return r"\qquad " if size >= 2 else r"\quad " if size >= 1 else r"\ " if size > 0.2 else ""


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


def _tidy(tex: str) -> str:
    tex = re.sub(r"\s+", " ", tex)
    tex = re.sub(r" (?=[\^_{}),.;])", "", tex)
    # A stretchy pair around a table is a matrix of that kind.
    for left, right, kind in (("(", ")", "pmatrix"), ("[", "]", "bmatrix"), ("|", "|", "vmatrix")):
        pattern = (
            re.escape(left) + r"\s*\\begin\{matrix\}((?:(?!\\begin\{matrix\}).)*?)\\end\{matrix\}\s*" + re.escape(right)
        )
        tex = re.sub(pattern, lambda m, kind=kind: f"\\begin{{{kind}}}{m.group(1)}\\end{{{kind}}}", tex)  # type: ignore[misc]
    return tex.strip()


_HANDLERS: dict[str, Callable[[Any], str]] = {
    "mi": _identifier,
    "mn": lambda node: _symbols(node.text() or ""),
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
