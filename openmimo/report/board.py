"""The board: several runs side by side, in the order they were named."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from openmimo.checkpoint import write_text
from openmimo.report import panels, tables
from openmimo.report.contents import CHECKPOINTS, Contents, read_contents
from openmimo.report.curves import RUN_COLORS, Chart, Series, drawn
from openmimo.report.figures import duration
from openmimo.report.html import fill
from openmimo.report.panels import KINDS, NAMES
from openmimo.report.tables import Table

CURVES = (
    ("pretrain", "tokens", "ce", "Pre-training loss, nats a token", ""),
    ("sft", "step", "ce", "SFT loss, nats a target", ""),
    ("rl", "step", "reward", "RL: mean reward, points", ""),
    ("rl", "step", "validation_math", "RL: validation, maths", "%"),
    ("rl", "step", "validation_code", "RL: validation, code", "%"),
    ("rl", "step", "entropy", "RL: entropy, nats a token", ""),
)
"""(stage, x, metric, title, unit): a chart each, a line a run."""


def board(folders: Sequence[Path], out: Path) -> Path:
    """Write the page that compares runs; its path.

    Raises:
        ValueError: for a folder that holds no run, or is named twice.
    """
    places = sorted(folder.resolve() for folder in folders)
    for before, after in pairwise(places):
        if before == after:
            raise ValueError(f"{after} is named twice; a board shows each run once")
    runs = dict(zip(labels(folders), map(read_contents, folders), strict=True))
    accuracy = {name: run.summary.get("accuracy") or {} for name, run in runs.items()}
    page = fill(
        "board.html.jinja",
        name=f"{len(runs)} run" + "s" * (len(runs) != 1),
        runs=overview(runs),
        differences=differences(runs),
        accuracy=accuracies(accuracy),
        accuracies=drawn(side_by_side(accuracy)),
        curves=drawn(overlaid(runs)),
        left_out=[f"{name}: {words}" for name, run in runs.items() for words in run.left_out],
    )
    write_text(out, page)
    return out


def labels(folders: Sequence[Path]) -> list[str]:
    """The shortest ends of the paths that tell the runs apart."""
    parts = [folder.resolve().parts for folder in folders]
    for length in range(1, max(map(len, parts)) + 1):
        found = ["/".join(p[-length:]) for p in parts]
        if len(set(found)) == len(found):
            return found
    return [str(folder) for folder in folders]


def overview(runs: Mapping[str, Contents]) -> Table:
    """What each run is, how far it came and how long it took."""
    rows = []
    for name, run in runs.items():
        done = [stage for stage, state, _ in tables.progress(run) if state == "done"]
        spent = sum(seconds for _, seconds in tables.stage_times(run))
        recipe = run.run.get("recipe") or run.summary.get("recipe") or "unknown"
        seed = run.run.get("seed", run.summary.get("seed", "unknown"))
        gain = next(iter(tables.gains(run.summary)), ("", "–", ""))
        over_sft = gain[1] if gain[0].startswith("RL over SFT") else "–"
        rows.append([name, recipe, str(seed), ", ".join(done) or "none", duration(spent) if spent else "–", over_sft])
    return Table(["run", "recipe", "seed", "finished stages", "time", "RL over SFT, points"], rows)


def differences(runs: Mapping[str, Contents]) -> Table | None:
    """The values of the recipes that are not the same in all runs."""
    values = {name: dict(_flat(run.run.get("config") or {})) for name, run in runs.items()}
    keys = sorted({key for found in values.values() for key in found})
    rows = [[key, *(str(found.get(key, "–")) for found in values.values())] for key in keys]
    rows = [row for row in rows if len(set(row[1:])) > 1]
    return Table(["value", *runs], rows) if rows else None


def accuracies(found: Mapping[str, Mapping[str, Any]]) -> Table | None:
    """Held-out accuracy with intervals: a row a checkpoint and run."""
    kinds = [
        (kind, title) for kind, title, _ in KINDS if any(kind in r for run in found.values() for r in run.values())
    ]
    rows = [
        [NAMES[checkpoint], name, *(tables.estimate(run[checkpoint].get(kind)) for kind, _ in kinds)]
        for checkpoint in CHECKPOINTS
        for name, run in found.items()
        if checkpoint in run
    ]
    note = "Mean over problems and samples; Wilson's 95 % interval over problems, not paired between runs."
    return Table(["checkpoint", "run", *(title for _, title in kinds)], rows, note) if kinds else None


def side_by_side(found: Mapping[str, Mapping[str, Any]]) -> list[Chart]:
    """Held-out accuracy with intervals: a chart a kind, the runs beside each other at each checkpoint."""
    charts = []
    for kind, title, _ in KINDS:
        series = []
        for number, (name, run) in enumerate(found.items()):
            measured = [(n, run[c][kind]) for n, c in enumerate(CHECKPOINTS) if kind in run.get(c, {})]
            series.append(
                Series(
                    name,
                    [(float(n), estimate["mean"]) for n, estimate in measured],
                    _color(number),
                    [(estimate["low"], estimate["high"]) for _, estimate in measured],
                )
            )
        x_names = [NAMES[c] for c in CHECKPOINTS]
        charts.append(Chart(f"{title.capitalize()}, held out", "", series, "%", x_at=(0.0, 1.0, 2.0), x_names=x_names))
    return charts


def overlaid(runs: Mapping[str, Contents]) -> list[Chart]:
    """The curves of the runs over each other."""
    charts = []
    for stage, x, key, title, unit in CURVES:
        series = [
            panels.line(run.metrics.get(stage, ()), key, x, name, _color(number), dashed=number >= len(RUN_COLORS))
            for number, (name, run) in enumerate(runs.items())
        ]
        charts.append(Chart(title, x, series, unit, from_zero=stage == "rl"))  # type: ignore[arg-type]
    return charts


def _color(number: int) -> str:
    return RUN_COLORS[number % len(RUN_COLORS)]


def _flat(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(a.b, value) of nested mappings and lists."""
    if isinstance(config, Mapping):
        for key, value in config.items():
            yield from _flat(value, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(config, list) and any(isinstance(value, Mapping) for value in config):
        for number, value in enumerate(config):
            yield from _flat(value, f"{prefix}.{number}")
    else:
        yield prefix, config
