"""What a program may use, and what its end means. Pure: the supervisor decides from facts the kernel counted."""

from __future__ import annotations

import math
import signal
from dataclasses import dataclass

from openmimo.types import Status

MEMORY_EXIT_CODE = 97
"""Exit status with which the zygote's child reports an uncaught MemoryError."""
ASSERT_EXIT_CODE = 96
"""Exit status after an assert of a test that does not hold."""
COMPILE_EXIT_CODE = 98
"""Exit status after a program that is no Python, where one process compiles and runs it."""


@dataclass(frozen=True)
class Limits:
    """Limits of one test."""

    cpu_s: float = 2.0
    """CPU seconds, user + system, of all threads."""
    wall_s: float = 6.0
    """Seconds from start to end, less those spent waiting for a core."""
    memory_bytes: int = 256 << 20
    """Peak resident memory of one process."""
    stack_bytes: int = 256 << 20
    """Allocation beyond memory_bytes that is refused only above this: stacks of threads are reserved, not used."""
    output_bytes: int = 16 << 20
    """Standard output, and standard error alike."""
    max_processes: int = 16
    """Threads of the test at once; processes too, where no filter forbids to fork."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"limit {name} must be positive and finite, got {value}")


@dataclass(frozen=True, slots=True)
class Run:
    """What the kernel counted while a program ran."""

    wait_status: int
    """As waitpid gives it."""
    cpu_s: float
    wall_s: float
    peak_bytes: int
    timed_out: bool
    """It was killed at a time limit."""
    output: bytes
    error: bytes


def failure(run: Run, limits: Limits) -> Status | None:
    """Why a run failed before anyone looked at its output, or None.

    Nothing here reads what the program printed, only how much.
    """
    killed_by = run.wait_status & 0x7F
    if len(run.output) > limits.output_bytes or len(run.error) > limits.output_bytes:
        return "output_limit"
    if run.timed_out or run.cpu_s >= limits.cpu_s or killed_by == signal.SIGXCPU:
        return "time_limit"
    if run.peak_bytes > limits.memory_bytes or run.wait_status == MEMORY_EXIT_CODE << 8:
        return "memory_limit"
    if run.wait_status != 0:
        return "runtime_error"
    return None
