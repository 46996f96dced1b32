"""The four methods on a fake clock."""

import random

import pytest

from openmimo.rollout.simulate import Task, simulate

# Figure 6: rollout and reward durations; what 8 would have needed is not drawn, only that it was still running.
FIGURE_6 = [
    Task(75, 32, True), Task(120, 5, False), Task(11, 29, False), Task(42, 6, True),
    Task(107, 7, False), Task(53, 13, True), Task(69, 32, True), Task(120, 10, False),
]  # fmt: skip


def figure_6(number):
    return FIGURE_6[number]


def test_figure_6_simulated_gives_its_launches_its_abort_and_its_selection():
    result = simulate(figure_6, method="early_termination", num_workers=4, batch_groups=4, prior=0.5, launch_s=4.5)
    assert result.selected == (0, 3, 5, 6)
    assert [span.worker + 1 for span in result.spans] == [1, 2, 3, 4, 3, 4, 1, 4]
    starts = [0, 0, 0, 0, 16, 46, 80, 103]
    assert [span.start_s for span in result.spans] == pytest.approx(starts, abs=2.0)
    assert [span.launch for span in result.spans if span.aborted] == [7]
    assert result.makespan_s == pytest.approx(181, abs=2.0)


def test_figure_6_sequential_needs_two_rounds_with_rewards_in_a_row():
    result = simulate(figure_6, method="naive", num_workers=4, batch_groups=4)
    assert result.selected == (0, 3, 5, 6)
    assert len(result.spans) == 8
    assert result.makespan_s == (120 + 32 + 5 + 29 + 6) + (120 + 7 + 13 + 32 + 10)


def random_tasks(seed):
    rng = random.Random(seed)
    tasks = [Task(rng.lognormvariate(3, 1), rng.expovariate(0.2), rng.random() < 0.41) for _ in range(2000)]
    return lambda number: tasks[number]


@pytest.mark.parametrize("seed", range(5))
def test_every_method_selects_the_same_groups_and_each_addition_saves_time(seed):
    results = [
        simulate(random_tasks(seed), method=method, num_workers=32, batch_groups=64, prior=0.41)
        for method in ("naive", "continuous", "async", "early_termination")
    ]
    assert len({result.selected for result in results}) == 1
    naive, continuous, _, early = results
    assert naive.makespan_s > continuous.makespan_s > early.makespan_s
    assert naive.idle_ratio > early.idle_ratio
    assert all(0.0 <= result.idle_ratio < 1.0 and result.waste >= 0.0 for result in results)
    assert results[2].makespan_s >= early.makespan_s


def test_no_workers_is_refused():
    with pytest.raises(ValueError, match="must be at least 1, got 0 and 4"):
        simulate(figure_6, method="naive", num_workers=0, batch_groups=4)
