"""Many judges on one machine: `submit(problem, text) -> Future[Verdict]` (MiMo 3.4.1, asynchronous reward).

A worker is a process of its own, started by path and not by fork: the parent may hold torch and its threads. Left out:
judges on other machines; `server.py` speaks HTTP for those.
"""

from __future__ import annotations

import os
import queue
import socket
import subprocess
import sys
import threading
from concurrent.futures import Future
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType

from openmimo.judge.code import check_problem
from openmimo.judge.math import quick_verdict
from openmimo.judge.sandbox.limits import Limits
from openmimo.types import Problem, Verdict

_SLACK_S = 60.0  # a worker keeps its own limits; this is for one that does not answer at all


@dataclass(frozen=True)
class JudgeConfig:
    """How programs and answers are judged."""

    num_workers: int = 1
    """Worker processes; each judges one response at a time."""
    cpu_s: float = 2.0
    """CPU seconds a test. # ours"""
    wall_s: float = 6.0
    """Seconds a test. # ours"""
    memory_bytes: int = 256 << 20
    """Peak resident memory of a test's process. # ours"""
    stack_bytes: int = 256 << 20
    """Allocation allowed beyond it, for the reserved stacks of threads."""
    output_bytes: int = 16 << 20
    """Standard output of a test, and standard error alike."""
    max_processes: int = 16
    """Processes and threads of a test at once."""
    math_wall_s: float = 5.0
    """Seconds for one comparison by math-verify. # ours"""
    math_memory_bytes: int = 2 << 30
    """Data of the process that compares."""
    share_process: bool = False
    """One process a solution instead of one a test, for function-call problems: cheaper, less apart (`judge_code`)."""

    @property
    def limits(self) -> Limits:
        return Limits(
            self.cpu_s, self.wall_s, self.memory_bytes, self.stack_bytes, self.output_bytes, self.max_processes
        )


class JudgePool:
    """Worker processes behind a queue. Use it as a context manager.

    A worker that dies is replaced and its work redone once; then the verdict is `internal_error`. Verdicts that need
    neither a program nor algebra are given at once, in the caller's thread.

    Args:
        num_workers: processes; the config's figure if None.
    """

    def __init__(self, num_workers: int | None = None, config: JudgeConfig | None = None) -> None:
        self.config = config or JudgeConfig()
        count = self.config.num_workers if num_workers is None else num_workers
        if count < 1:
            raise ValueError(f"a judge pool needs at least 1 worker, got {count}")
        _ = self.config.limits  # refuse bad limits here, not in a worker
        self._jobs: queue.SimpleQueue[tuple[Future[Verdict], Problem, str] | None] = queue.SimpleQueue()
        self._closed = False
        self._workers = [_Worker(self.config) for _ in range(count)]
        self._threads = [
            threading.Thread(target=self._serve, args=(worker,), name=f"judge-{number}", daemon=True)
            for number, worker in enumerate(self._workers)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, problem: Problem, text: str) -> Future[Verdict]:
        """Judge a response.

        Raises:
            ValueError: at once, for a problem that cannot be judged.
        """
        if self._closed:
            raise ValueError("the judge pool is closed")
        future: Future[Verdict] = Future()
        if problem.kind == "math":
            verdict = quick_verdict(problem, text)
            if verdict is not None:
                future.set_result(verdict)
                return future
        else:
            check_problem(problem)
        self._jobs.put((future, problem, text))
        return future

    def judge(self, problem: Problem, text: str) -> Verdict:
        """Judge a response and wait for the verdict."""
        return self.submit(problem, text).result()

    @property
    def num_waiting(self) -> int:
        """Responses that no worker has taken yet."""
        return self._jobs.qsize()

    def close(self) -> None:
        """Cancel what has not begun, finish what has, end the workers."""
        if self._closed:
            return
        self._closed = True
        try:
            while True:
                job = self._jobs.get_nowait()
                if job is not None:
                    job[0].cancel()
        except queue.Empty:
            pass
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join()

    def __enter__(self) -> JudgePool:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _serve(self, worker: _Worker) -> None:
        while (job := self._jobs.get()) is not None:
            future, problem, text = job
            if not future.set_running_or_notify_cancel():
                continue
            try:
                verdict = worker.judge(problem, text)
                if verdict.status == "internal_error":
                    verdict = worker.judge(problem, text)  # once more, in a fresh process if the last one died
                future.set_result(verdict)
            except BaseException as error:
                future.set_exception(error)
        worker.close()


class _Worker:
    """A process that is started when it is needed and replaced when it is lost."""

    def __init__(self, config: JudgeConfig) -> None:
        self.config = config
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None
        self._start()

    def judge(self, problem: Problem, text: str) -> Verdict:
        allowed_s = _SLACK_S + len(problem.tests) * (self.config.wall_s + 1.0) + self.config.math_wall_s
        try:
            if self._connection is None:
                self._start()
            connection = self._connection
            assert connection is not None
            connection.send((problem, text))
            if not connection.poll(allowed_s):
                raise EOFError(f"no verdict in {allowed_s:g} s")
            verdict: Verdict = connection.recv()
            return verdict
        except (EOFError, OSError) as error:
            self.close()
            return Verdict("internal_error", detail=f"the judge's worker was lost: {error or type(error).__name__}")

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _start(self) -> None:
        """Start and configure, without waiting: the first answer is awaited with the first verdict."""
        ours, theirs = socket.socketpair()
        package_root = str(Path(__file__).resolve().parents[2])
        paths = [package_root, *filter(None, [os.environ.get("PYTHONPATH")])]
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "openmimo.judge.worker", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            )
        self._connection = Connection(ours.detach())
        self._connection.send(self.config)
