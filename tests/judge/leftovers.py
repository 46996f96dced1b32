"""What a hostile program left on the machine, found by a mark that it puts on everything. Standard library alone."""

import contextlib
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

FOLDERS = ("/tmp", "/dev/shm", "/dev/mqueue", "/var/tmp")


def leftovers(mark: str, key: int, journal: Path) -> set[str]:
    """Kinds of what is left: process, file, ipc, key, mount, journal.

    Args:
        mark: in the name, command line or environment of a process, or the name of a file, key or mount.
        key: of a System V object.
        journal: a file of the judge's that no program may write to.
    """
    found = {
        "process": bool(marked_processes(mark)),
        "file": bool(marked_files(mark)),
        "ipc": any(str(key) == line.split()[0] for line in _lines("/proc/sysvipc/shm", "/proc/sysvipc/msg")),
        "key": any(mark in line for line in _lines("/proc/keys")),
        "mount": any(mark in line for line in _lines("/proc/self/mounts")),
        "journal": mark in journal.read_text(encoding="utf-8", errors="replace"),
    }
    return {kind for kind, there in found.items() if there}


def marked_processes(mark: str) -> list[int]:
    found = []
    for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
        for part in ("comm", "cmdline", "environ"):
            with contextlib.suppress(OSError):
                if pid != os.getpid() and mark.encode() in Path(f"/proc/{pid}/{part}").read_bytes():
                    found.append(pid)
                    break
    return found


def marked_files(mark: str) -> list[Path]:
    folders = {Path(name) for name in (*FOLDERS, tempfile.gettempdir(), os.getcwd())}
    return [path for folder in folders if folder.is_dir() for path in folder.glob(f"*{mark}*")]


def descendants(pid: int) -> list[int]:
    """Processes below one, by the kernel's own lists."""
    found = []
    for line in _lines(*map(str, Path(f"/proc/{pid}/task").glob("*/children"))):
        for child in map(int, line.split()):
            found += [child, *descendants(child)]
    return found


def strays(pid: int) -> list[int]:
    """Processes below one that are in a pid namespace further down and not its first process: no part of the judge."""
    found = []
    for child in descendants(pid):
        for line in _lines(f"/proc/{child}/status"):
            if line.startswith("NSpid:") and line.split()[2:] not in ([], ["1"]):
                found.append(child)
    return found


def kernel_objects() -> dict[str, int]:
    """Counts of what outlives processes: System V objects, keys, mounts."""
    return {
        "ipc": len(_lines("/proc/sysvipc/shm", "/proc/sysvipc/sem", "/proc/sysvipc/msg")),
        "keys": len(_lines("/proc/keys")),
        "mounts": len(_lines("/proc/self/mounts")),
    }


def control_groups(pids: Iterable[int]) -> list[str]:
    """Control groups that processes of these numbers made for themselves; another's come and go."""
    endings = tuple(f"-{pid}-" for pid in pids)
    return [
        os.path.join(folder, name)
        for folder, names, _ in os.walk("/sys/fs/cgroup")
        for name in names
        if any(ending in name for ending in endings)
    ]


def peak_bytes(pid: int) -> int:
    """Most memory that a process ever had resident; 0 if it is gone."""
    for line in _lines(f"/proc/{pid}/status"):
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


def _lines(*paths: str) -> list[str]:
    lines = []
    for path in paths:
        with contextlib.suppress(OSError):
            lines += [line for line in Path(path).read_text().split("\n") if line.strip()]
    return lines
