"""What lm-evaluation-harness asks of a model, against the engine's own log-probabilities and a slow loop."""

import builtins
import importlib.util
from types import SimpleNamespace

import pytest
import torch

from openmimo.data.chat import Chat
from openmimo.data.tokenizer import train_tokenizer
from openmimo.engine.engine import Engine, EngineConfig
from openmimo.eval.harness import generate_until, harness_model, score_pairs, score_texts, windows
from openmimo.model.attention import packed_attention
from openmimo.model.config import MiMoConfig
from openmimo.model.mimo import MiMo
from openmimo.types import Request, Sampling

CHAT = Chat(train_tokenizer(["the cat sat on the mat", "user assistant 1 2 3"] * 9, 290))
LENGTH = 48


def engine() -> Engine:
    config = MiMoConfig(
        vocab_size=300, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, rope_theta=1e4, max_position_embeddings=128,
    )  # fmt: skip
    model = MiMo(config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(1.0 if parameter.dim() == 1 else 0.0, 0.3, generator=generator)
    return Engine(
        model, EngineConfig(max_batch_size=8, max_model_len=LENGTH, num_token_ids=CHAT.tokenizer.get_vocab_size())
    )


ENGINE = engine()


def slow(context: list[int], continuation: list[int]) -> tuple[float, bool]:
    """Token by token, each from a fresh pass over all before it."""
    total, greedy = 0.0, True
    for n, target in enumerate(continuation):
        ids = torch.tensor([[*context, *continuation[:n]][-LENGTH:]])
        with torch.no_grad():
            hidden = ENGINE.model(ids, torch.arange(ids.shape[1])[None], packed_attention(torch.zeros_like(ids)))
            logs = ENGINE.model.logits(hidden[:, -1:])[0, 0, : ENGINE.num_token_ids].log_softmax(-1)
        total += float(logs[target])
        greedy &= int(logs.argmax()) == target
    return total, greedy


def test_pairs_equal_a_slow_loop() -> None:
    pairs = [("the cat", " sat"), ("1 2", " 3"), ("", "the mat"), ("the cat ", "sat on the mat"), ("a", "")]
    got = score_pairs(ENGINE, CHAT, pairs, batch_rows=2)
    end = CHAT.encode("<|endoftext|>")
    for (context, continuation), (logprob, greedy) in zip(pairs, got, strict=True):
        bare = context.rstrip()
        start = CHAT.encode(bare) or end
        rest = CHAT.encode(context[len(bare) :] + continuation)
        expected = slow(list(start), list(rest))
        assert logprob == pytest.approx(expected[0], abs=1e-4) and greedy == expected[1]
    assert got[-1] == (0.0, True)


def test_what_greedy_decoding_gives_is_greedy_and_nothing_else_is() -> None:
    prompt = CHAT.encode("the cat")
    rollout = ENGINE.generate([Request(prompt, Sampling(1, temperature=0.0))])[0]
    best = CHAT.tokenizer.decode(list(rollout.token_ids), skip_special_tokens=False)
    others = [CHAT.tokenizer.decode([n]) for n in range(100, 110)]
    got = score_pairs(ENGINE, CHAT, [("the cat", text) for text in others])
    assert all(
        greedy == (CHAT.encode(text) == rollout.token_ids) for text, (_, greedy) in zip(others, got, strict=True)
    )
    if CHAT.encode("the cat" + best) == (*prompt, *rollout.token_ids):
        assert score_pairs(ENGINE, CHAT, [("the cat", best)])[0][1]


def test_scores_are_the_engines_own_log_probabilities() -> None:
    prompt = CHAT.encode("on the mat")
    rollout = ENGINE.generate([Request(prompt, Sampling(5, temperature=1.0, seed=3))])[0]
    expected = slow(list(prompt), list(rollout.token_ids))[0]
    assert sum(rollout.logprobs) == pytest.approx(expected, abs=1e-4)


def test_a_context_too_long_loses_its_beginning() -> None:
    long = "the cat sat on the mat " * 30
    (got,) = score_pairs(ENGINE, CHAT, [(long, "3")])
    ids = CHAT.encode(long.rstrip())
    expected = slow(list(ids), list(CHAT.encode(" 3")))
    assert got[0] == pytest.approx(expected[0], abs=1e-4)
    with pytest.raises(ValueError, match=r"a continuation of \d+ tokens does not fit max_model_len 48"):
        score_pairs(ENGINE, CHAT, [("a", long)])


def test_rolling_windows_by_hand() -> None:
    # lm_eval's own example: ten tokens after a prefix, four at a time, the last window full.
    assert windows([99, *range(10)], 4) == [
        ([99], [0, 1, 2, 3]),
        ([3], [4, 5, 6, 7]),
        ([5, 6, 7], [8, 9]),
    ]
    assert windows([99], 4) == []


def test_every_token_is_predicted_once_with_at_most_length_inputs() -> None:
    for size in range(1, 40):
        for length in (1, 3, 8):
            found = windows(list(range(size)), length)
            assert [t for _, predicted in found for t in predicted] == list(range(1, size))
            assert all(len(context) + len(predicted) - 1 <= length for context, predicted in found)


def test_rolling_scores_equal_a_slow_sum_over_windows() -> None:
    texts = ["the cat sat", "", "the cat sat on the mat 1 2 3 " * 9]
    got = score_texts(ENGINE, CHAT, texts)
    for text, total in zip(texts, got, strict=True):
        jobs = windows([*CHAT.encode("<|endoftext|>"), *CHAT.encode(text)], LENGTH)
        assert total == pytest.approx(sum(slow(*job)[0] for job in jobs), abs=2e-3)
    assert got[1] == 0.0


def test_generation_ends_before_the_first_stop_text() -> None:
    options = {"max_gen_toks": 24}
    (whole,) = generate_until(ENGINE, CHAT, [("the cat", options)])
    rollout = ENGINE.generate(
        [Request(CHAT.encode("the cat"), Sampling(24, temperature=0.0, stop_token_ids=CHAT.stop_token_ids))]
    )[0]
    assert whole == CHAT.decode(rollout.token_ids) and len(whole) > 4
    stop = whole[3:5]
    cut, first, same = generate_until(
        ENGINE, CHAT, [("the cat", {**options, "until": stop}), ("the cat", {**options, "until": ["never!", stop, ""]}),
                       ("the cat", {**options, "until": []})],
    )  # fmt: skip
    assert cut == first == whole[: whole.index(stop)] and same == whole
    assert ENGINE.num_active == 0


def test_sampling_options_are_followed() -> None:
    options = {"max_gen_toks": 12, "do_sample": True, "temperature": 1.0}
    sampled = generate_until(ENGINE, CHAT, [("the cat", options)] * 4)
    assert len(set(sampled)) > 1  # each request its own seed
    assert generate_until(ENGINE, CHAT, [("the cat", options)] * 4) == sampled
    greedy = {"max_gen_toks": 12, "do_sample": False, "temperature": 1.0}
    assert len(set(generate_until(ENGINE, CHAT, [("the cat", greedy)] * 2))) == 1
    with pytest.raises(ValueError, match=r"max_gen_toks must be 1 to 47 \(max_model_len - 1\), got 48"):
        generate_until(ENGINE, CHAT, [("a", {"max_gen_toks": 48})])
    with pytest.raises(ValueError, match="got 48"):
        generate_until(ENGINE, CHAT, [("the cat", options), ("a", {"max_gen_toks": 48})])
    assert ENGINE.num_active == 0  # nothing was submitted before the bad one was seen
    assert generate_until(ENGINE, CHAT, [("the cat " * 99, {"max_gen_toks": 4}), ("", {"max_gen_toks": 4})])


def test_without_lm_eval_one_line_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def refuse(name: str, *args: object, **kwargs: object) -> object:
        if name.startswith("lm_eval"):
            raise ImportError(name)
        return real(name, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ValueError, match=r"lm_eval is not installed; it comes with `pip install openmimo\[eval\]`"):
        harness_model(ENGINE, CHAT)


@pytest.mark.skipif(importlib.util.find_spec("lm_eval") is None, reason="lm_eval is not installed")
def test_the_harness_drives_it() -> None:
    lm = harness_model(ENGINE, CHAT)

    def asked(*args: object) -> SimpleNamespace:
        return SimpleNamespace(args=args)

    assert lm.loglikelihood([asked("the cat", " sat")]) == score_pairs(ENGINE, CHAT, [("the cat", " sat")])
    assert lm.loglikelihood_rolling([asked("the cat")]) == score_texts(ENGINE, CHAT, ["the cat"])
    assert lm.generate_until([asked("the cat", {"max_gen_toks": 3})]) == generate_until(
        ENGINE, CHAT, [("the cat", {"max_gen_toks": 3})]
    )
    assert lm.apply_chat_template([{"role": "user", "content": "hi"}]).endswith("<|im_start|>assistant\n")
