"""Claim: 64 streaming clients that often hang up do the server no harm: no error but 429, nothing leaked, memory flat.

    python benchmarks/serving_clients.py [benchmarks/results/serving_clients.json]

A real `openmimo serve` process with a small random model (two MTP layers that draft) and a queue too short for all.
For 60 s each of 64 clients asks, one request after another: chats and completions, streamed three times in four, 1 to
3 choices, up to 96 tokens, with and without stop texts and log-probabilities. Two requests in five are dropped: before
the answer, or after some chunks. Requests come from a list of 48 with seeds; every answer read to its end must be the
same text each time, whatever else ran. A last wave of clients resets its connections at once. Afterwards nothing may
run or wait, every cache block must be free, no call open, as many asyncio tasks as before the storm, and resident
memory at most 48 MiB more than after a storm of a tenth of the time (in which buffers grow to their working size).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import record

ROOT = Path(__file__).resolve().parents[1]
NUM_CLIENTS = 64
STORM_S = 60.0
MAX_GROWTH_BYTES = 48 << 20
TEXT = (
    "the quick brown fox jumps over the lazy dog; pack my box with five dozen liquor jugs. 0 1 2 3 4 5 6 7 8 9 = + - *"
)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        make_folder(Path(folder) / "small")
        options = ("--max-batch-size", "16", "--max-waiting", "64", "--max-model-len", "256", "--speculate", "2")
        with serving(Path(folder) / "small", *options) as (url, process, _):
            figures = measure(url, STORM_S, num_clients=NUM_CLIENTS, seed=0)
            process.send_signal(signal.SIGTERM)
            figures["exit_status"] = process.wait(60)
    record.write(
        "64 streaming clients for 60 s with random disconnects: no error but 429, no leak, memory flat",
        "python benchmarks/serving_clients.py",
        figures,
    )
    assert not figures["errors"] and not figures["texts_that_changed"] and not figures["leaks"], figures
    assert figures["resident_growth_bytes"] <= MAX_GROWTH_BYTES, figures
    assert figures["exit_status"] == 0, figures


def make_folder(folder: Path, *, num_mtp_layers: int = 2) -> Path:
    """A small random model with a byte-level tokenizer, as a Hugging Face folder."""
    import torch

    from openmimo.data.chat import CHAT_TEMPLATE
    from openmimo.data.tokenizer import save_tokenizer, train_tokenizer
    from openmimo.model.config import MiMoConfig
    from openmimo.model.hf import save_folder
    from openmimo.model.mimo import MiMo

    tokenizer = train_tokenizer([TEXT] * 4, 300)
    config = MiMoConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        num_nextn_predict_layers=num_mtp_layers,
        initializer_range=0.2,
        max_position_embeddings=512,
    )
    save_folder(MiMo(config).init_weights(torch.Generator().manual_seed(0)), folder)
    save_tokenizer(tokenizer, folder, chat_template=CHAT_TEMPLATE, max_length=512)
    return folder


@contextlib.contextmanager
def serving(folder: Path, *options: str) -> Iterator[tuple[str, subprocess.Popen[str], list[str]]]:
    """A ready `openmimo serve` process: its address, itself, and the lines it has said."""
    command = [sys.executable, "-m", "openmimo", "serve", str(folder), "--port", "0", *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    try:
        assert process.stderr is not None
        lines: list[str] = []
        while not (found := re.search(r"http://\S+", lines[-1] if lines else "")):
            lines.append(process.stderr.readline())
            assert lines[-1], f"the server ended: {lines}"
        wait_ready(found[0])
        yield found[0], process, lines
    finally:
        process.kill()
        process.wait()
        process.stderr.close()  # type: ignore[union-attr]


def wait_ready(url: str, within_s: float = 120.0) -> None:
    """Until /health answers 200."""
    end_s = time.monotonic() + within_s
    while httpx.get(f"{url}/health", timeout=60).status_code != 200:
        assert time.monotonic() < end_s, f"not ready within {within_s} s"
        time.sleep(0.05)


def figures_of(url: str) -> dict[str, float]:
    """What /metrics says, by name with labels."""
    lines = [
        line.split(" ")
        for line in httpx.get(f"{url}/metrics", timeout=60).text.splitlines()
        if not line.startswith("#")
    ]
    return {name: float(value) for name, value in lines}


def measure(url: str, storm_s: float, *, num_clients: int, seed: int) -> dict[str, Any]:
    """Storm a server; what came of it."""
    before = figures_of(url)
    rng = random.Random(seed)
    storm = Storm(url, [_request(rng) for _ in range(48)])
    asyncio.run(storm.run(num_clients, storm_s / 10, seed))
    warm = _settled(url, before)
    asyncio.run(storm.run(num_clients, storm_s, seed + 1))
    asyncio.run(storm.hang_up(num_clients, seed + 2))
    after = _settled(url, before)
    leaks = {
        name: [before.get(name), after[name]]
        for name in (
            "openmimo_requests_running",
            "openmimo_requests_waiting",
            "openmimo_calls_open",
            "openmimo_blocks_free",
            "openmimo_tasks",
        )
        if after[name] != before[name]
    }
    if after["openmimo_blocks_free"] != after["openmimo_blocks"]:
        leaks["blocks held"] = [0, after["openmimo_blocks"] - after["openmimo_blocks_free"]]
    growth = after["process_resident_memory_bytes"] - warm["process_resident_memory_bytes"]
    return {
        "clients": num_clients,
        "storm_s": storm_s,
        "outcomes": dict(sorted(storm.outcomes.items())),
        "errors": storm.errors[:10],
        "texts_compared": storm.num_compared,
        "texts_that_changed": storm.changed[:10],
        "generated_tokens": int(after["openmimo_generated_tokens_total"] - before["openmimo_generated_tokens_total"]),
        "aborted_sequences": int(after["openmimo_aborted_total"]),
        "drafts_verified": int(after.get('openmimo_draft_tokens_total{position="1"}', 0)),
        "leaks": leaks,
        "resident_after_a_tenth_bytes": int(warm["process_resident_memory_bytes"]),
        "resident_growth_bytes": int(growth),
        "resident_growth_bound_bytes": MAX_GROWTH_BYTES,
    }


class Storm:
    """Clients, and what they have seen."""

    def __init__(self, url: str, requests: list[tuple[str, dict[str, Any]]]) -> None:
        self.url = url
        self.requests = requests
        self.outcomes: Counter[str] = Counter()
        self.errors: list[str] = []
        self.changed: list[str] = []
        self.num_compared = 0
        self._texts: dict[int, dict[int, str]] = {}

    async def run(self, num_clients: int, storm_s: float, seed: int) -> None:
        """Storm for so long; then let the last answers end."""
        end_s = time.monotonic() + storm_s
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=num_clients)
        async with httpx.AsyncClient(base_url=self.url, timeout=120, limits=limits) as client:

            async def one(number: int) -> None:
                rng = random.Random(seed * 1000 + number)
                while time.monotonic() < end_s:
                    await self._ask(client, rng)

            await asyncio.gather(*(one(number) for number in range(num_clients)))

    async def hang_up(self, num_clients: int, seed: int) -> None:
        """A wave of clients that all hang up in the middle."""
        rng = random.Random(seed)
        host, _, port = self.url.removeprefix("http://").rpartition(":")
        for _ in range(num_clients):
            path, body = rng.choice(self.requests)
            data = json.dumps(body).encode()
            reader, writer = await asyncio.open_connection(host, int(port))
            lines = (
                f"POST {path} HTTP/1.1",
                "Host: x",
                "Content-Type: application/json",
                f"Content-Length: {len(data)}",
            )
            writer.write(
                ("\r\n".join(lines) + "\r\n\r\n").encode() + data[: rng.choice((0, len(data) // 2, len(data)))]
            )
            await writer.drain()
            if rng.random() < 0.5:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(reader.read(200), 0.05)
            writer.transport.abort()  # a reset, no polite end
            self.outcomes["reset"] += 1

    async def _ask(self, client: httpx.AsyncClient, rng: random.Random) -> None:
        number = rng.randrange(len(self.requests))
        path, body = self.requests[number]
        drop = rng.random() < 0.4
        after_chunks = rng.choice((0, 1, 2, 5, 20)) if drop else -1
        try:
            if not body.get("stream"):
                asked = client.post(path, json=body)
                answer = await asyncio.wait_for(asked, rng.uniform(0.001, 0.2) if drop else None)
                if self._good(answer.status_code, answer.text):
                    self._compare(number, {c["index"]: _text(c) for c in answer.json()["choices"]})
                elif answer.status_code == 429:
                    await asyncio.sleep(0.2 * float(answer.headers["Retry-After"]))
                return
            async with client.stream("POST", path, json=body) as answer:
                if answer.status_code != 200:
                    self._good(answer.status_code, (await answer.aread()).decode())
                    await asyncio.sleep(0.2 * float(answer.headers.get("Retry-After", 0)))
                    return
                await self._read(number, answer, after_chunks)
        except TimeoutError:
            self.outcomes["dropped"] += 1
        except (httpx.HTTPError, KeyError, ValueError) as error:
            self.errors.append(f"{type(error).__name__}: {error}")
            self.outcomes["failed"] += 1

    async def _read(self, number: int, answer: httpx.Response, after_chunks: int) -> None:
        texts: dict[int, str] = {}
        num_chunks = 0
        last = ""
        async for line in answer.aiter_lines():
            if not line:
                continue
            if num_chunks == after_chunks:
                self.outcomes["dropped"] += 1
                return
            num_chunks += 1
            last = line.removeprefix("data: ")
            if last != "[DONE]":
                for choice in json.loads(last)["choices"]:
                    texts[choice["index"]] = texts.get(choice["index"], "") + _text(choice)
        if last != "[DONE]":
            raise ValueError(f"a stream ended in {last[:80]!r}, not in [DONE]")
        self.outcomes["200"] += 1
        self._compare(number, texts)

    def _good(self, status: int, text: str) -> bool:
        self.outcomes[str(status)] += 1
        if status not in (200, 429):
            self.errors.append(f"{status}: {text[:200]}")
        return status == 200

    def _compare(self, number: int, texts: dict[int, str]) -> None:
        self.num_compared += number in self._texts
        if self._texts.setdefault(number, texts) != texts:
            self.changed.append(f"request {number}: {self._texts[number]} and {texts}")


def _request(rng: random.Random) -> tuple[str, dict[str, Any]]:
    words = TEXT.split()
    text = " ".join(rng.choice(words) for _ in range(rng.randrange(1, 30)))
    body: dict[str, Any] = {
        "max_tokens": rng.choice((1, 4, 16, 48, 96)),
        "temperature": rng.choice((0.0, 0.6, 1.0)),
        "seed": rng.randrange(1000),
        "n": rng.choice((1, 1, 1, 2, 3)),
    }
    if rng.random() < 0.75:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    if rng.random() < 0.3:
        body["stop"] = rng.choice(("e", " the", [";", "ox"]))
    if rng.random() < 0.5:
        body |= {"logprobs": 2} if rng.random() < 0.5 else {}
        return "/v1/completions", {**body, "prompt": text}
    return "/v1/chat/completions", {**body, "messages": [{"role": "user", "content": text}]}


def _text(choice: dict[str, Any]) -> str:
    if "text" in choice:
        return choice["text"]
    return choice["message" if "message" in choice else "delta"].get("content", "")


def _settled(url: str, before: dict[str, float], within_s: float = 20.0) -> dict[str, float]:
    """The server's figures once it rests as before; the last ones if it does not within the time."""
    end_s = time.monotonic() + within_s
    while True:
        now = figures_of(url)
        rests = all(
            now[f"openmimo_{name}"] == before[f"openmimo_{name}"] for name in ("tasks", "calls_open", "blocks_free")
        )
        if rests or time.monotonic() > end_s:
            return now
        time.sleep(0.1)


if __name__ == "__main__":
    main()
