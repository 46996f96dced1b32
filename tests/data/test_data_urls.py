"""URL canonicalisation, by example and by law."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openmimo.data.urls import canonical_url


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("https://Example.com:443/a/", "http://example.com/a"),
        ("http://www.example.com/index.html", "http://example.com/"),
        ("http://a.com/p?utm_source=x&b=2&a=1&fbclid=z#top", "http://a.com/p?a=1&b=2"),
        ("http://a.com/p;jsessionid=ABC123?x=1", "http://a.com/p?x=1"),
        ("http://a.com/t.php?PHPSESSID=abc&t=3", "http://a.com/t.php?t=3"),
        ("http://a.com/?sid=0123456789abcdef0123", "http://a.com"),
        ("http://a.com/x/../y/./z", "http://a.com/y/z"),
        ("http://a.com/%7euser/%c3%bc", "http://a.com/~user/ü"),
        ("http://bücher.de/", "http://xn--bcher-kva.de"),
    ],
)
def test_copies_meet(one: str, other: str) -> None:
    assert canonical_url(one) == canonical_url(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("http://a.com/A", "http://a.com/a"),
        ("http://a.com/?id=1", "http://a.com/?id=2"),
        ("http://a.com:8080/", "http://a.com/"),
        ("http://a.com/?s=minhash", "http://a.com/?s=simhash"),
        ("http://a.com/a%2Fb", "http://a.com/a/b"),
        ("notes/a.html", "notes/b.html"),
    ],
)
def test_different_pages_do_not(one: str, other: str) -> None:
    assert canonical_url(one) != canonical_url(other)


@given(
    st.text(max_size=60)
    | st.from_regex(r"https?://[a-z%.:@\[\]0-9]{0,12}/[a-zA-Z%0-9./;=?&#+ü-]{0,30}", fullmatch=True)
)
def test_canonical_twice_is_canonical_once(url: str) -> None:
    once = canonical_url(url)
    assert canonical_url(once) == once
