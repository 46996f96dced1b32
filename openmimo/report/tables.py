"""The page's tables, as cells ready to print."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from openmimo.report.contents import CHECKPOINTS, STAGES, Contents
from openmimo.report.figures import duration, percent, points, short
from openmimo.report.panels import KINDS, NAMES

Cell = str | Markup

TIMES = {
    "rollout_s": "rollout",
    "train_s": "update",
    "weights_s": "weights to the engine",
    "validate_s": "validation",
    "checkpoint_s": "checkpoints",
}
"""RL's laps, which add up; what rollouts wait for is told apart below."""
PARTS = {
    "generate_s": "rollout: generating",
    "wait_for_judge_s": "rollout: waiting for judges",
    "pack_s": "update: packing",
    "old_logprobs_s": "update: old log-probabilities",
    "update_s": "update: gradients",
}
"""Parts of these laps; those of streamed updates run beside the rollout."""


@dataclass(frozen=True)
class Table:
    """Rows of cells; the first column names the row."""

    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    caption: str = ""


@dataclass(frozen=True)
class Dropped:
    """Documents that a pipeline stage dropped for one reason, some to look at."""

    stage: str
    reason: str
    count: int
    samples: Sequence[Mapping[str, Any]]


def accuracy(summary: Mapping[str, Any]) -> Table | None:
    """Held-out accuracy of base, SFT and RL with intervals; the closing table."""
    found = summary.get("accuracy") or {}
    kinds = [(kind, title) for kind, title, _ in KINDS if any(kind in row for row in found.values())]
    if not kinds:
        return None
    rows = [
        [NAMES.get(name, name), *(estimate(found[name].get(kind)) for kind, _ in kinds)]
        for name in CHECKPOINTS
        if name in found
    ]
    counts = ", ".join(f"{_n(found, kind)} {title}" for kind, title in kinds)
    return Table(
        ["checkpoint", *(title for _, title in kinds)],
        rows,
        f"Mean over problems ({counts}) and samples; Wilson's 95 % interval over problems.",
    )


def estimate(row: Mapping[str, float] | None) -> Cell:
    """Figure and interval."""
    if row is None:
        return "–"
    return Markup('<span class="figure">{}</span> <span class="range">{} to {}</span>').format(
        percent(row["mean"]), percent(row["low"]), percent(row["high"])
    )


