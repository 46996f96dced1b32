"""Verdicts on many maths answers at once: `MathPool.submit(problem, text) -> Future[Verdict]` (MiMo 3.4.1).

One maths worker (`math_worker.py`), started by path and not by fork: the caller may hold torch and its threads. Any
process may die at any moment: the worker replaces those that compare, the pool replaces the worker, and what was not
answered is done again.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from concurrent.futures import Future
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType

from openmimo.judge.math import extract_answer, quick_verdict
from openmimo.judge.math_worker import MathConfig
from openmimo.judge.verifier import MAX_REDONE, check_limits, check_verifier
from openmimo.types import Problem, Verdict


@dataclass
class _Pending:
    future: Future[Verdict]
    gold: str
    answer: str


class MathPool:
    """Compares maths answers in processes behind one worker. Use it as a context manager, from any thread.

    The worker starts with the first answer that needs it. Futures are resolved in a thread of the pool's.

    Args:
        num_workers: comparisons at once, and as many slow ones beside them.
        wall_s: limit of one comparison, in seconds, less the time that it waited for a core.
        memory_bytes: limit of the data of a process that compares.
        function: `module:function` of a user's verifier; see `verifier.check_verifier`.

    Raises:
        ValueError: for a figure out of range, or a verifier that cannot be imported.
    """

    def __init__(
        self, num_workers: int, *, wall_s: float = 5.0, memory_bytes: int = 512 << 20, function: str = ""
    ) -> None:
        if num_workers < 1:
            raise ValueError(f"a maths pool needs at least 1 worker, got {num_workers}")
        check_limits(wall_s, memory_bytes)
        check_verifier(function)
        self.config = MathConfig(num_workers, wall_s, memory_bytes, function)
        self._lock = threading.Lock()
        self._pending: dict[int, _Pending] = {}
        self._next = 0
        self._num_lost = 0  # workers in a row, without a verdict
        self._closed = False
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None
        self._checked: Future[str] = Future()

    def submit(self, problem: Problem, text: str) -> Future[Verdict]:
        """Judge a response. What needs no algebra is answered at once.

        Raises:
            ValueError: at once, for a problem without a gold answer, or after `close`.
        """
        future: Future[Verdict] = Future()
        verdict = quick_verdict(problem, text, function=self.config.function)
        if verdict is not None:
            future.set_result(verdict)
            return future
        answer = extract_answer(text)
        assert answer is not None
        with self._lock:
            self._start()
            number, self._next = self._next, self._next + 1
            self._pending[number] = _Pending(future, problem.answer, answer)
            self._send(number)
        return future

    def judge(self, problem: Problem, text: str) -> Verdict:
        """Judge a response and wait for the verdict."""
        return self.submit(problem, text).result()

    def self_check(self) -> None:
        """Start the worker, and wait until it has judged a known right and a known wrong answer.

        Raises:
            ValueError: one line that says what is missing or broken.
        """
        with self._lock:
            self._start()
            checked = self._checked
        fault = checked.result()
        if fault:
            raise ValueError(fault)

    @property
    def num_waiting(self) -> int:
        """Answers without a verdict."""
        return len(self._pending)

    def close(self) -> None:
        """End every process; what has no verdict is cancelled."""
        with self._lock:
            self._closed = True
            process, self._process = self._process, None
            pending, self._pending = self._pending, {}
            if process is not None:
                process.kill()
                process.wait()
        for one in pending.values():
            one.future.cancel()
        if not self._checked.done():
            self._checked.set_result("the maths pool is closed")

    def __enter__(self) -> MathPool:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _start(self) -> None:
        """With the lock held: a worker, if there is none."""
        if self._closed:
            raise ValueError("the maths pool is closed")
        if self._process is not None:
            return
        if self._checked.done() and self._checked.result():
            self._checked = Future()
        ours, theirs = socket.socketpair()
        package_root = str(Path(__file__).resolve().parents[2])
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "openmimo.judge.math_worker", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                env={**os.environ, "PYTHONPATH": os.pathsep.join([package_root, *filter(None, sys.path)])},
            )
        self._connection = Connection(ours.detach())
        threading.Thread(
            target=self._read, args=(self._process, self._connection), name="maths-pool", daemon=True
        ).start()
        try:
            self._connection.send(self.config)
        except OSError:
            pass  # it died at once; the reader says so

    def _send(self, number: int) -> None:
        """With the lock held. What a dying worker misses is sent again by the reader."""
        pending = self._pending[number]
        assert self._connection is not None
        try:
            self._connection.send((number, pending.gold, pending.answer))
        except OSError:
            pass

    def _read(self, process: subprocess.Popen[bytes], connection: Connection) -> None:
        """Resolve futures until the worker ends; then start another for what is left."""
        try:
            while True:
                number, (status, detail) = connection.recv()
                if number < 0:
                    if not self._checked.done():
                        self._checked.set_result(detail)
                    continue
                with self._lock:
                    self._num_lost = 0
                    pending = self._pending.pop(number, None)
                if pending is not None:
                    _resolve(pending.future, Verdict(status, detail=detail or pending.answer[:200]))
        except (EOFError, OSError):
            pass
        process.kill()
        lost = f"the maths worker was lost {1 + MAX_REDONE} times, exit status {process.wait()}"
        for future in self._restart(process, connection, lost):
            _resolve(future, Verdict("internal_error", detail=lost))

    def _restart(self, process: subprocess.Popen[bytes], connection: Connection, lost: str) -> list[Future[Verdict]]:
        """Send what was not answered to a new worker; or, after too many of them, the futures of it all."""
        with self._lock:
            connection.close()
            if self._process is not process:
                return []  # closed
            self._process = self._connection = None
            self._num_lost += 1
            if self._num_lost > MAX_REDONE:
                self._num_lost = 0
                given_up, self._pending = self._pending, {}
                if not self._checked.done():
                    self._checked.set_result(lost)
                return [pending.future for pending in given_up.values()]
            if self._pending or not self._checked.done():
                self._start()
                for number in self._pending:
                    self._send(number)
            return []


def _resolve(future: Future[Verdict], verdict: Verdict) -> None:
    if future.set_running_or_notify_cancel():  # its owner may have cancelled it
        future.set_result(verdict)
