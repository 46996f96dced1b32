"""The board: several runs on one page."""

import json

import pytest

from openmimo.cli import main
from openmimo.report.board import accuracies, board, differences, labels, overlaid, side_by_side
from openmimo.report.contents import read_contents
from openmimo.report.curves import draw

HOSTILE = "<script>alert(1)<"


def a_run(folder, *, reward=0.4, mean=0.25, steps=3, finished=True):
    folder.mkdir(parents=True)
    config = {"rl": {"steps": steps}, "pretrain": {"stages": [{"until_tokens": 9.0}]}, "betas": [0.9, 0.95]}
    (folder / "run.json").write_text(json.dumps({"recipe": "tiny", "seed": 3, "config": config}))
    rows = [
        {"stage": "rl", "step": n, "tokens": 9, "reward": reward, "validation_math": 0.1, "timing": {}}
        for n in range(3)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if finished:
        estimate = {"mean": mean, "low": mean - 0.1, "high": mean + 0.2, "n": 12}
        gain = {"rl_over_sft": {"mean": 0.05, "low": 0.0, "high": 0.1, "n": 12}}
        summary = {"accuracy": {"sft": {"math": estimate}, "rl": {"math": estimate}}, "gain": gain}
        (folder / "summary.json").write_text(json.dumps(summary))
    return folder


@pytest.fixture
def runs(tmp_path):
    folders = [a_run(tmp_path / "a"), a_run(tmp_path / HOSTILE, reward=0.7, mean=0.5, steps=9)]
    return {folder.name: read_contents(folder) for folder in folders}


def test_a_board_shows_every_run_and_runs_nothing_of_their_names(tmp_path, capsys):
    folders = [a_run(tmp_path / "a"), a_run(tmp_path / HOSTILE, mean=0.5), a_run(tmp_path / "c", finished=False)]
    with pytest.raises(SystemExit) as end:
        main(["report", *map(str, folders), "-o", str(tmp_path / "new" / "board.html")])
    assert end.value.code == 0 and capsys.readouterr().out == f"{tmp_path / 'new' / 'board.html'}\n"
    text = (tmp_path / "new" / "board.html").read_text(encoding="utf-8")
    assert HOSTILE not in text and "&lt;script&gt;alert(1)&lt;" in text
    assert "3 runs" in text and "50.0 %" in text and "40.0 % to 70.0 %" in text and "+5.0" in text
    assert len(text) < 6_000_000


def test_the_accuracy_table_puts_the_runs_of_a_checkpoint_together(runs):
    table = accuracies({name: run.summary["accuracy"] for name, run in runs.items()})
    assert table.head == ["checkpoint", "run", "maths"]
    assert [row[:2] for row in table.rows] == [["SFT", "a"], ["SFT", HOSTILE], ["RL", "a"], ["RL", HOSTILE]]
    maths, code = side_by_side({name: run.summary["accuracy"] for name, run in runs.items()})
    assert [s.points for s in maths.series] == [[(1.0, 0.25), (2.0, 0.25)], [(1.0, 0.5), (2.0, 0.5)]]
    assert maths.series[1].intervals == [(0.4, 0.7), (0.4, 0.7)]
    assert json.loads(draw(maths).json)["layout"]["xaxis"]["categoryarray"] == ["base", "SFT", "RL"]
    assert draw(code) is None


def test_curves_lie_over_each_other_in_colours_of_their_own(runs):
    reward = next(chart for chart in overlaid(runs) if "reward" in chart.title)
    assert [(s.name, s.points[0], s.color) for s in reward.series] == [
        ("a", (0.0, 0.4), "run0"), (HOSTILE, (0.0, 0.7), "run1")
    ]  # fmt: skip


def test_more_runs_than_colours_are_dashed(runs):
    many = {str(n): runs["a"] for n in range(10)}
    reward = next(chart for chart in overlaid(many) if "reward" in chart.title)
    assert len({(s.color, s.dashed) for s in reward.series}) == 10


def test_only_values_that_differ_are_listed(runs):
    table = differences(runs)
    assert table.rows == [["rl.steps", "3", "9"]]
    assert differences({"a": runs["a"], "b": runs["a"]}) is None


def test_runs_of_one_name_are_told_apart_by_their_folders(tmp_path):
    assert labels([tmp_path / "x" / "a", tmp_path / "y" / "b"]) == ["a", "b"]
    assert labels([tmp_path / "x" / "a", tmp_path / "y" / "a"]) == ["x/a", "y/a"]


def test_a_run_named_twice_or_missing_is_refused(tmp_path):
    run = a_run(tmp_path / "a")
    with pytest.raises(ValueError, match="named twice"):
        board([run, tmp_path / "." / "a"], tmp_path / "board.html")
    with pytest.raises(ValueError, match="nowhere is no run folder"):
        board([run, tmp_path / "nowhere"], tmp_path / "board.html")
    assert not (tmp_path / "board.html").exists()


def test_a_folder_to_write_to_is_refused_with_a_name_that_would_do(tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        main(["report", str(a_run(tmp_path / "a")), "-o", str(tmp_path)])
    assert end.value.code == 2 and "is a folder; name a file" in capsys.readouterr().err


def test_one_run_is_written_where_it_is_asked_to(tmp_path):
    with pytest.raises(SystemExit):
        main(["report", str(a_run(tmp_path / "a")), "-o", str(tmp_path / "one.html")])
    assert "Mean reward, points" in (tmp_path / "one.html").read_text(encoding="utf-8")
    assert not (tmp_path / "a" / "report.html").exists()
