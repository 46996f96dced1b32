"""The HTTP server over a real engine, with a byte-level chat format small enough to see through."""

import asyncio
import json
import time
from collections.abc import Iterator

import pytest
import torch
from fastapi import HTTPException
from fastapi import Request as HttpRequest
from fastapi.testclient import TestClient

from openmimo.engine.engine import Engine, EngineConfig
from openmimo.engine.server import CompletionBody, EngineThread, TextStream, _completion_choice, _respond, create_app
from openmimo.model.config import MiMoConfig
from openmimo.model.mimo import MiMo
from openmimo.types import Request, Sampling

TINY = MiMoConfig(
    vocab_size=258,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
    head_dim=16,
    initializer_range=0.3,
)


class ByteChat:
    """Ids 0-255 are bytes, 256 ends a turn."""

    stop_token_ids: tuple[int, ...] = (256,)

    def encode(self, text: str) -> tuple[int, ...]:
        return tuple(text.encode())

    def render_prompt(self, text: str) -> tuple[int, ...]:
        return self.render_messages([{"role": "user", "content": text}])

    def render_messages(self, messages: list[dict]) -> tuple[int, ...]:
        return (*(b for m in messages for b in (*f"{m['role']}:{m['content']}".encode(), 256)), *b"assistant:")

    def decode(self, token_ids: tuple[int, ...]) -> str:
        return bytes(t for t in token_ids if t < 256).decode("utf-8", errors="replace")


CHAT = ByteChat()


@pytest.fixture(scope="module")
def engine() -> Engine:
    model = MiMo(TINY).init_weights(torch.Generator().manual_seed(0))
    return Engine(model, EngineConfig(max_batch_size=16, max_model_len=128))


@pytest.fixture(scope="module")
def client(engine: Engine) -> Iterator[TestClient]:
    app = create_app(engine, CHAT, model_name="tiny", encode=CHAT.encode)  # type: ignore[arg-type]
    with TestClient(app) as client:
        yield client


def rollout_text(prompt: tuple[int, ...], new: int, seed: int = 0, temperature: float = 1.0) -> str:
    model = MiMo(TINY).init_weights(torch.Generator().manual_seed(0))
    engine = Engine(model, EngineConfig(max_batch_size=16, max_model_len=128))
    sampling = Sampling(new, seed=seed, temperature=temperature, stop_token_ids=(256,))
    token_ids = engine.generate([Request(prompt, sampling)])[0].token_ids
    return CHAT.decode(token_ids)


def events(response) -> list[dict]:
    lines = [line[6:] for line in response.text.split("\n\n") if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def test_a_completion_is_the_engines_text(client: TestClient) -> None:
    body = {"model": "tiny", "prompt": "hello", "max_tokens": 12, "seed": 5, "logprobs": 1}
    answer = client.post("/v1/completions", json=body).json()
    choice = answer["choices"][0]
    assert choice["text"] == rollout_text(CHAT.encode("hello"), 12, seed=5)
    assert answer["object"] == "text_completion"
    assert answer["usage"]["prompt_tokens"] == 5
    assert answer["usage"]["total_tokens"] == 5 + answer["usage"]["completion_tokens"]
    assert len(choice["logprobs"]["token_logprobs"]) == answer["usage"]["completion_tokens"]
    assert choice["finish_reason"] in ("stop", "length")


def test_a_chat_streams_the_text_that_it_answers_at_once(client: TestClient) -> None:
    body = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 40, "seed": 1}
    whole = client.post("/v1/chat/completions", json=body).json()["choices"][0]
    assert whole["message"]["role"] == "assistant"
    pieces = events(client.post("/v1/chat/completions", json={**body, "stream": True}))
    assert len(pieces) > 3
    assert "".join(piece["choices"][0]["delta"]["content"] for piece in pieces) == whole["message"]["content"]
    assert pieces[-1]["choices"][0]["finish_reason"] == whole["finish_reason"]
    assert all(piece["choices"][0]["finish_reason"] is None for piece in pieces[:-1])
    assert {piece["object"] for piece in pieces} == {"chat.completion.chunk"}


def test_streamed_logprobs_cover_every_token_once(client: TestClient) -> None:
    body = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 30, "seed": 1, "logprobs": True}
    whole = client.post("/v1/chat/completions", json=body).json()["choices"][0]["logprobs"]["content"]
    pieces = events(client.post("/v1/chat/completions", json={**body, "stream": True}))
    assert [entry for piece in pieces for entry in piece["choices"][0]["logprobs"]["content"]] == whole


