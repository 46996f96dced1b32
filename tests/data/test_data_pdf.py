"""The text layer of small hand-written PDFs: columns, hyphens, paragraphs, running heads."""

import pytest

from openmimo.data.pages.extract import extract
from openmimo.data.pages.pdf import pdf_text
from openmimo.data.read import Page
from openmimo.types import Document

WORDS = [letter * 5 for letter in "abcdefghijklmnopqrstuvwxyz"]


def pdf(*pages: list[tuple[float, float, str]], title: str = "") -> bytes:
    """A PDF of text runs (x, y from the lower left, text) in 10 point Helvetica."""
    objects = [b"<< /Type /Catalog /Pages 2 0 R >>", b"", b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>"]
    kids = []
    for runs in pages:
        content = "".join(f"BT /F1 10 Tf {x} {y} Td ({text}) Tj ET\n" for x, y, text in runs).encode("latin-1")
        objects.append(b"<< /Length %d >>\nstream\n%s\nendstream" % (len(content), content))
        objects.append(
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents %d 0 R "
            b"/Resources << /Font << /F1 3 0 R >> >> >>" % len(objects)
        )
        kids.append(b"%d 0 R" % len(objects))
    objects[1] = b"<< /Type /Pages /Kids [%s] /Count %d >>" % (b" ".join(kids), len(kids))
    objects.append(b"<< /Title (%s) >>" % title.encode())
    out, places = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, 1):
        places.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    start = len(out)
    out += b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1)
    out += b"".join(b"%010d 00000 n \n" % place for place in places)
    out += b"trailer << /Size %d /Root 1 0 R /Info %d 0 R >>\nstartxref\n%d\n%%%%EOF" % (
        len(objects) + 1,
        len(objects),
        start,
    )
    return out


def test_lines_join_to_paragraphs_and_cut_words_to_words() -> None:
    runs = [
        (72, 700, "The first para-"),
        (72, 688, "graph goes on"),
        (72, 676, "to its end."),
        (72, 640, "The second is short."),
    ]
    assert pdf_text(pdf(runs, title="A paper")) == (
        "A paper",
        "The first paragraph goes on to its end.\n\nThe second is short.",
    )


def test_two_columns_are_read_one_after_the_other() -> None:
    left = [(72, 700 - 12 * i, f"left line number {i} of the page") for i in range(5)]
    right = [(330, 700 - 12 * i, f"right line number {i} of the page") for i in range(5)]
    mixed = [run for pair in zip(left, right, strict=True) for run in pair]
    _, text = pdf_text(
        pdf([(72, 750, "A headline over both of the columns, as wide as the whole page of the paper is"), *mixed])
    )
    words = text.replace("\n\n", " ")
    assert words.startswith("A headline")
    order = [words.index(f"{side} line number {i}") for side in ("left", "right") for i in range(5)]
    assert order == sorted(order)


def test_running_heads_and_page_numbers_go() -> None:
    pages = [
        [
            (72, 760, "Journal of Tests"),
            *[(72, 700 - 12 * i, f"{WORDS[(7 * p + i) % 26]} is said in line {i} of {p}") for i in range(6)],
            (300, 30, str(p)),
        ]
        for p in range(1, 5)
    ]
    _, text = pdf_text(pdf(*pages))
    assert "Journal" not in text and all(f"in line {i} of {p}" in text for p in range(1, 5) for i in range(6))
    assert not any(line.strip().isdigit() for line in text.split("\n"))


def test_a_pdf_page_becomes_a_document() -> None:
    page = Page("http://a.b/p.pdf", pdf([(72, 700, "Hello there, reader of papers.")]), "application/pdf", "pdf")
    document = extract(page)
    assert (
        isinstance(document, Document)
        and document.text == "Hello there, reader of papers."
        and document.source == "pdf"
    )


def test_a_torn_pdf_is_an_error() -> None:
    with pytest.raises(Exception, match="Failed to load document"):
        pdf_text(b"%PDF-1.4\n%%EOF")


def test_overlapping_letters_are_read_once() -> None:
    runs = [(72, 700, "V"), (77, 700, "alue of Var"), (72, 688, "and more")]
    assert pdf_text(pdf(runs))[1] == "Value of Var and more"


def test_lines_in_a_typewriter_face_are_code_with_its_indentation() -> None:
    code = [(72, 600, "def f(x):"), (96, 588, "if x:"), (120, 576, "return 1"), (72, 540, "f(2)")]
    content = pdf([(72, 640, "Look at this:")], [(72, 640, "x")]).replace(
        b"BT /F1 10 Tf 72 640 Td (x) Tj ET\n",
        b"".join(b"BT /F2 10 Tf %d %d Td (%s) Tj ET\n" % (x, y, t.encode()) for x, y, t in code),
    )
    content = content.replace(b"/F1 3 0 R >>", b"/F1 3 0 R /F2 << /Type /Font /Subtype /Type1 /BaseFont /Courier >> >>")
    text = pdf_text(content)[1]
    assert text == "Look at this:\n\n```\ndef f(x):\n    if x:\n        return 1\n\nf(2)\n```"


def test_a_paragraph_goes_on_over_columns_and_a_heading_stands_alone() -> None:
    left = [(72, 700 - 12 * i, f"left line {i} of the running text here") for i in range(4)]
    right = [(330, 700 - 12 * i, f"right line {i} of the running text here") for i in range(4)]
    text = pdf_text(pdf([(72, 740, "A heading"), *left, *right]))[1]
    heading, body = text.split("\n\n")
    assert (
        heading == "A heading"
        and body.startswith("left line 0")
        and body.endswith("right line 3 of the running text here")
    )


def test_cells_of_a_table_are_read_as_drawn() -> None:
    cells = [(72, 700, "first cell of"), (72, 688, "two lines"), (250, 700, "second cell"), (72, 660, "third cell of"),
             (72, 648, "two lines"), (250, 660, "fourth cell of"), (250, 648, "two lines")]  # fmt: skip
    text = " ".join(pdf_text(pdf(cells))[1].split())
    assert text == "first cell of two lines second cell third cell of two lines fourth cell of two lines"


def test_more_text_than_allowed_is_no_document(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("openmimo.data.pages.pdf.MAX_CHARACTERS", 20)
    with pytest.raises(ValueError, match="more than 20 characters"):
        pdf_text(pdf([(72, 700, "twenty-one characters and more")]))
