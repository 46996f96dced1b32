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
from openmimo.train.guard import GuardConfig
from openmimo.train.loss import next_token_loss
from openmimo.train.optim import OptimConfig, Optimizer, Piece
from openmimo.train.pretrain import PretrainConfig, StageConfig, count_steps, pretrain, seeded_model, settings_at
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


def test_the_papers_schedule_scaled_down_crosses_every_boundary_for_real(tmp_path: Path) -> None:
    """MiMo 2.3 in 10^8 times fewer tokens: context 8,192 becomes 16 and 32,768 becomes 64, RoPE bases as they are."""
    scale = 1e-8

    def scaled(pieces: tuple[Piece, ...]) -> tuple[Piece, ...]:
        return tuple(dataclasses.replace(p, until_tokens=p.until_tokens * scale) for p in pieces)

    paper = PretrainConfig()
    config = dataclasses.replace(
        paper,
        learning_rate=scaled(paper.learning_rate),
        mtp_weight=scaled(paper.mtp_weight),
        batch_ramp_tokens=paper.batch_ramp_tokens * scale,
        batch_ramp_start=1,
        batch_ramp_multiple=1,
        stages=tuple(
            StageConfig(s.until_tokens * scale, s.context // 512, s.rope_theta, s.batch_sequences // 80, mixture)
            for s, mixture in zip(paper.stages, ({"a": 1.0}, {"a": 0.3, "b": 0.7}, {"a": 0.5, "b": 0.5}), strict=True)
        ),
    )
    rng = np.random.default_rng(0)
    texts = [rng.integers(0, 64, rng.integers(8, 80)).tolist() for _ in range(200)]
    shards = {name: write_shard(texts, tmp_path / name, name, vocab_size=64) for name in "ab"}
    small = dataclasses.replace(MODEL, hidden_size=16, intermediate_size=16, num_hidden_layers=1)
    model = seeded_model(MiMo(small), 0)
    state = pretrain(model, Mixture(shards, seed=0), config, out=tmp_path, checkpoints=tmp_path / "checkpoints")
    rows = read_metrics(tmp_path)
    assert len(rows) == count_steps(config) > 400 and state.tokens >= 237_840
    begins = [0, *(row["tokens"] for row in rows[:-1])]
    for at, row in zip(begins, rows, strict=True):  # what a step used is what the paper says at the token it began at
        said = settings_at(paper, at / scale)
        assert (row["train_stage"], row["rope_theta"], row["mtp_weight"]) == (
            said.stage,
            said.rope_theta,
            said.mtp_weight,
        )
        assert row["learning_rate"] == pytest.approx(said.learning_rate, rel=1e-9)
        assert row["context"] == said.context // 512
        if at >= paper.batch_ramp_tokens * scale:
            assert row["batch_sequences"] == said.batch_sequences // 80
    ramp = [
        row["batch_sequences"] for at, row in zip(begins, rows, strict=True) if at < paper.batch_ramp_tokens * scale
    ]
    assert ramp[0] == 1 and ramp == sorted(ramp) and len(set(ramp)) > 3
    assert {row["train_stage"] for row in rows} == {1, 2, 3} and model.rope_theta == 640_000.0


def test_a_spike_and_a_broken_batch_are_left_out_and_their_tokens_counted(
    shards: dict[str, TokenShard], tmp_path: Path
) -> None:
    """Step 12's loss is not a number, with a low border some others are spikes: what is left out moves nothing."""

    class Broken(Mixture):
        def rows(self, *args, **kwargs):  # type: ignore[no-untyped-def]
            batch = super().rows(*args, **kwargs)
            nan = np.float32("nan" if next(numbers) == 12 else 1.0)
            return dataclasses.replace(batch, loss_weights=batch.loss_weights * nan)

    numbers = iter(range(10_000))
    config = dataclasses.replace(RECIPE, guard=GuardConfig(sigmas=1.0, least=5))
    seen: list[torch.Tensor] = []
    model = seeded_model(MiMo(MODEL), 7)

    def on_step() -> None:
        seen.append(model.lm_head.weight.detach().clone())

    state = pretrain(
        model, Broken(shards, seed=7), config, out=tmp_path, checkpoints=tmp_path / "checkpoints", on_step=on_step
    )
    rows = read_metrics(tmp_path)
    skipped = [row["step"] for row in rows if row["skipped_update"]]
    assert 12 in skipped and state.skipped == len(skipped) and 2 <= len(skipped) < len(rows) / 2
    for step in skipped:
        assert torch.equal(seen[step], seen[step - 1])
    assert not any(torch.equal(seen[n], seen[n - 1]) for n in range(1, len(rows)) if n not in skipped)
    assert rows[12]["tokens"] - rows[11]["tokens"] == rows[12]["batch_sequences"] * rows[12]["context"]


def test_a_run_that_only_spikes_stops_with_advice_and_its_last_checkpoint(
    shards: dict[str, TokenShard], tmp_path: Path
) -> None:
    class Broken(Mixture):
        def rows(self, *args, **kwargs):  # type: ignore[no-untyped-def]
            batch = super().rows(*args, **kwargs)
            late = sum(self.served.values()) > 1000
            return dataclasses.replace(batch, loss_weights=batch.loss_weights * np.float32("nan")) if late else batch

    config = dataclasses.replace(RECIPE, guard=GuardConfig(patience=4))
    with pytest.raises(ValueError, match=r"4 updates in a row were left out, .* lower learning_rate"):
        pretrain(seeded_model(MiMo(MODEL), 7), Broken(shards, seed=7), config, out=tmp_path, checkpoints=tmp_path / "c")
    assert [row["skipped_update"] for row in read_metrics(tmp_path)][-4:] == [1.0] * 4
    saved = checkpoint.latest(tmp_path / "c")
    assert saved is not None and torch.isfinite(saved["train"]["model"]["lm_head.weight"]).all()


def test_a_schedule_with_an_empty_stage_is_refused(shards: dict[str, TokenShard], tmp_path: Path) -> None:
    stages = (RECIPE.stages[0], dataclasses.replace(RECIPE.stages[0], until_tokens=1.0))
    with pytest.raises(ValueError, match=r"stage 2 ends at 1 tokens, not after stage 1's end"):
        pretrain(
            seeded_model(MiMo(MODEL), 7),
            Mixture(shards, seed=7),
            dataclasses.replace(RECIPE, stages=stages),
            out=tmp_path,
            checkpoints=tmp_path / "c",
        )


def test_losses_by_source_and_held_out_perplexity_are_logged(shards: dict[str, TokenShard], tmp_path: Path) -> None:
    held_out = {name: Mixture({name: shards[name]}, seed=1).rows(3, 32, {name: 1.0}) for name in shards}
    config = dataclasses.replace(RECIPE, validate_every=10)
    model = seeded_model(MiMo(MODEL), 7)
    mixture = Mixture(shards, seed=7)
    pretrain(model, mixture, config, out=tmp_path, checkpoints=tmp_path / "c", held_out=held_out)
    rows = read_metrics(tmp_path)
    for row in rows:
        named = {key for key in row if key.startswith("ce/")}
        assert named and named <= {"ce/a", "ce/b"} and 0.5 < row["packing"] <= 1.0
        assert min(row[k] for k in named) - 1e-6 <= row["ce"] <= max(row[k] for k in named) + 1e-6
        timing = row["timing"]
        assert 0 < timing["mfu_causal"] < timing["mfu_full"] and timing["data_wait_s"] >= 0
    assert [row["step"] for row in rows if "perplexity/a" in row] == [*range(9, len(rows), 10), len(rows) - 1][
        : len(rows)
    ]
    assert 1.0 < rows[-1]["perplexity/b"] < rows[9]["perplexity/b"]


def test_a_demand_beyond_the_limit_is_refused_before_the_first_step(
    shards: dict[str, TokenShard], tmp_path: Path
) -> None:
    mixture = Mixture(shards, seed=7, max_epochs={"a": 0.5})
    with pytest.raises(ValueError, match=r"source 'a' has .* epochs, its limit is 0\.5"):
        pretrain(seeded_model(MiMo(MODEL), 7), mixture, RECIPE, out=tmp_path, checkpoints=tmp_path / "c")
    assert not (tmp_path / "metrics.jsonl").exists()
