"""Claim: a pre-training killed with -9 at 20 random moments ends bit for bit like one that was left alone.

    python benchmarks/pretrain_kills.py [benchmarks/results/pretrain_kills.json]

`openmimo pretrain` on the nano recipe's data, three stages, 272 steps, a checkpoint every 7 of them. One run is left
alone. The other is started again and again and killed with SIGKILL after a random time, from half of what a start takes
to a sixteenth of the run after it: in imports, in steps, while a checkpoint is written and while it is published; what
is left is run to its end. Compared are every tensor of the model folder, every value of the last checkpoint (optimizer
state, data cursor, random numbers) and every line of metrics.jsonl but the key `timing`. Counted are the tensors,
values and lines that differ, and where the kills struck.
"""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import record
import torch
from safetensors.torch import load_file

from openmimo import checkpoint
from openmimo.log import read_metrics

NUM_KILLS = 20
RECIPE = Path(__file__).with_name("kill_recipe.py")


def command(stage: str, out: Path) -> list[str]:
    return [sys.executable, "-m", "openmimo", stage, f"{RECIPE}:recipe", "--out", str(out), "--seed", "1"]


def run(stage: str, out: Path, *more: str) -> float:
    started = time.perf_counter()
    done = subprocess.run([*command(stage, out), *more], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return time.perf_counter() - started


def run_timed(out: Path) -> tuple[float, float]:
    """Run the pre-training to its end: seconds to its first step, and from there to the end."""
    started = time.perf_counter()
    process = subprocess.Popen(command("pretrain", out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not read_metrics(out) and process.poll() is None:
        time.sleep(0.02)
    first = time.perf_counter()
    if process.wait():
        raise RuntimeError(f"the run that was left alone ended with status {process.returncode}")
    return first - started, time.perf_counter() - first


def kill_often(out: Path, rng: random.Random, least_s: float, most_s: float) -> list[dict[str, float]]:
    """Where each kill struck."""
    kills: list[dict[str, float]] = []
    while len(kills) < NUM_KILLS:
        process = subprocess.Popen(command("pretrain", out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        delay = rng.uniform(least_s, most_s)
        time.sleep(delay)
        finished = process.poll() is not None
        process.send_signal(signal.SIGKILL)
        process.wait()
        rows = read_metrics(out, "pretrain")
        if finished:
            raise RuntimeError("the run ended before 20 kills: make it longer")
        kills.append({"after_s": round(delay, 2), "steps_logged": len(rows)})
        print(f"kill {len(kills)}: after {delay:.2f} s, {len(rows)} steps logged", file=sys.stderr)
    return kills


def differing(one: Any, other: Any) -> int:
    """Leaves in which two states differ by a bit."""
    if isinstance(one, dict):
        return sum(differing(one[k], other[k]) if k in other else 1 for k in one) + len(set(other) - set(one))
    if isinstance(one, (list, tuple)):
        return sum(map(differing, one, other)) + abs(len(one) - len(other))
    return int(not torch.equal(one, other) if isinstance(one, torch.Tensor) else one != other)


def lines(out: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if k != "timing"} for row in read_metrics(out)]


def main() -> None:
    seed = random.SystemRandom().randrange(10**6)
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        whole, killed = Path(folder) / "whole", Path(folder) / "killed"
        for out in (whole, killed):
            run("data", out)
        start_s, train_s = run_timed(whole)
        kills = kill_often(killed, rng, 0.5 * start_s, start_s + train_s / 16)
        run("pretrain", killed)
        models = [load_file(out / "models" / "base" / "model.safetensors") for out in (whole, killed)]
        states = [checkpoint.latest(out / "checkpoints" / "pretrain") for out in (whole, killed)]
        metrics = [lines(out) for out in (whole, killed)]
    figures = {
        "kills": len(kills),
        "kill_seed": seed,
        "steps": len(metrics[0]),
        "tensors": len(models[0]),
        "tensors_that_differ": differing(*models),
        "checkpoint_values_that_differ": differing(*states),
        "metrics_lines_that_differ": differing(*metrics),
        "kills_that_left_more_steps": sum(b > a for a, b in pairwise([0, *(kill["steps_logged"] for kill in kills)])),
        "where": kills,
    }
    record.write(
        "a pre-training killed 20 times ends bit for bit like one left alone",
        "python benchmarks/pretrain_kills.py",
        figures,
        torch=torch.__version__,
    )


if __name__ == "__main__":
    main()
