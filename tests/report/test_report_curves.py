"""Curves: round marks, buckets, gaps; what stands in the drawing."""

import html
import json
import math
import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openmimo.report.curves import Chart, Series, bucketed, draw, marks
from openmimo.report.figures import duration, percent, points, short
from openmimo.report.panels import pass_at_k, pretraining, stage_borders, temperatures

FINITE = st.floats(-1e12, 1e12, allow_nan=False)
ANY = st.floats(allow_nan=True, allow_infinity=True, min_value=None, max_value=None, width=32)


def circles(drawing: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in re.findall(r'<circle cx="([-\d.]+)" cy="([-\d.]+)"', drawing)]


def test_marks_are_round_and_enclose_the_data():
    assert marks(0.0, 0.62) == pytest.approx([0.0, 0.2, 0.4, 0.6, 0.8])
    assert marks(3.1, 6.6) == pytest.approx([3.0, 4.0, 5.0, 6.0, 7.0])
    assert marks(0.0, 3.0, whole=True) == [0.0, 1.0, 2.0, 3.0]
    assert marks(0.0, 2.0, whole=True) == [0.0, 1.0, 2.0]


@given(FINITE, FINITE)
def test_marks_of_any_range_are_few_and_rising(a, b):
    low, high = sorted((a, b))
    found = marks(low, high)
    assert 2 <= len(found) <= 8
    assert all(x <= y for x, y in pairwise(found))
    slack = max(abs(low), abs(high)) * 1e-6 + 1e-12
    assert found[0] <= low + slack and found[-1] >= high - slack


def test_buckets_keep_mean_and_range():
    found = bucketed([(0.0, 1.0), (1.0, 3.0), (2.0, 5.0), (3.0, math.nan), (4.0, math.nan), (5.0, math.nan)], 3)
    assert [(b.x, b.low, b.high) for b in found[:1]] == [(0.5, 1.0, 3.0)]
    assert found[0].mean == 2.0
    assert found[1].mean == 5.0  # the finite one of 5 and nan
    assert math.isnan(found[2].mean)


@given(st.lists(ANY, max_size=700))
def test_any_metric_gives_a_drawing_without_nan(ys):
    drawing = draw(Chart("loss", "step", [Series("a", [(float(n), y) for n, y in enumerate(ys)], "first")]))
    if not any(map(math.isfinite, ys)):
        assert drawing == ""
        return
    coordinates = re.findall(r'(?:d|x1|x2|y1|y2|cx|cy)="([^"]*)"', drawing)
    assert not any("nan" in c or "inf" in c for c in coordinates)
    assert len(json.loads(html.unescape(re.search(r'data-points="([^"]*)"', drawing)[1]))) <= 240


def test_a_point_stands_where_its_figures_say():
    drawing = draw(Chart("share", "step", [Series("a", [(0.0, 0.0), (10.0, 0.5), (20.0, 1.0)], "first")], "%"))
    # x from 46 to 348, y from 166 (0 %) to 16 (100 %).
    assert circles(drawing) == [(46.0, 166.0), (197.0, 91.0), (348.0, 16.0)]
    assert "step 10: 50.0 %" in html.unescape(drawing)


def test_a_value_that_is_not_finite_breaks_the_line_and_is_told():
    series = Series("a", [(0.0, 1.0), (1.0, 2.0), (2.0, math.nan), (3.0, 1.0), (4.0, 2.0)], "first")
    drawing = draw(Chart("loss", "step", [series]))
    assert drawing.count('class="line"') == 2
    assert "not finite at 1" in drawing


def test_names_are_escaped():
    series = [Series("<b>", [(0.0, 1.0)], "first"), Series('"', [(0.0, 1.0)], "second")]
    drawing = draw(Chart("<i>", "step", series))
    assert drawing.count("&lt;b&gt;") == 2  # in the key and in what a pointer shows
    assert "<b>&lt;i&gt;</b>" in drawing and "<i>" not in drawing


def test_stage_borders_stand_where_the_next_stage_began():
    rows = [{"tokens": t, "train_stage": s, "ce": 1.0} for t, s in ((10, 1), (20, 1), (30, 2), (40, 2), (50, 3))]
    assert stage_borders(rows) == [(20.0, "stage 2"), (40.0, "stage 3")]
    assert "stage 3" in draw(pretraining(rows)[0])


def test_temperatures_and_pass_at_k_are_marked_where_they_were_measured():
    def row(t, mean):
        estimate = {"mean": mean, "low": mean - 0.1, "high": mean + 0.1, "n": 9}
        return {"temperature": t, "accuracy": {"math": estimate}, "pass_at_k": {"math": {"1": mean, "2": 0.5}}}

    found = {"base": [row(0.6, 0.2)], "sft": [row(0.6, 0.3), row(0.0, 0.4)]}
    maths, code = temperatures(found)
    assert [s.name for s in maths.series] == ["SFT"]
    assert maths.x_at == [0.0, 0.6]
    assert maths.series[0].points == [(0.0, 0.4), (0.6, 0.3)]
    assert draw(code) == ""
    assert "SFT" not in draw(maths)  # one line needs no key
    curve = pass_at_k(found)[0]
    assert [s.name for s in curve.series] == ["base", "SFT"] and curve.x_at == [1.0, 2.0]
    assert "40.0 % (30.0 % to 50.0 %)" in html.unescape(draw(maths))


def test_figures_are_short():
    assert [short(v) for v in (0, 25088, 2.4e6, 23.784e12, 0.0003, 0.125, 999.9, -1500)] == [
        "0", "25.1 k", "2.4 M", "23.8 T", "3e-4", "0.125", "1 k", "-1.5 k"
    ]  # fmt: skip
    assert [duration(s) for s in (0.42, 59.6, 61, 7500)] == ["0.4 s", "1 min 0 s", "1 min 1 s", "2 h 5 min"]
    assert (percent(0.1234), percent(None), percent(math.nan)) == ("12.3 %", "–", "–")
    assert (points(0.1), points(-0.021)) == ("+10.0", "−2.1")
