"""What a page's source names, compiled and in Python."""

import random

import pytest

from openmimo.data.pages.source_names import lines, python_lines, source_names

SOURCE = (
    b"<p class='a b\ta'><P CLASS=c ID=\"x y\"><i data-class=no hid=no data-id=no class><b Rel='nofollow license'>"
    b'<b data-testid=t slot="s" data-test-id=u itemtype="https://schema.org/Question" class= d href=\'class=e\'>'
    b'<script>f(\'class="in-script"\')</script><p class="b" id=\'\'><p id="never closed'
)


def test_classes_stand_word_by_word_other_values_whole_and_each_once() -> None:
    assert source_names(SOURCE).splitlines() == [
        "a", "b", "c", "x y", "rel=nofollow license", "data-testid=t", "slot=s", "data-test-id=u",
        "itemtype=https://schema.org/Question", "d", "e", "in-script", "never closed",
    ]  # fmt: skip
    assert source_names(b"") == source_names(b"class=") == source_names(b"=") == source_names(b"class=''") == ""


@pytest.mark.skipif(lines is python_lines, reason="not compiled")
def test_compiled_and_python_find_equal_lines() -> None:
    rng = random.Random(0)
    words = [b"class", b"CLASS", b"id", b"data-", b"test", b"-", b"testid", b"test-id", b"itemtype", b"slot", b"rel",
             b"=", b"=", b" ", b"\n", b'"', b"'", b">", b"<a", b"x", b"\x0b", b"_", b"\xff", b"\0"]  # fmt: skip
    for source in (SOURCE, *(b"".join(rng.choices(words, k=rng.randint(0, 24))) for _ in range(5_000))):
        assert lines(source) == python_lines(source), source
    many = b"".join(b"<p class=c%d id=c%d>" % (i, i % 1000) for i in range(20_000))  # the table has to grow
    assert lines(many) == python_lines(many)
