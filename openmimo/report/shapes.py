"""What the page needs of each row it reads, and what a row lacks.

More keys than these may stand in a row; the page shows what it knows.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NotRequired

from pydantic import TypeAdapter, ValidationError
from typing_extensions import TypedDict


class Timing(TypedDict):
    seconds: NotRequired[float]


class Metric(TypedDict):
    """A line of metrics.jsonl."""

    stage: str
    step: int
    tokens: int
    timing: NotRequired[dict[str, float]]


class SampleProblem(TypedDict):
    id: str
    kind: str
    prompt: str
    answer: NotRequired[str]
    tests: NotRequired[list[Any]]


class SampleResponse(TypedDict):
    text: str
    status: str
    reward: NotRequired[float | None]


class Sample(TypedDict):
    """A line of samples/*.jsonl."""

    problem: SampleProblem
    responses: list[SampleResponse]


class Dropped(TypedDict):
    id: NotRequired[str]
    url: NotRequired[str]
    detail: NotRequired[str]
    text: NotRequired[str]


class Stage(TypedDict):
    """A stage of funnel.json."""

    name: str
    rows_in: float
    kept: float
    dropped: dict[str, float]
    samples: NotRequired[dict[str, list[Dropped]]]


class Funnel(TypedDict):
    """funnel.json."""

    stages: NotRequired[list[Stage]]


class Estimate(TypedDict):
    mean: float
    low: float
    high: float
    n: float


class Evaluation(TypedDict):
    """One checkpoint at one temperature."""

    temperature: float
    samples: int
    accuracy: dict[str, Estimate]
    pass_at_k: NotRequired[dict[str, dict[str, float]]]
    families: NotRequired[dict[str, float]]
    statuses: NotRequired[dict[str, float]]
    mean_length: NotRequired[float | None]
    truncated: NotRequired[float | None]


class Gain(TypedDict):
    rl_over_sft: NotRequired[Estimate]
    rl_over_sft_best: NotRequired[Estimate]
    sft_best_temperature: NotRequired[float]


class Summary(TypedDict):
    """summary.json."""

    accuracy: NotRequired[dict[str, dict[str, Estimate]]]
    acceptance: NotRequired[dict[str, float]]
    gain: NotRequired[Gain]
    evaluations: NotRequired[dict[str, list[Evaluation]]]
    timing: NotRequired[dict[str, Timing]]


class Left(TypedDict):
    timing: NotRequired[Timing]


class DataLeft(Left):
    documents: NotRequired[float]
    sampled_down: NotRequired[float]
    tokens: NotRequired[dict[str, float]]


class PretrainLeft(Left):
    epochs: NotRequired[dict[str, float]]


class SftLeft(Left):
    prepared: NotRequired[dict[str, float]]


class RlLeft(Left):
    problems: NotRequired[dict[str, float]]


class State(TypedDict):
    """state.json: what each finished stage left behind."""

    data: NotRequired[DataLeft]
    pretrain: NotRequired[PretrainLeft]
    sft: NotRequired[SftLeft]
    rl: NotRequired[RlLeft]
    eval: NotRequired[Left]


class PretrainStage(TypedDict):
    until_tokens: NotRequired[float]


class PretrainConfig(TypedDict):
    stages: NotRequired[list[PretrainStage]]


class RlConfig(TypedDict):
    steps: NotRequired[int]


class RunConfig(TypedDict):
    pretrain: NotRequired[PretrainConfig]
    rl: NotRequired[RlConfig]


class RunFile(TypedDict):
    """run.json."""

    recipe: NotRequired[str]
    seed: NotRequired[int]
    config: NotRequired[RunConfig]


def fault(value: Any, shape: Any) -> str:
    """What keeps `value` from being of `shape`, in a few words; empty if nothing does."""
    try:
        _checker(shape).validate_python(value, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"])) or "it"
        if first["type"] == "missing":
            return f"lacks {place}"
        message = first["msg"].removeprefix("Input should be ").replace("dictionary", "object")
        return f"has {str(first['input'])[:40]!r} for {place}, expected {message}"
    return ""


@cache
def _checker(shape: Any) -> TypeAdapter[Any]:
    return TypeAdapter(shape)
