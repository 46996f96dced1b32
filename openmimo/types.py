"""The six nouns of the system. Frozen, and standard library only: a judge box needs no torch.

Arrays in a Batch are numpy on their way in and torch tensors once `train.step` has moved them to a device.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Kind = Literal["math", "code"]

Status = Literal[
    "accepted",
    "wrong_answer",
    "no_answer",
    "time_limit",
    "memory_limit",
    "output_limit",
    "runtime_error",
    "compile_error",
    "internal_error",
]
"""What a judge may say of a test or a solution. `no_answer`: a maths response without a box. `internal_error` is the
judge's own fault, never a 0."""

CheckerName = Literal["tokens", "exact", "floats", "unordered_lines", "special"]

FinishReason = Literal["stop", "length", "abort"]


@dataclass(frozen=True, slots=True)
class Document:
    """One page of text (MiMo 2.1)."""

    id: str
    url: str
    text: str
    source: str
    """Where it came from: the mixture's stratum, e.g. `web`, `problems`."""
    title: str = ""
    language: str = ""
    tags: Mapping[str, Any] = field(default_factory=dict)
    """Tagger scores (float, 0 to 1) and labels (str), licence, robots, ..."""


@dataclass(frozen=True, slots=True)
class UnitTest:
    """One test of a code problem."""

    input: str
    """Standard input; for a problem with an entry point, the JSON list of its arguments."""
    expected: str
    """Standard output; for a problem with an entry point, the JSON of the value returned."""
    level: int | None = None
    """Difficulty level, 0 is easiest (MiMo 3.3.1); None until rollouts have measured it."""
    assertion: str = ""
    """Python source that runs after the solution in its process, as HumanEval and MBPP ship tests; passed if it ends
    without an exception. `input` and `expected` are then empty. Weaker: the program could look for the expected value.
    """


@dataclass(frozen=True, slots=True)
class Problem:
    """A problem whose answer a rule can verify (MiMo 3.2)."""

    id: str
    prompt: str
    kind: Kind
    answer: str = ""
    """Gold answer of a maths problem, bare (the judge wraps it); empty for code."""
    tests: tuple[UnitTest, ...] = ()
    entry_point: str = ""
    """Name of the function a code problem asks for; empty means a program over stdin and stdout."""
    family: str = ""
    solution: str = ""
    """A golden solution, where there is one."""
    language: str = "python"
    """Of the solutions of a code problem: a name in `judge/languages`."""
    checker: CheckerName = "tokens"
    """How standard output is compared; `judge/checkers.py`. Functions and asserts need none."""
    tolerance: float = 1e-6
    """Absolute or relative, whichever is met; for the checker `floats` alone."""
    special_judge: str = ""
    """Python source of `check(input, output, expected) -> bool`, for the checker `special`."""
    limits: Mapping[str, float] = field(default_factory=dict, hash=False)
    """cpu_s, wall_s, memory_bytes, output_bytes of a test, where they differ from the judge's own."""
    profile: str = ""
    """`base` or `numpy`: what is imported before a program starts; empty: `numpy` if the program imports it."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to sample one response. A request's tokens are a function of (weights, prompt, sampling) alone."""

    max_new_tokens: int
    temperature: float = 1.0
    """0 is greedy."""
    top_p: float = 1.0
    top_k: int = 0
    """0 is off."""
    min_p: float = 0.0
    """Ids less likely than min_p times the likeliest are never drawn; 0 is off."""
    seed: int | None = 0
    """None: the engine draws one, so the response is not reproducible, and drafts may be verified by rejection
    sampling, which accepts more."""
    stop_token_ids: tuple[int, ...] = ()
    stop: tuple[str, ...] = ()
    """Texts that end the response once it contains one; the engine needs `decode`. The token that completes the text
    is the last one of the rollout."""
    top_logprobs: int = 0
    """Likeliest ids kept for every position, with their log-probabilities under the raw model."""
    prompt_logprobs: bool = False
    """Whether the rollout carries the prompt's log-probabilities too."""
    draft_logprobs: bool = False
    """Whether it also carries what the MTP layers give the prompt's tokens; with prompt_logprobs."""


