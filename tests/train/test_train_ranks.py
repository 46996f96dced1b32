"""Several ranks share a batch: the same token stream for any number of them, and what one trains, many train.

Each case is one `torchrun` over gloo; what the ranks leave is read here.
"""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from openmimo import checkpoint
from openmimo.data.shards import write_shard
from openmimo.log import read_metrics

ROOT = Path(__file__).resolve().parents[2]

SCRIPT = """
import dataclasses, json, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
sys.path.insert(0, sys.argv[1])
from test_train_loops import MODEL, RECIPE
from openmimo.data.mix import Mixture
from openmimo.data.shards import open_shards
from openmimo.mesh import join
from openmimo.model.mimo import MiMo
from openmimo.train.compute import ComputeConfig
from openmimo.train.optim import OptimConfig
from openmimo.train.pretrain import pretrain, seeded_model

folder, until, options = Path(sys.argv[2]), float(sys.argv[3]), json.loads(sys.argv[4])
mesh = join()

class Recorded(Mixture):
    "Writes down which tokens this rank was given."
    def rows(self, num_rows, context, weights, share=slice(None)):
        batch = super().rows(num_rows, context, weights, share)
        with (folder / f"stream-{mesh.rank}.jsonl").open("a") as file:
            file.write(json.dumps([sum(self.served.values()), mesh.world_size, batch.token_ids.tolist()]) + "\\n")
        return batch

class Enough(Exception):
    pass

config = dataclasses.replace(
    RECIPE, compute=ComputeConfig(**options.get("compute", {})), optim=OptimConfig(options.get("optim", "adamw")),
    checkpoint_every=1,
)
model = seeded_model(MiMo(MODEL), 7)
out = {}
def on_step():
    if out["tokens"]() >= until:
        raise Enough
import openmimo.train.pretrain as loop
step = loop.train_step
def counted(state, *args, **kwargs):
    out["tokens"] = lambda: state.tokens
    return step(state, *args, **kwargs)
loop.train_step = counted
try:
    state = pretrain(model, Recorded(open_shards(folder.parent / "shards"), seed=7), config, out=folder,
                     checkpoints=folder / "checkpoints", mesh=mesh, on_step=on_step)
    state.save(folder / "model", tokenizer_from=None)
except Enough:
    pass
if mesh.is_main:
    from torch._dynamo.utils import counters
    (folder / "graphs").write_text(str(counters["stats"]["unique_graphs"]))
mesh.wait()
mesh.leave()
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        texts = [rng.integers(0, 64, rng.integers(3, 80)).tolist() for _ in range(30)]
        write_shard(texts, tmp_path / "shards" / name, name, vocab_size=64)
    (tmp_path / "script.py").write_text(SCRIPT)
    return tmp_path


def train(folder: Path, name: str, ranks: int, until: float = 1e9, **options: object) -> Path:
    out = folder / name
    out.mkdir(exist_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launcher = [sys.executable]
    if ranks > 1:
        launcher += ["-m", "torch.distributed.run", "--nproc-per-node", str(ranks), "--master-port", str(port)]
    arguments = [str(folder / "script.py"), str(Path(__file__).parent), str(out), str(until), json.dumps(options)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*launcher, *arguments], env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-2000:]
    return out


def stream(out: Path) -> list[list[int]]:
    """Every row of the run in order, ranks put together; what was read ahead and not trained on is cut off."""
    latest: dict[tuple[int, int], tuple[int, list[list[int]]]] = {}
    for path in out.glob("stream-*.jsonl"):
        rank = int(path.stem.removeprefix("stream-"))
        for line in path.read_text().splitlines():
            served, world, rows = json.loads(line)
            latest[served, rank] = world, rows
    trained = read_metrics(out)[-1]["tokens"]
    return [
        row
        for (served, rank), (_, rows) in sorted(latest.items())
        if served <= trained and rank < latest[served, 0][0]
        for row in rows
    ]


def losses(out: Path) -> list[float]:
    return [row["loss"] for row in read_metrics(out)]


def test_one_two_and_one_rank_again_see_one_token_stream_and_the_same_losses(folder: Path) -> None:
    alone = train(folder, "alone", 1)
    mixed = train(folder, "mixed", 1, until=1200)
    train(folder, "mixed", 2, until=2600)
    train(folder, "mixed", 1)
    assert stream(mixed) == stream(alone)
    one, many = ([row["rows_digest"] for row in read_metrics(out)] for out in (alone, mixed))
    assert one == many and len(set(one)) == len(one)
    assert len(losses(mixed)) == len(losses(alone))
    assert losses(mixed) == pytest.approx(losses(alone), rel=2e-5)
    steps = [row["step"] for row in read_metrics(mixed)]
    assert steps == list(range(len(steps)))


@pytest.mark.parametrize(
    "dtype, optim, tolerance",
    [
        ("float32", "adamw", 1e-5),
        # Muon orthogonalises in bfloat16, which makes much of the order of sums: losses agree, weights less.
        pytest.param("float32", "muon", 2e-3, marks=pytest.mark.slow),
        pytest.param("bfloat16", "adamw", 2e-2, marks=pytest.mark.slow),
    ],
)
def test_sharded_ranks_train_what_one_trains(folder: Path, dtype: str, optim: str, tolerance: float) -> None:
    alone = train(folder, "alone", 1, until=900, compute={"dtype": dtype}, optim=optim)
    shared = train(folder, "shared", 2, until=500, compute={"dtype": dtype, "shard": True}, optim=optim)
    train(folder, "shared", 2, until=900, compute={"dtype": dtype, "shard": True}, optim=optim)
    assert losses(shared) == pytest.approx(losses(alone), rel=tolerance)
    one, two = (checkpoint.latest(out / "checkpoints") for out in (alone, shared))
    assert one is not None and two is not None
    for name, tensor in one["train"]["model"].items():
        other = two["train"]["model"][name]
        assert type(other) is torch.Tensor and other.dtype == torch.float32, name
        assert torch.allclose(tensor, other, atol=10 * tolerance), name


@pytest.mark.slow
def test_sharded_blocks_are_compiled_too(folder: Path) -> None:
    """FSDP2's hooks hide a module from the compiler, so it is the forward that is compiled: MiMo-7B's own settings."""
    alone = train(folder, "alone", 1, until=300, compute={"dtype": "bfloat16"})
    how = {"dtype": "bfloat16", "shard": True, "compile": True, "recompute": "full"}
    shared = train(folder, "shared", 2, until=300, compute=how)
    assert losses(shared) == pytest.approx(losses(alone), rel=2e-2)
    assert int((shared / "graphs").read_text()) >= 2


@pytest.mark.slow
def test_a_rank_without_rows_takes_part(folder: Path) -> None:
    """The ramp begins with 2 rows: of three ranks one has none."""
    alone, three = train(folder, "alone", 1, until=300), train(folder, "three", 3, until=300)
    assert losses(three) == pytest.approx(losses(alone), rel=1e-5)
