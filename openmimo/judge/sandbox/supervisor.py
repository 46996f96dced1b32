"""Runs programs in a zygote's children and keeps the facts (MiMo 3.4.1).

The supervisor alone sees expected outputs; nothing it sends down holds one. It trusts what the kernel counted and the
bytes that were written, never what a program says of itself. Each profile (what is imported before a program starts)
has a zygote of its own, started with the first program that needs it.
"""

from __future__ import annotations

import array
import fcntl
import importlib.util
import json
import os
import select
import socket
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from openmimo.judge.sandbox.cgroup import ControlGroup
from openmimo.judge.sandbox.levels import Isolation, judged, nothing
from openmimo.judge.sandbox.limits import Limits, Run
from openmimo.log import say

_PACKAGE_ROOT = str(Path(__file__).resolve().parents[3])
_START = f"import sys; sys.path.insert(0, {_PACKAGE_ROOT!r}); from openmimo.judge.sandbox.zygote import main; main()"
_MESSAGE_BYTES = 65536
_GRACE_S = 5.0  # the host enforces the limits; this is for a host that does not answer
_COMPILE_S = 20.0
_WAIT_FACTOR = 30  # wall time excludes waiting for a core; a machine this much overloaded has lost its host
_OVERHEAD_BYTES = 192 << 20  # a zygote's own memory, beside its test's
_SEALS = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL


Mode = Literal["program", "function", "assert", "binary"]


class SandboxLost(Exception):
    """A zygote or a host died or fell silent: the judge's fault, or a hostile program's; redo, then report."""


class CompileError(Exception):
    """The program does not compile."""


class Sandbox:
    """Zygotes, one a profile. Each runs one program at a time, and a process a run.

    Use it as a context manager.

    Args:
        limits: of a test, where `open` is given no others.
        accept_unsafe: run programs even where too little guards the machine; their verdicts say `refused`.
        bare: no isolation at all: the floor that benchmarks compare with, never the product.
    """

    def __init__(self, limits: Limits, *, accept_unsafe: bool = False, bare: bool = False) -> None:
        self.limits = limits
        self.accept_unsafe = accept_unsafe or bare
        self.bare = bare
        self.isolation: Isolation | None = None
        """Known once a zygote has started."""
        self._zygotes: dict[str, _Zygote] = {}
        self._told = bare

    def start(self, profile: str = "base") -> Isolation:
        """Start a profile's zygote, if it does not run; `open` does it too.

        Raises:
            RuntimeError: if no program can run on this machine, or too little would guard the machine from it.
        """
        zygote = self._zygotes.setdefault(profile, _Zygote(profile, bare=self.bare))
        if not zygote.started:
            self.isolation = zygote.start(self.limits)
            if self.isolation.level == "refused" and not self.accept_unsafe:
                self.close()
                raise RuntimeError(
                    f"programs would run unguarded here ({self.isolation.reason}); "
                    "run the judge as root, allow user namespaces, or accept it with --i-accept-unsafe"
                )
            if self.isolation.level != "full" and not self._told:
                self._told = True
                say(f"judge: isolation {self.isolation.level}: {self.isolation.reason}")
        assert self.isolation is not None
        return self.isolation

    def open(
        self,
        program: bytes,
        *,
        mode: Mode = "program",
        entry_point: str = "",
        profile: str = "base",
        limits: Limits | None = None,
    ) -> Program:
        """Compile a program, or take a compiled one; end it before the profile's next is opened.

        Args:
            program: source of Python, or in the mode `binary` an executable.
            mode: `program` reads standard input; of a `function` each run makes calls; an `assert` runs after it.
            entry_point: name of the function.

        Raises:
            CompileError: with the compiler's message.
            SandboxLost: if the zygote died; the next `open` starts another.
        """
        limits = limits or self.limits
        self.start(profile)
        zygote = self._zygotes[profile]
        zygote.bound(limits)
        fd = _memory_file(program)
        try:
            if mode == "binary":  # what is open for writing cannot be executed
                fd, writable = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC), fd
                os.close(writable)
            zygote.send({"do": "open", "mode": mode, "entry_point": entry_point, **vars(limits)}, [fd])
        finally:
            os.close(fd)
        answer = zygote.receive(_COMPILE_S)
        if "gone" in answer:
            raise CompileError(f"the compiler was stopped, wait status {answer['gone']}")
        if answer["error"]:
            zygote.ended()  # the host left by itself
            raise CompileError(answer["error"])
        return Program(zygote, limits)

    def run_alone(
        self, source: bytes, stdin: bytes, *, entry_point: str, profile: str = "base", limits: Limits | None = None
    ) -> Run:
        """Compile a program and call its function, all in one process: cheaper than `open` and one `run`.

        A program that is no Python ends with `limits.COMPILE_EXIT_CODE`; its `error` holds the compiler's message.
        """
        limits = limits or self.limits
        self.start(profile)
        zygote = self._zygotes[profile]
        zygote.bound(limits)
        message = {"do": "alone", "mode": "function", "entry_point": entry_point, **vars(limits)}
        return zygote.run(message, limits, stdin, _memory_file(source))

    def build(
        self, source: bytes, message: dict[str, Any], limits: Limits, *, folders: Sequence[str] = ()
    ) -> tuple[bytes, Run]:
        """Run a compiler on a source: (the binary, the facts).

        Args:
            message: command (a list, its first an absolute path), source_name, binary_name.
            folders: what the compiler reads besides the system's; the same at every call.
        """
        for folder in folders:
            os.makedirs(folder, exist_ok=True)
        self._zygotes.setdefault("build", _Zygote("build", bare=self.bare, folders=folders))
        layers = self.start("build").layers
        binary = _memory_file(b"")
        try:
            with nullcontext("") if layers["root"] else tempfile.TemporaryDirectory() as folder:
                if folder:
                    os.chmod(folder, 0o777)  # the compiler runs as another user
                message = {"do": "build", "folder": folder, **vars(limits), **message}
                run = self._zygotes["build"].run(message, limits, source, os.dup(binary))
            return _read_file(binary, limits.output_bytes), run
        finally:
            os.close(binary)

    def close(self) -> None:
        """Kill the zygotes and with them everything they started."""
        for zygote in self._zygotes.values():
            zygote.close()
        self._zygotes = {}

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class Program:
    """An open program: run it any number of times, then end it; a context manager."""

    def __init__(self, zygote: _Zygote, limits: Limits) -> None:
        self.limits = limits
        self._zygote = zygote

    def run(self, stdin: bytes) -> Run:
        """Run it once, in a process of its own.

        Args:
            stdin: standard input; for a `function`, lines of JSON argument lists, one a call; for an `assert`, a word,
                a line break and Python source.

        Returns:
            The facts. For a function `output` holds a line of JSON for each call that returned, for an assert the word
            if nothing was raised.

        Raises:
            SandboxLost: if the zygote or the host died.
        """
        return self._zygote.run({"do": "test"}, self.limits, stdin)

    def end(self) -> None:
        """Done with it."""
        try:
            self._zygote.send({"do": "end"}, [])
            self._zygote.ended()
        except SandboxLost:
            pass  # closed already; the next open starts anew

    def __enter__(self) -> Program:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.end()


