"""A run folder: one lock, one recipe, one seed, the stages done.

DIR/lock            held while a process works here
DIR/run.json        recipe name, seed, resolved config
DIR/state.json      stages finished, with what each left behind
DIR/metrics.jsonl, DIR/tensorboard/, DIR/evaluation.json, DIR/summary.json, DIR/report.html, DIR/samples/
DIR/data/, DIR/checkpoints/{stage}/, DIR/models/{base,sft,rl}/     outputs of the stages
"""

from __future__ import annotations

import fcntl
import json
import os
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from openmimo.checkpoint import write_text
from openmimo.config import differences, to_dict
from openmimo.log import say

FREE = (
    "threads checkpoint_every keep_last keep_every validate_every micro_rows chunk_tokens compile recompute shard "
    "guard.sigmas guard.window guard.least guard.patience num_engines stream_updates show_every num_shown "
    "no_groups_steps not_finite_updates collapsed_steps"
).split()
"""Settings, by the end of their name, that say how a run is computed, kept and watched, not what is learnt from what:
they may differ when it goes on. Only last bits can change by them, and which spikes are left out."""

STEERED = "learning_rate warmup_steps clip mtp_weight".split()
"""Settings, likewise, that someone may want to change in the middle, and that nobody should change unawares."""


class RunRefused(ValueError):
    """This folder is not ours to work in: another process, recipe, seed or setting."""


@dataclass
class Run:
    """An opened run folder. Use as a context manager: it holds the lock."""

    folder: Path
    recipe: str
    seed: int
    config: Any
    leads: bool = True
    """False on all ranks but the first, which holds the lock and writes; the others read."""
    accept_changes: bool = False
    """Whether settings of STEERED may differ from those the run began with, too."""

    def __enter__(self) -> Run:
        if not self.leads:
            return self
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunRefused(f"cannot make run folder {self.folder}: {error.strerror}") from error
        self._lock = (self.folder / "lock").open("a+")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._lock.seek(0)
            owner = self._lock.read().strip() or "unknown"
            self._lock.close()
            raise RunRefused(
                f"{self.folder} is in use by process {owner}; wait for it or choose another --out"
            ) from error
        self._lock.truncate(0)
        self._lock.write(str(os.getpid()))
        self._lock.flush()
        try:
            self._claim()
        except BaseException:
            self._lock.close()
            raise
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.leads:
            self._lock.close()

    def done(self, stage: str) -> bool:
        return stage in self.state()

    def state(self) -> dict[str, Any]:
        """Stage name -> what it left behind, in the order they finished."""
        return _read(self.folder / "state.json")

    def finish(self, stage: str, result: dict[str, Any]) -> None:
        """Record a finished stage, durably."""
        if self.leads:
            write_text(self.folder / "state.json", json.dumps({**self.state(), stage: result}, indent=2) + "\n")

    def _claim(self) -> None:
        mine = {"recipe": self.recipe, "seed": self.seed, "config": json.loads(json.dumps(to_dict(self.config)))}
        path = self.folder / "run.json"
        if path.is_file():
            theirs = _read(path)
            earlier = theirs.pop("changes", [])
            changed = differences(theirs, mine)
            if not changed:
                return
            bound = [key for line in changed if not _ends_in(key := line.split(":")[0], FREE)]
            more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
            short = f"{'; '.join(changed[:3])}{more}"
            if not all(_ends_in(key, STEERED) for key in bound):
                raise RunRefused(f"{self.folder} holds another run ({short}); choose another --out")
            if bound and not self.accept_changes:
                raise RunRefused(
                    f"{self.folder} began otherwise ({short}); choose another --out, or go on so with --accept-changes"
                )
            say(f"{self.folder} goes on with {short}")
            mine["changes"] = [*earlier, {"stages_done": list(self.state()), "changed": changed}]
        write_text(path, json.dumps(mine, indent=2) + "\n")


def _ends_in(key: str, names: list[str]) -> bool:
    return any(key.endswith(f".{name}") for name in names)


def _read(path: Path) -> dict[str, Any]:
    """A JSON object; {} if the file is not there."""
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}; choose another --out") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} is a {type(found).__name__}, expected an object; choose another --out")
    return found
