"""MiMo 3.3.1 on numbers worked by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openmimo.rl.kmeans import kmeans
from openmimo.rl.reward import EASY, HARD, MEDIUM, less_penalty, level, levels, reward
from openmimo.types import Problem, Status, TestResult, UnitTest, Verdict

LEVELS = (EASY, EASY, MEDIUM, HARD)


def problem(levels: tuple[int | None, ...] = LEVELS) -> Problem:
    return Problem("p", "", "code", tests=tuple(UnitTest("", "", n) for n in levels))


def verdict(passed: str) -> Verdict:
    """`1` for a passed test, `0` for a failed one."""
    tests = tuple(TestResult("accepted" if c == "1" else "wrong_answer") for c in passed)
    status: Status = "accepted" if "0" not in passed else "wrong_answer"
    return Verdict(status, tests)


def test_levels_are_cut_at_three_and_seven_tenths() -> None:
    assert [level(p) for p in (0.0, 0.29, 0.3, 0.69, 0.7, 1.0)] == [HARD, HARD, MEDIUM, MEDIUM, EASY, EASY]


@pytest.mark.parametrize(
    ("passed", "soft", "strict", "whole"),
    [
        ("1111", 1.0, 1.0, 1.0),
        ("1110", 2 / 3, 2 / 3, 0.0),
        ("1100", 1 / 3, 1 / 3, 0.0),
        ("1000", 1 / 6, 0.0, 0.0),
        ("0111", 1 / 6 + 2 / 3, 0.0, 0.0),
        ("1101", 2 / 3, 1 / 3, 0.0),
        ("0000", 0.0, 0.0, 0.0),
    ],
)
def test_the_three_schemes_on_two_easy_one_medium_one_hard_test(
    passed: str, soft: float, strict: float, whole: float
) -> None:
    found = [reward(problem(), verdict(passed), scheme=s) for s in ("soft", "strict", "all_or_nothing")]
    assert found == pytest.approx([soft, strict, whole])


def test_soft_reward_splits_points_over_the_levels_present() -> None:
    assert reward(problem((EASY, HARD)), verdict("10")) == pytest.approx(0.5)


def test_level_weights_are_scaled_to_one() -> None:
    assert reward(problem(), verdict("1100"), weights=(1, 2, 5)) == pytest.approx(1 / 8)
    assert reward(problem(), verdict("1110"), scheme="strict", weights=(1, 2, 5)) == pytest.approx(3 / 8)


def test_an_unmeasured_test_counts_as_hard() -> None:
    assert reward(problem((None, EASY)), verdict("01")) == pytest.approx(0.5)


def test_an_internal_error_is_nobodys_zero() -> None:
    assert reward(problem(), Verdict("internal_error")) is None


def test_a_program_that_never_ran_earns_nothing() -> None:
    assert reward(problem(), Verdict("compile_error")) == 0.0


def test_maths_is_right_or_wrong() -> None:
    maths = Problem("m", "", "math", answer="1")
    assert reward(maths, Verdict("accepted")) == 1.0 and reward(maths, Verdict("wrong_answer")) == 0.0


def test_a_verdict_on_other_tests_is_refused() -> None:
    with pytest.raises(ValueError, match="4 tests, its verdict speaks of 2"):
        reward(problem(), verdict("11"))


def test_clusters_of_pass_rates_are_levels_easiest_first() -> None:
    rates = [0.9, 0.1, 0.5, 0.85, 0.15, 0.55]
    assert levels(rates, "kmeans") == (EASY, HARD, MEDIUM, EASY, HARD, MEDIUM)
    assert levels(rates) == (EASY, HARD, MEDIUM, EASY, HARD, MEDIUM)
    close = [0.95, 0.9, 0.8]  # cuts see easy tests alone, clusters see three
    assert levels(close, "cuts") == (EASY, EASY, EASY) and levels(close, "kmeans") == (EASY, MEDIUM, HARD)


def test_of_two_clusters_the_lower_is_medium_unless_nobody_passes_it() -> None:
    assert levels([0.9, 0.2], "kmeans") == (EASY, MEDIUM)
    assert levels([0.9, 0.0], "kmeans") == (EASY, HARD)
    assert levels([0.0, 0.0], "kmeans") == (HARD, HARD) and levels([], "kmeans") == ()


def test_k_means_splits_where_the_gaps_are() -> None:
    # 0 and 1 lie 0.25 from their mean 0.5 each, squared; with 9 apart that is the least.
    assert kmeans([9, 0, 1], 2) == (1, 0, 0)
    assert kmeans([2, 2, 2], 3) == (0, 0, 0)  # one value, one cluster
    assert kmeans([0.1, 0.2, 0.3, 0.9], 4) == (0, 1, 2, 3)
    with pytest.raises(ValueError, match="at least 1 cluster, got 0"):
        kmeans([1.0], 0)


def spread_within(values: list[int], clusters: tuple[int, ...]) -> float:
    total = 0.0
    for cluster in set(clusters):
        mine = [v for v, c in zip(values, clusters, strict=True) if c == cluster]
        total += sum((v - sum(mine) / len(mine)) ** 2 for v in mine)
    return total


@given(st.lists(st.integers(0, 16), min_size=1, max_size=7), st.integers(1, 3))
def test_k_means_is_as_good_as_the_best_of_all_cuts(values: list[int], k: int) -> None:
    found = kmeans(values, k)
    points = sorted(set(values))
    tries = [(0,) * len(values)]
    for a in points:
        for b in points if k > 2 else (99,):
            tries.append(tuple((v >= a) + (v >= b) for v in values) if k > 1 else (0,) * len(values))
    assert spread_within(values, found) == pytest.approx(min(spread_within(values, t) for t in tries), abs=1e-9)
    assert len(set(found)) == min(k, len(points))
    assert all(
        (a < b) <= (c <= d) for a, c in zip(values, found, strict=True) for b, d in zip(values, found, strict=True)
    )


def test_a_response_that_mixes_languages_loses_points_down_to_none() -> None:
    found = [less_penalty(p, mixes_languages=m, penalty=0.5) for p, m in ((1.0, True), (0.25, True), (1.0, False))]
    assert found == [0.5, 0.0, 1.0]
