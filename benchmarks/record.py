"""What every benchmark writes down beside its figures: the machine, the commit, the command; and how figures spread."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


def write(claim: str, command: str, figures: dict[str, Any], **hardware: Any) -> None:
    """Print a result as JSON, and write it to the path given on the command line, if one was."""
    result = {
        "claim": claim,
        "command": command,
        "commit": commit(),
        "hardware": {
            "cpu": _cpu(),
            "cores": len(os.sched_getaffinity(0)),
            "python": platform.python_version(),
            "kernel": platform.release().split("-")[0],
            "load_before": round(_LOAD, 2),
            **hardware,
        },
        **figures,
    }
    text = json.dumps(result, indent=2, ensure_ascii=False)
    print(text)
    for path in [Path(word) for word in sys.argv[1:] if word.endswith(".json")]:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n", encoding="utf-8")


def commit() -> str:
    """The one that is checked out, in short."""
    return _output("git", "rev-parse", "--short", "HEAD")


def spread(values: list[float], unit: str = "", digits: int = 3) -> dict[str, Any]:
    """Median, least and most of several rounds."""
    found = {
        "median": round(statistics.median(values), digits),
        "min": round(min(values), digits),
        "max": round(max(values), digits),
        "rounds": len(values),
    }
    return {**found, "unit": unit} if unit else found


def interleaved(works: Mapping[str, Callable[[], float]], num_rounds: int) -> dict[str, list[float]]:
    """Run all in turn, once to warm up and then `num_rounds` times; what each returned, by name.

    Every other round goes backwards, so that none always runs after the same one.
    """
    found: dict[str, list[float]] = {name: [] for name in works}
    for number in range(-1, num_rounds):
        for name in list(works)[:: -1 if number % 2 else 1]:
            value = works[name]()
            if number >= 0:
                found[name].append(value)
    return found


def over(values: Mapping[str, list[float]], name: str, other: str) -> dict[str, Any]:
    """Spread of one's values over another's, paired by round."""
    return spread([a / b for a, b in zip(values[name], values[other], strict=True)])


def tree_cpu_s(pid: int) -> float:
    """CPU seconds of a process, its descendants that live and those it has waited for; in ticks of 10 ms."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    own = sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
    return own + sum(tree_cpu_s(child) for child in children(pid))


def children(pid: int) -> list[int]:
    """Processes that a process has started, by any of its threads."""
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        found += [int(word) for word in (task / "children").read_text().split()]
    return found


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n"):
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout.strip()


_LOAD = os.getloadavg()[0]
