"""Wait for a test, stop it at its limits, clean up after it, and say what the kernel counted (MiMo 3.4.1)."""

from __future__ import annotations

import os
import select
import signal
import time
from typing import Any

from openmimo.judge.sandbox.home import Home

CPUS = len(os.sched_getaffinity(0))
"""What a program with threads can use at once."""


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
    waited_s = 0.0
    try:
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        while True:
            used_s = time.clock_gettime(clock)
            left_s = min(started_s + wall_s + waited_s - time.monotonic(), max((cpu_s - used_s) / CPUS, 0.002))
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
