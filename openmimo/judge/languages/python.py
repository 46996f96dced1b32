"""Python: runs in a fork of a warm interpreter."""

from __future__ import annotations

import re

from openmimo.judge.languages.language import Language

_NUMPY = re.compile(r"(?:^|[;:])[ \t]*(?:from[ \t]+numpy\b|import\b[^#\n;]*\bnumpy\b)", re.MULTILINE)


def profile(source: str) -> str:
    """`numpy` for a program that imports NumPy, else `base`."""
    return "numpy" if _NUMPY.search(source) else "base"


PYTHON = Language("python", (".py",), profile=profile)
