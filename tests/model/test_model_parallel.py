"""Two gloo processes on the CPU compute what one does: loss, gradients, and weights after a step."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from openmimo.data.pack import Sample, pack
from openmimo.model.config import MiMoConfig
from openmimo.model.mimo import MiMo
from openmimo.train.loss import next_token_loss
from openmimo.train.step import on_device
from openmimo.types import Batch

WORKER = """
import sys
from datetime import timedelta
from pathlib import Path
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from openmimo.mesh import Mesh
from openmimo.model.parallel import shard, whole_state_dict
from openmimo.train.loss import next_token_loss
sys.path.insert(0, sys.argv[2])
import test_model_parallel as case

folder, rank = Path(sys.argv[1]), int(sys.argv[3])
dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2,
                        timeout=timedelta(seconds=60))
shape, names = ((2,), ("shard",)) if sys.argv[4] == "fsdp" else ((2, 1), ("replicate", "shard"))
model = shard(case.model_of(sys.argv[5] == "tied"), init_device_mesh("cpu", shape, mesh_dim_names=names))
local = sum(p.to_local().numel() for p in model.parameters())
rows = Mesh(rank, 2).share(5)
batch = case.batch_of(rows)
optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
losses = []
for _ in range(2):
    loss, _ = next_token_loss(mtp_weight=0.3, chunk_tokens=16)(model, batch)
    (loss / case.WEIGHT).backward()
    losses.append(Mesh(rank, 2).sum(loss.detach().clone()))
    grads = {n: p.grad.full_tensor() for n, p in model.named_parameters()}
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0).full_tensor()
    optimizer.step()
    optimizer.zero_grad()
result = {"losses": losses, "grads": grads, "norm": norm, "weights": whole_state_dict(model), "local": local}
torch.save(result, folder / f"{rank}.pt")
try:
    shard(model, init_device_mesh("cpu", (2,)))
    raise SystemExit("sharded twice")
except ValueError as error:
    assert "sharded already" in str(error)
dist.destroy_process_group()
"""


def model_of(tied: bool) -> MiMo:
    config = MiMoConfig(
        vocab_size=50, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=4, rope_theta=1e4, max_position_embeddings=32, num_nextn_predict_layers=2,
        initializer_range=0.2, tie_word_embeddings=tied,
    )  # fmt: skip
    return MiMo(config).init_weights(torch.Generator().manual_seed(0))


def whole_batch() -> Batch:
    generator = torch.Generator().manual_seed(1)
    return pack([Sample(torch.randint(0, 50, (n,), generator=generator).tolist()) for n in (20, 17, 15, 12, 9, 20)], 24)


def batch_of(rows: slice) -> Batch:
    return on_device(whole_batch(), torch.device("cpu"), rows)


WEIGHT = float(whole_batch().loss_weights.sum())


def alone(tied: bool) -> dict[str, object]:
    model = model_of(tied)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    losses = []
    for _ in range(2):
        loss, _ = next_token_loss(mtp_weight=0.3, chunk_tokens=16)(model, batch_of(slice(0, 99)))
        (loss / WEIGHT).backward()
        losses.append(loss.detach())
        grads = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    return {"losses": losses, "grads": grads, "norm": norm, "weights": model.state_dict()}


@pytest.mark.parametrize(("kind", "tied"), [("fsdp", "untied"), ("fsdp", "tied"), ("hsdp", "untied")])
@pytest.mark.slow  # 8 s each with two cores to itself
@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no distributed package")
def test_two_processes_give_what_one_gives(kind: str, tied: str, tmp_path: Path) -> None:
    assert len(whole_batch().token_ids) == 5  # so the ranks' shares differ
    here = Path(__file__).parent
    env = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, str(tmp_path), str(here), str(rank), kind, tied],
            env=env, stderr=subprocess.PIPE, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    for worker in workers:
        _, errors = worker.communicate(timeout=120)
        assert worker.returncode == 0, errors[-3000:]
    expected = alone(tied == "tied")
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=False)
        for name in ("losses", "norm"):
            torch.testing.assert_close(found[name], expected[name], rtol=1e-5, atol=1e-5)
        for name in ("grads", "weights"):
            assert found[name].keys() == expected[name].keys()  # type: ignore[attr-defined]
            for key, tensor in expected[name].items():  # type: ignore[attr-defined]
                torch.testing.assert_close(found[name][key], tensor, rtol=1e-4, atol=1e-5, msg=f"{name} {key}")
        total = sum(p.numel() for p in model_of(tied == "tied").parameters())
        assert found["local"] <= (0.55 if kind == "fsdp" else 1.0) * total


def test_a_mesh_of_three_axes_is_refused() -> None:
    from openmimo.model.parallel import shard

    class Cube:
        ndim = 3

    with pytest.raises(ValueError, match=r"1 axis .* or 2 .*, got 3"):
        shard(model_of(False), Cube())  # type: ignore[arg-type]
