"""A recorded run on a fake clock: how long it would have taken, and the run as a workload (RUN/rollouts/trace.jsonl).

The engine is a batched one: all live requests advance together, at the rate measured for so many of them. What happened
just before a launch happens just before it again. Left out: requests that wait in the engine for a slot; they count as
live, as they did when the rate was measured.
"""

from __future__ import annotations

import heapq
import math
import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any

from openmimo.rollout.batched import BatchedEngine
from openmimo.rollout.workload import Cluster, Seen, Task
from openmimo.rows import read_rows

MINIBATCHES = 16
"""A trace does not say how many; MiMo 3.3.3 has 16."""


@dataclass(frozen=True, slots=True)
class RecordedGroup:
    """A group as it ran."""

    launch: int
    problem_id: str
    stratum: str
    valid: bool | None
    tokens: tuple[int, ...]
    """Of each response that ended."""
    start_s: float
    """From the step's begin."""
    rollout_s: float
    reward_s: float
    """From its last response to its verdicts."""
    aborted: bool


@dataclass(frozen=True, slots=True)
class RecordedStep:
    """A step's rollout as it ran."""

    step: int
    batch_groups: int
    num_rollouts: int
    wall_s: float
    """Of the rollout."""
    train_s: float
    slots: int
    """Most requests active at once."""
    rate: tuple[tuple[float, float], ...]
    """(live requests, tokens a second of all of them), rising."""
    groups: tuple[RecordedGroup, ...]
    """By launch number."""


def read_trace(path: Path) -> list[RecordedStep]:
    """The steps of a trace.

    Raises:
        ValueError: for a file without a whole step, or a row that is neither a group nor a step.
    """
    groups: dict[int, list[RecordedGroup]] = defaultdict(list)
    steps = []
    for number, row in enumerate(read_rows(path, ("step",)), 1):
        try:
            if "launch" in row:
                groups[row["step"]].append(_group(row))
            else:
                ordered = sorted(groups[row["step"]], key=lambda group: group.launch)
                steps.append(_step(row, tuple(ordered)))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path}, row {number} is no row of a trace: {type(error).__name__} {error}") from error
    if not steps:
        raise ValueError(f"{path} holds no whole step; the trainer writes RUN/rollouts/trace.jsonl")
    return steps


def replay(trace: Sequence[RecordedStep]) -> list[float]:
    """Wall seconds that the rollout of each step is predicted to take."""
    return [_replay_step(step) for step in trace]


def _replay_step(step: RecordedStep) -> float:
    """Until every group that was not aborted is judged."""
    causes = _causes(step)
    engine = BatchedEngine(_speed(step.rate))
    timed: list[tuple[float, str, int]] = [(gap_s, "launch", launch) for launch, gap_s in causes[None]]
    heapq.heapify(timed)
    by_launch = {group.launch: group for group in step.groups}
    left = {group.launch: len(group.tokens) for group in step.groups}
    waited = sum(not group.aborted for group in step.groups)
    while waited:
        end_s, timed_s = engine.next_s(), timed[0][0] if timed else math.inf
        now_s = min(end_s, timed_s)
        assert now_s < math.inf
        engine.advance(now_s)
        if end_s <= timed_s:
            launch, _ = engine.pop()
            left[launch] -= 1
            if left[launch] or by_launch[launch].aborted:
                continue
            heapq.heappush(timed, (now_s + by_launch[launch].reward_s, "judged", launch))
            event = ("finished", launch)
        else:
            _, what, launch = heapq.heappop(timed)
            if what == "launch":
                endless = step.num_rollouts - len(by_launch[launch].tokens)
                for tokens in (*by_launch[launch].tokens, *[math.inf] * endless):
                    engine.add(launch, tokens)
                continue
            waited -= 1
            event = ("judged", launch)
        for caused, gap_s in causes[event]:
            heapq.heappush(timed, (now_s + gap_s, "launch", caused))
    return engine.now_s


Event = tuple[str, int]


def _causes(step: RecordedStep) -> dict[Event | None, list[tuple[int, float]]]:
    """The last event before each launch (None: the begin) -> (launch number, seconds from that event to it)."""
    events: list[tuple[float, Event]] = []
    for group in step.groups:
        if not group.aborted:
            end_s = group.start_s + group.rollout_s
            events += [(end_s, ("finished", group.launch)), (end_s + group.reward_s, ("judged", group.launch))]
    events.sort()
    causes: dict[Event | None, list[tuple[int, float]]] = defaultdict(list)
    taken = 0
    for group in sorted(step.groups, key=lambda group: (group.start_s, group.launch)):
        while taken < len(events) and events[taken][0] <= group.start_s:
            taken += 1
        at_s, event = events[taken - 1] if taken else (0.0, None)
        causes[event].append((group.launch, group.start_s - at_s))
    return causes


