"""Run programs in a sandbox on a machine that allows less: `python restricted.py MODE`, one JSON object on stdout.

Modes: `root`; `user` (somebody without rights); `container` (no capabilities and no namespaces, as in most containers);
`no_user_namespaces` (root, but no user namespace); `nothing` (no namespaces, no filters, no Landlock).
"""

import ctypes
import json
import os
import sys
from pathlib import Path

from openmimo.judge.sandbox import kernel, seccomp
from openmimo.judge.sandbox.limits import Limits
from openmimo.judge.sandbox.supervisor import Sandbox, self_test

UNSHARE, SETNS, MOUNT, PRCTL, LANDLOCK = 272, 308, 165, 157, 444  # x86-64
EPERM, ENOSYS, PR_SET_SECCOMP = 1, 38, 22

PROGRAMS = {
    "ids": "import os\nprint(os.getuid(), os.getpid())",
    "sees": "import os\nprint(sorted(os.listdir('/')))",
    "writes": "import os, tempfile\nopen('/tmp/openmimo_left', 'w')",
    "reads": "print(open('/etc/passwd').read(10))",
    "forks": "import os\nos.fork()",
    "signals": "import os\nos.kill(os.getppid(), 0)\nassert os.getppid() == 0",
    "connects": "import socket\nsocket.socket()",
    "executes": "import os\nos.execv('/bin/true', ['true'])",
    "raises_limits": "import resource\nresource.setrlimit(resource.RLIMIT_DATA, (-1, -1))",
    "loops": "while True: pass",
    "answers": "print(42)",
}


def fail_calls(*rules: tuple[int, int | None, int]) -> None:
    """Let calls fail from here on: (number, value of its first argument or any, error)."""
    code = [seccomp._load(0)]
    for number, argument, error in rules:
        action = [seccomp._return(0x00050000 | error)]
        if argument is not None:
            action = [seccomp._load(16), seccomp._jump(0x45, argument, 0, 1), *action, seccomp._load(0)]
        code += [seccomp._jump(0x15, number, 0, len(action)), *action]
    kernel.forbid_new_rights()
    assert kernel.Filter(b"".join([*code, seccomp._return(0x7FFF0000)])).install()


def restrict(mode: str) -> None:
    if mode == "no_user_namespaces":
        fail_calls((UNSHARE, kernel.NEW_USER, EPERM))
    elif mode == "user":
        become_nobody_special()
    elif mode != "root":
        if mode == "container":
            fail_calls((UNSHARE, None, EPERM), (SETNS, None, EPERM), (MOUNT, None, EPERM))
        elif mode == "nothing":
            fail_calls((UNSHARE, None, EPERM), (LANDLOCK, None, ENOSYS), (PRCTL, PR_SET_SECCOMP, EPERM))
        # No capability, and none to be had by executing a program as user 0.
        ctypes.CDLL(None).prctl(28, 3, 0, 0, 0)
        kernel.drop_rights()


def become_nobody_special() -> None:
    """User 1000 of a namespace, without rights there, who may still read what root's Python is made of."""
    ready, mapped = os.pipe(), os.pipe()
    if (child := os.fork()) == 0:
        os.read(ready[0], 1)
        for name in ("uid_map", "gid_map"):
            Path(f"/proc/{os.getppid()}/{name}").write_text("1000 0 1")
        os.write(mapped[1], b"m")
        os._exit(0)
    os.setgroups([])
    assert kernel.unshare(kernel.NEW_USER)
    os.write(ready[1], b"r")
    os.read(mapped[0], 1)
    os.waitpid(child, 0)
    os.setresgid(1000, 1000, 1000)
    os.setresuid(1000, 1000, 1000)
    kernel.drop_rights()


def main() -> None:
    mode = sys.argv[1]
    restrict(mode)
    found = self_test()
    answer: dict[str, object] = {"level": found.level, "reason": found.reason, "runs": {}}
    try:
        with Sandbox(Limits(cpu_s=0.3, wall_s=1.0), accept_unsafe="accept" in sys.argv) as sandbox:
            for name, source in PROGRAMS.items():
                if mode == "nothing" and name not in ("answers", "loops"):
                    continue  # nothing would stop them
                with sandbox.open(source.encode()) as program:
                    run = program.run(b"")
                    answer["runs"][name] = [run.wait_status, run.output.decode(), run.error.decode()[-200:]]
    except RuntimeError as error:
        answer["refused"] = str(error)
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
