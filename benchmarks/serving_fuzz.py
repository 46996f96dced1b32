"""Claim: no request body, well-formed or not, is answered with a server error.

    python benchmarks/serving_fuzz.py [benchmarks/results/serving_fuzz.json]

schemathesis reads the server's OpenAPI description and makes 500 bodies for each of the two generating endpoints that
fit it, and 500 that do not; 1,000 more are bodies of ours: fields at the ends of what is allowed, fields replaced by
hostile values, bytes flipped, cut short. All go to a real `openmimo serve` process. Every answer must be one that the
description announces, every refusal OpenAI's error object with one line, every body that does not fit must be refused;
the server must be ready afterwards, with nothing running and every cache block free.
"""

from __future__ import annotations

import copy
import json
import random
import tempfile
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import record
from serving_clients import figures_of, make_folder, serving

NUM_EXAMPLES = 500
PATHS = ("/v1/completions", "/v1/chat/completions")
VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**63, 2**64, -(2**63) - 1, 10**40, 0.5, -0.0, 1e-320, 1e308, "", "a", "\u0000",
    "\ud83d\ude00" * 9, "x" * 3000, [], [[]], [0], [-1], [299], [10**9], ["a", 0], [None], {},
    {"a": {}}, {"type": "text"},
    [{"role": "user", "content": "x"}], [{"role": "user", "content": [{"type": "text", "text": "<|im_end|>"}]}],
)  # fmt: skip
GOOD: dict[str, tuple[Any, ...]] = {
    "temperature": (0, 1e-320, 1e-3, 0.00101, 1, 100),
    "top_p": (1, 0.5, 1e-12, 5e-324, 0.9999999999999999),
    "top_k": (-1, 0, 1, 2**31, 2**62),
    "min_p": (0, 1, 1e-30, 5e-324),
    "n": (1, 3, 16),
    "seed": (None, -(2**63), 2**63 - 1),
    "stop": (None, "e", ["\u0000", "\ufffd", " "], ["x" * 1000]),
    "stop_token_ids": ([], [0, 299, 2**62]),
    "max_tokens": (1, 7, 10**6, 2**62),
    "stream": (True, False),
    "stream_options": (None, {"include_usage": True}),
}
"""The ends of what is allowed."""
FIELDS = (
    "model prompt messages max_tokens max_completion_tokens temperature top_p top_k min_p n seed stop stop_token_ids "
    "stream stream_options logprobs top_logprobs echo best_of suffix user logit_bias response_format tools unknown"
).split()


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        make_folder(Path(folder) / "small")
        with serving(Path(folder) / "small", "--max-model-len", "64", "--max-body-bytes", "100000") as (url, *_):
            figures = measure(url, NUM_EXAMPLES, seed=0)
    record.write(
        "no body, fitting the OpenAPI description or not, is answered with a server error",
        "python benchmarks/serving_fuzz.py",
        figures,
    )
    assert not figures["mistakes"], figures["mistakes"]


def measure(url: str, num_examples: int, *, seed: int) -> dict[str, Any]:
    """Fuzz a server; the counts of what came of it."""
    statuses: dict[str, Counter[str]] = {"fitting": Counter(), "not fitting": Counter(), "bent": Counter()}
    mistakes: list[str] = []
    for fitting in (True, False):
        kind = "fitting" if fitting else "not fitting"
        for path in PATHS:
            _described(url, path, fitting, num_examples, seed, statuses[kind], mistakes)
    with httpx.Client(base_url=url, timeout=60) as client:
        rng = random.Random(seed)
        for _ in range(2 * num_examples):
            path, data = _bent(rng)
            answer = client.post(path, content=data, headers={"Content-Type": "application/json"})
            statuses["bent"][str(answer.status_code)] += 1
            mistakes += [f"{path} {data[:200]!r}: {wrong}" for wrong in wrongs(answer.status_code, answer.text)]
        ready = client.get("/health").status_code
    after = figures_of(url)
    if ready != 200 or after["openmimo_requests_running"] or after["openmimo_requests_waiting"]:
        mistakes.append(f"afterwards: health {ready}, {after['openmimo_requests_running']} sequences run")
    if after["openmimo_blocks_free"] != after["openmimo_blocks"]:
        mistakes.append(f"afterwards {after['openmimo_blocks_free']} of {after['openmimo_blocks']} blocks are free")
    return {
        "requests": sum(sum(counts.values()) for counts in statuses.values()),
        "statuses": {kind: dict(sorted(counts.items())) for kind, counts in statuses.items()},
        "failed_steps": int(after["openmimo_failed_steps_total"]),
        "mistakes": mistakes[:20],
    }


def wrongs(status: int, text: str) -> list[str]:
    """What is wrong with an answer."""
    if status == 200:
        return []
    if status not in (400, 404, 413, 415, 429):
        return [f"status {status}: {text[:300]}"]
    try:
        message = json.loads(text)["error"]["message"]
    except (ValueError, KeyError, TypeError):
        return [f"no error object: {text[:300]}"]
    return [] if message and "\n" not in message and len(message) < 1000 else [f"no clear line: {message[:300]!r}"]


def _described(
    url: str, path: str, fitting: bool, num_examples: int, seed: int, statuses: Counter[str], mistakes: list[str]
) -> None:
    """Requests that schemathesis makes from the description."""
    import schemathesis
    from hypothesis import HealthCheck, Phase, given, settings
    from hypothesis import seed as seeded

    warnings.filterwarnings("ignore")
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
    mode = schemathesis.GenerationMode.POSITIVE if fitting else schemathesis.GenerationMode.NEGATIVE
    strategy = schema[path]["POST"].as_strategy(generation_mode=mode)

    @seeded(seed)
    @settings(
        max_examples=num_examples, deadline=None, database=None, suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],
    )  # fmt: skip
    @given(case=strategy)
    def ask(case: Any) -> None:
        answer = case.call()
        statuses[str(answer.status_code)] += 1
        found = wrongs(answer.status_code, answer.text)
        if not fitting and answer.status_code == 200:
            found.append("a body that does not fit was answered")
        mistakes.extend(f"{path} {str(case.body)[:300]}: {wrong}" for wrong in found)

    ask()


def _bent(rng: random.Random) -> tuple[str, bytes]:
    """A good body with a few things wrong, or right."""
    path = rng.choice(PATHS)
    body: dict[str, Any] = {"max_tokens": 3, "n": 2, "seed": 1, "stream": rng.random() < 0.3}
    if path == PATHS[0]:
        body |= {"prompt": "the fox", "logprobs": 2, "echo": True}
    else:
        body |= {"messages": [{"role": "user", "content": "the fox"}], "logprobs": True, "top_logprobs": 2}
    for name in rng.sample(sorted(GOOD), rng.randrange(len(GOOD))):
        body[name] = rng.choice(GOOD[name])
    for _ in range(rng.choice((0, 0, 1, 1, 2, 3))):
        body[rng.choice(FIELDS)] = copy.deepcopy(rng.choice(VALUES))
    if path == PATHS[1] and rng.random() < 0.2 and isinstance(body["messages"], list):
        body["messages"].append(rng.choice(VALUES))
    data = json.dumps(body, ensure_ascii=rng.random() < 0.5).encode("utf-8", "surrogatepass")
    if rng.random() < 0.2:
        at = rng.randrange(len(data))
        data = data[:at] + bytes((rng.randrange(256),)) + data[at + 1 :]
    if rng.random() < 0.1:
        data = data[: rng.randrange(len(data))]
    return path, data


if __name__ == "__main__":
    main()
