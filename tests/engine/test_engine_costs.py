"""How many drafts: hand-worked choices."""

from __future__ import annotations

import pytest

from openmimo.engine.costs import AGAIN, HOLD, SIZES, TRIALS, DraftCosts


def settled(costs: DraftCosts, live: int) -> DraftCosts:
    """With steps that take as long as their bare passes."""
    for num_drafts in range(costs.num_layers + 1):
        for _ in range(TRIALS):
            costs.observe(live, num_drafts, costs.seconds(live, num_drafts))
    return costs


def test_the_choice_is_the_one_with_the_most_tokens_a_second() -> None:
    # The trunk takes 10 ms whatever the rows, a layer 2: 1/10, 1.9/12, 2.71/14, 3.439/16 tokens a ms.
    costs = settled(DraftCosts(3, lambda rows, layer: 0.010 if layer < 0 else 0.002), 1)
    assert costs.best(1, [0.9, 0.9, 0.9]) == 3
    # With acceptance .9 / .3 / .3: 1.9/12 = .158, 2.17/14 = .155: one draft.
    costs = settled(DraftCosts(3, lambda rows, layer: 0.010 if layer < 0 else 0.002), 1)
    assert costs.best(1, [0.9, 0.3, 0.3]) == 1
    # With .15: 1.15/12 is below 1/10: none.
    costs = settled(DraftCosts(3, lambda rows, layer: 0.010 if layer < 0 else 0.002), 1)
    assert costs.best(1, [0.15, 0.9, 0.9]) == 0


def test_prompts_that_draft_layers_must_go_through_count() -> None:
    # A layer takes 2 ms a pass of 64 rows too: 1/32 ms a row. 1.9 tokens in 12 ms, or, with 300 prompt tokens a
    # generated one, in 12 + 1.9 * 300 / 32 = 30 ms.
    for prompt_share, expected in ((0.0, 1), (300.0, 0)):
        costs = settled(DraftCosts(1, lambda rows, layer: 0.010 if layer < 0 else 0.002), 1)
        assert costs.best(1, [0.9], prompt_share) == expected


def test_where_time_grows_with_the_rows_nothing_is_drafted() -> None:
    costs = DraftCosts(3, lambda rows, layer: rows * (1e-4 if layer < 0 else 2e-5))
    assert costs.best(64, [0.95, 0.95, 0.95]) == 0


def test_few_sequences_draft_and_many_do_not() -> None:
    costs = DraftCosts(3, lambda rows, layer: max(8.0, rows) * (1e-4 if layer < 0 else 1e-5))
    for live in (1, 2, 4, 8, 32):
        settled(costs, live)
    found = [costs.best(live, [0.9, 0.8, 0.8]) for live in (1, 2, 4, 8, 32)]
    assert found[0] == 3 and found[-1] == 0 and found == sorted(found, reverse=True)


def test_times_between_measured_sizes_are_interpolated_and_beyond_the_last_grow_with_the_rows() -> None:
    costs = DraftCosts(1, lambda rows, layer: rows / 10_000)
    assert costs.seconds(20, 0) == pytest.approx(0.0020)
    assert costs.seconds(640, 0) == pytest.approx(0.0640)
    assert costs.seconds(5, 1) == pytest.approx(0.0010 + 0.0005)


def test_measuring_ends_within_its_budget() -> None:
    asked: list[int] = []

    def seconds(rows: int, layer: int) -> float:
        asked.append(rows)
        return 0.1 * rows

    costs = DraftCosts(1, seconds)
    assert costs.seconds(100, 0) == pytest.approx(10.0)
    assert asked == list(SIZES[:2])
    costs.seconds(3, 0)
    assert len(asked) == 2, "measured once"


def test_a_layer_never_judged_is_supposed_to_be_good() -> None:
    costs = settled(DraftCosts(2, lambda rows, layer: 0.010 if layer < 0 else 0.001), 1)
    assert costs.best(1, []) == 2


def test_every_number_that_can_pay_is_tried_and_the_others_never() -> None:
    # Bare passes: two drafts cost 30 ms against 10 and can never pay with 3 tokens at most.
    costs = DraftCosts(2, lambda rows, layer: {1: 0.010, 2: 0.011}.get(rows, 0.030) if layer < 0 else 0.001)
    tried = []
    for _ in range(2 * TRIALS):
        tried.append(costs.best(1, [0.9, 0.9]))
        costs.observe(1, tried[-1], costs.seconds(1, tried[-1]))
    assert tried == [0] * TRIALS + [1] * TRIALS
    assert costs.best(1, [0.9, 0.9]) == 1


def test_whole_steps_decide_not_bare_passes() -> None:
    # A draft adds 1 ms of passes, and 12 ms of everything else: 1.9 tokens in 23 ms against 1 in 10.
    costs = DraftCosts(1, lambda rows, layer: 0.010 if layer < 0 else 0.001)
    for num_drafts, seconds in ((0, 0.010), (1, 0.023)):
        for _ in range(TRIALS):
            costs.observe(1, num_drafts, seconds)
    assert costs.best(1, [0.9]) == 0
    for _ in range(HOLD):
        assert costs.best(1, [0.9]) == 0
    for _ in range(AGAIN):  # after a while the other is tried again, and has become quicker
        costs.observe(1, 0, 0.010)
    assert costs.best(1, [0.9]) == 1
    for _ in range(40):
        costs.observe(1, 1, 0.012)
    assert costs.best(1, [0.9]) == 1
