"""How many drafts are worth their time: a measured cost model (MiMo 2.2).

With k drafts a sequence a step computes 1 + k rows of the trunk and one of each of k MTP layers, and yields
1 + a_1 + a_1 a_2 + ... tokens, a_i the acceptance of draft i given the ones before. Few sequences leave the machine
waiting for its weights, so rows are nearly free; many do not. Bare passes of some sizes are timed before
the first use and those between are interpolated: they say which numbers of drafts can pay at all, for bare passes are
the least a step takes. Those that can are tried, TRIALS steps each, whole steps are timed from then on, and the one
with the most tokens a second is taken. It changes no token of a seeded request.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence

SIZES = (1, 2, 3, 4, 6, 8, 12, 16, 32, 64)
"""Rows of the passes that are measured; beyond the last, time grows with the rows."""

BUDGET_S = 0.5
"""Measuring stops after so long; what is left is extrapolated."""

GAIN = 1.05
"""A number of drafts must promise this much more than the best smaller one: estimates are not exact, and layers that
fell behind catch up."""

TRIALS = 3
"""Steps timed before a number of drafts is judged by its steps."""

AGAIN = 400
"""Steps after which the others are timed once more: load and contexts change."""

HOLD = 16
"""Steps for which a choice stands: choosing takes time too."""

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
        self._steps: dict[tuple[int, int], _Steps] = {}
        self._since: dict[int, int] = {}
        self._seconds: dict[tuple[int, int], float] = {}
        self._held: dict[int, list[int]] = {}

    def observe(self, num_sequences: int, num_drafts: int, seconds: float) -> None:
        """The time of a step in which so many sequences decoded, each with so many drafts before and after."""
        key = (num_sequences.bit_length(), num_drafts)
        share = seconds / self.seconds(num_sequences, num_drafts)
        self._steps.setdefault(key, _Steps()).add(share)
        self._since[key[0]] = self._since.get(key[0], 0) + 1
        if self._since[key[0]] >= AGAIN:
            self._since[key[0]] = 0
            for other, steps in self._steps.items():
                if other[0] == key[0] and other != key:
                    steps.trials = 1

    def seconds(self, num_sequences: int, num_drafts: int) -> float:
        """Time of the bare passes of a step in which so many sequences decode."""
        key = (num_sequences, num_drafts)
        if key not in self._seconds:
            self._seconds[key] = self._trunk.at(num_sequences * (1 + num_drafts))
            if num_drafts:
                self._seconds[key] += num_drafts * self._draft.at(num_sequences)
        return self._seconds[key]

    def best(self, num_sequences: int, acceptance: Sequence[float], prompt_share: float = 0.0) -> int:
        """Drafts a sequence that yield the most tokens a second; a choice stands for HOLD steps.

        Args:
            acceptance: of layer 1, 2, ..., each given the ones before; SUPPOSED for what is missing.
            prompt_share: prompt tokens a generated one: layers that draft go through prompts too.
        """
        held = self._held.get(num_sequences)
        if held and held[1] > 0:
            held[1] -= 1
            return held[0]
        found, on_trial = self._choose(num_sequences, acceptance, prompt_share)
        self._held[num_sequences] = [found, 0 if on_trial else HOLD]
        return found

    def _choose(self, num_sequences: int, acceptance: Sequence[float], prompt_share: float) -> tuple[int, bool]:
        """The number of drafts, and whether it is only tried."""
        size = num_sequences.bit_length()
        options = [(0, 1.0, self.seconds(num_sequences, 0), 0.0)]
        tokens, chance = 1.0, 1.0
        for num_drafts in range(1, self.num_layers + 1):
            chance *= acceptance[num_drafts - 1] if num_drafts <= len(acceptance) else SUPPOSED
            tokens += chance
            prompts = num_sequences * tokens * prompt_share * num_drafts * self._draft.at(SIZES[-1]) / SIZES[-1]
            options.append((num_drafts, tokens, self.seconds(num_sequences, num_drafts), prompts))
        least = GAIN / options[0][2]
        options = [option for option in options if not option[0] or option[1] / (option[2] + option[3]) > least]
        if len(options) == 1:
            return 0, False
        best, rate = 0, 0.0
        for num_drafts, tokens, seconds, prompts in options:
            steps = self._steps.get((size, num_drafts))
            if steps is None or steps.trials:
                return num_drafts, True
            promised = tokens / (seconds * steps.share + prompts)
            if promised > rate * GAIN:
                best, rate = num_drafts, promised
        return best, False


class _Steps:
    """Whole steps with one number of drafts: how much longer they take than their bare passes."""

    def __init__(self) -> None:
        self.trials = TRIALS
        self.share = 0.0

    def add(self, share: float) -> None:
        if not self.share or (self.trials and share < self.share):
            self.share = share  # the least of the trials: layers that fell behind catch up in the first
        elif not self.trials:
            self.share += 0.1 * (share - self.share)
        elif self.trials == 1:
            self.share += 0.3 * (share - self.share)
        self.trials = max(0, self.trials - 1)


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
