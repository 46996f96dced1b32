"""A machine to lose: a weak judge meets a hostile program where nobody else can be hurt.

`python throwaway.py` reads one JSON object on stdin and prints a report. It becomes the first process of new pid, IPC
and mount namespaces (and a user namespace, where it is not root) with /tmp, /dev/shm and /proc of its own, starts two
processes of the weak judge (the attack, then an honest program; beside them an honest program), looks for what is left,
and ends: the kernel then ends everything else in there. The network is the machine's own.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

CLONE_NEWNS, CLONE_NEWIPC, CLONE_NEWUSER, CLONE_NEWPID = 0x00020000, 0x08000000, 0x10000000, 0x20000000
MS_PRIVATE_ALL = (1 << 14) | (1 << 18)
DEADLINE_S = 15.0
LEAVE_S = 2.0  # for a judge that has given all its verdicts


def main() -> None:
    job = json.load(sys.stdin)
    judge_source = Path(__file__).with_name("weak_judges.py").read_text(encoding="utf-8")
    from leftovers import leftovers  # before the file systems change

    enter()
    pid = os.fork()
    if pid:
        _, status = os.waitpid(pid, 0)
        os._exit(os.waitstatus_to_exitcode(status) & 0xFF)
    for source, target in ((b"proc", b"/proc"), (b"tmpfs", b"/tmp"), (b"tmpfs", b"/dev/shm")):
        if libc.mount(source, target, source, 0, b"") != 0:
            raise OSError(ctypes.get_errno(), f"cannot mount {target.decode()}")
    os.chdir("/")
    tempfile.tempdir = "/tmp"
    journal = Path("/tmp/journal")
    journal.touch()
    report = meet(job, judge_source, journal)
    report["left"] = sorted(leftovers(job["mark"], job["key"], journal))
    print(json.dumps(report), flush=True)
    os._exit(0)


def enter() -> None:
    """New namespaces for this process's children.

    Raises:
        OSError: where the machine forbids them.
    """
    flags = CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWNS
    uid, gid = os.getuid(), os.getgid()
    if libc.unshare(flags | (CLONE_NEWUSER if uid else 0)) != 0:
        raise OSError(ctypes.get_errno(), "no namespaces for a throw-away machine")
    if uid:
        for name, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
            Path(f"/proc/self/{name}").write_text(text)
    libc.mount(b"none", b"/", None, MS_PRIVATE_ALL, None)


def meet(job: dict[str, Any], judge_source: str, journal: Path) -> dict[str, Any]:
    """Verdicts of the attack, of the honest program after it and of the one beside it; [] for a judge that was lost."""
    journal_fd = os.open(journal, os.O_WRONLY | os.O_APPEND)
    os.set_inheritable(journal_fd, True)

    def start(jobs: list[dict[str, Any]]) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, "-c", judge_source, job["judge"], str(journal_fd)],
            stdin=subprocess.PIPE,
            stdout=open(f"/tmp/answers-{len(processes)}", "wb"),
            stderr=open("/tmp/errors", "ab"),
            env={"PATH": os.environ["PATH"], "JUDGE_TOKEN": job["token"]},
            pass_fds=(journal_fd,),
        )
        processes.append(process)
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(json.dumps(jobs).encode())
            process.stdin.close()
        return process

    processes: list[subprocess.Popen[bytes]] = []
    start([job["beside"]])
    start([job["attack"]] * job["times"] + [job["after"]])
    deadline_s = time.monotonic() + DEADLINE_S
    ended = [
        wait(process, lambda number=number, due=due: len(read_answers(number)) >= due, deadline_s)
        for number, (process, due) in enumerate(zip(processes, (1, job["times"] + 1), strict=True))
    ]
    answers = [read_answers(number) for number in range(2)]
    attack = answers[1][: job["times"]]
    return {
        "attack": [answer["statuses"] for answer in attack],
        "outputs": [output for answer in attack for output in answer["outputs"]],
        "beside": answers[0][0]["statuses"] if answers[0] else [],
        "after": answers[1][job["times"]]["statuses"] if len(answers[1]) > job["times"] else [],
        "judge_ended": ended[1],
        "judge_peak_bytes": max((answer["peak_bytes"] for answer in answers[1]), default=0),
    }


def read_answers(number: int) -> list[dict[str, Any]]:
    """Verdicts that a judge has written; a program may have written there too."""
    lines = Path(f"/tmp/answers-{number}").read_text(errors="replace").split("\n")
    return [json.loads(line[line.index("{") :]) for line in lines if '"statuses"' in line and line.endswith("}")]


def wait(process: subprocess.Popen[bytes], done: Callable[[], bool], deadline_s: float) -> bool:
    """Whether it ended by itself and well; a judge that was stopped, or hangs when all is done, has not."""
    leave_s = float("inf")
    while time.monotonic() < min(deadline_s, leave_s):
        if done():
            leave_s = min(leave_s, time.monotonic() + LEAVE_S)
        try:
            pid, status = os.waitpid(process.pid, os.WNOHANG | os.WUNTRACED)
        except ChildProcessError:
            return False
        if pid:
            if os.WIFSTOPPED(status):
                return False
            process.returncode = os.waitstatus_to_exitcode(status)
            return process.returncode == 0
        time.sleep(0.02)
    return False


libc = ctypes.CDLL(None, use_errno=True)

if __name__ == "__main__":
    main()
