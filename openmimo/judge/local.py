"""A worker process of this machine, as the pool sees it: started when it is needed, replaced when it is lost.

It is started by path and not by fork: the parent may hold torch and its threads.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path

from openmimo.judge.code import limits_of
from openmimo.judge.config import JudgeConfig
from openmimo.judge.lane import Lost, Work
from openmimo.judge.sandbox.cgroup import remove_groups_of
from openmimo.types import Problem, Verdict

_END_S = 0.5
_SLACK_S = 60.0  # a worker keeps its own limits; this is for one that does not answer at all


class Worker:
    """One supervisor process (`worker.py`) and all that it starts.

    Args:
        core: hold it all to one core, so that a test is forked where the pages it copies are in the cache.
    """

    def __init__(self, config: JudgeConfig, core: int | None = None) -> None:
        self.config = config
        self.core = core
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None

    @property
    def place(self) -> int:
        return id(self)

    @property
    def pid(self) -> int:
        """Of the process; 0 while there is none."""
        process = self._process
        return process.pid if process is not None else 0

    @property
    def up(self) -> bool:
        return True

    def takes(self, problem: Problem) -> bool:
        return problem.kind == "code"

    def ready(self) -> bool:
        return True

    def judge(self, work: Work) -> Verdict:
        wall_s = limits_of(work.problem, self.config.limits).wall_s
        allowed_s = _SLACK_S + len(work.problem.tests) * 2 * (wall_s + 1.0)
        end_s = time.monotonic() + min(allowed_s, work.limit_s)
        try:
            if self._connection is None:
                self._start()
            connection = self._connection
            assert connection is not None
            connection.send((work.problem, work.text, work.source))
            if not connection.poll(max(0.0, end_s - time.monotonic())):
                self.close()
                raise TimeoutError(f"the judge's worker gave no verdict in {min(allowed_s, work.limit_s):g} s")
            kind, answer = connection.recv()
        except TimeoutError:
            raise
        except (EOFError, OSError) as error:
            self.close()
            raise Lost(f"the judge's worker was lost: {error or type(error).__name__}") from error
        if kind == "lost":
            raise Lost(answer)
        if kind == "refused":
            raise RuntimeError(answer)
        if kind == "wrong":
            raise ValueError(answer)
        verdict: Verdict = answer
        return verdict

    def kill(self) -> None:
        process = self._process
        if process is not None:
            process.kill()

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        process, self._process = self._process, None
        if process is not None:
            # An idle worker ends by itself once the connection is closed, and clears away what it made.
            try:
                process.wait(timeout=_END_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            remove_groups_of(process.pid)

    def _start(self) -> None:
        """Start and configure, without waiting: the first answer is awaited with the first verdict."""
        ours, theirs = socket.socketpair()
        package_root = str(Path(__file__).resolve().parents[2])
        paths = [package_root, *filter(None, [os.environ.get("PYTHONPATH")])]
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "openmimo.judge.worker", str(theirs.fileno()), str(os.getpid())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,  # an interrupt at the terminal is the caller's to handle
                env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            )
        if self.core is not None:
            os.sched_setaffinity(self._process.pid, {self.core})
        self._connection = Connection(ours.detach())
        self._connection.send(self.config)
