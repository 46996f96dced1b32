"""A request's tokens are a function of (weights, prompt, sampling) alone, and greedy ones are the model's."""

from dataclasses import replace

import pytest
import torch

from openmimo.engine.engine import Engine, EngineConfig
from openmimo.model.attention import packed_attention
from openmimo.model.config import MiMoConfig
from openmimo.model.mimo import MiMo
from openmimo.types import Request, Rollout, Sampling

TINY = MiMoConfig(
    vocab_size=203,
    hidden_size=64,
    intermediate_size=176,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=16,
    num_nextn_predict_layers=3,
    initializer_range=0.25,
)
SIZES = EngineConfig(max_batch_size=64, max_model_len=160)


@pytest.fixture(scope="module")
def model() -> MiMo:
    model = MiMo(TINY).init_weights(torch.Generator().manual_seed(0))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(0.0, 0.5, generator=torch.Generator().manual_seed(1))
    return model


def some_requests(count: int, *, new: int = 60) -> list[Request]:
    """Different prompts, groups that share one, prefixes in common, all kinds of sampling."""
    generator = torch.Generator().manual_seed(5)
    common = torch.randint(0, TINY.vocab_size, (33,), generator=generator).tolist()
    requests = []
    for n in range(count):
        length = int(torch.randint(1, 60, (1,), generator=generator))
        prompt = torch.randint(0, TINY.vocab_size, (length,), generator=generator).tolist()
        if n % 3 == 0:
            prompt = common[: 10 + n % 24] + prompt[:20]
        if n % 5 == 4:
            prompt = list(requests[-1].prompt_ids)
        sampling = Sampling(
            max_new_tokens=new - n % 7,
            temperature=(1.0, 0.6, 0.0, 1.3)[n % 4],
            top_p=(1.0, 0.95)[n % 2],
            top_k=(0, 0, 0, 0, 0, 40)[n % 6],
            seed=n,
        )
        requests.append(Request(tuple(prompt), sampling, problem_id=str(n)))
    return requests


@pytest.fixture(scope="module")
def together(model: MiMo) -> list[Rollout]:
    return Engine(model, SIZES).generate(some_requests(40))


def slow_greedy(model: MiMo, prompt: tuple[int, ...], count: int) -> tuple[list[int], list[float]]:
    """Every token by a full forward pass over everything before it."""
    token_ids, logprobs = list(prompt), []
    for _ in range(count):
        ids = torch.tensor([token_ids])
        with torch.no_grad():
            hidden = model(ids, torch.arange(len(token_ids))[None], packed_attention(torch.zeros_like(ids)))
            scores = model.logits(hidden)[0, -1].log_softmax(-1)
        token_ids.append(int(scores.argmax()))
        logprobs.append(float(scores.max()))
    return token_ids[len(prompt) :], logprobs


def test_greedy_decoding_agrees_with_a_full_forward_pass_for_every_token(model: MiMo, together: list[Rollout]) -> None:
    checked = 0
    for request, rollout in zip(some_requests(40), together, strict=True):
        if request.sampling.temperature == 0.0:
            tokens, logprobs = slow_greedy(model, request.prompt_ids, request.sampling.max_new_tokens)
            assert list(rollout.token_ids) == tokens
            assert rollout.logprobs == pytest.approx(logprobs, abs=2e-4)
            checked += len(tokens)
    assert checked > 500


def test_sampled_logprobs_are_the_models(model: MiMo, together: list[Rollout]) -> None:
    for request, rollout in zip(some_requests(40), together, strict=True):
        sampling = request.sampling
        if sampling.temperature == 0.0 or sampling.top_p < 1.0 or sampling.top_k:
            continue
        ids = torch.tensor([request.prompt_ids + rollout.token_ids])
        with torch.no_grad():
            hidden = model(ids, torch.arange(ids.shape[1])[None], packed_attention(torch.zeros_like(ids)))
            logp = (model.logits(hidden)[0] / sampling.temperature).log_softmax(-1)
        start = len(request.prompt_ids) - 1
        expected = logp[start:-1].gather(1, ids[0, start + 1 :, None])[:, 0]
        assert rollout.logprobs == pytest.approx(expected.tolist(), abs=5e-4)


@pytest.mark.parametrize(
    "change",
    [
        {"max_batch_size": 1},
        {"max_batch_size": 7, "prefill_chunk": 5},
        {"share_prefixes": False},
        {"num_blocks": 24},  # preempts
        {"block_size": 32},
        {"num_draft_layers": 1},
        {"num_draft_layers": 3, "prefill_chunk": 11},
        {"num_draft_layers": 3, "num_blocks": 24, "max_batch_size": 9},
        {"num_draft_layers": 2, "share_prefixes": False},
    ],
    ids=str,
)
def test_no_size_of_the_engine_changes_a_bit(model: MiMo, together: list[Rollout], change: dict) -> None:
    engine = Engine(model, replace(SIZES, **change))
    assert engine.generate(some_requests(40)) == together
    if change.get("num_blocks"):
        assert engine.stats.num_preempted > 5
    assert engine.scheduler.pool.num_free == engine.scheduler.pool.num_blocks


