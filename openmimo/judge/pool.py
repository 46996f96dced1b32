"""Many judges behind one queue: `submit(problem, text) -> Future[Verdict]` (MiMo 3.4.1, asynchronous reward).

The scheduler lives in the caller: a bounded queue, deadlines, names that make a resend safe, and work that is redone
when the process or host that had it is lost. Who judges is a lane: worker processes of this machine (`local.py`), or
connections to judges on others (`remote.py`). Maths is compared here in processes of its own (`math_pool.py`).
"""

from __future__ import annotations

import asyncio
import os
import queue
import threading
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Hashable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from types import TracebackType

from openmimo.judge.code import check_problem
from openmimo.judge.config import JudgeConfig
from openmimo.judge.lane import Lane, Lost, Work
from openmimo.judge.local import Worker
from openmimo.judge.math import quick_verdict
from openmimo.judge.math_pool import MathPool
from openmimo.types import Problem, Verdict

TOKEN_VARIABLE = "OPENMIMO_JUDGE_TOKEN"
MAX_LOST = 8
"""Times that work is redone because its worker died: enough for bad luck, and a program that kills workers comes to an
end after a few seconds."""
_REMEMBERED = 4096
_SILENCE_S = 300.0  # without a word from any host, waiting work is given up


@dataclass(eq=False)
class _Job:
    problem: Problem
    text: str
    source: bool
    key: str
    end_s: float
    """Deadline on the monotonic clock; inf for none."""
    deadline_s: float
    future: Future[Verdict]
    started: bool = False
    given: bool = False
    num_lost: int = 0
    failed: bool = False
    """An internal error has been retried."""
    avoid: Hashable = None
    """The place of that internal error."""

    def work(self) -> Work:
        key = f"{self.key}.retry" if self.failed else self.key
        return Work(self.problem, self.text, self.source, key, max(0.0, self.end_s - time.monotonic()))


