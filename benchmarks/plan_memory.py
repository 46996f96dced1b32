"""Claim: `openmimo plan` predicts the memory of training steps to within 10 % of what they take on a CPU.

    python benchmarks/plan_memory.py [benchmarks/results/plan_memory.json]

Several shapes x {float32, bfloat16} x recompute {none, selective, full}, Muon, long rows, no MTP, FSDP2 on two ranks.
Every case is a process of its own, single-threaded: steps of a tiny model first, so that libraries are in place; then
the model, its optimizer and two real `train_step`s. Measured are

- `rss`: the largest resident memory (VmHWM, reset just before the model is made) over the resident memory then: all
  that the process took, tensors or not. glibc is told to give freed blocks of 64 KiB and more back
  (MALLOC_MMAP_THRESHOLD_), as PyTorch's own allocator on a GPU would reuse them; otherwise its free lists, not the
  step, are measured.
- `allocated`: tensors alone: the state's bytes and the largest sum of PyTorch's allocations and frees in a third step
  (torch.profiler). What a GPU calls max_memory_allocated.

`predicted` is `memory.memory_of`'s total with its reserve, to be held against `rss`; without it, against `allocated`.
"""

from __future__ import annotations

import gc
import itertools
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import record
import torch

from openmimo.memory import Layout, memory_of
from openmimo.mesh import Mesh
from openmimo.model.config import MiMoConfig
from openmimo.model.mimo import MiMo
from openmimo.train.compute import ComputeConfig, Worker
from openmimo.train.loss import next_token_loss
from openmimo.train.optim import OptimConfig, Optimizer
from openmimo.train.step import TrainState, train_step
from openmimo.types import Batch

DEEP = {"vocab_size": 2048, "hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 6, "head_dim": 32}
WIDE_VOCABULARY = {**DEEP, "vocab_size": 16_384, "num_hidden_layers": 2, "head_dim": 64}
LARGE = {"vocab_size": 4096, "hidden_size": 512, "intermediate_size": 1376, "num_hidden_layers": 8, "head_dim": 64}
SHAPES = {
    "deep": ({**DEEP, "num_attention_heads": 8, "num_key_value_heads": 2}, Layout(4, 512, passes=1)),
    "vocabulary": (
        {**WIDE_VOCABULARY, "num_attention_heads": 4, "num_key_value_heads": 4},
        Layout(2, 512, passes=2, chunk_tokens=256),
    ),
    "large": ({**LARGE, "num_attention_heads": 8, "num_key_value_heads": 2}, Layout(1, 512, passes=2)),
}


def cases() -> list[tuple[str, dict[str, Any], Layout]]:
    found = []
    for dtype, recompute in itertools.product(("float32", "bfloat16"), ("none", "selective", "full")):
        for name, (shape, layout) in SHAPES.items():
            found.append((name, shape, replace(layout, dtype=dtype, recompute=recompute)))
    deep, large = SHAPES["deep"][0], SHAPES["large"][0]
    for dtype in ("float32", "bfloat16"):
        for context, recompute in ((2048, "full"), (2048, "none"), (4096, "full"), (4096, "none")):
            found.append(("one long row", deep, Layout(1, context, dtype, recompute, passes=1)))
        found.append(("no MTP", {**deep, "num_nextn_predict_layers": 0}, Layout(4, 512, dtype, "none", passes=1)))
        found.append(("Muon", large, Layout(1, 128, dtype, "none", "muon", passes=1)))
        found.append(("two ranks", large, Layout(1, 512, dtype, "full", ranks=2, passes=2)))
    return found


def main() -> None:
    rows = []
    for name, shape, layout in cases():
        measured = alone(shape, layout)
        memory = memory_of(MiMoConfig(**shape), layout)
        tensors = memory.total - memory.parts["reserve"]
        rows.append(
            {
                "shape": name,
                **{
                    key: getattr(layout, key) for key in ("dtype", "recompute", "optimizer", "rows", "context", "ranks")
                },
                "rss_mb": round(measured["rss"] / 1e6, 1),
                "allocated_mb": round(measured["allocated"] / 1e6, 1),
                "predicted_mb": round(memory.total / 1e6, 1),
                "predicted_over_rss": round(memory.total / measured["rss"], 3),
                "predicted_over_allocated": round(tensors / measured["allocated"], 3),
                "moment": memory.moment,
            }
        )
        print(rows[-1], file=sys.stderr)
    ratios = {key: [row[key] for row in rows] for key in ("predicted_over_rss", "predicted_over_allocated")}
    record.write(
        "predicted memory of a training step is within 10 % of what the step takes on a CPU",
        "python benchmarks/plan_memory.py",
        {
            "cases": len(rows),
            "largest_error_against_rss": round(max(abs(x - 1) for x in ratios["predicted_over_rss"]), 3),
            "largest_error_against_allocated": round(max(abs(x - 1) for x in ratios["predicted_over_allocated"]), 3),
            **{key: record.spread(values) for key, values in ratios.items()},
            "measured": rows,
        },
        torch=torch.__version__,
    )


def alone(shape: dict[str, Any], layout: Layout) -> dict[str, float]:
    """One case, in as many processes as it has ranks; the first rank's figures."""
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "MALLOC_MMAP_THRESHOLD_": "65536",
        "MALLOC_TRIM_THRESHOLD_": "65536",
    }
    with tempfile.TemporaryDirectory() as folder:
        spec = {"model": shape, "layout": asdict(layout), "store": str(Path(folder) / "store")}
        started = [
            subprocess.Popen(
                [sys.executable, __file__, "--case", json.dumps({**spec, "rank": rank})],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env=environment,
            )
            for rank in range(layout.ranks)
        ]
        outputs = [process.communicate() for process in started]
    lines = re.findall(r"^\{.*?\}", outputs[0][0], re.MULTILINE)
    if not lines or any(process.returncode for process in started):
        raise RuntimeError("\n".join(error[-2000:] for _, error in outputs))
    found: dict[str, float] = json.loads(lines[-1])
    return found


