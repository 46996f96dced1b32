"""The text layer of a PDF in reading order (MiMo 2.1: PDF parsing strengthened for STEM and code).

Lines come from the positions of characters, columns from the empty gutter between them, paragraphs from line spacing;
words cut at a line's end are joined, running heads and page numbers dropped. Not done: scanned pages (no text layer),
formulas as TeX, tables.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import Any

MAX_PAGES = 2000  # ours: bounds the time one file can take


@dataclass(frozen=True, slots=True)
class Line:
    """One run of text, in PDF points from the page's lower left corner."""

    left: float
    bottom: float
    right: float
    top: float
    text: str


def pdf_text(content: bytes) -> tuple[str, str]:
    """Title (metadata, may be empty) and text of a PDF.

    Raises:
        pypdfium2.PdfiumError: if it is no PDF or is locked.
    """
    import pypdfium2

    document = pypdfium2.PdfDocument(content)
    try:
        title = (document.get_metadata_value("Title") or "").strip()
        pages = [_lines(document[i]) for i in range(min(len(document), MAX_PAGES))]
    finally:
        document.close()
    pages = drop_running_heads(pages)
    return title, join_paragraphs([line for page in pages for line in [*page, None]])


def _lines(page: Any) -> list[Line]:
    """A page's lines in reading order."""
    textpage = page.get_textpage()
    try:
        pieces = []
        for i in range(textpage.count_rects()):
            left, bottom, right, top = textpage.get_rect(i)
            text = textpage.get_text_bounded(left, bottom, right, top)
            # pdfium writes a hyphen at a line's end as U+0002 or U+FFFE
            text = re.sub(r"[\r\n\x00]+", " ", re.sub("[\x02\ufffe]", "-", text)).strip()
            if text:
                pieces.append(Line(left, bottom, right, top, text))
    finally:
        textpage.close()
    return reading_order(merge_pieces(pieces))


def merge_pieces(pieces: list[Line]) -> list[Line]:
    """Join pieces of one baseline that stand within a word space or two of each other."""
    rows: list[Line] = []
    for piece in pieces:
        last = rows[-1] if rows else None
        if last is not None:
            height = max(last.top - last.bottom, piece.top - piece.bottom, 1.0)
            overlap = min(last.top, piece.top) - max(last.bottom, piece.bottom)
            gap = piece.left - last.right
            # Sub- and superscripts overlap their line by less than the letters of a word do.
            if overlap > 0.3 * min(last.top - last.bottom, piece.top - piece.bottom) and -height < gap < 1.5 * height:
                glue = " " if gap > 0.15 * height and not last.text.endswith(" ") else ""
                rows[-1] = Line(
                    min(last.left, piece.left), min(last.bottom, piece.bottom),
                    max(last.right, piece.right), max(last.top, piece.top), last.text + glue + piece.text,
                )  # fmt: skip
                continue
        rows.append(piece)
    return rows


def reading_order(lines: list[Line]) -> list[Line]:
    """Cut the page at its widest empty gutters, top part before lower, left before right (recursive XY cut)."""
    if len(lines) <= 1:
        return lines
    heights = sorted(line.top - line.bottom for line in lines)
    height = heights[len(heights) // 2] or 1.0
    columns = _split(lines, lambda line: (line.left, line.right), 0.8 * height)
    # A gutter that no line crosses splits into columns only if both sides are text, not a label and its line.
    if len(columns) > 1 and min(len(part) for part in columns) >= 3:
        return [line for part in columns for line in reading_order(part)]
    bands = _split(lines, lambda line: (-line.top, -line.bottom), 0.3 * height)
    if len(bands) > 1:
        return [
            line
            for band in _join_bands(bands, height)
            for line in (reading_order(band) if len(band) < len(lines) else band)
        ]
    return sorted(lines, key=lambda line: (-round(line.bottom / height), line.left))


def _split(lines: list[Line], span: Any, gap: float) -> list[list[Line]]:
    parts: list[list[Line]] = []
    edge = 0.0
    for line in sorted(lines, key=lambda line: (span(line), line.text)):
        start, end = span(line)
        if parts and start - edge < gap:
            parts[-1].append(line)
            edge = max(edge, end)
        else:
            parts.append([line])
            edge = end
    return parts


def _join_bands(bands: list[list[Line]], height: float) -> list[list[Line]]:
    """Neighbouring bands that share one column gutter are one block: two columns under a headline across both."""
    joined: list[list[Line]] = []
    for band in bands:
        if joined:
            both = joined[-1] + band
            columns = _split(both, lambda line: (line.left, line.right), 0.8 * height)
            if len(columns) > 1 and len(_split(band, lambda line: (line.left, line.right), 0.8 * height)) > 1:
                joined[-1] = both
                continue
        joined.append(band)
    return joined


def drop_running_heads(pages: list[list[Line]]) -> list[list[Line]]:
    """Without the first and last lines that repeat over at least three pages (digits apart), and bare page numbers."""
    if len(pages) < 3:
        return pages
    counts = Counter(key for page in pages for key in {_head_key(line) for line in _edges(page)})
    repeated = {key for key, number in counts.items() if number >= max(3, len(pages) // 3)}
    kept = []
    for page in pages:
        edges = {id(line) for line in _edges(page)}
        kept.append([line for line in page if not (id(line) in edges and _head_key(line) in repeated)])
    return kept


def _edges(page: list[Line]) -> list[Line]:
    """The two highest and the two lowest lines."""
    by_height = sorted(page, key=lambda line: -line.top)
    return [*by_height[:2], *by_height[2:][-2:]]


def _head_key(line: Line) -> str:
    return re.sub(r"\d+|\b[ivxl]+\b", "#", line.text.lower()).strip()


def join_paragraphs(lines: list[Line | None]) -> str:
    """Lines to text: a gap or an indent starts a paragraph, a hyphen at a line's end joins its word."""
    out = ""
    last: Line | None = None
    for line in lines:
        if line is None:
            continue
        if last is None:
            out = line.text
        elif _cut_word(last, line):
            out = out[:-1] + line.text
        elif _new_paragraph(last, line):
            out += "\n\n" + line.text
        elif _code_like(last) or _code_like(line):
            out += "\n" + line.text
        else:
            out += " " + line.text
        last = line
    return out


def _cut_word(last: Line, line: Line) -> bool:
    return bool(re.search(r"[a-zà-ÿ]-$", last.text) and re.match(r"[a-zà-ÿ]", line.text))


def _new_paragraph(last: Line, line: Line) -> bool:
    height = max(last.top - last.bottom, 1.0)
    gap = last.bottom - line.top
    if gap < -3 * height:  # the top of the next column or page goes on with the sentence
        return bool(re.search(r"[.!?:]$", last.text))
    indented = line.left - last.left > 1.2 * height and re.search(r"[.!?:]$", last.text)
    return gap > 0.9 * height or bool(indented) or abs((line.top - line.bottom) - height) > 0.35 * height


def _code_like(line: Line) -> bool:
    starts = r"^\s*(?:def|class|for|while|if|return|import|from|#include|//)\b.*[:;(){}]?$"
    return bool(re.search(rf"[;{{}}]\s*$|{starts}", line.text) and re.search(r"[(){};=]", line.text))
