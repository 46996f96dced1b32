"""OpenAI's protocol over a real engine and real HTTP: texts, streams, log-probabilities, choices, usage, figures."""

import json
import random
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from served import CHAT, Served, make_engine, served

from openmimo.engine.server.answers import LEAST_LOGPROB
from openmimo.model.attention import packed_attention
from openmimo.types import Request, Rollout, Sampling

COMPLETIONS, CHATS = "/v1/completions", "/v1/chat/completions"
HI = {"messages": [{"role": "user", "content": "hi"}]}


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    with served(num_draft_layers=2) as server:
        yield server


@pytest.fixture(scope="module")
def alone() -> Any:
    """An engine of the same weights that nobody else uses, without drafts."""
    return make_engine()


def rollout(alone: Any, prompt: str, new: int, **sampling: Any) -> Rollout:
    asked = Sampling(new, **{"seed": 0, "stop_token_ids": (256,), **sampling})
    return alone.generate([Request(CHAT.encode(prompt), asked)])[0]


def chunks(server: Served, path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    """A stream's chunks; it must end with [DONE]."""
    with server.client.stream("POST", path, json={**body, "stream": True}) as answer:
        assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/event-stream")
        lines = [line.removeprefix("data: ") for line in answer.iter_lines() if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def test_a_completion_is_the_engines_text(server: Served, alone: Any) -> None:
    answer = server.post(COMPLETIONS, {"model": "tiny", "prompt": "hello", "max_tokens": 12, "seed": 5})
    expected = rollout(alone, "hello", 12, seed=5)
    choice = answer["choices"][0]
    assert choice["text"] == CHAT.decode(expected.token_ids)
    assert (choice["index"], choice["finish_reason"], choice["logprobs"]) == (0, expected.finish_reason, None)
    count = len(expected.token_ids)
    assert answer["usage"] == {"prompt_tokens": 5, "completion_tokens": count, "total_tokens": 5 + count}
    assert (answer["object"], answer["model"], answer["id"][:5]) == ("text_completion", "tiny", "cmpl-")
    assert server.post(COMPLETIONS, {"prompt": list(b"hello"), "max_tokens": 12, "seed": 5})["choices"] == [choice]


def test_max_tokens_is_16_for_a_completion_and_the_context_for_a_chat(server: Served) -> None:
    body = {"prompt": "hello", "temperature": 0, "stop_token_ids": []}
    assert server.post(COMPLETIONS, body)["usage"]["completion_tokens"] == 16
    for seed in range(20):
        answer = server.post(CHATS, {**HI, "seed": seed})
        if answer["choices"][0]["finish_reason"] == "length":
            assert answer["usage"]["total_tokens"] == 128
            return
    raise AssertionError("every chat ended by itself; take another seed")


def test_a_chat_streams_the_text_that_it_answers_at_once(server: Served) -> None:
    body = {**HI, "max_tokens": 40, "seed": 1}
    whole = server.post(CHATS, body)["choices"][0]
    assert whole["message"]["role"] == "assistant" and whole["message"]["refusal"] is None
    with server.slowed(0.005):
        pieces = chunks(server, CHATS, body)
    choices = [piece["choices"][0] for piece in pieces]
    assert choices[0]["delta"] == {"role": "assistant", "content": ""}
    assert len(pieces) > 5, "it came in pieces"
    assert "".join(choice["delta"].get("content", "") for choice in choices) == whole["message"]["content"]
    assert [choice["finish_reason"] for choice in choices] == [None] * (len(choices) - 1) + [whole["finish_reason"]]
    assert {piece["object"] for piece in pieces} == {"chat.completion.chunk"}
    assert len({piece["id"] for piece in pieces}) == 1 and "usage" not in pieces[0]


@pytest.mark.parametrize(("path", "body"), [(COMPLETIONS, {"prompt": "hello"}), (CHATS, HI)])
def test_a_stream_ends_with_its_usage_when_asked(server: Served, path: str, body: dict[str, Any]) -> None:
    body = {**body, "max_tokens": 9, "seed": 3, "n": 2}
    *pieces, last = chunks(server, path, {**body, "stream_options": {"include_usage": True}})
    assert last["choices"] == [] and last["usage"] == server.post(path, body)["usage"]
    assert all(piece["usage"] is None for piece in pieces)


@pytest.mark.parametrize(("path", "more"), [(COMPLETIONS, {"prompt": "hi", "logprobs": 2}),
                                            (CHATS, {**HI, "logprobs": True, "top_logprobs": 2})])  # fmt: skip
def test_streamed_logprobs_are_those_of_the_whole_answer(server: Served, path: str, more: dict[str, Any]) -> None:
    body = {**more, "max_tokens": 30, "seed": 1, "n": 2}
    with server.slowed(0.002):
        pieces = chunks(server, path, body)
    for whole in server.post(path, body)["choices"]:
        found = [c["logprobs"] for piece in pieces for c in piece["choices"] if c["index"] == whole["index"]]
        for key in set(whole["logprobs"]) - {"refusal"}:
            assert [entry for part in found if part for entry in part[key]] == whole["logprobs"][key], key


def test_logprobs_are_the_raw_models_whatever_the_temperature(server: Served, alone: Any) -> None:
    sampling = {"seed": 2, "temperature": 0.5, "top_p": 0.9}
    expected = rollout(alone, "hello", 20, top_logprobs=3, **sampling)
    assert expected.raw_logprobs != expected.logprobs
    found = server.post(COMPLETIONS, {"prompt": "hello", "max_tokens": 20, "logprobs": 3, **sampling})
    logprobs = found["choices"][0]["logprobs"]
    assert logprobs["token_logprobs"] == list(expected.raw_logprobs)
    for token_id, own, row, top in zip(
        expected.token_ids, expected.raw_logprobs, logprobs["top_logprobs"], expected.top_logprobs, strict=True
    ):
        names = {name_of(other): p for other, p in (*top, (token_id, own))}
        assert row == pytest.approx(names) and len(row) in (3, 4)
    assert server.post(COMPLETIONS, {"prompt": "x", "logprobs": 0})["choices"][0]["logprobs"]["top_logprobs"] is None


def name_of(token_id: int) -> str:
    return chr(token_id) if token_id < 128 else f"<|{token_id}|>" if token_id > 255 else f"bytes:\\x{token_id:02x}"


def test_a_chats_logprobs_carry_bytes_and_alternatives(server: Served) -> None:
    body = {**HI, "max_tokens": 20, "seed": 1, "logprobs": True, "top_logprobs": 4}
    answer = server.post(CHATS, body)
    entries = answer["choices"][0]["logprobs"]["content"]
    assert len(entries) == answer["usage"]["completion_tokens"]
    spoken = [byte for entry in entries if entry["token"] != "<|256|>" for byte in entry["bytes"]]
    text = bytes(spoken).decode("utf-8", "replace")
    assert text == answer["choices"][0]["message"]["content"]
    for entry in entries:
        tops = [top["logprob"] for top in entry["top_logprobs"]]
        assert len(tops) == 4 and tops == sorted(tops, reverse=True) and entry["logprob"] <= tops[0]
    plain = server.post(CHATS, {**body, "top_logprobs": 0})["choices"][0]["logprobs"]["content"]
    assert all(entry["top_logprobs"] == [] for entry in plain)
    assert server.post(CHATS, {**body, "logprobs": False, "top_logprobs": None})["choices"][0]["logprobs"] is None


def test_echo_with_no_tokens_scores_the_prompt_as_teacher_forcing_does(server: Served, alone: Any) -> None:
    prompt = "a prompt of several blocks, long enough to be found again \u20ac"
    body = {"prompt": prompt, "echo": True, "logprobs": 1, "max_tokens": 0}
    for _ in range(2):  # the second time its prefix is cached
        answer = server.post(COMPLETIONS, body)
        choice = answer["choices"][0]
        assert (choice["text"], choice["finish_reason"]) == (prompt, "length")
        assert answer["usage"]["completion_tokens"] == 0
        logprobs = choice["logprobs"]
        assert logprobs["token_logprobs"][0] is None and logprobs["top_logprobs"][0] is None
        assert logprobs["token_logprobs"][1:] == pytest.approx(teacher_forced(alone, CHAT.encode(prompt)), abs=1e-4)
        for own, top in zip(logprobs["token_logprobs"][1:], logprobs["top_logprobs"][1:], strict=True):
            assert own in top.values() and max(top.values()) >= own
        assert logprobs["text_offset"] == [*range(len(prompt)), len(prompt) - 1, len(prompt) - 1]
    ids = server.post(COMPLETIONS, {**body, "prompt": list(CHAT.encode(prompt))})
    assert ids["choices"] == answer["choices"]


def teacher_forced(engine: Any, token_ids: tuple[int, ...]) -> list[float]:
    """Log-probability of every token but the first, by one forward pass over the whole."""
    ids = torch.tensor([token_ids])
    with torch.no_grad():
        hidden = engine.model(ids, torch.arange(len(token_ids))[None], packed_attention(torch.zeros_like(ids)))
        logp = engine.model.logits(hidden)[0, :-1].double().log_softmax(-1)
    return logp.gather(1, ids[0, 1:, None])[:, 0].tolist()


def test_echo_goes_on_with_the_completion(server: Served) -> None:
    body = {"prompt": "hello", "max_tokens": 6, "seed": 4, "logprobs": 1, "n": 2}
    plain, echoed = server.post(COMPLETIONS, body), server.post(COMPLETIONS, {**body, "echo": True})
    streamed = chunks(server, COMPLETIONS, {**body, "echo": True})
    for without, whole in zip(plain["choices"], echoed["choices"], strict=True):
        assert whole["text"] == "hello" + without["text"]
        assert whole["logprobs"]["tokens"] == [*"hello", *without["logprobs"]["tokens"]]
        assert whole["logprobs"]["token_logprobs"][5:] == without["logprobs"]["token_logprobs"]
        assert whole["logprobs"]["text_offset"][5:] == [5 + at for at in without["logprobs"]["text_offset"]]
        mine = [c for piece in streamed for c in piece["choices"] if c["index"] == whole["index"]]
        assert "".join(c["text"] for c in mine) == whole["text"]
        assert [p for c in mine for p in c["logprobs"]["token_logprobs"]] == whole["logprobs"]["token_logprobs"]
    assert server.post(COMPLETIONS, {"prompt": "hello", "echo": True, "max_tokens": 0})["choices"][0]["text"] == "hello"
    assert server.post(COMPLETIONS, {"prompt": "hello", "max_tokens": 0})["choices"][0]["text"] == ""


def test_sixteen_choices_of_one_seed_differ_and_come_again(server: Served) -> None:
    body = {"prompt": "hello", "max_tokens": 24, "seed": 11}
    sixteen = server.post(COMPLETIONS, {**body, "n": 16})["choices"]
    assert [choice["index"] for choice in sixteen] == list(range(16))
    assert len({choice["text"] for choice in sixteen}) == 16
    assert server.post(COMPLETIONS, {**body, "n": 16})["choices"] == sixteen
    assert server.post(COMPLETIONS, {**body, "n": 3})["choices"] == sixteen[:3]
    assert server.post(COMPLETIONS, body)["choices"] == sixteen[:1]
    neighbour = server.post(COMPLETIONS, {**body, "seed": 12, "n": 16})["choices"]
    assert not {c["text"] for c in neighbour} & {c["text"] for c in sixteen}, "neighbouring seeds share no choice"


def test_without_a_seed_every_text_is_another(server: Served) -> None:
    body = {"prompt": "hello", "max_tokens": 24, "n": 2}
    texts = [choice["text"] for _ in range(2) for choice in server.post(COMPLETIONS, body)["choices"]]
    assert len(set(texts)) == 4


def test_prompts_and_samples_come_back_in_order(server: Served, alone: Any) -> None:
    body = {"prompt": ["one", "two"], "n": 2, "max_tokens": 5, "temperature": 0.0, "seed": 0}
    answer = server.post(COMPLETIONS, body)
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2, 3]
    one, two = (CHAT.decode(rollout(alone, text, 5, temperature=0.0).token_ids) for text in ("one", "two"))
    assert [choice["text"] for choice in answer["choices"]] == [one, one, two, two]
    assert answer["usage"]["prompt_tokens"] == 6, "a prompt counts once, not once a choice"
    ids = server.post(COMPLETIONS, {**body, "prompt": [list(b"one"), list(b"two")]})
    assert ids["choices"] == answer["choices"]


def test_a_stop_text_cuts_and_ends_the_sequence(server: Served, alone: Any) -> None:
    token_ids = rollout(alone, "hello", 60, seed=5).token_ids
    text = CHAT.decode(token_ids)
    stop = text[8:10]
    body = {"prompt": "hello", "max_tokens": 60, "seed": 5, "stop": ["never there", stop]}
    answer = server.post(COMPLETIONS, body)
    choice = answer["choices"][0]
    assert (choice["text"], choice["finish_reason"]) == (text[: text.index(stop)], "stop")
    assert answer["usage"]["completion_tokens"] < len(token_ids), "nothing is generated after the stop text"
    streamed = chunks(server, COMPLETIONS, body)
    assert "".join(piece["choices"][0]["text"] for piece in streamed) == choice["text"]
    assert streamed[-1]["choices"][0]["finish_reason"] == "stop"
    by_id = server.post(COMPLETIONS, {**body, "stop": None, "stop_token_ids": [token_ids[8]]})
    at = token_ids.index(token_ids[8])
    assert by_id["usage"]["completion_tokens"] == at + 1 and by_id["choices"][0]["finish_reason"] == "stop"
    assert by_id["choices"][0]["text"] == CHAT.decode(token_ids[:at])


def test_what_clients_send_as_a_matter_of_course_changes_nothing(server: Served) -> None:
    body = {**HI, "max_tokens": 10, "seed": 1}
    neutral = {
        "model": "tiny", "user": "me", "presence_penalty": 0, "frequency_penalty": 0.0, "logit_bias": {}, "n": 1,
        "response_format": {"type": "text"}, "store": False, "metadata": {"a": "b"}, "service_tier": "auto",
        "tools": [], "tool_choice": "none", "parallel_tool_calls": True, "stop": None, "logprobs": False,
        "stream_options": None, "modalities": ["text"], "temperature": 1, "top_p": 1.0, "stream": False,
        "safety_identifier": "x", "prompt_cache_key": "y", "top_k": -1, "reasoning_effort": None, "functions": None,
    }  # fmt: skip
    assert server.post(CHATS, {**body, **neutral})["choices"] == server.post(CHATS, body)["choices"]
    both = [{"type": "text", "text": "h"}, {"type": "text", "text": "i"}]
    assert (
        server.post(CHATS, {**body, "messages": [{"role": "user", "content": both}]})["choices"]
        == (server.post(CHATS, body)["choices"])
    )
    assert (
        server.post(CHATS, {**body, "max_tokens": 10.0, "seed": 1.0})["choices"] == server.post(CHATS, body)["choices"]
    )
    old = {"prompt": "x", "seed": 1, "best_of": 1, "suffix": "", "echo": False, "logprobs": None}
    assert server.post(COMPLETIONS, old)["choices"] == server.post(COMPLETIONS, {"prompt": "x", "seed": 1})["choices"]


def test_an_answers_message_can_be_sent_back_as_it_came(server: Served) -> None:
    message = server.post(CHATS, {**HI, "max_tokens": 5, "seed": 1})["choices"][0]["message"]
    spare = {"audio": None, "function_call": None, "tool_calls": None, "annotations": []}
    more = [*HI["messages"], {**message, **spare}, {"role": "user", "content": "go on"}]
    assert server.post(CHATS, {"messages": more, "max_tokens": 5})["usage"]["prompt_tokens"] > 20


def test_drafts_change_no_token_and_are_counted_by_position(server: Served, alone: Any) -> None:
    rng = random.Random(0)
    for temperature in (0.0, 0.7, 1.0):
        seed = rng.randrange(10**6)
        body = {"prompt": "draft this", "max_tokens": 40, "seed": seed, "temperature": temperature}
        expected = CHAT.decode(rollout(alone, "draft this", 40, seed=seed, temperature=temperature).token_ids)
        assert server.post(COMPLETIONS, body)["choices"][0]["text"] == expected
    figures = metrics(server)
    judged, accepted = server.engine.acceptance.judged, server.engine.acceptance.accepted
    for position in (1, 2):
        assert figures[f'openmimo_draft_tokens_total{{position="{position}"}}'] == judged[position - 1] > 0
        assert figures[f'openmimo_draft_accepted_total{{position="{position}"}}'] == accepted[position - 1]
    assert judged[1] <= accepted[0], "position 2 counts only once position 1 was kept"


def metrics(server: Served) -> dict[str, float]:
    text = server.client.get("/metrics").text
    return {name: float(value) for name, value in (line.split() for line in text.splitlines() if line[0] != "#")}


def test_health_models_and_figures(server: Served) -> None:
    assert server.client.get("/health").json() == {"status": "ok"}
    card = server.client.get("/v1/models").json()["data"][0]
    assert (card["id"], card["object"], card["max_model_len"]) == ("tiny", "model", 128)
    assert server.client.get("/v1/models/tiny").json() == card
    unknown = server.client.get("/v1/models/gpt/4")
    assert unknown.status_code == 404 and "'gpt/4' is not served; 'tiny' is" in unknown.json()["error"]["message"]
    figures = metrics(server)
    assert figures["openmimo_requests_running"] == figures["openmimo_requests_waiting"] == 0
    assert figures["openmimo_blocks"] == figures["openmimo_blocks_free"] > 0
    assert figures["openmimo_generated_tokens_total"] > 0


def test_running_and_waiting_are_told_apart() -> None:
    with served(max_batch_size=2) as server, server.slowed(0.02):
        with server.client.stream("POST", COMPLETIONS, json={"prompt": "x", "n": 5, "max_tokens": 50, "stream": True}):
            server.until(lambda: metrics(server)["openmimo_requests_running"] == 2)
            assert metrics(server)["openmimo_requests_waiting"] == 3
        server.until(lambda: metrics(server)["openmimo_requests_waiting"] == 0)


def test_impossible_log_probabilities_are_numbers(server: Served) -> None:
    assert LEAST_LOGPROB < -1000
    text = server.client.post(COMPLETIONS, json={"prompt": "x", "logprobs": 20, "max_tokens": 5}).text
    assert "Infinity" not in text and "NaN" not in text


def test_a_temperature_next_to_nothing_is_greedy(server: Served) -> None:
    body = {"prompt": "hello", "max_tokens": 20, "seed": 3}
    greedy = server.post(COMPLETIONS, {**body, "temperature": 0})["choices"]
    assert server.post(COMPLETIONS, {**body, "temperature": 1e-320})["choices"] == greedy
    assert server.post(COMPLETIONS, {**body, "top_k": 1})["choices"] == greedy
    assert server.post(COMPLETIONS, {**body, "min_p": 1.0})["choices"] == greedy
