"""When to launch, stop and select: the Seamless Rollout Engine's decisions (MiMo 3.4.1, decisions 0007 and 0008).

A state machine without clock, I/O or random numbers. Groups have launch numbers, the order in which naive dynamic
sampling would take them; in which order they really start is decided here. The driver reports what happened; the
machine says what to do. Whatever the order of the reports, the selection is a function of the groups' validity by
launch number alone: the same batch as the barriered rule (`rollout.baselines`).

What is wanted at any moment is a prefix: the launch numbers below `wanted()`, the shortest prefix that is expected, or
with `risk` is all but sure, to hold a full batch, given the outcomes so far. Beyond the paper:

* predictive launch: `risk` is the probability of falling short that is accepted. All that is wanted starts at once.
* longest first: with `length`, of what is wanted and has not started the longest starts first.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

Decision = Literal["launch", "wait", "stop"]

EXACT = 64
"""Undecided groups up to which the chance of a full batch is computed exactly; beyond it is normal to two digits."""


@dataclass(frozen=True, slots=True)
class Stats:
    """What a step's rollout cost, in groups."""

    launched: int
    judged: int
    valid: int
    """Valid groups, selected or not."""
    dropped: int
    """Groups lost to an internal error that stayed (decision 0020)."""
    aborted: int
    """Launched, not judged when the batch was full."""
    waste: float
    """Valid groups made beyond the batch / batch (MiMo Table 2)."""


