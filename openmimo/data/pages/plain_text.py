"""Markup to plain text: headings, lists and tables as a reader would write them down (MiMo 2.1).

Works on markup as a parser writes it out (selectolax's `node.html`): tags balanced, attributes in double quotes, text
with no entities but `&amp; &lt; &gt; &nbsp;`. Headings start with `#`, list items with `-` or their number, the cells
of a table row stand on one line between ` | `. Inline markup leaves no trace. Scripts and the like must be gone.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

NEVER_TEXT = "script style noscript template iframe object svg select textarea button dialog".split()
"""Elements whose content is no text of the page."""
_BLOCKS = (
    "address article aside blockquote body br caption center dd details dir div dl dt fieldset figcaption figure "
    "footer form h1 h2 h3 h4 h5 h6 header hgroup hr html legend li main menu nav ol p pre section summary table tbody "
    "td tfoot th thead tr ul"
).split()
_ATTRIBUTES = r'[^>"]*(?:"[^"]*"[^>"]*)*'
_LINK = re.compile(rf"<a(?:>|\s{_ATTRIBUTES}>)")
_INLINE = re.compile(
    r"<!--.*?-->|</?(?:s(?:pan|trong|mall|u[bp]|amp)|code|em|[biuq]|font|cite|abbr|label|time|img|wbr|ins|del|mark|tt|kbd|"
    rf"var)(?:>|\s{_ATTRIBUTES}>)",
    re.DOTALL,
)
"""The commonest of what leaves no trace; the rest of it is left to the walk over tags."""
_TAG = re.compile(rf"<(/?)([a-zA-Z][^\s>]*)({_ATTRIBUTES})>")
_NEVER = re.compile(rf"<(?:{'|'.join(NEVER_TEXT)})[\s>]")
_PARAGRAPHS = frozenset("p h1 h2 h3 h4 h5 h6 blockquote ul ol dl table figure hr pre section article".split())
_LISTS = frozenset(("ul", "ol", "menu", "dir"))
_MAX_INDENT = 12
"""Deeper lists are indented no further: a page may nest thousands."""
_HEADINGS = {f"h{level}": "#" * level + " " for level in range(1, 7)}
_STATEFUL = frozenset((*_LISTS, *_HEADINGS, "li", "tr", "td", "th"))
_PLAIN = {tag: tag in _PARAGRAPHS for tag in _BLOCKS if tag not in _STATEFUL}
"""Blocks that end a line and mean nothing else; whether an empty line comes with it."""
_LINK_START, _LINK_END = "\x01", "\x02"
_LINKED = re.compile(f"{_LINK_START}([^{_LINK_START}{_LINK_END}]*){_LINK_END}")
_HEADING_ANCHOR = re.compile(r"\s*[¶#🔗]\s*$")


@dataclass(slots=True)
class Line:
    """One line of a page's text."""

    text: str
    """Without its mark; blanks collapsed."""
    mark: str
    """What stands before it: `## `, `- `, `3. `, indented as deep as its list, or nothing."""
    gap: bool
    """Whether an empty line stands before it."""
    linked: float
    """Share of its characters inside links."""


def plain_text(markup: str) -> str:
    """All text of an HTML fragment."""
    if _NEVER.search(markup):
        from selectolax.lexbor import LexborHTMLParser

        tree = LexborHTMLParser(markup)
        tree.strip_tags(NEVER_TEXT)
        markup = (tree.body.html if tree.body is not None else None) or ""
    return join(text_lines(markup))


def join(lines: list[Line]) -> str:
    """Lines as one text."""
    return "".join(f"{chr(10) * (1 + line.gap)}{line.mark}{line.text}" for line in lines).strip("\n")