class JudgePool:
    """Judges behind a queue. Use it as a context manager; leaving it by an exception ends everything at once.

    A worker or zygote that dies is replaced and its work redone, at most `MAX_LOST` times; an `internal_error` is
    retried once, by another worker where there is one. Verdicts that need neither a program nor algebra are given at
    once, in the caller's thread. A worker is started with the first work that needs it.

    Args:
        num_workers: processes; the config's figure if None. Without meaning where there are hosts.
        hosts: addresses of `openmimo judge serve`; the config's if None, and with none the judging is done here.
        token: of these hosts; the environment's OPENMIMO_JUDGE_TOKEN if None.

    Raises:
        ValueError: for wrong figures, or hosts of which none answers or one refuses the token.
    """

    def __init__(
        self,
        num_workers: int | None = None,
        config: JudgeConfig | None = None,
        *,
        hosts: Sequence[str] | None = None,
        token: str | None = None,
    ) -> None:
        self.config = config or JudgeConfig()
        count = self.config.num_workers if num_workers is None else num_workers
        if count < 1:
            raise ValueError(f"a judge pool needs at least 1 worker, got {count}")
        if self.config.queue_size < 1:
            raise ValueError(f"queue_size must be at least 1, got {self.config.queue_size}")
        _ = self.config.limits  # refuse bad limits here, not in a worker
        self.counts: Counter[tuple[str, str]] = Counter()
        """Verdicts given, by kind of problem and status."""
        self.num_redone = 0
        """Times that work was redone because a worker or host was lost."""
        hosts = self.config.hosts if hosts is None else hosts
        self._lanes = self._open_lanes(count, hosts, token)
        self._change = threading.Condition()
        self._waiting: deque[_Job] = deque()
        self._comparing: set[_Job] = set()
        self._num_workers = count
        self._math = (
            None
            if hosts
            else MathPool(
                count,
                wall_s=self.config.math_wall_s,
                memory_bytes=self.config.math_memory_bytes,
                function=self.config.verifier,
            )
        )
        self._running: set[_Job] = set()
        self._known: OrderedDict[str, tuple[int, Future[Verdict]]] = OrderedDict()
        self._closed = self._ending = False
        self._last_word_s = time.monotonic()
        self._clock: threading.Thread | None = None
        self._threads = [
            threading.Thread(target=self._serve, args=(lane,), name=f"judge-{number}", daemon=True)
            for number, lane in enumerate(self._lanes)
        ]
        for thread in self._threads:
            thread.start()

    def submit(
        self,
        problem: Problem,
        text: str,
        *,
        source: bool = False,
        deadline_s: float | None = None,
        id: str | None = None,
        block: bool = True,
    ) -> Future[Verdict]:
        """Judge a response.

        Args:
            source: the text is the program itself, not a response that holds one.
            deadline_s: seconds from now; without a verdict by then it is an `internal_error` that says so.
            id: a name of your own. Submitted again while it is judged, or not long after, it is not judged again.
            block: with a full queue, wait for room. Not from a callback of one of these futures.

        Raises:
            ValueError: at once, for a problem that cannot be judged, or an id that stands for other work.
            queue.Full: if the queue is full and `block` is false.
        """
        if self._closed:
            raise ValueError("the judge pool is closed")
        if deadline_s is not None and not deadline_s > 0:
            raise ValueError(f"deadline_s must be positive, got {deadline_s}")
        verdict = self._at_once(problem, text)
        end_s = float("inf") if deadline_s is None else time.monotonic() + deadline_s
        content = hash((problem, text, source)) if id is not None else 0
        with self._change:
            while True:
                if id is not None and (known := self._remembered(id, content)):
                    return known
                if verdict is not None or self.num_waiting < self.config.queue_size:
                    break
                if not block:
                    raise queue.Full(f"{self.num_waiting} responses wait for a judge already; try again later")
                self._change.wait(timeout=max(0.0, min(end_s - time.monotonic(), 3600.0)))
                if self._closed:
                    raise ValueError("the judge pool is closed")
                if time.monotonic() >= end_s:
                    verdict = _too_late(deadline_s or 0.0)
            future: Future[Verdict] = Future()
            if id is not None:
                self._remember(id, content, future)
            job = _Job(problem, text, source, id or os.urandom(12).hex(), end_s, deadline_s or 0.0, future)
            if verdict is None:
                compare = problem.kind == "math" and self._math is not None
                if compare:
                    self._comparing.add(job)
                else:
                    self._waiting.append(job)
                self._watch(job)
                self._change.notify_all()
        if verdict is not None:
            self._give(job, verdict)
        elif compare:
            self._compare(job)
        return future

    def judge(self, problem: Problem, text: str, *, source: bool = False) -> Verdict:
        """Judge a response and wait for the verdict."""
        return self.submit(problem, text, source=source).result()

    async def ajudge(
        self,
        problem: Problem,
        text: str,
        *,
        source: bool = False,
        deadline_s: float | None = None,
        id: str | None = None,
    ) -> Verdict:
        """Judge a response without blocking the event loop, also while the queue is full.

        Cancelled, it takes waiting work back, unless an `id` may have others waiting for it.
        """
        while True:
            try:
                future = self.submit(problem, text, source=source, deadline_s=deadline_s, id=id, block=False)
                break
            except queue.Full:
                await asyncio.sleep(0.02)
        wrapped = asyncio.wrap_future(future)
        return await (wrapped if id is None else asyncio.shield(wrapped))

    @property
    def num_lanes(self) -> int:
        """Responses that can be judged at once."""
        return len(self._lanes)

    @property
    def num_waiting(self) -> int:
        """Responses that no worker has taken yet."""
        return len(self._waiting) + max(0, len(self._comparing) - self._num_workers)

    @property
    def num_running(self) -> int:
        """Responses that a worker has taken."""
        return len(self._running) + min(len(self._comparing), self._num_workers)

    def close(self, *, now: bool = False) -> None:
        """Cancel what has not begun, finish what has (kill it, with `now`), end the workers: no process is left."""
        with self._change:
            self._closed = True
            self._ending = self._ending or now
            waiting = [*self._waiting, *self._comparing]
            self._waiting.clear()
            self._change.notify_all()
        if self._math is not None:
            self._math.close()
        for job in waiting:
            if not job.future.cancel():  # it had begun once and was to be redone
                self._give(job, Verdict("internal_error", detail="the judge was closed"))
        for lane, thread in zip(self._lanes, self._threads, strict=True):
            while thread.is_alive():
                if self._ending:
                    lane.kill()
                thread.join(timeout=0.1 if self._ending else 1.0)
        if self._clock is not None:
            self._clock.join()
        for job in list(self._waiting):  # to be redone, and every host is gone
            self._give(job, Verdict("internal_error", detail="the judge was closed"))

    def __enter__(self) -> JudgePool:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close(now=error is not None)

    def _open_lanes(self, num_workers: int, hosts: Sequence[str], token: str | None) -> list[Lane]:
        if not hosts:
            cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
            # With a worker for every core each has its own; with fewer the system places them.
            own = cores if num_workers == len(cores) > 1 else []
            return [Worker(self.config, own[number] if own else None) for number in range(num_workers)]
        from openmimo.judge.remote import open_hosts

        return open_hosts(hosts, os.environ.get(TOKEN_VARIABLE, "") if token is None else token, self.config)

    def _at_once(self, problem: Problem, text: str) -> Verdict | None:
        """The verdict where it takes no worker; refuses what cannot be judged."""
        if problem.kind == "math":
            return quick_verdict(problem, text, function=self.config.verifier)
        check_problem(problem)
        return None

    def _remembered(self, id: str, content: int) -> Future[Verdict] | None:
        if id not in self._known:
            return None
        known, future = self._known[id]
        if future.cancelled():
            return None
        if known != content:
            raise ValueError(f"id {id!r} stands for another response; give each its own")
        return future

    def _remember(self, id: str, content: int, future: Future[Verdict]) -> None:
        self._known[id] = content, future
        self._known.move_to_end(id)
        while len(self._known) > _REMEMBERED + self.config.queue_size:
            done = next((name for name, (_, old) in self._known.items() if old.done()), None)
            if done is None:
                return
            del self._known[done]

    def _compare(self, job: _Job) -> None:
        """Hand a maths answer to its processes; an internal error is retried once."""
        assert self._math is not None

        def done(compared: Future[Verdict]) -> None:
            if compared.cancelled():
                return  # closed
            verdict = compared.result()
            if verdict.status == "internal_error" and not job.failed and not self._closed:
                job.failed = True
                self._compare(job)
            else:
                self._give(job, verdict)

        try:
            self._math.submit(job.problem, job.text).add_done_callback(done)
        except ValueError as error:  # closed
            self._give(job, error)

    # What a lane's thread does.

    def _serve(self, lane: Lane) -> None:
        try:
            while (job := self._take(lane)) is not None:
                try:
                    self._done(lane, job, lane.judge(job.work()))
                except Lost as error:
                    self._lost(job, str(error))
                except TimeoutError as error:
                    self._done(lane, job, Verdict("internal_error", detail=str(error)))
                except BaseException as error:
                    self._give(job, error)
        finally:
            lane.close()

    def _take(self, lane: Lane) -> _Job | None:
        """The next job for a lane; None when the pool is closed."""
        while True:
            if not lane.ready():
                self._give_up_in_silence()
                if self._closed:
                    return None
                continue
            with self._change:
                job = self._next(lane)
                if job is None:
                    if self._ending or (self._closed and not self._running):
                        return None
                    # A lane waits with an end: what another must avoid may fall to it when that one is gone.
                    self._change.wait(timeout=1.0 if self._waiting or self._closed else None)
                    continue
                self._running.add(job)
                self._change.notify_all()
            self._last_word_s = time.monotonic()
            if job.started or job.future.set_running_or_notify_cancel():
                job.started = True
                return job
            self._drop(job)

    def _next(self, lane: Lane) -> _Job | None:
        for position, job in enumerate(self._waiting):
            if lane.takes(job.problem) and (job.avoid != lane.place or not self._elsewhere(job)):
                del self._waiting[position]
                return job
        return None

    def _elsewhere(self, job: _Job) -> bool:
        return any(lane.takes(job.problem) and lane.up and lane.place != job.avoid for lane in self._lanes)

    def _done(self, lane: Lane, job: _Job, verdict: Verdict) -> None:
        if verdict.status == "internal_error" and not job.failed and time.monotonic() < job.end_s:
            job.failed, job.avoid = True, lane.place
            self._again(job, verdict)
        else:
            self._give(job, verdict)

    def _lost(self, job: _Job, why: str) -> None:
        self._last_word_s = time.monotonic()
        job.num_lost += 1
        verdict = Verdict("internal_error", detail=why)
        if job.num_lost > MAX_LOST:
            self._give(job, Verdict("internal_error", detail=f"lost {job.num_lost} times; {why}"))
        else:
            self.num_redone += 1
            self._again(job, verdict)

    def _again(self, job: _Job, verdict: Verdict) -> None:
        """Back to the head of the queue; with the pool at its end the verdict stands."""
        with self._change:
            if not self._ending:
                self._running.discard(job)
                self._waiting.appendleft(job)
                self._change.notify_all()
                return
        self._give(job, verdict)

    def _give(self, job: _Job, outcome: Verdict | BaseException) -> None:
        """Fill the future, once."""
        with self._change:
            first, job.given = not job.given, True
            if first and not job.started:
                job.started = True
                first = job.future.set_running_or_notify_cancel()
            if first and isinstance(outcome, Verdict) and time.monotonic() >= job.end_s:
                outcome = _too_late(job.deadline_s)
            if first and isinstance(outcome, Verdict):
                self.counts[job.problem.kind, outcome.status] += 1
        if first and isinstance(outcome, Verdict):
            job.future.set_result(outcome)
        elif first and isinstance(outcome, BaseException):
            job.future.set_exception(outcome)
        self._drop(job)

    def _drop(self, job: _Job) -> None:
        with self._change:
            self._running.discard(job)
            self._comparing.discard(job)
            self._change.notify_all()

    def _give_up_in_silence(self) -> None:
        if time.monotonic() - self._last_word_s < _SILENCE_S:
            return
        with self._change:
            waiting = list(self._waiting)
            self._waiting.clear()
            self._change.notify_all()
        for job in waiting:
            self._give(job, Verdict("internal_error", detail=f"no judge host answered for {_SILENCE_S:g} s"))

    # Deadlines.

    def _watch(self, job: _Job) -> None:
        if job.deadline_s and self._clock is None:
            self._clock = threading.Thread(target=self._watch_deadlines, name="judge-deadlines", daemon=True)
            self._clock.start()

    def _watch_deadlines(self) -> None:
        """Give waiting work up when its time comes; a lane watches the work that it has."""
        while not self._closed:
            with self._change:
                now_s = time.monotonic()
                watched = [*self._waiting, *self._comparing]
                late = [job for job in watched if job.end_s <= now_s]
                for job in late:
                    if job in self._waiting:
                        self._waiting.remove(job)
                    self._comparing.discard(job)
                if not late:
                    next_s = min((job.end_s for job in watched), default=float("inf"))
                    self._change.wait(timeout=None if next_s == float("inf") else next_s - now_s)
            for job in late:
                self._give(job, _too_late(job.deadline_s))


def _too_late(deadline_s: float) -> Verdict:
    return Verdict("internal_error", detail=f"the deadline of {deadline_s:g} s passed")
