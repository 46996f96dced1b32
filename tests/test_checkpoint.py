"""Checkpoints: written beside the work, torn ones passed over, disks that are full."""

import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from openmimo import checkpoint
from openmimo.checkpoint import Writer


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_the_state_is_copied_before_the_caller_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    goes_on = threading.Event()
    write = checkpoint.save
    monkeypatch.setattr(checkpoint, "save", lambda *a, **k: (goes_on.wait(10), write(*a, **k)))
    weights = torch.zeros(4)
    with Writer(tmp_path) as writer:
        writer.save(1, {"weights": weights, "served": {"a": 1}, "window": [(1, 2)]})
        weights += 1  # the next step
        goes_on.set()
    found = checkpoint.latest(tmp_path)
    assert found is not None and found["weights"].tolist() == [0.0] * 4 and found["window"] == [(1, 2)]


def test_some_stay_for_good(tmp_path: Path) -> None:
    with Writer(tmp_path, keep_last=2, keep_every=10) as writer:
        for step in range(5, 40, 5):
            writer.save(step, {"step": step})
    assert names(tmp_path) == [f"step-{n:08d}" for n in (10, 20, 30, 35)]


def test_ranks_that_do_not_write_write_nothing(tmp_path: Path) -> None:
    with Writer(tmp_path / "none", writes=False) as writer:
        writer.save(1, {"a": 1})
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("damage", ["cut", "gone", "no about", "garbage", "one byte"])
def test_a_torn_checkpoint_is_told_of_and_the_one_before_taken(tmp_path: Path, damage: str) -> None:
    for step in (1, 2):
        checkpoint.save(tmp_path, step, {"step": step, "weights": torch.ones(1000)})
    torn = tmp_path / "step-00000002"
    if damage == "cut":
        os.truncate(torn / "state.pt", 500)
    elif damage == "gone":
        (torn / "state.pt").unlink()
    elif damage == "no about":
        (torn / "about.json").unlink()
    elif damage == "one byte":
        whole = bytearray((torn / "state.pt").read_bytes())
        whole[len(whole) // 2] ^= 1
        (torn / "state.pt").write_bytes(whole)
    else:
        size = (torn / "state.pt").stat().st_size
        (torn / "state.pt").write_bytes(b"x" * size)
    lines: list[str] = []
    found = checkpoint.latest(tmp_path, tell=lines.append)
    assert found is not None and found["step"] == 1
    assert len(lines) == 1 and str(torn) in lines[0] and "is torn" in lines[0]
    shutil.rmtree(tmp_path / "step-00000001")
    with pytest.raises(ValueError, match=r"every checkpoint in .* is torn, step-00000002 the newest of 1"):
        checkpoint.latest(tmp_path)


def test_another_format_is_refused_not_passed_over(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, 1, {})
    about = tmp_path / "step-00000001" / "about.json"
    about.write_text(
        about.read_text().replace(f'"format_version": {checkpoint.FORMAT_VERSION}', '"format_version": 99')
    )
    with pytest.raises(ValueError, match="has checkpoint format 99, this is"):
        checkpoint.latest(tmp_path)


def test_room_is_looked_for_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint.save(tmp_path, 1, {"weights": torch.ones(10)})
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with (
        Writer(tmp_path) as writer,
        pytest.raises(ValueError, match=r"takes 0.0 MB and 0.0 MB are free; whatever was saved before is"),
    ):
        writer.save(2, {"weights": torch.ones(1000)})
    assert names(tmp_path) == ["step-00000001"]


def test_a_disk_that_fills_while_writing_is_told_of_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint.save(tmp_path, 1, {"a": 1})

    def full(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(ValueError, match="No space left on device"), Writer(tmp_path) as writer:
        writer.save(2, {"a": 2})
    assert names(tmp_path) == ["step-00000001"]


def test_what_a_killed_writer_left_is_swept(tmp_path: Path) -> None:
    (tmp_path / ".writing-12345").mkdir()
    (tmp_path / ".writing-12345" / "state.pt").write_bytes(b"half")
    checkpoint.save(tmp_path, 1, {})
    assert names(tmp_path) == ["step-00000001"]


def test_what_a_killed_process_was_writing_is_swept_away_and_what_a_living_one_writes_stays(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    (tmp_path / f".rows.jsonl.{dead.pid}").write_text("half")
    (tmp_path / f".rows.jsonl.{os.getppid()}").write_text("another writes this")
    (tmp_path / f".other.jsonl.{dead.pid}").write_text("half")
    (tmp_path / f".folder.{dead.pid}").mkdir()
    checkpoint.write_text(tmp_path / "rows.jsonl", "whole")
    assert checkpoint.aside(tmp_path / "folder") == tmp_path / f".folder.{os.getpid()}"
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"rows.jsonl", f".rows.jsonl.{os.getppid()}", f".other.jsonl.{dead.pid}"}
