"""Rollout methods compared on a fake clock (MiMo 3.4.1, Table 2 and Figure 6).

A discrete-event simulation that drives the same machines as the real driver, step after step; what a history learns, it
learns from selected prefixes alone. A worker generates one group at a time. Left out: batching inside an engine
(`rollout.replay` has it), the time to copy weights.

Streamed updates: mini-batches are contiguous ranges of ranks, a group's rank being its position in the batch. One whose
groups are final trains on the workers that have nothing to generate, as fast as their share of all workers, while the
tail generates under the old weights.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

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
    """A group on its worker."""

    launch: int
    worker: int
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


def simulate(
    task: Callable[[int], Task],
    machine: Seamless,
    *,
    num_workers: int,
    rewards: Rewards,
    drain: bool = False,
    reward_lanes: int = 1,
    launch_s: float = 0.0,
    training: Training | None = None,
) -> Simulation:
    """Fill one batch.

    Args:
        task: launch number -> its durations and validity.
        machine: decides; its `max_active` is to be `num_workers`.
        rewards: `barrier`: once nothing generates any more, those of all that has finished, `reward_lanes` at a time,
            and verdicts are in when the last one is; `held`: at once, the worker being held until they are in;
            `beside`: at once, the worker being free.
        drain: go on until everything launched is judged, instead of aborting the rest once the batch is full.
        launch_s: seconds a worker needs between two groups.
        training: updates that stream into the rollout; None: training comes after it.

    Raises:
        ValueError: for no workers or no lanes.
    """
    if num_workers < 1 or reward_lanes < 1:
        raise ValueError(f"num_workers and reward_lanes must be at least 1, got {num_workers} and {reward_lanes}")
    free = [(0.0, worker) for worker in range(num_workers)]  # (free since, worker)
    spans: dict[int, Span] = {}
    events: list[tuple[float, int, str]] = []  # (time, launch, what)
    unjudged: list[int] = []  # before the barrier
    generating, now_s, trained = 0, 0.0, 0.0
    while True:
        decision = machine.decide()
        if decision == "launch" and free:
            launch = machine.next_launch()
            machine.launched(launch)
            generating += 1
            free_s, worker = heapq.heappop(free)
            start_s = now_s if free_s == 0.0 else max(now_s, free_s + launch_s)
            spans[launch] = Span(launch, worker, start_s, start_s + task(launch).rollout_s, aborted=False)
            heapq.heappush(events, (spans[launch].end_s, launch, "finished"))
            continue
        if decision == "stop" and not (drain and events):
            break
        if not events:
            judged_s = now_s + _in_lanes([task(launch).reward_s for launch in unjudged], reward_lanes)
            events = [(judged_s, launch, "judged") for launch in unjudged]
            unjudged = []
        before_s = now_s
        now_s, launch, what = heapq.heappop(events)
        if training is not None:
            final = len(machine.selected()) // training.minibatch_groups / training.num_minibatches * training.train_s
            trained += max(0.0, min(final - trained, (now_s - before_s) * (1.0 - generating / num_workers)))
        if what == "finished":
            machine.finished(launch)
            generating -= 1
            if rewards == "barrier":
                unjudged.append(launch)
            else:
                heapq.heappush(events, (now_s + task(launch).reward_s, launch, "judged"))
        else:
            machine.judged(launch, task(launch).valid)
        if what == ("judged" if rewards == "held" else "finished"):
            heapq.heappush(free, (now_s, spans[launch].worker))
    for launch in machine.to_abort():
        span = spans[launch]
        spans[launch] = Span(launch, span.worker, span.start_s, min(now_s, span.end_s), aborted=True)
    ordered = tuple(spans[launch] for launch in sorted(spans))
    useful_s = sum(span.end_s - span.start_s for span in ordered if not span.aborted) + num_workers * trained
    idle_s = num_workers * now_s - useful_s
    return Simulation(
        makespan_s=now_s,
        idle_s=idle_s,
        idle_ratio=idle_s / (num_workers * now_s) if now_s else 0.0,
        trained_s=trained,
        waste=machine.stats().waste,
        selected=machine.selected(),
        prefix_end=machine.prefix_end(),
        spans=ordered,
    )


def _in_lanes(durations_s: Sequence[float], num_lanes: int) -> float:
    """Seconds until the last is done, each taken in order by the first lane that is free."""
    lanes = [0.0] * num_lanes
    for duration_s in durations_s:
        heapq.heapreplace(lanes, lanes[0] + duration_s)
    return max(lanes)
