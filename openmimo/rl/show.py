"""RL's progress for a person: a live table on a terminal, a line a step elsewhere."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any

from openmimo.log import say

COLUMNS = (
    ("reward", "reward", ".3f"),
    ("right", "accepted", ".0%"),
    ("valid", "valid_share", ".0%"),
    ("length", "length", ".0f"),
    ("cut", "truncated", ".0%"),
    ("entropy", "entropy", ".3f"),
    ("easy", "easy_pool", ".0f"),
    ("idle", "idle", ".0%"),
    ("rollout s", "rollout_s", ".1f"),
    ("step s", "step_s", ".1f"),
    ("held out", "validation", ".1%"),
)
"""(title, metric, format)."""
NUM_ROWS = 12


class Table:
    """The newest steps of a run of `total` steps. A context manager."""

    def __init__(self, total: int, done: int) -> None:
        from rich.console import Console

        self._console = Console(stderr=True)
        self._total, self._done = total, done
        self._rows: deque[tuple[int, dict[str, str]]] = deque(maxlen=NUM_ROWS)
        self._started_s, self._first = time.monotonic(), done
        self._live: Any = None

    def step(self, step: int, numbers: Mapping[str, Any]) -> None:
        """Show a step that has ended."""
        cells = {
            title: format(numbers[metric], form)
            for title, metric, form in COLUMNS
            if isinstance(numbers.get(metric), (int, float))
        }
        self._rows.append((step, cells))
        self._done = step + 1
        if self._live:
            self._live.update(self._table(), refresh=True)
        else:
            say(f"rl: {self._done}/{self._total} " + ", ".join(f"{k} {v}" for k, v in cells.items()) + self._left())

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        """Make room for another's progress bar."""
        if self._live:
            self._live.transient = True
            self._live.stop()
        yield
        self._begin()

    def __enter__(self) -> Table:
        self._begin()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._live:
            self._live.stop()

    def _begin(self) -> None:
        if self._console.is_terminal:
            from rich.live import Live

            self._live = Live(self._table(), console=self._console, auto_refresh=False)
            self._live.start()

    def _table(self) -> Any:
        from rich.table import Table as RichTable

        table = RichTable(title=f"rl: {self._done} of {self._total} steps{self._left()}", title_justify="left")
        titles = [title for title, _, _ in COLUMNS if any(title in cells for _, cells in self._rows)]
        for title in ("step", *titles):
            table.add_column(title, justify="right")
        for step, cells in self._rows:
            table.add_row(str(step), *(cells.get(title, "") for title in titles))
        return table

    def _left(self) -> str:
        done = self._done - self._first
        if not done:
            return ""
        left_s = (time.monotonic() - self._started_s) / done * (self._total - self._done)
        return f", {left_s / 60:.0f} min left" if left_s > 90 else f", {left_s:.0f} s left"
