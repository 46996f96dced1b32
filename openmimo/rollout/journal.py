"""Finished groups of a running step on disk, so that a kill loses none of them (MiMo 3.4).

RUN/rollouts/groups-STEP.jsonl: a line with the key (seed, step, policy version), then a judged group a line, appended
as it is judged. A line torn by a kill is no line. Token ids and log-probabilities are the base64 of their int64 and
float64, so that they come back bit for bit and a long group is written in milliseconds.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import os
import re
from array import array
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from openmimo.types import Group, Problem, Rollout, TestResult, Verdict

PACKED = {"prompt_ids": "q", "token_ids": "q", "logprobs": "d", "raw_logprobs": "d"}
"""Fields of a rollout that are written as base64, with their array's type code."""


class Journal:
    """The judged groups of one step. A context manager; `groups` are those an earlier process has left.

    A file under another key, written before the run went back to an earlier step, is begun anew.

    Args:
        folder: RUN/rollouts.
        problem: id -> the problem, which is not written; KeyError for one that there is no more.
    """

    def __init__(
        self, folder: Path, *, seed: int, step: int, policy_version: int, problem: Callable[[str], Problem]
    ) -> None:
        self.path = folder / f"groups-{step:08d}.jsonl"
        self.groups: dict[int, Group] = {}
        """By launch number."""
        folder.mkdir(parents=True, exist_ok=True)
        key = {"seed": seed, "step": step, "policy_version": policy_version}
        rows = _whole_rows(self.path)
        if rows and rows[0][0] == key:
            for row, _ in rows[1:]:
                group = _group(row, problem)
                self.groups[group.launch] = group
            os.truncate(self.path, rows[-1][1])
            self._file = self.path.open("a", encoding="utf-8")
        else:
            self._file = self.path.open("w", encoding="utf-8")
            self._write(key)

    def add(self, group: Group) -> None:
        """Write a judged group; it is out of this process's hands when this returns."""
        self._write(_row(group))

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _write(self, row: dict[str, Any]) -> None:
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()


def keep_steps(folder: Path, steps: set[int]) -> None:
    """Remove the journals of all other steps: a resume can no longer begin at them, or goes to before them."""
    for path in folder.glob("groups-*.jsonl") if folder.is_dir() else ():
        found = re.fullmatch(r"groups-(\d+)\.jsonl", path.name)
        if found and int(found[1]) not in steps:
            path.unlink()


def _row(group: Group) -> dict[str, Any]:
    return {
        "launch": group.launch,
        "stratum": group.stratum,
        "problem": group.problem.id,
        "rollouts": [
            {
                name: base64.b64encode(array(PACKED[name], value)).decode() if name in PACKED else value
                for name, value in ((f.name, getattr(rollout, f.name)) for f in dataclasses.fields(rollout))
            }
            for rollout in group.rollouts
        ],
        "verdicts": [dataclasses.asdict(verdict) for verdict in group.verdicts],
        "rewards": group.rewards,
    }


def _group(row: dict[str, Any], problem: Callable[[str], Problem]) -> Group:
    verdicts = (
        Verdict(**{**verdict, "tests": tuple(TestResult(**test) for test in verdict["tests"])})
        for verdict in row["verdicts"]
    )
    return Group(
        problem(row["problem"]),
        tuple(Rollout(**{name: _field(name, value) for name, value in rollout.items()}) for rollout in row["rollouts"]),
        tuple(verdicts),
        launch=row["launch"],
        stratum=row["stratum"],
        rewards=tuple(row["rewards"]),
    )


def _field(name: str, value: Any) -> Any:
    if name in PACKED:
        numbers = array(PACKED[name])
        numbers.frombytes(base64.b64decode(value))
        return tuple(numbers)
    return _tuples(value)


def _tuples(value: Any) -> Any:
    """JSON's lists as the tuples they were."""
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


def _whole_rows(path: Path) -> list[tuple[dict[str, Any], int]]:
    """Rows up to the first that is torn, and where in the file each ends."""
    found: list[tuple[dict[str, Any], int]] = []
    if path.is_file():
        end = 0
        for line in path.read_bytes().split(b"\n")[:-1]:
            end += len(line) + 1
            try:
                found.append((json.loads(line), end))
            except ValueError:
                break
    return found
