"""log, run, checkpoint, rows, mesh: nothing lost, nothing half written, everything named."""

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from openmimo import checkpoint
from openmimo.log import Log, read_metrics
from openmimo.mesh import Mesh
from openmimo.rows import problem_from, read_problems, read_rows, write_rows
from openmimo.run import Run, RunRefused
from openmimo.types import Problem, UnitTest


def test_a_resumed_log_rewrites_its_tail_and_drops_a_torn_line(tmp_path: Path) -> None:
    with Log(tmp_path, "pretrain", tensorboard=False) as log:
        for step in range(5):
            log.step(step, tokens=step, loss=1.0)
    with Log(tmp_path, "sft", tensorboard=False) as log:
        log.step(0, tokens=0, loss=2.0)
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write(b'{"stage": "pretrain", "st')
    with Log(tmp_path, "pretrain", 3, tensorboard=False) as log:
        log.step(3, tokens=3, loss=9.0)
    assert [(r["stage"], r["step"], r["loss"]) for r in read_metrics(tmp_path)] == [
        ("pretrain", 0, 1.0), ("pretrain", 1, 1.0), ("pretrain", 2, 1.0), ("sft", 0, 2.0), ("pretrain", 3, 9.0),
    ]  # fmt: skip


def test_metrics_also_go_to_tensorboard(tmp_path: Path) -> None:
    with Log(tmp_path, "rl") as log:
        log.step(0, tokens=1, loss=0.5, timing={"step_s": 1.0})
    assert list((tmp_path / "tensorboard" / "rl").iterdir())


def test_a_folder_is_refused_to_a_second_process(tmp_path: Path) -> None:
    code = (
        f"from openmimo.run import Run; from pathlib import Path\nwith Run(Path({str(tmp_path)!r}), 'a', 0, {{}}): pass"
    )
    with Run(tmp_path, "a", 0, {}):
        second = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert second.returncode != 0
    assert f"in use by process {os.getpid()}" in second.stderr


@pytest.mark.parametrize(
    ("recipe", "seed", "config", "named"),
    [
        ("b", 0, {"x": 1}, "recipe: 'a' -> 'b'"),
        ("a", 1, {"x": 1}, "seed: 0 -> 1"),
        ("a", 0, {"x": 2}, "config.x: 1 -> 2"),
    ],
)
def test_another_recipe_seed_or_value_is_refused_by_name(
    tmp_path: Path, recipe: str, seed: int, config: dict[str, int], named: str
) -> None:
    with Run(tmp_path, "a", 0, {"x": 1}):
        pass
    with pytest.raises(RunRefused, match=named), Run(tmp_path, recipe, seed, config):
        pass


def test_a_run_goes_on_with_other_ways_of_computing_and_with_another_rate_if_told_to(tmp_path: Path) -> None:
    begun = {"pretrain": {"micro_rows": 8, "learning_rate": 0.1, "stages": [1]}, "rl": {"budget": {"window": 4}}}
    with Run(tmp_path, "a", 0, begun):
        pass
    begun["pretrain"]["micro_rows"] = 2
    with Run(tmp_path, "a", 0, begun):
        pass
    begun["pretrain"]["learning_rate"] = 0.05
    with (
        pytest.raises(RunRefused, match=r"learning_rate: 0.1 -> 0.05\); .*--accept-changes"),
        Run(tmp_path, "a", 0, begun),
    ):
        pass
    with Run(tmp_path, "a", 0, begun, accept_changes=True):
        pass
    changes = json.loads((tmp_path / "run.json").read_text())["changes"]
    assert [c["changed"] for c in changes] == [
        ["config.pretrain.micro_rows: 8 -> 2"],
        ["config.pretrain.learning_rate: 0.1 -> 0.05"],
    ]
    begun["rl"]["budget"]["window"] = 5  # not the guard's
    with pytest.raises(RunRefused, match="choose another --out"), Run(tmp_path, "a", 0, begun, accept_changes=True):
        pass
    begun["rl"]["budget"]["window"] = 4
    begun["pretrain"]["stages"] = [2]
    with pytest.raises(RunRefused, match="choose another --out"), Run(tmp_path, "a", 0, begun, accept_changes=True):
        pass


