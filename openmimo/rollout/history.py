"""What earlier steps tell of a group before it starts: P(it is valid), and how long it takes (decision 0008).

Learnt across steps and only from selected prefixes, in launch order: an estimate from whatever finished first is biased
and runs away (simulated: 233 % waste). Pure; its state is plain JSON for a checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a judged group showed."""

    problem_id: str
    stratum: str
    valid: bool | None
    """None, dropped for an internal error, teaches nothing."""
    tokens: int
    """Of its longest response, which decides when it is done."""


@dataclass(slots=True)
class _Mean:
    """A mean with decaying memory."""

    weight: float
    total: float

    def add(self, value: float, decay: float) -> None:
        self.weight = decay * self.weight + 1.0
        self.total = decay * self.total + value

    def value(self, otherwise: float, weight: float) -> float:
        """The mean, drawn towards another value that counts as `weight` observations."""
        return (self.total + weight * otherwise) / (self.weight + weight)


class History:
    """By stratum (main, easy), and by problem as far as it has been seen.

    Every outcome has weight 1 and loses a factor with each later one of its stratum or problem. A problem's own
    outcomes are drawn towards its stratum's, which counts as `shrink` of them.

    Args:
        initial: stratum -> P before anything is known; counts as `initial_weight` outcomes.
        decay: memory of a stratum, in (0, 1]; 0.99 remembers about 100 groups.
        own_decay: memory of a problem.
        floor: smallest P handed out, so that a stratum without luck cannot ask for endless launches.
    """

    def __init__(
        self,
        initial: Mapping[str, float],
        *,
        decay: float = 0.99,
        own_decay: float = 0.7,
        initial_weight: float = 8.0,
        shrink: float = 2.0,
        floor: float = 0.05,
    ) -> None:
        for stratum, value in initial.items():
            if not 0.0 < value <= 1.0:
                raise ValueError(f"the initial chance of {stratum!r} must lie in (0, 1], got {value}")
        for name, value, low in (("decay", decay, 0.0), ("own_decay", own_decay, 0.0), ("floor", floor, 0.0)):
            if not low < value <= 1.0:
                raise ValueError(f"{name} must lie in (0, 1], got {value}")
        if initial_weight <= 0.0 or shrink <= 0.0:
            raise ValueError(f"initial_weight and shrink must be above 0, got {initial_weight} and {shrink}")
        self.decay, self.own_decay, self.shrink, self.floor = decay, own_decay, shrink, floor
        self._valid = {stratum: _Mean(initial_weight, value * initial_weight) for stratum, value in initial.items()}
        self._tokens = {stratum: _Mean(0.0, 0.0) for stratum in initial}
        self._own_valid: dict[str, _Mean] = {}
        self._own_tokens: dict[str, _Mean] = {}

    def chance(self, problem_id: str, stratum: str) -> float:
        """P(a group of this problem is valid), what `Seamless` takes."""
        value = self._stratum(stratum).value(0.0, 0.0)
        own = self._own_valid.get(problem_id)
        if own:
            value = own.value(value, self.shrink)
        return max(self.floor, min(1.0, value))

    def length(self, problem_id: str, stratum: str) -> float:
        """Expected tokens of the longest response; 0 before anything is known."""
        self._stratum(stratum)
        tokens = self._tokens[stratum]
        value = tokens.value(0.0, 0.0) if tokens.weight else 0.0
        own = self._own_tokens.get(problem_id)
        return own.value(value, self.shrink if value else 0.0) if own else value

    def update(self, outcomes: Iterable[Outcome]) -> None:
        """Learn from a step's selected prefix, in launch order."""
        for outcome in outcomes:
            stratum = self._stratum(outcome.stratum)
            if outcome.valid is None:
                continue
            stratum.add(float(outcome.valid), self.decay)
            self._tokens[outcome.stratum].add(float(outcome.tokens), self.decay)
            self._learn(outcome.problem_id, float(outcome.valid), float(outcome.tokens))

    def seed_with(self, problem_id: str, pass_rate: float, group_size: int, tokens: float) -> None:
        """What curation's rollouts say of a problem, before the first step.

        A group of G responses of which each is right with probability p is valid unless all are or none is:
        1 - p^G - (1 - p)^G.
        """
        self._learn(problem_id, 1.0 - pass_rate**group_size - (1.0 - pass_rate) ** group_size, tokens)

    def state_dict(self) -> dict[str, Any]:
        """Plain JSON types, for a checkpoint."""
        return {
            name: {key: [mean.weight, mean.total] for key, mean in means.items()}
            for name, means in self._means().items()
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for name, means in self._means().items():
            means.clear()
            means.update({key: _Mean(*pair) for key, pair in state[name].items()})

    def _means(self) -> dict[str, dict[str, _Mean]]:
        return {
            "valid": self._valid,
            "tokens": self._tokens,
            "own_valid": self._own_valid,
            "own_tokens": self._own_tokens,
        }

    def _learn(self, problem_id: str, valid: float, tokens: float) -> None:
        for means, value in ((self._own_valid, valid), (self._own_tokens, tokens)):
            means.setdefault(problem_id, _Mean(0.0, 0.0)).add(value, self.own_decay)

    def _stratum(self, stratum: str) -> _Mean:
        if stratum not in self._valid:
            raise ValueError(f"no chance for stratum {stratum!r}; known: {', '.join(sorted(self._valid))}")
        return self._valid[stratum]
