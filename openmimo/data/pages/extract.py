"""A page to a document without losing formulas or code (MiMo 2.1).

A pass over the parsed page takes out what main-content extractors damage: formulas in any of a dozen encodings become
`$...$` or `$$...$$` TeX, code blocks stay byte-exact between fences, threads keep their order. Each is replaced by a
placeholder word; the main content is found and written out, and the placeholders are put back. No quality rule drops a
page here: that is a tagger's work. Not done: JavaScript, pages whose text is an image.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from openmimo.data.pages.charset import decode, utf8
from openmimo.data.pages.code_blocks import CODE_BLOCK_CLASSES, CODE_BLOCKS, code_block, save_block, save_inline_code
from openmimo.data.pages.dom import without_nested
from openmimo.data.pages.formulas import FORMULA_CLASSES, FORMULAS, is_formula, save_delimited, save_formula
from openmimo.data.pages.hostile import hostile_markup
from openmimo.data.pages.main_content import main_content, without_link_lists
from openmimo.data.pages.page_facts import page_facts
from openmimo.data.pages.plain_text import NEVER_TEXT, join, plain_text, text_lines
from openmimo.data.pages.saved import Saved
from openmimo.data.pages.source_names import source_names
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
            from openmimo.data.pages.pdf import pdf_text

            title, text = pdf_text(page.content)
            return document_of(page, clean(text), title=title)
        if media in ("text/plain", "text/markdown"):
            return document_of(page, clean(decode(page.content, page.media_type)))
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
    if not text:
        return Dropped("empty")
    return Document(
        id=document_id(page.url or page.source, text), url=page.url, text=text, source=page.source, title=title,
        language=language or _language(text), tags=tags or {},
    )  # fmt: skip


def _from_html(page: Page) -> Document | Dropped:
    from selectolax.lexbor import LexborHTMLParser

    from openmimo.data.pages.forum import find_thread, render_thread

    source = utf8(page.content, page.media_type)
    if not source or source.isspace():
        return Dropped("empty")
    tree = LexborHTMLParser(source)
    if tree.body is None:
        return Dropped("empty")
    names = source_names(source)
    facts = page_facts(tree, names)
    saved = Saved()
    save_pieces(tree, names, saved)
    thread = find_thread(tree, names)
    if thread:
        text = render_thread(thread, lambda markup: plain_text(protected(markup, saved)))
    else:
        text = main_text(tree, saved)
    text = saved.put_back(save_delimited(text, saved))
    return document_of(page, text.strip(), title=facts.title, language=facts.language, tags=facts.tags)


def save_pieces(tree: Any, names: str, saved: Saved) -> None:
    """Replace the code blocks and the formulas that are elements, each once, by placeholders."""
    lowered = names.lower()  # quirky pages have classes of any case
    classes = [f".{name}" for name in (*CODE_BLOCK_CLASSES, *FORMULA_CLASSES) if name.lower() in lowered]
    nodes = tree.css(", ".join((CODE_BLOCKS, FORMULAS, *classes)))
    blocks = [block for node in nodes if (block := code_block(node)) is not None]
    codes = {block.mem_id for block in blocks}
    pieces = without_nested([*blocks, *(node for node in nodes if is_formula(node))])
    scripts = any(node.tag == "script" for node in pieces)
    for node in pieces:
        if node.mem_id in codes:
            save_block(tree, node, saved)
        else:
            save_formula(node, saved, scripts=scripts)


def protected(markup: str, saved: Saved) -> str:
    """Markup in which no inline code can be taken for a formula."""
    return save_inline_code(markup, saved) if "$" in markup or "\\" in markup else markup


def main_text(tree: Any, saved: Saved) -> str:
    """Main content, unless finding it would cost more than half of the page's saved formulas and code."""
    tree.strip_tags(NEVER_TEXT)
    num_pieces = len(saved.pieces)
    markup = protected(main_content(tree.body).html or "", saved)
    text = join(without_link_lists(text_lines(markup)))
    if not text or saved.count_in(text) * 2 < num_pieces:
        return plain_text(protected(tree.body.html or "", saved))
    return text


def _language(text: str) -> str:
    """Detected language (ISO 639-1), empty if too far from any known profile."""
    from resiliparse.parse.lang import detect_fast

    code = str(detect_fast(text[:20_000])[0])
    return "" if code == "unknown" else code


def clean(text: str) -> str:
    """No-break spaces are spaces, no NUL, at most one blank line in a row outside of fences."""
    text = text.replace("\xa0", " ").replace("\r\n", "\n").replace("\x00", "")
    parts = re.split(r"(^(?P<f>`{3,})[^\n]*\n.*?^(?P=f)$)", text, flags=re.MULTILINE | re.DOTALL)
    return "".join(
        part if i % 3 == 1 else "" if i % 3 == 2 else _few_blank_lines(part) for i, part in enumerate(parts)
    ).strip()


def _few_blank_lines(text: str) -> str:
    return re.sub(r"\n[ \t]*(?:\n[ \t]*)+\n", "\n\n", re.sub(r"[ \t]+\n", "\n", text))
