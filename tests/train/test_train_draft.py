"""Draft layers as copies of the first: only the copies change, the loss is that of every document alone, runs go on."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from openmimo.data.pack import Sample, pack
from openmimo.log import read_metrics
from openmimo.model.attention import packed_attention
from openmimo.model.config import MiMoConfig
from openmimo.model.mimo import MiMo
from openmimo.train.draft import DraftConfig, batches_of, draft_loss, tune, with_copies
from openmimo.train.optim import OptimConfig, at_tokens
from openmimo.train.step import on_device

CPU = torch.device("cpu")


def model_of(mtp_layers: int = 1, *, chained: bool = False, tied: bool = False) -> MiMo:
    config = MiMoConfig(
        vocab_size=40, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=4, rope_theta=1e4, num_nextn_predict_layers=mtp_layers, initializer_range=0.3,
        mtp_chained=chained, tie_word_embeddings=tied,
    )  # fmt: skip
    return MiMo(config).init_weights(torch.Generator().manual_seed(0))


def some_samples(count: int = 30) -> list[Sample]:
    """Texts that count upwards, so that what comes next but one can be learnt."""
    rng = np.random.default_rng(1)
    return [Sample([(int(start) + i) % 40 for i in range(12)]) for start in rng.integers(0, 40, count)]


def config_of(**changed: object) -> DraftConfig:
    values = {
        "steps": 12, "learning_rate": 1e-2, "batch_rows": 4, "context": 32, "final_share": 0.1,
        "optim": OptimConfig(kind="muon"), "checkpoint_every": 4,
    }  # fmt: skip
    return DraftConfig(**{**values, **changed})  # type: ignore[arg-type]


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("layers", [1, 2, 3])
def test_every_further_layer_starts_as_a_copy_of_the_first(layers: int, tied: bool) -> None:
    model = model_of(layers, tied=tied)
    model.rope_theta = 640_000.0
    wider = with_copies(model, 3)
    found, before = wider.state_dict(), model.state_dict()
    for name, tensor in found.items():
        source = ".".join([*name.split(".")[:2], "0", *name.split(".")[3:]]) if ".mtp_layers." in name else name
        assert torch.equal(tensor, before[source]), name
    assert wider.rope_theta == 640_000.0 and wider.config.num_nextn_predict_layers == 3
    assert (wider.lm_head.weight is wider.model.embed_tokens.weight) is tied
    pointers = {t.data_ptr() for n, t in found.items() if ".mtp_layers." in n}
    assert len(pointers) == sum(".mtp_layers." in n for n in found), "copies have memory of their own"


@pytest.mark.parametrize("chained", [False, True])
@pytest.mark.parametrize("kind", ["muon", "adamw"])
def test_only_the_copies_change(kind: str, chained: bool, tmp_path: Path) -> None:
    config = config_of(optim=OptimConfig(kind=kind), chained=chained)  # type: ignore[arg-type]
    model = model_of()
    wider = with_copies(model, 3, chained=chained)
    before = {name: tensor.clone() for name, tensor in wider.state_dict().items()}
    tune(wider, batches_of(some_samples(), config, seed=0), config, out=tmp_path, checkpoints=tmp_path / "ckpt")
    for name, tensor in wider.state_dict().items():
        copy = ".mtp_layers." in name and ".mtp_layers.0." not in name
        assert torch.equal(tensor, before[name]) != copy, name
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), f"{name} of the model that was copied"
    rows = read_metrics(tmp_path, "draft")
    assert [row["step"] for row in rows] == list(range(12))
    for layer in ("mtp_2", "mtp_3"):
        assert rows[-1][layer] < 0.8 * rows[0][layer], layer


@pytest.mark.parametrize("chained", [False, True])
def test_the_loss_equals_every_document_alone(chained: bool) -> None:
    """Layer k reads token t + k and predicts token t + k + 1 (from 1); written out without packing or masks."""
    model = model_of(3, chained=chained)
    rng = np.random.default_rng(2)
    documents = [rng.integers(0, 40, rng.integers(1, 14)).tolist() for _ in range(9)]
    batch = on_device(pack([Sample(d) for d in documents], 20), CPU)
    found, metrics = draft_loss(chunk_tokens=7)(model, batch)
    expected = [0.0, 0.0, 0.0]
    with torch.no_grad():
        for ids in documents:
            tokens, positions = torch.tensor([ids]), torch.arange(len(ids))[None]
            read = model(tokens, positions, packed_attention(torch.zeros_like(tokens)))
            for k in range(3):
                slots = len(ids) - 1 - k
                if slots < 1:
                    break
                attend = packed_attention(torch.zeros(1, slots, dtype=torch.long))
                out = model.draft_hidden(k, read[:, :slots], tokens[:, 1 + k :], positions[:, :slots], attend)
                logs = F.log_softmax(model.lm_head(model.draft_normed(k, out))[0], -1)
                expected[k] -= sum(float(logs[t, ids[t + 2 + k]]) for t in range(slots - 1))
                read = out if chained else read
    assert metrics["mtp_2"].item() == pytest.approx(expected[1], rel=1e-5)
    assert metrics["mtp_3"].item() == pytest.approx(expected[2], rel=1e-5)
    assert found.item() == pytest.approx((expected[1] + expected[2]) / 2, rel=1e-5)
    assert expected[1] > 1.0


def test_the_loss_counts_weighted_targets_alone() -> None:
    model = model_of(3)
    ids = list(range(10))
    batch = on_device(pack([Sample(ids, [0.0] * 6 + [1.0] * 4)], 16), CPU)
    every = on_device(pack([Sample(ids)], 16), CPU)
    _, part = draft_loss()(model, batch)
    _, whole = draft_loss()(model, every)
    attend = packed_attention(every.document_ids)
    with torch.no_grad():
        hidden = model(every.token_ids, every.positions, attend)
        ahead = F.pad(every.token_ids[:, 2:], (0, 2))
        logits = model.lm_head(model.draft_normed(1, model.draft_hidden(1, hidden, ahead, every.positions, attend)))
    logs = F.log_softmax(logits[0], -1)
    assert part["mtp_2"].item() == pytest.approx(-sum(float(logs[t, t + 3]) for t in range(3, 7)), rel=1e-5)
    assert whole["mtp_2"].item() == pytest.approx(-sum(float(logs[t, t + 3]) for t in range(7)), rel=1e-5)


def test_a_killed_tuning_goes_on_bit_for_bit(tmp_path: Path) -> None:
    config = config_of()

    def run(out: Path) -> MiMo:
        out.mkdir(exist_ok=True)
        wider = with_copies(model_of(), 3)
        tune(wider, batches_of(some_samples(), config, seed=3), config, out=out, checkpoints=out / "ckpt")
        return wider

    whole, cut = run(tmp_path / "whole"), tmp_path / "cut"
    run(cut)
    shutil.rmtree(max((cut / "ckpt").iterdir()))
    again = run(cut)
    for (name, a), b in zip(whole.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    rows = [
        [{k: v for k, v in r.items() if k != "timing"} for r in read_metrics(tmp_path / n)] for n in ("whole", "cut")
    ]
    assert rows[0] == rows[1]


def test_batches_are_full_and_every_row_comes_once_an_epoch() -> None:
    samples, config = some_samples(23), config_of(batch_rows=3)
    batch_at = batches_of(samples, config, seed=5)
    num_rows = -(-23 // 2)  # two of twelve tokens a row of 32
    rows = [batch_at(step).token_ids for step in range(2 * num_rows // 3)]
    assert all(batch.shape == (3, 32) for batch in rows)
    flat = np.concatenate(rows)
    assert sorted(map(bytes, flat[:num_rows])) == sorted(map(bytes, flat[num_rows:]))
    assert not np.array_equal(flat[:num_rows], flat[num_rows:])
    again = batches_of(samples, config, seed=5)
    assert np.array_equal(again(7).token_ids, batch_at(7).token_ids), "a function of the step alone"
    assert not np.array_equal(batches_of(samples, config, seed=6)(7).token_ids, batch_at(7).token_ids)


def test_the_rate_is_a_function_of_tokens() -> None:
    config = config_of(steps=100, warmup_share=0.1, learning_rate=1.0, final_share=0.2)
    total = 100 * 4 * 32
    assert at_tokens(config.rates, 0.05 * total) == pytest.approx(0.5)
    assert at_tokens(config.rates, 0.1 * total) == pytest.approx(1.0)
    assert at_tokens(config.rates, 0.55 * total) == pytest.approx(0.6)
    assert at_tokens(config.rates, total) == pytest.approx(0.2)
    assert at_tokens(config_of(final_share=1.0, warmup_share=0.0).rates, 77) == config.learning_rate * 1e-2


def test_what_cannot_be_copied_or_trained_on_is_refused() -> None:
    with pytest.raises(ValueError, match="0 MTP layers; draft layers are copies of the first"):
        with_copies(model_of(0), 3)
    with pytest.raises(ValueError, match="num_layers must be at least 2, layer 1 and a copy, got 1"):
        with_copies(model_of(1), 1)
    with pytest.raises(ValueError, match="num_layers of the draft layers must be at least 2, got 1"):
        DraftConfig(num_layers=1)
    with pytest.raises(ValueError, match="learning_rate of the draft layers must be above 0, got nan"):
        DraftConfig(learning_rate=float("nan"))
    with pytest.raises(ValueError, match="0 samples are too few"):
        batches_of([], config_of(), seed=0)
    with pytest.raises(ValueError, match="a sequence of 12 tokens does not fit a row of 8"):
        batches_of(some_samples(), config_of(context=8), seed=0)
