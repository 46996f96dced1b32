"""One control group a worker, inherited by its tests: memory and processes bounded in sum (MiMo 3.4.1).

Attaching every test would cost 7 to 9 ms; this costs nothing a test. Version 1 and 2; where none can be made, each
process is still limited by itself.
"""

from __future__ import annotations

import itertools
import os
import time
from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")
_NAME = "openmimo-judge"
_numbers = itertools.count()


class ControlGroup:
    """Folders of one group, one a hierarchy, below the caller's own group. `there`: memory is bounded."""

    def __init__(self, max_processes: int) -> None:
        sweep()
        self._folders: list[Path] = []
        self._memory: Path | None = None
        name = f"{_NAME}-{os.getpid()}-{next(_numbers)}"
        for parent in _parents():
            folder = parent / name
            try:
                folder.mkdir()
                self._folders.append(folder)
                for file in ("memory.max", "memory.limit_in_bytes"):
                    if (folder / file).exists():
                        self._memory = folder / file
                if (folder / "pids.max").exists():
                    (folder / "pids.max").write_text(str(max_processes))
            except OSError:
                continue
        self.there = self._memory is not None

    def limit(self, memory_bytes: int) -> None:
        """Bound the memory of all its processes together."""
        if self._memory is not None:
            try:
                self._memory.write_text(str(memory_bytes))
            except OSError:
                pass  # more than that is in use just now; the limits by process hold

    def add(self, pid: int) -> None:
        """Put a process in, before it forks."""
        for folder in self._folders:
            try:
                (folder / "cgroup.procs").write_text(str(pid))
            except OSError:
                self.there = False

    def remove(self) -> None:
        """Remove the group; its processes were killed and may still be ending."""
        for folder in self._folders:
            for _ in range(200):
                try:
                    folder.rmdir()
                    break
                except FileNotFoundError:
                    break
                except OSError:
                    time.sleep(0.005)
        self._folders = []


def sweep() -> None:
    """Remove the groups of judges that were killed."""
    for parent in _parents():
        for folder in parent.glob(f"{_NAME}-*"):
            owner = folder.name.removeprefix(f"{_NAME}-").split("-")[0]
            if owner.isdigit() and not Path(f"/proc/{owner}").exists():
                try:
                    folder.rmdir()
                except OSError:
                    continue


def _parents() -> list[Path]:
    """The caller's own groups: for memory and for processes, or the one of version 2."""
    try:
        lines = Path("/proc/self/cgroup").read_text(encoding="utf-8").split("\n")
    except OSError:
        return []
    found = []
    for line in filter(None, lines):
        _, controllers, path = line.split(":", 2)
        below = path.lstrip("/")
        if controllers in ("memory", "pids"):
            found.append(_ROOT / controllers / below)
        elif not controllers and (_ROOT / "cgroup.controllers").exists():
            found.append(_ROOT / below)
    return found
