"""The text layer of a PDF in reading order (MiMo 2.1: PDF parsing strengthened for STEM and code).

Lines come from the places of characters, columns from the empty gutter between them, paragraphs from line spacing,
indents and letter size; words cut at a line's end are joined, running heads and page numbers dropped, lines in a
typewriter face put between fences with their indentation. Formulas come as the text layer has them, character by
character. Not done: scanned pages (no text layer), formulas as TeX, tables.
"""

from __future__ import annotations

import ctypes
import itertools
import re
import statistics
from collections import Counter
from dataclasses import dataclass
from typing import Any

from openmimo.data.read import Oversized

MAX_PAGES = 2000  # ours: bounds the time one file can take
MAX_CHARACTERS = 20_000_000  # ours: of one file

_LINE_END_HYPHENS = "\x02\ufffe\xad\u2010"
"""What pdfium and printers make of a hyphen at a line's end."""
_MONOSPACED = re.compile(r"mono|courier|consol|menlo|typewriter|inconsolata|cmtt|lmtt|sftt|txtt|fixed", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Line:
    """One run of text, in PDF points from the page's lower left corner."""

    left: float
    bottom: float
    right: float
    top: float
    text: str
    code: str = ""
    """The text with its gaps as blanks, if all of it is in a typewriter face."""


def pdf_text(content: bytes) -> tuple[str, str]:
    """Title (metadata, may be empty) and text of a PDF.

    Raises:
        pypdfium2.PdfiumError: if it is no PDF or is locked.
        Oversized: if it holds more than MAX_PAGES pages or MAX_CHARACTERS characters.
    """
    import pypdfium2

    document = pypdfium2.PdfDocument(content)
    try:
        if len(document) > MAX_PAGES:
            raise Oversized(f"{len(document)} pages, {MAX_PAGES} at most")
        title = (document.get_metadata_value("Title") or "").strip()
        pages: list[list[Line]] = []
        room = MAX_CHARACTERS
        for i in range(len(document)):
            page = document[i]
            pages.append(in_order(merge_pieces(_pieces(page, room))))
            page.close()
            room -= sum(len(line.text) for line in pages[-1])
    finally:
        document.close()
    pages = drop_running_heads(pages)
    return title, join_paragraphs([line for page in pages for line in [*page, None]])


def _pieces(page: Any, room: int) -> list[Line]:
    """A page's runs of characters, as they were drawn: one goes on while its characters stand side by side."""
    import pypdfium2.raw as pdfium

    textpage = page.get_textpage()
    try:
        raw, number = textpage.raw, textpage.count_chars()
        if number > room:
            raise Oversized(f"more than {MAX_CHARACTERS} characters")
        box = pdfium.FS_RECTF()
        pieces: list[Line] = []
        run: list[tuple[float, float, str]] = []  # left, right, character
        edges = (0.0, 0.0, 0.0, 0.0)  # left, bottom, right, top
        first = last = 0

        def close_run() -> None:
            nonlocal run
            text = re.sub(r"\s+", " ", "".join(character for _, _, character in run)).strip()
            if text:
                mono = all(_is_monospaced(pdfium, raw, i) for i in {first, (first + last) // 2, last})
                pieces.append(Line(*edges, text, _spaced(run) if mono else ""))
            run = []

        for i in range(number):
            code = pdfium.FPDFText_GetUnicode(raw, i)
            if code in (0, 10, 13):
                continue
            character = chr(code) if code < 0xD800 or 0xDFFF < code < 0x110000 else "\ufffd"
            character = "-" if character in _LINE_END_HYPHENS else character
            if not pdfium.FPDFText_GetLooseCharBox(raw, i, ctypes.byref(box)) or box.right <= box.left:
                if run and run[-1][2] != " ":
                    run.append((run[-1][1], run[-1][1], " "))
                continue
            if character.isspace():
                if run:
                    run.append((box.left, box.right, " "))
                continue
            low, high = min(box.bottom, box.top), max(box.bottom, box.top)
            height = max(high - low, edges[3] - edges[1], 1.0)
            if run:
                overlap = min(high, edges[3]) - max(low, edges[1])
                gap = box.left - edges[2]
                widest = (3.5 if run[-1][2] == " " else 1.5) * height  # justified lines stretch their blanks
                if overlap < 0.5 * min(high - low, edges[3] - edges[1]) or not -0.5 * height < gap < widest:
                    close_run()
                elif gap > 0.2 * height and run[-1][2] != " ":
                    run.append((edges[2], box.left, " "))
            if run:
                edges = (edges[0], min(edges[1], low), max(edges[2], box.right), max(edges[3], high))
            else:
                edges, first = (box.left, low, box.right, high), i
            last = i
            run.append((box.left, box.right, character))
        close_run()
    finally:
        textpage.close()
    return pieces


def _is_monospaced(pdfium: Any, raw: Any, index: int) -> bool:
    """Whether a character is of a face whose letters are all of one width."""
    name, flags = ctypes.create_string_buffer(128), ctypes.c_int()
    pdfium.FPDFText_GetFontInfo(raw, index, name, 128, ctypes.byref(flags))
    return bool(flags.value & 1) or bool(_MONOSPACED.search(name.value.decode("latin-1")))


def _spaced(run: list[tuple[float, float, str]]) -> str:
    """A line of code: each character in the column in which it stands."""
    letters = [(left, right, character) for left, right, character in run if character != " "]
    width = statistics.median(right - left for left, right, _ in letters) or 1.0
    out = ""
    for left, _, character in letters:
        column = round((left - letters[0][0]) / width)
        out += " " * (column - len(out)) + character
    return out


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
                    last.code + glue + piece.code if last.code and piece.code else "",
                )  # fmt: skip
                continue
        rows.append(piece)
    return rows


def in_order(drawn: list[Line]) -> list[Line]:
    """Lines as they were drawn, or by their places where so more of them follow the line above.

    Most programs draw as one reads, cells of tables included, which no gutter tells from columns.
    """
    placed = reading_order(drawn)
    return placed if _num_followed(placed) > _num_followed(drawn) else drawn


def _num_followed(lines: list[Line]) -> int:
    """How many lines are followed by the one that stands right below them."""
    count = 0
    for above, below in itertools.pairwise(lines):
        height = max(above.top - above.bottom, 1.0)
        shared = min(above.right, below.right) - max(above.left, below.left)
        near = -0.5 * height < above.bottom - below.top < 1.2 * height
        count += near and shared > 0.5 * min(above.right - above.left, below.right - below.left)
    return count


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
    """Lines to text: a gap, an indent or another letter size starts a paragraph, a cut word is joined.

    Args:
        lines: in reading order; None where a page ends.
    """
    leading = _leading(lines)
    parts: list[str] = []  # finished paragraphs and blocks of code
    paragraph: list[Line] = []
    code: list[Line] = []
    last: Line | None = None
    for line in lines:
        if line is None:
            continue
        if line.code and (code or _begins_code(last, line)):
            if paragraph:
                parts.append(_joined(paragraph))
                paragraph = []
            code.append(line)
        else:
            if code:
                parts.append(_code_block(code))
                code = []
            elif last is not None and paragraph and _new_paragraph(paragraph, line, leading):
                parts.append(_joined(paragraph))
                paragraph = []
            paragraph.append(line)
        last = line
    if code or paragraph:
        parts.append(_code_block(code) if code else _joined(paragraph))
    return "\n\n".join(parts)


def _joined(paragraph: list[Line]) -> str:
    text = paragraph[0].text
    for last, line in itertools.pairwise(paragraph):
        text = text[:-1] + line.text if _cut_word(last, line) else f"{text} {line.text}"
    return text


def _cut_word(last: Line, line: Line) -> bool:
    return bool(re.search(r"[a-zà-ÿ]-$", last.text) and re.match(r"[a-zà-ÿ]", line.text))


def _leading(lines: list[Line | None]) -> float:
    """The usual distance between the lower edge of a line and the upper edge of the next, in line heights."""
    pairs = itertools.pairwise(lines)
    gaps = [(a.bottom - b.top) / max(a.top - a.bottom, 1.0) for a, b in pairs if a is not None and b is not None]
    near = [gap for gap in gaps if -0.5 < gap < 0.8]
    return statistics.median(near) if near else 0.2


def _new_paragraph(paragraph: list[Line], line: Line, leading: float) -> bool:
    last = paragraph[-1]
    height = max(last.top - last.bottom, 1.0)
    gap = (last.bottom - line.top) / height
    if gap < -3:  # the top of the next column or page goes on with the sentence
        return bool(re.search(r"[.!?:]$", last.text)) and not re.match(r"[a-zà-ÿ,;)]", line.text)
    shift = (line.left - last.left) / height
    if gap > leading + 0.35 or abs((line.top - line.bottom) / height - 1) > 0.35:
        return True
    if len(paragraph) == 1:  # a first line may hang out to the left or be indented
        return shift > 1.2 and bool(re.search(r"[.!?:]$", last.text))
    return abs(shift) > 1.0


def _begins_code(last: Line | None, line: Line) -> bool:
    """Whether a line in a typewriter face is a block's first, not the end of a sentence that named something."""
    if last is None or last.code:
        return True
    height = max(line.top - line.bottom, 1.0)
    return not 0 <= (last.bottom - line.top) / height < 0.25 or bool(re.search(r"[.!?:]$", last.text))


def _code_block(lines: list[Line]) -> str:
    """Fenced code, indented as it stands; one name by itself is a paragraph."""
    if len(lines) == 1 and not re.search(r"[=(){};\[\]]|>>>|^\$ ", lines[0].code):
        return lines[0].text
    widths = [(line.right - line.left) / len(line.code) for line in lines if line.code.strip()]
    width = statistics.median(widths) or 1.0
    margin = min(line.left for line in lines)
    rows = []
    for number, line in enumerate(lines):
        if number:
            blank = (lines[number - 1].bottom - line.top) / max(line.top - line.bottom, 1.0)
            rows += [""] if 0.7 < blank < 3 else []
        rows.append(" " * round((line.left - margin) / width) + line.code)
    text = "\n".join(rows)
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall(r"`{3,}", text)), default=0))
    return f"{fence}\n{text}\n{fence}"
