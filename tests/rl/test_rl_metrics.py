"""What a step's rollouts showed, by hand."""

import pytest

from openmimo.rl.metrics import cost, facts, spread
from openmimo.rollout.driver import BatchResult, Timing
from openmimo.rollout.seamless import Stats
from openmimo.types import FinishReason, Group, Problem, Rollout, TestResult, Verdict


def rollout(length: int, finish_reason: FinishReason = "stop") -> Rollout:
    return Rollout("p", (1,), tuple(range(length)), (0.0,) * length, 0, finish_reason)


RIGHT, WRONG = Verdict("accepted"), Verdict("wrong_answer")
SLOW = Verdict("wrong_answer", (TestResult("wrong_answer"), TestResult("time_limit")))
MATH = Group(
    Problem("m", "wie viel", "math", family="chain"), (rollout(4), rollout(8, "length")), (RIGHT, WRONG),
    launch=0, rewards=(1.0, 0.0),
)  # fmt: skip
CODE = Group(
    Problem("c", "write it", "code", family="pipeline"), (rollout(2), rollout(6)), (RIGHT, SLOW),
    launch=1, rewards=(1.0, 0.5),
)  # fmt: skip
DROPPED = Group(MATH.problem, MATH.rollouts, (Verdict("internal_error"),) * 2, launch=2)
BATCH = BatchResult(
    groups=(MATH, CODE), prefix=(MATH, CODE, DROPPED), outcomes=(True, True, None), prefix_end=3,
    stats=Stats(launched=5, judged=4, valid=3, dropped=1, aborted=1, waste=0.5),
    timing=Timing(total_s=10.0, useful_s=60.0, peak_requests=8, slots=10), spans=(), rate=(), num_known=1,
)  # fmt: skip


def test_facts_are_means_over_the_responses_of_groups_that_were_judged() -> None:
    found = facts(BATCH, decode=lambda ids: "x" * len(ids), mixes=lambda prompt, text: prompt == "wie viel")
    assert found == {
        "reward": 2.5 / 4,
        "accepted": 0.5,
        "accepted_math": 0.5,
        "accepted_code": 0.5,
        "accepted/chain": 0.5,
        "accepted/pipeline": 0.5,
        "length": 5.0,
        "length_accepted": 3.0,
        "length_rejected": 7.0,
        "truncated": 0.25,
        "time_limit": 0.25,
        "mixed_language": 0.5,
        "valid_share": pytest.approx(2 / 3),
        "groups": 2,
        "prefix_groups": 3,
        "dropped_groups": 1,
    }


def test_idle_counts_the_slots_there_are_and_the_peak_where_they_are_not_known() -> None:
    found = cost(BATCH)
    assert found["idle"] == pytest.approx(1 - 60 / (10 * 10))
    assert (found["waste"], found["aborted_groups"], found["known_groups"]) == (0.5, 1, 1)
    BATCH.timing.slots = 0
    assert cost(BATCH)["idle"] == pytest.approx(1 - 60 / (8 * 10))


def test_groups_to_read_are_spread_from_first_to_last() -> None:
    groups = tuple(Group(MATH.problem, (), (), launch=n) for n in range(10))
    assert [group.launch for group in spread(groups, 3)] == [0, 3, 6]
    assert spread(groups[:2], 3) == list(groups[:2])
