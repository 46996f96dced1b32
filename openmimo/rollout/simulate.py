"""Rollout methods compared on a fake clock (MiMo 3.4.1, Table 2 and Figure 6).

A discrete-event simulation that drives the same `Seamless` as the real driver. A worker generates one group at a time.
Left out: batching inside an engine, the time of a weight update.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from openmimo.rollout.seamless import Seamless

Method = Literal["naive", "continuous", "async", "early_termination"]


@dataclass(frozen=True, slots=True)
class Task:
    """One group to roll out."""

    rollout_s: float
    reward_s: float
    valid: bool


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
    """What a method cost."""

    makespan_s: float
    idle_ratio: float
    """Worker time that generated nothing, aborted work included / (workers x makespan)."""
    waste: float
    """Valid groups made beyond the batch / batch."""
    selected: tuple[int, ...]
    spans: tuple[Span, ...]
    """In launch order."""


def simulate(
    task: Callable[[int], Task],
    *,
    method: Method,
    num_workers: int,
    batch_groups: int,
    prior: float = 0.5,
    round_groups: int | None = None,
    launch_s: float = 0.0,
) -> Simulation:
    """Fill one batch.

    Args:
        task: launch number -> its durations and validity.
        method: each adds one thing to the one before.
            `naive`: rounds with a barrier, rewards one after another once a round has been generated;
            `continuous`: launched by expectation; the worker is held until its group's reward is in;
            `async`: rewards run beside the generation; the batch ends when everything launched is judged;
            `early_termination`: it ends at the launch-order prefix that is full, and the rest is aborted.
        prior: P(valid) of a group.
        round_groups: groups a naive round; `batch_groups` if None.
        launch_s: seconds a worker needs between two groups.

    Raises:
        ValueError: for no workers or no groups.
    """
    if num_workers < 1 or batch_groups < 1:
        raise ValueError(f"num_workers and batch_groups must be at least 1, got {num_workers} and {batch_groups}")
    if method == "naive":
        return _naive(task, num_workers, batch_groups, round_groups or batch_groups, launch_s)
    return _seamless(task, method, num_workers, batch_groups, prior, launch_s)


def _naive(
    task: Callable[[int], Task], num_workers: int, batch_groups: int, round_groups: int, launch_s: float
) -> Simulation:
    now_s = 0.0
    valid: list[int] = []
    spans: list[Span] = []
    while len(valid) < batch_groups:
        free = [(now_s, worker) for worker in range(num_workers)]
        first = len(spans)
        for launch in range(first, first + round_groups):
            start_s, worker = heapq.heappop(free)
            end_s = start_s + task(launch).rollout_s
            spans.append(Span(launch, worker, start_s, end_s, aborted=False))
            heapq.heappush(free, (end_s + launch_s, worker))
            if task(launch).valid:
                valid.append(launch)
        rewards_s = sum(task(launch).reward_s for launch in range(first, first + round_groups))
        now_s = max(span.end_s for span in spans[first:]) + rewards_s
    waste = (len(valid) - batch_groups) / batch_groups
    return _result(spans, now_s, num_workers, waste, tuple(valid[:batch_groups]))


def _seamless(
    task: Callable[[int], Task], method: Method, num_workers: int, batch_groups: int, prior: float, launch_s: float
) -> Simulation:
    seamless = Seamless(batch_groups, lambda number: prior, max_active=num_workers)
    free = [(0.0, worker) for worker in range(num_workers)]  # (free since, worker)
    spans: dict[int, Span] = {}
    events: list[tuple[float, int, str]] = []  # (time, launch, what)
    now_s = 0.0
    while True:
        decision = seamless.decide()
        if decision == "launch" and free:
            launch = seamless.next_launch()
            seamless.launched(launch)
            free_s, worker = heapq.heappop(free)
            start_s = now_s if free_s == 0.0 else max(now_s, free_s + launch_s)
            spans[launch] = Span(launch, worker, start_s, start_s + task(launch).rollout_s, aborted=False)
            heapq.heappush(events, (spans[launch].end_s, launch, "finished"))
            continue
        if decision == "stop" and (method == "early_termination" or not events):
            break
        now_s, launch, what = heapq.heappop(events)
        if what == "finished":
            seamless.finished(launch)
            heapq.heappush(events, (now_s + task(launch).reward_s, launch, "judged"))
        else:
            seamless.judged(launch, task(launch).valid)
        if what == ("judged" if method == "continuous" else "finished"):
            heapq.heappush(free, (now_s, spans[launch].worker))
    for launch in seamless.to_abort():
        span = spans[launch]
        spans[launch] = Span(launch, span.worker, span.start_s, min(now_s, span.end_s), aborted=True)
    ordered = [spans[launch] for launch in sorted(spans)]
    return _result(ordered, now_s, num_workers, seamless.stats().waste, seamless.selected())


def _result(
    spans: Sequence[Span], makespan_s: float, num_workers: int, waste: float, selected: tuple[int, ...]
) -> Simulation:
    useful_s = sum(span.end_s - span.start_s for span in spans if not span.aborted)
    idle_ratio = 1.0 - useful_s / (num_workers * makespan_s) if makespan_s else 0.0
    return Simulation(makespan_s, idle_ratio, waste, selected, tuple(spans))
