"""Claim: `openmimo --help` answers within half a second.

    python benchmarks/help_time.py [benchmarks/results/help_time.json]

The command and the floor, an interpreter that does nothing (`python -c pass`), are started in turn, 11 times each after
a round that warms the file cache. CPU time is user + system of the child as the kernel counts it; wall time is what a
person waits, and on a shared machine holds others' work too.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

NUM_RUNS = 11
LIMIT_S = 0.5
ROOT = Path(__file__).resolve().parents[1]
WORKS = {
    "openmimo --help": [sys.executable, "-m", "openmimo", "--help"],
    "python -c pass": [sys.executable, "-c", "pass"],
}


def main() -> None:
    times = measure()
    help_s = times["openmimo --help"]
    result = {
        "claim": f"`openmimo --help` answers within {LIMIT_S} s",
        "command": "python benchmarks/help_time.py",
        "commit": _output("git", "rev-parse", "--short", "HEAD"),
        "hardware": {"cpu": _cpu(), "cores": len(os.sched_getaffinity(0)), "python": platform.python_version()},
        "runs": NUM_RUNS,
        "holds": {kind: statistics.median(help_s[kind]) < LIMIT_S for kind in ("cpu_s", "wall_s")},
        "help": {
            "unit": "seconds",
            "times": {
                f"{name}, {kind}": _spread(values) for name, kinds in times.items() for kind, values in kinds.items()
            },
            "ratios": {
                f"openmimo --help / python -c pass, {kind}": _spread(
                    [a / b for a, b in zip(help_s[kind], times["python -c pass"][kind], strict=True)]
                )
                for kind in ("cpu_s", "wall_s")
            },
        },
    }
    text = json.dumps(result, indent=2)
    print(text)
    if len(sys.argv) > 1:
        path = Path(sys.argv[1])
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n", encoding="utf-8")


def measure() -> dict[str, dict[str, list[float]]]:
    """Seconds by command and kind, one value a round."""
    times: dict[str, dict[str, list[float]]] = {name: {"cpu_s": [], "wall_s": []} for name in WORKS}
    for run in range(-1, NUM_RUNS):  # the first round warms up
        for name, command in WORKS.items():
            cpu_s, wall_s = _time(command)
            if run >= 0:
                times[name]["cpu_s"].append(cpu_s)
                times[name]["wall_s"].append(wall_s)
    return times


def _time(command: list[str]) -> tuple[float, float]:
    """CPU and wall seconds of a child."""
    started_s = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=ROOT)
    _, status, usage = os.wait4(process.pid, 0)
    wall_s = time.perf_counter() - started_s
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}")
    return usage.ru_utime + usage.ru_stime, wall_s


def _spread(values: list[float]) -> dict[str, float]:
    return {
        "median": round(statistics.median(values), 3),
        "min": round(min(values), 3),
        "max": round(max(values), 3),
    }


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout.strip()


if __name__ == "__main__":
    main()
