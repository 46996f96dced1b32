"""A page to a document without losing formulas or code (MiMo 2.1).

A pass over the parsed page takes out what main-content extractors damage: formulas in any of a dozen encodings become
`$...$` or `$$...$$` TeX, code blocks stay byte-exact between fences, threads keep their order. Each is replaced by a
placeholder word; resiliparse then finds the main content, and the placeholders are put back. No quality rule drops a
page here: that is a tagger's work. Not done: JavaScript, pages whose text is an image.
"""

from __future__ import annotations

import html as html_entities
import json
import re
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from openmimo.data.charset import decode
from openmimo.data.dom import inside, outermost
from openmimo.data.hostile import hostile_markup
from openmimo.data.mathml import clean_tex, mathml_to_tex
from openmimo.data.read import DOCUMENT, Oversized, Page
from openmimo.types import Document

MAX_HTML_BYTES = 20_000_000  # ours: a parsed page takes about ten times its size


@dataclass(frozen=True, slots=True)
class Dropped:
    """Why a page gave no document."""

    reason: str
    """One of `empty`, `not a text page`, `too large`, `hostile markup`, `broken page`, `broken row`."""
    detail: str = ""


def extract(page: Page) -> Document | Dropped:
    """The page's text, as one Document, or the reason there is none. Never raises on a page's content."""
    media = page.media_type.split(";")[0].strip().lower()
    try:
        if media == DOCUMENT:
            return _from_row(page)
        if media == "application/pdf":
            from openmimo.data.pdf import pdf_text

            title, text = pdf_text(page.content)
            return document_of(page, text, title=title)
        if media in ("text/plain", "text/markdown"):
            return document_of(page, decode(page.content, page.media_type))
        if media in ("text/html", "application/xhtml+xml", ""):
            if len(page.content) > MAX_HTML_BYTES:
                return Dropped("too large", f"{len(page.content)} bytes")
            if wrong := hostile_markup(page.content):
                return Dropped("hostile markup", wrong)
            return _from_html(page)
    except Exception as error:  # a hostile page is expected data
        kind = "broken row" if media == DOCUMENT else "too large" if isinstance(error, Oversized) else "broken page"
        return Dropped(kind, f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:200])
    return Dropped("not a text page", media)


def document_id(url: str, text: str) -> str:
    """32 hex digits of what a document is: its canonical address and its text."""
    import xxhash

    from openmimo.data.urls import canonical_url

    return xxhash.xxh3_128_hexdigest(f"{canonical_url(url)}\n{text}".encode("utf-8", "replace"))


def _from_row(page: Page) -> Document | Dropped:
    row = json.loads(page.content)
    tags = row.get("tags") or {}
    tags = json.loads(tags) if isinstance(tags, str) else tags
    if not isinstance(tags, dict):
        return Dropped("broken row", f"tags must be an object, got {str(tags)[:80]!r}")
    text = row["text"]
    if not text.strip():
        return Dropped("empty")
    known = {key: str(row.get(key) or "") for key in ("id", "url", "title", "source", "language")}
    return Document(**{**known, "id": known["id"] or document_id(known["url"], text)}, text=text, tags=tags)


def document_of(page: Page, text: str, *, title: str = "", language: str = "", tags: Any = None) -> Document | Dropped:
    """The document with this text, or why there is none; detects the language if none is given."""
    if page.robots:
        tags = {**(tags or {}), "robots": ", ".join(filter(None, [(tags or {}).get("robots", ""), page.robots]))}
    text = _clean(text)
    if not text:
        return Dropped("empty")
    return Document(
        id=document_id(page.url or page.source, text), url=page.url, text=text, source=page.source, title=title,
        language=language or _language(text), tags=tags or {},
    )  # fmt: skip


