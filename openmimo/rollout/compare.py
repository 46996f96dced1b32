"""Rollout methods side by side on one workload: the rows of MiMo's Table 2, ours, and first done.

Every method meets the same groups at every step, and all but `static` and `first_done` select the same ones. Ours is
the paper's with three steps added, each of which can be left out: predictive launch, longest first, streamed updates;
and on slots that take one response after another, as the engine's do, where the paper's workers take groups.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import fmean
from typing import Literal

from openmimo.rollout.baselines import FirstDone, Rounds
from openmimo.rollout.history import History
from openmimo.rollout.seamless import Seamless
from openmimo.rollout.simulate import GroupWorkers, ResponseSlots, Rewards, Simulation, Training, Workers, simulate
from openmimo.rollout.workload import Cluster, Groups

RISK = 0.5
"""Accepted probability that what has been launched does not fill the batch: ours, tuned on `workload.paper`. Chances
from curation are low by about 0.04, so that fewer batches fall short (decision 0041)."""
SHRINK = 0.5
"""Outcomes of its stratum towards which a problem's own are drawn: ours."""
GROUPS = 2
"""Groups a worker that generate at once where slots are filled by the response: enough that none is empty."""
EASY = 0.1
"""P(valid) of a group from the easy pool before anything is known, as in `rl.train`."""


@dataclass(frozen=True, slots=True)
class Method:
    """How a batch is filled."""

    launch: Literal["round", "rounds", "expected", "predicted", "first_done"]
    """`round`: B groups, valid or not; `rounds`: of B, until B are valid; `expected`: the paper's rule, with the
    workload's prior; `predicted`: at a risk, by what is known of each problem; `first_done`: as `expected`, but the
    first B that are judged valid are taken."""
    rewards: Rewards = "beside"
    drain: bool = False
    """Nothing is aborted."""
    longest_first: bool = False
    streamed: bool = False
    by_response: bool = False
    """A slot that is free takes the next response, instead of a worker that is free the next group."""


OURS = Method("predicted", longest_first=True, streamed=True, by_response=True)
METHODS: Mapping[str, Method] = {
    "static": Method("round", rewards="barrier"),
    "naive": Method("rounds", rewards="barrier"),
    "continuous": Method("expected", rewards="held", drain=True),
    "async": Method("expected", drain=True),
    "early_termination": Method("expected"),
    "ours": OURS,
    "ours -predictive": replace(OURS, launch="expected"),
    "ours -longest_first": replace(OURS, longest_first=False),
    "ours -streamed": replace(OURS, streamed=False),
    "ours -by_response": replace(OURS, by_response=False),
    "naive +by_response": Method("rounds", rewards="barrier", by_response=True),
    "+predictive": Method("predicted"),
    "+longest_first": Method("expected", longest_first=True),
    "+streamed": Method("expected", streamed=True),
    "first_done": Method("first_done"),
}
"""Rows by name. Those of the paper's Table 2 come first, each the one before with one thing added; `ours -x` is ours
without one step, `+x` is `early_termination` with it."""


@dataclass(frozen=True, slots=True)
class Row:
    """A method over all steps; fractions, not percent."""

    method: str
    overall_speedup: float
    """Of the time of all steps, training included, over naive's."""
    rollout_speedup: float
    idle_ratio: float
    """Worker time of the rollouts that neither generated what was kept nor trained; aborted work is idle."""
    normalized_idle: float
    """Idle worker time over naive's."""
    waste: float
    mean_length: float
    """Tokens of a response of the selected groups."""
    selected: tuple[tuple[int, ...], ...]
    """Launch numbers by step."""
    launched: tuple[int, ...]
    """Behind the highest launch number of each step."""


