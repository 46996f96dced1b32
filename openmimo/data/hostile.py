"""Markup that no reader wrote: what would cost a parser time that grows with its square (MiMo 2.1).

A parser looks at every open element for some closing tags, and at every attribute of a tag for a double. Pages that
abuse this are told by counting, before they are parsed. Other excesses are left to the limits of time and memory.
"""

from __future__ import annotations

import re

MAX_DEPTH = 10_000  # ours: browsers flatten what is deeper than 512
MAX_ATTRIBUTES = 10_000  # ours: of one tag

_FEW_TAGS = 20_000  # ours: pages with fewer `<` are not looked at
_NESTING = re.compile(
    rb"<(/?)(?:div|span|section|article|main|nav|header|footer|aside|blockquote|table|ul|ol|dl|b|i|u|s|a|em|strong|font|"
    rb"big|small|code|tt|center|form|fieldset|figure|details|math|mrow|svg|g|pre|h[1-6]|[a-z]+-[a-z-]+)(?=[\s>/])",
    re.IGNORECASE,
)
_LONG_TAG = re.compile(rb"<[a-zA-Z][^>]{50000,}")
_QUOTED = re.compile(rb"\"[^\"]*\"|'[^']*'")


def hostile_markup(content: bytes) -> str:
    """What is wrong with a page's markup, empty if nothing is."""
    if content.count(b"<") > _FEW_TAGS:
        depth = deepest = 0
        for match in _NESTING.finditer(content):
            depth += -1 if match.group(1) else 1
            deepest = max(deepest, depth)
        if deepest > MAX_DEPTH:
            return f"nested {deepest} deep, {MAX_DEPTH} at most"
    if len(content) > 50_000:
        for match in _LONG_TAG.finditer(content):
            count = len(_QUOTED.sub(b"x", match.group()).split()) - 1
            if count > MAX_ATTRIBUTES:
                return f"{count} attributes in one tag, {MAX_ATTRIBUTES} at most"
    return ""