def _from_html(page: Page) -> Document | Dropped:
    from selectolax.lexbor import LexborHTMLParser

    from openmimo.data.forum import find_thread, render_thread

    source = decode(page.content, page.media_type)
    if not source.strip():
        return Dropped("empty")
    tree = LexborHTMLParser(source)
    if tree.body is None:
        return Dropped("empty")
    title, language, tags = _title(tree), _declared_language(tree), _tags(tree)
    saved = Saved.for_page(source)
    save_code(tree, saved)
    save_formulas(tree, saved, source)
    thread = find_thread(tree, source)
    text = render_thread(thread, plain_text) if thread else main_text(tree.html or "", saved)
    return document_of(page, saved.put_back(text), title=title, language=language, tags=tags)


def plain_text(fragment: str) -> str:
    """All text of an HTML fragment, with line breaks where a reader sees them."""
    from resiliparse.extract.html2text import extract_plain_text

    return str(extract_plain_text(fragment, main_content=False, preserve_formatting=True))


def main_text(page: str, saved: Saved) -> str:
    """Main content, unless finding it would cost more than half of the page's saved formulas and code."""
    from resiliparse.extract.html2text import extract_plain_text

    text = str(extract_plain_text(page, main_content=True, preserve_formatting=True, alt_texts=False))
    if not text.strip() or saved.count_in(text) * 2 < saved.count_in(page):
        return plain_text(page)
    return text


@dataclass
class Saved:
    """What the pre-pass took out of a page, by placeholder."""

    prefix: str
    pieces: list[tuple[str, str]] = field(default_factory=list)
    """(kind, text): kind is `inline`, `display` or `code`; text is what goes back."""

    @classmethod
    def for_page(cls, source: str) -> Saved:
        prefix = "Qzx"
        while prefix in source:
            prefix += "x"
        return cls(prefix)

    def put(self, kind: str, text: str) -> str:
        """Keep a piece and return the word that stands for it."""
        self.pieces.append((kind, text))
        return f"{self.prefix}{len(self.pieces) - 1}Q"

    def formula(self, tex: str, *, display: bool) -> str:
        return self.put("display" if display else "inline", f"$${tex}$$" if display else f"${tex}$")

    def count_in(self, text: str) -> int:
        return len(set(re.findall(rf"{self.prefix}\d+Q", text)))

    def put_back(self, text: str) -> str:
        def piece(match: re.Match[str]) -> str:
            kind, content = self.pieces[int(match.group(2))]
            if kind == "inline":
                return match.group(1) + content + match.group(3)
            return f"\x00{content}\x00"  # a block: borders become line breaks below

        # A block eats the blanks around it; an inline formula keeps them.
        text = re.sub(rf"([ \t]*){self.prefix}(\d+)Q([ \t]*)", piece, text)
        text = re.sub(r"\n*\x00\n*\x00\n*|\n*\x00\n*", lambda m: "\n\n" if m.group().count("\n") >= 2 else "\n", text)
        return text


# ---- code ----------------------------------------------------------------------------------------------------------

_GUTTERS = (
    ".linenos, .lineno, .linenodiv, .line-numbers-rows, .gutter, td.blob-num, .hljs-ln-numbers, .rouge-gutter, "
    ".copybtn, button, .copy-button, .clipboard-copy, .code-toolbar > .toolbar"
)
_CODE_TABLES = "table.highlighttable, table.rouge-table, .syntaxhighlighter table, table.blob-code, table.hljs-ln"
_LANGUAGE = re.compile(
    r"(?:^|\s)(?:language|lang|highlight-source|highlight|brush:?|sourceCode|code)[-\s:]\s*([\w+#.-]+)"
)
_NOT_A_LANGUAGE = frozenset("default none plain text plaintext notranslate nohighlight block wrapper highlight".split())


def save_code(tree: Any, saved: Saved) -> None:
    """Replace every code block by a placeholder for its exact text between fences."""
    for block in outermost(tree, f"{_CODE_TABLES}, pre, listing, xmp"):
        language = _code_language(block)
        for gutter in outermost(block, _GUTTERS):
            gutter.decompose()
        for line_break in block.css("br"):
            line_break.replace_with("\n")
        pres = block.css("pre") if block.tag == "table" else []
        code = "\n".join(p.text() for p in pres) if pres else _block_text(block)
        code = code.removesuffix("\n")
        if not code.strip():
            block.decompose()
            continue
        _replace_block(tree, block, saved.put("code", fenced(code, language)))


