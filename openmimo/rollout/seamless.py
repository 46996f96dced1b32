"""When to launch, stop and select: the Seamless Rollout Engine's decisions (MiMo 3.4.1, decisions 0007 and 0008).

A state machine without clock, I/O or random numbers. Groups are numbered at launch, from 0. The driver reports what
happened; the machine says what to do. Whatever the order of the reports, the selection is a function of the groups'
validity by launch number alone: the same batch as the barriered rule `barriered`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

Decision = Literal["launch", "wait", "stop"]


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
    """Launch by expectation, stop at a launch-order prefix, select its first valid groups.

    Args:
        batch_groups: B, valid groups a batch holds.
        priors: stratum -> P(a group is valid), 0 < P <= 1, fixed within the step (decision 0008).
        max_active: groups that may generate at once, i.e. workers; None is no limit. A group whose rollouts are
            done holds no worker while its reward is pending.
        max_launched: give up after so many groups and select what there is, so that a policy without a single valid
            group ends in a short batch instead of a loop without end; None is no limit.
    """

    def __init__(
        self,
        batch_groups: int,
        priors: Mapping[str, float],
        *,
        max_active: int | None,
        max_launched: int | None = None,
    ) -> None:
        if batch_groups < 1:
            raise ValueError(f"batch_groups must be at least 1, got {batch_groups}")
        for name, limit in (("max_active", max_active), ("max_launched", max_launched)):
            if limit is not None and limit < 1:
                raise ValueError(f"{name} must be at least 1 or None, got {limit}")
        for stratum, probability in priors.items():
            if not 0.0 < probability <= 1.0:
                raise ValueError(f"the prior of stratum {stratum!r} must lie in (0, 1], got {probability}")
        self.batch_groups = batch_groups
        self.max_active = max_active
        self.max_launched = max_launched
        self._priors = dict(priors)
        self._strata: list[str] = []
        self._generating: set[int] = set()
        self._pending: set[int] = set()  # launched and not judged: generating or waiting for a reward
        self._outcomes: dict[int, bool | None] = {}
        self._num_valid = 0
        # The prefix of judged groups, grown as reports come in; it never grows past the B-th valid group.
        self._prefix_end = 0
        self._selected: list[int] = []

    def decide(self, next_stratum: str) -> Decision:
        """What to do now, if the next group to launch came from `next_stratum`.

        Call again after every launch and every report; `wait` stands until the next report.
        """
        if self._full():
            return "stop"
        if self.max_launched is not None and len(self._strata) >= self.max_launched:
            return "wait" if self._pending else "stop"
        if self.max_active is not None and len(self._generating) >= self.max_active:
            return "wait"
        self._prior(next_stratum)
        return "launch" if self.expected() < self.batch_groups - 1e-9 else "wait"

    def expected(self) -> float:
        """Valid groups, plus those the active ones are expected to give."""
        return self._num_valid + sum(self._priors[self._strata[number]] for number in sorted(self._pending))

    def launched(self, stratum: str) -> int:
        """A group of this stratum has started; its launch number, from 0."""
        self._prior(stratum)
        number = len(self._strata)
        self._strata.append(stratum)
        self._generating.add(number)
        self._pending.add(number)
        return number

    def finished(self, number: int) -> None:
        """All rollouts of the group are done; its reward is pending and its worker free."""
        if number not in self._generating:
            raise ValueError(f"group {number} is not generating; those that are: {sorted(self._generating)}")
        self._generating.remove(number)

    def judged(self, number: int, valid: bool | None) -> None:
        """The group's reward is in. None: an internal error that stayed; the group is dropped and counted."""
        if number not in self._pending or number in self._generating:
            raise ValueError(f"group {number} does not wait for a reward; those that do: {self._waiting()}")
        self._pending.remove(number)
        self._outcomes[number] = valid
        self._num_valid += valid is True
        while not self._full() and self._prefix_end in self._outcomes:
            if self._outcomes[self._prefix_end] is True:
                self._selected.append(self._prefix_end)
            self._prefix_end += 1

    def selected(self) -> tuple[int, ...]:
        """Launch numbers of the batch, ascending: the first B valid ones of the judged prefix (fewer before stop)."""
        return tuple(self._selected)

    def prefix_end(self) -> int:
        """Launch number to which the problem cursor is to be rewound: the first one outside the prefix."""
        return self._prefix_end

    def prefix_outcomes(self) -> tuple[tuple[str, bool | None], ...]:
        """(stratum, valid) of every group in the prefix, in launch order: what `Prior.update` takes."""
        return tuple((self._strata[number], self._outcomes[number]) for number in range(self._prefix_end))

    def to_abort(self) -> tuple[int, ...]:
        """Launch numbers, ascending, that are still running or unjudged."""
        return tuple(sorted(self._pending))

    def stats(self) -> Stats:
        return Stats(
            launched=len(self._strata),
            judged=len(self._outcomes),
            valid=self._num_valid,
            dropped=sum(valid is None for valid in self._outcomes.values()),
            aborted=len(self._pending),
            waste=max(0, self._num_valid - self.batch_groups) / self.batch_groups,
        )

    def _full(self) -> bool:
        return len(self._selected) >= self.batch_groups

    def _waiting(self) -> list[int]:
        return sorted(self._pending - self._generating)

    def _prior(self, stratum: str) -> float:
        if stratum not in self._priors:
            raise ValueError(f"no prior for stratum {stratum!r}; known: {', '.join(sorted(self._priors))}")
        return self._priors[stratum]


