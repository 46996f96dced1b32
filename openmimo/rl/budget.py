"""The generation budget: how long a response may be, raised while RL goes on (MiMo 0530: 32K -> 38K -> 48K).

Pure: steps come in with what they showed, the budget comes out; its state is plain JSON. The paper does not say what
raised it, so there are three ways, each alone enough: a step, too many truncated responses, a reward that no longer
rises (decision 0044).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean
from typing import Any


@dataclass(frozen=True)
class BudgetConfig:
    """Without `before` the budget is `rl.max_new_tokens` throughout."""

    before: tuple[int, ...] = ()
    """Budgets before the last, which is `rl.max_new_tokens`; growing. # MiMo 0530: 32K, 38K, then 48K"""
    at_steps: tuple[int, ...] = ()
    """Steps from which the next budget holds, one for each of `before`; (): not by step."""
    truncated: float = 0.0
    """Share of truncated responses over `window` steps from which the budget is raised; 0: not by that. Ours."""
    plateau: float | None = None
    """The budget is raised when the mean reward of `window` steps is not this much above that of the `window` before;
    None: not by that. Ours."""
    window: int = 10
    """Steps. Ours."""


class Budget:
    """The budget of each step, in response tokens."""

    def __init__(self, config: BudgetConfig, last: int) -> None:
        """
        Args:
            last: the last budget, `rl.max_new_tokens`.

        Raises:
            ValueError: if budgets or steps do not grow, or nothing would ever raise them.
        """
        check_budget(config, last)
        self.config, self._budgets = config, (*config.before, last)
        self._number = 0
        self._rewards: list[float] = []
        self._truncated: list[float] = []

    @property
    def now(self) -> int:
        """Tokens that a response of the coming step may have."""
        return self._budgets[self._number]

    def observe(self, step: int, *, reward: float, truncated: float) -> None:
        """Take in a step that has ended; its successor may get the next budget. Windows begin anew with each budget.

        Args:
            reward: mean points of the step's responses.
            truncated: share of them that reached the budget.
        """
        if self._number + 1 == len(self._budgets):
            return
        window = self.config.window
        self._rewards = [*self._rewards, reward][-2 * window :]
        self._truncated = [*self._truncated, truncated][-window:]
        if self._due(step + 1):
            self._number += 1
            self._rewards, self._truncated = [], []

    def state_dict(self) -> dict[str, Any]:
        return {"number": self._number, "rewards": list(self._rewards), "truncated": list(self._truncated)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._number = state["number"]
        self._rewards, self._truncated = list(state["rewards"]), list(state["truncated"])

    def _due(self, step: int) -> bool:
        config, window = self.config, self.config.window
        if config.at_steps and step >= config.at_steps[self._number]:
            return True
        if config.truncated and len(self._truncated) == window and fmean(self._truncated) >= config.truncated:
            return True
        if config.plateau is None or len(self._rewards) < 2 * window:
            return False
        return fmean(self._rewards[window:]) - fmean(self._rewards[:window]) < config.plateau


def check_budget(config: BudgetConfig, last: int) -> None:
    """Refuse budgets that make no sense.

    Raises:
        ValueError: naming the key, its value and what would be right.
    """
    budgets = (*config.before, last)
    if budgets[0] < 1 or any(a >= b for a, b in pairwise(budgets)):
        raise ValueError(
            f"rl.budget.before must grow, up to below rl.max_new_tokens={last}, "
            f"got {', '.join(map(str, config.before))}"
        )
    if config.at_steps and len(config.at_steps) != len(config.before):
        raise ValueError(
            f"rl.budget.at_steps must name {len(config.before)} steps, one for each of rl.budget.before, "
            f"got {len(config.at_steps)}"
        )
    if any(a >= b for a, b in pairwise(config.at_steps)):
        raise ValueError(f"rl.budget.at_steps must grow, got {', '.join(map(str, config.at_steps))}")
    if not 0 <= config.truncated <= 1:
        raise ValueError(f"rl.budget.truncated must be a share, 0 to 1, got {config.truncated}")
    if config.window < 1:
        raise ValueError(f"rl.budget.window must be at least 1, got {config.window}")
    if config.before and not config.at_steps and not config.truncated and config.plateau is None:
        raise ValueError(
            "rl.budget.before has budgets that nothing raises: set rl.budget.at_steps, .truncated or .plateau"
        )
