"""Training steps against transformers' Qwen2 from the same weights, and what the speed benchmarks are made of."""

import numpy as np
import pytest
import torch

from openmimo.data.pack import Sample, pack
from openmimo.model.config import MiMoConfig
from openmimo.train.compute import ComputeConfig, Worker
from openmimo.train.loss import next_token_loss
from openmimo.train.optim import OptimConfig, Optimizer
from openmimo.train.step import TrainState, train_step

transformers = pytest.importorskip("transformers")

import pretrain_speed  # noqa: E402
import train_process  # noqa: E402
import transformers_parity as parity  # noqa: E402

MODEL = MiMoConfig(
    vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, head_dim=8, rope_theta=1e4, max_position_embeddings=64, num_nextn_predict_layers=0,
)  # fmt: skip


def test_forty_steps_give_transformers_losses() -> None:
    rows = [parity.walk(step, 4, 32, 64) for step in range(40)]
    theirs, ours = parity.their_losses(MODEL, rows), parity.our_losses(MODEL, rows, ComputeConfig())
    assert ours == pytest.approx(theirs, rel=1e-4)
    assert theirs[-1] < 0.97 * theirs[0]  # something was learnt


def test_packed_documents_train_as_transformers_trains_each_alone() -> None:
    """Ours packs documents into rows; theirs gets one padded row each. Sum over targets, divided by their number."""
    rng = np.random.default_rng(0)
    documents = [[rng.integers(0, 64, rng.integers(2, 30)).tolist() for _ in range(9)] for _ in range(12)]
    model, peer = parity.initial(MODEL), pretrain_speed.transformers_model(vars(MODEL))
    peer.load_state_dict(model.state_dict())
    state = TrainState(model, Optimizer(model, OptimConfig()), Worker(model))

    def their_loss(peer: torch.nn.Module, numbers: torch.Tensor) -> torch.Tensor:
        total, count = torch.zeros(()), 0
        for ids in documents[int(numbers[0])]:
            row = torch.tensor([ids])
            total = total + (len(ids) - 1) * peer(input_ids=row, labels=row).loss
            count += len(ids) - 1
        return total / count

    their_step = train_process.plain_step(peer, their_loss, "float32")
    loss = next_token_loss(mtp_weight=0.0)
    for number, batch in enumerate(documents):
        ours = train_step(state, pack([Sample(d) for d in batch], 32), loss, learning_rate=train_process.LEARNING_RATE)[
            "loss"
        ]
        assert ours == pytest.approx(their_step(np.array([number])), rel=1e-4), number


def test_a_peers_float32_masters_take_steps_that_bfloat16_would_lose() -> None:
    peer = pretrain_speed.transformers_model(vars(MODEL))
    exact = pretrain_speed.transformers_model(vars(MODEL))
    exact.load_state_dict(peer.state_dict())
    ids = parity.walk(0, 4, 32, 64)

    def loss(model: torch.nn.Module, ids: torch.Tensor) -> torch.Tensor:
        return model(input_ids=ids, labels=ids).loss

    rounded, plain = (train_process.plain_step(m, loss, p) for m, p in ((peer, "masters"), (exact, "float32")))
    found = [(rounded(ids), plain(ids)) for _ in range(30)]
    assert all(p.dtype == torch.bfloat16 for p in peer.parameters())
    assert all(a == pytest.approx(b, rel=0.01) for a, b in found) and found[-1][1] < 0.95 * found[0][1]


def test_the_shapes_of_the_speed_benchmark_have_the_sizes_they_are_named_for() -> None:
    sizes = {name: config.num_parameters()[0] for name, config in pretrain_speed.SHAPES.items()}
    assert 23e6 < sizes["25M"] < 29e6 and 4.5e6 < sizes["5M"] < 6e6
    for name, config in pretrain_speed.SHAPES.items():
        assert sum(p.numel() for p in pretrain_speed.transformers_model(vars(config)).parameters()) == sizes[name]
