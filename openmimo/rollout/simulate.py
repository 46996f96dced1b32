"""Rollout methods compared on a fake clock (MiMo 3.4.1, Table 2 and Figure 6).

A discrete-event simulation that drives the same machines as the real driver. Workers take a group at a time, as in
Figure 6, or their slots take one response after another (`ResponseSlots`), as a batched engine's do. Left out: the time
to copy weights.

Streamed updates: mini-batches are contiguous ranges of ranks, a group's rank being its position in the batch. One whose
groups are final trains on the workers that have nothing to generate, as fast as their share of all workers, while the
tail generates under the old weights.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

from openmimo.rollout.batched import BatchedEngine
from openmimo.rollout.seamless import Seamless
from openmimo.rollout.workload import Task

Rewards = Literal["barrier", "held", "beside"]


@dataclass(frozen=True, slots=True)
class Training:
    """What a batch's updates take."""

    train_s: float
    """On all workers."""
    num_minibatches: int
    minibatch_groups: int


@dataclass(frozen=True, slots=True)
class Span:
    """A group while it generates."""

    launch: int
    worker: int | None
    """None where its responses lie on slots of their own."""
    start_s: float
    end_s: float
    aborted: bool


@dataclass(frozen=True, slots=True)
class Simulation:
    """What one batch cost."""

    makespan_s: float
    """Of the rollout."""
    idle_s: float
    """Worker seconds of the rollout that neither generated nor trained; aborted work is idle (MiMo Table 2)."""
    idle_ratio: float
    """Of workers x makespan."""
    trained_s: float
    """Training done during the rollout, in seconds of all workers."""
    waste: float
    """Valid groups made beyond the batch / batch."""
    selected: tuple[int, ...]
    prefix_end: int
    spans: tuple[Span, ...]
    """In launch order."""


class Workers(Protocol):
    """What generates."""

    num_workers: int

    @property
    def now_s(self) -> float: ...

    @property
    def room(self) -> bool:
        """Whether a group can start."""

    @property
    def free_share(self) -> float:
        """Of the workers, those with nothing to generate."""

    def start(self, launch: int, task: Task) -> None: ...

    def next_s(self) -> float:
        """When something ends next; infinity if nothing generates."""

    def advance(self, now_s: float) -> None:
        """Let time pass, up to `next_s` at most."""

    def finish(self, *, hold: bool) -> list[int]:
        """What ends now; launch numbers of groups that are done by it. With `hold` its worker waits for `release`."""

    def release(self, launch: int) -> None: ...

    def useful_s(self, aborted: set[int]) -> float:
        """Worker seconds spent generating what was not aborted."""

    def spans(self, aborted: set[int]) -> tuple[Span, ...]:
        """By launch number; what still generates ends now."""


def simulate(
    task: Callable[[int], Task],
    machine: Seamless,
    workers: Workers,
    *,
    rewards: Rewards,
    drain: bool = False,
    reward_lanes: int = 1,
    training: Training | None = None,
) -> Simulation:
    """Fill one batch.

    Args:
        task: launch number -> its durations and validity.
        machine: decides.
        workers: fresh ones.
        rewards: `barrier`: once nothing generates any more, those of all that has finished, `reward_lanes` at a time,
            and verdicts are in when the last one is; `held`: at once, the worker being held until they are in;
            `beside`: at once, the worker being free.
        drain: go on until everything launched is judged, instead of aborting the rest once the batch is full.
        training: updates that stream into the rollout; None: training comes after it.

    Raises:
        ValueError: for no lanes.
    """
    if reward_lanes < 1:
        raise ValueError(f"reward_lanes must be at least 1, got {reward_lanes}")
    events: list[tuple[float, int]] = []  # (time of the verdicts, launch)
    unjudged: list[int] = []  # before the barrier
    trained = 0.0
    while True:
        decision = machine.decide()
        if decision == "launch" and workers.room:
            launch = machine.next_launch()
            machine.launched(launch)
            workers.start(launch, task(launch))
            continue
        if decision == "stop" and not (drain and (events or workers.next_s() < math.inf)):
            break
        if not events and workers.next_s() == math.inf:
            judged_s = workers.now_s + _in_lanes([task(launch).reward_s for launch in unjudged], reward_lanes)
            events = [(judged_s, launch) for launch in unjudged]
            unjudged = []
        before_s, end_s = workers.now_s, workers.next_s()
        now_s = min(end_s, events[0][0]) if events else end_s
        if training is not None:
            final = len(machine.selected()) // training.minibatch_groups / training.num_minibatches * training.train_s
            trained += max(0.0, min(final - trained, (now_s - before_s) * workers.free_share))
        workers.advance(now_s)
        if end_s <= now_s:
            for launch in workers.finish(hold=rewards == "held"):
                machine.finished(launch)
                if rewards == "barrier":
                    unjudged.append(launch)
                else:
                    heapq.heappush(events, (now_s + task(launch).reward_s, launch))
        else:
            launch = heapq.heappop(events)[1]
            machine.judged(launch, task(launch).valid)
            if rewards == "held":
                workers.release(launch)
    aborted = set(machine.to_abort())
    capacity_s = workers.num_workers * workers.now_s
    idle_s = capacity_s - workers.useful_s(aborted) - workers.num_workers * trained
    return Simulation(
        makespan_s=workers.now_s,
        idle_s=idle_s,
        idle_ratio=idle_s / capacity_s if capacity_s else 0.0,
        trained_s=trained,
        waste=machine.stats().waste,
        selected=machine.selected(),
        prefix_end=machine.prefix_end(),
        spans=workers.spans(aborted),
    )


