"""MTP drafting against a slow reference, and what verification counts."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from openmimo.engine.engine import Engine, EngineConfig
from openmimo.engine.sample import Drawn
from openmimo.engine.sequence import Sequence
from openmimo.engine.speculate import Acceptance, measure_acceptance, verify
from openmimo.model.config import MiMoConfig
from openmimo.model.mimo import MiMo
from openmimo.types import Request, Sampling

TINY = MiMoConfig(
    vocab_size=97,
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,
    num_nextn_predict_layers=3,
    initializer_range=0.3,
)


def requests(count: int, new: int = 40, **sampling: float) -> list[Request]:
    generator = torch.Generator().manual_seed(3)
    return [
        Request(
            tuple(torch.randint(0, TINY.vocab_size, (5 + n % 30,), generator=generator).tolist()),
            Sampling(new, seed=n, **sampling),  # type: ignore[arg-type]
        )
        for n in range(count)
    ]


def reference_block(w: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    """One transformer block over a whole sequence (T, D), written from the released names."""
    length = x.shape[0]

    def linear(part: str, y: Tensor) -> Tensor:
        return F.linear(y, w[f"{name}.{part}.weight"], w.get(f"{name}.{part}.bias"))

    def norm(part: str, y: Tensor) -> Tensor:
        return y * (y.pow(2).mean(-1, keepdim=True) + TINY.rms_norm_eps).rsqrt() * w[f"{name}.{part}.weight"]

    def heads(part: str) -> Tensor:
        return linear(f"self_attn.{part}", y).view(length, -1, TINY.head_dim).transpose(0, 1)

    def rope(z: Tensor) -> Tensor:
        half = TINY.head_dim // 2
        angle = torch.arange(length)[:, None] * TINY.rope_theta ** (-torch.arange(half).double() * 2 / TINY.head_dim)
        a, b = z[..., :half], z[..., half:]
        return torch.cat((a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()), -1)

    y = norm("input_layernorm", x)
    q, k, v = rope(heads("q_proj")), rope(heads("k_proj")), heads("v_proj")
    groups = TINY.num_attention_heads // TINY.num_key_value_heads
    scores = q @ k.repeat_interleave(groups, 0).transpose(1, 2) / TINY.head_dim**0.5
    scores = scores.masked_fill(torch.ones(length, length).triu(1).bool(), float("-inf"))
    mixed = scores.softmax(-1) @ v.repeat_interleave(groups, 0)
    x = x + linear("self_attn.o_proj", mixed.transpose(0, 1).reshape(length, -1))
    y = norm("post_attention_layernorm", x)
    return x + linear("mlp.down_proj", F.silu(linear("mlp.gate_proj", y)) * linear("mlp.up_proj", y))


def reference_drafts(model: MiMo, token_ids: list[int], num_layers: int) -> list[int]:
    """Greedy drafts after the last of token_ids: its hidden state is not computed yet, the one before is."""
    w = {name: tensor.double() for name, tensor in model.state_dict().items()}
    embed = w["model.embed_tokens.weight"]
    x = embed[torch.tensor(token_ids[:-1])]
    for layer in range(TINY.num_hidden_layers):
        x = reference_block(w, f"model.layers.{layer}", x)
    drafts: list[int] = []
    for k in range(num_layers):
        name = f"model.mtp_layers.{k}"

        def norm(part: str, y: Tensor, name: str = name) -> Tensor:
            return y * (y.pow(2).mean(-1, keepdim=True) + TINY.rms_norm_eps).rsqrt() * w[f"{name}.{part}.weight"]

        ahead = embed[torch.tensor((token_ids + drafts)[1 + k :])]
        joined = torch.cat((norm("hidden_layernorm", x), norm("token_layernorm", ahead)), -1)  # [hidden, embedding]
        y = reference_block(w, name, F.linear(joined, w[f"{name}.input_proj.weight"]))
        drafts.append(int((norm("final_layernorm", y)[-1] @ w["lm_head.weight"].T).argmax()))
    return drafts


def test_drafts_agree_with_a_reference_written_from_the_paper() -> None:
    model = MiMo(TINY).init_weights(torch.Generator().manual_seed(4))
    engine = Engine(model, EngineConfig(max_batch_size=8, max_model_len=96, num_draft_layers=3, prefill_chunk=23))
    handles = [engine.submit(request) for request in requests(8, new=30, temperature=0.0)]
    checked = 0
    for _ in range(25):
        engine.step()
        for handle in handles:
            sequence = engine._live.get(handle)
            if sequence is not None and len(sequence.draft_ids) == 3:
                assert sequence.draft_ids == reference_drafts(model, sequence.token_ids, 3)
                checked += 1
    assert checked > 100


def good_drafter(noise: float) -> MiMo:
    """A model whose next token depends on the last alone, and whose MTP layers know it but for some noise."""
    model = MiMo(TINY).init_weights(torch.Generator().manual_seed(6))
    generator = torch.Generator().manual_seed(7)
    hidden = TINY.hidden_size
    with torch.no_grad():
        for block in [*model.model.layers, *model.model.mtp_layers]:
            block.self_attn.o_proj.weight.zero_()
            block.mlp.down_proj.weight.zero_()
        for mtp in model.model.mtp_layers:
            mtp.input_proj.weight.zero_()
            mtp.input_proj.weight[:, hidden:] = torch.eye(hidden)
            mtp.input_proj.weight += noise * torch.randn(hidden, 2 * hidden, generator=generator)
    return model


@pytest.mark.parametrize("temperature", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("noise", [0.0, 0.03])
def test_speculation_gives_the_plain_tokens_in_fewer_steps(temperature: float, noise: float) -> None:
    model = good_drafter(noise)
    plain = Engine(model, EngineConfig(max_batch_size=16, max_model_len=96))
    expected = plain.generate(requests(24, temperature=temperature))
    fast = Engine(model, EngineConfig(max_batch_size=16, max_model_len=96, num_draft_layers=3))
    assert fast.generate(requests(24, temperature=temperature)) == expected
    assert fast.stats.num_steps < (0.35 if noise == 0.0 else 0.85) * plain.stats.num_steps
    rates = fast.acceptance.rates()
    assert set(rates) == {"1", "2", "3"}
    assert all(rate > 0.99 for rate in rates.values()) if noise == 0.0 else 0.2 < rates["1"] < 0.999


def test_a_perfect_drafter_survives_preemption_stops_and_shared_prefixes() -> None:
    model = good_drafter(0.0)
    asked = [
        replace(
            r, prompt_ids=(*range(1, 23), *r.prompt_ids[:3]), sampling=replace(r.sampling, stop_token_ids=(5, 9, 40))
        )
        for r in requests(24)
    ]
    expected = Engine(model, EngineConfig(max_batch_size=16, max_model_len=96)).generate(asked)
    fast = Engine(model, EngineConfig(max_batch_size=16, max_model_len=96, num_draft_layers=3, num_blocks=21))
    assert fast.generate(asked) == expected
    assert fast.stats.num_preempted > 0
    assert any(rollout.finish_reason == "stop" for rollout in expected)


def sequence_with_drafts(drafts: list[int], **sampling: object) -> Sequence:
    sequence = Sequence(0, Request((1, 2), Sampling(10, **sampling)))  # type: ignore[arg-type]
    sequence.draft_ids = drafts
    return sequence


def drawn(*token_ids: int) -> Drawn:
    return Drawn(list(token_ids), [-float(n) for n in range(1, len(token_ids) + 1)], [0.0] * len(token_ids))


def test_verify_keeps_drafts_up_to_the_first_difference_and_the_target_there() -> None:
    acceptance = Acceptance()
    sequence = sequence_with_drafts([4, 5, 6])
    accepted = verify(sequence, drawn(4, 7, 8, 9), [], acceptance, limit=100)
    assert accepted == 1
    assert sequence.token_ids == [1, 2, 4, 7]
    assert sequence.logprobs == [-1.0, -2.0]
    assert acceptance.judged == [1, 1] and acceptance.accepted == [1, 0]


def test_verify_gives_one_token_more_when_all_drafts_are_accepted() -> None:
    acceptance = Acceptance()
    sequence = sequence_with_drafts([4, 5])
    assert verify(sequence, drawn(4, 5, 6), [], acceptance, limit=100) == 2
    assert sequence.token_ids == [1, 2, 4, 5, 6]
    assert acceptance.rates() == {"1": 1.0, "2": 1.0}


def test_verify_stops_at_an_accepted_stop_token() -> None:
    sequence = sequence_with_drafts([4, 5], stop_token_ids=(4,))
    assert verify(sequence, drawn(4, 5, 6), [], Acceptance(), limit=100) == 1
    assert sequence.token_ids == [1, 2, 4]
    assert sequence.finish_reason == "stop"


def test_acceptance_of_a_layer_is_conditional_on_the_layers_before() -> None:
    acceptance = Acceptance()
    for outcome in ((True, True), (True, False), (False,), (True, True)):
        for layer, accepted in enumerate(outcome):
            acceptance.count(layer, accepted)
    assert acceptance.rates() == {"1": 3 / 4, "2": 2 / 3}


def test_measure_acceptance_is_greedy_and_leaves_the_engines_own_counts_alone() -> None:
    model = good_drafter(0.02)
    engine = Engine(model, EngineConfig(max_batch_size=16, max_model_len=96, num_draft_layers=2))
    rates = measure_acceptance(engine, requests(12, temperature=1.0))
    assert rates == measure_acceptance(engine, requests(12, temperature=0.0))
    assert set(rates) == {"1", "2"} and 0.0 < rates["1"] <= 1.0
    assert engine.acceptance.rates() == {}
    with pytest.raises(ValueError, match="num_draft_layers of at least 1"):
        measure_acceptance(Engine(model, EngineConfig(max_batch_size=2, max_model_len=96)), requests(1))