def fenced(code: str, language: str = "") -> str:
    """The code between backtick fences longer than any run of backticks in it."""
    longest = max((len(run) for run in re.findall(r"^ {0,3}(`{3,})", code, re.MULTILINE)), default=2)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{code}\n{fence}"


def _block_text(block: Any) -> str:
    """Text of a code block; a table or a list of lines has one line an element."""
    rows = block.css("tr") or block.css("li") if block.tag == "table" or block.css_first("li, tr") else []
    if rows:
        return "\n".join(row.text().strip("\n") for row in rows)
    return str(block.text())


def _code_language(block: Any) -> str:
    inner = block.css_first("code")
    candidates = [inner, block, block.parent, block.parent.parent if block.parent is not None else None]
    for node in candidates:
        if node is None:
            continue
        for attribute in ("data-lang", "data-language", "lang", "class"):
            value = node.attributes.get(attribute) or ""
            if attribute in ("data-lang", "data-language") and re.fullmatch(r"[\w+#.-]{1,20}", value):
                return value.lower()
            if attribute == "class":
                for match in _LANGUAGE.finditer(value):
                    if match.group(1).lower() not in _NOT_A_LANGUAGE:
                        return match.group(1).lower()
    return ""


def _replace_block(tree: Any, node: Any, placeholder: str) -> None:
    paragraph = tree.create_node("p")
    paragraph.insert_child(placeholder)
    node.replace_with(paragraph)


# ---- formulas ------------------------------------------------------------------------------------------------------

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
_IMAGE_STYLE = re.compile(
    r"^(?:(?:\\(?:inline|displaystyle|dpi\{\d+\}|bg_\w+|fn_\w+|normalsize|large|huge|small|tiny|LARGE)\b|from=|&)\s*)+"
)
"""What TeX image services take before the formula itself."""
_TEXISH = re.compile(r"\\[a-zA-Z]{2,}|[_^]\{|\\frac|[A-Za-z0-9)]\s*[\^_]\s*[A-Za-z0-9{]|=")
_NO_FORMULAS_IN = ("code", "pre", "script", "style", "textarea", "kbd", "samp", "title", "noscript")
_DELIMITED = re.compile(
    r"\\\[(?P<bracket>.+?)\\\]|\\\((?P<round>.+?)\\\)|(?<!\\)\$\$(?P<double>[^$]+?)\$\$"
    r"|(?P<environment>\\begin\{(?P<name>equation|align|gather|multline|eqnarray|alignat|displaymath)(?P<star>\*?)\}"
    r".+?\\end\{(?P=name)(?P=star)\})"
    r"|(?<![\\$\w])\$(?P<single>[^\s$](?:[^$\n]{0,300}?[^\s$\\])?)\$(?![\d$])",
    re.DOTALL,
)
_HINT = re.compile(r"\$|\\[\[(]|\\begin\{")


def save_formulas(tree: Any, saved: Saved, source: str) -> None:
    """Replace every formula by a placeholder for its TeX."""
    if "math/tex" in source:
        _mathjax2(tree, saved)
    if "mjx-container" in source or "MathJax_SVG" in source or "MathJax_CHTML" in source:
        _mathjax3(tree, saved)
    if "katex" in source:
        _katex(tree, saved)
    if "mwe-math" in source:
        _wikipedia(tree, saved)
    if "<math" in source or "<m:math" in source:
        for node in outermost(tree, "math"):
            _put(node, saved, mathml_to_tex(node), display=_is_display(node))
    if "<img" in source:
        for node in tree.css("img"):
            _image(node, saved)
    if _HINT.search(source):
        _delimited(tree, saved)