def text_lines(markup: str) -> list[Line]:
    """The lines of an HTML fragment without scripts and the like, in order, none empty."""
    markup = markup.replace(_LINK_START, "").replace(_LINK_END, "").replace("&nbsp;", " ")
    markup = _INLINE.sub("", _LINK.sub(_LINK_START, markup).replace("</a>", _LINK_END))
    pieces = _TAG.split(markup)
    page = _Lines()
    if not pieces[0].isspace():
        page.parts.append(pieces[0])
    for closing, tag, attributes, text in zip(pieces[1::4], pieces[2::4], pieces[3::4], pieces[4::4], strict=True):
        gap = _PLAIN.get(tag)
        if gap is not None:
            if page.parts:
                page.end_line(gap)
            elif gap:
                page.gap = True
        elif tag in _STATEFUL:
            if closing:
                page.close(tag)
            else:
                page.open(tag, attributes)
        if text and not text.isspace():
            page.parts.append(text)
    page.end_line(False)
    return page.lines


class _Lines:
    """Builds lines out of text and the block tags between."""

    def __init__(self) -> None:
        self.lines: list[Line] = []
        self.parts: list[str] = []
        """Of the line that is being built."""
        self.gap = False
        """Whether an empty line stands before the next line."""
        self._mark, self._heading = "", False
        self._lists: list[int] = []
        """Open lists: the number of the next item, or -1 for bullets."""
        self._rows: list[_Row] = []
        """Open rows, of tables within tables."""

    def open(self, tag: str, attributes: str) -> None:
        gap = tag in _PARAGRAPHS and not (self._lists and tag in _LISTS)
        if self.parts:
            self.end_line(gap)
        elif gap:
            self.gap = True
        if tag == "li":
            self._item()
        elif tag in _HEADINGS:
            self._mark, self._heading = _HEADINGS[tag], True
        elif tag == "ol":
            start = re.search(r'start="(\d{1,9})"', attributes)
            self._lists.append(int(start.group(1)) if start else 1)
        elif tag in _LISTS:
            self._lists.append(-1)
        elif tag == "tr":
            self._rows.append(_Row())
        elif tag in ("td", "th") and self._rows:
            self._rows[-1].cell_start = len(self.lines)

    def close(self, tag: str) -> None:
        gap = tag in _PARAGRAPHS and not (len(self._lists) > 1 and tag in _LISTS)
        if self.parts:
            self.end_line(gap)
        elif gap:
            self.gap = True
        if tag in _LISTS and self._lists:
            self._lists.pop()
        if tag == "li" or tag in _HEADINGS:
            self._mark, self._heading = "", False
        elif tag == "tr" and self._rows:
            self._rows.pop()
        elif tag in ("td", "th") and self._rows:
            self._end_cell(self._rows[-1])

    def _item(self) -> None:
        if not self._lists:
            self._lists.append(-1)
        number = self._lists[-1]
        self._mark = "  " * min(len(self._lists) - 1, _MAX_INDENT) + ("- " if number < 0 else f"{number}. ")
        if number >= 0:
            self._lists[-1] += 1

    def _end_cell(self, row: _Row) -> None:
        """A cell of one line joins the line of the cells before it."""
        one_line = len(self.lines) == row.cell_start + 1
        if one_line and row.joins:
            cell = self.lines.pop()
            line = self.lines[-1]
            share = len(cell.text) / max(len(cell.text) + len(line.text), 1)
            line.linked = line.linked * (1 - share) + cell.linked * share
            line.text += f" | {cell.text}"
        row.joins = one_line or (row.joins and len(self.lines) == row.cell_start)
        self.gap = self.gap and not row.joins

    def end_line(self, paragraph: bool) -> None:
        """End the line, if it has text; the next comes after a gap if one of the tags between asks for it."""
        text = " ".join("".join(self.parts).split())
        self.parts = []
        linked = 0.0
        if _LINK_START in text or _LINK_END in text:
            inside = sum(len(found) for found in _LINKED.findall(text))
            text = text.replace(_LINK_START, "").replace(_LINK_END, "").strip()
            linked = inside / max(len(text), 1)
        if text:
            if self._heading:
                text = _HEADING_ANCHOR.sub("", text)
            if "&" in text:
                text = text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
            self.lines.append(Line(text, self._mark, self.gap, linked))
            self.gap = False
            if not self._heading:  # a second line of an item stands below its text
                self._mark = " " * len(self._mark)
        self.gap = self.gap or paragraph


@dataclass(slots=True)
class _Row:
    cell_start: int = 0
    """Lines there were when its current cell began."""
    joins: bool = False
    """Whether all its cells so far had one line or none."""