class _Zygote:
    """One zygote's process and its socket; see `zygote.py` for what is said over it."""

    def __init__(self, profile: str, *, bare: bool, folders: Sequence[str] = ()) -> None:
        self.profile = profile
        self.bare = bare
        self._folders = list(folders)
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._group: ControlGroup | None = None
        self._bound_bytes = 0

    @property
    def started(self) -> bool:
        return self._control is not None

    def start(self, limits: Limits) -> Isolation:
        """Start the process; what it found out about the machine.

        Raises:
            RuntimeError: if it cannot run programs.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        asked = {"profile": self.profile, "bare": self.bare, **_readable(self.profile)}
        asked["folders"] += self._folders
        with theirs:
            # -S: no site-packages, so nothing of the judge can be imported; a fixed hash seed makes a program's set
            # order, and so its verdict, the same in every zygote. Standard error is the supervisor's: a fault shows.
            self._process = subprocess.Popen(
                [sys.executable, "-S", "-s", "-P", "-B", "-c", _START,
                 str(theirs.fileno()), json.dumps(asked), _PACKAGE_ROOT],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env={"PYTHONHASHSEED": "0"},
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
            )  # fmt: skip
        self._control = ours
        if not self.bare:
            self._group = ControlGroup(limits.max_processes + 40)
            self._group.add(self._process.pid)
            self.bound(limits)
        hello = self.receive(60.0)
        if hello["error"]:
            self.close()
            raise RuntimeError(f"the sandbox cannot run programs here: {hello['error']}")
        return judged({**hello["layers"], "cgroup": self._group is not None and self._group.there})

    def bound(self, limits: Limits) -> None:
        """Bound the memory of everything below together: a test, its output, and ourselves."""
        most = limits.memory_bytes + 2 * limits.output_bytes + _OVERHEAD_BYTES
        if self._group is not None and most != self._bound_bytes:
            self._group.limit(most if self.profile != "build" else max(most, 1 << 30))
            self._bound_bytes = most

    def run(self, message: dict[str, Any], limits: Limits, stdin: bytes, last: int = -1) -> Run:
        """One test, or one build: what the kernel counted and what was written. `last` is sent along and closed."""
        fds = [_memory_file(stdin, sealed=True)]
        if message["do"] == "build":
            fds += [last, _memory_file(b"")]
        else:
            fds += [_memory_file(b""), _memory_file(b"")] + ([last] if last >= 0 else [])
        try:
            self.send(message, fds)
            facts = self.receive(limits.wall_s + _GRACE_S, _WAIT_FACTOR * limits.wall_s)
            if "gone" in facts:
                raise SandboxLost(f"the host died, wait status {facts['gone']}")
            most = limits.output_bytes + 1
            return Run(
                wait_status=facts["status"],
                cpu_s=facts["cpu_s"],
                wall_s=facts["wall_s"],
                peak_bytes=facts["peak_bytes"],
                timed_out=facts["timed_out"],
                output=b"" if message["do"] == "build" else _read_file(fds[1], most),
                error=_read_file(fds[2], most),
            )
        finally:
            for fd in fds:
                os.close(fd)

    def send(self, message: dict[str, Any], fds: Sequence[int]) -> None:
        if self._control is None:
            raise SandboxLost("the zygote is gone")
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        try:
            self._control.sendmsg([json.dumps(message).encode()], ancillary)
        except OSError as error:
            self.close()
            raise SandboxLost(f"the zygote is gone: {error}") from error

    def receive(self, seconds: float, more_seconds: float = 0.0) -> dict[str, Any]:
        """The next message, awaited for so long; for `more_seconds` on top while the process is alive."""
        if self._control is None:
            raise SandboxLost("the zygote is gone")
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        data = b""
        if poll.poll(seconds * 1000.0) or (more_seconds and poll.poll(more_seconds * 1000.0)):
            try:
                data = self._control.recv(_MESSAGE_BYTES)
            except OSError:
                data = b""
        if not data:
            self.close()
            raise SandboxLost("the zygote died or did not answer in time")
        answer: dict[str, Any] = json.loads(data)
        return answer

    def ended(self) -> None:
        """Wait until the host is gone."""
        while "gone" not in self.receive(_GRACE_S, 10 * _GRACE_S):
            pass

    def close(self) -> None:
        if self._control is not None:
            self._control.close()
            self._control = None
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
        if self._group is not None:
            self._group.remove()
            self._group = None
        self._bound_bytes = 0


def self_test() -> Isolation:
    """Start a zygote and see how far it can isolate programs here (about 0.1 s). Never raises."""
    zygote = _Zygote("base", bare=False)
    try:
        return zygote.start(Limits())
    except (SandboxLost, OSError, ValueError, RuntimeError) as error:
        return nothing(str(error))
    finally:
        zygote.close()


def _readable(profile: str) -> dict[str, Any]:
    """What a profile's programs can read, by absolute path."""
    libraries = ["/lib", "/lib64", "/usr/lib", "/usr/lib64", "/etc/ld.so.cache", "/usr/share/zoneinfo"]
    standard = sysconfig.get_path("stdlib")
    binary = os.path.join(sysconfig.get_path("platstdlib"), "lib-dynload")
    shared = sysconfig.get_config_var("LIBDIR") or ""
    python = [standard, binary] + ([] if shared.startswith("/usr") else _shared_libraries(shared))
    asked: dict[str, Any] = {"folders": libraries + python, "inside": [], "numpy": ""}
    asked["hidden"] = [os.path.join(standard, name) for name in ("site-packages", "dist-packages")]
    if profile == "build":
        asked["folders"] = ["/usr", "/lib", "/lib64", "/bin", "/etc/alternatives", standard, *python]
    if profile == "numpy":
        spec = importlib.util.find_spec("numpy")
        if spec is None or not spec.submodule_search_locations:
            raise RuntimeError("the profile numpy needs NumPy: pip install numpy")
        numpy = spec.submodule_search_locations[0]
        asked["numpy"] = os.path.dirname(numpy)
        asked["inside"] = [numpy, numpy + ".libs"]
    return asked


def _shared_libraries(folder: str) -> list[str]:
    return [str(path) for path in Path(folder).glob("libpython*.so*")] if folder else []


def _memory_file(data: bytes, *, sealed: bool = False) -> int:
    """An anonymous file; sealed, nobody can change it."""
    fd = os.memfd_create("judge", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
    os.lseek(fd, 0, os.SEEK_SET)
    if sealed:
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
    return fd


def _read_file(fd: int, limit_bytes: int) -> bytes:
    return os.pread(fd, min(os.fstat(fd).st_size, limit_bytes), 0)
