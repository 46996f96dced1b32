"""What the server refuses, and how: one clear line in OpenAI's error object, whatever comes; nothing is left behind."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import ValidationError
from served import Served, served

from openmimo.engine.server.bodies import ChatBody, CompletionBody, parse
from openmimo.engine.server.errors import Refusal

COMPLETIONS, CHATS = "/v1/completions", "/v1/chat/completions"
HI = [{"role": "user", "content": "hi"}]


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    with served(max_batch_size=2, app={"max_waiting": 2, "max_body_bytes": 60_000}) as server:
        yield server
        server.until(lambda: not server.worker.calls and server.engine.num_active == 0)
        assert server.engine.scheduler.pool.num_free == server.engine.scheduler.pool.num_blocks


def refused(answer: Any, status: int) -> str:
    """The message of an answer that must be a refusal of this status."""
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"] and "\n" not in error["message"] and len(error["message"]) < 400
    return error["message"]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"temperature": -1}, "temperature must be a number from 0 (greedy; so is anything below 0.001) to 100"),
        ({"temperature": "hot"}, 'got "hot"'),
        ({"temperature": True}, "temperature must be a number"),
        ({"top_p": 1.5}, "top_p must be a number above 0 and at most 1; default 1, got 1.5"),
        ({"top_p": 0}, "got 0"),
        ({"min_p": 2}, "min_p must be a number from 0"),
        ({"top_k": -2}, "top_k must be an integer of 1 or more"),
        ({"n": 0}, "n must be an integer from 1, the default, to 128: choices of every prompt, got 0"),
        ({"n": 129}, "got 129"),
        ({"n": 1.5}, "got 1.5"),
        ({"n": 5}, "n times prompts must be at most 4 on this server, got 5"),
        ({"prompt": ["x"] * 100, "n": 2}, "n times prompts must be at most 128, got 200"),
        ({"max_tokens": -1}, "max_tokens must be an integer of 0 or more: tokens generated at most, got -1"),
        ({"seed": 2**63}, "seed must be an integer of 64 bits"),
        ({"seed": 10**40}, "got a number of more than 30 digits"),
        ({"logprobs": 21}, "logprobs must be an integer from 0 to 20"),
        ({"logprobs": True}, "logprobs must be an integer from 0 to 20"),
        ({"stop": ""}, "stop must be a text, or a list of at most 16 texts, none empty"),
        ({"stop": ["a", 5]}, 'got ["a", 5]'),
        ({"stop": ["a"] * 17}, "stop must be a text, or a list of at most 16 texts"),
        ({"prompt": ""}, 'a list of at most 128 of either, none empty, got ""'),
        ({"prompt": "x" * 128}, "a prompt needs 1 to 127 tokens (max_model_len - 1), got 128"),
        ({"prompt": [258]}, "prompt token id 258 is not in the vocabulary of 258"),
        ({"prompt": [10**30]}, "prompt token id 1000000000000000000000000000000 is not in the vocabulary"),
        ({"prompt": [258], "echo": True}, "prompt token id 258 is not in the vocabulary of 258"),
        ({"prompt": [-1]}, "prompt must be a text, a list of token ids"),
        ({"prompt": []}, "none empty, got []"),
        ({"prompt": [[]]}, "none empty, got [[]]"),
        ({"prompt": {"a": 1}}, 'got {"a": 1}'),
        ({"prompt": None}, "prompt must be a text"),
        ({"tempratur": 1}, "unknown field 'tempratur'; the nearest is 'temperature'"),
        ({"stream_options": {"include_usge": True}},
         "unknown field 'stream_options.include_usge'; the nearest is 'stream_options.include_usage'"),
        ({"stream_options": {"include_obfuscation": True}}, "stream_options.include_obfuscation must be false"),
        ({"presence_penalty": 0.5}, "presence_penalty must be 0: penalties are not supported, got 0.5"),
        ({"logit_bias": {"5": 1}}, "logit_bias must be empty: biases are not supported"),
        ({"best_of": 2}, "best_of must be 1: choosing is not supported, got 2"),
        ({"suffix": "x"}, "suffix must be empty: filling in is not supported"),
        ({"stream": "yes"}, 'stream must be true or false; default false, got "yes"'),
        ({"user": 5}, "user must be a text; it is not used, got 5"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("stream", [False, True])
def test_a_bad_completion_gets_one_clear_line(server: Served, body: dict, message: str, stream: bool) -> None:
    answer = server.client.post(COMPLETIONS, json={"prompt": "x", "stream": stream, **body})
    assert message in refused(answer, 400)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({}, "messages is missing: it must be a list of 1 to 1024 messages"),
        ({"messages": []}, "messages must be a list of 1 to 1024 messages"),
        ({"messages": "hi"}, 'got "hi"'),
        ({"messages": [5]}, "messages[0] must be a list of"),
        ({"messages": [{"role": "user"}]}, "messages[0].content is missing: it must be a text, or a list"),
        ({"messages": [{"content": "x"}]}, "messages[0].role is missing"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role must be 'system'"),
        ({"messages": [*HI, {"role": "user", "content": None}]}, "messages[1].content must be a text"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
         "messages[0].content[0].type must be 'text': this model reads nothing else, got \"image_url\""),
        ({"messages": [{"role": "user", "contents": "x"}]},
         "unknown field 'messages[0].contents'; the nearest is 'messages[0].content'"),
        ({"messages": HI * 1025}, "messages must be a list of 1 to 1024 messages"),
        ({"messages": [{"role": "user", "content": "x" * 200}]}, "a prompt needs 1 to 127 tokens"),
        ({"messages": HI, "max_tokens": 0}, "max_tokens must be an integer of 1 or more"),
        ({"messages": HI, "max_completion_tokens": -5}, "max_completion_tokens must be an integer of 1 or more"),
        ({"messages": HI, "top_logprobs": 3}, "top_logprobs needs logprobs: true beside it"),
        ({"messages": HI, "logprobs": 3}, "logprobs must be true or false"),
        ({"messages": HI, "tools": [{"type": "function"}]}, "tools must be empty: there are no tools"),
        ({"messages": HI, "response_format": {"type": "json_object"}}, "response_format.type must be 'text'"),
        ({"messages": HI, "store": True}, "store must be false: nothing is stored"),
        ({"messages": HI, "metadata": {"a": 5}}, "metadata must be an object of at most 16 texts"),
        ({"messages": HI, "reasoning_effort": "high"}, "reasoning_effort must be left out"),
        ({"messages": HI, "prompt": "x"}, "unknown field 'prompt'"),
    ],
)  # fmt: skip
def test_a_bad_chat_gets_one_clear_line(server: Served, body: dict, message: str) -> None:
    assert message in refused(server.client.post(CHATS, json=body), 400)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "the body is no JSON"),
        (b'{"prompt": "x"', "the body is no JSON"),
        (b"\xff\xfe", "the body is no"),
        (b'{"prompt": "x", "temperature": NaN}', "NaN is no number in JSON"),
        (b'{"prompt": "x", "temperature": -Infinity}', "-Infinity is no number in JSON"),
        (b'{"prompt": "x", "temperature": 1e999}', "temperature must be a number"),
        (b'{"prompt": "\\ud800"}', "no UTF-8 text"),
        (b'{"prompt": "x", "seed": ' + b"9" * 5000 + b"}", "the body is no JSON"),
        (b'["prompt"]', 'the body must be a JSON object, got ["prompt"]'),
        (b"[" * 9000, "nested"),
        (b'{"prompt": ' + b"[" * 40 + b"]" * 40 + b"}", "nested deeper than 32 levels"),
        (b'{"prompt": "x", "' + b"y" * 5000 + b'": 1}', "unknown field 'yyyy"),
    ],
)
def test_a_body_that_is_no_json_object_gets_one_clear_line(server: Served, data: bytes, message: str) -> None:
    answer = server.client.post(COMPLETIONS, content=data, headers={"Content-Type": "application/json"})
    assert message in refused(answer, 400)


@pytest.mark.parametrize(
    "body",
    [
        {"prompt": [-1] * 1000},
        {"prompt": [[-1] * 100] * 100},
        {"prompt": [None] * 1000},
        {"prompt": "x", "stop": [5] * 1000},
        {"prompt": "x", "stop_token_ids": [-1] * 1000},
        {"messages": [{"role": "user", "content": [{}] * 1000}]},
        {"messages": [{}] * 1000},
    ],
)
def test_a_body_of_nothing_but_mistakes_is_given_up_at_the_first(body: dict) -> None:
    with pytest.raises(ValidationError) as error:
        (ChatBody if "messages" in body else CompletionBody).model_validate(body)
    assert error.value.error_count() < 10


def test_many_unknown_fields_are_given_up_at_the_first() -> None:
    with pytest.raises(Refusal, match="unknown field 'f0'"):
        parse(CompletionBody, json.dumps({"prompt": "x", **{f"f{n}": 1 for n in range(1000)}}).encode())


def test_every_field_says_what_it_must_be() -> None:
    for kind in (CompletionBody, ChatBody):
        assert all(field.description for name, field in kind.model_fields.items() if name != "prompt") and kind
        with pytest.raises(ValidationError):
            kind.model_validate({"no": 1})


def test_a_field_that_is_missing_says_so() -> None:
    with pytest.raises(Refusal, match="prompt is missing: it must be a text, a list of token ids"):
        parse(CompletionBody, b"{}")


def test_an_unknown_model_path_or_method_is_refused(server: Served) -> None:
    for path, body in ((COMPLETIONS, {"prompt": "x"}), (CHATS, {"messages": HI})):
        answer = server.client.post(path, json={**body, "model": "gpt"})
        assert "model 'gpt' is not served; 'tiny' is" in refused(answer, 404)
    assert "/v1/embeddings" in refused(server.client.post("/v1/embeddings", json={}), 404)
    wrong = server.client.get(CHATS)
    assert "GET" in refused(wrong, 405) and wrong.headers["Allow"] == "POST"


def test_a_body_of_another_type_or_too_large_is_refused(server: Served) -> None:
    for kind in ("text/plain", "application/x-www-form-urlencoded"):
        answer = server.client.post(COMPLETIONS, content=b'{"prompt": "x"}', headers={"Content-Type": kind})
        assert kind in refused(answer, 415)
    with_charset = {"Content-Type": "application/json; charset=utf-8"}
    assert server.client.post(COMPLETIONS, content=b'{"prompt": "x"}', headers=with_charset).status_code == 200
    assert "larger than 60000 bytes" in refused(server.client.post(COMPLETIONS, json={"prompt": "x" * 60_000}), 413)

    def parts() -> Iterator[bytes]:  # chunked: no length is announced
        for _ in range(20):
            yield b"x" * 6000

    answer = server.client.post(COMPLETIONS, content=parts(), headers={"Content-Type": "application/json"})
    assert "larger than 60000 bytes" in refused(answer, 413)


def test_a_full_queue_is_429_with_retry_after_and_drains(server: Served) -> None:
    body = {"prompt": "x", "max_tokens": 60, "n": 3, "stream": True, "seed": 1}
    with server.slowed(0.01):
        with server.client.stream("POST", COMPLETIONS, json=body) as first:
            lines = first.iter_lines()
            next(lines)
            full = server.client.post(COMPLETIONS, json={"prompt": "y", "n": 2})
            assert "3 sequences run or wait and at most 4 may" in refused(full, 429)
            assert full.headers["Retry-After"] == "1" and full.json()["error"]["code"] == "queue_full"
            assert server.client.post(COMPLETIONS, json={"prompt": "y", "n": 1, "max_tokens": 1}).status_code == 200
        assert "openmimo_refused_total 1.0" in server.client.get("/metrics").text
        server.until(lambda: server.worker.num_open == 0)
    assert server.client.post(COMPLETIONS, json={"prompt": "y", "n": 4, "max_tokens": 2}).status_code == 200


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_hangs_up_frees_everything(server: Served, stream: bool) -> None:
    tasks, aborted = server.num_tasks(), server.engine.stats.num_aborted
    body = json.dumps({"prompt": "x", "max_tokens": 120, "n": 3, "stream": stream, "seed": 1}).encode()
    head = (
        f"POST {COMPLETIONS} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    )
    host, port = server.url.removeprefix("http://").split(":")
    with server.slowed(0.02):
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(head.encode() + b"\r\n" + body)
            server.until(lambda: len(server.engine.scheduler.running) == 2)
        began = time.monotonic()
        server.until(lambda: server.engine.num_active == 0 and not server.worker.calls)
        assert time.monotonic() - began < 1.0, "not by running to the end: 120 steps of 0.02 s"
    assert server.engine.stats.num_aborted == aborted + 3
    assert server.engine.scheduler.pool.num_free == server.engine.scheduler.pool.num_blocks
    server.until(lambda: server.num_tasks() <= tasks)


def test_a_client_that_hangs_up_in_the_middle_of_its_body_is_no_mistake_of_ours(server: Served) -> None:
    host, port = server.url.removeprefix("http://").split(":")
    head = f"POST {COMPLETIONS} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 500\r\n\r\n"
    tasks = server.num_tasks()
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(head.encode() + b'{"prompt"')
    server.until(lambda: server.num_tasks() <= tasks)


def test_a_reader_that_does_not_read_holds_up_nobody_and_no_memory(server: Served) -> None:
    with server.client.stream("POST", COMPLETIONS, json={"prompt": "x", "max_tokens": 100, "stream": True}) as slow:
        server.until(lambda: server.engine.num_active == 0)
        assert server.client.post(COMPLETIONS, json={"prompt": "y", "max_tokens": 5}).status_code == 200
        assert sum(1 for _ in slow.iter_lines()) > 1


def test_a_key_is_asked_of_everything_under_v1(capfd: pytest.CaptureFixture[str]) -> None:
    with served(app={"api_key": "secret"}) as server:
        paths = [("GET", "/v1/models"), ("GET", "/v1/models/tiny"), ("POST", COMPLETIONS), ("POST", CHATS)]
        for method, path in paths:
            for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Bearer secret\xe9"}):
                encoded = {name: value.encode("latin-1") for name, value in headers.items()}
                answer = server.client.request(method, path, json={"prompt": "x"}, headers=encoded)
                assert "an API key is needed" in refused(answer, 401)
                assert answer.headers["WWW-Authenticate"] == "Bearer"
                assert answer.json()["error"]["code"] == "invalid_api_key"
        right = {"Authorization": "Bearer secret"}
        assert server.client.post(COMPLETIONS, json={"prompt": "x"}, headers=right).status_code == 200
        for path in ("/health", "/metrics", "/", "/openapi.json"):
            assert server.client.get(path).status_code == 200, path


def test_not_ready_before_the_engine_is_warm_nor_while_draining() -> None:
    with served() as server:
        server.worker.state = "starting"
        assert "not ready: the engine is starting" in refused(server.client.get("/health"), 503)
        server.worker.state = "ready"
        assert server.client.get("/health").status_code == 200
        assert server.engine.stats.num_steps == 0, "warming up counts nothing"
        server.worker.drain()
        assert "draining" in refused(server.client.get("/health"), 503)
        answer = server.client.post(COMPLETIONS, json={"prompt": "x"})
        assert "shutting down" in refused(answer, 503) and answer.headers["Retry-After"]


def test_a_failed_step_answers_its_clients_and_the_engine_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    with served() as server:
        good = server.client.post(COMPLETIONS, json={"prompt": "x", "seed": 1}).json()["choices"]
        fail_next_steps(server, 1)
        message = refused(server.client.post(COMPLETIONS, json={"prompt": "x"}), 500)
        assert "the engine failed: RuntimeError: out of luck" in message
        assert server.client.post(COMPLETIONS, json={"prompt": "x", "seed": 1}).json()["choices"] == good
        body = {"prompt": "x", "stream": True, "max_tokens": 100, "seed": 1}
        with server.slowed(0.01), server.client.stream("POST", COMPLETIONS, json=body) as answer:
            reading = (line.removeprefix("data: ") for line in answer.iter_lines() if line)
            assert "text" in next(reading), "the status has been sent"
            fail_next_steps(server, 1)
            lines = list(reading)
        assert "out of luck" in json.loads(lines[-2])["error"]["message"] and lines[-1] == "[DONE]"
        assert server.client.post(COMPLETIONS, json={"prompt": "x", "seed": 1}).json()["choices"] == good
        fail_next_steps(server, 3)
        for _ in range(3):
            refused(server.client.post(COMPLETIONS, json={"prompt": "x"}), 500)
        server.until(lambda: server.worker.state == "dead")
        assert "dead" in refused(server.client.get("/health"), 503)
        assert "restart the server" in refused(server.client.post(COMPLETIONS, json={"prompt": "x"}), 503)
        assert server.engine.num_active == 0 and not server.worker.calls


def fail_next_steps(server: Served, count: int) -> None:
    """The engine's next passes fail, in its own middle."""
    compute, left = server.engine._compute, [count]

    def failing(plan: Any) -> None:
        left[0] -= 1
        if not left[0]:
            server.engine._compute = compute  # type: ignore[method-assign]
        raise RuntimeError("out of luck")

    server.engine._compute = failing  # type: ignore[method-assign]


