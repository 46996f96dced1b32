"""`openmimo rollout-sim`: rollout methods side by side on a workload, for people and as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from openmimo.config import missing_file
from openmimo.rollout.compare import Row, compare
from openmimo.rollout.replay import RecordedStep, read_trace, recorded, replay
from openmimo.rollout.workload import Cluster, Groups, paper, workload_from


@dataclass(frozen=True)
class Simulated:
    """A workload and what every method makes of it."""

    workload: Cluster
    groups: Groups
    rows: list[Row]
    trace: list[RecordedStep]
    """Empty unless the workload is a recorded run."""


def simulate_file(name: str, seed: int) -> Simulated:
    """Compare all methods on `paper`, on parameters (.json) or on a recorded run (.jsonl).

    Raises:
        ValueError: for a missing or wrong file.
    """
    workload: Cluster
    groups: Groups
    trace: list[RecordedStep] = []
    if name.endswith(".jsonl"):
        trace = read_trace(Path(name))
        workload, groups = recorded(trace, seed)
    else:
        parameters = paper if name == "paper" else workload_from(_parameters(Path(name)))
        workload, groups = parameters, parameters.groups(seed)
    return Simulated(workload, groups, compare(workload, groups), trace)


def as_json(found: Simulated) -> dict[str, Any]:
    """Workload, groups in naive launch order as far as any method launched, rows."""
    launched = [max(row.launched[step] for row in found.rows) for step in range(found.workload.steps)]
    return {
        "workload": asdict(found.workload),
        "groups": [
            [
                {"valid": task.valid, "rollout_s": task.rollout_s, "reward_s": task.reward_s}
                for task in (found.groups.task(step, launch) for launch in range(end))
            ]
            for step, end in enumerate(launched)
        ],
        "rows": [{name: value for name, value in asdict(row).items() if name != "launched"} for row in found.rows],
    }


def show(found: Simulated) -> None:
    """Print a table for a person."""
    from rich.console import Console
    from rich.table import Table

    work = found.workload
    title = f"{work.steps} steps, {work.batch_groups} groups of {work.num_rollouts}, {work.num_workers} workers"
    table = Table(title=title)
    table.add_column("method", no_wrap=True)
    for header in ("overall", "rollout", "idle", "norm. idle", "waste", "tokens"):
        table.add_column(header, justify="right")
    for row in found.rows:
        table.add_row(
            row.method,
            f"{row.overall_speedup:.2f}x",
            f"{row.rollout_speedup:.2f}x",
            f"{row.idle_ratio:.1%}",
            f"{row.normalized_idle:.2f}",
            f"{row.waste:.1%}",
            f"{row.mean_length:,.0f}",
        )
    Console().print(table)
    if found.trace:
        print(_prediction(found.trace))


def _prediction(trace: Sequence[RecordedStep]) -> str:
    predicted_s, wall_s = sum(replay(trace)), sum(step.wall_s for step in trace)
    return (
        f"the recorded rollouts took {wall_s:.1f} s, replayed {predicted_s:.1f} s ({predicted_s / wall_s - 1.0:+.1%})"
    )


def _parameters(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise missing_file(path)
    try:
        row = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(row, dict):
        raise ValueError(f"{path} holds a {type(row).__name__}, expected an object of workload parameters")
    return row
