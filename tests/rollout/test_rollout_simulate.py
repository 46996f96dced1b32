"""One batch on a fake clock: Figure 6, barriers, held workers, aborts, streamed training, each worked by hand."""

import math
import random

import pytest

from openmimo.rollout.baselines import Rounds
from openmimo.rollout.batched import BatchedEngine
from openmimo.rollout.seamless import Seamless
from openmimo.rollout.simulate import GroupWorkers, ResponseSlots, Training, simulate
from openmimo.rollout.workload import Task

# Figure 6: rollout and reward durations; what 8 would have needed is not drawn, only that it was still running.
FIGURE_6 = [
    Task(75, 32, True), Task(120, 5, False), Task(11, 29, False), Task(42, 6, True),
    Task(107, 7, False), Task(53, 13, True), Task(69, 32, True), Task(120, 10, False),
]  # fmt: skip


def expected(batch_groups, num_workers, prior=0.5):
    return Seamless(batch_groups, lambda number: prior, max_active=num_workers)


def test_figure_6_simulated_gives_its_launches_its_abort_and_its_selection():
    result = simulate(FIGURE_6.__getitem__, expected(4, 4), GroupWorkers(4, launch_s=4.5), rewards="beside")
    assert result.selected == (0, 3, 5, 6)
    assert [span.worker + 1 for span in result.spans] == [1, 2, 3, 4, 3, 4, 1, 4]
    starts = [0, 0, 0, 0, 16, 46, 80, 103]
    assert [span.start_s for span in result.spans] == pytest.approx(starts, abs=2.0)
    assert [span.launch for span in result.spans if span.aborted] == [7]
    assert result.makespan_s == pytest.approx(181, abs=2.0)


def test_figure_6_sequential_needs_two_rounds_with_rewards_in_a_row():
    result = simulate(FIGURE_6.__getitem__, Rounds(4, max_active=4), GroupWorkers(4), rewards="barrier")
    assert result.selected == (0, 3, 5, 6)
    assert len(result.spans) == 8
    assert result.makespan_s == (120 + 32 + 5 + 29 + 6) + (120 + 7 + 13 + 32 + 10)


def test_a_barrier_judges_in_lanes():
    tasks = [Task(10, 6, True), Task(8, 4, True), Task(10, 4, True)]
    result = simulate(tasks.__getitem__, Rounds(3, max_active=3), GroupWorkers(3), rewards="barrier", reward_lanes=2)
    assert result.makespan_s == 10 + 8  # 6 in one lane, 4 + 4 in the other
    assert result.idle_ratio == pytest.approx(1 - 28 / (3 * 18))


def test_a_held_worker_waits_for_the_verdict_and_a_free_one_does_not():
    tasks = [Task(10, 5, True), Task(10, 5, True)]
    for rewards, makespan_s in (("held", 30), ("beside", 25)):
        result = simulate(tasks.__getitem__, expected(2, 1, 1.0), GroupWorkers(1), rewards=rewards)
        assert result.makespan_s == makespan_s


def test_what_is_aborted_is_idle_and_draining_makes_it_waste():
    """B = 1 at P = 0.5 starts two; the first is valid after 10 s, the second would be after 20."""
    tasks = [Task(10, 0, True), Task(20, 0, True)]
    stopped = simulate(tasks.__getitem__, expected(1, 2), GroupWorkers(2), rewards="beside")
    assert (stopped.makespan_s, stopped.idle_ratio, stopped.waste) == (10, 0.5, 0.0)
    drained = simulate(tasks.__getitem__, expected(1, 2), GroupWorkers(2), rewards="beside", drain=True)
    assert (drained.makespan_s, drained.idle_ratio, drained.waste) == (20, 0.25, 1.0)
    assert stopped.selected == drained.selected == (0,)


