"""Where a page's main content is, and what inside it is none (MiMo 2.1).

The root of the main content is the deepest element that holds most of the page's running text, or most of what a
content area or the surroundings of the first heading hold. Beneath it, navigation, share bars, comments, teasers and
the like go: by their element, by what their class or id says, or as a run of lines that are nothing but links. No rule
here judges a text's quality: that is a tagger's work.
"""

from __future__ import annotations

import math
from typing import Any

from openmimo.data.pages.dom import without_nested
from openmimo.data.pages.element_names import area_kind, chrome_kind
from openmimo.data.pages.plain_text import Line
from openmimo.data.pages.saved import MARK

_RUNNING_CHARS = 25
"""Fewest characters of one piece of running text; a character outside ASCII counts double."""
_SHARE, _SHARE_INSIDE = 0.6, 0.85
"""Of an element's running text, how much a child must hold to take its place; more inside a content area."""
_AREA_SHARE = (0.05, 0.3, 0.5, 0.5)
"""Of the page's running text, how much a content area must hold: one named so, likely so, `article`, `main`."""
_LONE_ARTICLE_SHARE = 0.02
"""The same of an `article` that is alone, but for small ones."""
_INNER_SHARE = (0.15, 0.6, 0.6, 0.6)
"""Of a content area's running text, how much one of its kind inside it must hold to take its place."""
_AMONG_SHARE = 0.5
"""Of the running text in all areas of a kind side by side, how much one must hold to be the content alone."""
_ARTICLE_CHARS, _HEADING_SHARE = 600, 0.05
"""Running text, and share of the page's, that an element around the heading must hold to be the article."""
_CHROME_SHARE = 0.65
"""An element that holds more of the page's running text than this is content, whatever it is called."""

_CAN_BE_ROOT = frozenset("div article main td table tbody tr center font span".split())
_MAY_BE_CHROME = (
    "div, section, ul, ol, table, header, figure, nav, aside, footer, form, menu, li[class], [hidden], .headerlink, "
    ".sr-only, .visually-hidden, .screen-reader-text, .mw-editsection"
)
_ALL_LINK, _HALF_LINK = 0.8, 0.5
"""From which share of linked characters a line is a link, among others and at the end of the text."""
_LINK_LIST_LINES = 3
_TAIL_CHARS = 60
"""A line of this length that is no link ends a tail."""


def main_content(body: Any) -> Any:
    """The element below `body` that holds the main content, with nothing else left in it."""
    found = RunningText(body)
    root = found.root()
    found.remove_chrome(root)
    return root


