"""The chunked loss against the obvious one; MTP targets against a walk over documents; nothing crosses a border."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from openmimo.data.pack import Sample, pack, stack
from openmimo.model.attention import packed_attention
from openmimo.model.config import MiMoConfig
from openmimo.model.mimo import MiMo
from openmimo.train.loss import chunked_logprobs, cross_entropy_sum, next_token_loss, targets_ahead, token_logprobs
from openmimo.train.step import on_device

CPU = torch.device("cpu")


def tiny_model(mtp_layers: int = 1, seed: int = 0, chained: bool = False) -> MiMo:
    config = MiMoConfig(
        vocab_size=40, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=4, rope_theta=1e4, num_nextn_predict_layers=mtp_layers, initializer_range=0.3,
        mtp_chained=chained,
    )  # fmt: skip
    return MiMo(config).init_weights(torch.Generator().manual_seed(seed))


documents_ = st.lists(st.lists(st.integers(0, 39), min_size=1, max_size=12), min_size=1, max_size=8)


@given(documents_, st.integers(1, 3))
@settings(max_examples=40, deadline=None)
def test_targets_ahead_equal_a_walk_over_the_documents(documents: list[list[int]], distance: int) -> None:
    batch = on_device(pack([Sample(d) for d in documents], 16), CPU)
    ids, weights = targets_ahead(batch, distance)
    found = sorted((int(batch.token_ids[r, t]), int(ids[r, t])) for r, t in zip(*torch.where(weights > 0), strict=True))
    expected = sorted((d[t], d[t + distance]) for d in documents for t in range(len(d) - distance))
    assert found == expected


def test_the_chunked_loss_equals_the_plain_one_with_its_gradients() -> None:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(5, 7, 8, generator=generator, requires_grad=True)
    head = torch.randn(11, 8, generator=generator, requires_grad=True)
    targets = torch.randint(0, 11, (5, 7), generator=generator)
    weights = torch.rand(5, 7, generator=generator) * (torch.rand(5, 7, generator=generator) > 0.3)
    plain = (
        F.cross_entropy((hidden @ head.T).flatten(0, 1), targets.flatten(), reduction="none") * weights.flatten()
    ).sum()
    expected = torch.autograd.grad(plain, (hidden, head))
    for chunk in (1, 4, 1000):
        found, by_row = cross_entropy_sum(hidden, head, targets, weights, chunk)
        assert found.item() == pytest.approx(plain.item(), rel=1e-6)
        assert by_row.shape == (5,) and by_row.sum().item() == pytest.approx(plain.item(), rel=1e-6)
        row = F.cross_entropy(hidden[2] @ head.T, targets[2], reduction="none") @ weights[2]
        assert by_row[2].item() == pytest.approx(row.item(), rel=1e-5)
        for a, b in zip(torch.autograd.grad(found * 3, (hidden, head)), expected, strict=True):
            assert torch.allclose(a, b * 3, atol=1e-5)


def slow_loss(model: MiMo, documents: list[list[int]], mtp_weight: float) -> float:
    """Every document alone, every prediction alone: CE + lambda * mean over MTP layers."""
    total = 0.0
    layers = model.config.num_nextn_predict_layers
    for ids in documents:
        tokens, positions = torch.tensor([ids]), torch.arange(len(ids))[None]
        attend = packed_attention(torch.zeros_like(tokens))
        hidden = model(tokens, positions, attend)
        logs = F.log_softmax(model.logits(hidden)[0], -1)
        read = hidden
        total -= sum(float(logs[t, ids[t + 1]]) for t in range(len(ids) - 1))
        for k in range(layers):
            usable = len(ids) - 2 - k
            if usable < 1:
                continue
            ahead = torch.tensor([ids[1 + k : 1 + k + usable]])
            draft = model.draft_hidden(
                k, read[:, :usable], ahead, positions[:, :usable], packed_attention(torch.zeros(1, usable).long())
            )
            logs = F.log_softmax(model.lm_head(model.draft_normed(k, draft))[0], -1)
            read = draft if model.config.mtp_chained else read
            total -= mtp_weight / layers * sum(float(logs[t, ids[t + 2 + k]]) for t in range(usable))
    return total


@pytest.mark.parametrize(("mtp_layers", "chained"), [(1, False), (3, False), (3, True)])
def test_the_packed_loss_equals_every_document_alone(mtp_layers: int, chained: bool) -> None:
    model = tiny_model(mtp_layers, chained=chained)
    rng = np.random.default_rng(1)
    for _ in range(4):
        documents = [rng.integers(0, 40, rng.integers(1, 14)).tolist() for _ in range(7)]
        batch = on_device(pack([Sample(d) for d in documents], 20), CPU)
        with torch.no_grad():
            found, metrics = next_token_loss(mtp_weight=0.3, chunk_tokens=5)(model, batch)
            expected = slow_loss(model, documents, 0.3)
        assert found.item() == pytest.approx(expected, rel=1e-5)
        assert found.item() == pytest.approx(metrics["ce"].item() + 0.3 * metrics["mtp"].item(), rel=1e-6)


def test_the_mtp_gradient_reaches_the_trunk() -> None:
    model = tiny_model()
    batch = on_device(pack([Sample([1, 2, 3, 4, 5])], 8), CPU)
    loss, _ = next_token_loss(mtp_weight=1.0)(model, batch)
    plain, _ = next_token_loss(mtp_weight=0.0)(model, batch)
    weight = model.model.layers[0].mlp.up_proj.weight
    with_mtp, without = (torch.autograd.grad(x, weight)[0] for x in (loss, plain))
    assert not torch.allclose(with_mtp, without)


def test_a_document_never_sees_its_neighbour() -> None:
    model = tiny_model()
    alone = on_device(stack([[Sample([3, 4, 5, 6])]], 10), CPU)
    beside = on_device(stack([[Sample([9, 9, 9]), Sample([3, 4, 5, 6])]], 10), CPU)
    with torch.no_grad():
        first = model(alone.token_ids, alone.positions, packed_attention(alone.document_ids))[0, :4]
        second = model(beside.token_ids, beside.positions, packed_attention(beside.document_ids))[0, 3:7]
    assert torch.allclose(first, second, atol=1e-6)


def test_token_logprobs_stand_at_their_targets() -> None:
    model = tiny_model()
    batch = on_device(stack([[Sample([1, 2, 3], [0.0, 0.0, 1.0]), Sample([4, 5, 6, 7], [0.0, 1.0, 1.0, 0.0])]], 8), CPU)
    with torch.no_grad():
        found, _ = token_logprobs(model, batch)
        logs = F.log_softmax(
            model.logits(model(batch.token_ids, batch.positions, packed_attention(batch.document_ids))), -1
        )
    expected = torch.zeros(1, 8)
    for t in (2, 4, 5):
        expected[0, t] = logs[0, t - 1, batch.token_ids[0, t]]
    assert torch.allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_chunked_log_probabilities_equal_the_plain_ones_with_their_gradients(
    dtype: torch.dtype, temperature: float
) -> None:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(23, 8, generator=generator).to(dtype).requires_grad_()
    head = torch.randn(37, 8, generator=generator).to(dtype).requires_grad_()
    targets, slopes = torch.randint(0, 37, (23,), generator=generator), torch.randn(23, generator=generator)
    logs = F.log_softmax((hidden @ head.T).float() / temperature, -1)
    plain, entropy = logs.gather(-1, targets[:, None])[:, 0], -(logs.exp() * logs).sum(-1)
    expected = torch.autograd.grad(plain @ slopes, (hidden, head))
    near = {"rtol": 1e-5, "atol": 2e-5} if dtype == torch.float32 else {"rtol": 0.02, "atol": 0.1}
    for chunk in (1, 5, 1000):
        found, uncertain = chunked_logprobs(hidden, head, targets, temperature, chunk)
        assert torch.allclose(found, plain, atol=1e-5) and torch.allclose(uncertain, entropy, atol=1e-5)
        assert not uncertain.requires_grad and found.dtype == uncertain.dtype == torch.float32
        for a, b in zip(torch.autograd.grad(found @ slopes, (hidden, head)), expected, strict=True):
            assert a.dtype == dtype and torch.allclose(a, b, **near)


def test_log_probabilities_of_no_slot_at_all_have_zero_gradients() -> None:
    hidden, head = torch.zeros(0, 8, requires_grad=True), torch.ones(37, 8, requires_grad=True)
    found, _ = chunked_logprobs(hidden, head, torch.zeros(0, dtype=torch.long))
    found.sum().backward()
    assert head.grad is not None and not head.grad.any() and hidden.grad is not None


def test_a_frozen_head_lets_the_gradient_of_log_probabilities_through() -> None:
    model = tiny_model()
    model.lm_head.weight.requires_grad_(False)
    batch = on_device(pack([Sample([1, 2, 3, 4, 5])], 8), CPU)
    token_logprobs(model, batch, 0.7)[0].sum().backward()
    assert model.lm_head.weight.grad is None
    assert model.model.layers[0].mlp.up_proj.weight.grad is not None