def test_final_minibatches_train_on_the_workers_that_are_free():
    """Rank 0 is final at 10 s. From then on one of two workers is free: its update of 4 s on both takes 8 s."""
    tasks = [Task(10, 0, True), Task(30, 0, True)]
    training = Training(train_s=8.0, num_minibatches=2, minibatch_groups=1)
    result = simulate(tasks.__getitem__, expected(2, 2, 1.0), GroupWorkers(2), rewards="beside", training=training)
    assert (result.makespan_s, result.trained_s) == (30, 4.0)  # the last one trains after the rollout
    assert result.idle_s == 2 * 30 - 40 - 2 * 4.0
    hasty = [Task(10, 0, True), Task(14, 0, True)]
    result = simulate(hasty.__getitem__, expected(2, 2, 1.0), GroupWorkers(2), rewards="beside", training=training)
    assert result.trained_s == 2.0


def random_tasks(seed):
    rng = random.Random(seed)
    return [Task(rng.lognormvariate(3, 1), rng.expovariate(0.2), rng.random() < 0.41) for _ in range(2000)]


@pytest.mark.parametrize("seed", range(5))
def test_every_method_selects_the_same_groups_and_each_addition_saves_time(seed):
    tasks = random_tasks(seed)
    naive, continuous, beside, early = (
        simulate(tasks.__getitem__, machine, GroupWorkers(32), rewards=rewards, drain=drain)
        for machine, rewards, drain in (
            (Rounds(64, max_active=32), "barrier", False),
            (expected(64, 32, 0.41), "held", True),
            (expected(64, 32, 0.41), "beside", True),
            (expected(64, 32, 0.41), "beside", False),
        )
    )
    results = (naive, continuous, beside, early)
    assert len({result.selected for result in results}) == 1
    assert naive.makespan_s > continuous.makespan_s > early.makespan_s
    assert beside.makespan_s >= early.makespan_s
    assert naive.idle_ratio > early.idle_ratio
    assert all(0.0 <= result.idle_ratio < 1.0 and result.waste >= 0.0 for result in results)


def test_no_workers_is_refused():
    with pytest.raises(ValueError, match="num_workers must be at least 1, got 0"):
        simulate(FIGURE_6.__getitem__, expected(4, 4), GroupWorkers(0), rewards="beside")


def test_a_slot_that_is_free_takes_the_next_response():
    """One worker, two slots, a token a second each. Lengths 1 and 4, then 2 and 2: by the group 4 + 2 s, by the slot
    1 + 2 + 2 beside 4."""
    tasks = [Task(4, 0, True, lengths=(1, 4)), Task(2, 0, True, lengths=(2, 2))]
    by_group = simulate(tasks.__getitem__, expected(2, 1, 1.0), GroupWorkers(1), rewards="beside")
    assert (by_group.makespan_s, by_group.idle_ratio) == (6, 0.0)
    slots = ResponseSlots(1, 2, lambda live: 1.0)
    by_slot = simulate(tasks.__getitem__, expected(2, 2, 1.0), slots, rewards="beside")
    assert (by_slot.makespan_s, by_slot.selected) == (5, (0, 1))
    assert by_slot.idle_s == 5 - (1 + 4 + 2 + 2) / 2
    assert [(span.start_s, span.end_s) for span in by_slot.spans] == [(0, 4), (0, 5)]


def test_a_batched_engine_by_hand():
    """Ten tokens a second shared by those that are live; the third request waits for a slot."""
    engine = BatchedEngine(lambda live: 10.0 / live, slots=2)
    for name, tokens in enumerate((10.0, 20.0, 5.0, math.inf)):
        engine.add(name, tokens)
    ended = []
    while (next_s := engine.next_s()) < math.inf:
        engine.advance(next_s)
        ended.append((next_s, *engine.pop()))
    # 0 after 10 tokens at 5 a second; 2 starts then and needs 1 s; from 3 s on the endless one shares with 1.
    assert ended == [(2.0, 0, 0.0), (3.0, 2, 2.0), (4.0, 1, 0.0)]
    assert engine.live == 1
