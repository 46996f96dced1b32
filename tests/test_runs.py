"""Runs seen from outside: which there are, how far they are, stopping one and going on; and killing one."""

import dataclasses
import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pretrain_kills
import pytest

from openmimo.checkpoint import write_text
from openmimo.recipes import load
from openmimo.run import Run
from openmimo.runs import find_runs, line, owner, status, stop, survey

ROOT = Path(__file__).resolve().parents[1]


def openmimo(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "openmimo", *arguments], capture_output=True, text=True, timeout=240)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the data of `kill_recipe.recipe` lies."""
    out = tmp_path_factory.mktemp("runs") / "prepared"
    pretrain_kills.run("data", out)
    return out


@pytest.fixture
def begun(prepared: Path, tmp_path: Path) -> Iterator[tuple[Path, subprocess.Popen[str]]]:
    """A copy of it, with a pre-training that has made some steps and goes on."""
    out = tmp_path / "runs" / "mine"
    subprocess.run(["cp", "-r", prepared, out.parent.mkdir() or out], check=True)
    process = subprocess.Popen(pretrain_kills.command("pretrain", out), stderr=subprocess.PIPE, text=True)
    while len(list((out / "checkpoints").glob("*/step-*"))) < 1:
        assert process.poll() is None, process.stderr and process.stderr.read()
        time.sleep(0.05)
    yield out, process
    process.kill()
    process.wait()


def test_a_run_that_cannot_be_read_hides_no_other(tmp_path: Path) -> None:
    for name, text in (("torn", "{"), ("whole", '{"recipe": "nano", "seed": 0, "config": {}}')):
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_text(text)
    found = {Path(row["run"]).name: row for row in survey(tmp_path)}
    assert found["whole"]["recipe"] == "nano" and "torn/run.json is not JSON" in found["torn"]["error"]
    assert "cannot be read" in line(found["torn"])


def test_a_run_at_work_is_listed_told_of_and_stopped_and_goes_on(begun: tuple[Path, subprocess.Popen[str]]) -> None:
    out, process = begun
    listed = json.loads(openmimo("runs", str(out.parent), "--json").stdout)
    assert [row["run"] for row in listed] == [str(out)] and listed[0]["process"] == process.pid
    told = json.loads(openmimo("status", str(out), "--json").stdout)
    assert told["stage"] == "pretrain" and told["done"] == ["data"] and 0.0 < told["share"] < 1.0
    assert told["tokens_per_s"] > 0 and told["seconds_left"] > 0
    stopped = openmimo("stop", str(out))
    assert stopped.returncode == 0 and f"process {process.pid} has ended" in stopped.stdout
    assert process.wait(10) == 143 and process.stderr
    assert "stopped by SIGTERM after step" in process.stderr.read()
    rested = status(out)
    assert rested["process"] is None and rested["step"] >= told["step"]
    newest = sorted((out / "checkpoints" / "pretrain").iterdir())[-1]
    assert newest.name == f"step-{rested['step'] + 1:08d}"  # saved where it stopped, not at the last multiple of 7
    again = openmimo("stop", str(out))
    assert again.returncode == 2 and "no process is at work" in again.stderr
    assert "at rest" in openmimo("status", str(out)).stdout


def test_three_kills_at_random_moments_change_no_bit(prepared: Path, tmp_path: Path) -> None:
    """`benchmarks/pretrain_kills.py` does it twenty times and compares the checkpoints too."""
    rng = random.Random()
    seed = rng.randrange(10**6)
    print(f"kill seed {seed}")
    rng.seed(seed)
    outs = [tmp_path / "whole", tmp_path / "killed"]
    for out in outs:
        subprocess.run(["cp", "-r", prepared, out], check=True)
    pretrain_kills.run("pretrain", outs[0])
    for _ in range(3):
        process = subprocess.Popen(
            pretrain_kills.command("pretrain", outs[1]), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        time.sleep(rng.uniform(1.0, 5.0))
        process.send_signal(signal.SIGKILL)
        process.wait()
    pretrain_kills.run("pretrain", outs[1])
    tensors = [(out / "models" / "base" / "model.safetensors").read_bytes() for out in outs]
    assert tensors[0] == tensors[1]
    assert pretrain_kills.lines(outs[0]) == pretrain_kills.lines(outs[1])


def test_a_run_that_has_logged_nothing_is_told_of_too(tmp_path: Path) -> None:
    recipe = load("nano")
    with Run(tmp_path / "one", "nano", 3, recipe):
        assert status(tmp_path / "one")["process"] is not None
    found = status(tmp_path / "one")
    assert (found["recipe"], found["seed"], found["done"], found["process"]) == ("nano", 3, [], None)
    assert line(found) == f"{tmp_path / 'one'}: nano, seed 3, at rest; done nothing yet"
    assert find_runs(tmp_path) == find_runs(tmp_path / "one") == [tmp_path / "one"]


def test_what_is_no_run_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"run\.json is missing"):
        status(tmp_path)
    (tmp_path / "tiny").mkdir()
    with pytest.raises(ValueError, match=r"does not exist; the nearest is .*tiny"):
        stop(tmp_path / "tinny")
    with pytest.raises(ValueError, match="does not exist"):
        find_runs(tmp_path / "nowhere")
    assert owner(tmp_path / "nowhere") is None


def test_only_the_first_rank_holds_the_lock_and_writes(tmp_path: Path) -> None:
    recipe = dataclasses.replace(load("nano"), name="ranks")
    with Run(tmp_path / "one", "ranks", 0, recipe), Run(tmp_path / "one", "ranks", 0, recipe, leads=False) as other:
        other.finish("data", {})
        assert not other.done("data")
        write_text(tmp_path / "one" / "state.json", "{}")
