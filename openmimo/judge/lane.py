"""What the pool needs of a place that judges: a process here (`local.py`) or a connection to a host (`remote.py`)."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Protocol

from openmimo.types import Problem, Verdict


class Lost(Exception):
    """A process or host died with the work in hand: nobody's fault yet, so it is redone."""


@dataclass(frozen=True)
class Work:
    """One response to judge."""

    problem: Problem
    text: str
    source: bool = False
    """The text is the program itself, not a response that holds one."""
    key: str = ""
    """The same for a resend, so that a host judges it once."""
    limit_s: float = float("inf")
    """Seconds to the caller's deadline."""


class Lane(Protocol):
    """Judges one response at a time; used by one thread, but for `kill`."""

    @property
    def place(self) -> Hashable:
        """Lanes of one place fail together: a retry goes elsewhere."""

    def takes(self, problem: Problem) -> bool:
        """Whether it judges problems like this one."""

    @property
    def up(self) -> bool:
        """Whether it answered when last asked."""

    def ready(self) -> bool:
        """Whether it can take work; a host that is not up is asked, after a second."""

    def judge(self, work: Work) -> Verdict:
        """Judge.

        Raises:
            Lost: if the place died.
            TimeoutError: without an answer in `work.limit_s`, or in far longer than the work can take.
            ValueError: for a problem that cannot be judged.
            RuntimeError: if the place refuses to judge, with the reason.
        """

    def kill(self) -> None:
        """End at once, from another thread: `judge` then raises Lost."""

    def close(self) -> None:
        """End; nothing is left behind."""
