"""MiMo 3.3.1 on numbers worked by hand."""

import pytest

from openmimo.rl.reward import EASY, HARD, MEDIUM, level, reward
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
