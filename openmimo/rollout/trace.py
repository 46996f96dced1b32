"""What a rollout took: when every group ran, and how fast the engine was (RUN/rollouts/trace.jsonl).

All of it depends on the clock; a simulation can replay it. Left out: a step taken up again after a kill, since
part of it ran in another process.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openmimo.rows import read_rows, write_rows


@dataclass(frozen=True, slots=True)
class Span:
    """When a group ran."""

    launch: int
    problem_id: str
    stratum: str
    valid: bool | None
    """None: dropped, or aborted."""
    tokens: tuple[int, ...]
    """Length of each response that came to its end, in sample order."""
    start_s: float
    """First request, from the begin of the step's rollout."""
    rollout_s: float
    """From there to the last response, or to the abort."""
    reward_s: float
    """From the last response to the last verdict; 0 if aborted."""
    aborted: bool

    def row(self, step: int) -> dict[str, Any]:
        """Its line of the trace."""
        return {
            "step": step,
            "launch": self.launch,
            "problem": self.problem_id,
            "stratum": self.stratum,
            "valid": self.valid,
            "tokens": list(self.tokens),
            "start_s": round(self.start_s, 6),
            "rollout_s": round(self.rollout_s, 6),
            "reward_s": round(self.reward_s, 6),
            "aborted": self.aborted,
        }


class Rate:
    """Tokens a second by the number of live requests, measured from the outside of any engine.

    Tokens a request gains in an engine step are taken to be the mean over all that finished: 1 without drafts.
    """

    def __init__(self) -> None:
        self._buckets: dict[int, list[float]] = {}  # log2 of live requests -> [steps, live requests x steps, seconds]
        self._tokens = self._lived = 0

    def step(self, live: int, seconds: float) -> None:
        """An engine step with `live` requests."""
        bucket = self._buckets.setdefault(live.bit_length(), [0.0, 0.0, 0.0])
        bucket[0] += 1
        bucket[1] += live
        bucket[2] += seconds

    def finished(self, tokens: int, steps: int) -> None:
        """A response of `tokens` that took `steps` engine steps."""
        self._tokens += tokens
        self._lived += steps

    def table(self) -> tuple[tuple[float, float], ...]:
        """(mean live requests, tokens a second), by rising live requests, a pair for every factor of two."""
        each = self._tokens / self._lived if self._lived else 0.0
        return tuple(
            (live / steps, each * live / seconds)
            for _, (steps, live, seconds) in sorted(self._buckets.items())
            if seconds
        )


def append(path: Path, step: int, spans: Sequence[Span], **about: Any) -> None:
    """A line for every group in launch order, then one for the step with what `about` says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [*(span.row(step) for span in sorted(spans, key=lambda span: span.launch)), {"step": step, **about}]
    with path.open("a", encoding="utf-8") as file:
        file.write("".join(json.dumps(row) + "\n" for row in rows))


def drop_from(path: Path, step: int) -> None:
    """Forget steps from `step` on, which will be run again, and a torn last line."""
    if not path.is_file():
        return
    data = path.read_bytes()
    whole = data.rfind(b"\n") + 1
    if whole < len(data):
        with path.open("r+b") as file:
            file.truncate(whole)
    rows = list(read_rows(path, ("step",)))
    if any(row["step"] >= step for row in rows):
        write_rows(path, [row for row in rows if row["step"] < step])
