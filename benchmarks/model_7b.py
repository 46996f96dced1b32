"""A MiMo-7B-shaped folder (random weights, bfloat16, 15.7 GB): written shard by shard, inspected, loaded, generating.

Run: `python benchmarks/model_7b.py FOLDER [OUT.json]`. FOLDER is made if missing and stays: remove it after.
Needs 16 GB of disk and, to load, 17 GiB of memory. Writing, inspecting, loading and generating are processes of their
own, so each one's peak resident memory is its own (VmHWM); files are read through the page cache, which is not counted.
Loading is measured twice, the second time with whatever the page cache then holds.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import record

GIB = 2**30
TOKENS = 8


def main() -> None:
    folder = Path(next(word for word in sys.argv[1:] if not word.endswith(".json")))
    written = {} if (folder / "config.json").is_file() else step("write", folder)
    inspected = step("inspect", folder)
    loaded = [step("load", folder) for _ in range(2)]
    generated = step("generate", folder)
    weights = inspected["bytes"]
    record.write(
        "A MiMo-7B-shaped folder (15.7 GB, bfloat16) loads with peak memory of at most weights + 1 GiB and generates",
        "python benchmarks/model_7b.py FOLDER OUT.json",
        {
            "parameters": inspected["parameters"],
            "weights_gib": round(weights / GIB, 3),
            **({"write": written} if written else {}),
            "inspect": {k: inspected[k] for k in ("seconds", "peak_gib")},
            "load": loaded,
            "load_peak_over_weights_gib": [round(row["peak_gib"] - weights / GIB, 3) for row in loaded],
            "generate": generated,
        },
    )


def step(name: str, folder: Path) -> dict[str, Any]:
    """One step in a process of its own."""
    done = subprocess.run([sys.executable, __file__, f"--{name}", str(folder)], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def write(folder: Path) -> dict[str, Any]:
    """Random weights as they would be initialized, never more than a piece of a tensor in memory."""
    import torch

    from openmimo.model.config import MiMoConfig
    from openmimo.model.hf import write_folder
    from openmimo.model.mimo import MiMo
    from openmimo.model.tensors import Source

    config = MiMoConfig()
    generator = torch.Generator().manual_seed(0)

    def source(shape: tuple[int, ...], name: str) -> Source:
        def pieces() -> Iterator[torch.Tensor]:
            if len(shape) == 1:
                yield torch.full(shape, 0.0 if name.endswith("bias") else 1.0, dtype=torch.bfloat16)
                return
            for first in range(0, shape[0], 1024):
                rows = min(1024, shape[0] - first)
                piece = torch.empty(rows, shape[1]).normal_(0.0, config.initializer_range, generator=generator)
                yield piece.bfloat16()

        return Source(shape, torch.bfloat16, pieces)

    with torch.device("meta"):
        shapes = {name: tuple(tensor.shape) for name, tensor in MiMo(config).state_dict().items()}
    write_folder(folder, config, "mimo", {name: source(shape, name) for name, shape in shapes.items()})
    return {}


def inspect(folder: Path) -> dict[str, Any]:
    from openmimo.model.folder import inspect_folder

    found = inspect_folder(folder)
    assert not found["missing"] and not found["unexpected"] and not found["wrong_shape"]
    return {"bytes": found["bytes"], "parameters": found["parameters"]}


def load(folder: Path) -> dict[str, Any]:
    from openmimo.model.hf import load_folder

    started = time.perf_counter()
    load_folder(folder)
    return {"load_s": round(time.perf_counter() - started, 1)}


def generate(folder: Path) -> dict[str, Any]:
    import torch

    from openmimo.engine.engine import Engine, EngineConfig
    from openmimo.model.hf import load_folder
    from openmimo.types import Request, Sampling

    started = time.perf_counter()
    model = load_folder(folder)
    loaded = time.perf_counter()
    config = EngineConfig(max_batch_size=1, max_model_len=64, num_token_ids=151_665)  # released checkpoint
    engine = Engine(model, config)
    engine.submit(Request((1, 2, 3, 4, 5), Sampling(TOKENS, temperature=0.0)))
    steps, rollouts = [], []
    while engine.num_active:
        begun = time.perf_counter()
        rollouts += engine.step()
        steps.append(time.perf_counter() - begun)
    (_, rollout) = rollouts[0]
    assert len(rollout.token_ids) == TOKENS and max(rollout.token_ids) < 151_665
    return {
        "load_s": round(loaded - started, 1),
        "first_token_s": round(steps[0], 2),
        "s_per_token": record.spread(steps[1:], "s", 2),
        "threads": torch.get_num_threads(),
        "tokens": TOKENS,
    }


def alone(name: str, folder: Path) -> None:
    """A step's process: its figures, with seconds and peak memory, as JSON."""
    started = time.perf_counter()
    found = {"write": write, "inspect": inspect, "load": load, "generate": generate}[name](folder)
    peak = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert peak
    found |= {
        "seconds": round(time.perf_counter() - started, 1),
        "peak_gib": round(int(peak[1]) * 1024 / GIB, 3),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    if sys.argv[1].startswith("--"):
        alone(sys.argv[1][2:], Path(sys.argv[2]))
    else:
        main()
