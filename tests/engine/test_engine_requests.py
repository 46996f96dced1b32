"""What a request can ask for beside tokens: log-probabilities, alternatives, stop texts, scores."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch

from openmimo.engine.engine import Engine, EngineConfig
from openmimo.engine.flex import FlexForward
from openmimo.engine.forward import Rows, TorchForward
from openmimo.model.attention import packed_attention
from openmimo.model.config import MiMoConfig
from openmimo.model.mimo import MiMo
from openmimo.types import Request, Rollout, Sampling

SHAPE = MiMoConfig(
    vocab_size=131,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,
    num_nextn_predict_layers=3,
    initializer_range=0.3,
)
SIZES = EngineConfig(max_batch_size=16, max_model_len=128)


def made(**changes: object) -> MiMo:
    return MiMo(replace(SHAPE, **changes)).init_weights(torch.Generator().manual_seed(0))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def model() -> MiMo:
    return made()


def texts(count: int, most: int = 128) -> list[tuple[int, ...]]:
    rng = random.Random(1)
    return [tuple(rng.randrange(131) for _ in range(rng.randrange(1, most + 1))) for _ in range(count)]


def dense(model: MiMo, ids: tuple[int, ...]) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """(T, V) raw log-probabilities of the trunk and of every MTP layer, from whole sequences; slot i of layer k (from
    1) has no ahead token beyond the end, so those rows mean nothing."""
    token_ids, positions = torch.tensor([ids]), torch.arange(len(ids))[None]
    attend = packed_attention(torch.zeros_like(token_ids))
    with torch.no_grad():
        hidden = model(token_ids, positions, attend)
        trunk = model.logits(hidden)[0].double().log_softmax(-1)
        drafts = []
        for k in range(model.config.num_nextn_predict_layers):
            ahead = torch.nn.functional.pad(token_ids[:, k + 1 :], (0, min(k + 1, len(ids))))
            out = model.draft_hidden(k, hidden, ahead, positions, attend)
            drafts.append(model.lm_head(model.draft_normed(k, out))[0].double().log_softmax(-1))
            hidden = out if model.config.mtp_chained else hidden
    return trunk, drafts


@pytest.mark.parametrize("chained", [False, True])
@pytest.mark.parametrize("change", [{}, {"prefill_chunk": 7}, {"max_batch_size": 2}, {"backend": "torch"}], ids=str)
def test_scores_are_the_teacher_forced_log_probabilities_of_trunk_and_mtp_layers(
    chained: bool, change: dict[str, object]
) -> None:
    model = made(mtp_chained=chained)
    engine = Engine(model, replace(SIZES, num_draft_layers=3, **change))  # type: ignore[arg-type]
    asked = [*texts(9), (5,), (5, 6), (5, 6, 7)]
    for ids, rollout in zip(asked, engine.score(asked, drafts=True), strict=True):
        trunk, drafts = dense(model, ids)
        assert rollout.prompt_logprobs[0] is None and not rollout.token_ids
        expected = [float(trunk[at - 1, ids[at]]) for at in range(1, len(ids))]
        assert list(rollout.prompt_logprobs[1:]) == pytest.approx(expected, abs=1e-4)
        assert len(rollout.prompt_draft_logprobs) == 3
        for k, found in enumerate(rollout.prompt_draft_logprobs, start=1):
            assert found[: k + 1] == (None,) * min(k + 1, len(ids))
            expected = [float(drafts[k - 1][at - k - 1, ids[at]]) for at in range(k + 1, len(ids))]
            assert list(found[k + 1 :]) == pytest.approx(expected, abs=1e-4)
    assert engine.scheduler.pool.num_free == engine.scheduler.pool.num_blocks


def test_a_score_is_the_same_bits_in_any_chunk_and_company_and_leaves_prefixes_alone(model: MiMo) -> None:
    asked = texts(12)
    asked += asked[:3]
    found = Engine(model, SIZES).score(asked)
    assert found[:3] == found[12:]
    small = Engine(model, replace(SIZES, prefill_chunk=13, max_batch_size=3))
    assert small.score(asked[::-1]) == found[::-1]
    assert small.score([asked[4]]) == [found[4]]


def test_prompt_log_probabilities_come_with_a_response_even_if_the_prefix_is_cached(model: MiMo) -> None:
    engine, prompt = Engine(model, replace(SIZES, num_draft_layers=2)), texts(3)[2]
    plain = engine.generate([Request(prompt[:60], Sampling(20, seed=4))])[0]
    full = engine.generate([Request(prompt[:60], Sampling(20, seed=4, prompt_logprobs=True))])[0]
    assert full.token_ids == plain.token_ids and full.logprobs == plain.logprobs
    assert full.prompt_logprobs == engine.score([prompt[:60]])[0].prompt_logprobs


def test_raw_log_probabilities_are_before_temperature_and_cuts(model: MiMo) -> None:
    request = Request(texts(1)[0][:20], Sampling(30, temperature=0.5, top_k=5, min_p=0.01, seed=2, top_logprobs=4))
    rollout = Engine(model, replace(SIZES, num_token_ids=100, num_draft_layers=3)).generate([request])[0]
    trunk, _ = dense(model, request.prompt_ids + rollout.token_ids)
    for n, token in enumerate(rollout.token_ids):
        row = trunk[len(request.prompt_ids) + n - 1]
        assert rollout.raw_logprobs[n] == pytest.approx(float(row[token]), abs=1e-4)
        best = row.topk(4)
        assert [token for token, _ in rollout.top_logprobs[n]] == best.indices.tolist()
        assert [p for _, p in rollout.top_logprobs[n]] == pytest.approx(best.values.tolist(), abs=1e-4)


def test_alternatives_of_a_prompt_are_its_likeliest_ids(model: MiMo) -> None:
    ids = texts(2)[1][:40]
    sampling = Sampling(0, prompt_logprobs=True, top_logprobs=3)
    rollout = Engine(model, SIZES).generate([Request(ids, sampling)])[0]
    trunk, _ = dense(model, ids)
    assert rollout.prompt_top_logprobs[0] == () and rollout.finish_reason == "length"
    for at in range(1, len(ids)):
        best = trunk[at - 1].topk(3)
        assert [token for token, _ in rollout.prompt_top_logprobs[at]] == best.indices.tolist()


def letters(token_ids: Sequence[int]) -> str:
    """A decoder of one letter a token, but id 3 is nothing and 7 is two letters."""
    return "".join({3: "", 7: "xy"}.get(token, chr(97 + token % 20)) for token in token_ids)


@pytest.mark.parametrize("drafts", [0, 3])
def test_a_stop_text_ends_a_response_at_the_token_that_completes_it(model: MiMo, drafts: int) -> None:
    config = replace(SIZES, num_draft_layers=drafts)
    asked = [Request(ids[:9], Sampling(100, seed=n)) for n, ids in enumerate(texts(8))]
    whole = Engine(model, config).generate(asked)
    stopped = 0
    for request, free in zip(asked, whole, strict=True):
        text = letters(free.token_ids)
        stop = (text[20:23], text[50:52])
        found = Engine(model, config, decode=letters).generate(
            [replace(request, sampling=replace(request.sampling, stop=stop))]
        )[0]
        count = next(n for n in range(1, 101) if any(s in letters(free.token_ids[:n]) for s in stop))
        assert found.token_ids == free.token_ids[:count]
        assert found.finish_reason == "stop"
        stopped += count < 100
    assert stopped > 4
    with pytest.raises(ValueError, match="stop texts need an engine with decode"):
        Engine(model, config).submit(Request((1,), Sampling(5, stop=("a",))))


def test_a_stop_text_in_the_prompt_alone_stops_nothing(model: MiMo) -> None:
    request = Request((4, 5, 6), Sampling(1, stop=("efg",)))
    assert Engine(model, SIZES, decode=letters).generate([request])[0].finish_reason == "length"


def test_twenty_arrival_orders_with_aborts_around_them_change_no_bit(model: MiMo) -> None:
    asked = [
        Request(ids[: 5 + n * 3], Sampling(10 + n, temperature=(1.0, 0.6, 0.0)[n % 3], top_p=(1.0, 0.9)[n % 2], seed=n))
        for n, ids in enumerate(texts(14, 90))
    ]
    expected = Engine(model, SIZES).generate(asked)
    for order in range(20):
        rng = random.Random(order)
        engine = Engine(
            model,
            replace(
                SIZES, num_draft_layers=order % 4, prefill_chunk=rng.choice((5, 17, 2048)),
                max_batch_size=rng.choice((3, 16)), num_blocks=rng.choice((0, 24)), adapt_drafts=order % 2 == 1,
            ),
        )  # fmt: skip
        waiting = list(range(len(asked)))
        rng.shuffle(waiting)
        live: dict[int, int] = {}
        doomed: list[int] = []
        while waiting or live:
            for _ in range(min(len(waiting), rng.randrange(3))):
                number = waiting.pop()
                live[engine.submit(asked[number])] = number
                doomed.append(engine.submit(replace(asked[number], sampling=Sampling(60, seed=rng.randrange(99)))))
            if doomed and rng.random() < 0.5:
                engine.abort(doomed.pop(rng.randrange(len(doomed))))
            for handle, rollout in engine.step():
                if handle in live:
                    assert rollout == expected[live.pop(handle)]
        for handle in doomed:
            engine.abort(handle)
        assert engine.num_active == 0
        assert engine.scheduler.pool.num_free == engine.scheduler.pool.num_blocks


@pytest.mark.parametrize(
    "change", [{"backend": "torch"}, {"backend": "torch", "batch_invariant": False}, {"backend": "flex"}], ids=str
)
def test_pytorch_alone_decodes_the_same_tokens_with_and_without_drafts(model: MiMo, change: dict) -> None:
    sizes = replace(SIZES, **change)
    asked = [Request(ids, Sampling(20, seed=n)) for n, ids in enumerate(texts(6, 60))]
    expected = Engine(model, SIZES).generate(asked)
    for drafts in (0, 3):
        found = Engine(model, replace(sizes, num_draft_layers=drafts)).generate(asked)
        assert [r.token_ids for r in found] == [r.token_ids for r in expected]


@pytest.mark.slow
def test_compiled_flex_attention_agrees_with_the_gathered_one(model: MiMo) -> None:
    table = np.random.default_rng(0).permutation(9).astype(np.int32).reshape(3, 3)
    sizes = {"num_layers": 5, "num_states": 1, "num_blocks": 9, "table_RJ": table, "block_size": 16}
    owners, positions = [0] * 33 + [2] * 48, [*range(33), *range(48)]
    rows = Rows.of([n % 131 for n in range(81)], positions, owners, table, 16)
    with torch.inference_mode():
        found = FlexForward(model, **sizes, compiled=True).trunk(rows)
        expected = TorchForward(model, **sizes, batch_invariant=False).trunk(rows)
    assert torch.allclose(found, expected, atol=3e-4)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_decodes_the_same_tokens_by_graphs(model: MiMo) -> None:
    asked = [Request(ids, Sampling(20, seed=n)) for n, ids in enumerate(texts(6, 60))]
    expected = Engine(model, SIZES).generate(asked)
    for drafts in (0, 3):
        sizes = replace(SIZES, backend="flex", block_size=128, num_draft_layers=drafts)
        found = Engine(made().cuda(), sizes).generate(asked)
        assert [r.token_ids for r in found] == [r.token_ids for r in expected]


@pytest.mark.parametrize("length", [1, 2, 3])
def test_prompts_shorter_than_the_draft_layers_reach_are_drafted_for_too(model: MiMo, length: int) -> None:
    asked = [Request((9, 8, 7)[:length], Sampling(12, seed=n)) for n in range(4)]
    plain, drafting = Engine(model, SIZES), Engine(model, replace(SIZES, num_draft_layers=3))
    assert drafting.generate(asked) == plain.generate(asked)
    assert drafting.acceptance.judged[0] > 10


def test_bfloat16_decodes_the_likeliest_tokens(model: MiMo) -> None:
    half = made().bfloat16()
    rollout = Engine(half, replace(SIZES, num_draft_layers=3)).generate([Request((1, 2, 3), Sampling(30, 0.0))])[0]
    trunk, _ = dense(model, rollout.prompt_ids + rollout.token_ids)
    chosen = [float(trunk[2 + n].max() - trunk[2 + n, token]) for n, token in enumerate(rollout.token_ids)]
    assert max(chosen) < 0.3 and len(rollout.token_ids) == 30


def rollouts_without_seed(engine: Engine, count: int) -> list[Rollout]:
    return engine.generate([Request((1, 2, 3), Sampling(12, seed=None))] * count)


def test_requests_without_a_seed_differ_and_report_their_true_log_probabilities(model: MiMo) -> None:
    engine = Engine(model, replace(SIZES, num_draft_layers=3))
    found = rollouts_without_seed(engine, 12)
    assert len({rollout.token_ids for rollout in found}) == 12
    for rollout in found:
        scored = engine.score([rollout.prompt_ids + rollout.token_ids])[0].prompt_logprobs[3:]
        assert list(rollout.logprobs) == pytest.approx(scored, abs=1e-5)
        assert list(rollout.raw_logprobs) == pytest.approx(scored, abs=1e-5)
