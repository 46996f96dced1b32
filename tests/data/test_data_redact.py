"""Redaction: what goes, and what looks like it and stays."""

import time

import pytest

from openmimo.data.redact import KINDS, redact

GOES = {
    "email": ["ann.lee@example.org", "a_b+c%d@mail.example.co.uk", "büro@firma.de"],
    "phone": [
        "+49 30 1234567",
        "+1 (415) 555-0134",
        "(415) 555-0134",
        "415-555-0134",
        "415.555.0134",
        "+4915112345678",
    ],
    "card": ["4111 1111 1111 1111", "4111-1111-1111-1111", "378282246310005"],
    "ip": ["8.8.8.8", "2001:4860:4860::8888", "2606:4700:4700:0:0:0:0:1111"],
}
STAYS = [
    "x @ y", "user@localhost", "@decorator", "a@b",  # no domain of two labels
    "4111 1111 1111 1112", "0000 0000 0000 0000", "3.14159265358979323",  # no card: Luhn, one digit, a number
    "127.0.0.1", "192.168.0.1", "10.1.2.3", "::1", "fe80::1", "1.2.3", "1.2.3.4.5", "300.1.1.1", "12:30:45",
    "4155550134", "2024-11-28", "1,234,567", "x = 415-555", "E[X] = +12 34", "std::vector<int>", "100-200-300",
    "ISBN 978-3-16-148410-0", "$a_1 + 555 - 0134$",
]  # fmt: skip


@pytest.mark.parametrize(("kind", "value"), [(kind, value) for kind, values in GOES.items() for value in values])
def test_personal_data_goes_and_the_sentence_around_it_stays(kind: str, value: str) -> None:
    for text in ("Write to {}, or call.", "({})", "{}", "It is {}."):
        assert redact(text.format(value), tuple(KINDS)) == (text.format(f"<{kind}>"), {kind: 1})


@pytest.mark.parametrize("value", STAYS)
def test_what_only_looks_like_personal_data_stays(value: str) -> None:
    assert redact(f"We have {value} here.", tuple(KINDS)) == (f"We have {value} here.", {})


def test_only_the_kinds_that_are_asked_for_go() -> None:
    text = "ann@example.org at 8.8.8.8, ann@example.org"
    assert redact(text, ()) == (text, {})
    assert redact(text, ("ip",)) == ("ann@example.org at <ip>, ann@example.org", {"ip": 1})
    assert redact(text, ("email",)) == ("<email> at 8.8.8.8, <email>", {"email": 2})
    with pytest.raises(ValueError, match="'name' cannot be redacted, card, email, ip, phone can"):
        redact(text, ("name",))


@pytest.mark.parametrize("piece", ["a.", "a@", "1 ", "1-", "+1 ", "1.", "a:", "(111) ", "@a.", "0:"])
def test_no_text_takes_long(piece: str) -> None:
    started = time.process_time()
    redact(piece * 200_000, tuple(KINDS))
    assert time.process_time() - started < 5
