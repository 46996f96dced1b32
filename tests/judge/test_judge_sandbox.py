"""The layers of the sandbox: what a program cannot do at each level, and the filter against a slow reading of it."""

import errno
import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from openmimo.judge.sandbox import seccomp
from openmimo.judge.sandbox.cgroup import ControlGroup, sweep
from openmimo.judge.sandbox.levels import LAYERS, judged
from openmimo.judge.sandbox.limits import Limits
from openmimo.judge.sandbox.supervisor import Sandbox, self_test

ROOT = Path(__file__).resolve().parents[2]
LINUX_ROOT = sys.platform == "linux" and os.geteuid() == 0 and os.uname().machine == "x86_64"
ALLOW, KILL = 0x7FFF0000, 0x80000000


def restricted(mode, *more):
    done = subprocess.run(
        [sys.executable, "-B", str(Path(__file__).with_name("restricted.py")), mode, *more],
        capture_output=True, text=True, timeout=120, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


needs_root = pytest.mark.skipif(not LINUX_ROOT, reason="takes real root on x86-64 Linux to be restricted from")


@needs_root
@pytest.mark.parametrize(
    ("mode", "level"),
    [
        ("root", "full"),
        ("user", "full"),
        ("no_user_namespaces", "without user namespaces"),
        ("container", "without user namespaces"),
    ],
)
def test_no_program_gets_out_at_any_safe_level(mode, level):
    if not any(self_test().layers.values()):
        pytest.skip("this machine allows no namespaces at all")
    found = restricted(mode)
    assert found["level"] == level
    runs = found["runs"]
    assert runs["answers"][:2] == [0, "42\n"]
    for name in ("writes", "reads", "forks", "connects", "executes", "raises_limits"):
        assert runs[name][0] == 1 << 8, (name, runs[name])
        assert "Error" in runs[name][2]
    assert runs["loops"][0] == 9
    # With a pid namespace there is nobody to signal; without one, signals are refused.
    assert runs["signals"][0] == (1 << 8 if mode == "container" else 0)
    if mode != "container":
        uid, pid = runs["ids"][1].split()
        assert pid == "1" and (mode == "user" or uid != "0")
        assert "tmp" not in runs["sees"][1] and "proc" not in runs["sees"][1]
    assert not Path("/tmp/openmimo_left").exists()


@needs_root
def test_below_the_safe_level_nothing_runs_unless_accepted_and_then_it_is_stamped():
    refused = restricted("nothing")
    assert refused["level"] == "refused" and not refused["runs"]
    assert "--i-accept-unsafe" in refused["refused"]
    accepted = restricted("nothing", "accept")
    assert accepted["level"] == "refused" and accepted["runs"]["answers"][1] == "42\n"


def test_every_layer_counts():
    everything = dict.fromkeys(LAYERS, True)
    assert judged(everything).level == "full"
    for name in LAYERS:
        less = judged({**everything, name: False})
        on_top = name in ("landlock", "cgroup")
        assert less.level == ("full" if on_top else "without user namespaces") or name == "seccomp"
        assert name in less.reason
    assert judged({**everything, "seccomp": False}).level == "refused"
    assert judged({"seccomp": True, "landlock": True}).level == "without user namespaces"
    assert judged({"landlock": True}).level == "refused"
    assert judged({}).level == "refused"


def decide(code, machine, number, argument=0):
    """What a filter says to a call: the instructions read one by one, as the kernel's manual defines them."""
    memory = struct.pack("<IIQ6Q", number, seccomp.AUDIT_ARCHITECTURE[machine], 0, argument, 0, 0, 0, 0, 0)
    at = accumulator = 0
    while True:
        operation, if_true, if_false, value = struct.unpack_from("<HBBI", code, 8 * at)
        at += 1
        if operation == 0x20:
            accumulator = struct.unpack_from("<I", memory, value)[0]
        elif operation == 0x06:
            return value
        elif operation == 0x05:
            at += value
        else:
            true = {0x15: accumulator == value, 0x35: accumulator >= value, 0x45: bool(accumulator & value)}[operation]
            at += if_true if true else if_false


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
@pytest.mark.parametrize("options", [{"signals": False}, {"signals": True}, {"signals": True, "execute": True}])
def test_the_filter_allows_what_is_named_and_nothing_else(machine, options):
    code = seccomp.filter_for(machine, **options)
    numbers = seccomp.NUMBERS[machine]
    allowed = set(seccomp.COMPUTE) | (seccomp.SIGNAL if options["signals"] else set())
    allowed |= {"execveat"} if options.get("execute") else set()
    expected = {numbers[name] for name in allowed if name in numbers}
    special = {numbers[name] for name in ("clone", "clone3", "prlimit64", "ioctl")}
    for number in range(600):
        if number not in special:
            assert (decide(code, machine, number) == ALLOW) == (number in expected), number
    for name in ("execve", "fork", "vfork", "truncate", "rename", "unlink", "mkdir", "chmod"):
        assert name not in numbers or decide(code, machine, numbers[name]) == 0x50000 | errno.EPERM
    assert decide(code, machine, numbers["clone"], 0x10000) == ALLOW  # a thread
    assert decide(code, machine, numbers["clone"], 17) == 0x50000 | errno.EPERM  # a process
    assert decide(code, machine, numbers["clone3"]) == 0x50000 | errno.ENOSYS
    assert decide(code, machine, numbers["prlimit64"], 0) == ALLOW
    assert decide(code, machine, numbers["prlimit64"], 4711) == 0x50000 | errno.EPERM


def test_other_architectures_calls_kill():
    code = seccomp.filter_for("x86_64", signals=True)
    assert decide(code, "aarch64", 0) == KILL
    assert decide(code, "x86_64", 0x40000000) == KILL  # x32
    with pytest.raises(ValueError, match="no table of system calls for 'riscv64'; there are x86_64, aarch64"):
        seccomp.filter_for("riscv64", signals=True)


def test_wall_time_is_less_what_a_program_waited_for_a_core():
    # Two cores at most for many: each program computes for 0.15 s, and waits several times as long.
    busy = [
        subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(4 * len(os.sched_getaffinity(0)))
    ]
    try:
        with Sandbox(Limits(cpu_s=2.0, wall_s=0.4)) as sandbox:
            sandbox.start()
            with sandbox.open(b"import time\nwhile time.process_time() < 0.15: pass\nprint('done')") as program:
                for _ in range(3):
                    run = program.run(b"")
                    assert run.output == b"done\n" and not run.timed_out, run
    finally:
        for process in busy:
            process.kill()
            process.wait()


def test_a_killed_host_takes_its_test_along():
    with Sandbox(Limits(cpu_s=5.0, wall_s=20.0)) as sandbox:
        sandbox.start()
        zygote = sandbox._zygotes["base"]
        with sandbox.open(b"import time\ntime.sleep(60)") as program:
            zygote.send({"do": "test"}, [0, 1, 2])
            for _ in range(500):
                if len(below(zygote._process.pid)) == 4:
                    break
                os.sched_yield()
            host, test = below(zygote._process.pid)[2:]
            os.kill(host, 9)
            assert "gone" in zygote.receive(5.0)
            for _ in range(1000):
                if not Path(f"/proc/{test}").exists():
                    break
                subprocess.run(["sleep", "0.005"], check=True)
            assert not Path(f"/proc/{test}").exists()
            program.end = lambda: None


def below(pid):
    """A process and its descendants, each an only child, from the top."""
    found = [pid]
    while words := Path(f"/proc/{found[-1]}/task/{found[-1]}/children").read_text().split():
        found.append(int(words[0]))
    return found


def test_groups_of_killed_judges_are_swept_away():
    group = ControlGroup(10)
    if not group._folders:
        pytest.skip("no control group can be made here")
    left = [folder.with_name("openmimo-judge-999999999-0") for folder in group._folders]
    for folder in left:
        folder.mkdir()
    sweep()
    assert not any(folder.exists() for folder in left)
    assert all(folder.exists() for folder in group._folders)
    group.remove()
    assert not group._folders
