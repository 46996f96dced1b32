"""Precision, recomputation and compilation change how a step is computed, not what it computes."""

import copy
from typing import Any

import numpy as np
import pytest
import torch

from openmimo.data.pack import Sample, pack, stack
from openmimo.model.attention import packed_attention
from openmimo.model.config import MiMoConfig
from openmimo.model.mimo import MiMo
from openmimo.train.compute import ComputeConfig, Worker
from openmimo.train.loss import next_token_loss
from openmimo.train.optim import OptimConfig, Optimizer
from openmimo.train.step import TrainState, on_device, train_step
from openmimo.types import Batch

MODEL = MiMoConfig(
    vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, head_dim=8, rope_theta=1e4, max_position_embeddings=64,
)  # fmt: skip
LOSS = next_token_loss(mtp_weight=0.3)


def batch_of(seed: int = 0) -> Batch:
    rng = np.random.default_rng(seed)
    return pack([Sample(rng.integers(0, 64, rng.integers(2, 30)).tolist()) for _ in range(12)], 32)


def trained(config: ComputeConfig, steps: int = 3, **options: int) -> tuple[TrainState, list[float]]:
    model = MiMo(MODEL).init_weights(torch.Generator().manual_seed(0))
    state = TrainState(model, Optimizer(model, OptimConfig()), Worker(model, config))
    losses = [train_step(state, batch_of(n), LOSS, learning_rate=1e-3, **options)["loss"] for n in range(steps)]
    return state, losses


