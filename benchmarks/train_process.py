"""A model in training in a process of its own, so that contestants share no compiler, allocator or environment.

Both ends are here. `TrainProcess` is for the benchmark, one per contestant; a contestant calls `serve`. One JSON object
a line in and out: a list of steps to take, and the CPU seconds and losses they gave. A step is all of one update, from
the token file (memory-mapped uint16, a row of context + 1 tokens after another) to the new weights. Only the steps'
own CPU time is counted, of all threads: starting, compiling and the first steps are left out.

This file is imported in the peers' environments too: nothing but numpy and torch.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
LEARNING_RATE, BETAS, EPS, WEIGHT_DECAY, CLIP = 1e-3, (0.9, 0.95), 1e-8, 0.1, 1.0
WARM_STEPS = 2
"""Steps that a contestant takes before it answers: whatever compiles has compiled."""


class TrainProcess:
    """A contestant; a context manager."""

    def __init__(self, command: Sequence[str], settings: dict[str, Any], *, log: Path, **variables: str) -> None:
        """
        Args:
            command: what to run; the settings follow as one JSON word.
            log: where its messages go.
            variables: of its environment, beside OMP_NUM_THREADS=1.
        """
        self._log = log.open("wb")
        self._process = subprocess.Popen(
            [*command, json.dumps(settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT), **variables},
            text=True,
        )
        self.ready: dict[str, Any] = {}
        """What it said once it was warm: `threads`, `torch`, `losses` of its first steps, `parameters`."""

    def __enter__(self) -> TrainProcess:
        self.ready = self._read()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(60)
        self._log.close()

    def steps(self, count: int) -> dict[str, Any]:
        """Take steps: `cpu_s` and `wall_s` of each, and `losses`."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{count}\n")
        self._process.stdin.flush()
        return self._read()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            words = Path(self._log.name).read_text(errors="replace").strip().split("\n")
            raise RuntimeError(f"{self._process.args[:2]} ended with {self._process.wait(60)}: {words[-1]}")
        answer: dict[str, Any] = json.loads(line)
        return answer


def serve(build: Callable[[dict[str, Any]], tuple[Callable[[Any], float], dict[str, Any]]]) -> None:
    """The other end: answer until standard input ends.

    Args:
        build: of settings, a step, (rows, context + 1) int64 ids to the loss, and what to say of the contestant.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever prints does not speak to the benchmark
    import numpy as np
    import torch

    torch.set_num_threads(1)
    settings = json.loads(sys.argv[-1])
    torch.manual_seed(0)
    step, about = build(settings)
    tokens = np.memmap(settings["tokens"], np.uint16, "r").reshape(-1, settings["context"] + 1)
    rows, taken = settings["rows"], 0
    warm: list[float] = []

    def take() -> float:
        nonlocal taken
        start = taken * rows % (len(tokens) - rows + 1)
        taken += 1
        return step(tokens[start : start + rows].astype(np.int64))

    def answer(message: dict[str, Any]) -> None:
        answers.write(json.dumps(message) + "\n")
        answers.flush()

    warm = [take() for _ in range(WARM_STEPS)]
    answer({"threads": torch.get_num_threads(), "torch": torch.__version__, "losses": warm, **about})
    for line in sys.stdin:
        spent: dict[str, list[float]] = {"cpu_s": [], "wall_s": [], "losses": []}
        for _ in range(int(line)):
            cpu, wall = time.process_time(), time.perf_counter()
            loss = take()
            spent["cpu_s"].append(time.process_time() - cpu)
            spent["wall_s"].append(time.perf_counter() - wall)
            spent["losses"].append(loss)
        answer(spent)


def plain_step(model: Any, loss: Callable[[Any, Any], Any], precision: str) -> Callable[[Any], float]:
    """A peer's step: forward, loss, backward, clip, fused AdamW.

    Args:
        model: float32, and trained as such.
        loss: of the model and (rows, context + 1) ids, the mean in nats.
        precision: `float32`; `autocast`, bfloat16 where PyTorch's autocast has it; `masters`, the model turned to
            bfloat16 and float32 masters updated.
    """
    import torch

    trained = list(model.parameters())
    if precision == "masters":
        masters = [p.detach().clone().float().requires_grad_() for p in trained]
        model.to(torch.bfloat16)
    else:
        masters = trained
    groups = [
        {"params": [p for p in masters if p.dim() > 1], "weight_decay": WEIGHT_DECAY},
        {"params": [p for p in masters if p.dim() <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=LEARNING_RATE, betas=BETAS, eps=EPS, fused=True)

    def step(rows: Any) -> float:
        ids = torch.from_numpy(rows)
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "autocast"):
            value = loss(model, ids)
        value.backward()
        if precision == "masters":
            for master, copy in zip(masters, trained, strict=True):
                master.grad, copy.grad = copy.grad.float(), None
        torch.nn.utils.clip_grad_norm_(masters, CLIP)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if precision == "masters":
            with torch.no_grad():
                torch._foreach_copy_(trained, masters)
        return float(value.detach())

    return step
