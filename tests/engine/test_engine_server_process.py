"""A real `openmimo serve` process: the official client, storms, fuzz, signals, options."""

import json
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import serving_clients
import serving_fuzz

from openmimo.cli import main
from openmimo.engine.server.listen import read_key

openai = pytest.importorskip("openai", reason="needs the dev extra: pip install -e '.[dev]'")

COMPLETIONS = "/v1/completions"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return serving_clients.make_folder(tmp_path_factory.mktemp("served") / "small")


@pytest.fixture(scope="module")
def url(folder: Path) -> Iterator[str]:
    options = ("--max-batch-size", "16", "--max-waiting", "24", "--max-model-len", "256", "--speculate", "2")
    with serving_clients.serving(folder, *options) as (url, process, _):
        yield url
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
        assert process.stderr is not None and process.stderr.read() == "", "no traceback, no warning"


@pytest.fixture(scope="module")
def client(url: str) -> Any:
    return openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0)


HI = [{"role": "user", "content": "the fox"}]


def test_the_official_client_reads_models_chats_and_completions(client: Any) -> None:
    assert [model.id for model in client.models.list()] == ["small"]
    assert client.models.retrieve("small").id == "small"
    chat = client.chat.completions.create(
        model="small", messages=HI, max_completion_tokens=9, seed=1, n=2, logprobs=True, top_logprobs=3,
        temperature=0.8, frequency_penalty=0, presence_penalty=0, user="me", metadata={"a": "b"}, store=False,
    )  # fmt: skip
    assert [choice.index for choice in chat.choices] == [0, 1] and chat.choices[0].message.role == "assistant"
    assert chat.usage.completion_tokens == sum(len(choice.logprobs.content) for choice in chat.choices)
    assert len(chat.choices[0].logprobs.content[0].top_logprobs) == 3
    again = [*HI, chat.choices[0].message, {"role": "user", "content": "more"}]
    assert client.chat.completions.create(model="small", messages=again, max_tokens=3).choices[0].finish_reason
    completion = client.completions.create(model="small", prompt="the fox", max_tokens=0, echo=True, logprobs=1)
    assert completion.choices[0].text == "the fox" and completion.choices[0].logprobs.token_logprobs[0] is None


