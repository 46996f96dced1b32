"""What the Seamless Rollout Engine is compared with: naive dynamic sampling, and taking whatever is done first.

Machines with the interface of `seamless.Seamless`, so that driver and simulator run them alike.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from openmimo.rollout.seamless import Decision, Seamless


class Rounds(Seamless):
    """Naive dynamic sampling: whole rounds, each judged to its end, until there are B valid groups.

    Args:
        round_groups: groups a round; B if None.
        max_active, max_launched: as in `Seamless`.
    """

    def __init__(
        self,
        batch_groups: int,
        *,
        round_groups: int | None = None,
        max_active: int | None = None,
        max_launched: int | None = None,
    ) -> None:
        super().__init__(batch_groups, lambda number: 1.0, max_active=max_active, max_launched=max_launched)
        self._round, self._end = round_groups or batch_groups, 0

    def decide(self) -> Decision:
        if self._upcoming() is not None:
            crowded = self.max_active is not None and len(self._generating) >= self.max_active
            return "wait" if crowded else "launch"
        return "wait" if len(self._outcomes) < len(self._started) else "stop"

    def _shortest_prefix(self) -> int:
        limit = self.max_launched
        if len(self._outcomes) == self._end and not self._full() and (limit is None or self._end < limit):
            self._end += self._round if limit is None else min(self._round, limit - self._end)
        return self._end


class FirstDone(Seamless):
    """Launches as the paper's rule does, takes the first B valid groups that are judged and aborts the rest.

    What others do (anchors: mean length 10 % down). Its batch depends on timing and leans to short responses.
    """

    def __init__(
        self,
        batch_groups: int,
        chance: Callable[[int], float],
        *,
        max_active: int | None,
        max_launched: int | None = None,
    ) -> None:
        super().__init__(batch_groups, chance, max_active=max_active, max_launched=max_launched)
        self._taken: list[int] = []

    def judged(self, number: int, valid: bool | None) -> None:
        super().judged(number, valid)
        if valid is True and len(self._taken) < self.batch_groups:
            self._taken.append(number)

    def selected(self) -> tuple[int, ...]:
        """Launch numbers of the batch, in the order in which they were judged."""
        return tuple(self._taken)

    def prefix_end(self) -> int:
        """The first number that was not launched: what was aborted is lost."""
        return max(self._started, default=-1) + 1

    def outcomes(self) -> tuple[bool | None, ...]:
        """Validity of every group that was launched; None for those that were aborted."""
        return tuple(self._outcomes.get(number) for number in range(self.prefix_end()))

    def _full(self) -> bool:
        return len(self._taken) >= self.batch_groups


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
    """Naive dynamic sampling as a function of the outcomes: what every machine's selection is held against.

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
