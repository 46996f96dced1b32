"""Training checkpoints: atomic, written beside the training, newest whole one wins, old ones swept.

A checkpoint is a folder `step-00000120/` with `state.pt` (weights, optimizer, data cursor, RNG: whatever the stage
gives) and `about.json`, and is published by one rename, so a kill at any moment leaves the last whole one.
Left out: sharded writing; rank 0 writes whole tensors, so any number of ranks can go on from them.
"""

from __future__ import annotations

import glob
import json
import os
import re
import shutil
import threading
import zlib
from collections.abc import Callable
from pathlib import Path
from pickle import UnpicklingError
from types import TracebackType
from typing import Any

FORMAT_VERSION = 3


class Writer:
    """Writes checkpoints in a thread of its own, one at a time; training goes on meanwhile. A context manager.

    Args:
        keep_last: newest checkpoints that stay.
        keep_every: steps; of older ones those whose step is a multiple of it stay too. 0: none.
        writes: False on the ranks that only take part: nothing is written.
    """

    def __init__(self, folder: Path, *, keep_last: int = 2, keep_every: int = 0, writes: bool = True) -> None:
        self.folder, self.keep_last, self.keep_every, self.writes = folder, keep_last, keep_every, writes
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def save(self, step: int, state: dict[str, Any]) -> None:
        """Copy the state, then write it beside what the caller does next.

        Raises:
            ValueError: if the disk has no room for it, or the write before this one failed.
        """
        if not self.writes:
            return
        self.wait()
        _check_room(self.folder, step, _size(state))
        copy = _copied(state)

        def write() -> None:
            try:
                save(self.folder, step, copy, keep_last=self.keep_last, keep_every=self.keep_every)
            except BaseException as error:
                self._error = error

        self._thread = threading.Thread(target=write, name="checkpoint", daemon=False)
        self._thread.start()

    def wait(self) -> None:
        """Until the last checkpoint is on disk; raises what its writing raised."""
        if self._thread:
            self._thread.join()
            self._thread = None
        if self._error:
            error, self._error = self._error, None
            raise error

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            self.wait()
        except ValueError:
            if error is None:
                raise


def save(folder: Path, step: int, state: dict[str, Any], *, keep_last: int = 2, keep_every: int = 0) -> Path:
    """Write `folder/step-N` whole or not at all; sweep the old ones.

    Raises:
        ValueError: if the disk has no room for it (nothing is lost).
    """
    import torch

    _check_room(folder, step, _size(state))
    final, temporary = folder / f"step-{step:08d}", folder / f".writing-{os.getpid()}"
    for torn in folder.glob(".writing-*"):  # what a killed process left; the run's lock says there is no other writer
        shutil.rmtree(torn, ignore_errors=True)
    temporary.mkdir()
    try:
        with (temporary / "state.pt").open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
            size = file.tell()
        about = {"format_version": FORMAT_VERSION, "step": step, "bytes": size, "crc32": _crc32(temporary / "state.pt")}
        write_text(temporary / "about.json", json.dumps(about) + "\n")
    except (OSError, RuntimeError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        free = shutil.disk_usage(folder).free / 1e6
        raise ValueError(
            f"cannot write checkpoint {final}: {error} ({free:.1f} MB free); whatever was saved before is whole"
        ) from error
    if final.exists():
        shutil.rmtree(final)
    temporary.rename(final)
    sync_folder(folder)
    for old in _steps(folder)[:-keep_last]:
        if not keep_every or _step_of(old) % keep_every:
            shutil.rmtree(old, ignore_errors=True)
    return final


def latest(folder: Path, *, tell: Callable[[str], None] | None = None) -> dict[str, Any] | None:
    """State of the newest whole checkpoint, or None if there is none at all.

    Args:
        tell: called with one line for every torn one passed over.

    Raises:
        ValueError: if it was written by another format version, or all there are are torn.
    """
    import torch

    torn = []
    for path in reversed(_steps(folder)):
        try:
            about = json.loads((path / "about.json").read_text(encoding="utf-8"))
            if about["format_version"] != FORMAT_VERSION:
                raise ValueError(
                    f"{path} has checkpoint format {about['format_version']}, this is {FORMAT_VERSION}; "
                    "finish the run with the version that began it, or start in a new --out"
                )
            size = (path / "state.pt").stat().st_size
            if size != about["bytes"]:
                raise EOFError(f"state.pt has {size} bytes of {about['bytes']}")
            if _crc32(path / "state.pt") != about["crc32"]:
                raise EOFError("state.pt is not what was written: its checksum differs")
            state = torch.load(path / "state.pt", map_location="cpu", weights_only=False)
        except (OSError, EOFError, RuntimeError, KeyError, TypeError, json.JSONDecodeError, UnpicklingError) as error:
            torn.append(path)
            if tell:
                tell(f"checkpoint {path} is torn ({' '.join(str(error).split())[:120]}); going back to the one before")
            continue
        return state
    if torn:
        raise ValueError(
            f"every checkpoint in {folder} is torn, {torn[0].name} the newest of {len(torn)}; "
            "restore one, or remove the folder to start this stage anew"
        )
    return None


def _crc32(path: Path) -> int:
    found = 0
    with path.open("rb") as file:
        while block := file.read(1 << 24):
            found = zlib.crc32(block, found)
    return found


def aside(path: Path) -> Path:
    """The name under which this process writes what will stand at `path`; what killed processes left so named goes."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.*"):
        process = left.suffix[1:]
        if process.isdigit() and not _lives(int(process)):
            shutil.rmtree(left, ignore_errors=True) if left.is_dir() else left.unlink(missing_ok=True)
    return path.with_name(f".{path.name}.{os.getpid()}")


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        pass
    return True


def write_text(path: Path, text: str) -> None:
    """Replace a small file atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = aside(path)
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make a rename in `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _check_room(folder: Path, step: int, size: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if free < size:
        raise ValueError(
            f"checkpoint {folder / f'step-{step:08d}'} takes {size / 1e6:,.1f} MB and {free / 1e6:,.1f} MB are free; "
            "whatever was saved before is whole: free some space and run the same command again"
        )


def _size(state: Any) -> int:
    """Bytes of the tensors in it."""
    if isinstance(state, dict):
        return sum(_size(value) for value in state.values())
    if isinstance(state, (list, tuple)):
        return sum(_size(value) for value in state)
    return int(getattr(state, "nbytes", 0))


def _copied(state: Any) -> Any:
    """The same with its tensors copied to main memory: training changes them in place."""
    import torch

    if isinstance(state, torch.Tensor):
        return state.detach().cpu().clone() if state.device.type == "cpu" else state.detach().cpu()
    if isinstance(state, dict):
        return {key: _copied(value) for key, value in state.items()}
    if isinstance(state, (list, tuple)):
        return type(state)(_copied(value) for value in state)
    return state


def _steps(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(p for p in folder.iterdir() if re.fullmatch(r"step-\d+", p.name))


def _step_of(path: Path) -> int:
    return int(path.name.removeprefix("step-"))
