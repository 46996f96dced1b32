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

No process here ever holds an expected output, save the assert of a test that is an assert. It imports nothing else of
openmimo but what asks the kernel, forgets even that before the first fork, and no program can import it.
"""

from __future__ import annotations

import array
import atexit
import gc
import io
import json
import os
import resource
import select
import shutil
import signal
import socket
import sys
import threading
import time
import traceback
import types
import warnings
from collections.abc import Callable
from typing import Any

from openmimo.judge.sandbox import kernel
from openmimo.judge.sandbox.limits import ASSERT_EXIT_CODE, COMPILE_EXIT_CODE, MEMORY_EXIT_CODE
from openmimo.judge.sandbox.seccomp import filter_for

_WARM = {
    "base": "bisect collections contextlib copy dataclasses datetime decimal enum fractions functools heapq io "
    "itertools json math operator queue random re statistics string threading typing",
    "native": "",
    "build": "",
}
_WARM["special"] = _WARM["base"]
_WARM["numpy"] = _WARM["base"] + " numpy"
"""Imported for the programs: what most of them need is then free."""

PROGRAM_FILES = ("solution.py", "test.py")
_MESSAGE_BYTES = 65536
_PYTHON_STACK_BYTES = 100 << 20  # the main thread's; the kernel leaves 128 MiB free below it
_COMPILE_CPU_S = 5
_BUILD_FOLDER = "/tmp"
_CPUS = len(os.sched_getaffinity(0))


class Home:
    """What the zygote has, and what it needs at every fork."""

    layers: dict[str, bool]
    proc = -1
    """The machine's /proc, as it looks from outside."""
    own_pids = -1
    """The zygote's own pid namespace; -1 if it has none."""
    uid = -1
    """Of the programs; -1: the zygote's, without its rights."""
    ruleset = -1
    """Landlock's; -1 if there is none."""
    filters: dict[str, kernel.Filter]
    """`python`, `binary` and `build`; empty if there are none."""


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


def enter(asked: dict[str, Any]) -> Home:
    """Take on every layer that lasts as long as the zygote."""
    home, layers = Home(), dict[str, bool]()
    home.layers, home.filters = layers, {}
    home.proc = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC) if os.path.isdir("/proc") else -1
    if os.access("/proc/self/oom_score_adj", os.W_OK):
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write("1000")
    if asked["bare"]:
        return home
    administrator = kernel.may_administer()
    if not administrator:
        layers["user namespace"] = kernel.become_root_of_user_namespace(home.proc)
    for name, flag in (("network", kernel.NEW_NETWORK), ("ipc", kernel.NEW_IPC), ("mount", kernel.NEW_MOUNT)):
        layers[name] = kernel.unshare(flag)
    kernel.unshare(kernel.NEW_UTS)
    writable = _BUILD_FOLDER if asked["profile"] == "build" else ""
    layers["root"] = layers["mount"] and kernel.enter_root(
        asked["folders"], hidden=asked["hidden"], inside=asked["inside"], writable=writable
    )
    if administrator:
        layers["user namespace"] = kernel.leave_root_for_user_namespace(home.proc)
    if os.geteuid() == 0 and not (layers["user namespace"] and not administrator):
        home.uid = 1 if layers["user namespace"] else choose_uid()
    layers["own user"] = home.uid > 0 or layers["user namespace"]
    layers["pid"] = become_first_process()
    if layers["pid"]:
        home.own_pids = os.open("self/ns/pid", os.O_RDONLY | os.O_CLOEXEC, dir_fd=home.proc)
    kernel.forbid_new_rights()
    building = asked["profile"] == "build"
    home.ruleset = kernel.landlock(
        ["/"] if layers["root"] else asked["folders"] + asked["inside"],
        write=[writable] if writable else (),
        execute=building,
    )
    layers["landlock"] = home.ruleset >= 0
    machine = os.uname().machine
    try:
        home.filters = {
            "python": kernel.Filter(filter_for(machine, signals=layers["pid"])),
            "binary": kernel.Filter(filter_for(machine, signals=layers["pid"], execute=True)),
            "build": kernel.Filter(filter_for(machine, signals=layers["pid"], build=True)),
        }
    except ValueError:
        pass
    layers["seccomp"] = bool(home.filters)
    return home


