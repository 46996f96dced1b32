"""What a simulated cluster has to roll out: groups with lengths, validity and reward times (MiMo 3.4.1, Table 2).

A `Workload` is a value; with a seed it gives `Groups`, which say what launch number n of step s is. Problems have a
pass rate and a length of their own and come back once all have been drawn, so that a history can learn. A group is
valid when some of its responses are right and some are not.
"""

from __future__ import annotations

import math
import random
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import Any, Protocol

from openmimo.config import nearest
from openmimo.rollout.history import Outcome


@dataclass(frozen=True, slots=True)
class Task:
    """One group to roll out and to judge."""

    rollout_s: float
    """Until its longest response is done."""
    reward_s: float
    """From then to its verdicts."""
    valid: bool
    problem_id: str = ""
    lengths: tuple[int, ...] = ()
    """Tokens of each response."""
    stratum: str = "main"

    @property
    def tokens(self) -> int:
        """Of the longest response."""
        return max(self.lengths)

    @property
    def mean_tokens(self) -> float:
        return sum(self.lengths) / len(self.lengths)

    def outcome(self) -> Outcome:
        return Outcome(self.problem_id, self.stratum, self.valid, self.tokens)


@dataclass(frozen=True, slots=True)
class Seen:
    """What curation's rollouts say of a problem."""

    problem_id: str
    pass_rate: float
    tokens: int
    """Of the longest response."""


class Groups(Protocol):
    """The groups of every step, in naive launch order: the same ones for every method."""

    def task(self, step: int, launch: int) -> Task: ...

    def seen(self) -> list[Seen]:
        """What is known of problems before the first step."""

    def speed(self, live: int) -> float:
        """Tokens a second of one of so many live responses, where responses fill the workers one by one."""


@dataclass(frozen=True)
class Cluster:
    """What runs a workload, and what it is to fill."""

    batch_groups: int = 512
    """B (MiMo 3.3.3, decision 0001)."""
    num_rollouts: int = 16
    """G (decision 0001)."""
    num_workers: int = 256
    """Groups that generate at once: one on each of 256 GPUs (MiMo 3.4.1)."""
    steps: int = 5
    """MiMo 3.4.1: a 5-step trace."""
    minibatch_groups: int = 32
    """MiMo 3.3.3."""
    train_s: float = 275.0
    """Training of a step on all workers."""
    reward_lanes: int = 20
    """Groups judged at once where rewards wait for a whole round."""
    prior: float = 0.15
    """P(valid) that the paper's launch rule is given."""


@dataclass(frozen=True)
class Workload(Cluster):
    """A cluster and the problems it meets. The defaults are the stated workload, `paper`: see docs/rollout.md."""

    num_problems: int = 8192
    pass_alpha: float = 0.153
    pass_beta: float = 0.22
    """Pass rates of problems are Beta(alpha, beta): most are always or never solved."""
    changed: float = 0.2
    """Share of problems whose pass rate and length are no longer what they were before the first step."""
    max_tokens: int = 32_768
    """MiMo 3.3.3. A longer response is cut."""
    median_tokens: float = 2800.0
    """Of a response to a problem that is solved half of the time."""
    problem_sigma: float = 1.2
    """Spread of log length over problems."""
    response_sigma: float = 0.35
    """Spread of log length over the responses to one problem."""
    hard_sigma: float = 0.2
    """Added to log length at pass rate 0, taken off at 1: hard problems have long responses."""
    tokens_per_s: float = 60.0
    """Of one response on a worker with half a group live, which is what one has on the way from all to none."""
    live_cost: float = 0.05
    """A live response's part of a worker's step over the part that reading the weights takes: 15 GB of weights and
    0.8 GB of keys and values of a response at 5,400 tokens, for a model of 7 B."""
    reward_median_s: float = 7.5
    reward_sigma: float = 0.75
    """Rewards are log-normal: programs with many tests take long."""
    reward_max_s: float = 240.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value, whole = getattr(self, field.name), field.type == "int"
            if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
                kind = "an integer" if whole else "a number"
                raise ValueError(f"workload: {field.name} must be {kind}, got {value!r}")
            low = 0.0 if field.name in MAY_BE_ZERO else 1 if whole else None
            if not math.isfinite(value) or (value < low if low is not None else value <= 0.0):
                bound = "above 0" if low is None else f"at least {low:g}"
                raise ValueError(f"workload: {field.name} must be {bound}, got {value}")
        for name in ("prior", "changed"):
            if getattr(self, name) > 1.0:
                raise ValueError(f"workload: {name} must be at most 1, got {getattr(self, name)}")
        if self.num_rollouts < 2:
            raise ValueError(f"workload: num_rollouts must be at least 2, got {self.num_rollouts}")

    @property
    def valid_share(self) -> float:
        """Mean P(valid): 1 - E[p^G] - E[(1 - p)^G] for p from Beta(alpha, beta)."""
        all_right = none_right = 1.0
        for k in range(self.num_rollouts):
            all_right *= (self.pass_alpha + k) / (self.pass_alpha + self.pass_beta + k)
            none_right *= (self.pass_beta + k) / (self.pass_alpha + self.pass_beta + k)
        return 1.0 - all_right - none_right

    def groups(self, seed: int) -> Drawn:
        return Drawn(self, seed)


