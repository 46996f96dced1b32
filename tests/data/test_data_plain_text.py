"""Markup to lines: what a reader sees, written down."""

from selectolax.lexbor import LexborHTMLParser

from openmimo.data.pages.plain_text import plain_text, text_lines


def text(body: str) -> str:
    return plain_text(LexborHTMLParser(f"<body>{body}</body>").body.html or "")


def test_headings_get_marks_and_lose_their_anchors() -> None:
    assert text('<h2>Two <a href="#x">¶</a></h2><p>a</p><h3><div>Three</div></h3>b') == "## Two\n\na\n\n### Three\n\nb"


def test_lists_nest_and_count() -> None:
    markup = "<ul><li>a<li><p>b</p><ol start=3><li>c<li>d</ol><li></li><li>e</ul>f"
    assert text(markup) == "- a\n\n- b\n\n  3. c\n  4. d\n- e\n\nf"


def test_a_row_of_a_table_is_a_line_unless_a_cell_has_lines_of_its_own() -> None:
    assert text("<table><tr><th>x<th><p>y</p><tr><td>1<td>2<td></table>") == "x | y\n1 | 2"
    layout = "<table><tr><td><p>left 1</p><p>left 2</p><td>right</table>"
    assert text(layout) == "left 1\n\nleft 2\n\nright"


def test_blanks_collapse_and_entities_are_read_once() -> None:
    assert text("<p>a\n  b&nbsp;&nbsp;c 1 &lt; 2 &amp;amp; <b>x</b>y</p>") == "a b c 1 < 2 &amp; xy"
    assert text("a<br>b<div>c</div>d") == "a\nb\nc\nd"


def test_what_is_no_text_is_left_out_and_attributes_may_hold_anything() -> None:
    assert text('<p title="a > b <p>">x<!-- no --><script>no</script><button>no</button> y</p>') == "x y"
    assert text('<a title="1>2" href="x">link</a> <custom-tag>kept</custom-tag>') == "link kept"


def test_a_line_knows_how_much_of_it_is_linked() -> None:
    lines = text_lines("<p><a href=x>1234</a>5678</p><p>plain</p><p><a>all</a></p>")
    assert [line.linked for line in lines] == [0.5, 0.0, 1.0]