@pytest.mark.parametrize("recompute", ["full", "selective"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_recomputation_changes_no_bit(recompute: str, dtype: str) -> None:
    plain, losses = trained(ComputeConfig(dtype=dtype))  # type: ignore[arg-type]
    again, same = trained(ComputeConfig(dtype=dtype, recompute=recompute))  # type: ignore[arg-type]
    assert losses == same
    for (name, a), b in zip(plain.model.state_dict().items(), again.model.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def test_recomputation_keeps_less_for_the_backward_pass() -> None:
    held = {}
    for recompute in ("none", "selective", "full"):
        model = MiMo(MODEL).init_weights(torch.Generator().manual_seed(0))
        worker = Worker(model, ComputeConfig(recompute=recompute))  # type: ignore[arg-type]
        sizes: list[int] = []

        def note(tensor: torch.Tensor, sizes: list[int] = sizes) -> torch.Tensor:
            sizes.append(tensor.nbytes if tensor.dim() > 2 else 0)
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            LOSS(worker.model, on_device(batch_of(), torch.device("cpu")))
        held[recompute] = sum(sizes)
    # Selective recomputation keeps its matrix products in a cache of its own, out of the hooks' sight.
    assert held["full"] < 0.5 * held["none"] and held["selective"] < held["none"]


def test_masters_stay_float32_and_the_copy_is_them_rounded() -> None:
    state, losses = trained(ComputeConfig(dtype="bfloat16"))
    _, exact = trained(ComputeConfig())
    assert losses == pytest.approx(exact, rel=0.02) and losses != exact
    copy = state.worker.model
    assert copy is not state.model
    for (name, master), rounded in zip(state.model.named_parameters(), copy.parameters(), strict=True):
        assert master.dtype == torch.float32 and rounded.dtype == torch.bfloat16
        assert torch.equal(master.to(torch.bfloat16), rounded), name
        assert rounded.grad is None and master.grad is None
    assert all(
        value.dtype == torch.float32
        for part in state.optimizer.parts
        for values in part.state.values()
        for value in values.values()
    )


def test_gradients_of_micro_batches_are_added_in_float32() -> None:
    """In bfloat16 1 + 2^-9 is 1: sixteen small gradients after a large one would all be lost."""
    model = MiMo(MODEL).init_weights(torch.Generator().manual_seed(0))
    worker = Worker(model, ComputeConfig(dtype="bfloat16"))
    weight = worker.model.model.norm.weight
    for scale in (1.0, *[2.0**-9] * 16):
        (weight * scale).sum().backward()
    assert model.model.norm.weight.grad is not None
    assert model.model.norm.weight.grad.tolist() == [1.0 + 16 * 2.0**-9] * 32


def test_a_small_step_is_not_lost_to_rounding() -> None:
    """A step of 1e-5 on weights of 1 is far below bfloat16's 2^-8: the masters take it."""
    model = MiMo(MODEL).init_weights(torch.Generator().manual_seed(0))
    state = TrainState(model, Optimizer(model, OptimConfig()), Worker(model, ComputeConfig(dtype="bfloat16")))
    for n in range(3):
        train_step(state, batch_of(n), LOSS, learning_rate=1e-5)
    assert (model.model.norm.weight != 1.0).all() and (state.worker.model.model.norm.weight == 1.0).all()


@pytest.mark.slow
def test_compiled_blocks_compute_the_same_within_rounding_and_layers_share_their_code() -> None:
    from torch._dynamo.utils import counters

    _, losses = trained(ComputeConfig())
    counters.clear()
    _, compiled = trained(ComputeConfig(compile=True))
    assert compiled == pytest.approx(losses, rel=1e-5)
    assert counters["stats"]["unique_graphs"] == 2  # a block of the trunk and an MTP layer, however many there are


@pytest.mark.parametrize("documents", [[[5, 9, 7]], [[3], [4, 5, 6]]])
def test_flex_attention_and_the_mask_agree(documents: list[list[int]]) -> None:
    batch = on_device(stack([[Sample(list(range(40)))], [Sample(d) for d in documents]], 40), torch.device("cpu"))
    model = MiMo(MODEL).init_weights(torch.Generator().manual_seed(0))
    with torch.no_grad():
        dense, flex = (
            model(batch.token_ids, batch.positions, packed_attention(batch.document_ids, flex=flex))
            for flex in (False, True)
        )
    filled = batch.document_ids >= 0
    assert torch.allclose(dense[filled], flex[filled], atol=1e-5)


def test_rows_of_one_document_need_no_mask() -> None:
    model = MiMo(MODEL).init_weights(torch.Generator().manual_seed(0))
    ids = torch.randint(0, 64, (2, 24), generator=torch.Generator().manual_seed(1))
    positions = torch.arange(24).expand(2, 24)
    one, other = torch.zeros_like(ids), torch.ones_like(ids)
    with torch.no_grad():
        causal, masked = (model(ids, positions, packed_attention(documents)) for documents in (one, other))
    assert torch.allclose(causal, masked, atol=1e-5)


def test_offloaded_adamw_gives_the_same_numbers_and_the_same_state() -> None:
    def stepped(offload: bool, steps: range, state: Any = None) -> tuple[list[torch.Tensor], Any]:
        model = MiMo(MODEL).init_weights(torch.Generator().manual_seed(0))
        optimizer = Optimizer(model, OptimConfig(offload=offload))
        if state:
            model.load_state_dict(state[0])
            optimizer.load_state_dict(copy.deepcopy(state[1]))
        for step in steps:
            generator = torch.Generator().manual_seed(step)
            for n, parameter in enumerate(model.parameters()):
                if n or step:  # one parameter joins late
                    parameter.grad = torch.randn(parameter.shape, generator=generator)
            optimizer.step(1e-2)
        return list(model.parameters()), (copy.deepcopy(model.state_dict()), copy.deepcopy(optimizer.state_dict()))

    plain, _ = stepped(False, range(4))
    whole, _ = stepped(True, range(4))
    _, half = stepped(True, range(2))
    resumed, _ = stepped(True, range(2, 4), half)
    moved, _ = stepped(False, range(2, 4), half)
    for others in (whole, resumed, moved):
        assert all(torch.equal(a, b) for a, b in zip(plain, others, strict=True))


def test_muon_cannot_be_offloaded() -> None:
    with pytest.raises(ValueError, match=r"optim.kind must be adamw, got muon"):
        Optimizer(MiMo(MODEL), OptimConfig(kind="muon", offload=True))
