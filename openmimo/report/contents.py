"""What a run folder holds so far: every part may be missing, because a run can be looked at while it works."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openmimo.log import read_metrics
from openmimo.rows import read_rows

CHECKPOINTS = ("base", "sft", "rl")
STAGES = ("data", "pretrain", "sft", "rl", "eval")


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
    metrics: dict[str, list[Mapping[str, Any]]] = {}
    try:
        for row in read_metrics(folder):
            metrics.setdefault(row["stage"], []).append(row)
    except (ValueError, KeyError) as error:
        raise ValueError(f"{folder / 'metrics.jsonl'} is damaged: {error}") from error
    samples = {}
    for name in CHECKPOINTS:
        path = folder / "samples" / f"{name}.jsonl"
        if path.is_file():
            samples[name] = list(read_rows(path))
    return Contents(
        name=folder.resolve().name,
        run=_json(folder / "run.json"),
        state=_json(folder / "state.json"),
        summary=_json(folder / "summary.json"),
        metrics=metrics,
        funnel=_json(folder / "data" / "documents" / "funnel.json").get("stages", ()),
        samples=samples,
    )


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} is a {type(found).__name__}, expected an object")
    return found
