"""A verifier of answers in a forked process that can be killed: math-verify, or a function of the user's.

math-verify's own time limit is a signal, which works on the main thread alone, and cannot stop a long computation in
C. Here a comparison that takes too long is killed from outside. What an answer does to the process is the answer's
fault (`wrong_answer`, `time_limit`); `internal_error` is left for what the judge or the problem got wrong.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import logging
import os
import re
import resource
import signal
import socket
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import wait
from types import TracebackType
from typing import Any, NamedTuple

from openmimo.types import Status

MAX_REDONE = 2
"""A comparison whose process was killed by others is done again this often, then it is an `internal_error`."""

_PR_SET_PDEATHSIG = 1
_CRASHES = {signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGFPE, signal.SIGILL}
_CHECKS = [
    ("0.5", "\\frac{1}{2}", "accepted"),
    ("x^2+1", "1+x^2", "accepted"),
    ("(1,2)", "(2,1)", "wrong_answer"),
    ("5", "\\sqrt{36}", "wrong_answer"),
]
_WARM = [
    r"(x+1)\left(\frac{x}{2}-1\right)",
    r"\left[\frac{\pi^2}{8}, \sqrt{3}\right)",
    r"\{1 \pm \sqrt{5}, -2\}",
    r"\begin{pmatrix} 1 & 0.5 \\ \frac{1}{3} & 4/5 \end{pmatrix}",
    r"-2 \le x < 7",
]
"""Answers on which SymPy imports and the parser learns what they do at first use: in the parent, not once a fork."""

Compare = Callable[[str, str], tuple[Status, str]]


class Result(NamedTuple):
    """What a comparison found."""

    status: Status
    detail: str
    reusable: bool = True
    """Whether the process that found it may compare again."""


class Verifier:
    """One forked process behind `compare`. The parent must have a single thread.

    The parent imports math-verify (or the user's module) once, so that another process costs a fork.

    Args:
        wall_s: limit of one comparison, in seconds, less the time that it waited for a core.
        memory_bytes: limit of the process's data, beyond what it inherits.
        function: `module:function` of a verifier of the user's; see `check_verifier`.
    """

    def __init__(self, *, wall_s: float = 5.0, memory_bytes: int = 512 << 20, function: str = "") -> None:
        check_limits(wall_s, memory_bytes)
        self.wall_s = wall_s
        self.memory_bytes = memory_bytes
        self.function = function
        self._compare: Compare | None = None
        self._child: Child | None = None

    def compare(self, gold: str, answer: str) -> tuple[Status, str]:
        """(status, detail). A process that was killed by others is replaced and the comparison done again."""
        wait_status = 0
        for _ in range(1 + MAX_REDONE):
            result = self._ask(gold, answer)
            if isinstance(result, Result):
                return result.status, result.detail
            wait_status = result
        return of_lost(wait_status)

    def self_check(self) -> None:
        """Prove that this process can verify.

        Raises:
            ValueError: one line that says what is missing or broken.
        """
        for gold, answer, expected in [] if self.function else _CHECKS:
            status, detail = self.compare(gold, answer)
            if status != expected:
                raise ValueError(
                    f"math-verify is broken: it should say {expected} of {answer} for {gold}, got {status} {detail}"
                )
        if self.function and self._compare is None:
            self._compare = load(self.function)

    def close(self) -> None:
        """Kill the process; the next comparison starts another."""
        if self._child:
            self._child.kill()
            self._child = None

    def __enter__(self) -> Verifier:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _ask(self, gold: str, answer: str) -> Result | int:
        """The result, or the wait status of a process that died."""
        if self._compare is None:
            self._compare = load(self.function)
        if self._child is None:
            self._child = Child(self._compare, self.memory_bytes)
        self._child.ask(gold, answer)
        while (left_s := self.wall_s - self._child.used_s()) > 0:
            if not wait([self._child.fileno()], left_s):
                continue
            try:
                result = self._child.read()
            except EOFError:
                status = self._child.kill()
                self._child = None
                return status
            if result:
                if not result.reusable:
                    self.close()
                return result
        self.close()
        return out_of_time(self.wall_s)


class Child:
    """A forked process that compares one pair after the other until it is killed.

    Args:
        compare: called there; an exception is an `internal_error`.
        memory_bytes: limit of its data, beyond what it inherits; an answer that needs more is wrong.
    """

    def __init__(self, compare: Compare, memory_bytes: int) -> None:
        self.num_asked = 0
        self.last_gold = ""
        self._started_s = self._waited_s = 0.0
        self._paused_s = 0.0
        self._paused_at_s: float | None = None
        self._data = b""
        self._socket, theirs = socket.socketpair()
        gc.freeze()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                _close_all_but(theirs.fileno())
                _limit(memory_bytes)
                _serve(theirs, compare, memory_bytes)
            finally:
                os._exit(1)
        theirs.close()

    def fileno(self) -> int:
        return self._socket.fileno()

    def ask(self, gold: str, answer: str) -> None:
        """Begin a comparison. A dead process says so at the next `read`."""
        self.num_asked += 1
        self.last_gold = gold
        self._started_s, self._waited_s, self._paused_s = time.monotonic(), waited_s(self.pid), 0.0
        try:
            self._socket.sendall(json.dumps([gold, answer]).encode() + b"\n")
        except OSError:
            pass

    def read(self) -> Result | None:
        """What has come; None while it is incomplete.

        Raises:
            EOFError: the process died.
        """
        try:
            chunk = self._socket.recv(65536)
        except ConnectionResetError:
            chunk = b""
        if not chunk:
            raise EOFError
        self._data += chunk
        if not self._data.endswith(b"\n"):
            return None
        line, self._data = self._data, b""
        return Result(*json.loads(line))

    def used_s(self) -> float:
        """Seconds since `ask`, less those spent waiting for a core, or paused."""
        return self.wall_s() - (waited_s(self.pid) - self._waited_s) - self._paused_s - self._now_paused_s()

    def wall_s(self) -> float:
        """Seconds since `ask`."""
        return time.monotonic() - self._started_s

    def pause(self) -> None:
        """Stop computing until `resume`."""
        if self._paused_at_s is None:
            self._signal(signal.SIGSTOP)
            self._paused_at_s = time.monotonic()

    def resume(self) -> None:
        """Go on after `pause`."""
        if self._paused_at_s is not None:
            self._signal(signal.SIGCONT)
            self._paused_s += self._now_paused_s()
            self._paused_at_s = None

    def _now_paused_s(self) -> float:
        return 0.0 if self._paused_at_s is None else time.monotonic() - self._paused_at_s

    def _signal(self, number: int) -> None:
        try:
            os.kill(self.pid, number)
        except ProcessLookupError:
            pass  # it died; the next read says so

    def kill(self) -> int:
        """End it; its wait status."""
        self._socket.close()
        self._signal(signal.SIGKILL)
        return os.waitpid(self.pid, 0)[1]


def check_verifier(name: str) -> None:
    """Refuse the name of a verifier that cannot be used; "" is math-verify. Imports the module.

    The function takes the gold answer and the response's, `function(gold: str, answer: str)`, and gives a bool or a
    pair (bool, detail). An exception is an `internal_error`, a hang a `time_limit`.

    Raises:
        ValueError: one line that says what is wrong with the name.
    """
    if not name:
        return
    if not re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", name):
        raise ValueError(f"verifier must be module:function, e.g. my_verifier:verify, got {name!r}")
    module_name, _, function_name = name.partition(":")
    try:
        module = _import(module_name)
    except Exception as error:
        raise ValueError(f"verifier {name!r}: cannot import {module_name}: {_one_line(error)}") from error
    if not callable(getattr(module, function_name, None)):
        raise ValueError(f"verifier {name!r}: {module_name} has no function {function_name}")


def check_limits(wall_s: float, memory_bytes: int) -> None:
    if wall_s <= 0:
        raise ValueError(f"wall_s must be positive, got {wall_s}")
    if memory_bytes < 256 << 20:
        raise ValueError(f"memory_bytes must be at least {256 << 20}, got {memory_bytes}")


def load(function: str) -> Compare:
    """Import what compares, in the parent, so that a fork finds it warm.

    Raises:
        ValueError: one line, where it cannot be imported.
    """
    if not function:
        try:
            import math_verify
            import sympy  # noqa: F401
        except Exception as error:
            raise ValueError(f"math-verify cannot be imported: {_one_line(error)}; pip install math-verify") from error
        del math_verify
        # It warns that its own time limits are off; ours are not.
        logging.getLogger("math_verify").setLevel(logging.CRITICAL)
        from openmimo.judge.math_equal import compare

        for answer in _WARM:
            compare(answer, answer + " ")
        return compare
    check_verifier(function)
    module_name, _, function_name = function.partition(":")
    verify: Callable[[str, str], Any] = getattr(_import(module_name), function_name)

    def of_user(gold: str, answer: str) -> tuple[Status, str]:
        found = verify(gold, answer)
        equal, detail = found if isinstance(found, tuple) and len(found) == 2 else (found, "")
        if not isinstance(equal, bool):
            return "internal_error", f"verifier {function} must give a bool or (bool, detail), got {found!r}"[:200]
        return "accepted" if equal else "wrong_answer", str(detail)[:200]

    return of_user


def of_lost(wait_status: int) -> tuple[Status, str]:
    """The verdict after the last process that tried died too."""
    code = os.waitstatus_to_exitcode(wait_status)
    if -code in _CRASHES:
        return "wrong_answer", f"the answer crashes the verifier ({signal.Signals(-code).name})"
    return "internal_error", f"the verifier was lost {1 + MAX_REDONE} times, exit status {code}"


def out_of_time(wall_s: float) -> Result:
    return Result("time_limit", f"no verdict in {wall_s:g} s", False)


def waited_s(pid: int) -> float:
    """Seconds that a process was ready and had no core; 0 where the kernel does not tell."""
    try:
        with open(f"/proc/{pid}/schedstat", encoding="ascii") as file:
            return int(file.read().split()[1]) / 1e9
    except (OSError, IndexError, ValueError):
        return 0.0


def _serve(connection: socket.socket, compare: Compare, memory_bytes: int) -> None:
    logging.disable(logging.CRITICAL)
    for line in connection.makefile("rb"):
        gold, answer = json.loads(line)
        try:
            result = Result(*compare(gold, answer))
        except MemoryError:
            result = Result("wrong_answer", f"the answer needs more than {memory_bytes >> 20} MiB", False)
        except BaseException as error:  # a user's function may even call exit
            result = Result("internal_error", _one_line(error), False)
        connection.sendall(json.dumps(result).encode() + b"\n")


def _close_all_but(fd: int) -> None:
    """Not ours: the parent's other children and its caller. Standard streams stay."""
    os.closerange(3, fd)
    os.closerange(fd + 1, max(1 << 16, fd + 2))
    os.dup2(2, 1)  # what a user's function prints is no output of the judge's
    sys.stdout = sys.stderr = os.fdopen(2, "w", closefd=False)


def _limit(memory_bytes: int) -> None:
    """So much memory beyond what the parent had, which a fork inherits and does not use."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            memory_bytes += int(file.read().split()[5]) * resource.getpagesize()
    except OSError:
        pass
    resource.setrlimit(resource.RLIMIT_DATA, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears it, and ends us
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _import(module_name: str) -> Any:
    """As `python -m` would: the working directory counts."""
    sys.path.insert(0, os.getcwd())
    try:
        return importlib.import_module(module_name)
    finally:
        sys.path.remove(os.getcwd())


def _one_line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]
