"""Markup that no reader wrote: what would cost a parser time that grows with its square (MiMo 2.1).

A parser looks at every open element for some closing tags, and at every attribute of a tag for a double. Pages that
abuse this are told by counting, before they are parsed. Other excesses are left to the limits of time and memory.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np

MAX_DEPTH = 10_000  # ours: browsers flatten what is deeper than 512
MAX_ATTRIBUTES = 10_000  # ours: of one tag

_FEW_TAGS = 20_000  # ours: pages with fewer `<` are not looked at
_NESTING = re.compile(
    rb"<(/?)(?:div|span|section|article|main|nav|header|footer|aside|blockquote|table|ul|ol|dl|b|i|u|s|a|em|strong|font|"
    rb"big|small|code|tt|center|form|fieldset|figure|details|math|mrow|svg|g|pre|h[1-6]|[a-z]+-[a-z-]+)(?=[\s>/])",
    re.IGNORECASE,
)
_LONG = 50_000  # ours: characters of a tag whose attributes are counted
_LONG_TAG = re.compile(rb"<[a-zA-Z][^>]{%d,}" % _LONG)
_QUOTED = re.compile(rb"\"[^\"]*\"|'[^']*'")


def hostile_markup(content: bytes) -> str:
    """What is wrong with a page's markup, empty if nothing is."""
    if len(content) > 3 * _FEW_TAGS and _num_tags(content) > _FEW_TAGS:
        depth = deepest = 0
        for match in _NESTING.finditer(content):
            depth = max(depth - 1, 0) if match.group(1) else depth + 1
            deepest = max(deepest, depth)
        if deepest > MAX_DEPTH:
            return f"nested {deepest} deep, {MAX_DEPTH} at most"
    for tag in _long_tags(content):
        count = len(_QUOTED.sub(b"x", tag).split()) - 1
        if count > MAX_ATTRIBUTES:
            return f"{count} attributes in one tag, {MAX_ATTRIBUTES} at most"
    return ""


def _num_tags(content: bytes) -> int:
    """How many `<` there are, ten times as fast as `bytes.count`."""
    return int(np.count_nonzero(np.frombuffer(content, np.uint8) == ord("<")))


def _long_tags(content: bytes) -> Iterator[bytes]:
    """Tags of at least `_LONG` bytes; only what has no `>` in half as many is looked at."""
    start, half = 0, _LONG // 2
    while start + half <= len(content):
        if content.find(b">", start, start + half) >= 0:
            start += half
            continue
        first, end = content.rfind(b">", 0, start) + 1, content.find(b">", start)
        end = len(content) if end < 0 else end
        if match := _LONG_TAG.search(content, first, end):
            yield match.group()
        start = end
