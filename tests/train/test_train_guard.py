"""Updates that are left out: spikes and what is not finite, decided from losses alone."""

import math

import pytest

from openmimo.train.guard import Guard, GuardConfig

CONFIG = GuardConfig(sigmas=6.0, window=8, least=4, patience=3)
LAST = {"loss": math.nan, "grad_norm": 1.0, "learning_rate": 1e-3}


def fed(*losses: float) -> tuple[Guard, list[str]]:
    guard = Guard(CONFIG)
    return guard, [guard.skips(loss, 1.0) for loss in losses]


def test_a_loss_over_six_sigma_is_a_spike_and_one_below_is_not() -> None:
    # Mean 2, standard deviation 0.1: the border lies at 2.6.
    assert fed(1.9, 2.1, 1.9, 2.1, 2.59)[1][-1] == ""
    guard, reasons = fed(1.9, 2.1, 1.9, 2.1, 2.61)
    assert reasons == ["", "", "", "", "spike"]
    assert list(guard.losses) == [1.9, 2.1, 1.9, 2.1]  # it does not widen the border for the next


def test_before_enough_losses_nothing_is_a_spike() -> None:
    assert fed(1.0, 1.0, 1.0, 99.0)[1] == ["", "", "", ""]


def test_only_the_window_counts() -> None:
    guard, _ = fed(*range(20))
    assert list(guard.losses) == [float(x) for x in range(12, 20)]


@pytest.mark.parametrize("loss, norm", [(math.nan, 1.0), (1.0, math.inf), (math.inf, 1.0), (1.0, math.nan)])
def test_what_is_not_finite_is_left_out_from_the_first_step(loss: float, norm: float) -> None:
    guard = Guard(CONFIG)
    assert guard.skips(loss, norm) == "not_finite" and not guard.losses


def test_too_many_in_a_row_end_the_run_with_advice() -> None:
    guard = Guard(CONFIG)
    for step in range(2):
        guard.skips(math.nan, 1.0)
        guard.check(step, LAST)
    assert guard.skips(1.0, 1.0) == ""
    for step in range(2):
        guard.skips(math.nan, 1.0)
        guard.check(step, LAST)
    guard.skips(math.nan, 1.0)
    with pytest.raises(
        ValueError, match=r"3 updates in a row were left out, the last at step 7 .* lower learning_rate"
    ):
        guard.check(7, LAST)


def test_equal_losses_make_no_spike_of_the_next() -> None:
    assert fed(2.0, 2.0, 2.0, 2.0, 2.001)[1][-1] == ""


def test_a_restored_guard_decides_alike() -> None:
    guard, _ = fed(1.9, 2.1, 1.9, 2.1)
    again = Guard(CONFIG)
    again.load_state_dict(guard.state_dict())
    assert [g.skips(2.7, 1.0) for g in (guard, again)] == ["spike", "spike"]
    again.forget()
    assert again.skips(2.7, 1.0) == ""
