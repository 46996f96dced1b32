"""`openmimo rollout-sim`: the JSON that is promised, and a table."""

import json
from pathlib import Path

import pytest

from openmimo.cli import main

SMALL = {
    "batch_groups": 16, "num_workers": 8, "num_rollouts": 4, "minibatch_groups": 4, "num_problems": 64, "steps": 3,
}  # fmt: skip
METHODS = ("static", "naive", "continuous", "async", "early_termination", "ours", "first_done")
FIELDS = "method overall_speedup rollout_speedup idle_ratio normalized_idle waste mean_length selected"


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(["rollout-sim", *arguments])
    out, err = capsys.readouterr()
    return int(ended.value.code or 0), out, err


@pytest.fixture
def workload(tmp_path: Path) -> str:
    path = tmp_path / "workload.json"
    path.write_text(json.dumps(SMALL))
    return str(path)


def test_json_holds_workload_groups_and_rows(workload: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "--workload", workload, "--seed", "3", "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert list(found) == ["workload", "groups", "rows"]
    assert found["workload"].items() >= SMALL.items()
    rows = {row["method"]: row for row in found["rows"]}
    assert set(METHODS) <= set(rows)
    assert all(list(row) == FIELDS.split() for row in rows.values())
    for step, groups in enumerate(found["groups"]):
        assert all(list(group) == ["valid", "rollout_s", "reward_s"] for group in groups)
        valid = [launch for launch, group in enumerate(groups) if group["valid"]][:16]
        for name in ("naive", "continuous", "async", "early_termination", "ours"):
            assert rows[name]["selected"][step] == valid, name
        assert all(max(row["selected"][step]) < len(groups) for row in rows.values())


def test_the_same_seed_gives_the_same_answer_and_people_get_a_table(
    workload: str, capsys: pytest.CaptureFixture[str]
) -> None:
    answers = [run(capsys, "--workload", workload, "--seed", seed, "--json")[1] for seed in ("1", "1", "2")]
    assert answers[0] == answers[1] != answers[2]
    code, out, _ = run(capsys, "--workload", workload)
    assert code == 0 and all(name in out for name in METHODS) and "1.00x" in out


def test_a_wrong_workload_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for text, said in (
        ("[1]", "holds a list, expected an object"),
        ("{", "is not JSON"),
        ('{"batch_group": 1}', "unknown parameter 'batch_group'; the nearest is 'batch_groups'"),
        ('{"steps": 0}', "steps must be at least 1, got 0"),
    ):
        path = tmp_path / "workload.json"
        path.write_text(text)
        code, out, err = run(capsys, "--workload", str(path))
        assert (code, out) == (2, "") and said in err and err.count("\n") == 1, err
    assert "nowhere.json" in run(capsys, "--workload", str(tmp_path / "nowhere.json"))[2]
