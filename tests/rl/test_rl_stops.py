"""When a run ends by itself, by hand."""

import pytest

from openmimo.rl.stops import Stops

RIGHT, WRONG, PART = (1.0, 1.0), (0.0, 0.0), (0.5, 0.5)


def watch(
    stops: Stops, *rewards: tuple[float, ...], valid: int = 0, entropy: float | None = 1.0, lost: int = 0
) -> None:
    stops.watch(7, num_valid=valid, rewards=rewards, entropy=entropy, not_finite_in_a_row=lost)


@pytest.mark.parametrize(
    ("rewards", "why"),
    [
        ((RIGHT, RIGHT, WRONG), "in 4 of 6 groups all responses were right: the problems are too easy"),
        ((WRONG, WRONG, RIGHT), "in 4 of 6 groups all responses were wrong: the problems are too hard"),
        ((RIGHT, WRONG, PART), "of 6 groups 2 were all right and 2 all wrong, in the others all responses earned"),
        (((), ()), "the judge failed on every group"),
    ],
)
def test_steps_without_a_valid_group_end_the_run_and_say_what_they_were(
    rewards: tuple[tuple[float, ...], ...], why: str
) -> None:
    stops = Stops(2, 0, 0.0, 0)
    watch(stops, *rewards)
    with pytest.raises(ValueError, match=f"rl stopped at step 7: 2 steps in a row without a valid group; {why}"):
        watch(stops, *rewards)


def test_one_valid_group_begins_the_count_anew() -> None:
    stops = Stops(2, 0, 0.0, 0)
    for _ in range(5):
        watch(stops, WRONG)
        watch(stops, WRONG, (0.0, 1.0), valid=1)
    assert (stops.without_groups, stops.wrong, stops.judged) == (0, 0, 0)


def test_updates_that_are_not_finite_end_the_run() -> None:
    stops = Stops(0, 3, 0.0, 0)
    watch(stops, valid=1, lost=2)
    with pytest.raises(ValueError, match="3 updates in a row had a loss or gradient that is not finite"):
        watch(stops, valid=1, lost=3)


def test_collapsed_entropy_ends_the_run_after_so_many_steps() -> None:
    stops = Stops(0, 0, 0.01, 2)
    watch(stops, valid=1, entropy=0.005)
    watch(stops, valid=1, entropy=0.02)
    watch(stops, valid=1, entropy=0.005)
    watch(stops, valid=1, entropy=None)  # no update, nothing known: not collapsed
    watch(stops, valid=1, entropy=0.009)
    with pytest.raises(ValueError, match=r"entropy 0\.0089 nats a token, below rl\.least_entropy=0\.01 for 2 steps"):
        watch(stops, valid=1, entropy=0.0089)


def test_what_was_counted_survives_a_checkpoint() -> None:
    stops, other = Stops(3, 0, 0.0, 0), Stops(3, 0, 0.0, 0)
    watch(stops, WRONG)
    watch(stops, RIGHT)
    other.load_state_dict(stops.state_dict())
    assert other == stops
    with pytest.raises(ValueError, match="3 steps in a row"):
        watch(other, WRONG)