def test_order_and_company_do_not_change_a_bit(model: MiMo, together: list[Rollout]) -> None:
    requests = some_requests(40)
    engine = Engine(model, SIZES)
    assert engine.generate(requests[::-1]) == together[::-1]
    assert engine.generate([requests[17]]) == [together[17]]
    live: dict[int, int] = {}
    for n, request in enumerate(requests):  # trickling in, one a step, some aborted beside
        live[engine.submit(request)] = n
        doomed = engine.submit(replace(request, sampling=replace(request.sampling, seed=999)))
        for handle, rollout in engine.step():
            assert rollout == together[live.pop(handle)]
        engine.abort(doomed)
    while engine.num_active:
        for handle, rollout in engine.step():
            assert rollout == together[live.pop(handle)]
    assert not live


def test_two_threads_give_the_same_bits(model: MiMo, together: list[Rollout]) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(2 if threads == 1 else 1)
    try:
        assert Engine(model, SIZES).generate(some_requests(40)[:12]) == together[:12]
    finally:
        torch.set_num_threads(threads)


def test_the_recipes_tiny_shape_gives_the_same_bits_alone_and_in_a_batch() -> None:
    shape = replace(
        TINY, vocab_size=640, hidden_size=128, intermediate_size=352, num_hidden_layers=4, head_dim=32,
        initializer_range=0.1,
    )  # fmt: skip
    big = MiMo(shape).init_weights(torch.Generator().manual_seed(2))
    requests = some_requests(40, new=30)
    batch = Engine(big, SIZES).generate(requests)
    alone = Engine(big, replace(SIZES, max_batch_size=1))
    for n in (0, 1, 3, 14, 39):
        assert alone.generate([requests[n]]) == [batch[n]]


def test_stop_tokens_end_a_response_and_belong_to_it(model: MiMo, together: list[Rollout]) -> None:
    request, rollout = some_requests(1)[0], together[0]
    stop = rollout.token_ids[10]
    first = rollout.token_ids.index(stop)
    stopped = Engine(model, SIZES).generate(
        [replace(request, sampling=replace(request.sampling, stop_token_ids=(stop,)))]
    )[0]
    assert stopped.token_ids == rollout.token_ids[: first + 1]
    assert stopped.logprobs == rollout.logprobs[: first + 1]
    assert stopped.finish_reason == "stop"
    assert rollout.finish_reason == "length"


def test_forbidden_ids_are_never_sampled(model: MiMo) -> None:
    for drafts in (0, 3):
        engine = Engine(model, replace(SIZES, num_token_ids=20, num_draft_layers=drafts))
        rollouts = engine.generate(some_requests(20))
        assert max(max(r.token_ids) for r in rollouts) < 20


def test_a_sequence_ends_at_max_model_len(model: MiMo) -> None:
    for drafts in (0, 3):
        engine = Engine(model, EngineConfig(max_batch_size=4, max_model_len=20, num_draft_layers=drafts))
        rollout = engine.generate([Request((1, 2, 3), Sampling(500))])[0]
        assert len(rollout.token_ids) == 17
        assert rollout.finish_reason == "length"


def test_aborting_at_any_moment_frees_everything(model: MiMo) -> None:
    requests = some_requests(12, new=20)
    for moment in range(0, 20, 3):
        engine = Engine(model, replace(SIZES, num_draft_layers=2, num_blocks=30, prefill_chunk=40))
        handles = [engine.submit(request) for request in requests]
        for _ in range(moment):
            engine.step()
        for handle in handles:
            engine.abort(handle)
        assert engine.num_active == engine.scheduler.num_active == 0
        assert engine.scheduler.pool.num_free == 30
        assert engine.step() == []


def test_a_failed_step_leaves_an_engine_that_goes_on_with_the_same_tokens(
    model: MiMo, together: list[Rollout], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine(model, replace(SIZES, num_draft_layers=1))
    handles = [engine.submit(request) for request in some_requests(40)]
    done = dict(engine.step())
    with monkeypatch.context() as patch:
        patch.setattr(engine.runner, "logits", lambda *_: (_ for _ in ()).throw(MemoryError("no room")))
        with pytest.raises(MemoryError):
            engine.step()
    while engine.num_active:
        done.update(engine.step())
    assert [done[handle] for handle in handles] == together


def test_what_cannot_be_generated_is_refused(model: MiMo) -> None:
    engine = Engine(model, SIZES)
    with pytest.raises(ValueError, match="a prompt needs 1 to 159 tokens"):
        engine.submit(Request((), Sampling(1)))
    with pytest.raises(ValueError, match="got 160"):
        engine.submit(Request((1,) * 160, Sampling(1)))
    with pytest.raises(ValueError, match="prompt token id 203 is not in the vocabulary of 203"):
        engine.submit(Request((1, 203), Sampling(1)))
    with pytest.raises(ValueError, match="max_new_tokens"):
        engine.generate([Request((1,), Sampling(5)), Request((1,), Sampling(-1))])
    assert engine.num_active == 0
    engine.submit(Request((1,), Sampling(5)))
    with pytest.raises(ValueError, match="1 active"):
        engine.generate([])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_draft_layers": 4}, "num_draft_layers must be 0 to 3"),
        ({"num_blocks": 9}, "9 blocks of 16 cannot hold one sequence of max_model_len 160"),
        ({"num_token_ids": 204}, "num_token_ids must be 0 to 203"),
    ],
)
def test_a_config_that_does_not_fit_the_model_is_refused(model: MiMo, change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Engine(model, replace(SIZES, **change))
    with pytest.raises(ValueError, match="multiple of 16, got 6"):
        EngineConfig(block_size=6)
