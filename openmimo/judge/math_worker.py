"""The maths side of a judge, a process of its own: `python -m openmimo.judge.math_worker FD`; `math_pool.py` starts it.

It has a single thread, imports math-verify once and forks the processes that compare. Two lanes: a comparison begins
in the fast lane, `num_workers` wide. One that takes longer than `fast_s` goes on in the slow lane, at a low
priority, and a new process takes its place, so that no answer holds up the others. The slow lane has room for
`_SLOW_WIDTH` times as many; where one more comes, the one that has run longest is ended, waits, and begins anew.
"""

from __future__ import annotations

import os
import signal
import sys
from collections import deque
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait

from openmimo.judge.verifier import MAX_REDONE, Child, Compare, Result, Verifier, load, of_lost, out_of_time

_MAX_ASKED = 500  # comparisons a process: what it caches does not grow for ever
_SLOW_NICE = 15  # 4 of these take 7 % of two cores from the fast lane
_SLOW_WIDTH = 2
_STARVED = 12  # times the limit, on the clock: then the machine is at fault, not the answer


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
    fast_s: float = 0.15
    """Seconds, counted likewise, after which a comparison leaves the fast lane. # ours: 99 % need less"""


@dataclass
class Job:
    """A comparison to make."""

    number: int
    gold: str
    answer: str
    num_lost: int = 0
    """Processes that died over it."""


@dataclass(eq=False)
class Run:
    """A comparison in progress."""

    job: Job
    child: Child
    slow: bool


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

    def run(self) -> None:
        """Until the caller closes the connection.

        Raises:
            EOFError: then.
        """
        while True:
            self._begin()
            busy: dict[object, Run] = {run.child.fileno(): run for run in self._runs}
            left_s = [max(0.0, self._limit_s(run) - run.child.used_s()) for run in self._runs]
            left_s += [max(0.0, _STARVED * self.config.wall_s - run.child.wall_s()) for run in self._runs]
            fds = [self.caller.fileno(), *(run.child.fileno() for run in self._runs)]
            for fd in wait(fds, min(left_s, default=None)):
                if fd == self.caller.fileno():
                    self._take()
                else:
                    self._collect(busy[fd])
            for run in list(self._runs):
                if run in self._runs and run.child.used_s() >= self._limit_s(run):
                    self._overdue(run)
                elif run in self._runs and run.child.wall_s() >= _STARVED * self.config.wall_s:
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
        for slow, width in ((False, self.config.num_workers), (True, _SLOW_WIDTH * self.config.num_workers)):
            while self._waiting[slow] and sum(run.slow == slow for run in self._runs) < width:
                job = self._waiting[slow].popleft()
                child = self._new(slow=True) if slow else self._idle_or_new(job.gold)
                child.ask(job.gold, job.answer)
                self._runs.append(Run(job, child, slow))

    def _collect(self, run: Run) -> None:
        try:
            result = run.child.read()
        except EOFError:
            self._lost(run)
            return
        if result is None:
            return
        self._runs.remove(run)
        if run.slow or not result.reusable or run.child.num_asked >= _MAX_ASKED:
            run.child.kill()
        else:
            self._idle.append(run.child)
        self._tell(run.job, result)

    def _overdue(self, run: Run) -> None:
        """Out of the fast lane, or out of time."""
        if run.slow:
            self._runs.remove(run)
            run.child.kill()
            self._tell(run.job, out_of_time(self.config.wall_s))
            return
        slow = [other for other in self._runs if other.slow]
        if len(slow) >= _SLOW_WIDTH * self.config.num_workers:
            longest = max(slow, key=lambda other: other.child.used_s())
            self._runs.remove(longest)
            longest.child.kill()
            self._waiting[True].append(longest.job)
        run.slow = True
        _lower(run.child)

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
            return self._new(slow=False)
        child = next((child for child in self._idle if child.last_gold == gold), self._idle[-1])
        self._idle.remove(child)
        return child

    def _new(self, *, slow: bool) -> Child:
        assert self._compare is not None
        child = Child(self._compare, self.config.memory_bytes)
        if slow:
            _lower(child)
        return child


def _lower(child: Child) -> None:
    try:
        os.setpriority(os.PRIO_PROCESS, child.pid, _SLOW_NICE)
    except ProcessLookupError:
        pass  # it died; the next read says so


if __name__ == "__main__":
    main()
