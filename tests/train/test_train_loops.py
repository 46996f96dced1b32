"""The training step, and loops that go on bit for bit where they were cut."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from openmimo import checkpoint
from openmimo.data.mix import Mixture
from openmimo.data.pack import Sample, pack
from openmimo.data.shards import TokenShard, write_shard
from openmimo.log import read_metrics
from openmimo.model.config import MiMoConfig
from openmimo.model.mimo import MiMo
from openmimo.train.loss import next_token_loss
from openmimo.train.optim import OptimConfig, Optimizer, Piece
from openmimo.train.pretrain import PretrainConfig, StageConfig, pretrain, seeded_model
from openmimo.train.sft import SFTConfig, finetune
from openmimo.train.step import TrainState, train_step

MODEL = MiMoConfig(
    vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, head_dim=8, rope_theta=1e4, max_position_embeddings=64,
)  # fmt: skip

RECIPE = PretrainConfig(
    learning_rate=(Piece(400, 3e-3, "linear"), Piece(2000, 3e-3), Piece(4000, 1e-3, "cosine")),
    batch_ramp_tokens=800, batch_ramp_start=2, batch_ramp_multiple=1,
    mtp_weight=(Piece(1500, 0.3), Piece(4000, 0.1)),
    stages=(
        StageConfig(1600, 32, 1e4, 4, {"a": 0.7, "b": 0.3}),
        StageConfig(2800, 32, 1e4, 4, {"a": 0.2, "b": 0.8}),
        StageConfig(4000, 64, 64e4, 2, {"a": 0.5, "b": 0.5}),
    ),
    optim=OptimConfig(kind="muon"),
    checkpoint_every=3,
)  # fmt: skip


@pytest.fixture
def shards(tmp_path: Path) -> dict[str, TokenShard]:
    rng = np.random.default_rng(0)
    return {
        name: write_shard(
            [rng.integers(0, 64, rng.integers(3, 80)).tolist() for _ in range(30)], tmp_path / name, name, vocab_size=64
        )
        for name in ("a", "b")
    }


class Killed(Exception):
    pass


def run(shards: dict[str, TokenShard], out: Path, kill_at: int = 0) -> TrainState:
    model = seeded_model(MiMo(MODEL), 7)
    steps = iter(range(1, 10_000))

    def on_step() -> None:
        if next(steps) == kill_at:
            raise Killed

    out.mkdir(exist_ok=True)
    return pretrain(model, Mixture(shards, seed=7), RECIPE, out=out, checkpoints=out / "ckpt", on_step=on_step)


def plain_rows(out: Path) -> list[dict]:
    return [{k: v for k, v in row.items() if k != "timing"} for row in read_metrics(out)]


def test_a_killed_pretraining_goes_on_bit_for_bit(shards: dict[str, TokenShard], tmp_path: Path) -> None:
    whole = run(shards, tmp_path / "whole")
    for kill_at in (1, 4, 17):
        out = tmp_path / f"cut{kill_at}"
        with pytest.raises(Killed):
            run(shards, out, kill_at)
        again = run(shards, out)
        for (name, a), b in zip(whole.model.state_dict().items(), again.model.state_dict().values(), strict=True):
            assert torch.equal(a, b), name
        assert plain_rows(out) == plain_rows(tmp_path / "whole")


def test_one_run_crosses_all_three_stages(shards: dict[str, TokenShard], tmp_path: Path) -> None:
    state = run(shards, tmp_path / "whole")
    rows = read_metrics(tmp_path / "whole")
    assert [r["step"] for r in rows] == list(range(len(rows)))
    assert {r["train_stage"] for r in rows} == {1, 2, 3}
    assert {(r["train_stage"], r["context"], r["rope_theta"]) for r in rows} == {
        (1, 32, 1e4),
        (2, 32, 1e4),
        (3, 64, 64e4),
    }
    assert {r["mtp_weight"] for r in rows} == {0.3, 0.1}
    assert state.model.rope_theta == 64e4
    assert rows[0]["batch_sequences"] == 2 and max(r["batch_sequences"] for r in rows) == 4


def test_micro_batches_change_memory_and_not_the_result() -> None:
    rng = np.random.default_rng(3)
    batch = pack([Sample(rng.integers(0, 64, 20).tolist()) for _ in range(9)], 32)
    weights = []
    for micro_rows in (0, 2):
        model = seeded_model(MiMo(MODEL), 0)
        state = TrainState(model, Optimizer(model, OptimConfig()))
        train_step(state, batch, next_token_loss(mtp_weight=0.3), learning_rate=1e-3, micro_rows=micro_rows)
        weights.append(model.lm_head.weight.detach().clone())
        assert state.tokens == batch.token_ids.size and state.step == 1
    assert torch.allclose(weights[0], weights[1], atol=1e-6)


def test_a_gradient_that_is_not_finite_is_skipped_and_counted() -> None:
    model = seeded_model(MiMo(MODEL), 0)
    state = TrainState(model, Optimizer(model, OptimConfig()))
    batch = pack([Sample([1, 2, 3, 4])], 8)

    def broken(model: MiMo, batch):  # type: ignore[no-untyped-def]
        loss, metrics = next_token_loss(mtp_weight=0.0)(model, batch)
        return loss * float("nan"), metrics

    before = model.lm_head.weight.detach().clone()
    train_step(state, batch, broken, learning_rate=1e-3)
    assert torch.equal(before, model.lm_head.weight) and state.skipped == 1 and state.tokens == 8


def test_muon_takes_the_blocks_matrices_and_adamw_the_rest() -> None:
    model = MiMo(MODEL)
    adamw, muon = Optimizer(model, OptimConfig(kind="muon")).parts
    names = {id(p): n for n, p in model.named_parameters()}
    taken = {names[id(p)] for g in muon.param_groups for p in g["params"]}
    assert "model.layers.0.mlp.up_proj.weight" in taken and "model.mtp_layers.0.input_proj.weight" in taken
    assert not any("embed" in n or "lm_head" in n or "norm" in n or "bias" in n for n in taken)
    rest = {names[id(p)] for g in adamw.param_groups for p in g["params"]}
    assert taken | rest == set(names.values()) and not taken & rest


def test_a_killed_finetuning_goes_on_bit_for_bit(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    samples = [Sample(rng.integers(0, 64, 12).tolist(), [0.0] * 5 + [1.0] * 7) for _ in range(40)]
    config = SFTConfig(1e-3, 2, 3, 32, 2.0, checkpoint_every=2)

    def tune(out: Path) -> MiMo:
        out.mkdir(exist_ok=True)
        model = seeded_model(MiMo(MODEL), 1)
        finetune(model, samples, config, seed=5, out=out, checkpoints=out / "ckpt")
        return model

    whole = tune(tmp_path / "whole")
    cut = tmp_path / "cut"
    tune(cut)
    newest = sorted((cut / "ckpt").iterdir())[-1]
    shutil.rmtree(newest)
    again = tune(cut)
    assert all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), again.state_dict().values(), strict=True))
    assert plain_rows(cut) == plain_rows(tmp_path / "whole")


def test_sft_without_samples_says_so(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no SFT samples"):
        finetune(MiMo(MODEL), [], SFTConfig(), seed=0, out=tmp_path, checkpoints=tmp_path)


def test_a_full_disk_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint.save(tmp_path, 1, {"value": 1})

    def no_room(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", no_room)
    with pytest.raises(ValueError, match="No space left on device"):
        checkpoint.save(tmp_path, 2, {"value": 2})
    assert checkpoint.latest(tmp_path) == {"value": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000001"]


def test_defaults_are_the_papers() -> None:
    values = dataclasses.asdict(SFTConfig())
    assert (values["learning_rate"], values["batch_rows"], values["context"]) == (3e-5, 128, 32_768)
    assert (PretrainConfig().optim.betas, PretrainConfig().optim.weight_decay, PretrainConfig().optim.clip) == (
        (0.9, 0.95), 0.1, 1.0,
    )  # fmt: skip


def test_a_batch_of_tensors_trains_like_one_of_arrays() -> None:
    arrays = pack([Sample(list(range(1, 20))), Sample(list(range(30, 50)))], 32)
    tensors = dataclasses.replace(
        arrays,
        **{
            f.name: torch.as_tensor(v) for f in dataclasses.fields(arrays) if (v := getattr(arrays, f.name)) is not None
        },
    )
    metrics, tokens = [], []
    for batch in (arrays, tensors):
        model = seeded_model(MiMo(MODEL), 1)
        state = TrainState(model, Optimizer(model, OptimConfig()))
        metrics.append(train_step(state, batch, next_token_loss(mtp_weight=0.1), learning_rate=1e-3))
        tokens.append(state.tokens)
    assert metrics[0] == metrics[1] and tokens == [64, 64]
