"""Runs programs in a zygote's children and keeps the facts (MiMo 3.4.1).

The supervisor alone sees expected outputs; nothing it sends down holds one. It trusts what the kernel counted and the
bytes that were written, never what a program says of itself.

Not yet full isolation: a program runs as a user of its own, without network, in a pid namespace, under rlimits, and
sees the standard library and the system's libraries alone; but no system call is forbidden to it, and its memory is
limited by process, not in sum.
"""

from __future__ import annotations

import array
import json
import os
import select
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from openmimo.judge.sandbox.limits import Limits, Run
from openmimo.log import say

_ZYGOTE = Path(__file__).with_name("zygote.py")
_MESSAGE_BYTES = 65536
_GRACE_S = 5.0  # the host enforces the wall limit; this is for a host that does not answer
_COMPILE_S = 10.0


class SandboxLost(Exception):
    """The zygote or its host died or fell silent: the judge's fault, or a hostile program's; redo, then report."""


class CompileError(Exception):
    """The program is no Python."""


class Sandbox:
    """One zygote. Programs run one at a time, one process a run.

    Use it as a context manager; `open`, any number of `run`, `end`, then the next program.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._open = False
        self._told: tuple[str, ...] = ()

    def start(self) -> None:
        """Start the zygote, if it does not run; the first `open` does it too.

        Raises:
            RuntimeError: if no program can run on this machine, with the reason.
        """
        if self._process is not None:
            return
        hello = self._launch()
        if hello["error"]:
            self.close()
            raise RuntimeError(f"the sandbox cannot run programs here: {hello['error']}")
        missing = tuple(hello["missing"])
        if missing and missing != self._told:
            self._told = missing
            say(f"judge: no namespace of its own for {', '.join(missing)} here; programs run with less isolation")

    def _launch(self) -> dict[str, Any]:
        """Start the zygote; what it found out about the machine."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            # -S: no site-packages, so nothing of the judge can be imported; a fixed hash seed makes a program's set
            # order, and so its verdict, the same in every zygote. Standard error is the supervisor's: a fault shows.
            self._process = subprocess.Popen(
                [sys.executable, "-S", "-s", "-P", "-B", str(_ZYGOTE), str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env={"PYTHONHASHSEED": "0"},
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
            )
        self._control = ours
        return self._receive(time.monotonic() + 20.0)

    def open(self, source: str) -> None:
        """Compile a program.

        Raises:
            CompileError: with the compiler's message.
            SandboxLost: if the zygote died; the next `open` starts another.
        """
        self.start()
        assert self._process is not None and not self._open
        fd = _memory_file(source.encode("utf-8", "surrogatepass"))
        try:
            self._send(vars(self.limits), [fd])
        finally:
            os.close(fd)
        self._open = True
        answer = self._receive(time.monotonic() + _COMPILE_S)
        if "gone" in answer:
            self._open = False
            raise CompileError(f"the compiler died, wait status {answer['gone']}")
        if answer["error"]:
            self._ended()  # the host left by itself
            raise CompileError(answer["error"])

    def run(self, stdin: bytes, *, entry_point: str = "") -> Run:
        """Run the open program once, in a process of its own.

        Args:
            stdin: standard input; with an entry point, lines of JSON argument lists, one a call.
            entry_point: a function to call; "" runs the program as a script.

        Returns:
            The facts. With an entry point `output` holds a line of JSON for each call that returned.
        """
        return self._run({"entry_point": entry_point}, [stdin, b"", b""])

    def run_alone(self, source: str, stdin: bytes, *, entry_point: str) -> Run:
        """Compile a program and call its function, all in one process: cheaper than `open`, `run`, `end` once.

        A program that is no Python ends with `limits.COMPILE_EXIT_CODE`; its `error` holds the compiler's message.
        """
        self.start()
        assert not self._open and entry_point
        files = [stdin, b"", b"", source.encode("utf-8", "surrogatepass")]
        return self._run({**vars(self.limits), "entry_point": entry_point}, files)

    def _run(self, message: dict[str, Any], files: Sequence[bytes]) -> Run:
        fds = [_memory_file(data) for data in files]
        try:
            self._send(message, fds)
            facts = self._receive(time.monotonic() + self.limits.wall_s + _GRACE_S)
            if "gone" in facts:
                self._open = False
                raise SandboxLost(f"the host died, wait status {facts['gone']}")
            return Run(
                wait_status=facts["status"],
                cpu_s=facts["cpu_s"],
                wall_s=facts["wall_s"],
                peak_bytes=facts["peak_bytes"],
                timed_out=facts["timed_out"],
                output=_read_file(fds[1], self.limits.output_bytes),
                error=_read_file(fds[2], self.limits.output_bytes),
            )
        finally:
            for fd in fds:
                os.close(fd)

    def end(self) -> None:
        """Done with the program."""
        if not self._open:
            return
        try:
            self._send({"end": True}, [])
            self._ended()
        except SandboxLost:
            pass  # closed already; the next open starts anew

    def close(self) -> None:
        """Kill the zygote and with it everything it started."""
        if self._control is not None:
            self._control.close()
            self._control = None
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
        self._open = False

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _ended(self) -> None:
        self._open = False
        while "gone" not in self._receive(time.monotonic() + _GRACE_S):
            pass

    def _send(self, message: dict[str, Any], fds: Sequence[int]) -> None:
        if self._control is None:
            raise SandboxLost("the zygote is gone")
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        try:
            self._control.sendmsg([json.dumps(message).encode()], ancillary)
        except OSError as error:
            self.close()
            raise SandboxLost(f"the zygote is gone: {error}") from error

    def _receive(self, deadline_s: float) -> dict[str, Any]:
        if self._control is None:
            raise SandboxLost("the zygote is gone")
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        data = b""
        if poll.poll(max(0.0, deadline_s - time.monotonic()) * 1000.0):
            try:
                data = self._control.recv(_MESSAGE_BYTES)
            except OSError:
                data = b""
        if not data:
            self.close()
            raise SandboxLost("the zygote died or did not answer in time")
        answer: dict[str, Any] = json.loads(data)
        return answer


def isolation() -> dict[str, bool]:
    """Which layers around a program this machine allows, found by starting a zygote (about 0.1 s). Never raises.

    Returns:
        By layer: a user of its own, the namespaces, a root without the machine's files. All False where no program can
        run at all; `Sandbox.start` then says why.
    """
    found = {"own user": False, "pid": False, "network": False, "ipc": False, "mount": False, "root": False}
    with Sandbox(Limits()) as sandbox:
        try:
            hello = sandbox._launch()
        except (SandboxLost, OSError, ValueError):
            return found
    if hello["error"]:
        return found
    missing = set(hello["missing"])
    if "mount" in missing:
        missing.add("root")  # made of mounts
    return {"own user": hello["uid"] >= 0, **{name: name not in missing for name in found if name != "own user"}}


def _memory_file(data: bytes) -> int:
    fd = os.memfd_create("judge", os.MFD_CLOEXEC)
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


def _read_file(fd: int, limit_bytes: int) -> bytes:
    return os.pread(fd, min(os.fstat(fd).st_size, limit_bytes), 0)
