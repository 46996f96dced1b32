"""When an RL run should end because nothing can come of it any more. Pure: no I/O, no clock.

What it decides follows from what it has been shown, so a resumed run decides alike. Each message says what to change.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from openmimo.rl.sampling import EPSILON, is_easy


@dataclass
class Stops:
    """Watches the steps of one run.

    Args:
        no_groups_steps: steps in a row without a valid group that end the run; 0 watches for none.
        not_finite_updates: updates in a row left out for a loss or gradient that is not finite that end it; 0: none.
        least_entropy: nats a token; a step below it is a collapsed one.
        collapsed_steps: collapsed steps in a row that end the run; 0 watches for none.
    """

    no_groups_steps: int
    not_finite_updates: int
    least_entropy: float
    collapsed_steps: int
    without_groups: int = 0
    right: int = 0
    """Groups of these steps in which every response earned full marks."""
    wrong: int = 0
    """Groups of these steps in which none earned anything."""
    judged: int = 0
    """Groups of these steps that were judged at all."""
    collapsed: int = 0

    def watch(
        self,
        step: int,
        *,
        num_valid: int,
        rewards: Sequence[Sequence[float]],
        entropy: float | None,
        not_finite_in_a_row: int,
    ) -> None:
        """Look at a step that has ended.

        Args:
            rewards: of every judged group of the prefix; empty for one that was dropped.
            entropy: mean over the step's updates, nats a token; None without updates.
            not_finite_in_a_row: updates left out, up to the last.

        Raises:
            ValueError: if the run should end.
        """
        self._count_groups(num_valid, rewards)
        if self.no_groups_steps and self.without_groups >= self.no_groups_steps:
            raise ValueError(f"rl stopped at step {step}: {self._why_no_groups()}")
        if self.not_finite_updates and not_finite_in_a_row >= self.not_finite_updates:
            raise ValueError(
                f"rl stopped at step {step}: {not_finite_in_a_row} updates in a row had a loss or gradient that is "
                "not finite and were left out; lower rl.learning_rate or raise rl.warmup_steps"
            )
        low = entropy is not None and entropy < self.least_entropy
        self.collapsed = self.collapsed + 1 if low else 0
        if self.collapsed_steps and self.collapsed >= self.collapsed_steps:
            raise ValueError(
                f"rl stopped at step {step}: entropy {entropy:.2g} nats a token, below rl.least_entropy="
                f"{self.least_entropy:g} for {self.collapsed} steps: every response is the same; raise rl.clip_high or "
                "rl.temperature, lower rl.learning_rate, or go back to the best checkpoint"
            )

    def _count_groups(self, num_valid: int, rewards: Sequence[Sequence[float]]) -> None:
        if num_valid:
            self.without_groups = self.right = self.wrong = self.judged = 0
            return
        self.without_groups += 1
        self.judged += sum(bool(group) for group in rewards)
        self.right += sum(is_easy(group) for group in rewards if group)
        self.wrong += sum(max(group) < EPSILON for group in rewards if group)

    def _why_no_groups(self) -> str:
        head = f"{self.without_groups} steps in a row without a valid group; "
        if not self.judged:
            return head + "the judge failed on every group: look at the verdicts' details in samples/"
        if 2 * self.right > self.judged:
            return head + (
                f"in {self.right} of {self.judged} groups all responses were right: the problems are too easy, give "
                "harder ones"
            )
        if 2 * self.wrong > self.judged:
            return head + (
                f"in {self.wrong} of {self.judged} groups all responses were wrong: the problems are too hard or the "
                "answers' form is not met; give easier ones, more SFT, a longer rl.max_new_tokens, or a larger "
                "rl.num_rollouts"
            )
        return head + (
            f"of {self.judged} groups {self.right} were all right and {self.wrong} all wrong, in the others all "
            "responses earned the same; raise rl.num_rollouts or rl.temperature"
        )

    def state_dict(self) -> dict[str, Any]:
        names = ("without_groups", "right", "wrong", "judged", "collapsed")
        return {name: getattr(self, name) for name in names}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            setattr(self, name, value)
