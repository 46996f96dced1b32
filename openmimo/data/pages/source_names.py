"""What the source of a page names: its classes, ids and the like, before anything is searched in it (MiMo 2.1).

A fiftieth of the page in size. What a page does not name needs no search through its elements, which costs far more.
Scripts and comments are read along, so that a name may be found which no element bears. Compiled C (`_source.c`), or
Python where it has not been built: equal lines.
"""

from __future__ import annotations

import re

_NAMES = ("class", "id", "data-testid", "data-test-id", "itemtype", "slot", "rel")
_ONE_NAME = "|".join(rf"(?<=(?<![\w-])({name})=)" for name in _NAMES)
_VALUES = re.compile(rf"=(?:{_ONE_NAME})\s*(?:\"([^\"]*)|'([^']*)|([^\s>\"']+))".encode(), re.IGNORECASE)


def source_names(source: bytes) -> str:
    """Every class and id, a line each, and `rel=value` and the like for other attributes, each once, in order.

    Args:
        source: the page's markup, UTF-8.
    """
    return lines(source).decode("utf-8", "replace")


def python_lines(source: bytes) -> bytes:
    """The lines, without a compiler."""
    found: dict[bytes, None] = {}
    for *names, double, single, bare in _VALUES.findall(source):
        name, value = b"".join(names).lower(), double or single or bare
        if name == b"class":
            found.update(dict.fromkeys(value.split()))
        else:
            found[value if name == b"id" else name + b"=" + value] = None
    return b"".join(line + b"\n" for line in found if line)


try:
    from openmimo.data.pages._source import source_names as lines
except ImportError:
    lines = python_lines
