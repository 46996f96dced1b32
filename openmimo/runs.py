"""Looking at runs from outside: which there are, how far they are, and asking one to stop."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

from openmimo.config import missing_file
from openmimo.log import read_metrics


def find_runs(folder: Path) -> list[Path]:
    """Run folders in `folder`, or itself if it is one, oldest first.

    Raises:
        ValueError: if there is no such folder.
    """
    if not folder.is_dir():
        raise missing_file(folder)
    if (folder / "run.json").is_file():
        return [folder]
    return sorted((p.parent for p in folder.glob("*/run.json")), key=lambda p: (p / "run.json").stat().st_mtime)


def survey(folder: Path) -> list[dict[str, Any]]:
    """`status` of every run of `find_runs`; of one that cannot be read `run` and `error`."""
    found = []
    for run in find_runs(folder):
        try:
            found.append(status(run))
        except ValueError as error:
            found.append({"run": str(run), "error": str(error)})
    return found


def status(run: Path) -> dict[str, Any]:
    """How far a run is.

    Returns:
        recipe, seed; `process`: the id of the one at work, or None; stages `done`; and of the stage last logged its
        name, step, tokens, loss, tokens_per_s and, in pre-training, share of the whole and seconds_left.

    Raises:
        ValueError: if the folder holds no run.
    """
    path = run / "run.json"
    if not path.is_file():
        raise missing_file(run) if not run.exists() else ValueError(f"{run} holds no run: run.json is missing")
    about = _read(path)
    state = run / "state.json"
    done = list(_read(state)) if state.is_file() else []
    found: dict[str, Any] = {
        "run": str(run), "recipe": about["recipe"], "seed": about["seed"], "process": owner(run), "done": done,
    }  # fmt: skip
    rows = read_metrics(run)
    if not rows:
        return found
    last = rows[-1]
    recent = [r for r in rows[-20:] if r["stage"] == last["stage"]]
    rates = sorted(r["timing"]["tokens_per_s"] for r in recent if "tokens_per_s" in r["timing"])
    found |= {"stage": last["stage"], "step": last["step"], "tokens": last["tokens"], "loss": last.get("loss")}
    if rates:
        found["tokens_per_s"] = rates[len(rates) // 2]
    if last["stage"] == "pretrain":
        total = about["config"]["pretrain"]["stages"][-1]["until_tokens"]
        found["share"] = min(1.0, last["tokens"] / total)
        if rates and "pretrain" not in done:
            found["seconds_left"] = max(0.0, total - last["tokens"]) / found["tokens_per_s"]
    return found


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}; restore it, or remove the folder") from error


def owner(run: Path) -> int | None:
    """Id of the process that works in the run folder, or None."""
    try:
        lock = (run / "lock").open("r")
    except OSError:
        return None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            text = lock.read().strip()
            return int(text) if text.isdigit() else None
    return None


def stop(run: Path, *, wait_s: float = 600.0) -> str:
    """Ask the process at work to save and end, and wait until it has.

    Returns:
        What happened, in one line.

    Raises:
        ValueError: if the folder holds no run, none is at work there, it belongs to someone else, or it has not ended
            in time.
    """
    process = status(run)["process"]
    if process is None:
        raise ValueError(f"no process is at work in {run}; nothing to stop")
    try:
        os.kill(process, signal.SIGTERM)
    except PermissionError as error:
        raise ValueError(f"process {process} in {run} belongs to another user; ask them, or root") from error
    except ProcessLookupError:
        pass
    ends = time.monotonic() + wait_s
    while owner(run) == process:
        if time.monotonic() > ends:
            raise ValueError(f"process {process} in {run} has not ended after {wait_s:.0f} s; it still works")
        time.sleep(0.05)
    return f"process {process} has ended; the command that began {run} goes on where it was"


def line(found: dict[str, Any]) -> str:
    """One run for a person."""
    if "error" in found:
        return f"{found['run']}: cannot be read, {found['error']}"
    where = f"process {found['process']}" if found["process"] else "at rest"
    parts = [f"{found['run']}: {found['recipe']}, seed {found['seed']}, {where}"]
    parts.append("done " + (", ".join(found["done"]) or "nothing yet"))
    if "stage" in found:
        loss = "" if found["loss"] is None else f", loss {found['loss']:.4f}"
        parts.append(f"{found['stage']} step {found['step']:,}, {found['tokens']:,} tokens{loss}")
    if "tokens_per_s" in found:
        parts.append(f"{found['tokens_per_s']:,.0f} tokens/s")
    if "seconds_left" in found:
        parts.append(f"{found['share']:.0%} of pre-training, {found['seconds_left'] / 60:,.1f} min left")
    return "; ".join(parts)