class Prior:
    """P(a group is valid) by stratum, kept across steps (decision 0008).

    A mean with decaying memory: every outcome has weight 1 and loses a factor `decay` with each later one of its
    stratum; the initial value counts as `initial_weight` outcomes. Update it from a step's selected prefix alone, in
    launch order: an estimate from whatever finished first is biased and runs away (simulated: 233 % waste).

    Args:
        initial: stratum -> P before anything is known.
        decay: memory, in (0, 1]; 0.99 remembers about 100 groups.
        floor: smallest P handed out, so that a stratum without luck cannot ask for endless launches.
    """

    def __init__(
        self,
        initial: Mapping[str, float],
        *,
        decay: float = 0.99,
        initial_weight: float = 8.0,
        floor: float = 0.05,
    ) -> None:
        for stratum, value in initial.items():
            if not 0.0 < value <= 1.0:
                raise ValueError(f"the initial prior of {stratum!r} must lie in (0, 1], got {value}")
        if not 0.0 < decay <= 1.0 or not 0.0 < floor <= 1.0 or initial_weight <= 0.0:
            raise ValueError(
                f"expected 0 < decay <= 1, 0 < floor <= 1, initial_weight > 0; got {decay}, {floor}, {initial_weight}"
            )
        self.decay = decay
        self.floor = floor
        self._weights = dict.fromkeys(initial, initial_weight)
        self._valid = {stratum: value * initial_weight for stratum, value in initial.items()}

    def probabilities(self) -> dict[str, float]:
        """Stratum -> P, what `Seamless` takes."""
        return {name: max(self.floor, min(1.0, self._valid[name] / self._weights[name])) for name in self._weights}

    def update(self, outcomes: Iterable[tuple[str, bool | None]]) -> None:
        """Learn from (stratum, valid) in launch order; None (dropped) teaches nothing."""
        for stratum, valid in outcomes:
            if stratum not in self._weights:
                raise ValueError(f"no prior for stratum {stratum!r}; known: {', '.join(sorted(self._weights))}")
            if valid is None:
                continue
            self._weights[stratum] = self.decay * self._weights[stratum] + 1.0
            self._valid[stratum] = self.decay * self._valid[stratum] + float(valid)

    def state(self) -> dict[str, Any]:
        """Plain JSON types, for a checkpoint."""
        return {
            "decay": self.decay,
            "floor": self.floor,
            "weights": dict(self._weights),
            "valid": dict(self._valid),
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Prior:
        prior = cls({}, decay=state["decay"], floor=state["floor"])
        prior._weights = dict(state["weights"])
        prior._valid = dict(state["valid"])
        return prior


@dataclass(frozen=True, slots=True)
class Barriered:
    """What the barriered rule did."""

    selected: tuple[int, ...]
    prefix_end: int
    launched: int


def barriered(
    outcome: Callable[[int], bool | None],
    batch_groups: int,
    *,
    round_groups: int | None = None,
    max_launched: int | None = None,
) -> Barriered:
    """Naive dynamic sampling: whole rounds, each judged to its end, until there are B valid groups.

    Args:
        outcome: launch number -> validity (None: dropped).
        batch_groups: B.
        round_groups: groups a round; B if None.
        max_launched: as in `Seamless`.
    """
    outcomes: list[bool | None] = []
    while sum(valid is True for valid in outcomes) < batch_groups:
        if max_launched is not None and len(outcomes) >= max_launched:
            break
        wanted = len(outcomes) + (round_groups or batch_groups)
        end = wanted if max_launched is None else min(wanted, max_launched)
        outcomes += [outcome(number) for number in range(len(outcomes), end)]
    selected = tuple(number for number, valid in enumerate(outcomes) if valid is True)[:batch_groups]
    prefix_end = selected[-1] + 1 if len(selected) == batch_groups else len(outcomes)
    return Barriered(selected, prefix_end, len(outcomes))