class GroupWorkers:
    """Each generates one group at a time (MiMo 3.4.1, Figure 6).

    Args:
        launch_s: seconds a worker needs between two groups.
    """

    def __init__(self, num_workers: int, *, launch_s: float = 0.0) -> None:
        if num_workers < 1:
            raise ValueError(f"num_workers must be at least 1, got {num_workers}")
        self.num_workers, self.now_s, self._launch_s = num_workers, 0.0, launch_s
        self._free = [(-launch_s, worker) for worker in range(num_workers)]  # (free since, worker)
        self._ends: list[tuple[float, int]] = []
        self._spans: dict[int, Span] = {}

    @property
    def room(self) -> bool:
        return bool(self._free)

    @property
    def free_share(self) -> float:
        return 1.0 - len(self._ends) / self.num_workers

    def start(self, launch: int, task: Task) -> None:
        free_s, worker = heapq.heappop(self._free)
        start_s = max(self.now_s, free_s + self._launch_s)
        self._spans[launch] = Span(launch, worker, start_s, start_s + task.rollout_s, aborted=False)
        heapq.heappush(self._ends, (start_s + task.rollout_s, launch))

    def next_s(self) -> float:
        return self._ends[0][0] if self._ends else math.inf

    def advance(self, now_s: float) -> None:
        self.now_s = now_s

    def finish(self, *, hold: bool) -> list[int]:
        launch = heapq.heappop(self._ends)[1]
        if not hold:
            self.release(launch)
        return [launch]

    def release(self, launch: int) -> None:
        worker = self._spans[launch].worker
        assert worker is not None
        heapq.heappush(self._free, (self.now_s, worker))

    def useful_s(self, aborted: set[int]) -> float:
        return sum(span.end_s - span.start_s for span in self.spans(aborted) if not span.aborted)

    def spans(self, aborted: set[int]) -> tuple[Span, ...]:
        return tuple(
            replace(span, end_s=min(self.now_s, span.end_s), aborted=launch in aborted)
            for launch, span in sorted(self._spans.items())
        )


class ResponseSlots:
    """Each worker has a slot for every response of a group; a slot that is free takes the next response of any group.

    Args:
        speed: live responses -> tokens a second of one.
    """

    def __init__(self, num_workers: int, num_rollouts: int, speed: Callable[[int], float]) -> None:
        self.num_workers, self._num_rollouts = num_workers, num_rollouts
        self._engine = BatchedEngine(speed, num_workers * num_rollouts)
        self._left: dict[int, int] = {}
        self._slot_s: dict[int, float] = {}
        self._spans: dict[int, Span] = {}

    @property
    def now_s(self) -> float:
        return self._engine.now_s

    @property
    def room(self) -> bool:
        return True

    @property
    def free_share(self) -> float:
        """Live responses lie on workers at random."""
        return math.exp(-self._engine.live / self.num_workers)

    def start(self, launch: int, task: Task) -> None:
        self._left[launch], self._slot_s[launch] = len(task.lengths), 0.0
        self._spans[launch] = Span(launch, None, self.now_s, math.inf, aborted=False)
        for tokens in task.lengths:
            self._engine.add(launch, tokens)

    def next_s(self) -> float:
        return self._engine.next_s()

    def advance(self, now_s: float) -> None:
        self._engine.advance(now_s)

    def finish(self, *, hold: bool) -> list[int]:
        assert not hold, "a slot does not wait for a verdict"
        launch, start_s = self._engine.pop()
        self._left[launch] -= 1
        self._slot_s[launch] += self.now_s - start_s
        if self._left[launch]:
            return []
        self._spans[launch] = replace(self._spans[launch], end_s=self.now_s)
        return [launch]

    def release(self, launch: int) -> None:
        raise AssertionError("a slot does not wait for a verdict")

    def useful_s(self, aborted: set[int]) -> float:
        slot_s = sum(seconds for launch, seconds in self._slot_s.items() if launch not in aborted)
        return slot_s / self._num_rollouts

    def spans(self, aborted: set[int]) -> tuple[Span, ...]:
        return tuple(
            replace(span, end_s=min(self.now_s, span.end_s), aborted=launch in aborted)
            for launch, span in sorted(self._spans.items())
        )


def _in_lanes(durations_s: Sequence[float], num_lanes: int) -> float:
    """Seconds until the last is done, each taken in order by the first lane that is free."""
    lanes = [0.0] * num_lanes
    for duration_s in durations_s:
        heapq.heapreplace(lanes, lanes[0] + duration_s)
    return max(lanes)
