"""When an update should be left out: loss spikes and gradients that are not finite.

No I/O, no clock: what it decides follows from the losses it has been shown, so a resumed run decides alike.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import fmean, pstdev
from typing import Any


@dataclass(frozen=True)
class GuardConfig:
    """All ours; the paper names none."""

    sigmas: float = 6.0
    """A loss so many standard deviations above the mean of the last ones is a spike; 0 watches for none."""
    window: int = 128
    """Updates that mean and deviation are taken over."""
    least: int = 32
    """Updates to have seen before a loss may be called a spike."""
    patience: int = 10
    """So many updates left out in a row end the run."""


@dataclass
class Guard:
    """Watches the losses of one run."""

    config: GuardConfig = field(default_factory=GuardConfig)
    losses: deque[float] = field(default_factory=deque)
    in_a_row: int = 0

    def skips(self, loss: float, gradient_norm: float) -> str:
        """Why the update should be left out: `not_finite`, `spike`, or nothing.

        A loss that is left out does not enter the statistics.
        """
        reason = ""
        if not math.isfinite(loss) or not math.isfinite(gradient_norm):
            reason = "not_finite"
        elif self.config.sigmas and len(self.losses) >= self.config.least:
            deviation = pstdev(self.losses)
            if deviation and loss > fmean(self.losses) + self.config.sigmas * deviation:
                reason = "spike"
        self.in_a_row = self.in_a_row + 1 if reason else 0
        if not reason:
            self.losses.append(loss)
            if len(self.losses) > self.config.window:
                self.losses.popleft()
        return reason

    def forget(self) -> None:
        """What came before says nothing of what comes: the mixture or the context has changed."""
        self.losses.clear()

    def check(self, step: int, metrics: Mapping[str, float]) -> None:
        """Raise when patience has run out. Called once the step is in the log.

        Args:
            metrics: of the step: `loss`, `grad_norm`, `learning_rate`.

        Raises:
            ValueError: with what was seen and what may help.
        """
        if self.in_a_row >= self.config.patience:
            raise ValueError(
                f"{self.in_a_row} updates in a row were left out, the last at step {step} with loss "
                f"{metrics['loss']:.4g} and gradient norm {metrics['grad_norm']:.4g} at learning rate "
                f"{metrics['learning_rate']:.3g}; look at the data from the last checkpoint on, or go on from it with "
                "a lower learning_rate (--set and --accept-changes), or with more guard.patience (--set)"
            )

    def state_dict(self) -> dict[str, Any]:
        return {"losses": list(self.losses), "in_a_row": self.in_a_row}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.losses, self.in_a_row = deque(state["losses"]), state["in_a_row"]
