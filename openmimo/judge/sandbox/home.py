"""What surrounds the programs: the layers that last as long as a zygote, and those each test takes on (MiMo 3.4.1)."""

from __future__ import annotations

import os
import resource
from typing import Any

from openmimo.judge.sandbox import kernel
from openmimo.judge.sandbox.seccomp import filter_for

BUILD_FOLDER = "/build"
"""The one folder that a compiler may write to."""
_PYTHON_STACK_BYTES = 100 << 20  # the main thread's; the kernel leaves 128 MiB free below it


class Home:
    """What the zygote has, and what it needs at every fork."""

    layers: dict[str, bool]
    proc = -1
    """The machine's /proc, as it looks from outside."""
    bare = False
    """No layer was asked for."""
    compiled = True
    """Use the compiled host loop, if it is there."""
    own_pids = -1
    """The zygote's own pid namespace; -1 if it has none."""
    uid = -1
    """Of the programs; -1: the zygote's, without its rights."""
    ruleset = -1
    """Landlock's; -1 if there is none."""
    filters: dict[str, kernel.Filter]
    """`python`, `binary` and `build`; empty if there are none."""


def enter(asked: dict[str, Any]) -> Home:
    """Take on every layer that lasts as long as the zygote."""
    home, layers = Home(), dict[str, bool]()
    home.layers, home.filters = layers, {}
    home.proc = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC) if os.path.isdir("/proc") else -1
    if os.access("/proc/self/oom_score_adj", os.W_OK):
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write("1000")
    home.bare, home.compiled = asked["bare"], asked["compiled"]
    if home.bare:
        return home
    administrator = kernel.may_administer()
    if not administrator:
        layers["user namespace"] = kernel.become_root_of_user_namespace(home.proc)
    for name, flag in (("network", kernel.NEW_NETWORK), ("ipc", kernel.NEW_IPC), ("mount", kernel.NEW_MOUNT)):
        layers[name] = kernel.unshare(flag)
    kernel.unshare(kernel.NEW_UTS)
    writable = BUILD_FOLDER if asked["profile"] == "build" else ""
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


def spawn(home: Home) -> int:
    """Fork, as the first process of a new pid namespace where there can be one."""
    if home.own_pids >= 0:
        kernel.join_pid_namespace(home.own_pids)
        kernel.unshare(kernel.NEW_PID)
    return kernel.fork()


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
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_backstop_s(limits), cpu_backstop_s(limits)))
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


def cpu_backstop_s(limits: dict[str, Any]) -> int:
    """The host kills at the limit itself, but the kernel does it even if the host is gone."""
    return int(-(-limits["cpu_s"] // 1)) + 1
