"""What the judge has to know of a language."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Language:
    """How a solution becomes something that runs."""

    name: str
    """In `Problem.language`."""
    suffixes: tuple[str, ...]
    """Of its source files."""
    compiler: tuple[str, ...] = ()
    """Command of the compiler; `{source}` and `{binary}` stand for file names, `{headers}` for the folder of
    precompiled ones. Empty: the zygote's Python compiles and runs it."""
    header: str = ""
    """A header worth precompiling, as it is included; "" for none."""
    header_compiler: tuple[str, ...] = ()
    """Command that precompiles it."""
    profile: Callable[[str], str] = lambda source: "base"
    """What should be imported before such a source starts: a profile of `sandbox/zygote.py`."""