def test_many_at_once_get_what_each_would_get_alone() -> None:
    with served(max_batch_size=4, num_draft_layers=2) as server:
        bodies = [{"prompt": f"question {n}", "seed": n, "max_tokens": 20, "n": 1 + n % 3} for n in range(12)]
        alone = [server.post(COMPLETIONS, body)["choices"] for body in bodies]
        together: dict[int, Any] = {}
        threads = [
            threading.Thread(target=lambda n=n: together.update({n: server.post(COMPLETIONS, bodies[n])["choices"]}))  # type: ignore[misc]
            for n in range(12)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [together[n] for n in range(12)] == alone


def test_the_openapi_description_names_every_field_and_resolves(server: Served) -> None:
    described = server.client.get("/openapi.json").json()
    schemas = described["components"]["schemas"]
    for path, kind in ((COMPLETIONS, CompletionBody), (CHATS, ChatBody)):
        operation = described["paths"][path]["post"]
        assert set(schemas[kind.__name__]["properties"]) == set(kind.model_fields)
        assert schemas[kind.__name__]["additionalProperties"] is False
        assert set(operation["responses"]) == {"200", "400", "401", "404", "413", "415", "429", "500", "503"}
    text = json.dumps(described)
    for reference in set(part.split('"')[0] for part in text.split('"$ref": "#/components/schemas/')[1:]):
        assert reference in schemas, reference