def become_first_process() -> bool:
    """Go on as pid 1 of a new pid namespace: programs cannot signal it, and the namespace dies with it."""
    if not kernel.unshare(kernel.NEW_PID):
        kernel.die_with_parent()
        return False
    pid = os.fork()
    if pid:
        kernel.die_with_parent()  # a change of user has made the kernel forget it
        kernel.close_from(3)
        _, status = os.waitpid(pid, 0)
        os._exit(os.waitstatus_to_exitcode(status) & 0xFF)
    kernel.die_with_parent()
    return True


def choose_uid() -> int:
    """A user of this zygote's own, so that limits on processes are shared with nobody; a container may have few."""
    for uid in (0x40000000 + 2 * os.getpid(), 20_000 + os.getpid() % 40_000):
        pid = os.fork()
        if pid == 0:
            try:
                os.setresuid(uid, uid, uid)
            except OSError:
                os._exit(1)
            os._exit(0)
        if os.waitpid(pid, 0)[1] == 0:
            return uid
    return -1


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
    while True:
        message, fds = receive(control)
        if message is None or message["do"] == "end":
            os._exit(0)
        send(control, run_test(run, fds, limits, home))


def compile_program(source: bytes) -> tuple[types.CodeType | None, str]:
    """(code, "") or (None, why not)."""
    try:
        return compile(source, PROGRAM_FILES[0], "exec", dont_inherit=True), ""
    except MemoryError:
        return None, "MemoryError: the program is too large to compile"
    except (SyntaxError, ValueError, RecursionError, OverflowError) as error:
        return None, f"{type(error).__name__}: {error}"[:500]


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
    folder = _BUILD_FOLDER if own else message["folder"]
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
    for entry in os.scandir(folder) if own else ():
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path, ignore_errors=True)
        else:
            os.unlink(entry.path)
    return facts


def spawn(home: Home) -> int:
    """Fork, as the first process of a new pid namespace where there can be one."""
    if home.own_pids >= 0:
        kernel.join_pid_namespace(home.own_pids)
        kernel.unshare(kernel.NEW_PID)
    return kernel.fork()


def watch(pid: int, started_s: float, limits: dict[str, Any], home: Home) -> dict[str, Any]:
    """Wait for a test, stop it at its limits, clean up after it: what the kernel counted."""
    timed_out, waited_s = wait(pid, started_s, limits["cpu_s"], limits["wall_s"], home)
    _, status, usage = os.wait4(pid, 0)
    wall_s = time.monotonic() - started_s - waited_s
    cpu_s = usage.ru_utime + usage.ru_stime
    if home.own_pids < 0:
        cpu_s += kill_rest(pid)
    peak_bytes = usage.ru_maxrss * 1024
    return {"status": status, "cpu_s": cpu_s, "wall_s": wall_s, "peak_bytes": peak_bytes, "timed_out": timed_out}


def wait(pid: int, started_s: float, cpu_s: float, wall_s: float, home: Home) -> tuple[bool, float]:
    """Until the process has ended or was killed; (killed at a limit, seconds it had waited for a core).

    Wall time stops who idles: what a process waits for a core is not its fault and does not count.
    """
    pidfd = os.pidfd_open(pid)
    clock = (~pid << 3) | 2  # its CPU time, all threads
    used_s = waited_s = 0.0
    try:
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        while True:
            left_s = min(started_s + wall_s + waited_s - time.monotonic(), max((cpu_s - used_s) / _CPUS, 0.002))
            if poll.poll(max(0.0, left_s) * 1000.0):
                return False, waited_s
            used_s = time.clock_gettime(clock)
            if time.monotonic() - started_s >= wall_s + waited_s:
                waited_s = waiting_s(pidfd, home.proc)
            if used_s >= cpu_s or time.monotonic() - started_s >= wall_s + waited_s:
                kill(pid, home)
                return True, waited_s
    finally:
        os.close(pidfd)


def waiting_s(pidfd: int, proc: int) -> float:
    """Seconds that a process was ready to run and had no core: its unluckiest thread's; 0 where nobody can say."""
    try:
        with open(os.open(f"self/fdinfo/{pidfd}", os.O_RDONLY, dir_fd=proc)) as file:
            pid = next(int(line.split()[1]) for line in file if line.startswith("Pid:"))
        tasks = os.open(f"{pid}/task", os.O_RDONLY | os.O_DIRECTORY, dir_fd=proc)
        try:
            waits = []
            for task in os.listdir(tasks):
                with open(os.open(f"{task}/schedstat", os.O_RDONLY, dir_fd=tasks)) as file:
                    waits.append(int(file.read().split()[1]))
        finally:
            os.close(tasks)
        return max(waits) / 1e9
    except (OSError, ValueError, StopIteration, IndexError):
        return 0.0


