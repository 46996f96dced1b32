"""Methods on a small workload: the same batch, and what each step may claim."""

from dataclasses import asdict, replace

import pytest

from openmimo.rollout.baselines import barriered
from openmimo.rollout.compare import METHODS, compare, run
from openmimo.rollout.workload import paper

SMALL = replace(paper, batch_groups=32, num_workers=16, minibatch_groups=4, num_problems=256, steps=3, train_s=200.0)


@pytest.mark.parametrize("seed", range(3))
def test_all_but_static_and_first_done_select_what_naive_sampling_does(seed):
    groups = SMALL.groups(seed)
    rows = {row.method: row for row in compare(SMALL, groups)}
    for step in range(SMALL.steps):
        naive = barriered(lambda launch, step=step: groups.task(step, launch).valid, 32)
        for name, row in rows.items():
            if name == "static":
                assert row.selected[step] == tuple(range(32))
            elif name == "first_done":
                assert len(row.selected[step]) == 32
            else:
                assert row.selected[step] == naive.selected, name
            assert row.launched[step] > max(row.selected[step])
    assert rows["first_done"].mean_length < rows["naive"].mean_length


def test_speedups_and_idle_time_are_over_naive():
    groups = SMALL.groups(0)
    naive, ours = run(SMALL, groups, METHODS["naive"]), run(SMALL, groups, METHODS["ours"])
    rows = {row.method: row for row in compare(SMALL, groups)}
    assert (rows["naive"].overall_speedup, rows["naive"].rollout_speedup, rows["naive"].normalized_idle) == (1, 1, 1)
    rollout_s, trained_s = sum(step.makespan_s for step in ours), sum(step.trained_s for step in ours)
    naive_s = sum(step.makespan_s for step in naive)
    assert rows["ours"].rollout_speedup == pytest.approx(naive_s / rollout_s)
    assert rows["ours"].overall_speedup == pytest.approx((naive_s + 600) / (rollout_s + 600 - trained_s))
    assert 0 < trained_s < 600
    decoded = rows["ours"].idle_ratio / rows["ours"].rollout_speedup / rows["naive"].idle_ratio
    assert rows["ours"].normalized_idle == pytest.approx(decoded)  # as the columns of MiMo's Table 2 hang together


def test_streamed_updates_change_when_training_happens_and_nothing_else():
    groups = SMALL.groups(1)
    with_it, without = run(SMALL, groups, METHODS["ours"]), run(SMALL, groups, METHODS["ours -streamed"])
    for one, other in zip(with_it, without, strict=True):
        assert replace(one, trained_s=0.0, idle_s=0.0, idle_ratio=0.0) == replace(
            other, trained_s=0.0, idle_s=0.0, idle_ratio=0.0
        )
        assert one.idle_s == pytest.approx(other.idle_s - SMALL.num_workers * one.trained_s)


def test_lower_risk_launches_more():
    groups = SMALL.groups(0)
    launched = [
        sum(len(step.spans) for step in run(replace(SMALL, num_workers=200), groups, METHODS["ours"], risk=risk))
        for risk in (0.5, 0.1, 0.001)
    ]
    assert launched == sorted(set(launched))


def test_rows_follow_from_workload_and_seed():
    assert list(map(asdict, compare(SMALL, SMALL.groups(5)))) == list(map(asdict, compare(SMALL, SMALL.groups(5))))
    with pytest.raises(ValueError, match="speed-ups are over naive, which is not among ours"):
        compare(SMALL, SMALL.groups(5), {"ours": METHODS["ours"]})


def test_the_stated_workload_gives_the_rows_of_table_2():
    """MiMo 3.4.1: overall speed-up, within 10 %. One step of the five, one seed."""
    work = replace(paper, steps=1)
    methods = {name: METHODS[name] for name in ("static", "naive", "continuous", "async", "early_termination")}
    speedups = {row.method: row.overall_speedup for row in compare(work, work.groups(0), methods)}
    table_2 = {"static": 2.45, "naive": 1.0, "continuous": 1.99, "async": 2.09, "early_termination": 2.29}
    assert speedups == pytest.approx(table_2, rel=0.1)