def _speed(rate: Sequence[tuple[float, float]]) -> Callable[[int], float]:
    """Live requests -> tokens a second of one of them.

    Tokens a second of all are interpolated; below the fewest that were measured one is as fast as there, above the most
    all together are.
    """

    def speed(live: int) -> float:
        if live <= rate[0][0]:
            return rate[0][1] / rate[0][0]
        for (low, slow), (high, fast) in pairwise(rate):
            if live <= high:
                return (slow + (fast - slow) * (live - low) / (high - low)) / live
        return rate[-1][1] / live

    return speed


class RecordedGroups:
    """The groups of a recorded run; those that it did not judge are drawn from those of the step that it did.

    What was aborted was longer than the rest, so drawn groups are somewhat short.
    """

    def __init__(self, trace: Sequence[RecordedStep], seed: int) -> None:
        self._seed = seed
        self._tasks: list[dict[int, Task]] = []
        self.speed = _speed(trace[0].rate)
        """Live responses -> tokens a second of one, as the first step had it."""
        for step in trace:
            tokens_per_s = _speed(step.rate)(step.slots)
            self._tasks.append(
                {
                    group.launch: Task(
                        rollout_s=max(group.tokens) / tokens_per_s,
                        reward_s=group.reward_s,
                        valid=group.valid is True,
                        problem_id=group.problem_id,
                        lengths=group.tokens,
                        stratum=group.stratum,
                    )
                    for group in step.groups
                    if not group.aborted
                }
            )

    def task(self, step: int, launch: int) -> Task:
        tasks = self._tasks[step]
        if launch not in tasks:
            rng = random.Random(f"{self._seed} {step} {launch}")
            return tasks[rng.choice(sorted(tasks))]
        return tasks[launch]

    def seen(self) -> list[Seen]:
        """A trace does not hold curation's rollouts."""
        return []


def recorded(trace: Sequence[RecordedStep], seed: int) -> tuple[Cluster, RecordedGroups]:
    """A recorded run as a workload: a worker has room for one group, and where rewards wait for a round they are given
    one after another.

    Raises:
        ValueError: for steps of different batches, or one without a valid group.
    """
    first = trace[0]
    for step in trace:
        if (step.batch_groups, step.num_rollouts) != (first.batch_groups, first.num_rollouts):
            raise ValueError(
                f"step {step.step} of the trace has {step.batch_groups} groups of {step.num_rollouts}, "
                f"step {first.step} has {first.batch_groups} of {first.num_rollouts}; a workload has one size"
            )
        if not any(group.valid for group in step.groups if not group.aborted):
            raise ValueError(f"step {step.step} of the trace has no valid group: no batch can be filled from it")
    judged = [group for step in trace for group in step.groups if not group.aborted]
    cluster = Cluster(
        batch_groups=first.batch_groups,
        num_rollouts=first.num_rollouts,
        num_workers=max(1, max(step.slots for step in trace) // first.num_rollouts),
        steps=len(trace),
        minibatch_groups=max(1, first.batch_groups // MINIBATCHES),
        train_s=fmean(step.train_s for step in trace),
        reward_lanes=1,
        prior=fmean(group.valid is True for group in judged),
    )
    return cluster, RecordedGroups(trace, seed)


def _group(row: dict[str, Any]) -> RecordedGroup:
    found = RecordedGroup(
        launch=int(row["launch"]),
        problem_id=str(row["problem"]),
        stratum=str(row["stratum"]),
        valid=row["valid"],
        tokens=tuple(int(tokens) for tokens in row["tokens"]),
        start_s=float(row["start_s"]),
        rollout_s=float(row["rollout_s"]),
        reward_s=float(row["reward_s"]),
        aborted=bool(row["aborted"]),
    )
    if not found.aborted and not found.tokens:
        raise ValueError(f"group {found.launch} was not aborted and has no response")
    return found


def _step(row: dict[str, Any], groups: tuple[RecordedGroup, ...]) -> RecordedStep:
    rate = tuple(sorted((float(live), float(tokens_per_s)) for live, tokens_per_s in row["rate"]))
    if not rate or rate[0][0] <= 0.0 or min(tokens_per_s for _, tokens_per_s in rate) <= 0.0:
        raise ValueError(f"rate must hold [live requests, tokens a second], all above 0, got {row['rate']}")
    return RecordedStep(
        step=int(row["step"]),
        batch_groups=int(row["batch_groups"]),
        num_rollouts=int(row["num_rollouts"]),
        wall_s=float(row["wall_s"]),
        train_s=float(row["train_s"]),
        slots=int(row["slots"]),
        rate=rate,
        groups=groups,
    )
