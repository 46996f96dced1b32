"""Claim: a pre-training that goes from one rank to two and back sees the same tokens and, but for sums' order, losses.

    python benchmarks/pretrain_ranks.py [benchmarks/results/pretrain_ranks.json]

`openmimo pretrain` on the kill benchmark's recipe (240 steps, three stages, context and RoPE base change, Muon replaced
by AdamW: Muon orthogonalises in bfloat16, where sums' order shows). One run is one process. The other begins as one
process, is stopped by `openmimo stop`, goes on under `torchrun --nproc-per-node 2` (gloo), is stopped again, and ends
as one process. `rows_digest` in metrics.jsonl tells which tokens stood in which rows of every global batch: equal
digests, equal streams.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import record
import torch
from pretrain_kills import RECIPE, run

from openmimo.log import read_metrics
from openmimo.runs import stop

ADAMW = ["--set", "pretrain.optim.kind=adamw"]


def command(out: Path, ranks: int) -> list[str]:
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)] if ranks > 1 else []
    recipe = f"{RECIPE}:recipe"
    return [sys.executable, *launcher, "-m", "openmimo", "pretrain", recipe, "--out", str(out), "--seed", "1", *ADAMW]


def train(out: Path, ranks: int, until_steps: int | None = None) -> int:
    """Train to the end, or stop once so many steps are logged; steps logged then."""
    process = subprocess.Popen(command(out, ranks), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    if until_steps is not None:
        while len(read_metrics(out)) < until_steps and process.poll() is None:
            time.sleep(0.05)
        stop(out)
    error = process.communicate()[1]
    if until_steps is None and process.returncode:
        raise RuntimeError(error[-2000:])
    return len(read_metrics(out))


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        alone, mixed = Path(folder) / "alone", Path(folder) / "mixed"
        for out in (alone, mixed):
            run("data", out, *ADAMW)
        train(alone, 1)
        switches = [train(mixed, 1, 60), train(mixed, 2, 150), train(mixed, 1)]
        rows: list[list[dict[str, Any]]] = [read_metrics(out) for out in (alone, mixed)]
    pairs = list(zip(*rows, strict=True))
    gaps = [abs(a["loss"] - b["loss"]) / a["loss"] for a, b in pairs]
    record.write(
        "one rank, two, one: the token stream and the losses of a run of one rank",
        "python benchmarks/pretrain_ranks.py",
        {
            "steps": len(pairs),
            "ranks_by_step": {"1": switches[0], "2": switches[1] - switches[0], "1 again": switches[2] - switches[1]},
            "batches_that_differ": sum(a["rows_digest"] != b["rows_digest"] for a, b in pairs),
            "token_counts_that_differ": sum(a["tokens"] != b["tokens"] for a, b in pairs),
            "loss_relative_difference": {
                "largest before the first switch": max(gaps[: switches[0]]),
                "largest": max(gaps),
                "last": gaps[-1],
            },
        },
        torch=torch.__version__,
    )


if __name__ == "__main__":
    main()
