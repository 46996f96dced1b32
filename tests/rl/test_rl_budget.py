"""The generation budget: what raises it, worked by hand."""

import json

import pytest

from openmimo.rl.budget import Budget, BudgetConfig


def budgets(config: BudgetConfig, steps: list[tuple[float, float]], last: int = 48) -> list[int]:
    """The budget of every step that showed (reward, truncated), and of the one after."""
    budget = Budget(config, last)
    found = [budget.now]
    for step, (reward, truncated) in enumerate(steps):
        budget.observe(step, reward=reward, truncated=truncated)
        found.append(budget.now)
    return found


def test_without_shorter_budgets_it_is_the_last_throughout() -> None:
    assert budgets(BudgetConfig(), [(0.0, 1.0)] * 3) == [48] * 4


def test_it_rises_at_given_steps() -> None:
    config = BudgetConfig(before=(32, 38), at_steps=(2, 3))
    assert budgets(config, [(0.5, 0.5)] * 4) == [32, 32, 38, 48, 48]


def test_it_rises_when_a_window_was_truncated_too_often_and_then_counts_anew() -> None:
    config = BudgetConfig(before=(32, 38), truncated=0.3, window=2)
    # means of two: .2, .3 -> raise; then anew: .4 alone is no window, (.4 + .2) / 2 -> raise
    assert budgets(config, [(0.5, t) for t in (0.1, 0.3, 0.3, 0.4, 0.2, 0.9)]) == [32, 32, 32, 38, 38, 48, 48]


def test_it_rises_when_the_reward_no_longer_does() -> None:
    config = BudgetConfig(before=(32,), plateau=0.05, window=2)
    rising = [(r, 0.0) for r in (0.1, 0.2, 0.3, 0.4, 0.5)]  # windows (.1, .2) and (.3, .4): 0.2 up
    assert budgets(config, rising) == [32] * 6
    level = [
        (r, 0.0) for r in (0.1, 0.2, 0.3, 0.4, 0.4, 0.35)
    ]  # (.2, .3) to (.4, .4): 0.15; (.3, .4) to (.4, .35): 0.025
    assert budgets(config, level) == [32] * 6 + [48]


def test_its_state_is_plain_json_and_goes_on() -> None:
    config = BudgetConfig(before=(32,), truncated=0.3, plateau=0.0, window=2)
    first, second = Budget(config, 48), Budget(config, 48)
    first.observe(0, reward=0.1, truncated=0.4)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    for budget in (first, second):
        assert budget.now == 32
        budget.observe(1, reward=0.2, truncated=0.4)
        assert budget.now == 48


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (
            BudgetConfig(before=(32, 32), at_steps=(1, 2)),
            "rl.budget.before must grow, up to below rl.max_new_tokens=48",
        ),
        (BudgetConfig(before=(64,), at_steps=(1,)), "must grow, up to below rl.max_new_tokens=48, got 64"),
        (BudgetConfig(before=(32, 38), at_steps=(1,)), "must name 2 steps, one for each of rl.budget.before, got 1"),
        (BudgetConfig(before=(32, 38), at_steps=(2, 1)), "rl.budget.at_steps must grow, got 2, 1"),
        (BudgetConfig(before=(32,), truncated=30), "must be a share, 0 to 1, got 30"),
        (BudgetConfig(before=(32,), plateau=0.0, window=0), "rl.budget.window must be at least 1, got 0"),
        (BudgetConfig(before=(32,)), "budgets that nothing raises"),
    ],
)
def test_budgets_that_make_no_sense_are_refused(config: BudgetConfig, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Budget(config, 48)