def test_finished_stages_are_remembered_in_order(tmp_path: Path) -> None:
    with Run(tmp_path, "a", 0, {}) as run:
        run.finish("data", {"n": 1})
        run.finish("pretrain", {"n": 2})
    with Run(tmp_path, "a", 0, {}) as run:
        assert list(run.state()) == ["data", "pretrain"] and run.done("data") and not run.done("sft")


def test_checkpoints_keep_the_newest(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        checkpoint.save(tmp_path, step, {"value": step}, keep_last=2)
    assert checkpoint.latest(tmp_path) == {"value": 3}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000002", "step-00000003"]


def test_no_checkpoint_is_none(tmp_path: Path) -> None:
    assert checkpoint.latest(tmp_path / "nowhere") is None


def test_rows_survive_the_line_separator_inside_a_string(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    write_rows(path, [{"text": "a\u2028b"}, {"text": "c\nd"}])
    assert [r["text"] for r in read_rows(path)] == ["a\u2028b", "c\nd"]


def test_a_broken_row_is_named_by_its_line(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": 1}\n{"a": \n', encoding="utf-8")
    with pytest.raises(ValueError, match=r"rows.jsonl:2 is not JSON"):
        list(read_rows(path))


def test_problems_come_back_as_they_were_written(tmp_path: Path) -> None:
    problem = Problem("p", "add", "code", tests=(UnitTest("[1]", "2", 1),), entry_point="f", family="x")
    write_rows(tmp_path / "p.jsonl", [problem])
    assert read_problems(tmp_path / "p.jsonl") == [problem]
    assert json.loads((tmp_path / "p.jsonl").read_text())["tests"] == [asdict(problem.tests[0])]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"id": "a", "kind": "math"}, "lacks 'prompt'"),
        ({"id": "a", "prompt": "b", "kind": "art"}, "kind 'art'"),
        ({"id": "a", "prompt": "b", "kind": "math", "anwser": "1"}, "unknown field 'anwser'"),
    ],
)
def test_a_row_that_is_no_problem_says_why(row: dict[str, str], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        problem_from(row)


def test_shares_of_a_batch_cover_it_and_differ_by_one_row_at_most() -> None:
    for world in (1, 2, 3, 7):
        shares = [Mesh(rank, world).share(10) for rank in range(world)]
        rows = [i for share in shares for i in range(10)[share]]
        sizes = [share.stop - share.start for share in shares]
        assert rows == list(range(10)) and max(sizes) - min(sizes) <= 1


def test_rows_that_raise_leave_the_old_file_and_nothing_beside_it(tmp_path: Path) -> None:
    write_rows(tmp_path / "p.jsonl", [{"a": 1}])
    with pytest.raises(TypeError):
        write_rows(tmp_path / "p.jsonl", [{"a": 2}, {"a": object()}])
    assert [path.name for path in tmp_path.iterdir()] == ["p.jsonl"]
    assert list(read_rows(tmp_path / "p.jsonl")) == [{"a": 1}]


def test_a_run_is_mirrored_to_weights_and_biases_where_a_project_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "wandb.py").write_text(
        "calls = []\n"
        "class Run:\n"
        "    def define_metric(self, *a, **k): calls.append(('define', a, k))\n"
        "    def log(self, row): calls.append(('log', row))\n"
        "    def finish(self): calls.append(('finish',))\n"
        "def init(**k):\n"
        "    calls.append(('init', k))\n"
        "    return Run()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("WANDB_PROJECT", "reasoning")
    out = tmp_path / "run"
    out.mkdir()
    with Log(out, "pretrain") as log:
        log.step(0, tokens=8, timing={"step_s": 0.5}, loss=2.0, note="text")
    import wandb  # type: ignore[import-not-found]

    kinds = [call[0] for call in wandb.calls]
    assert kinds == ["init", "define", "log", "finish"]
    assert wandb.calls[0][1]["project"] == "reasoning" and wandb.calls[0][1]["resume"] == "allow"
    assert wandb.calls[2][1] == {"pretrain/loss": 2.0, "pretrain/step_s": 0.5, "pretrain/step": 0}
    with Log(out, "sft", writes=False) as silent:
        silent.step(0, tokens=8, loss=1.0)
    assert len(read_metrics(out)) == 1 and len(wandb.calls) == 4