MAY_BE_ZERO = (
    "train_s",
    "live_cost",
    "changed",
    "problem_sigma",
    "response_sigma",
    "hard_sigma",
    "reward_sigma",
    "reward_median_s",
)

paper = Workload()
"""The stated workload: its parameters were chosen so that the paper's five methods give the rows of Table 2, and fixed
before ours was tuned (benchmarks/rollout_table2.py)."""


def workload_from(row: dict[str, Any]) -> Workload:
    """A workload from its JSON object; what is not named is as in `paper`.

    Raises:
        ValueError: naming an unknown parameter or a wrong value.
    """
    known = [field.name for field in fields(Workload)]
    for name in row:
        if name not in known:
            raise ValueError(f"workload: unknown parameter {name!r}; the nearest is {nearest(name, known)!r}")
    return Workload(**{**asdict(paper), **row})


@dataclass(frozen=True, slots=True)
class _Nature:
    """What a problem is like."""

    pass_rate: float
    log_tokens: float


class Drawn:
    """Groups drawn from a workload's distributions; (seed, step, launch) says all."""

    def __init__(self, workload: Workload, seed: int) -> None:
        self.workload, self.seed = workload, seed
        self._tasks: dict[tuple[int, int], Task] = {}
        self._cursors = [0]
        self._orders: dict[int, list[int]] = {}

    def task(self, step: int, launch: int) -> Task:
        if (step, launch) not in self._tasks:
            number = self._cursor(step) + launch
            epoch, place = divmod(number, self.workload.num_problems)
            problem = self._order(epoch)[place]
            rng = random.Random(f"group {self.seed} {step} {launch}")
            self._tasks[step, launch] = self._roll_out(problem, self._natures[1][problem], rng)
        return self._tasks[step, launch]

    def seen(self) -> list[Seen]:
        """G rollouts of each problem, from before some problems changed."""
        return self._seen

    @cached_property
    def _seen(self) -> list[Seen]:
        rng, found = random.Random(f"seen {self.seed}"), []
        for problem, nature in enumerate(self._natures[0]):
            lengths, right = self._responses(nature, rng)
            found.append(Seen(str(problem), right / len(lengths), max(lengths)))
        return found

    @cached_property
    def _natures(self) -> tuple[list[_Nature], list[_Nature]]:
        """Of every problem: before the first step, and since."""
        rng = random.Random(f"problems {self.seed}")
        before = [self._nature(rng) for _ in range(self.workload.num_problems)]
        since = [self._nature(rng) if rng.random() < self.workload.changed else nature for nature in before]
        return before, since

    def _nature(self, rng: random.Random) -> _Nature:
        work = self.workload
        pass_rate = rng.betavariate(work.pass_alpha, work.pass_beta)
        hardness = work.hard_sigma * (1.0 - 2.0 * pass_rate)
        return _Nature(pass_rate, math.log(work.median_tokens) + hardness + rng.gauss(0.0, work.problem_sigma))

    def speed(self, live: int) -> float:
        """Step time grows linearly with the responses on a worker."""
        work = self.workload
        each = max(1.0, live / work.num_workers)
        return work.tokens_per_s * (1.0 + work.live_cost * work.num_rollouts / 2) / (1.0 + work.live_cost * each)

    def _responses(self, nature: _Nature, rng: random.Random) -> tuple[list[int], int]:
        """Their lengths, and how many are right."""
        work = self.workload
        lengths = [
            max(1, min(work.max_tokens, round(rng.lognormvariate(nature.log_tokens, work.response_sigma))))
            for _ in range(work.num_rollouts)
        ]
        return lengths, sum(rng.random() < nature.pass_rate for _ in lengths)

    def _roll_out(self, problem: int, nature: _Nature, rng: random.Random) -> Task:
        work = self.workload
        lengths, right = self._responses(nature, rng)
        reward_s = work.reward_median_s * rng.lognormvariate(0.0, work.reward_sigma)
        return Task(
            rollout_s=max(lengths) / work.tokens_per_s,
            reward_s=min(work.reward_max_s, reward_s),
            valid=0 < right < work.num_rollouts,
            problem_id=str(problem),
            lengths=tuple(lengths),
        )

    def _cursor(self, step: int) -> int:
        """Problems used up before a step: the prefixes of the ones before it."""
        while len(self._cursors) <= step:
            before, launch, valid = len(self._cursors) - 1, 0, 0
            while valid < self.workload.batch_groups:
                valid += self.task(before, launch).valid
                launch += 1
            self._cursors.append(self._cursors[before] + launch)
        return self._cursors[step]

    def _order(self, epoch: int) -> list[int]:
        if epoch not in self._orders:
            order = list(range(self.workload.num_problems))
            random.Random(f"order {self.seed} {epoch}").shuffle(order)
            self._orders[epoch] = order
        return self._orders[epoch]
