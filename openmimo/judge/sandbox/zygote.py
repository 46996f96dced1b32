"""A warm Python that forks programs (MiMo 3.4.1). It runs in an interpreter of its own; see `supervisor.py`.

Three generations, so that a test costs one fork of a small process:

    zygote       one per worker and profile; first process (pid 1) of its own namespaces; what programs import is warm
     +- host     one per solution; compiles the program, never runs it; within limits, so a parser bomb ends here
         +- test one per test, in a pid namespace of its own: no rights, limits, Landlock, seccomp; runs the program

The zygote talks with the supervisor over one SOCK_SEQPACKET socket, inherited; the host takes over the socket
while it lives. Texts and data travel as memory files, so that a message is small:

    supervisor -> zygote   open {limits, mode, entry_point}, with [source]; mode `program`, `function`, `assert`, or
                           `binary` for a compiled program
    host -> supervisor     opened {"error": ""}
    supervisor -> host     test, with [stdin, stdout, stderr]   -> {"status", "cpu_s", ...}
    supervisor -> host     end
    supervisor -> zygote   alone {limits, entry_point}, with [stdin, stdout, stderr, source]: without a host
    supervisor -> zygote   build {limits, command, ...}, with [source, binary, stderr]: run a compiler
    zygote -> supervisor   gone {"status"}, whenever a host has ended

No process here ever holds an expected output, save the assert of a test that is an assert. What it imports of openmimo
stands in this folder; it forgets that before the first fork, and no program can import it.
"""

from __future__ import annotations

import array
import gc
import io
import json
import os
import resource
import socket
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from typing import Any

from openmimo.judge.sandbox import kernel
from openmimo.judge.sandbox.home import BUILD_FOLDER, Home, become_program, cpu_backstop_s, enter, prepare, spawn
from openmimo.judge.sandbox.limits import COMPILE_EXIT_CODE
from openmimo.judge.sandbox.program import compile_program, python_run
from openmimo.judge.sandbox.watch import CPUS, kill_rest, watch

try:
    from openmimo.judge.sandbox._spawn import serve
except ImportError:  # not compiled at install; the same, slower, is below
    serve = None  # type: ignore[assignment]

_WARM = {
    "base": "bisect collections contextlib copy dataclasses datetime decimal enum fractions functools heapq io "
    "itertools json math operator queue random re statistics string threading typing",
    "native": "",
    "build": "",
}
_WARM["special"] = _WARM["base"]
_WARM["numpy"] = _WARM["base"] + " numpy"
"""Imported for the programs: what most of them need is then free."""

_MESSAGE_BYTES = 65536
_COMPILE_CPU_S = 5


def main() -> None:
    control = socket.socket(fileno=int(sys.argv[1]))
    asked = json.loads(sys.argv[2])
    kernel.die_with_parent()
    warnings.simplefilter("ignore")
    home = enter(asked)
    os.environ.clear()
    os.environ.update(OPENBLAS_NUM_THREADS="1", OMP_NUM_THREADS="1", LANG="C.UTF-8")
    if asked["profile"] == "numpy":
        sys.path.append(asked["numpy"])
    for name in _WARM[asked["profile"]].split():
        __import__(name)
    os.environ.clear()
    warm_up()
    gc.disable()
    if home.proc >= 0:
        with open(os.open("self/maps", os.O_RDONLY, dir_fd=home.proc)) as file:
            kernel.merge_modules(file.read())
    forget_the_judge()
    gc.collect()
    gc.freeze()
    send(control, {"layers": home.layers, "error": probe(home)})
    while True:
        message, fds = receive(control)
        if message is None:
            return
        if message["do"] == "open":
            fork_host(control, message, fds, home)
        elif message["do"] == "build":
            send(control, build(message, fds, home))
        else:
            send(control, run_alone(message, fds, home))


def forget_the_judge() -> None:
    """Nothing of the judge can be imported from here on, neither by path nor from what is loaded."""
    sys.path[:] = [path for path in sys.path if path != sys.argv[3]]
    for name in [name for name in sys.modules if name.partition(".")[0] == "openmimo"]:
        del sys.modules[name]
    sys.path_importer_cache.clear()
    sys.argv[:], sys.orig_argv[:] = ["solution.py"], []