def case(spec: dict[str, Any]) -> dict[str, float]:
    """The measurement itself, in a fresh process."""
    torch.set_num_threads(1)
    layout = Layout(**spec["layout"])
    mesh = Mesh(spec["rank"], layout.ranks, "cpu", layout.ranks)
    if layout.ranks > 1:
        torch.distributed.init_process_group(
            "gloo", init_method=f"file://{spec['store']}", rank=spec["rank"], world_size=layout.ranks
        )
    config = MiMoConfig(**spec["model"])
    small = replace(config, vocab_size=256, hidden_size=64, intermediate_size=64, num_hidden_layers=1)
    train(small, replace(layout, rows=1, context=64), mesh)
    gc.collect()
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts again
    state, step = train(config, layout, mesh)
    rss = resident("VmHWM") - before
    allocated = held(state) + most_allocated(step)
    if layout.ranks > 1:
        torch.distributed.destroy_process_group()
    return {"rss": rss, "allocated": allocated}


def train(config: MiMoConfig, layout: Layout, mesh: Mesh) -> tuple[TrainState, Callable[[], Any]]:
    """The state after two steps, and a further step."""
    model = MiMo(config).init_weights(torch.Generator().manual_seed(0))
    compute = ComputeConfig(dtype=layout.dtype, recompute=layout.recompute, shard=layout.ranks > 1)
    worker = Worker(model, compute, mesh)
    state = TrainState(model, Optimizer(model, OptimConfig(kind=layout.optimizer)), worker)
    rows, context = layout.rows * layout.passes, layout.context
    documents = np.zeros((rows, context), np.int32)
    documents[:, context // 8 :] = 1  # a long one too: attention then takes keys of most lengths it can
    batch = Batch(
        np.random.default_rng(0).integers(0, config.vocab_size, (rows, context)),
        np.tile(np.arange(context), (rows, 1)),
        documents,
        np.ones((rows, context), np.float32),
    )
    loss = next_token_loss(mtp_weight=0.3, chunk_tokens=layout.chunk_tokens)

    def step() -> Any:
        return train_step(
            state, batch, loss, learning_rate=1e-3, micro_rows=layout.rows, num_rows=rows * mesh.world_size
        )

    for _ in range(2):
        step()
    return state, step


def held(state: TrainState) -> int:
    """Bytes of weights, copies and optimizer state, each counted once."""
    tensors = [*state.model.parameters(), *state.worker.model.parameters()]
    for part in state.optimizer.parts:
        tensors += [v for values in part.state.values() for v in values.values() if torch.is_tensor(v)]
    own = [getattr(tensor, "_local_tensor", tensor).untyped_storage() for tensor in tensors]
    return sum({storage.data_ptr(): storage.nbytes() for storage in own}.values())


def most_allocated(step: Callable[[], Any]) -> int:
    """The largest sum of allocations and frees during a step."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        step()
    events = [e for e in found.profiler.kineto_results.events() if e.name() == "[memory]"]  # type: ignore[union-attr]
    now = most = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return most


def resident(name: str) -> int:
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="utf-8"))
    assert found
    return int(found[1]) * 1024


if __name__ == "__main__":
    if "--case" in sys.argv:
        print(json.dumps(case(json.loads(sys.argv[2]))), flush=True)
    else:
        main()
