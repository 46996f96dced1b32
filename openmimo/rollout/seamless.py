"""When to launch, stop and select: the Seamless Rollout Engine's decisions (MiMo 3.4.1, decisions 0007 and 0008).

A state machine without clock, I/O or random numbers. Groups have launch numbers, the order in which naive dynamic
sampling would take them; in which order they really start is decided here. The driver reports what happened; the
machine says what to do. Whatever the order of the reports, the selection is a function of the groups' validity by
launch number alone: the same batch as the barriered rule (`rollout.baselines`).

What is wanted at any moment is a prefix: the launch numbers below `wanted()`, the shortest prefix that is expected, or
with `risk` is all but sure, to hold a full batch, given the outcomes so far. Beyond the paper:

* predictive launch: `risk` is the probability of falling short that is accepted. All that is wanted starts at once.
* longest first: with `length`, a long group starts early enough to end with the rest. Where everything can start at
  once the longest starts first; where room is short the others keep their launch order, so that the prefix is judged
  early and a length that was not foreseen falls into the tail of late launches alone (decision 0041).
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

Decision = Literal["launch", "wait", "stop"]

EXACT = 64
"""Undecided groups up to which the chance of a full batch is computed exactly; beyond it is normal to two digits."""

TAIL = 1.3
"""A step is taken to last so many times what its load would with all workers busy throughout: ours, decision 0041."""


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
        length: launch number -> expected time to generate, in any unit, at least 0; see "longest first" above. None:
            in launch order.
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
        self._deviations = 0.0 if risk is None else NormalDist().inv_cdf(1.0 - risk)
        self._chances: list[float] = []
        self._started: set[int] = set()
        self._generating: set[int] = set()
        self._outcomes: dict[int, bool | None] = {}
        self._num_valid = 0
        # The prefix of judged groups, grown as reports come in; it never grows past the B-th valid group.
        self._prefix_end = 0
        self._selected: list[int] = []
        # What is wanted: the end of the prefix, and what is known and believed of the groups below it.
        self._end = self._valid_below = self._undecided = 0
        self._mean = self._variance = 0.0
        self._wanted: int | None = None
        self._first_wanted, self._load = 0, 0.0
        # Numbers that have not started, as (latest start, number): those wanted when last looked at; those beyond.
        self._waiting: list[tuple[float, int]] = []
        self._beyond: list[int] = []
        self._numbered = 0

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
        if number < self._end:
            self._believe(number, -1)
            self._valid_below += valid is True
        self._wanted = None
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
        """Of what is wanted and has not started, what has to start first; the first of equals."""
        wanted = self.wanted()
        if self._length and not self._numbered:
            workers = self.max_active or math.inf
            self._first_wanted, self._load = wanted, sum(map(self._length, range(wanted))) / workers
        while self._beyond and self._beyond[0] < wanted:
            self._wait(heapq.heappop(self._beyond))
        while self._numbered < wanted:
            self._wait(self._numbered)
            self._numbered += 1
        while self._waiting:
            number = self._waiting[0][1]
            if number not in self._started and number < wanted:
                return number
            heapq.heappop(self._waiting)
            if number not in self._started:
                heapq.heappush(self._beyond, number)
        return None

    def _wait(self, number: int) -> None:
        start = 0.0
        if self._length:
            start = min(self._load * number / self._first_wanted, TAIL * self._load - self._length(number))
        heapq.heappush(self._waiting, (start, number))

    def _shortest_prefix(self) -> int:
        while not self._suffices() and (self.max_launched is None or self._end < self.max_launched):
            self._take(self._end)
        while self._end > self._prefix_end:
            self._leave(self._end - 1)
            if not self._suffices():
                self._take(self._end)
                break
        return self._end

    def _take(self, number: int) -> None:
        """Let the prefix end behind this number, which is next."""
        self._end += 1
        if number in self._outcomes:
            self._valid_below += self._outcomes[number] is True
        else:
            self._believe(number, 1)

    def _leave(self, number: int) -> None:
        """Let the prefix end before this number, which is its last."""
        self._end -= 1
        if number in self._outcomes:
            self._valid_below -= self._outcomes[number] is True
        else:
            self._believe(number, -1)

    def _believe(self, number: int, sign: int) -> None:
        """Count an undecided group in or out."""
        chance = self._chance_of(number)
        self._undecided += sign
        self._mean += sign * chance
        self._variance += sign * chance * (1.0 - chance)

    def _suffices(self) -> bool:
        """Whether the groups below the end are expected, or all but sure, to hold a full batch."""
        needed = self.batch_groups - self._valid_below
        if needed <= 0 or self._undecided < needed:
            return needed <= 0
        if self._risk is None:
            return self._mean >= needed - 1e-9
        if self._undecided > EXACT:
            return self._mean - needed + 0.5 >= self._deviations * math.sqrt(max(0.0, self._variance))
        undecided = (n for n in range(self._prefix_end, self._end) if n not in self._outcomes)
        return _chance_of_fewer(needed, [self._chance_of(n) for n in undecided]) <= self._risk

    def _chance_of(self, number: int) -> float:
        while len(self._chances) <= number:
            chance = self._chance(len(self._chances))
            if not 0.0 < chance <= 1.0:
                raise ValueError(f"the chance of group {len(self._chances)} must lie in (0, 1], got {chance}")
            self._chances.append(chance)
        return self._chances[number]


def _chance_of_fewer(needed: int, chances: list[float]) -> float:
    """P(fewer than `needed` of groups with these chances are valid)."""
    counts = [1.0] + [0.0] * (needed - 1)
    for chance in chances:
        for count in range(needed - 1, 0, -1):
            counts[count] += chance * (counts[count - 1] - counts[count])
        counts[0] *= 1.0 - chance
    return sum(counts)
