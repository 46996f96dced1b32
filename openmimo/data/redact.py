"""Personal data in a text replaced by its kind: e-mail addresses, phone numbers, payment cards, public IP addresses.

What must not be hit decides the rules: a card has a valid Luhn digit, an IP address is one that the internet routes
(127.0.0.1 and 192.168.0.1 stay), a phone number is written as one (`+49 30 1234567`, `(415) 555-0134`, `415-555-0134`;
plain digits stay, as do numbers that go on). Names and postal addresses are left: they take a model. Off by default.
"""

from __future__ import annotations

import ipaddress
import re
from collections import Counter
from collections.abc import Callable, Sequence

# An address has one @ and a domain of two labels or more. The local part is bounded, so that no text takes long.
_EMAIL = r"(?<![\w.%+-])[\w.%+-]{1,64}@(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.){1,8}[A-Za-z]{2,24}(?![\w-])"
_CARD = r"(?<![\w.,/=+-])\d(?:[ -]?\d){12,18}(?![\w-]|[.,]\d)"
_PHONE = (
    r"(?<![\w.,/=+-])(?:\+\d{1,3}[ .-]?(?:\(\d{1,4}\)[ .-]?)?\d{1,4}(?:[ .-]?\d{2,4}){1,4}"
    r"|\(\d{3}\) ?\d{3}[ .-]\d{4}|\d{3}([.-])\d{3}\1\d{4})(?![\w/=-]|[.,]\d)"
)
_IPV4 = r"(?<![\w.-])\d{1,3}(?:\.\d{1,3}){3}(?![\w-]|\.\d)"
_IPV6 = r"(?<![\w:.])(?:[0-9A-Fa-f]{0,4}:){2,7}[0-9A-Fa-f]{0,4}(?![\w:])"


def _luhn(digits: str) -> bool:
    doubled = (int(d) * 2 for d in digits[-2::-2])
    return (sum(map(int, digits[::-2])) + sum(d - 9 if d > 9 else d for d in doubled)) % 10 == 0


def _is_card(found: str) -> bool:
    digits = re.sub(r"\D", "", found)
    return len(set(digits)) > 1 and _luhn(digits)


def _is_phone(found: str) -> bool:
    return 8 <= sum(c.isdigit() for c in found) <= 15


def _is_public(found: str) -> bool:
    try:
        return ipaddress.ip_address(found).is_global
    except ValueError:
        return False


KINDS: dict[str, tuple[re.Pattern[str], Callable[[str], bool]]] = {
    "email": (re.compile(_EMAIL), lambda found: True),
    "card": (re.compile(_CARD), _is_card),
    "ip": (re.compile(f"{_IPV4}|{_IPV6}"), _is_public),
    "phone": (re.compile(_PHONE), _is_phone),
}
"""By kind, in the order of the search: what may be one, and whether it is. Each is replaced by `<kind>`."""


def redact(text: str, kinds: Sequence[str]) -> tuple[str, dict[str, int]]:
    """The text without personal data of these kinds, and how many of each were replaced.

    Raises:
        ValueError: for an unknown kind.
    """
    check_kinds(kinds)
    counts: Counter[str] = Counter()

    for kind, (pattern, is_one) in KINDS.items():
        if kind not in kinds:
            continue

        def replaced(match: re.Match[str], kind: str = kind, is_one: Callable[[str], bool] = is_one) -> str:
            if not is_one(match.group()):
                return match.group()
            counts[kind] += 1
            return f"<{kind}>"

        text = pattern.sub(replaced, text)
    return text, dict(counts)


def check_kinds(kinds: Sequence[str]) -> None:
    """Refuse what is no kind of personal data that is known here.

    Raises:
        ValueError: with the kind and those that there are.
    """
    for kind in kinds:
        if kind not in KINDS:
            raise ValueError(f"{kind!r} cannot be redacted, {', '.join(sorted(KINDS))} can")
