"""Curves as plotly figures, in JSON.

A series names its colour; the page's script looks it up in the style sheet, so that one figure serves light and dark.
"""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

NUM_BUCKETS = 400
"""A longer line shows the lowest and the highest point of each of so many stretches, so no spike is lost."""
NUM_DOTS = 40
"""Lines with no more points than this show each."""
RUN_COLORS = tuple(f"run{n}" for n in range(8))
"""Colours for curves of several runs."""

Color = str
"""A custom property of the style sheet, without its dashes: base, sft, rl, math, code, first, second, run0 to run7."""
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
    dashed: bool = False


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
    x_names: Sequence[str] = ()
    """Words in place of the figures of `x_at`; points then stand beside each other, without a line."""
    borders: Sequence[tuple[float, str]] = ()
    """(x, label) of upright lines."""


@dataclass(frozen=True)
class Drawn:
    """A chart, ready for the page."""

    title: str
    broken: int
    """Points that are not finite, most of any line."""
    json: str
    """The plotly figure; safe inside <script>."""


def draw(chart: Chart) -> Drawn | None:
    """A chart as a plotly figure; None if no line has a finite point."""
    import plotly.graph_objects as go

    series = [s for s in chart.series if any(math.isfinite(y) for _, y in s.points)]
    if not series:
        return None
    figure = go.Figure([_trace(s, chart) for s in series], _layout(chart, series))
    for x, label in chart.borders:
        figure.add_vline(
            x, line_dash="dot", line_width=1, opacity=0.7, annotation={"text": html.escape(label), "yanchor": "bottom"}
        )
    broken = max(sum(not math.isfinite(y) for _, y in s.points) for s in series)
    text = figure.to_json(engine="json", remove_uids=True)
    assert text is not None
    return Drawn(chart.title, broken, text.replace("<", "\\u003c").replace("\u2028", "\\u2028"))


def drawn(charts: Sequence[Chart]) -> list[Drawn]:
    """The charts that have something to show."""
    return [found for chart in charts if (found := draw(chart))]


def thinned(values: Sequence[Point], num_buckets: int = NUM_BUCKETS) -> list[Point]:
    """Of each of `num_buckets` stretches the lowest and the highest point, and one that is not finite, by rising x."""
    size = math.ceil(len(values) / num_buckets)
    if size <= 3:
        return list(values)
    found: list[Point] = []
    for start in range(0, len(values), size):
        stretch = values[start : start + size]
        finite = sorted((p for p in stretch if math.isfinite(p[1])), key=lambda p: p[1])
        broken = [p for p in stretch if not math.isfinite(p[1])]
        found += sorted({*finite[:1], *finite[-1:], *broken[:1]}, key=lambda p: p[0])
    return found


def _trace(series: Series, chart: Chart) -> Any:
    import plotly.graph_objects as go

    shown = list(series.points) if series.intervals else thinned(series.points)
    value = "%{y:.2~%}" if chart.unit == "%" else "%{y}"
    error = None
    if series.intervals:
        value += " (%{customdata[0]:.2~%} to %{customdata[1]:.2~%})"
        error = {
            "array": [high - y for (_, y), (_, high) in zip(shown, series.intervals, strict=True)],
            "arrayminus": [y - low for (_, y), (low, _) in zip(shown, series.intervals, strict=True)],
            "thickness": 1.3,
            "width": 0,
        }
    dots = "lines+markers" if len(shown) <= NUM_DOTS else "lines"
    return go.Scatter(
        name=html.escape(series.name),
        x=[_place(chart, x) for x, _ in shown],
        y=[y if math.isfinite(y) else None for _, y in shown],
        error_y=error,
        customdata=series.intervals or None,
        mode="markers" if chart.x_names else dots,
        line={"width": 1.6, "dash": "dash" if series.dashed else "solid"},
        marker_size=7 if chart.x_names else 4,
        hovertemplate=f"{value}<extra>%{{fullData.name}}</extra>",
        meta=series.color,
    )


def _layout(chart: Chart, series: Sequence[Series]) -> Any:
    import plotly.graph_objects as go

    xs = [x for s in series for x, _ in s.points]
    ys = [abs(y) for s in series for _, y in s.points if math.isfinite(y)]
    x_axis: dict[str, Any] = {"title": {"text": chart.x_label, "standoff": 6}, "hoverformat": ",.4~g"}
    if chart.x_at:
        x_axis |= {"type": "category", "categoryarray": [_place(chart, x) for x in chart.x_at]}
    elif max(xs) < 10_000:
        x_axis |= {"nticks": 6} if max(xs) - min(xs) > 5 else {"dtick": 1}
    else:
        x_axis |= {"nticks": 6, "exponentformat": "B", "hoverformat": ".4~s"}
    y_axis: dict[str, Any] = {"nticks": 6, "exponentformat": "power", "hoverformat": ".4~g"}
    if chart.unit == "%":
        y_axis |= {"tickformat": ".2~%", "hoverformat": ".2~%"}
    elif max(ys) >= 10_000:
        y_axis |= {"exponentformat": "B", "hoverformat": ".4~s"}
    if chart.from_zero or chart.unit == "%":
        y_axis |= {"rangemode": "tozero"}
    named = [s.name for s in chart.series]
    legend = len(named) > 1 and named != list(chart.x_names)
    return go.Layout(
        template="none",
        height=230 + 17 * max(0, len(named) - 4) // 2,  # two names a line in the legend
        margin={"l": 8, "r": 8, "t": 8 + 16 * legend + 16 * bool(chart.borders), "b": 8},
        showlegend=legend,
        legend={"orientation": "h", "x": 0, "y": 1.1 if chart.borders else 1.0, "yanchor": "bottom"},
        hovermode="x unified",
        hoverlabel_namelength=-1,
        scattermode="group" if chart.x_names else "overlay",
        scattergap=0.6 if chart.x_names else None,
        xaxis={"automargin": True, **x_axis},
        yaxis={"automargin": True, **y_axis},
    )


def _place(chart: Chart, x: float) -> float | str:
    """Where a point stands on the x axis: a category has a name."""
    if chart.x_names:
        return html.escape(chart.x_names[chart.x_at.index(x)])
    return f"{x:g}" if chart.x_at else x