def compare(
    workload: Cluster, groups: Groups, methods: Mapping[str, Method] = METHODS, *, risk: float = RISK
) -> list[Row]:
    """Run every method over all steps; a row each, in order. `naive` must be among them.

    Raises:
        ValueError: without `naive`.
    """
    if "naive" not in methods:
        raise ValueError(f"speed-ups are over naive, which is not among {', '.join(methods)}")
    results = {name: run(workload, groups, method, risk=risk) for name, method in methods.items()}
    naive_s, naive_idle_s = _rollout_s(results["naive"]), sum(step.idle_s for step in results["naive"])
    naive_total_s = naive_s + workload.steps * workload.train_s
    rows = []
    for name, steps in results.items():
        rollout_s, idle_s = _rollout_s(steps), sum(step.idle_s for step in steps)
        trained_s = sum(step.trained_s for step in steps)
        chosen = [groups.task(number, launch) for number, step in enumerate(steps) for launch in step.selected]
        rows.append(
            Row(
                method=name,
                overall_speedup=naive_total_s / (rollout_s + workload.steps * workload.train_s - trained_s),
                rollout_speedup=naive_s / rollout_s,
                idle_ratio=idle_s / (workload.num_workers * rollout_s),
                normalized_idle=idle_s / naive_idle_s,
                waste=fmean(step.waste for step in steps),
                mean_length=fmean(task.mean_tokens for task in chosen),
                selected=tuple(step.selected for step in steps),
                launched=tuple(step.spans[-1].launch + 1 for step in steps),
            )
        )
    return rows


def run(workload: Cluster, groups: Groups, method: Method, *, risk: float = RISK) -> list[Simulation]:
    """One method over all steps."""
    history = _history(workload, groups)
    steps = []
    for step in range(workload.steps):
        result = simulate(
            partial(groups.task, step),
            _machine(workload, groups, method, history, step, risk),
            _workers(workload, groups, method),
            rewards=method.rewards,
            drain=method.drain,
            reward_lanes=workload.reward_lanes,
            training=_training(workload) if method.streamed else None,
        )
        if method.launch == "round":
            result = replace(result, selected=tuple(range(workload.batch_groups)), waste=0.0)
        history.update(groups.task(step, launch).outcome() for launch in range(result.prefix_end))
        steps.append(result)
    return steps


def _machine(workload: Cluster, groups: Groups, method: Method, history: History, step: int, risk: float) -> Seamless:
    size, workers = workload.batch_groups, workload.num_workers * (GROUPS if method.by_response else 1)
    if method.launch == "round":
        return Rounds(size, max_active=workers, max_launched=size)
    if method.launch == "rounds":
        return Rounds(size, max_active=workers)
    if method.launch == "first_done":
        return FirstDone(size, lambda launch: workload.prior, max_active=workers)

    def chance(launch: int) -> float:
        task = groups.task(step, launch)
        return history.chance(task.problem_id, task.stratum)

    def length(launch: int) -> float:
        task = groups.task(step, launch)
        return history.length(task.problem_id, task.stratum)

    predicted = method.launch == "predicted"
    return Seamless(
        size,
        chance if predicted else lambda launch: workload.prior,
        max_active=workers,
        risk=risk if predicted else None,
        length=length if method.longest_first else None,
    )


def _workers(workload: Cluster, groups: Groups, method: Method) -> Workers:
    if method.by_response:
        return ResponseSlots(workload.num_workers, workload.num_rollouts, groups.speed)
    return GroupWorkers(workload.num_workers)


def _history(workload: Cluster, groups: Groups) -> History:
    """What is known before the first step; of the main stratum, the share of problems with mixed responses."""
    rows = groups.seen()
    mixed = fmean(0.0 < row.pass_rate < 1.0 for row in rows) if rows else 0.0
    history = History({"main": mixed or workload.prior, "easy": EASY}, shrink=SHRINK)
    for row in rows:
        history.seed_with(row.problem_id, row.pass_rate, workload.num_rollouts, float(row.tokens))
    return history


def _training(workload: Cluster) -> Training:
    num_minibatches = -(-workload.batch_groups // workload.minibatch_groups)
    return Training(workload.train_s, num_minibatches, workload.minibatch_groups)


def _rollout_s(steps: Sequence[Simulation]) -> float:
    return sum(step.makespan_s for step in steps)