def kill(pid: int, home: Home) -> None:
    for target in (os.kill,) if home.own_pids >= 0 else (os.killpg, os.kill):
        try:
            target(pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass


def kill_rest(pid: int) -> float:
    """Kill whatever a test left behind, -1 for all in this pid namespace; the CPU seconds that it had used."""
    cpu_s = 0.0
    while True:
        for child in (pid,) if pid == -1 else (pid, *children()):
            for target in (os.kill,) if pid == -1 else (os.killpg, os.kill):
                try:
                    target(child, signal.SIGKILL)
                except (ProcessLookupError, PermissionError):
                    pass
        try:
            found, _, usage = os.wait4(-1, 0)
        except ChildProcessError:
            return cpu_s
        if found:
            cpu_s += usage.ru_utime + usage.ru_stime


def children() -> list[int]:
    try:
        with open(f"/proc/self/task/{os.getpid()}/children") as file:
            return [int(word) for word in file.read().split()]
    except OSError:
        return []


def prepare(limits: dict[str, Any], home: Home) -> None:
    """What the tests inherit from the host, set once: limits by process."""
    native = limits.get("mode") == "binary"
    values = {
        # Data, not address space: shared libraries and reserved, untouched ranges are not counted.
        resource.RLIMIT_DATA: limits["memory_bytes"] + limits["stack_bytes"],
        resource.RLIMIT_STACK: limits["memory_bytes"] if native else min(limits["memory_bytes"], _PYTHON_STACK_BYTES),
        # One byte more than is allowed, so that who reached the limit can be told from who went beyond it.
        resource.RLIMIT_FSIZE: limits["output_bytes"] + 1,
        resource.RLIMIT_NOFILE: 64,
        resource.RLIMIT_CORE: 0,
    }
    if home.uid > 0 or home.layers.get("user namespace"):  # else it would count every process of this machine's user
        values[resource.RLIMIT_NPROC] = limits["max_processes"]
    for kind, value in values.items():
        hard = resource.getrlimit(kind)[1]
        value = int(value) if hard == resource.RLIM_INFINITY else min(int(value), hard)
        resource.setrlimit(kind, (value, value))


def become_program(fds: list[int], limits: dict[str, Any], home: Home, filter_name: str, *, keep: int = -1) -> None:
    """From here on this process is the program's: nothing open, no rights, CPU limited. Short: each test pays."""
    os.setsid()  # else kill(0) of a program would reach its host, across pid namespaces
    for target, fd in enumerate(fds):
        os.dup2(fd, target)
    # A backstop: the host kills at the limit itself, but the kernel does it even if the host is gone.
    whole_s = int(-(-limits["cpu_s"] // 1)) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (whole_s, whole_s))
    if home.uid > 0:
        os.setresgid(home.uid, home.uid, home.uid)
        os.setresuid(home.uid, home.uid, home.uid)
    elif home.layers:
        kernel.drop_rights()
    kernel.die_with_parent()
    if home.ruleset >= 0 and not kernel.restrict(home.ruleset):
        raise OSError("Landlock refused its rules")
    if keep < 0:
        kernel.close_from(3)
    else:
        os.closerange(3, keep)
        kernel.close_from(keep + 1)
        if filter_name:
            os.set_inheritable(keep, False)
    if filter_name in home.filters and not home.filters[filter_name].install():
        raise OSError("seccomp refused its filter")


def python_run(code: types.CodeType, asked: dict[str, Any]) -> Callable[[], int]:
    """What runs the compiled program as its tests ask, and returns its exit code.

    Made once, before the forks, down to the __main__ without a trace of ours and Python's view of descriptors 0, 1 and
    2: the files behind them change with each test, and what a fork finds ready it need not copy.
    """
    stdin = open(0, encoding="utf-8", closefd=False)
    stdout = open(1, "w", encoding="utf-8", closefd=False)
    stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False)
    module = types.ModuleType("__main__")
    namespace = module.__dict__
    sys.modules["__main__"] = module
    mode, entry_point = asked["mode"], asked["entry_point"]
    if mode != "program":
        stdout = stderr  # what the program prints goes to 2; 1 is for results
    sys.stdin, sys.stdout, sys.stderr = stdin, stdout, stderr
    vars(sys).update(__stdin__=stdin, __stdout__=stdout, __stderr__=stderr)
    gc.enable()
    if mode == "function":
        return lambda: finish(lambda: call_function(code, namespace, entry_point, stdin.read()))
    if mode == "assert":
        return lambda: finish(lambda: check_assert(code, namespace, stdin.read()), assert_exit_code=ASSERT_EXIT_CODE)
    return lambda: finish(lambda: exec(code, namespace))


def call_function(code: types.CodeType, namespace: dict[str, Any], entry_point: str, given: str) -> None:
    """Call a function once for every line given, a JSON list of arguments; write one line of JSON for each result."""
    write, dumps, loads = os.write, json.dumps, json.loads
    exec(code, namespace)
    function = find_function(namespace, entry_point)
    for call in given.split("\n"):
        value = function(*loads(call))
        try:
            result = dumps(value)
        except (TypeError, ValueError, RecursionError):
            result = ""  # not plain JSON: equal to nothing
        write_all(write, result + "\n")


def check_assert(code: types.CodeType, namespace: dict[str, Any], given: str) -> None:
    """Run the program, then the assert; write the word that came first only if no exception ended it on the way."""
    write = os.write
    word, _, assertion = given.partition("\n")
    test = compile(assertion, PROGRAM_FILES[1], "exec", dont_inherit=True)
    del given, assertion
    exec(code, namespace)
    exec(test, namespace)
    write_all(write, word)


def write_all(write: Callable[[int, bytes], int], text: str) -> None:
    data = text.encode()
    while data:
        data = data[write(1, data) :]


def find_function(namespace: dict[str, Any], entry_point: str) -> Callable[..., object]:
    """A function of that name, or the method of a class `Solution`."""
    if entry_point in namespace:
        found: Callable[..., object] = namespace[entry_point]
        return found
    if "Solution" in namespace and hasattr(namespace["Solution"], entry_point):
        method: Callable[..., object] = getattr(namespace["Solution"](), entry_point)
        return method
    raise NameError(f"the program defines no function {entry_point!r}")


def finish(run: Callable[[], None], *, assert_exit_code: int = 1) -> int:
    """Run to the end as the interpreter would, exit handlers included, but without tearing it down."""
    exit_code = 0
    try:
        try:
            run()
        except SystemExit as error:
            exit_code = exit_status(error.code)
        if len(threading._active) > 1 or threading._threading_atexits:  # type: ignore[attr-defined]
            threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        sys.stdout.flush()
    except MemoryError:
        exit_code = MEMORY_EXIT_CODE
    except BaseException as error:
        exit_code = assert_exit_code if isinstance(error, AssertionError) else 1
        try:
            trace = error.__traceback__
            while trace is not None and trace.tb_frame.f_code.co_filename not in PROGRAM_FILES:
                trace = trace.tb_next  # ours
            traceback.print_exception(type(error), error, trace, limit=-20)
            atexit._run_exitfuncs()
            sys.stdout.flush()
        except BaseException:
            pass
    try:
        sys.stderr.flush()
    except BaseException:
        pass
    return exit_code


def exit_status(code: object) -> int:
    if code is None:
        return 0
    if isinstance(code, int):
        return code & 0xFF
    print(code, file=sys.stderr)
    return 1


def read_all(fd: int) -> bytes:
    return os.pread(fd, os.fstat(fd).st_size, 0)


def send(control: socket.socket, message: dict[str, Any]) -> None:
    control.send(json.dumps(message).encode())


def receive(control: socket.socket) -> tuple[Any, list[int]]:
    """(message, file descriptors), or (None, []) once the supervisor is gone."""
    fds = array.array("i")
    data, ancillary, _, _ = control.recvmsg(
        _MESSAGE_BYTES, socket.CMSG_SPACE(4 * fds.itemsize), socket.MSG_CMSG_CLOEXEC
    )
    for level, kind, payload in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(payload[: len(payload) - len(payload) % fds.itemsize])
    return (json.loads(data), list(fds)) if data else (None, [])
