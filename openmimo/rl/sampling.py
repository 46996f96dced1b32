"""Which problem next, and which groups count: dynamic sampling and the easy pool (MiMo 3.3, 3.3.2).

Pure: the RNG is a key, not a stream, so a draw depends on (seed, step, launch number) alone, whatever was drawn before.
Order and pool are frozen within a step; after it moves are applied from the selected prefix only (decision 0007, 0009).
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from openmimo.types import Group, Problem

EPSILON = 1e-6
Solved = Literal["pool", "drop", "keep"]
"""What becomes of a problem whose pass rate reaches 1. `pool`: the easy pool of MiMo 3.3.2. `drop`: it is not drawn
again while others are left. `keep`: it stays in the main set."""


def is_valid(rewards: Sequence[float]) -> bool:
    """Whether a group teaches anything: max - min > 1e-6 (decision 0005)."""
    return max(rewards) - min(rewards) > EPSILON


def is_easy(rewards: Sequence[float]) -> bool:
    """Whether every response earned full marks."""
    return min(rewards) > 1.0 - EPSILON


@dataclass
class ProblemPool:
    """Main set and easy pool, with the cursor that walks a fresh permutation each epoch."""

    problems: Sequence[Problem]
    seed: int
    alpha: float = 0.1  # MiMo 3.3.2
    cursor: int = 0
    easy: list[str] = field(default_factory=list)
    """Ids in the order they entered: pooled, or dropped."""
    solved: Solved = "pool"

    def __post_init__(self) -> None:
        if not self.problems:
            raise ValueError("no problems left to train on; 0 is too few, relax the pass-rate filter")
        self._by_id = {p.id: p for p in self.problems}
        self._orders: dict[int, list[int]] = {}

    def draws(self, step: int) -> Draws:
        """The step's frozen view: launch number -> problem."""
        return Draws(self, step)

    def apply(self, step: int, prefix: Sequence[Group], draws: Draws) -> None:
        """Move problems and the cursor by what the selected prefix showed, in launch order.

        A group without rewards, dropped for the judge's own fault, moves nothing.
        """
        for group in prefix:
            if not group.rewards:
                continue
            known = group.problem.id in self.easy
            if is_easy(group.rewards):
                if not known and self.solved != "keep":
                    self.easy.append(group.problem.id)
            elif known and group.stratum == "easy":
                self.easy.remove(group.problem.id)
        self.cursor = draws.cursor_after(len(prefix))

    def main(self, index: int) -> Problem:
        """The index-th problem of the endless sequence of seeded permutations."""
        epoch, at = divmod(index, len(self.problems))
        if epoch not in self._orders:
            order = list(range(len(self.problems)))
            random.Random(_key(self.seed, "order", epoch)).shuffle(order)
            self._orders = {epoch: order}
        return self.problems[self._orders[epoch][at]]

    def by_id(self, problem_id: str) -> Problem:
        return self._by_id[problem_id]

    def state_dict(self) -> dict[str, Any]:
        return {"cursor": self.cursor, "easy": list(self.easy)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.cursor, self.easy = state["cursor"], list(state["easy"])


class Draws:
    """One step's problems by launch number; problems now in the easy pool are passed over in the main order."""

    def __init__(self, pool: ProblemPool, step: int) -> None:
        self._pool, self._step = pool, step
        self._easy = list(pool.easy)
        self._drawn: list[tuple[Problem, str]] = []
        self._cursors = [pool.cursor]

    def __call__(self, launch: int) -> tuple[Problem, str]:
        """(problem, stratum) of a launch number; stratum is `main` or `easy`."""
        while len(self._drawn) <= launch:
            self._drawn.append(self._next(len(self._drawn)))
        return self._drawn[launch]

    def cursor_after(self, launches: int) -> int:
        """Where the main order stands after the first `launches` launches."""
        if launches:
            self(launches - 1)
        return self._cursors[launches]

    def _next(self, launch: int) -> tuple[Problem, str]:
        pool, cursor = self._pool, self._cursors[-1]
        rng = random.Random(_key(pool.seed, "draw", self._step, launch))
        everything_easy = len(self._easy) >= len(pool.problems)
        if self._easy and (everything_easy or (pool.solved == "pool" and rng.random() < pool.alpha)):
            self._cursors.append(cursor)
            return pool.by_id(rng.choice(self._easy)), "easy"
        hidden = set(self._easy)
        while pool.main(cursor).id in hidden:
            cursor += 1
        self._cursors.append(cursor + 1)
        return pool.main(cursor), "main"


def _key(*parts: object) -> int:
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "little")
