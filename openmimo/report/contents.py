"""What a run folder holds so far: every part may be missing, because a run can be looked at while it works."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openmimo.log import read_metrics
from openmimo.report import shapes
from openmimo.rows import read_rows

CHECKPOINTS = ("base", "sft", "rl")
STAGES = ("data", "pretrain", "sft", "draft", "rl", "eval")


@dataclass(frozen=True)
class Contents:
    """A run folder, read."""

    name: str
    run: Mapping[str, Any]
    """run.json: recipe, seed, config."""
    state: Mapping[str, Any]
    """state.json: finished stage -> what it left behind."""
    summary: Mapping[str, Any]
    """summary.json, once evaluated."""
    metrics: Mapping[str, Sequence[Mapping[str, Any]]]
    """Rows of metrics.jsonl by stage."""
    funnel: Sequence[Mapping[str, Any]]
    """Stages of the document pipeline."""
    samples: Mapping[str, Sequence[Mapping[str, Any]]]
    """Rows of samples/{base,sft,rl}.jsonl by checkpoint."""
    rl_samples: Mapping[int, Sequence[Mapping[str, Any]]]
    """Rows of samples/rl-STEP.jsonl by step: rollouts that RL learned from."""
    left_out: Sequence[str] = ()
    """Files with rows that lack what the page needs: how many, and what the first lacks."""


def read_contents(folder: Path) -> Contents:
    """Read a run folder.

    Raises:
        ValueError: for a folder that holds no run, or a file in it that is damaged.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is no run folder: it does not exist")
    if not any((folder / name).is_file() for name in ("run.json", "state.json", "summary.json", "metrics.jsonl")):
        raise ValueError(
            f"{folder} is no run folder: it has neither run.json nor metrics.jsonl; name one given as --out"
        )
    left_out: list[str] = []
    metrics: dict[str, list[Mapping[str, Any]]] = {}
    try:
        rows = read_metrics(folder)
    except ValueError as error:
        raise ValueError(f"{folder / 'metrics.jsonl'} is damaged: {error}") from error
    for row in _sound(rows, shapes.Metric, "metrics.jsonl", left_out):
        metrics.setdefault(row["stage"], []).append(row)
    samples = {}
    for name in CHECKPOINTS:
        path = folder / "samples" / f"{name}.jsonl"
        if path.is_file():
            samples[name] = _sound(read_rows(path), shapes.Sample, f"samples/{name}.jsonl", left_out)
    rl_samples = {
        int(path.stem.removeprefix("rl-")): _sound(read_rows(path), shapes.Sample, f"samples/{path.name}", left_out)
        for path in sorted((folder / "samples").glob("rl-*.jsonl"))
        if path.stem.removeprefix("rl-").isdigit()
    }
    return Contents(
        name=folder.resolve().name,
        run=_json(folder / "run.json", shapes.RunFile),
        state=_json(folder / "state.json", shapes.State),
        summary=_json(folder / "summary.json", shapes.Summary),
        metrics=metrics,
        funnel=_json(folder / "data" / "documents" / "funnel.json", shapes.Funnel).get("stages", ()),
        samples=samples,
        rl_samples=rl_samples,
        left_out=left_out,
    )


def _sound(rows: Iterable[Any], shape: Any, name: str, left_out: list[str]) -> list[Any]:
    """The rows of a shape; the others are counted in `left_out`."""
    judged = [(row, shapes.fault(row, shape)) for row in rows]
    faults = [fault for _, fault in judged if fault]
    if faults:
        left_out.append(f"{name}: {len(faults):,} of {len(judged):,} rows left out, the first {faults[0]}")
    return [row for row, fault in judged if not fault]


def _json(path: Path, shape: Any) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} is a {type(found).__name__}, expected an object")
    if fault := shapes.fault(found, shape):
        raise ValueError(f"{path} {fault}")
    return found
