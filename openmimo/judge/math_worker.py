"""The maths side of a judge, a process of its own: `python -m openmimo.judge.math_worker FD`; `math_pool.py` starts it.

It has a single thread, imports math-verify once and forks the processes that compare. Two lanes: a comparison begins
in the fast lane, `num_workers` wide. One that takes longer than `fast_s` goes on in the slow lane and another process
takes its place, so that no answer holds up the others. The slow lane has what the fast one leaves free, at least one
turn in `_TURNS`, and there those that have used least go on while the others are paused: an honest answer that takes
half a second passes hostile ones that never end. The lane keeps `_KEPT` times `num_workers`; where one more comes, the
one that has used most is ended and begins anew later, until all its tries together have used up the limit. A fresh
process takes ten times as long over its first answers, because the parser learns its grammar as it reads. So one that
has finished compares again, and the worker itself repeats the first `_LEARNT` comparisons that a process has found
harmless, for those it forks later.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections import deque
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait

from openmimo.judge.verifier import MAX_REDONE, Child, Compare, Result, Verifier, load, of_lost, out_of_time

_MAX_ASKED = 500  # comparisons a process: what it caches does not grow for ever
_KEPT = 8
_TURNS = 5
_LEARNT = 150
_TURN_S = 0.05  # how long a slow comparison goes on before it is asked who has used least
_STARVED_S = 120.0  # on the clock, and beyond the limit: then the machine is at fault, not the answer


@dataclass(frozen=True)
class MathConfig:
    """How a maths worker compares."""

    num_workers: int
    """Processes in the fast lane."""
    wall_s: float
    """Limit of one comparison, in seconds, less the time that it waited for a core."""
    memory_bytes: int
    """Limit of the data of a process that compares."""
    function: str = ""
    """`module:function` of a user's verifier; math-verify if empty."""
    fast_s: float = 0.1
    """Seconds, counted likewise, after which a comparison leaves the fast lane. # ours"""


@dataclass
class Job:
    """A comparison to make."""

    number: int
    gold: str
    answer: str
    num_lost: int = 0
    """Processes that died over it."""
    used_s: float = 0.0
    """Seconds that its earlier tries have used."""


@dataclass(eq=False)
class Run:
    """A comparison in progress."""

    job: Job
    child: Child
    slow: bool

    @property
    def used_s(self) -> float:
        """Seconds used, earlier tries included."""
        return self.job.used_s + self.child.used_s()


def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the pool ends us by closing the connection
    with Connection(int(sys.argv[1])) as caller:
        try:
            config: MathConfig = caller.recv()
            fault = _self_check(config)
            caller.send((-1, ("internal_error" if fault else "accepted", fault)))
            Lanes(config, caller, fault).run()
        except (EOFError, ConnectionResetError, BrokenPipeError):
            os._exit(0)  # the caller is gone; the children die with us


def _self_check(config: MathConfig) -> str:
    """What is missing or broken, in one line; "" if the verifier works."""
    try:
        with Verifier(
            wall_s=max(config.wall_s, 5.0), memory_bytes=config.memory_bytes, function=config.function
        ) as verifier:
            verifier.self_check()
    except ValueError as error:
        return str(error)
    return ""


