"""A warm Python that forks programs (MiMo 3.4.1). Run as a script, by path, in an interpreter of its own.

Three generations, so that a test costs one fork of a small process:

    zygote       one per worker; first process (pid 1) of its own namespaces, standard library imported
     +- host     one per solution; compiles the program, never runs it
         +- test one per test; unprivileged, limited; runs the program; then whatever it left behind is killed

The zygote talks with the supervisor over one SOCK_SEQPACKET socket, inherited; the host takes over the socket
while it lives. Texts and data travel as memory files, so that a message is small:

    supervisor -> zygote   solution {limits}, with [source]
    host -> supervisor     compiled {"error": ""}
    supervisor -> host     test {entry_point}, with [stdin, stdout, stderr]   -> {"status", "cpu_s", ...}
    supervisor -> host     end
    supervisor -> zygote   alone {limits, entry_point}, with [stdin, stdout, stderr, source]: without a host
    zygote -> supervisor   gone {"status"}, whenever a host has ended

No process here ever holds an expected output. This file imports nothing of openmimo, and no program can import it. Left
out as yet: seccomp, cgroups: this is not full isolation.
"""

import array
import atexit
import ctypes
import gc
import io
import json
import os
import resource
import select
import signal
import socket
import sys
import threading
import time
import traceback
import types
import warnings
from collections.abc import Callable

# Imported for the programs: what most of them need is then free.
for name in (
    "bisect collections copy datetime decimal fractions functools heapq io itertools math operator random re "
    "statistics string threading typing".split()
):
    __import__(name)

MEMORY_EXIT_CODE, COMPILE_EXIT_CODE = 97, 98
MESSAGE_BYTES = 65536

CLONE_NEWNS, CLONE_NEWIPC, CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = (
    0x00020000, 0x08000000, 0x10000000, 0x20000000, 0x40000000,
)  # fmt: skip
PR_SET_PDEATHSIG, PR_SET_NO_NEW_PRIVS, PR_SET_CHILD_SUBREAPER, PR_CAPBSET_DROP = 1, 38, 36, 24
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 1, 2, 4, 32, 4096, 16384, 1 << 18

libc = ctypes.CDLL(None, use_errno=True)


class Home:
    """What the zygote found out about the machine."""

    missing: list  # names of what it could not have
    alone: bool  # a pid namespace of its own: whatever else lives in it was started by a program
    uid: int  # of the programs; -1 if they run as we do


def main() -> None:
    control = socket.socket(fileno=int(sys.argv[1]))
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    warnings.simplefilter("ignore")
    home = Home()
    home.missing = enter_namespaces()
    home.uid = choose_uid()
    os.environ.clear()
    if os.access("/proc/self/oom_score_adj", os.W_OK):
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write("1000")
    home.alone = become_first_process()
    if not home.alone:
        home.missing.append("pid")
    if "mount" not in home.missing and not enter_root():
        home.missing.append("root")
    os.chdir("/")
    warm_up()
    gc.collect()
    gc.freeze()
    send(control, {"missing": home.missing, "uid": home.uid, "error": probe(home)})
    while True:
        message, fds = receive(control)
        if message is None:
            return
        if "entry_point" in message:
            send(control, run_alone(message, fds, home))
        else:
            fork_host(control, message, fds, home)


def become_first_process() -> bool:
    """Go on as pid 1 of a new pid namespace: programs cannot signal it, and the namespace dies with it."""
    if libc.unshare(CLONE_NEWPID) != 0:
        return False
    pid = os.fork()
    if pid:
        os.closerange(3, 1 << 20)
        _, status = os.waitpid(pid, 0)
        os._exit(os.waitstatus_to_exitcode(status) & 0xFF)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    return True


def choose_uid() -> int:
    """A user of this zygote's own, so that limits on processes are shared with nobody; a container may have few."""
    if os.geteuid() != 0:
        return -1
    for uid in (1_000_000 + os.getpid(), 20_000 + os.getpid() % 40_000):
        pid = os.fork()
        if pid == 0:
            try:
                os.setresuid(uid, uid, uid)
            except OSError:
                os._exit(1)
            os._exit(0)
        if os.waitpid(pid, 0)[1] == 0:
            return uid
    return 65534