def test_the_official_client_reads_streams(client: Any) -> None:
    asked: dict[str, Any] = dict(model="small", messages=HI, max_tokens=20, seed=4)
    whole = client.chat.completions.create(**asked)
    chunks = list(client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content and chunks[-1].usage == whole.usage
    pieces = client.completions.create(model="small", prompt="the fox", max_tokens=20, seed=4, stream=True)
    assert [piece.choices[0].finish_reason for piece in pieces][-1] in ("stop", "length")


def test_the_official_client_raises_its_own_errors(client: Any) -> None:
    with pytest.raises(openai.BadRequestError, match="temperature must be a number"):
        client.chat.completions.create(model="small", messages=HI, temperature=-1)
    with pytest.raises(openai.NotFoundError, match="model 'gpt' is not served"):
        client.chat.completions.create(model="gpt", messages=HI)
    with pytest.raises(openai.BadRequestError, match="tools must be empty"):
        client.chat.completions.create(
            model="small", messages=HI, tools=[{"type": "function", "function": {"name": "f"}}]
        )


def test_a_storm_of_clients_that_hang_up_leaves_nothing_behind(url: str) -> None:
    found = serving_clients.measure(url, 3.0, num_clients=24, seed=5)
    assert not found["errors"] and not found["texts_that_changed"] and not found["leaks"], found
    assert set(found["outcomes"]) <= {"200", "429", "dropped", "reset"} and found["outcomes"]["200"] > 20, found
    assert found["outcomes"]["dropped"] > 5 and found["texts_compared"] > 5, found
    assert found["resident_growth_bytes"] <= serving_clients.MAX_GROWTH_BYTES, found


def test_no_fuzzed_body_is_a_server_error(url: str) -> None:
    pytest.importorskip("schemathesis", reason="needs the dev extra: pip install -e '.[dev]'")
    found = serving_fuzz.measure(url, 10, seed=1)
    assert not found["mistakes"] and not found["failed_steps"], found
    assert found["requests"] >= 40 and set(found["statuses"]["not fitting"]) <= {"400", "413"}, found


def test_sigterm_lets_streams_finish_refuses_new_calls_and_ends_with_0(folder: Path) -> None:
    options = ("--max-batch-size", "1", "--host", "0.0.0.0")
    with serving_clients.serving(folder, *options) as (url, process, said):
        assert said[0].startswith("warning: 0.0.0.0 is reachable by others and no API key is set"), said
        body = {"prompt": "the fox", "max_tokens": 400, "n": 8, "stream": True, "seed": 1}
        with httpx.Client(base_url=url, timeout=60).stream("POST", COMPLETIONS, json=body) as answer:
            lines = answer.iter_lines()
            first = next(lines)
            process.send_signal(signal.SIGTERM)
            refused = wait_refused(url)
            assert process.poll() is None, "it waits for its streams"
            rest = [line.removeprefix("data: ") for line in lines if line]
        assert "shutting down" in refused
        assert rest[-1] == "[DONE]"
        choices = [json.loads(line)["choices"][0] for line in [first.removeprefix("data: "), *rest[:-1]]]
        assert sorted(c["index"] for c in choices if c["finish_reason"]) == list(range(8)), "all of it came"
        assert process.wait(20) == 0
        assert process.stderr is not None and process.stderr.read() == ""


def wait_refused(url: str, headers: dict[str, str] | None = None) -> str:
    """The message of the first call that is refused."""
    for _ in range(200):
        answer = httpx.post(f"{url}{COMPLETIONS}", json={"prompt": "x", "max_tokens": 1}, headers=headers, timeout=60)
        if answer.status_code == 503:
            assert httpx.get(f"{url}/health").status_code == 503
            return answer.json()["error"]["message"]
        time.sleep(0.01)
    raise AssertionError(f"still answered: {answer.text}")


def test_a_second_signal_ends_at_once(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("secret\n")
    options = (
        "--max-batch-size",
        "1",
        "--speculate",
        "0",
        "--host",
        "0.0.0.0",
        "--api-key-file",
        str(tmp_path / "key"),
    )
    with serving_clients.serving(folder, *options) as (url, process, said):
        assert len(said) == 1, "with a key there is nothing to warn of"
        assert httpx.get(f"{url}/v1/models").status_code == 401
        body = {"prompt": "the fox", "max_tokens": 400, "n": 100, "seed": 1}
        key = {"Authorization": "Bearer secret"}

        def ask() -> None:
            with pytest.raises(httpx.HTTPError):
                httpx.post(f"{url}{COMPLETIONS}", json=body, timeout=60, headers=key)

        asking = threading.Thread(target=ask)
        asking.start()
        while not serving_clients.figures_of(url)["openmimo_requests_running"]:
            time.sleep(0.005)
        process.send_signal(signal.SIGTERM)
        wait_refused(url, key)
        process.send_signal(signal.SIGTERM)
        assert process.wait(3) == 128 + signal.SIGTERM
        asking.join(10)
        assert not asking.is_alive()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "nowhere"),
        ("", "must hold an API key"),
        ("two words", "must hold an API key"),
        ("\u00e9", "one ASCII word"),
    ],
)
def test_a_key_file_without_a_key_is_one_line(tmp_path: Path, text: str | None, message: str) -> None:
    path = tmp_path / "nowhere"
    if text is not None:
        path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        read_key(path)


def test_the_key_comes_from_the_file_or_else_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "key").write_text("secret\n")
    monkeypatch.delenv("OPENMIMO_API_KEY", raising=False)
    assert (read_key(None), read_key(tmp_path / "key")) == ("", "secret")
    monkeypatch.setenv("OPENMIMO_API_KEY", "other")
    assert (read_key(None), read_key(tmp_path / "key")) == ("other", "secret")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--speculate", "3"), "--speculate must be auto or 0 to 2, the MTP layers of"),
        (("--speculate", "many"), "--speculate must be auto or a number of drafts, got 'many'"),
        (("--dtype", "float16"), "--dtype must be one of auto, float32, bfloat16, got 'float16'"),
        (("--max-model-len", "9999"), "--max-model-len must be 2 to 512, the model's own, got 9999"),
        (("--max-batch-size", "0"), "--max-batch-size must be at least 1, got 0"),
        (("--max-waiting", "-1"), "--max-waiting must be at least 0, got -1"),
        (("--api-key-file", "nowhere"), "nowhere"),
        (("--host", "192.0.2.1", "--port", "0"), "cannot listen on 192.0.2.1:0"),
    ],
)
def test_an_option_that_does_not_suit_is_one_line(
    folder: Path, options: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["serve", str(folder), *options])
    err = capsys.readouterr().err
    assert ended.value.code == 2 and message in err and err.count("\n") == 1, err


def test_a_port_that_is_taken_is_one_line(folder: Path, url: str, capsys: pytest.CaptureFixture[str]) -> None:
    port = url.rpartition(":")[2]
    with pytest.raises(SystemExit):
        main(["serve", str(folder), "--port", port])
    assert capsys.readouterr().err == f"openmimo: cannot listen on 127.0.0.1:{port}: Address already in use\n"