class Lanes:
    """Jobs in, verdicts out; the processes that compare between them.

    Args:
        caller: gives (number, gold, answer) and takes (number, (status, detail)).
        fault: what the self-check found; then it is the answer to everything.
    """

    def __init__(self, config: MathConfig, caller: Connection, fault: str) -> None:
        self.config = config
        self.caller = caller
        self.fault = fault
        self._compare: Compare | None = None if fault else load(config.function)
        self._waiting: tuple[deque[Job], deque[Job]] = (deque(), deque())
        self._runs: list[Run] = []
        self._idle: list[Child] = []
        self._num_learnt = 0

    def run(self) -> None:
        """Until the caller closes the connection.

        Raises:
            EOFError: then.
        """
        while True:
            self._begin()
            paused = self._share()
            busy: dict[object, Run] = {run.child.fileno(): run for run in self._runs}
            left_s = [max(0.0, self._limit_s(run) - run.used_s) for run in self._runs if run not in paused]
            left_s += [_TURN_S] if paused else []
            left_s += [max(0.0, _STARVED_S + self.config.wall_s - run.child.wall_s()) for run in self._runs]
            fds = [self.caller.fileno(), *(run.child.fileno() for run in self._runs)]
            for fd in wait(fds, min(left_s, default=None)):
                if fd == self.caller.fileno():
                    self._take()
                else:
                    self._collect(busy[fd])
            for run in list(self._runs):
                if run in self._runs and run.used_s >= self._limit_s(run):
                    self._overdue(run)
                elif run in self._runs and run.child.wall_s() >= _STARVED_S + self.config.wall_s:
                    self._runs.remove(run)
                    run.child.kill()
                    self._tell(run.job, Result("internal_error", f"no core in {run.child.wall_s():.0f} s"))

    def _take(self) -> None:
        while self.caller.poll():
            job = Job(*self.caller.recv())
            if self.fault:
                self.caller.send((job.number, ("internal_error", self.fault)))
            else:
                self._waiting[False].append(job)

    def _begin(self) -> None:
        for slow, width in ((False, self.config.num_workers), (True, _KEPT * self.config.num_workers)):
            while self._waiting[slow] and sum(run.slow == slow for run in self._runs) < width:
                job = self._waiting[slow].popleft()
                child = self._idle_or_new(job.gold)
                child.ask(job.gold, job.answer)
                self._runs.append(Run(job, child, slow))

    def _share(self) -> list[Run]:
        """Let slow comparisons go on, those that have used least, as far as there is room; the others, paused."""
        # To a tenth of a second; among equals the newest, which has had the least time to be hostile.
        slow = sorted((run for run in self._runs if run.slow), key=lambda run: (int(10 * run.used_s), -run.job.number))
        room = self.config.num_workers - (len(self._runs) - len(slow))
        if room <= 0:
            room = int(time.monotonic() / _TURN_S) % _TURNS == 0
        for run in slow[:room]:
            run.child.resume()
        for run in slow[room:]:
            run.child.pause()
        return slow[room:]

    def _collect(self, run: Run) -> None:
        try:
            result = run.child.read()
        except EOFError:
            self._lost(run)
            return
        if result is None:
            return
        self._runs.remove(run)
        self._learn(run)
        run.child.resume()  # it may have answered just before it was paused
        enough = len(self._idle) >= self.config.num_workers
        if enough or not result.reusable or run.child.num_asked >= _MAX_ASKED:
            run.child.kill()
        else:
            self._idle.append(run.child)
        self._tell(run.job, result)

    def _learn(self, run: Run) -> None:
        """Make the answers of processes to come quicker; never what was slow, or is the user's own to compare."""
        harmless = not run.slow and run.child.used_s() < self.config.fast_s / 2 and len(run.job.answer) < 200
        if harmless and not self.config.function and self._num_learnt < _LEARNT:
            assert self._compare is not None
            self._num_learnt += 1
            self._compare(run.job.gold, run.job.answer)

    def _overdue(self, run: Run) -> None:
        """Out of the fast lane, or out of time."""
        if run.slow:
            self._runs.remove(run)
            run.child.kill()
            self._tell(run.job, out_of_time(self.config.wall_s))
            return
        slow = [other for other in self._runs if other.slow]
        if len(slow) >= _KEPT * self.config.num_workers:
            longest = max(slow, key=lambda other: other.used_s)
            self._runs.remove(longest)
            longest.job.used_s = longest.used_s
            longest.child.kill()
            self._waiting[True].append(longest.job)
        run.slow = True

    def _lost(self, run: Run) -> None:
        """A process died in the middle of a comparison: do it again, but not for ever."""
        self._runs.remove(run)
        wait_status = run.child.kill()
        run.job.num_lost += 1
        if run.job.num_lost > MAX_REDONE:
            self._tell(run.job, Result(*of_lost(wait_status)))
        else:
            self._waiting[run.slow].appendleft(run.job)

    def _tell(self, job: Job, result: Result) -> None:
        self.caller.send((job.number, (result.status, result.detail)))

    def _limit_s(self, run: Run) -> float:
        return self.config.wall_s if run.slow else min(self.config.fast_s, self.config.wall_s)

    def _idle_or_new(self, gold: str) -> Child:
        """Rather the one that has parsed this gold answer."""
        if not self._idle:
            assert self._compare is not None
            return Child(self._compare, self.config.memory_bytes)
        child = next((child for child in self._idle if child.last_gold == gold), self._idle[-1])
        self._idle.remove(child)
        return child


if __name__ == "__main__":
    main()