def probe(home: Home) -> str:
    """Do once what every test does before its program runs; what stands in the way, or ""."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            null = os.open("/dev/null", os.O_RDWR)
            keep = os.dup(writer)
            limits = {
                "cpu_s": 5,
                "memory_bytes": 1 << 30,
                "stack_bytes": 0,
                "output_bytes": 1 << 20,
                "max_processes": 16,
            }
            prepare_programs(limits, home)
            become_user(home)
            if not os.access(os.path.dirname(os.__file__), os.R_OK | os.X_OK):
                raise PermissionError(f"the programs' user cannot read {os.path.dirname(os.__file__)}")
            os.close(null)
        except BaseException as error:
            os.write(keep, f"{type(error).__name__}: {error}".encode())
        os._exit(0)
    os.close(writer)
    with open(reader, "rb") as file:
        told = file.read()
    os.waitpid(pid, 0)
    return told.decode()


def enter_namespaces() -> list:
    """No network, no shared memory of others, a private view of mounts; names of what could not be had."""
    missing = []
    if os.geteuid() != 0:
        uid, gid = os.getuid(), os.getgid()
        if libc.unshare(CLONE_NEWUSER) != 0:
            return ["user", "network", "ipc", "mount"]
        for path, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
            with open(f"/proc/self/{path}", "w") as file:
                file.write(text)
    for name, flag in (("network", CLONE_NEWNET), ("ipc", CLONE_NEWIPC), ("mount", CLONE_NEWNS)):
        if libc.unshare(flag) != 0:
            missing.append(name)
    return missing


def enter_root() -> bool:
    """A root that holds the standard library and the system's libraries, read-only, and nothing else: no /proc.

    It is a memory file system over this mount namespace's /proc, the one folder that hides nothing else.
    """
    root = "/proc"
    if libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None) != 0:
        return False
    flags = MS_NOSUID | MS_NODEV
    if libc.mount(b"none", root.encode(), b"tmpfs", flags, b"size=64k,mode=755") != 0:
        return False
    for path in (os.path.dirname(os.__file__), "/usr", "/lib", "/lib64", "/dev/null", "/dev/zero", "/dev/urandom"):
        if not os.path.exists(path):
            continue
        target = root + path
        os.makedirs(os.path.dirname(target), exist_ok=True)
        if os.path.islink(path):
            os.symlink(os.readlink(path), target)
            continue
        if os.path.isdir(path):
            os.makedirs(target, exist_ok=True)
        else:
            os.close(os.open(target, os.O_CREAT))
        if libc.mount(path.encode(), target.encode(), None, MS_BIND | MS_REC, None) != 0:
            return False
        read_only = MS_BIND | MS_REMOUNT | MS_RDONLY | MS_NOSUID
        if os.path.isdir(path) and libc.mount(None, target.encode(), None, read_only | MS_NODEV, None) != 0:
            return False
    if libc.mount(None, root.encode(), None, MS_REMOUNT | MS_RDONLY | flags, None) != 0:
        return False
    os.chroot(root)
    return True


def warm_up() -> None:
    """Run once what every test runs, so that its caches are filled before the forks."""
    exec(
        compile("def f(x):\n    return [x]\nprint(f(1), end='')", "solution.py", "exec"),
        {"print": lambda *a, **k: None},
    )
    json.dumps(json.loads('[1, 2.5, "x", null]'))
    io.TextIOWrapper(io.BytesIO(), encoding="utf-8").write("")


def fork_host(control: socket.socket, message: dict, fds: list, home: Home) -> None:
    pid = os.fork()
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
    send(control, {"gone": status})


def host(control: socket.socket, limits: dict, source_fd: int, home: Home) -> None:
    """Compile one program and fork its tests. Never runs a line of it."""
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)  # orphans of a test come to us, to be killed and counted
    prepare_programs(limits, home)
    source = read_all(source_fd)
    os.close(source_fd)
    code, error = compile_program(source)
    if code is None:
        send(control, {"error": error})
        os._exit(0)
    del source
    streams = open_streams()
    gc.freeze()
    send(control, {"error": ""})
    while True:
        message, fds = receive(control)
        if message is None or "end" in message:
            os._exit(0)
        send(control, run_test(code, message, fds, limits, home, streams))


def compile_program(source: bytes) -> tuple:
    """(code, "") or (None, why not)."""
    try:
        return compile(source, "solution.py", "exec", dont_inherit=True), ""
    except MemoryError:
        return None, "MemoryError: the program is too large to compile"
    except (SyntaxError, ValueError, RecursionError, OverflowError) as error:
        return None, f"{type(error).__name__}: {error}"[:500]


def run_test(code: types.CodeType, message: dict, fds: list, limits: dict, home: Home, streams: tuple) -> dict:
    started_s = time.monotonic()
    pid = os.fork()
    if pid == 0:
        try:
            become_program(fds, limits, home)
            exit_code = (
                call_tests(code, message["entry_point"], streams)
                if message["entry_point"]
                else run_program(code, streams)
            )
        except BaseException:
            exit_code = 1
        os._exit(exit_code)
    for fd in fds:
        os.close(fd)
    return watch(pid, started_s, limits, home)


def run_alone(message: dict, fds: list, home: Home) -> dict:
    """Compile and run in one process, a fork less than with a host; the limits cover the compiler too."""
    started_s = time.monotonic()
    pid = os.fork()
    if pid == 0:
        exit_code = 1
        try:
            prepare_programs(message, home)
            source, streams = read_all(fds[3]), open_streams()
            become_program(fds[:3], message, home)
            code, error = compile_program(source)
            if code is None:
                os.write(2, error.encode("utf-8", "backslashreplace"))
                exit_code = COMPILE_EXIT_CODE
            else:
                exit_code = call_tests(code, message["entry_point"], streams)
        except BaseException:
            pass
        os._exit(exit_code)
    for fd in fds:
        os.close(fd)
    return watch(pid, started_s, message, home)


def watch(pid: int, started_s: float, limits: dict, home: Home) -> dict:
    """Wait for a test, at most until its wall limit, and clean up after it: what the kernel counted."""
    timed_out = not wait_until(pid, started_s + limits["wall_s"])
    if timed_out:
        kill(pid)
    _, status, usage = os.wait4(pid, 0)
    wall_s = time.monotonic() - started_s
    cpu_s = usage.ru_utime + usage.ru_stime + kill_rest(pid, home.alone)
    peak_bytes = usage.ru_maxrss * 1024
    return {"status": status, "cpu_s": cpu_s, "wall_s": wall_s, "peak_bytes": peak_bytes, "timed_out": timed_out}


def wait_until(pid: int, deadline_s: float) -> bool:
    """Whether the process ended by then."""
    fd = os.pidfd_open(pid)
    try:
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        return bool(poll.poll(max(0.0, deadline_s - time.monotonic()) * 1000.0))
    finally:
        os.close(fd)


def kill(pid: int) -> None:
    for target in (os.killpg, os.kill):
        try:
            target(pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass


def kill_rest(pid: int, alone: bool) -> float:
    """Kill whatever the test left behind, also what has fled its session; the CPU seconds that it had used."""
    cpu_s = 0.0
    while True:
        if alone:
            try:
                os.kill(-1, signal.SIGKILL)  # all in this pid namespace but its first process and us
            except ProcessLookupError:
                pass
        else:
            kill(pid)
            kill_children()
        try:
            # Not blocking for ever: without a namespace, an orphan of an orphan may be handed to us later.
            found, _, usage = os.wait4(-1, 0)
        except ChildProcessError:
            return cpu_s
        if found:
            cpu_s += usage.ru_utime + usage.ru_stime


def kill_children() -> None:
    try:
        with open(f"/proc/self/task/{os.getpid()}/children") as file:
            children = [int(word) for word in file.read().split()]
    except OSError:
        return
    for child in children:
        try:
            os.kill(child, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass


def prepare_programs(limits: dict, home: Home) -> None:
    """What the host's tests inherit, set once: a session, a group, limits by process."""
    os.setsid()  # else kill(0) of a program would reach the zygote's group, across pid namespaces
    if home.uid >= 0:
        os.setgroups([])
        os.setresgid(home.uid, home.uid, home.uid)
    values = {
        # Data, not address space: shared libraries and reserved, untouched ranges are not counted.
        resource.RLIMIT_DATA: limits["memory_bytes"] + limits["stack_bytes"],
        resource.RLIMIT_FSIZE: limits["output_bytes"],
        resource.RLIMIT_NOFILE: 64,
        resource.RLIMIT_CORE: 0,
    }
    if home.uid >= 0 or "user" not in home.missing:  # else it would count every process of this machine's user
        values[resource.RLIMIT_NPROC] = limits["max_processes"]
    for kind, value in values.items():
        resource.setrlimit(kind, (value, value))
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def become_program(fds: list, limits: dict, home: Home) -> None:
    """From here on this process is the program's: nothing open, no rights, CPU limited. Short: each test pays."""
    for target, fd in enumerate(fds):
        os.dup2(fd, target)
    os.closerange(3, 1 << 20)
    become_user(home)
    # A signal at the limit, and no way past the second after it. The rlimit counts whole seconds; a program may stop
    # the finer timer, but not what the kernel tells the host.
    whole_s = int(-(-limits["cpu_s"] // 1))
    resource.setrlimit(resource.RLIMIT_CPU, (whole_s, whole_s + 1))
    if limits["cpu_s"] < whole_s:
        signal.setitimer(signal.ITIMER_PROF, limits["cpu_s"])
    if not home.alone:
        os.setsid()
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def become_user(home: Home) -> None:
    if home.uid >= 0:
        os.setresuid(home.uid, home.uid, home.uid)
        return
    # In a user namespace of ours we hold every capability there; give all of them up.
    for capability in range(64):
        if libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) != 0:
            break
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    libc.capset(header, (ctypes.c_uint32 * 6)())


def open_streams() -> tuple:
    """Python's view of descriptors 0, 1 and 2, made before the fork: the files behind them change with each test."""
    stdin = open(0, encoding="utf-8", closefd=False)
    stdout = open(1, "w", encoding="utf-8", closefd=False)
    stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False)
    return stdin, stdout, stderr


