"""The compiled kernels that training uses on a CPU: see `_kernels.c`."""

from __future__ import annotations

import functools
from typing import Any

from openmimo.log import say


@functools.cache
def kernels() -> Any:
    """The compiled module, or None, said once, where it has not been built."""
    try:
        from openmimo.model import _kernels
    except ImportError:
        say(
            "training: the compiled kernels are missing, so PyTorch's own are used: slower; install a C compiler and "
            "run `pip install .` again"
        )
        return None
    return _kernels
