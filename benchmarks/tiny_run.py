"""Claim: on two cores the tiny recipe runs whole in 12 minutes, and RL lifts held-out accuracy over SFT by 10 points.

    python benchmarks/tiny_run.py [SEED ...]        default: seed 0

Runs `openmimo run tiny` in a fresh folder for each seed, whole, and records what its summary says beside the wall time:
the gain of RL over SFT at temperature 0.6 and over SFT at its best temperature (the floor), each with a paired 95 %
interval over problems, and the acceptance of the MTP layer. A seed's result is added to the JSON beside earlier ones.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

RESULT = Path(__file__).parent / "results" / "tiny_run.json"


def main() -> None:
    seeds = [int(word) for word in sys.argv[1:]] or [0]
    for seed in seeds:
        found = run(seed)
        earlier = json.loads(RESULT.read_text(encoding="utf-8"))["seeds"] if RESULT.is_file() else {}
        result = {
            "claim": "the tiny recipe, whole, on two cores; RL over SFT on held-out problems",
            "unit": "fractions of 1; seconds",
            "command": "python benchmarks/tiny_run.py",
            "hardware": {
                "cpu": _cpu(),
                "cores": len(os.sched_getaffinity(0)),
                "torch": torch.__version__,
                "python": platform.python_version(),
            },
            "seeds": {**earlier, str(seed): found},
        }
        RESULT.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
        print(json.dumps(found, indent=2))


def run(seed: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        command = [sys.executable, "-m", "openmimo", "run", "tiny", "--out", f"{folder}/run", "--seed", str(seed)]
        subprocess.run(command, check=True)
        wall_s = time.perf_counter() - started
        summary = json.loads(Path(folder, "run", "summary.json").read_text(encoding="utf-8"))
    return {
        "commit": _output("git", "rev-parse", "--short", "HEAD"),
        "wall_s": round(wall_s, 1),
        "stage_s": {name: round(row["seconds"], 1) for name, row in summary["timing"].items()},
        "accuracy": summary["accuracy"],
        "gain": summary["gain"],
        "acceptance": summary["acceptance"],
        "mean_accuracy_by_temperature": {
            name: {
                str(row["temperature"]): round(sum(row["families"].values()) / len(row["families"]), 4) for row in rows
            }
            for name, rows in summary["evaluations"].items()
        },
    }


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    main()