def gains(summary: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """(name, figure, interval or note) of what the run gained: RL over SFT, acceptance."""
    found = []
    gain = summary.get("gain") or {}
    if row := gain.get("rl_over_sft"):
        found.append(("RL over SFT, points", points(row["mean"]), _range(row)))
    if row := gain.get("rl_over_sft_best"):
        at = gain.get("sft_best_temperature")
        where = f"RL over SFT at its best temperature ({at:g})" if at is not None else "RL over SFT at its best"
        found.append((where, points(row["mean"]), _range(row)))
    for layer, share in (summary.get("acceptance") or {}).items():
        found.append((f"Drafts of MTP layer {layer} accepted", percent(share), "greedy, held-out problems"))
    return found


def stage_times(contents: Contents) -> list[tuple[str, float]]:
    """(stage, seconds) of the finished stages."""
    timing = {name: row.get("timing", {}) for name, row in contents.state.items()}
    timing = {**contents.summary.get("timing", {}), **timing}
    return [(name, timing[name]["seconds"]) for name in STAGES if "seconds" in timing.get(name, {})]


def progress(contents: Contents) -> list[tuple[str, str, str]]:
    """(stage, class, words): where the run stands."""
    found = []
    for name in STAGES:
        rows = contents.metrics.get(name)
        if name in contents.state or (name == "eval" and contents.summary):
            found.append((name, "done", "done"))
        elif rows:
            found.append((name, "begun", _how_far(name, rows[-1], contents.run.get("config", {}))))
        else:
            found.append((name, "open", "not begun" if name != "data" else "under way or not begun"))
    return found


def evaluations(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> Table | None:
    """Every evaluation: one row a checkpoint and temperature."""
    rows = []
    for name, evaluated in found.items():
        for row in evaluated:
            lost = {k: v for k, v in row.get("statuses", {}).items() if k != "accepted"}
            rows.append(
                [
                    NAMES.get(name, name),
                    f"{row['temperature']:g}",
                    str(row["samples"]),
                    *(percent(row["accuracy"].get(kind, {}).get("mean")) for kind, _, _ in KINDS),
                    short(row.get("mean_length")),
                    percent(row.get("truncated")),
                    ", ".join(f"{k.replace('_', ' ')} {v}" for k, v in lost.items()) or "none",
                ]
            )
    head = ["checkpoint", "temperature", "samples", "maths", "code", "mean tokens", "cut at limit", "not accepted"]
    return Table(head, rows) if rows else None


def families(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> Table | None:
    """Accuracy by problem family at the main temperature."""
    first = {name: rows[0].get("families", {}) for name, rows in found.items() if rows}
    names = sorted({family for row in first.values() for family in row})
    if not names:
        return None
    rows = [[family, *(percent(row.get(family)) for row in first.values())] for family in names]
    return Table(["family", *(NAMES.get(name, name) for name in first)], rows)


def funnel(stages: Sequence[Mapping[str, Any]]) -> Table | None:
    """Documents in, kept and dropped by reason, stage by stage."""
    if not stages:
        return None
    most = max(stage["rows_in"] for stage in stages) or 1
    rows: list[list[Cell]] = [
        [
            stage["name"],
            f"{stage['rows_in']:,}",
            f"{stage['kept']:,}",
            _bar(stage["kept"] / most),
            ", ".join(f"{reason}: {count:,}" for reason, count in stage["dropped"].items()) or "–",
        ]
        for stage in stages
    ]
    return Table(["stage", "in", "kept", "", "dropped"], rows)


def dropped(stages: Sequence[Mapping[str, Any]], most: int = 5) -> list[Dropped]:
    """A few dropped documents by stage and reason."""
    return [
        Dropped(stage["name"], reason, count, list(stage.get("samples", {}).get(reason, ()))[:most])
        for stage in stages
        for reason, count in stage["dropped"].items()
    ]


def sources(contents: Contents) -> Table | None:
    """Tokens by source, and how often pre-training read them."""
    tokens = contents.state.get("data", {}).get("tokens") or {}
    epochs = contents.state.get("pretrain", {}).get("epochs") or {}
    if not tokens:
        return None
    rows = [[name, short(count), f"{epochs[name]:.2f}" if name in epochs else "–"] for name, count in tokens.items()]
    return Table(["source", "tokens", "epochs read"], rows)


def kept(contents: Contents) -> Table | None:
    """What was left of documents, conversations and problems before each training stage."""
    state = contents.state
    rows: list[list[Cell]] = []
    if {"documents", "sampled_down"} <= state.get("data", {}).keys():
        left, out = state["data"]["documents"], state["data"]["sampled_down"]
        rows.append(["documents, sampled by quality", f"{left + out:,}", f"{left:,}", f"sampled out: {out:,}"])
    for name, counts in (
        ("SFT conversations", state.get("sft", {}).get("prepared")),
        ("RL problems", state.get("rl", {}).get("problems")),
    ):
        if counts and {"in", "kept"} <= counts.keys():
            reasons = [f"{key}: {n:,}" for key, n in counts.items() if key not in ("in", "kept")]
            rows.append([name, f"{counts['in']:,}", f"{counts['kept']:,}", ", ".join(reasons) or "–"])
    return Table(["", "in", "kept", "dropped"], rows) if rows else None


def rl_time(rows: Sequence[Mapping[str, Any]]) -> Table | None:
    """Where RL's seconds went, and what its rollouts cost beyond the batch."""
    timing = [row.get("timing", {}) for row in rows]
    sums: dict[str, float] = defaultdict(float)
    for row in timing:
        for key, value in row.items():
            sums[key] += value
    total = sum(sums[key] for key in TIMES)
    if not total:
        return None
    found: list[list[Cell]] = [
        [name, duration(sums[key]), percent(sums[key] / total)] for key, name in TIMES.items() if key in sums
    ]
    for key, name in PARTS.items():
        if key in sums:
            found.append([name, duration(sums[key]), percent(sums[key] / total)])
    launched = sums.get("launched_groups", 0.0)
    note = (
        f"{launched:.0f} groups launched, {sums.get('aborted_groups', 0.0):.0f} aborted; engine slots without useful "
        f"work {percent(sums.get('idle', 0.0) / len(rows))} of the rollout, valid groups beyond the batch "
        f"{percent(sums.get('waste', 0.0) / len(rows))} of it, means over steps."
        if launched
        else ""
    )
    return Table(["", "time", "share"], found, note)


def _how_far(stage: str, row: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    step = row["step"] + 1
    if stage == "rl" and config.get("rl", {}).get("steps"):
        return f"step {step} of {config['rl']['steps']}"
    if stage == "pretrain" and (stages := config.get("pretrain", {}).get("stages")):
        return f"{short(row['tokens'])} of {short(stages[-1].get('until_tokens'))} tokens"
    return f"step {step}"


def _n(found: Mapping[str, Any], kind: str) -> int:
    return max(int(row[kind]["n"]) for row in found.values() if kind in row)


def _range(row: Mapping[str, float]) -> str:
    return f"95 % paired interval {points(row['low'])} to {points(row['high'])}, {row['n']:.0f} problems"


def _bar(share: float) -> Markup:
    return Markup('<meter value="{:.3f}"></meter>').format(share)
