"""Curves: what stands in a figure; spikes and gaps; names that are markup."""

import json
import math

from hypothesis import given
from hypothesis import strategies as st

from openmimo.report.curves import Chart, Drawn, Series, draw, thinned
from openmimo.report.figures import duration, percent, points, short
from openmimo.report.panels import accuracies, drafting, pass_at_k, pretraining, stage_borders, temperatures

ANY = st.floats(allow_nan=True, allow_infinity=True, width=32)


def figure(drawn: Drawn | None) -> dict:
    assert drawn is not None
    return json.loads(drawn.json)


def test_a_thinned_line_keeps_its_spikes_and_gaps():
    line = [(float(n), 1.0) for n in range(4000)]
    line[1234], line[2500], line[3000] = (1234.0, 9.0), (2500.0, -9.0), (3000.0, math.nan)
    found = thinned(line, 100)
    assert (1234.0, 9.0) in found and (2500.0, -9.0) in found
    assert sum(math.isnan(y) for _, y in found) == 1
    assert len(found) <= 300 and [x for x, _ in found] == sorted(x for x, _ in found)


@given(st.lists(ANY, max_size=60))
def test_a_thinned_line_has_the_range_of_the_whole(ys):
    line = [(float(n), y) for n, y in enumerate(ys)]
    found = thinned(line, 5)
    assert set(map(id, found)) <= set(map(id, line)) and len(found) <= 15
    finite = [y for y in ys if math.isfinite(y)]
    shown = [y for _, y in found if math.isfinite(y)]
    assert (min(shown), max(shown)) == (min(finite), max(finite)) if finite else not shown
    assert (len(finite) < len(ys)) == (len(shown) < len(found))


@given(st.lists(ANY, max_size=50))
def test_any_metric_gives_a_figure_in_plain_json(ys):
    drawn = draw(Chart("loss", "step", [Series("a", [(float(n), y) for n, y in enumerate(ys)], "first")]))
    if not any(map(math.isfinite, ys)):
        assert drawn is None
        return
    assert "NaN" not in drawn.json and "Infinity" not in drawn.json
    trace = figure(drawn)["data"][0]
    assert trace["y"] == [y if math.isfinite(y) else None for y in ys]
    assert drawn.broken == sum(not math.isfinite(y) for y in ys)


def test_a_share_is_written_in_percent_from_zero():
    drawn = figure(draw(Chart("share", "step", [Series("a", [(0.0, 0.2), (10.0, 0.5)], "math")], "%")))
    assert drawn["layout"]["yaxis"]["tickformat"] == ".2~%" and drawn["layout"]["yaxis"]["rangemode"] == "tozero"
    trace = drawn["data"][0]
    assert (trace["x"], trace["y"], trace["meta"]) == ([0.0, 10.0], [0.2, 0.5], "math")
    assert drawn["layout"]["showlegend"] is False  # one line needs no key


def test_names_are_no_markup():
    series = [Series("<b>a</b>", [(0.0, 1.0)], "first"), Series("</script>", [(0.0, 1.0)], "second")]
    drawn = draw(Chart("loss", "step", series, borders=[(0.0, "<a href='x'>stage</a>")]))
    assert "<" not in drawn.json
    assert [t["name"] for t in figure(drawn)["data"]] == ["&lt;b&gt;a&lt;/b&gt;", "&lt;/script&gt;"]
    assert figure(drawn)["layout"]["annotations"][0]["text"].startswith("&lt;a href")


def test_stage_borders_stand_where_the_next_stage_began():
    rows = [{"tokens": t, "train_stage": s, "ce": 1.0} for t, s in ((10, 1), (20, 1), (30, 2), (40, 2), (50, 3))]
    assert stage_borders(rows) == [(20.0, "stage 2"), (40.0, "stage 3")]
    layout = figure(draw(pretraining(rows)[0]))["layout"]
    assert [(s["x0"], a["text"]) for s, a in zip(layout["shapes"], layout["annotations"], strict=True)] == [
        (20.0, "stage 2"), (40.0, "stage 3")
    ]  # fmt: skip


def test_temperatures_and_pass_at_k_are_marked_where_they_were_measured():
    def row(t, mean):
        estimate = {"mean": mean, "low": mean - 0.1, "high": mean + 0.1, "n": 9}
        return {"temperature": t, "accuracy": {"math": estimate}, "pass_at_k": {"math": {"1": mean, "2": 0.5}}}

    found = {"base": [row(0.6, 0.2)], "sft": [row(0.6, 0.3), row(0.0, 0.4)]}
    maths, code = temperatures(found)
    drawn = figure(draw(maths))
    assert [t["name"] for t in drawn["data"]] == ["SFT"]
    assert drawn["layout"]["xaxis"]["categoryarray"] == ["0", "0.6"]
    trace = drawn["data"][0]
    assert (trace["x"], trace["y"]) == (["0", "0.6"], [0.4, 0.3])
    assert [round(e, 6) for e in trace["error_y"]["array"] + trace["error_y"]["arrayminus"]] == [0.1] * 4
    assert draw(code) is None
    curve = pass_at_k(found)[0]
    assert [s.name for s in curve.series] == ["base", "SFT"] and curve.x_at == [1.0, 2.0]


def test_accuracies_stand_beside_each_other_with_their_intervals():
    found = {"sft": {"math": {"mean": 0.5, "low": 0.4, "high": 0.7, "n": 9}}, "rl": {}}
    maths, code = accuracies(found)
    trace = figure(draw(maths))["data"][0]
    assert (trace["x"], trace["y"], trace["mode"], trace["meta"]) == (["SFT"], [0.5], "markers", "sft")
    assert draw(code) is None


def test_figures_are_short():
    assert [short(v) for v in (0, 25088, 2.4e6, 23.784e12, 0.0003, 0.125, 999.9, -1500)] == [
        "0", "25.1 k", "2.4 M", "23.8 T", "3e-4", "0.125", "1 k", "-1.5 k"
    ]  # fmt: skip
    assert [duration(s) for s in (0.42, 59.6, 61, 7500)] == ["0.4 s", "1 min 0 s", "1 min 1 s", "2 h 5 min"]
    assert (percent(0.1234), percent(None), percent(math.nan)) == ("12.3 %", "–", "–")
    assert (points(0.1), points(-0.021)) == ("+10.0", "−2.1")


def test_every_draft_layer_has_its_line():
    rows = [{"step": n, "mtp_2": 1.0 - n / 10, "mtp_3": 2.0 - n / 10} for n in range(3)]
    (chart,) = drafting(rows)
    assert [trace["name"] for trace in figure(draw(chart))["data"]] == ["MTP layer 2", "MTP layer 3"]