def warm_up() -> None:
    """Run once what every test runs, so that its caches are filled before the forks."""
    source = "import sys\ndef f(x):\n    return [x]\na, b = map(int, input().split())\nprint(f(a + b)[0], end='')"
    names = {"print": lambda *a, **k: None, "input": lambda: "1 2"}
    exec(compile(source, "solution.py", "exec"), names)
    json.dumps(json.loads('[1, 2.5, "x", null]'))
    io.TextIOWrapper(io.BytesIO(), encoding="utf-8").write("")


def probe(home: Home) -> str:
    """Do once what every test does before its program runs; what stands in the way, or ""."""
    reader, writer = os.pipe()
    null = os.open("/dev/null", os.O_RDWR)
    pid = spawn(home)
    if pid == 0:
        try:
            keep = 9
            os.dup2(writer, keep)
            prepare({"cpu_s": 5, "memory_bytes": 1 << 30, "stack_bytes": 0, "output_bytes": 1 << 20,
                     "max_processes": 16}, home)  # fmt: skip
            become_program([null] * 3, {"cpu_s": 5}, home, "", keep=keep)
            if not os.access(os.path.dirname(os.__file__), os.R_OK | os.X_OK):
                raise PermissionError(f"the programs' user cannot read {os.path.dirname(os.__file__)}")
        except BaseException as error:
            os.write(keep, f"{type(error).__name__}: {error}".encode())
        os._exit(0)
    os.close(writer)
    os.close(null)
    with open(reader, "rb") as file:
        told = file.read()
    os.waitpid(pid, 0)
    # Last, for what cannot be undone: does the filter take?
    pid = spawn(home)
    if pid == 0:
        os._exit(0 if all(f.install() for f in list(home.filters.values())[:1]) else 1)
    if os.waitpid(pid, 0)[1] != 0:
        home.filters, home.layers["seccomp"] = {}, False
    return told.decode()


def fork_host(control: socket.socket, message: dict[str, Any], fds: list[int], home: Home) -> None:
    if home.own_pids >= 0:
        kernel.join_pid_namespace(home.own_pids)
    pid = kernel.fork()
    if pid == 0:
        try:
            host(control, message, fds[0], home)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    for fd in fds:
        os.close(fd)
    _, status = os.waitpid(pid, 0)
    if status != 0 and home.own_pids >= 0:
        kill_rest(-1)  # a test that had not yet asked to die with its host
    send(control, {"gone": status})