def test_prompts_and_samples_come_back_in_order(client: TestClient) -> None:
    body = {"prompt": ["one", "two"], "n": 2, "max_tokens": 5, "temperature": 0.0, "seed": 0}
    choices = client.post("/v1/completions", json=body).json()["choices"]
    assert [choice["index"] for choice in choices] == [0, 1, 2, 3]
    texts = [rollout_text(CHAT.encode(text), 5, temperature=0.0) for text in ("one", "two")]
    assert [choice["text"] for choice in choices] == [texts[0]] * 2 + [texts[1]] * 2
    ids = client.post("/v1/completions", json={**body, "prompt": [list(b"one"), list(b"two")]}).json()["choices"]
    assert [choice["text"] for choice in ids] == [choice["text"] for choice in choices]


def test_a_stop_string_cuts_the_text_and_ends_the_sequence(client: TestClient, engine: Engine) -> None:
    text = rollout_text(CHAT.encode("hello"), 60, seed=5)
    stop = text[8:10]
    body = {"prompt": "hello", "max_tokens": 60, "seed": 5, "stop": [stop]}
    choice = client.post("/v1/completions", json=body).json()["choices"][0]
    assert choice["text"] == text[: text.index(stop)]
    assert choice["finish_reason"] == "stop"
    for _ in range(100):
        if not engine.num_active:
            break
        time.sleep(0.01)
    assert engine.num_active == 0


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ({"prompt": "x", "temperature": -1}, 400, "temperature must be 0"),
        ({"prompt": "x", "max_tokens": 0}, 400, "max_new_tokens must be at least 1"),
        ({"prompt": "x" * 200}, 400, "a prompt needs 1 to 127 tokens"),
        ({"prompt": [999]}, 400, "prompt token id 999"),
        ({"prompt": []}, 400, "prompt is empty"),
        ({"prompt": "x", "echo": True}, 400, "echo is not supported"),
        ({"prompt": "x", "model": "gpt"}, 404, "'tiny' is"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_a_bad_request_gets_one_clear_line(
    client: TestClient, body: dict, status: int, message: str, stream: bool
) -> None:
    response = client.post("/v1/completions", json={**body, "stream": stream})
    assert response.status_code == status
    assert message in response.json()["error"]["message"]


def test_health_models_and_metrics(client: TestClient) -> None:
    assert client.get("/health").json() == {"status": "ok"}
    assert client.get("/v1/models").json()["data"][0]["id"] == "tiny"
    text = client.get("/metrics").text
    assert "openmimo_generated_tokens_total" in text
    assert "openmimo_active 0.0" in text


def test_a_text_stream_holds_back_half_characters_and_half_stop_strings() -> None:
    stream = TextStream(CHAT.decode, (256,), ["END"])
    euro = tuple("€".encode())
    assert stream.push((*b"a", *euro[:2]), False) == ("a", False)
    assert stream.push((*b"a", *euro), False) == ("€", False)
    assert stream.push((*b"a", *euro, *b"bE"), False) == ("b", False)
    assert stream.push((*b"a", *euro, *b"bEN"), False) == ("", False)
    assert stream.push((*b"a", *euro, *b"bENdEND..."), False) == ("ENd", True)


def test_a_text_stream_gives_what_it_held_back_at_the_end_without_the_stop_token() -> None:
    stream = TextStream(CHAT.decode, (256,), ["END"])
    assert stream.push(tuple(b"xEN"), False) == ("x", False)
    assert stream.push((*b"xEN", 256), True) == ("EN", False)


def test_a_client_that_hangs_up_before_the_first_token_is_no_server_error(engine: Engine) -> None:
    async def gone() -> dict:
        return {"type": "http.disconnect"}

    worker = EngineThread(engine)  # never started, so that no token comes
    body = CompletionBody(prompt="x", stream=True)
    request = Request((1,), Sampling(1))
    answer = _respond(worker, CHAT, body, [request], HttpRequest({"type": "http"}, gone), {}, _completion_choice, 1)  # type: ignore[arg-type]
    with pytest.raises(HTTPException) as error:
        asyncio.run(answer)
    assert error.value.status_code == 499
