"""How far a program is isolated on this machine, in one word (MiMo 3.4.1).

`full`: namespaces of its own for users, processes, network, mounts and IPC; a root that holds the standard library and
system libraries alone, read-only; a filter on system calls. `without user namespaces`: either all of that but the user
namespace, which takes real root; or, in a container that allows no namespace, the filter and Landlock, which leave a
program nothing to write, nobody to signal and no network. Anything less is `refused`.

Landlock and a cgroup come on top where the kernel has them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Level = Literal["full", "without user namespaces", "refused"]

LAYERS = ("user namespace", "own user", "pid", "network", "ipc", "mount", "root", "seccomp", "landlock", "cgroup")
_NAMESPACED = {"own user", "pid", "network", "ipc", "mount", "root", "seccomp"}
_FILTERED = {"seccomp", "landlock"}


@dataclass(frozen=True)
class Isolation:
    """What the start-up self-test found."""

    level: Level
    reason: str
    """Why this level and no other, in one line."""
    layers: dict[str, bool]
    """By layer, `LAYERS`: whether it is there."""


def judged(layers: Mapping[str, bool]) -> Isolation:
    """The level that these layers add up to."""
    found = {name: bool(layers.get(name)) for name in LAYERS}
    has = {name for name, there in found.items() if there}
    lacking = ", ".join(name for name in LAYERS if name not in has)
    also = f"; not here: {lacking}" if lacking else ""
    if has >= _NAMESPACED | {"user namespace"}:
        return Isolation("full", f"every namespace, a minimal root and a filter on system calls{also}", found)
    if has >= _NAMESPACED:
        return Isolation("without user namespaces", f"the judge is root and separates programs by user{also}", found)
    if has >= _FILTERED:
        return Isolation(
            "without user namespaces", f"a filter on system calls and Landlock guard programs{also}", found
        )
    return Isolation("refused", f"no namespaces, and not both a filter on system calls and Landlock{also}", found)


def nothing(reason: str) -> Isolation:
    """No program can run at all."""
    return Isolation("refused", reason, dict.fromkeys(LAYERS, False))
