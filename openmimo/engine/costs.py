"""How many drafts are worth their time: a measured cost model (MiMo 2.2).

With k drafts a sequence a step computes 1 + k rows of the trunk and one of each of k MTP layers, and yields
1 + a_1 + a_1 a_2 + ... tokens, a_i the acceptance of draft i given the ones before. Few sequences leave the machine
waiting for its weights, so rows are nearly free; many do not. The times of passes of some sizes are measured before the
first use, those between are interpolated, and the number of drafts is the one with the most tokens a second. It changes
no token of a seeded request.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence

SIZES = (1, 2, 3, 4, 6, 8, 12, 16, 32, 64)
"""Rows of the passes that are measured; beyond the last, time grows with the rows."""

BUDGET_S = 0.5
"""Measuring stops after so long; what is left is extrapolated."""

GAIN = 1.02
"""Drafting must promise this much more than the next smaller number of drafts: estimates are not exact."""

SUPPOSED = 0.8
"""Acceptance of a layer none of whose drafts has been judged."""


class DraftCosts:
    """Seconds of passes by rows, and the choice that follows."""

    def __init__(self, num_layers: int, seconds: Callable[[int, int], float]) -> None:
        """
        Args:
            num_layers: most drafts a sequence.
            seconds: (rows, layer) -> measured seconds of a pass with its logits; layer -1 is the trunk.
        """
        self.num_layers = num_layers
        self._trunk = _Times(lambda rows: seconds(rows, -1))
        self._draft = _Times(lambda rows: seconds(rows, 0))

    def seconds(self, num_sequences: int, num_drafts: int) -> float:
        """Expected time of a step in which so many sequences decode."""
        trunk = self._trunk.at(num_sequences * (1 + num_drafts))
        return trunk + num_drafts * self._draft.at(num_sequences) if num_drafts else trunk

    def best(self, num_sequences: int, acceptance: Sequence[float]) -> int:
        """Drafts a sequence that yield the most tokens a second.

        Args:
            acceptance: of layer 1, 2, ..., each given the ones before; SUPPOSED for what is missing.
        """
        best, rate = 0, 1.0 / self.seconds(num_sequences, 0)
        tokens, chance = 1.0, 1.0
        for num_drafts in range(1, self.num_layers + 1):
            chance *= acceptance[num_drafts - 1] if num_drafts <= len(acceptance) else SUPPOSED
            tokens += chance
            found = tokens / self.seconds(num_sequences, num_drafts)
            if found > rate * GAIN:
                best, rate = num_drafts, found
        return best


class _Times:
    """Seconds by rows, measured at SIZES when first asked, within BUDGET_S."""

    def __init__(self, measure: Callable[[int], float]) -> None:
        self._measure = measure
        self._sizes: list[int] = []
        self._seconds: list[float] = []

    def at(self, rows: int) -> float:
        if not self._sizes:
            spent = 0.0
            for size in SIZES:
                found = self._measure(size)
                self._sizes.append(size)
                self._seconds.append(max(found, self._seconds[-1] if self._seconds else 0.0))  # more rows never pay
                spent += 3 * found
                if spent > BUDGET_S:
                    break
        n = bisect_left(self._sizes, rows)
        if n == len(self._sizes):
            return self._seconds[-1] * rows / self._sizes[-1]
        if self._sizes[n] == rows:
            return self._seconds[n]
        low, high = self._sizes[n - 1], self._sizes[n]
        share = (rows - low) / (high - low)
        return self._seconds[n - 1] * (1 - share) + self._seconds[n] * share
