"""Which curves the page shows, from the rows of metrics.jsonl and the evaluations of summary.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle, pairwise
from typing import Any

from openmimo.report.curves import Chart, Color, Point, Series

Rows = Sequence[Mapping[str, Any]]

NAMES = {"base": "base", "sft": "SFT", "rl": "RL"}
KINDS: tuple[tuple[str, str, Color], ...] = (("math", "maths", "math"), ("code", "code", "code"))
COLORS_IN_TURN: tuple[Color, ...] = ("first", "second", "math", "code", "base")
COLORS: Mapping[str, Color] = {"base": "base", "sft": "sft", "rl": "rl"}


def pretraining(rows: Rows) -> list[Chart]:
    """Loss, schedule and gradient over tokens, with the borders of the three stages (MiMo 2.3)."""
    borders = stage_borders(rows)

    def over_tokens(title: str, *series: Series, from_zero: bool = False) -> Chart:
        return Chart(title, "tokens", series, from_zero=from_zero, borders=borders)

    return [
        over_tokens("Loss, nats a token", *_losses(rows, "tokens")),
        *(over_tokens(title, *series) for title, series in _by_source(rows)),
        over_tokens("Learning rate", line(rows, "learning_rate", "tokens"), from_zero=True),
        over_tokens("Batch, sequences", line(rows, "batch_sequences", "tokens"), from_zero=True),
        over_tokens("Gradient norm before clipping", line(rows, "grad_norm", "tokens"), from_zero=True),
    ]


def _by_source(rows: Rows) -> list[tuple[str, list[Series]]]:
    """A line a source: its loss in training, and the perplexity of what is never trained on."""
    found = []
    for title, prefix in (("Loss by source, nats a token", "ce/"), ("Held-out perplexity by source", "perplexity/")):
        keys = sorted({key for row in rows for key in row if key.startswith(prefix)})
        pairs = zip(keys, cycle(COLORS_IN_TURN), strict=False)
        series = [line(rows, key, "tokens", key.removeprefix(prefix), color) for key, color in pairs]
        if series:
            found.append((title, series))
    return found


def finetuning(rows: Rows) -> list[Chart]:
    """SFT's loss and learning rate (MiMo 3.1)."""
    return [
        Chart("Loss, nats a target", "step", _losses(rows, "step")),
        Chart("Learning rate", "step", [line(rows, "learning_rate", "step")], from_zero=True),
    ]


def drafting(rows: Rows) -> list[Chart]:
    """Loss of the MTP layers that are tuned for drafting (MiMo 2.2)."""
    layers = sorted({key for row in rows for key in row if key.startswith("mtp_")})
    series = [
        line(rows, key, "step", f"MTP layer {key.removeprefix('mtp_')}", color)
        for key, color in zip(layers, COLORS_IN_TURN, strict=False)
    ]
    return [Chart("Loss, nats a target", "step", series)]


def reinforcement(rows: Rows) -> list[Chart]:
    """What RL's judged prefixes showed, step by step (MiMo 3.3)."""

    def one(title: str, key: str, unit: Any = "") -> Chart:
        return Chart(title, "step", [line(rows, key, "step")], unit, from_zero=True)

    def by_kind(title: str, prefix: str) -> Chart:
        return Chart(title, "step", [line(rows, prefix + kind, "step", name, c) for kind, name, c in KINDS], "%")

    timed = [{**row, **row.get("timing", {})} for row in rows]
    families = sorted({key for row in rows for key in row if key.startswith("accepted/")})
    return [
        one("Mean reward, points", "reward"),
        by_kind("Accepted share", "accepted_"),
        Chart(
            "Accepted share by family",
            "step",
            [
                line(rows, key, "step", key.removeprefix("accepted/"), color)
                for key, color in zip(families, cycle(COLORS_IN_TURN), strict=False)
            ],
            "%",
        ),
        by_kind("Validation accuracy", "validation_"),
        one("Entropy, nats a token", "entropy"),
        Chart(
            "Length, tokens",
            "step",
            [
                line(rows, "length_accepted", "step", "accepted", "first"),
                line(rows, "length_rejected", "step", "rejected", "second"),
            ],
            from_zero=True,
        ),
        one("Cut at the length limit", "truncated", "%"),
        one("Valid groups: they carry a gradient", "valid_share", "%"),
        one("Problems in the easy pool", "easy_pool"),
        Chart(
            "KL, nats a token",
            "step",
            [
                line(rows, "engine_kl", "step", "engine to trainer", "first"),
                line(rows, "kl", "step", "before to after the updates", "second"),
            ],
            from_zero=True,
        ),
        Chart(
            "Odd responses",
            "step",
            [
                line(rows, "mixed_language", "step", "mixed languages", "first"),
                line(rows, "time_limit", "step", "out of time in the judge", "second"),
            ],
            "%",
        ),
        Chart(
            "Idle slots and waste",
            "step",
            [
                line(timed, "idle", "step", "slots without useful work", "first"),
                line(timed, "waste", "step", "valid groups beyond the batch", "second"),
            ],
            "%",
        ),
        Chart(
            "Clipped tokens",
            "step",
            [
                line(rows, "clip_low", "step", "below", "first"),
                line(rows, "clip_high", "step", "above", "second"),
            ],
            "%",
        ),
    ]


