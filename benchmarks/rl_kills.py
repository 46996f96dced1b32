"""Claim: an RL run killed with -9 at 20 random moments ends bit for bit like one that was left alone, and no group that
was judged is generated again.

    python benchmarks/rl_kills.py [benchmarks/results/rl_kills.json]

`openmimo rl` after the stages before it on a nano corpus: 100 steps of 4 valid groups of 8 responses, real judge,
updates streamed beside the rollout, a checkpoint every second step, validation every third. One run is left alone. The
other is killed with SIGKILL and begun again: 20 times after a random time, from half of what a start takes to a
twentieth of the run after it, and 5 times more when a checkpoint's folder is seen to be half written; what is left is
run to its end. Compared are every tensor of the model folder, every value of the last checkpoint (weights, optimizer,
cursor, easy pool, history, stop counters, best model, random numbers) and every line of metrics.jsonl but the key
`timing`.

Figures: values and lines that differ; by kill, the steps logged, the judged groups found on disk for the step under way
and whether a checkpoint was being written; groups taken from disk instead of being generated again.
"""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import record
import torch
from pretrain_kills import differing, lines
from safetensors.torch import load_file

from openmimo import checkpoint
from openmimo.log import read_metrics

NUM_KILLS, NUM_SAVING = 20, 5
RECIPE = Path(__file__).with_name("rl_kill_recipe.py")


def command(stage: str, out: Path) -> list[str]:
    return [sys.executable, "-m", "openmimo", stage, f"{RECIPE}:recipe", "--out", str(out), "--seed", "1"]


def run(stage: str, out: Path) -> None:
    done = subprocess.run(command(stage, out), capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])


def start(out: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command("rl", out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def curate(out: Path) -> None:
    """Begin RL and stop it once its problems are curated, which is done once."""
    process = start(out)
    while not (out / "rollouts").exists():
        time.sleep(0.02)
    process.kill()
    process.wait()
    shutil.rmtree(out / "rollouts")


def run_timed(out: Path) -> tuple[float, float]:
    """Run RL to its end: seconds to its first step, and from there to the end."""
    started = time.perf_counter()
    process = start(out)
    while not read_metrics(out, "rl") and process.poll() is None:
        time.sleep(0.02)
    first = time.perf_counter()
    if process.wait():
        raise RuntimeError(f"the run that was left alone ended with status {process.returncode}")
    return first - started, time.perf_counter() - first


def is_saving(out: Path, process: subprocess.Popen[bytes]) -> bool:
    return (out / "checkpoints" / "rl" / f".writing-{process.pid}").exists()


def journals(out: Path) -> dict[str, int]:
    """Judged groups on disk, by journal: whole lines but the first."""
    return {path.name: max(0, path.read_bytes().count(b"\n") - 1) for path in (out / "rollouts").glob("groups-*.jsonl")}


def kill(out: Path, process: subprocess.Popen[bytes], after_s: float | None) -> dict[str, Any]:
    """Kill after a time, or when a checkpoint is half written; where it struck."""
    started = time.perf_counter()
    while time.perf_counter() - started < after_s if after_s is not None else not is_saving(out, process):
        if process.poll() is not None:
            raise RuntimeError("the run ended before it was killed often enough: make it longer")
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    groups = journals(out)
    return {
        "after_s": round(time.perf_counter() - started, 2),
        "steps_logged": len(read_metrics(out, "rl")),
        "groups_on_disk": groups[max(groups)] if groups else 0,
        "saving": is_saving(out, process),
    }


def main() -> None:
    seed = random.SystemRandom().randrange(10**6)
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        whole, killed = Path(folder) / "whole", Path(folder) / "killed"
        for stage in ("data", "pretrain", "sft", "draft"):
            run(stage, whole)
        shutil.copytree(whole, killed)
        curate(whole)
        start_s, train_s = run_timed(whole)
        delays = [rng.uniform(0.5 * start_s, start_s + train_s / 20) for _ in range(NUM_KILLS)]
        plan: list[float | None] = [*delays, *[None] * NUM_SAVING]
        rng.shuffle(plan)
        kills = []
        for after_s in plan:
            kills.append(kill(killed, start(killed), after_s))
            print(f"kill {len(kills)}: {kills[-1]}", file=sys.stderr)
        run("rl", killed)
        models = [load_file(out / "models" / "rl" / "model.safetensors") for out in (whole, killed)]
        states = [checkpoint.latest(out / "checkpoints" / "rl") for out in (whole, killed)]
        metrics = [[row for row in lines(out) if row["stage"] == "rl"] for out in (whole, killed)]
        known = sum(row["timing"]["known_groups"] for row in read_metrics(killed, "rl"))
        best = [(out / "best.json").read_text() for out in (whole, killed)]
    figures = {
        "kills": len(kills),
        "kill_seed": seed,
        "steps": len(metrics[0]),
        "updates": sum(row["updates"] for row in metrics[0]),
        "tensors": len(models[0]),
        "tensors_that_differ": differing(*models),
        "checkpoint_values_that_differ": differing(*states),
        "metrics_lines_that_differ": differing(*metrics),
        "best_pointers_that_differ": int(best[0] != best[1]),
        "kills_while_saving": sum(row["saving"] for row in kills),
        "kills_with_groups_on_disk": sum(row["groups_on_disk"] > 0 for row in kills),
        "groups_taken_from_disk_in_the_steps_that_stand": known,
        "seconds_whole": {"start": round(start_s, 2), "train": round(train_s, 2)},
        "where": kills,
    }
    record.write(
        "an RL run killed 25 times, 20 of them at random moments, ends bit for bit like one left alone",
        "python benchmarks/rl_kills.py",
        figures,
        torch=torch.__version__,
    )


if __name__ == "__main__":
    main()