def _put(node: Any, saved: Saved, tex: str, *, display: bool) -> None:
    if tex:
        node.replace_with(f" {saved.formula(tex, display=True)} " if display else saved.formula(tex, display=False))


def _mathjax2(tree: Any, saved: Saved) -> None:
    rendered = ".MathJax_Preview, .MathJax, .MathJax_Display, .MathJax_SVG, .MathJax_SVG_Display, .MathJax_CHTML"
    for node in outermost(tree, rendered):
        node.decompose()
    for node in tree.css('script[type^="math/"]'):
        kind = (node.attributes.get("type") or "").lower()
        if kind.startswith("math/mml"):
            from selectolax.lexbor import LexborHTMLParser

            inner = LexborHTMLParser(node.text()).css_first("math")
            tex = mathml_to_tex(inner) if inner is not None else ""
        else:
            tex = clean_tex(re.sub(r"^%\s*<!\[CDATA\[|\]\]>\s*$", "", html_entities.unescape(node.text()).strip()))
        _put(node, saved, tex, display="mode=display" in kind.replace(" ", ""))


def _mathjax3(tree: Any, saved: Saved) -> None:
    for node in outermost(tree, "mjx-container, .MathJax_SVG, .MathJax_CHTML"):
        math = node.css_first("mjx-assistive-mml math, .MJX_Assistive_MathML math, math")
        tex = mathml_to_tex(math) if math is not None else ""
        tex = tex or clean_tex(node.attributes.get("data-latex") or _data_latex(node) or _mjx_characters(node))
        display = node.attributes.get("display") == "true" or _is_display(math)
        _put(node, saved, tex, display=display)


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


def _katex(tree: Any, saved: Saved) -> None:
    for selector, display in ((".katex-display", True), (".katex-block", True), (".katex", False)):
        for node in outermost(tree, selector):
            math = node.css_first("math")
            tex = mathml_to_tex(math) if math is not None else ""
            error = node.attributes.get("data-tex") or node.attributes.get("data-expr") or ""
            _put(node, saved, tex or clean_tex(error), display=display or _is_display(math))


def _wikipedia(tree: Any, saved: Saved) -> None:
    for node in outermost(tree, ".mwe-math-element"):
        math, image = node.css_first("math"), node.css_first("img")
        tex = mathml_to_tex(math) if math is not None else ""
        tex = tex or clean_tex((image.attributes.get("alt") if image is not None else "") or "")
        marks = "mwe-math-fallback-image-display" in (node.html or "") or "mwe-math-mathml-display" in (node.html or "")
        _put(node, saved, tex, display=marks or _is_display(math))


def _image(node: Any, saved: Saved) -> None:
    attributes = node.attributes
    source = attributes.get("src") or attributes.get("data-src") or ""
    classes = set((attributes.get("class") or "").split())
    alt = html_entities.unescape(attributes.get("alt") or attributes.get("title") or "")
    alt = attributes.get("data-latex") or attributes.get("data-formula") or alt
    from_address = _tex_in_address(source) if _IMAGE_HOSTS.search(source) else ""
    named = bool(classes & _IMAGE_CLASSES) or bool(_IMAGE_HOSTS.search(source))
    if named and (tex := clean_tex(from_address or alt)):
        display = "displaystyle" in tex or any("display" in c for c in classes) or _alone_in_block(node)
        _put(node, saved, _IMAGE_STYLE.sub("", tex), display=display)
    elif re.search(r"\\[a-zA-Z]{2,}|[_^]\{|\$.+\$", alt) and len(alt) < 2000:
        _put(node, saved, clean_tex(alt), display=_alone_in_block(node))


def _tex_in_address(source: str) -> str:
    """The formula in the address of an image that a TeX service renders."""
    parts = urlsplit(source)
    named = dict(parse_qsl(parts.query.replace("+", "%2B"), keep_blank_values=True))
    for key in ("latex", "tex", "chl", "math", "eq", "formula"):
        if named.get(key):
            return clean_tex(_plus(named[key]))
    if "codecogs" in parts.netloc or "cgi" in parts.path or "upmath" in parts.netloc or "math.now" in parts.netloc:
        tail = source.split("?", 1)[1] if "?" in source else parts.path.rsplit("/", 1)[-1]
        tex = unquote(tail.replace("&space;", " "))
        tex = _IMAGE_STYLE.sub("", tex.strip())
        return clean_tex(_plus(tex))
    return ""


