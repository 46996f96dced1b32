"""Code blocks of a page, byte-exact between fences (MiMo 2.1: common extractors lose code).

A block's text is taken as it stands, with every blank, but for line numbers, copy buttons and the line break that
markup puts at its end. Inline code stays part of its sentence; only what a reader of formulas could mistake is saved.
"""

from __future__ import annotations

import html as html_entities
import re
from typing import Any

from openmimo.data.pages.dom import outermost
from openmimo.data.pages.saved import Saved

_GUTTERS = (
    ".linenos, .lineno, .linenodiv, .line-numbers-rows, .gutter, td.blob-num, .hljs-ln-numbers, .rouge-gutter, "
    ".copybtn, button, .copy-button, .clipboard-copy, .code-toolbar > .toolbar"
)
CODE_BLOCKS = "pre, listing, xmp"
"""Selects what `save_block` takes, but for `CODE_BLOCK_CLASSES`; of a table with line numbers the `pre` is taken."""
CODE_BLOCK_CLASSES = ("syntaxhighlighter", "blob-wrapper")
_CODE_TAGS = frozenset(("pre", "listing", "xmp"))
_CODE_CLASSES = frozenset(("highlighttable", "rouge-table", "syntaxhighlighter", "blob-wrapper"))
_NOT_PLAIN = (
    "<br", "<button", "<table", "<tr", "<li", "lineno", "line-numbers", "gutter", "blob-num", "hljs-ln", "copy",
    "copied", "clipboard", "toolbar",
)  # fmt: skip
"""Markup of a block whose text may not be simply the text of its elements."""
_INLINE_CODE = re.compile(r"<(code|kbd|samp|tt)(?:\s[^>]*)?>(.*?)</\1>", re.DOTALL)
_LANGUAGE = re.compile(
    r"(?:^|\s)(?:language|lang|highlight-source|highlight|brush:?|sourceCode|code)[-\s:]\s*([\w+#.-]+)"
)
_NOT_A_LANGUAGE = frozenset("default none plain text plaintext notranslate nohighlight block wrapper highlight".split())


def code_block(node: Any) -> Any:
    """The code block that this element is, or is the code of; None if it is none."""
    if not _is_block(node):
        return None
    around = node.parent
    for _ in range(5):  # pre, td, tr, tbody, table
        if around is None:
            break
        if around.tag == "table":
            return around if _is_block(around) else node
        around = around.parent
    return node


def _is_block(node: Any) -> bool:
    return node.tag in _CODE_TAGS or not _CODE_CLASSES.isdisjoint((node.attributes.get("class") or "").split())


def save_block(tree: Any, block: Any, saved: Saved) -> None:
    """Replace a code block by a placeholder for its exact text between fences."""
    language = _code_language(block)
    markup = block.html or ""
    plain = block.tag in _CODE_TAGS and not any(hint in markup for hint in _NOT_PLAIN)
    code = str(block.text()) if plain else _block_text(block)
    code = code.removesuffix("\n").replace("\xa0", " ")
    if not code.strip():
        block.decompose()
        return
    paragraph = tree.create_node("p")
    paragraph.insert_child(saved.put("code", fenced(code, language)))
    block.replace_with(paragraph)


def save_inline_code(markup: str, saved: Saved) -> str:
    """Markup whose inline code, where it holds what could pass for a formula, is placeholders for its text."""

    def piece(match: re.Match[str]) -> str:
        text = match.group(2)
        if "$" not in text and "\\" not in text:
            return match.group()
        return saved.put("inline", " ".join(html_entities.unescape(re.sub(r"<[^>]*>", "", text)).split()))

    return _INLINE_CODE.sub(piece, markup)


def fenced(code: str, language: str = "") -> str:
    """The code between backtick fences longer than any run of backticks in it."""
    runs = re.findall(r"^ {0,3}(`{3,})", code, re.MULTILINE) if "```" in code else []
    longest = max(map(len, runs), default=2)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{code}\n{fence}"


def _block_text(block: Any) -> str:
    """Text of a code block without its line numbers; a table or a list of lines has one line an element."""
    for gutter in outermost(block, _GUTTERS):
        gutter.decompose()
    for line_break in block.css("br"):
        line_break.replace_with("\n")
    if block.tag not in _CODE_TAGS and (pres := block.css("pre")):
        return "\n".join(pre.text() for pre in pres)
    for lines in ("tr", "li") if block.tag in _CODE_TAGS else (".code .line", "tr", "li", ".line"):
        if rows := block.css(lines):
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
