"""Code blocks of a page, byte-exact between fences (MiMo 2.1: common extractors lose code).

A block's text is taken as it stands, with every blank, but for line numbers, copy buttons and the line break that
markup puts at its end. Inline code stays part of its sentence; only what a reader of formulas could mistake is saved.
"""

from __future__ import annotations

import re
from typing import Any

from openmimo.data.dom import outermost
from openmimo.data.saved import Saved

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


def save_inline_code(tree: Any, saved: Saved) -> None:
    """Replace inline code that holds delimiters of formulas by a placeholder for its text."""
    for node in outermost(tree, "code, kbd, samp, tt, var"):
        text = node.text()
        if "$" in text or "\\" in text:
            node.replace_with(saved.put("inline", " ".join(text.split())))


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