@dataclass(frozen=True, slots=True)
class Rollout:
    """One sampled response."""

    problem_id: str
    prompt_ids: tuple[int, ...]
    token_ids: tuple[int, ...]
    """The response, stop token included."""
    logprobs: tuple[float, ...]
    """Log-probability of every token in token_ids under the sampling distribution, in nats."""
    policy_version: int
    finish_reason: FinishReason
    raw_logprobs: tuple[float, ...] = ()
    """The same under the raw model: temperature 1, nothing cut off."""
    top_logprobs: tuple[tuple[tuple[int, float], ...], ...] = ()
    """For every token in token_ids the likeliest (id, log-probability) under the raw model, likeliest first; only if
    `Sampling.top_logprobs` asks."""
    prompt_logprobs: tuple[float | None, ...] = ()
    """Log-probability of every prompt token under the raw model, None for the first; only if asked for."""
    prompt_top_logprobs: tuple[tuple[tuple[int, float], ...], ...] = ()
    """As top_logprobs, for the prompt's tokens, () for the first; if both are asked for."""
    prompt_draft_logprobs: tuple[tuple[float | None, ...], ...] = ()
    """For MTP layer k = 1, 2, ... the log-probability that it gives every prompt token, None for the first k + 1; only
    if asked for."""


@dataclass(frozen=True, slots=True)
class TestResult:
    """What happened to one test."""

    __test__ = False  # a noun, not a test class

    status: Status
    cpu_s: float = 0.0
    wall_s: float = 0.0
    peak_bytes: int = 0
    output: str = ""
    """A bounded sample of what the program printed."""
    inferred: bool = False
    """Not run: `time_limit` concluded from those before it. Left out of difficulty statistics."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the judge found: facts only, never points."""

    status: Status
    """The first test's status that is not accepted, in test order; `internal_error` anywhere wins."""
    tests: tuple[TestResult, ...] = ()
    detail: str = ""
    isolation: str = ""
    """Level of isolation that a program ran under: `judge/sandbox/levels.py`; empty where none ran."""


@dataclass(frozen=True, slots=True)
class Group:
    """A problem with its G rollouts and their verdicts (MiMo 3.3)."""

    problem: Problem
    rollouts: tuple[Rollout, ...]
    verdicts: tuple[Verdict, ...]
    launch: int = 0
    """Launch number within the step, from 0: the order that early termination respects."""
    stratum: str = "main"
    """`main`, or `easy` when drawn from the easy pool (MiMo 3.3.2)."""
    rewards: tuple[float, ...] = ()
    """Points, 0 to 1, one a rollout; empty until RL has scored them."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Packed rows: everything trainable is one (R = rows, T = row length).

    A weight, advantage or log-probability at [r, t] speaks of token t as the TARGET that is predicted from
    position t - 1, so the first token of a document always has weight 0.
    """

    token_ids: Any
    """(R, T) int64; padding is 0."""
    positions: Any
    """(R, T) int64, counted from 0 in every document."""
    document_ids: Any
    """(R, T) int64, from 0 in every row; -1 is padding. Attention and MTP never cross a border."""
    loss_weights: Any
    """(R, T) float32."""
    advantages: Any = None
    """(R, T) float32, RL only."""
    old_logprobs: Any = None
    """(R, T) float32, RL only: the trainer's, under the weights that made the rollouts (decision 0019)."""
    sequence_ids: Any = None
    """(R, T) int64, RL only: group number in the batch, -1 outside; for the `group` normalisation of Eq. 1."""
    sources: Any = None
    """(R,) int64, where each row comes from: a number in `Mixture.names`; pre-training only."""


@dataclass(frozen=True, slots=True)
class Request:
    """One response to generate: what an engine takes."""

    prompt_ids: tuple[int, ...]
    sampling: Sampling
    problem_id: str = ""