class RunningText:
    """The running text of a page, summed up by the elements around it."""

    def __init__(self, body: Any) -> None:
        self._top = body.mem_id
        self._elements: dict[int, Any] = {self._top: body}
        self._parents: dict[int, int] = {self._top: 0}
        self._children: dict[int, list[int]] = {}
        self._mass: dict[int, int] = {}
        pieces: dict[int, int] = {}
        for node in body.traverse(include_text=True):
            if node.is_text_node and len(text := node.text_content.strip()) > 3:
                size = len(text) if text.isascii() else 2 * len(text)
                if size < _RUNNING_CHARS:
                    if MARK not in text:
                        continue
                    size = 2 * _RUNNING_CHARS
                element = node.parent
                if element.tag != "a":
                    identity = self._known(element)
                    pieces[identity] = pieces.get(identity, 0) + size
        everything = self._sums(pieces)
        limit = _CHROME_SHARE * everything.get(self._top, 0)
        self._chrome = {
            identity
            for identity, node in self._elements.items()
            if (kind := chrome_kind(node)) and (kind == "always" or everything.get(identity, 0) <= limit)
        }
        self._mass = self._without_chrome(everything)
        if not self._mass.get(self._top):
            self._chrome, self._mass = set(), everything
        for identity in self._mass:
            self._children.setdefault(self._parents[identity], []).append(identity)

    def _known(self, element: Any) -> int:
        """The element's id, itself and all around it being written down, the outer before the inner."""
        first = int(element.mem_id)
        chain = []
        while (identity := element.mem_id) not in self._elements:
            chain.append((identity, element))
            element = element.parent
        for inner, element in reversed(chain):
            self._elements[inner] = element
            self._parents[inner] = identity
            identity = inner
        return first

    def _sums(self, pieces: dict[int, int]) -> dict[int, int]:
        """Running text below every element that has any."""
        sums = dict(pieces)
        for identity in reversed(self._elements):  # the inner before the outer
            if (size := sums.get(identity)) and (parent := self._parents[identity]):
                sums[parent] = sums.get(parent, 0) + size
        return sums

    def _without_chrome(self, sums: dict[int, int]) -> dict[int, int]:
        """The same without what is inside chrome."""
        if not self._chrome:
            return sums
        sums, inside = dict(sums), set()
        for identity, parent in self._parents.items():  # the outer before the inner
            if parent in inside:
                inside.add(identity)
                sums.pop(identity, None)
            elif identity in self._chrome:
                inside.add(identity)
                size = sums.pop(identity, 0)
                while parent and size:
                    sums[parent] -= size
                    parent = self._parents[parent]
        return {identity: size for identity, size in sums.items() if size}

    def root(self) -> Any:
        """The deepest element that holds most of the running text, inside a content area if there is one."""
        start, share = self._area()
        while below := self._children.get(start):
            best = max(below, key=self._mass.__getitem__)
            if self._mass[best] < share * self._mass[start] or self._elements[best].tag not in _CAN_BE_ROOT:
                break
            start = best
        return self._elements[start]

    def _area(self) -> tuple[int, float]:
        """The content area to start from and how much of it a child must hold to take its place."""
        areas: list[dict[int, int]] = [{}, {}, {}, {}]
        for identity, mass in self._mass.items():
            kind = area_kind(self._elements[identity])
            if kind is not None:
                areas[kind][identity] = mass
        start, total = self._top, self._mass.get(self._top, 0)
        if areas[2]:
            article = max(areas[2], key=areas[2].__getitem__)
            mass = areas[2][article]
            if mass >= max(_LONE_ARTICLE_SHARE * total, 0.8 * sum(areas[2].values())):
                start, total = article, mass
        for kind, found in enumerate(areas):
            inside = self._nested(start, found)
            if start not in found:
                outermost = inside.get(start, {})
                mass = max(outermost.values(), default=0)
                if mass < max(_AREA_SHARE[kind] * total, _AMONG_SHARE * sum(outermost.values()), 1):
                    continue
            needed = _INNER_SHARE[kind] * total if start in found else 0.0
            return self._innermost(start, inside, _INNER_SHARE[kind], needed), _SHARE_INSIDE if kind else math.inf
        return (self._around_heading(), _SHARE) if start == self._top else (start, _SHARE_INSIDE)

    def _around_heading(self) -> int:
        """The innermost element around the page's first `h1` that holds an article's running text, else the body."""
        node = next((node for node in self._elements[self._top].css("h1") if not node.text().isspace()), None)
        needed = max(_ARTICLE_CHARS, _HEADING_SHARE * self._mass.get(self._top, 0))
        while node is not None and self._mass.get(node.mem_id, 0) < needed:
            node = node.parent
        return node.mem_id if node is not None else self._top

    def _nested(self, start: int, areas: dict[int, int]) -> dict[int, dict[int, int]]:
        """By area, or `start`, the areas that are directly inside it."""
        inside: dict[int, dict[int, int]] = {}
        for identity, mass in areas.items():
            around = self._parents[identity] if identity != start else 0
            while around and around != start and around not in areas:
                around = self._parents[around]
            inside.setdefault(around, {})[identity] = mass
        return inside

    def _innermost(self, start: int, inside: dict[int, dict[int, int]], share: float, needed: float) -> int:
        """The area that holds most of what is in areas, as far in as it holds so much of the area around it."""
        area = start
        while found := inside.get(area):
            best = max(found, key=found.__getitem__)
            if found[best] < max(needed, _AMONG_SHARE * sum(found.values())):
                break
            area, needed = best, share * found[best]
        return area

    def remove_chrome(self, root: Any) -> None:
        """Take everything that is chrome out from under `root`."""
        own = root.mem_id
        marked = root.css(_MAY_BE_CHROME)
        gone = [
            node for node in marked
            if (i := node.mem_id) != own and (i in self._chrome or (i not in self._elements and chrome_kind(node)))
        ]  # fmt: skip
        for node in without_nested(gone):
            node.decompose()


def without_link_lists(lines: list[Line]) -> list[Line]:
    """Lines without lists of nothing but links, at the end also without the scraps among and after them."""
    lines = lines[: _end_of_text(lines)] or lines
    kept: list[Line] = []
    links: list[Line] = []
    for line in lines:
        if line.linked > _ALL_LINK:
            links.append(line)
            continue
        if kept and len(links) < _LINK_LIST_LINES:
            kept += links
        links = []
        kept.append(line)
    while kept and kept[-1].mark.startswith("#"):  # a heading over nothing
        kept.pop()
    return kept or lines


def _end_of_text(lines: list[Line]) -> int:
    """Where the lines end but for a tail of short ones of which at least three, and half, are links."""
    end, num_links = len(lines), 0
    for i in range(len(lines) - 1, -1, -1):
        line = lines[i]
        if line.linked > _HALF_LINK:
            num_links += 1
        elif len(line.text) >= _TAIL_CHARS and not line.mark.startswith("#"):
            break
        if num_links >= max(_LINK_LIST_LINES, (len(lines) - i) / 2):
            end = i
    return end