def use_streams(stdin: io.TextIOWrapper, stdout: io.TextIOWrapper, stderr: io.TextIOWrapper) -> types.ModuleType:
    """Fresh standard streams and a fresh __main__ without a trace of the zygote's."""
    sys.stdin, sys.stdout, sys.stderr = stdin, stdout, stderr
    vars(sys).update(__stdin__=stdin, __stdout__=stdout, __stderr__=stderr)
    sys.argv, sys.orig_argv = ["solution.py"], []
    module = types.ModuleType("__main__")
    sys.modules["__main__"] = module
    gc.enable()
    return module


def run_program(code: types.CodeType, streams: tuple) -> int:
    """A program over stdin and stdout; its exit code."""
    module = use_streams(*streams)
    return finish(lambda: exec(code, module.__dict__))


def call_tests(code: types.CodeType, entry_point: str, streams: tuple) -> int:
    """Call a function once for every line of stdin, a JSON list of arguments; one line of JSON for each result.

    The results go to file descriptor 1; what the program prints goes to 2.
    """
    stdin, _, stderr = streams
    module = use_streams(stdin, stderr, stderr)
    calls = sys.stdin.read().split("\n")
    write, dumps, loads = os.write, json.dumps, json.loads

    def run() -> None:
        exec(code, module.__dict__)
        function = find_function(module.__dict__, entry_point)
        for call in calls:
            value = function(*loads(call))
            try:
                result = dumps(value)
            except (TypeError, ValueError, RecursionError):
                result = ""  # not plain JSON: equal to nothing
            data = (result + "\n").encode()
            while data:
                data = data[write(1, data) :]

    return finish(run)


