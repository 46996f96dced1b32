"""Curves as inline SVG: no library, no network, light and dark by the page's style sheet.

The figures that a pointer shows travel with each drawing as ready text, so the page's script only looks them up.
Left out: zooming; `tensorboard --logdir RUN/tensorboard` has it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from markupsafe import Markup

from openmimo.report.figures import percent, short

WIDTH, HEIGHT = 360, 200
"""Drawing units; about CSS pixels, so that text has its size on a phone too."""
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 16, 34
NUM_BUCKETS = 240
"""Points drawn a line; more are averaged, with their range as a band."""
NUM_DOTS = 40
"""Lines with no more points than this show each."""

Color = Literal["base", "sft", "rl", "math", "code", "first", "second"]
Point = tuple[float, float]


@dataclass(frozen=True)
class Series:
    """One line."""

    name: str
    points: Sequence[Point]
    """(x, y) by rising x; a y that is not finite breaks the line."""
    color: Color
    intervals: Sequence[Point] = ()
    """(low, high) of each point, drawn as bars; empty is none."""


@dataclass(frozen=True)
class Chart:
    """Lines over one x."""

    title: str
    x_label: str
    series: Sequence[Series]
    unit: Literal["", "%"] = ""
    """`%`: y is a share, 0 to 1, written in percent."""
    from_zero: bool = False
    x_at: Sequence[float] = ()
    """Where x is marked, equally spaced (temperatures, the k of pass@k); empty is a linear axis."""
    borders: Sequence[tuple[float, str]] = ()
    """(x, label) of upright lines."""


@dataclass(frozen=True)
class Bucket:
    """Neighbouring points drawn as one."""

    x: float
    mean: float
    low: float
    high: float


def draw(chart: Chart) -> Markup:
    """A chart as a <figure>; an empty string if no line has a finite point."""
    lines = [(s, [b for b in bucketed(s.points)]) for s in chart.series]
    lines = [(s, line) for s, line in lines if any(math.isfinite(b.mean) for b in line)]
    if not lines:
        return Markup("")
    x_of, x_marks = _x_axis(chart, [b.x for _, line in lines for b in line])
    y_of, y_marks = _y_axis(chart, lines)
    digits = max(0, math.ceil(-math.log10(100 * (y_marks[1] - y_marks[0])) - 1e-9))
    y_text = (lambda y: percent(y, digits)) if chart.unit == "%" else short
    x_text = (lambda x: f"{x:g}") if chart.x_at else short
    parts = [_grid(y_of, y_marks, y_text), _x_marks(x_of, x_marks, x_text, chart.x_label)]
    parts += [_border(x_of(x), label) for x, label in chart.borders]
    parts += [_line(series, line, x_of, y_of) for series, line in lines]
    legend = Markup("").join(
        Markup('<span class="key {}">{}</span>').format(s.color, s.name) for s, _ in lines if len(chart.series) > 1
    )
    if broken := max(sum(not math.isfinite(y) for _, y in s.points) for s, _ in lines):
        legend += Markup('<span class="broken">not finite at {}</span>').format(broken)
    drawing = Markup(
        '<svg viewBox="0 0 {} {}" role="img" aria-label="{}" data-points="{}">{}'
        '<line class="cursor" y1="{}" y2="{}"/></svg>'
    ).format(
        WIDTH,
        HEIGHT,
        f"{chart.title} over {chart.x_label}",
        _readout(chart, lines, x_of),
        Markup("").join(parts),
        TOP,
        HEIGHT - BOTTOM,
    )
    return Markup('<figure class="chart"><figcaption><b>{}</b>{}</figcaption>{}<output></output></figure>').format(
        chart.title, legend, drawing
    )


def bucketed(values: Sequence[Point], num_buckets: int = NUM_BUCKETS) -> list[Bucket]:
    """At most `num_buckets` means over equally many neighbours; points that are not finite stay gaps."""
    size = max(1, math.ceil(len(values) / num_buckets))
    found = []
    for start in range(0, len(values), size):
        part = values[start : start + size]
        ys = [y for _, y in part if math.isfinite(y)]
        x = math.fsum(x for x, _ in part) / len(part)
        if ys:
            found.append(Bucket(x, math.fsum(ys) / len(ys), min(ys), max(ys)))
        else:
            found.append(Bucket(x, math.nan, math.nan, math.nan))
    return found


def marks(low: float, high: float, *, about: int = 4, whole: bool = False) -> list[float]:
    """Round figures from at or below `low` to at or above `high`.

    They are 1, 2, 2.5 or 5 times a power of ten apart; `whole` allows whole numbers alone.
    """
    if not high > low:
        pad = abs(low) * 0.1 or 1.0
        low, high = low - pad, high + pad
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1.0, 2.0, 2.5, 5.0, 10.0) if m * power >= rough * 0.999)
    if whole:
        step = float(math.ceil(step))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [n * step for n in range(first, last + 1)]


def _x_axis(chart: Chart, xs: Sequence[float]) -> tuple[Callable[[float], float], list[float]]:
    inner = WIDTH - LEFT - RIGHT
    if chart.x_at:
        places = {x: LEFT + inner * (n + 0.5) / len(chart.x_at) for n, x in enumerate(chart.x_at)}
        return places.__getitem__, list(chart.x_at)
    low, high = min(xs), max(xs)
    if low == high:
        low, high = low - 0.5, high + 0.5
    return (lambda x: LEFT + inner * (x - low) / (high - low)), [
        m for m in marks(low, high, whole=all(x == int(x) for x in xs)) if low <= m <= high
    ]


def _y_axis(
    chart: Chart, lines: Sequence[tuple[Series, Sequence[Bucket]]]
) -> tuple[Callable[[float], float], list[float]]:
    ys = [y for _, line in lines for b in line for y in (b.low, b.high) if math.isfinite(y)]
    ys += [y for series, _ in lines for interval in series.intervals for y in interval]
    low, high = min(ys), max(ys)
    if chart.from_zero or chart.unit == "%":
        low = min(0.0, low)
        high = high if high > low else 1.0
    found = marks(low, high)
    bottom, top = found[0], found[-1]
    return (lambda y: HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (y - bottom) / (top - bottom)), found


def _grid(y_of: Callable[[float], float], at: Sequence[float], text: Callable[[float], str]) -> Markup:
    return Markup("").join(
        Markup(
            '<line class="grid" x1="{}" x2="{}" y1="{:.1f}" y2="{:.1f}"/><text class="y" x="{}" y="{:.1f}">{}</text>'
        ).format(LEFT, WIDTH - RIGHT, y_of(y), y_of(y), LEFT - 6, y_of(y) + 3.5, text(y))
        for y in at
    )


def _x_marks(x_of: Callable[[float], float], at: Sequence[float], text: Callable[[float], str], label: str) -> Markup:
    ticks = Markup("").join(
        Markup('<text class="x" x="{:.1f}" y="{}">{}</text>').format(x_of(x), HEIGHT - BOTTOM + 14, text(x)) for x in at
    )
    return ticks + Markup('<text class="x label" x="{}" y="{}">{}</text>').format(
        (LEFT + WIDTH - RIGHT) / 2, HEIGHT - 5, label
    )


def _border(x: float, label: str) -> Markup:
    return Markup(
        '<line class="border" x1="{:.1f}" x2="{:.1f}" y1="{}" y2="{}"/><text class="border" x="{:.1f}" y="{}">{}</text>'
    ).format(x, x, TOP, HEIGHT - BOTTOM, x, TOP - 5, label)


def _line(
    series: Series, line: Sequence[Bucket], x_of: Callable[[float], float], y_of: Callable[[float], float]
) -> Markup:
    parts = []
    for piece in _unbroken(line):
        path = "M" + "L".join(f"{x_of(b.x):.1f},{y_of(b.mean):.1f}" for b in piece)
        if any(b.low < b.high for b in piece):
            there = [f"{x_of(b.x):.1f},{y_of(b.high):.1f}" for b in piece]
            back = [f"{x_of(b.x):.1f},{y_of(b.low):.1f}" for b in reversed(piece)]
            parts.append(Markup('<path class="band" d="M{}Z"/>').format("L".join(there + back)))
        parts.append(Markup('<path class="line" d="{}"/>').format(path))
        if len(piece) == 1 or len(line) <= NUM_DOTS:
            parts += [
                Markup('<circle cx="{:.1f}" cy="{:.1f}" r="2.2"/>').format(x_of(b.x), y_of(b.mean)) for b in piece
            ]
    for (x, _), (low, high) in zip(series.points, series.intervals, strict=False):
        parts.append(
            Markup('<line class="interval" x1="{:.1f}" x2="{:.1f}" y1="{:.1f}" y2="{:.1f}"/>').format(
                x_of(x), x_of(x), y_of(low), y_of(high)
            )
        )
    return Markup('<g class="{}">{}</g>').format(series.color, Markup("").join(parts))


def _unbroken(line: Sequence[Bucket]) -> list[list[Bucket]]:
    """The stretches between gaps."""
    pieces: list[list[Bucket]] = [[]]
    for bucket in line:
        if math.isfinite(bucket.mean):
            pieces[-1].append(bucket)
        elif pieces[-1]:
            pieces.append([])
    return [piece for piece in pieces if piece]


def _readout(chart: Chart, lines: Sequence[tuple[Series, Sequence[Bucket]]], x_of: Callable[[float], float]) -> str:
    """JSON for the pointer: [place, text] by rising x."""
    at: dict[float, list[str]] = {}
    for series, line in lines:
        for n, bucket in enumerate(line):
            if not math.isfinite(bucket.mean):
                continue
            value = percent(bucket.mean) if chart.unit == "%" else short(bucket.mean)
            if series.intervals and len(line) == len(series.points):
                low, high = series.intervals[n]
                value += (
                    f" ({percent(low)} to {percent(high)})"
                    if chart.unit == "%"
                    else f" ({short(low)} to {short(high)})"
                )
            at.setdefault(bucket.x, []).append(f"{series.name} {value}" if len(chart.series) > 1 else value)
    rows = [[round(x_of(x), 1), f"{chart.x_label} {short(x)}: " + ", ".join(found)] for x, found in sorted(at.items())]
    return json.dumps(rows, ensure_ascii=False)