class Seamless:
    """Launch what is wanted, stop at a launch-order prefix, select its first valid groups.

    Args:
        batch_groups: B, valid groups a batch holds.
        chance: launch number -> P(the group is valid), in (0, 1], fixed within the step (decision 0008).
        max_active: groups that may generate at once, i.e. workers; None is no limit. A group whose rollouts are
            done holds no worker while its reward is pending.
        max_launched: give up after so many groups and select what there is, so that a policy without a single valid
            group ends in a short batch instead of a loop without end; None is no limit.
        risk: accepted probability that what has been launched does not fill the batch, in (0, 1). None: the paper's
            rule, launch while less than B are expected.
        length: launch number -> expected cost, in any unit; what is longest starts first. None: in launch order.
    """

    def __init__(
        self,
        batch_groups: int,
        chance: Callable[[int], float],
        *,
        max_active: int | None,
        max_launched: int | None = None,
        risk: float | None = None,
        length: Callable[[int], float] | None = None,
    ) -> None:
        if batch_groups < 1:
            raise ValueError(f"batch_groups must be at least 1, got {batch_groups}")
        for name, limit in (("max_active", max_active), ("max_launched", max_launched)):
            if limit is not None and limit < 1:
                raise ValueError(f"{name} must be at least 1 or None, got {limit}")
        if risk is not None and not 0.0 < risk < 1.0:
            raise ValueError(f"risk must lie in (0, 1) or be None, got {risk}")
        self.batch_groups, self.max_active, self.max_launched = batch_groups, max_active, max_launched
        self._chance, self._length, self._risk = chance, length, risk
        self._chances: list[float] = []
        self._started: set[int] = set()
        self._generating: set[int] = set()
        self._outcomes: dict[int, bool | None] = {}
        self._num_valid = 0
        # The prefix of judged groups, grown as reports come in; it never grows past the B-th valid group.
        self._prefix_end = 0
        self._selected: list[int] = []
        self._wanted: int | None = None
        self._next: int | None = None

    def decide(self) -> Decision:
        """What to do now. Call again after every launch and every report; `wait` stands until the next report."""
        if self._full():
            return "stop"
        if self._upcoming() is None:
            return "wait" if len(self._outcomes) < len(self._started) else "stop"
        if self.max_active is not None and len(self._generating) >= self.max_active:
            return "wait"
        return "launch"

    def next_launch(self) -> int:
        """The launch number to start now; only after `decide` said `launch`."""
        upcoming = self._upcoming()
        assert upcoming is not None
        return upcoming

    def wanted(self) -> int:
        """End of the prefix that should be under way: see above."""
        if self._wanted is None:
            self._wanted = self._shortest_prefix()
        return self._wanted

    def launched(self, number: int) -> None:
        """A group has started to generate."""
        if number in self._started:
            raise ValueError(f"group {number} has been launched before")
        self._started.add(number)
        self._generating.add(number)
        self._next = None

    def finished(self, number: int) -> None:
        """All rollouts of the group are done; its reward is pending and its worker free."""
        if number not in self._generating:
            raise ValueError(f"group {number} is not generating; those that are: {sorted(self._generating)}")
        self._generating.remove(number)

    def judged(self, number: int, valid: bool | None) -> None:
        """The group's reward is in. None: an internal error that stayed; the group is dropped and counted."""
        if number not in self._started or number in self._generating or number in self._outcomes:
            waiting = sorted(self._started - self._generating - self._outcomes.keys())
            raise ValueError(f"group {number} does not wait for a reward; those that do: {waiting}")
        self._outcomes[number] = valid
        self._num_valid += valid is True
        self._wanted = self._next = None
        while not self._full() and self._prefix_end in self._outcomes:
            if self._outcomes[self._prefix_end] is True:
                self._selected.append(self._prefix_end)
            self._prefix_end += 1

    def selected(self) -> tuple[int, ...]:
        """Launch numbers of the batch, ascending: the first B valid ones of the judged prefix (fewer before stop)."""
        return tuple(self._selected)

    def prefix_end(self) -> int:
        """Launch number to which the problem cursor is to be rewound: the first one outside the judged prefix."""
        return self._prefix_end

    def outcomes(self) -> tuple[bool | None, ...]:
        """Validity of every group in the judged prefix, in launch order: all that later steps may learn from."""
        return tuple(self._outcomes[number] for number in range(self._prefix_end))

    def to_abort(self) -> tuple[int, ...]:
        """Launch numbers, ascending, that are still running or unjudged."""
        return tuple(sorted(self._started - self._outcomes.keys()))

    def stats(self) -> Stats:
        return Stats(
            launched=len(self._started),
            judged=len(self._outcomes),
            valid=self._num_valid,
            dropped=sum(valid is None for valid in self._outcomes.values()),
            aborted=len(self._started) - len(self._outcomes),
            waste=max(0, self._num_valid - self.batch_groups) / self.batch_groups,
        )

    def _full(self) -> bool:
        return len(self._selected) >= self.batch_groups

    def _upcoming(self) -> int | None:
        """Of what is wanted and has not started, the longest; the first of equals."""
        if self._next is None:
            rest = [number for number in range(self._prefix_end, self.wanted()) if number not in self._started]
            length = self._length
            if rest:
                self._next = max(rest, key=lambda n: (length(n), -n)) if length else rest[0]
        return self._next

    def _shortest_prefix(self) -> int:
        chances: list[float] = []  # of the undecided groups so far
        needed, end = self.batch_groups - len(self._selected), self._prefix_end
        full = _Chance(self._risk)
        while not full.of(chances, needed) and (self.max_launched is None or end < self.max_launched):
            if end not in self._outcomes:
                chances.append(self._chance_of(end))
            elif self._outcomes[end] is True:
                needed -= 1
            end += 1
        return end

    def _chance_of(self, number: int) -> float:
        while len(self._chances) <= number:
            chance = self._chance(len(self._chances))
            if not 0.0 < chance <= 1.0:
                raise ValueError(f"the chance of group {len(self._chances)} must lie in (0, 1], got {chance}")
            self._chances.append(chance)
        return self._chances[number]


class _Chance:
    """Whether groups with these chances suffice; called with lists that only grow."""

    def __init__(self, risk: float | None) -> None:
        self._risk = risk
        self._deviations = 0.0 if risk is None else NormalDist().inv_cdf(1.0 - risk)
        self._mean = self._variance = 0.0
        self._taken = 0
        self._counts = [1.0]
        """P(so many of the groups taken are valid), while there are at most EXACT."""

    def of(self, chances: list[float], needed: int) -> bool:
        for chance in chances[self._taken :]:
            self._mean += chance
            self._variance += chance * (1.0 - chance)
            if len(chances) <= EXACT and self._risk is not None:
                counts = [*self._counts, 0.0]
                shifted = [0.0, *self._counts]
                self._counts = [a * (1.0 - chance) + b * chance for a, b in zip(counts, shifted, strict=True)]
        self._taken = len(chances)
        if needed <= 0:
            return True
        if self._risk is None:
            return self._mean >= needed - 1e-9
        if self._taken < needed:
            return False
        if self._taken <= EXACT:
            return sum(self._counts[:needed]) <= self._risk
        return self._mean - needed + 0.5 >= self._deviations * math.sqrt(self._variance)
