"""pass@k by hand, by counting subsets, and the two intervals."""

import itertools
import random

import pytest

from openmimo.eval.passk import average, mean_pass_at_k, paired_difference, pass_at_k, sampling_error


@pytest.mark.parametrize(
    ("n", "c", "k", "expected"),
    [(5, 2, 3, 0.9), (5, 0, 3, 0.0), (5, 3, 3, 1.0), (5, 1, 1, 0.2), (10, 1, 5, 0.5), (4, 4, 1, 1.0), (2, 1, 2, 1.0)],
)
def test_pass_at_k_by_hand(n: int, c: int, k: int, expected: float) -> None:
    assert pass_at_k(n, c, k) == pytest.approx(expected, abs=1e-12)


def test_pass_at_k_is_the_share_of_subsets_with_a_right_one() -> None:
    for n in range(1, 7):
        for c in range(n + 1):
            for k in range(1, n + 1):
                subsets = list(itertools.combinations([True] * c + [False] * (n - c), k))
                assert pass_at_k(n, c, k) == pytest.approx(sum(map(any, subsets)) / len(subsets))


def test_more_than_there_are_samples_is_refused() -> None:
    with pytest.raises(ValueError, match="pass@6 needs at least 6 samples a problem, got 5"):
        pass_at_k(5, 2, 6)
    with pytest.raises(ValueError, match="pass@4 needs at least 4 samples a problem, got 3"):
        mean_pass_at_k([[True] * 4, [True] * 3], 4)
    with pytest.raises(ValueError, match="needs at least 0 samples"):
        pass_at_k(5, 2, 0)
    with pytest.raises(ValueError, match="6 of 5 samples cannot be correct"):
        pass_at_k(5, 6, 1)


def test_the_mean_over_problems() -> None:
    assert mean_pass_at_k([[True, True, False, False, False], [False] * 5], 3) == pytest.approx(0.45)


def test_the_interval_over_questions_holds_the_truth_about_95_times_in_100() -> None:
    rng = random.Random(0)
    hits = 0
    for _ in range(150):
        rows = [[rng.random() < rate for _ in range(4)] for rate in (rng.random() for _ in range(40))]
        estimate = average(rows)
        assert estimate.low <= estimate.mean <= estimate.high and estimate.n == 40
        hits += estimate.low <= 0.5 <= estimate.high
    assert 0.88 <= hits / 150 <= 1.0


def test_one_sample_a_problem_gives_wilsons_interval() -> None:
    # 8 of 10: Wilson's 95 % interval is 0.4902 to 0.9433.
    found = average([[True]] * 8 + [[False]] * 2)
    assert (found.low, found.high) == (pytest.approx(0.490, abs=0.03), pytest.approx(0.943, abs=0.03))
    nothing = average([[False]] * 20)
    assert nothing.low == nothing.mean == 0.0 and 0.1 < nothing.high < 0.2
    with pytest.raises(ValueError, match="no problems to average over"):
        average([])


def test_the_error_over_samples_by_hand() -> None:
    # One problem, 2 of 4 right: variance of the mean 0.25 / 3; 1.96 * sqrt(0.08333) = 0.5658.
    assert sampling_error([[True, True, False, False]]) == pytest.approx(0.56580, abs=1e-4)
    # Two such problems: half the variance.
    assert sampling_error([[True, True, False, False]] * 2) == pytest.approx(0.56580 / 2**0.5, abs=1e-4)
    assert sampling_error([[True] * 4, [False] * 4]) == 0.0


def test_a_paired_difference_sees_what_two_intervals_would_hide() -> None:
    rng = random.Random(0)
    rates = [n / 60 for n in range(60)]
    before = [[rng.random() < r for _ in range(8)] for r in rates]
    after = [row[:-1] + [True] for row in before]  # the same problems, a little better on each
    gain = paired_difference(before, after)
    assert gain.mean == pytest.approx(sum(not row[-1] for row in before) / 60 / 8)
    assert gain.low > 0.0
    assert average(before).high > average(after).low  # the two intervals overlap
    same = paired_difference(before, before)
    assert (same.mean, same.low, same.high) == (0.0, 0.0, 0.0)
    with pytest.raises(ValueError, match="paired tests need the same problems, got 60 and 59"):
        paired_difference(before, after[:-1])