def find_function(namespace: dict, entry_point: str) -> Callable[..., object]:
    """A function of that name, or the method of a class `Solution`."""
    if entry_point in namespace:
        return namespace[entry_point]
    if "Solution" in namespace and hasattr(namespace["Solution"], entry_point):
        return getattr(namespace["Solution"](), entry_point)
    raise NameError(f"the program defines no function {entry_point!r}")


def finish(run: Callable[[], None]) -> int:
    """Run to the end as the interpreter would, exit handlers included, but without tearing it down."""
    exit_code = 0
    try:
        try:
            run()
        except SystemExit as error:
            exit_code = exit_status(error.code)
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        sys.stdout.flush()
    except MemoryError:
        exit_code = MEMORY_EXIT_CODE
    except BaseException:
        try:
            traceback.print_exc(limit=-20)
            atexit._run_exitfuncs()
            sys.stdout.flush()
        except BaseException:
            pass
        exit_code = 1
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
    size = os.fstat(fd).st_size
    return os.pread(fd, size, 0)


def send(control: socket.socket, message: dict) -> None:
    control.send(json.dumps(message).encode())


def receive(control: socket.socket) -> tuple:
    """(message, file descriptors), or (None, []) once the supervisor is gone."""
    fds = array.array("i")
    data, ancillary, _, _ = control.recvmsg(MESSAGE_BYTES, socket.CMSG_SPACE(4 * fds.itemsize), socket.MSG_CMSG_CLOEXEC)
    for level, kind, payload in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(payload[: len(payload) - len(payload) % fds.itemsize])
    return (json.loads(data), list(fds)) if data else (None, [])


if __name__ == "__main__":
    main()
