"""RL's progress: a line a step where there is no terminal."""

import pytest

from openmimo.rl.show import NUM_ROWS, Table


def test_a_line_a_step_says_what_is_known(capsys: pytest.CaptureFixture[str]) -> None:
    with Table(20, 10) as table:
        table.step(10, {"reward": 0.25, "accepted": 0.5, "validation": 0.125, "unknown": 3.0})
        table.step(11, {"valid_share": 0.75})
    first, second = capsys.readouterr().err.strip().split("\n")
    assert first.startswith("rl: 11/20 reward 0.250, right 50%, held out 12.5%, ") and first.endswith(" left")
    assert second.startswith("rl: 12/20 valid 75%, ")


def test_the_table_keeps_the_newest_steps() -> None:
    table = Table(100, 0)
    for step in range(30):
        table.step(step, {"reward": step / 100})
    shown = table._table()
    assert shown.row_count == NUM_ROWS and shown.title.startswith("rl: 30 of 100 steps")
    assert list(shown.columns[0].cells)[-1] == "29" and list(shown.columns[1].cells)[-1] == "0.290"
