"""The memory that is predicted for RL is what the tensors of a real update take."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from plan_memory import held, most_allocated

from openmimo.engine.engine import Engine, EngineConfig
from openmimo.engine.pool import EnginePool
from openmimo.memory import Colocated, Layout, rl_memory_of
from openmimo.model.config import MiMoConfig
from openmimo.model.mimo import MiMo
from openmimo.rl.loss import policy_loss
from openmimo.rl.train import freeze_mtp
from openmimo.train.compute import ComputeConfig, Worker, copy_of
from openmimo.train.optim import OptimConfig, Optimizer
from openmimo.train.step import TrainState, train_step
from openmimo.types import Batch

MODEL = MiMoConfig(
    vocab_size=1024, hidden_size=128, intermediate_size=352, num_hidden_layers=3, num_attention_heads=4,
    num_key_value_heads=2, head_dim=32, num_nextn_predict_layers=0,
)  # fmt: skip
CASES = {
    **{
        f"{dtype} {mode}": (MODEL, Layout(2, 256, dtype, mode))  # type: ignore[arg-type]
        for dtype in ("float32", "bfloat16")
        for mode in ("none", "full")
    },
    "a large vocabulary": (replace(MODEL, vocab_size=16_384), Layout(1, 512)),
    "a large vocabulary, tied": (replace(MODEL, vocab_size=16_384, tie_word_embeddings=True), Layout(1, 512)),
    "a large vocabulary in bfloat16": (replace(MODEL, vocab_size=16_384), Layout(1, 512, "bfloat16", "full")),
    "frozen MTP": (replace(MODEL, num_nextn_predict_layers=1), Layout(2, 256)),
}


@pytest.mark.parametrize("name", CASES)
def test_predicted_memory_is_what_an_updates_tensors_take(name: str) -> None:
    shape, layout = CASES[name]
    model = MiMo(shape).init_weights(torch.Generator().manual_seed(0))
    freeze_mtp(model)
    compute = ComputeConfig(dtype=layout.dtype, recompute=layout.recompute)
    state = TrainState(model, Optimizer(model, OptimConfig(weight_decay=0.0)), Worker(model, compute))
    rows, slots = 2 * layout.rows, (2 * layout.rows, layout.context)
    documents = np.zeros(slots, np.int64)
    documents[:, layout.context // 2 :] = 1
    batch = Batch(
        np.random.default_rng(0).integers(0, shape.vocab_size, slots), np.tile(np.arange(layout.context), (rows, 1)),
        documents, np.ones(slots, np.float32), advantages=np.ones(slots, np.float32),
        old_logprobs=np.full(slots, -6.0, np.float32), sequence_ids=documents,
    )  # fmt: skip
    loss = policy_loss(clip_low=0.2, clip_high=0.28, temperature=0.9)

    def step() -> None:
        train_step(state, batch, loss, learning_rate=1e-3, micro_rows=layout.rows)

    step()
    memory = rl_memory_of(shape, layout, Colocated(0, 1))
    predicted = memory.total - sum(memory.parts[part] for part in ("reserve", "engine"))
    assert 0.98 <= predicted / (held(state) + most_allocated(step)) <= 1.12, memory  # rather too much than too little


def test_the_engines_share_is_its_weights_and_its_cache() -> None:
    config = EngineConfig(max_batch_size=4, max_model_len=64)
    engine = Engine(MiMo(MODEL).init_weights(torch.Generator().manual_seed(0)).to(torch.bfloat16), config)
    memory = rl_memory_of(MODEL, Layout(1, 64, "bfloat16", device="cuda"), Colocated(0, 4))
    assert memory.parts["engine"] == sum(p.nbytes for p in engine.model.parameters())


def test_copies_of_the_weights_are_counted_where_they_are_made() -> None:
    """The pool keeps one for engines that are replaced, each process shares one, and streaming has a frozen model."""
    count, layout = sum(MODEL.num_parameters()), Layout(1, 64, "bfloat16")
    one = rl_memory_of(MODEL, layout, Colocated(100, 4))
    assert one.parts["engine"] == 2 * count + 4 * count
    pool = EnginePool([Engine(MiMo(MODEL), EngineConfig(max_batch_size=4, max_model_len=64))], build=Engine)  # type: ignore[arg-type]
    pool.update_weights(MiMo(MODEL).state_dict(), 1)
    assert sum(t.nbytes for t in pool._weights.values()) == 4 * count
    two = rl_memory_of(MODEL, layout, Colocated(100, 4, processes=2))
    assert two.parts["engine"] == 2 * 2 * count + 4 * count * 3 and two.parts["cache"] == 200
    streamed = rl_memory_of(MODEL, layout, Colocated(100, 4, streams=True))
    assert streamed.parts["copies"] - one.parts["copies"] == sum(
        p.nbytes for p in copy_of(MiMo(MODEL), torch.bfloat16).parameters()
    )