def _plus(tex: str) -> str:
    """`+` between words without any blank is form encoding for a blank; beside real blanks it is an addition."""
    return tex.replace("+", " ") if "+" in tex and " " not in tex and re.search(r"\\[a-z]+\+|\+\\", tex) else tex


def _delimited(tree: Any, saved: Saved) -> None:
    nodes = [
        node
        for node in tree.body.traverse(include_text=True)
        if node.tag == "-text" and _HINT.search(node.text_content or "")
    ]
    for node in nodes:
        if inside(node, _NO_FORMULAS_IN):
            continue
        text = node.text_content or ""
        replaced = _DELIMITED.sub(lambda match: _delimited_piece(match, saved), text)
        if replaced != text:
            node.replace_with(replaced)


def _delimited_piece(match: re.Match[str], saved: Saved) -> str:
    found = match.groupdict()
    if found["environment"]:
        return f" {saved.formula(found['environment'].strip(), display=True)} "
    for name, display in (("bracket", True), ("double", True), ("round", False), ("single", False)):
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


def _alone_in_block(node: Any) -> bool:
    """Whether an image is all its paragraph holds: a displayed equation."""
    parent = node.parent
    return bool(
        parent is not None
        and parent.tag in ("p", "div", "center", "td", "dd", "figure")
        and not (parent.text() or "").strip()
        and len(parent.css("img")) == 1
    )


# ---- what a page says of itself ------------------------------------------------------------------------------------


def _title(tree: Any) -> str:
    for selector, attribute in (('meta[property="og:title"]', "content"), ("title", ""), ("h1", "")):
        node = tree.css_first(selector)
        text = "" if node is None else (node.attributes.get(attribute) or "") if attribute else node.text()
        if text.strip():
            return re.sub(r"\s+", " ", text).strip()[:500]
    return ""


def _declared_language(tree: Any) -> str:
    node = tree.css_first("html")
    declared = (node.attributes.get("lang") or node.attributes.get("xml:lang") or "") if node is not None else ""
    match = re.match(r"[a-zA-Z]{2,3}(?=$|[-_])", declared.strip())
    return match.group().lower() if match else ""


def _language(text: str) -> str:
    """Detected language (ISO 639-1), empty if too far from any known profile."""
    from resiliparse.parse.lang import detect_fast

    code = str(detect_fast(text[:20_000])[0])
    return "" if code == "unknown" else code


def _tags(tree: Any) -> dict[str, Any]:
    tags: dict[str, Any] = {}
    robots = tree.css_first('meta[name="robots"]')
    if robots is not None and robots.attributes.get("content"):
        tags["robots"] = robots.attributes["content"].lower()
    licence = tree.css_first('a[rel~="license"], link[rel~="license"]')
    if licence is not None and licence.attributes.get("href"):
        tags["licence"] = licence.attributes["href"]
    return tags


def _clean(text: str) -> str:
    """No-break spaces are spaces, no NUL, at most one blank line in a row outside of fences."""
    text = text.replace("\xa0", " ").replace("\r\n", "\n").replace("\x00", "")
    parts = re.split(r"(^(?P<f>`{3,})[^\n]*\n.*?^(?P=f)$)", text, flags=re.MULTILINE | re.DOTALL)
    return "".join(
        part if i % 3 == 1 else "" if i % 3 == 2 else _few_blank_lines(part) for i, part in enumerate(parts)
    ).strip()


def _few_blank_lines(text: str) -> str:
    return re.sub(r"\n[ \t]*(?:\n[ \t]*)+\n", "\n\n", re.sub(r"[ \t]+\n", "\n", text))
