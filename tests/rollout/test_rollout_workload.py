"""A workload is a value; its groups follow from seed, step and launch number alone."""

import math
from dataclasses import replace
from statistics import fmean

import pytest

from openmimo.rollout.workload import Workload, paper, workload_from

SMALL = replace(paper, batch_groups=16, num_workers=8, minibatch_groups=4, num_problems=64, steps=3)


def test_the_share_of_valid_groups_is_that_of_a_beta_binomial():
    """G = 2 with uniform pass rates: one right of two has probability 2 E[p (1 - p)] = 1/3."""
    assert Workload(num_rollouts=2, pass_alpha=1.0, pass_beta=1.0).valid_share == pytest.approx(1 / 3)
    assert paper.valid_share == pytest.approx(0.41, abs=0.005)  # MiMo 3.4.1


def test_groups_do_not_depend_on_the_order_of_asking():
    forwards, backwards = SMALL.groups(3), SMALL.groups(3)
    asked = [(step, launch) for step in range(3) for launch in range(40)]
    found = {key: forwards.task(*key) for key in asked}
    assert {key: backwards.task(*key) for key in reversed(asked)} == found
    assert SMALL.groups(4).task(0, 0) != found[0, 0]


def test_a_step_begins_where_the_prefix_of_the_last_one_ended():
    groups = SMALL.groups(0)
    valid = [launch for launch in range(200) if groups.task(0, launch).valid]
    end = valid[15] + 1
    assert groups.task(0, end).problem_id == groups.task(1, 0).problem_id
    first_epoch = [groups.task(0, launch).problem_id for launch in range(64)]
    assert len(set(first_epoch)) == 64  # every problem once, then again in another order
    assert {groups.task(0, 64 + launch).problem_id for launch in range(64)} == set(first_epoch)


def test_lengths_are_cut_and_hard_problems_are_longer():
    hard = replace(SMALL, num_problems=2000, hard_sigma=1.0, problem_sigma=0.1, changed=0.0)
    groups = hard.groups(0)
    tasks = [groups.task(0, launch) for launch in range(800)]
    seen = {row.problem_id: row for row in groups.seen()}
    assert max(task.tokens for task in tasks) <= hard.max_tokens
    assert all(task.rollout_s == task.tokens / hard.tokens_per_s for task in tasks)
    solved = fmean(task.mean_tokens for task in tasks if seen[task.problem_id].pass_rate > 0.9)
    missed = fmean(task.mean_tokens for task in tasks if seen[task.problem_id].pass_rate < 0.1)
    assert math.log(missed / solved) == pytest.approx(2.0, abs=0.25)


def test_what_curation_saw_tells_of_the_groups_but_for_those_that_changed():
    def agreement(changed):
        groups = replace(SMALL, num_problems=1000, changed=changed).groups(1)
        seen = {row.problem_id: row.pass_rate for row in groups.seen()}
        tasks = [groups.task(0, launch) for launch in range(500)]
        return fmean(task.valid == (0.0 < seen[task.problem_id] < 1.0) for task in tasks)

    assert agreement(0.0) > 0.85 > agreement(1.0) + 0.2


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"batch_grups": 3}, "unknown parameter 'batch_grups'; the nearest is 'batch_groups'"),
        ({"batch_groups": 0}, "batch_groups must be at least 1, got 0"),
        ({"batch_groups": 2.5}, "batch_groups must be an integer, got 2.5"),
        ({"steps": True}, "steps must be an integer, got True"),
        ({"prior": 0}, "prior must be above 0, got 0"),
        ({"prior": 1.5}, "prior must be at most 1, got 1.5"),
        ({"train_s": -1.0}, "train_s must be at least 0, got -1.0"),
        ({"tokens_per_s": float("nan")}, "tokens_per_s must be above 0, got nan"),
        ({"median_tokens": "many"}, "median_tokens must be a number, got 'many'"),
        ({"num_rollouts": 1}, "num_rollouts must be at least 2, got 1"),
    ],
)
def test_a_wrong_parameter_is_refused_in_one_line(row, said):
    with pytest.raises(ValueError, match="workload: " + said.replace("(", r"\(")):
        workload_from(row)


def test_parameters_that_are_not_named_are_the_stated_ones():
    assert workload_from({}) == paper
    assert workload_from({"num_workers": 8}) == replace(paper, num_workers=8)