def accuracies(found: Mapping[str, Mapping[str, Mapping[str, float]]]) -> list[Chart]:
    """Held-out accuracy with intervals: a chart a kind, the checkpoints beside each other."""
    names = list(found)
    charts = []
    for kind, title, _ in KINDS:
        series = [
            Series(
                NAMES.get(name, name),
                [(float(names.index(name)), row[kind]["mean"])],
                COLORS.get(name, "first"),
                [_interval(row[kind])],
            )
            for name, row in found.items()
            if kind in row
        ]
        charts.append(
            Chart(
                f"{title.capitalize()}, held out",
                "",
                series,
                "%",
                x_at=[float(n) for n in range(len(names))],
                x_names=[NAMES.get(name, name) for name in names],
            )
        )
    return charts


def temperatures(evaluations: Mapping[str, Rows]) -> list[Chart]:
    """Accuracy of SFT and RL at each temperature, a chart a kind."""
    swept = {
        name: sorted(rows, key=lambda row: row["temperature"]) for name, rows in evaluations.items() if len(rows) > 1
    }
    at = sorted({row["temperature"] for rows in swept.values() for row in rows})
    return [
        Chart(
            f"{title.capitalize()} by temperature",
            "temperature",
            [
                Series(
                    NAMES.get(name, name),
                    [(row["temperature"], row["accuracy"][kind]["mean"]) for row in rows if kind in row["accuracy"]],
                    COLORS.get(name, "first"),
                    [_interval(row["accuracy"][kind]) for row in rows if kind in row["accuracy"]],
                )
                for name, rows in swept.items()
            ],
            "%",
            x_at=at,
        )
        for kind, title, _ in KINDS
    ]


def pass_at_k(evaluations: Mapping[str, Rows]) -> list[Chart]:
    """pass@k of each checkpoint at the main temperature, the first evaluation's (MiMo 2.4)."""
    charts = []
    for kind, title, _ in KINDS:
        found = {name: rows[0].get("pass_at_k", {}).get(kind, {}) for name, rows in evaluations.items() if rows}
        series = [
            Series(NAMES.get(name, name), [(float(k), v) for k, v in by_k.items()], COLORS.get(name, "first"))
            for name, by_k in found.items()
        ]
        charts.append(Chart(f"{title.capitalize()}, pass@k", "k", series, "%", x_at=_places(series)))
    return charts


def line(rows: Rows, key: str, x: str, name: str = "", color: Color = "first", *, dashed: bool = False) -> Series:
    """A metric's line; rows without it are left out."""
    found: list[Point] = [(float(row[x]), float(row[key])) for row in rows if isinstance(row.get(key), (int, float))]
    return Series(name or key, found, color, dashed=dashed)


def stage_borders(rows: Rows) -> list[tuple[float, str]]:
    """(tokens, label) where a pre-training stage took over from the one before."""
    return [
        (float(before["tokens"]), f"stage {row['train_stage']}")
        for before, row in pairwise(rows)
        if row.get("train_stage") not in (None, before.get("train_stage"))
    ]


def _losses(rows: Rows, x: str) -> list[Series]:
    return [
        line(rows, "ce", x, "next token", "first"),
        line(rows, "mtp", x, "MTP", "second"),
    ]


def _interval(estimate: Mapping[str, float]) -> Point:
    return estimate["low"], estimate["high"]


def _places(series: Sequence[Series]) -> list[float]:
    return sorted({x for s in series for x, _ in s.points})
