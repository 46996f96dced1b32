"""Training checkpoints: atomic, newest wins, old ones swept.

A checkpoint is a folder `step-00000120/` with `state.pt` (weights, optimizer, data cursor, RNG: whatever the stage
gives) and is published by one rename, so a kill at any moment leaves the last whole one.
Left out: asynchronous and sharded writing.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import Any

FORMAT_VERSION = 1


def save(folder: Path, step: int, state: dict[str, Any], *, keep_last: int = 2) -> Path:
    """Write `folder/step-N` whole or not at all; sweep all but the newest `keep_last`.

    Raises:
        ValueError: if the disk has no room for it (nothing is lost).
    """
    import torch

    folder.mkdir(parents=True, exist_ok=True)
    final, temporary = folder / f"step-{step:08d}", folder / f".writing-{os.getpid()}"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        with (temporary / "state.pt").open("wb") as file:
            torch.save({"format_version": FORMAT_VERSION, "step": step, "state": state}, file)
            file.flush()
            os.fsync(file.fileno())
    except (OSError, RuntimeError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        free = shutil.disk_usage(folder).free / 1e6
        raise ValueError(
            f"cannot write checkpoint {final}: {error} ({free:.0f} MB free); the one before it is whole"
        ) from error
    if final.exists():
        shutil.rmtree(final)
    temporary.rename(final)
    sync_folder(folder)
    for old in _steps(folder)[:-keep_last]:
        shutil.rmtree(old, ignore_errors=True)
    return final


def latest(folder: Path) -> dict[str, Any] | None:
    """State of the newest whole checkpoint, or None.

    Raises:
        ValueError: if it was written by another format version.
    """
    import torch

    for path in reversed(_steps(folder)):
        if not (path / "state.pt").is_file():
            continue
        saved = torch.load(path / "state.pt", map_location="cpu", weights_only=False)
        if saved["format_version"] != FORMAT_VERSION:
            raise ValueError(f"{path} has checkpoint format {saved['format_version']}, this is {FORMAT_VERSION}")
        return saved["state"]
    return None


def write_text(path: Path, text: str) -> None:
    """Replace a small file atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make a rename in `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _steps(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(p for p in folder.iterdir() if re.fullmatch(r"step-\d+", p.name))