def host(control: socket.socket, limits: dict[str, Any], source_fd: int, home: Home) -> None:
    """Compile one program and fork its tests. Never runs a line of it."""
    kernel.die_with_parent()
    kernel.adopt_orphans()  # without a pid namespace, orphans of a test come to us, to be killed and counted
    prepare(limits, home)
    run: Callable[[], int] | int = source_fd
    if limits["mode"] != "binary":
        resource.setrlimit(resource.RLIMIT_CPU, (_COMPILE_CPU_S, resource.RLIM_INFINITY))
        code, error = compile_program(read_all(source_fd))
        resource.setrlimit(resource.RLIMIT_CPU, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        os.close(source_fd)
        if code is None:
            send(control, {"error": error})
            os._exit(0)
        run = python_run(code, limits)
    gc.collect()
    gc.freeze()
    send(control, {"error": ""})
    fast = serve is not None and home.compiled and callable(run) and (home.own_pids >= 0 or home.bare)
    while True:
        if fast:
            assert callable(run)
            message, fds = serve_fast(control, run, limits, home)
        else:
            message, fds = receive(control)
        if message is None or message["do"] == "end":
            os._exit(0)
        send(control, run_test(run, fds, limits, home))


def serve_fast(
    control: socket.socket, run: Callable[[], int], limits: dict[str, Any], home: Home
) -> tuple[Any, list[int]]:
    """Run tests as `run_test` does, in compiled code, until a message comes that is none."""
    code = home.filters["python"].code if home.filters else b""
    rights = home.uid <= 0 and bool(home.layers)
    wait_ms = int(1000 * min(limits["wall_s"], limits["cpu_s"] / CPUS)) + 1
    while True:
        found = serve(
            control.fileno(), home.own_pids, home.uid, rights, home.ruleset, code, cpu_backstop_s(limits), wait_ms
        )
        if found is None:
            exit_code = 1
            try:
                exit_code = run()
            finally:
                os._exit(exit_code)
        first, second = found
        if isinstance(first, bytes):
            assert isinstance(second, list)
            return (json.loads(first) if first else None), second
        assert isinstance(second, float)
        send(control, watch(first, second, limits, home))


def run_test(run: Callable[[], int] | int, fds: list[int], limits: dict[str, Any], home: Home) -> dict[str, Any]:
    """Run the program in a child: call it, or execute the open file that it is."""
    started_s = time.monotonic()
    pid = spawn(home)
    if pid == 0:
        exit_code = 1
        try:
            if isinstance(run, int):
                become_program(fds, limits, home, "binary", keep=run)
                os.execve(run, ["solution"], {})
            become_program(fds, limits, home, "python")
            exit_code = run()
        except BaseException:
            pass
        os._exit(exit_code)
    for fd in fds:
        os.close(fd)
    return watch(pid, started_s, limits, home)


def run_alone(message: dict[str, Any], fds: list[int], home: Home) -> dict[str, Any]:
    """Compile and run in one process, a fork less than with a host; the limits cover the compiler too."""
    started_s = time.monotonic()
    pid = spawn(home)
    if pid == 0:
        exit_code = 1
        try:
            prepare(message, home)
            source = read_all(fds[3])
            become_program(fds[:3], message, home, "python")
            code, error = compile_program(source)
            if code is None:
                os.write(2, error.encode("utf-8", "backslashreplace"))
                exit_code = COMPILE_EXIT_CODE
            else:
                exit_code = python_run(code, message)()
        except BaseException:
            pass
        os._exit(exit_code)
    for fd in fds:
        os.close(fd)
    return watch(pid, started_s, message, home)


def build(message: dict[str, Any], fds: list[int], home: Home) -> dict[str, Any]:
    """Run a compiler on a source in an empty folder; its output goes into the second file.

    The folder is the writable one of our own root, emptied afterwards; without such a root, one that the supervisor
    made and removes.
    """
    started_s = time.monotonic()
    own = home.layers.get("root", False)
    folder = BUILD_FOLDER if own else message["folder"]
    source, binary, errors = fds
    pid = spawn(home)
    if pid == 0:
        try:
            prepare(message, home)
            os.chdir(folder)
            with open(message["source_name"], "wb") as file:
                file.write(read_all(source))
            null = os.open("/dev/null", os.O_RDWR)
            become_program([null, errors, errors], message, home, "build")
            os.execve(message["command"][0], message["command"], {"PATH": "/usr/bin:/bin", "TMPDIR": os.getcwd()})
        except BaseException as error:
            os.write(errors, f"{type(error).__name__}: {error}".encode())
        os._exit(1)
    facts = watch(pid, started_s, message, home)
    try:
        if facts["status"] == 0:
            made = os.open(os.path.join(folder, message["binary_name"]), os.O_RDONLY | os.O_NOFOLLOW)
            while block := os.read(made, 1 << 20):
                os.write(binary, block)
            os.close(made)
    except OSError:
        facts["status"] = 1 << 8
    for fd in fds:
        os.close(fd)
    if own:
        empty(folder)
    return facts


def empty(folder: str) -> None:
    """Remove what is in a folder: by hand, since shutil would bring three libraries along into every fork."""
    for entry in os.scandir(folder):
        if entry.is_dir(follow_symlinks=False):
            empty(entry.path)
            os.rmdir(entry.path)
        else:
            os.unlink(entry.path)


def read_all(fd: int) -> bytes:
    return os.pread(fd, os.fstat(fd).st_size, 0)


def send(control: socket.socket, message: dict[str, Any]) -> None:
    try:
        control.send(json.dumps(message).encode())
    except (BrokenPipeError, ConnectionResetError):
        os._exit(0)  # the supervisor is gone


def receive(control: socket.socket) -> tuple[Any, list[int]]:
    """(message, file descriptors), or (None, []) once the supervisor is gone."""
    fds = array.array("i")
    try:
        data, ancillary, _, _ = control.recvmsg(
            _MESSAGE_BYTES, socket.CMSG_SPACE(4 * fds.itemsize), socket.MSG_CMSG_CLOEXEC
        )
    except ConnectionResetError:
        return None, []
    for level, kind, payload in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(payload[: len(payload) - len(payload) % fds.itemsize])
    return (json.loads(data), list(fds)) if data else (None, [])
