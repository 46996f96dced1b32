"""A batched engine on a fake clock: all live requests advance together, at the speed for so many of them."""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Callable


class BatchedEngine:
    """Requests by name, in seconds since the begin.

    Args:
        speed: live requests -> tokens a second of one of them.
        slots: requests that are live at once; the rest wait, first come first served. None is no limit.
    """

    def __init__(self, speed: Callable[[int], float], slots: int | None = None) -> None:
        self._speed, self._slots = speed, slots
        self.now_s = 0.0
        self.live = 0
        self._progress = 0.0
        """Tokens that a request has gained that is live since the begin."""
        self._ends: list[tuple[float, float, int]] = []  # (progress at its end, seconds at its start, name)
        self._waiting: deque[tuple[int, float]] = deque()

    def add(self, name: int, tokens: float) -> None:
        """A request of so many tokens; infinity is one that is aborted before it ends."""
        if self._slots is not None and self.live >= self._slots:
            self._waiting.append((name, tokens))
            return
        self.live += 1
        heapq.heappush(self._ends, (self._progress + tokens, self.now_s, name))

    def next_s(self) -> float:
        """When the next request ends; infinity if none does."""
        if not self._ends or self._ends[0][0] == math.inf:
            return math.inf
        return self.now_s + max(0.0, self._ends[0][0] - self._progress) / self._speed(self.live)

    def advance(self, now_s: float) -> None:
        """Let time pass, up to `next_s` at most."""
        if self.live:
            self._progress += (now_s - self.now_s) * self._speed(self.live)
        self.now_s = now_s

    def pop(self) -> tuple[int, float]:
        """(Name, seconds at its start) of the request that ends now; one that waited starts."""
        self._progress, start_s, name = heapq.heappop(self._ends)
        self.live -= 1
        if self._waiting:
            self.add(*self._waiting.popleft())
        return name, start_s
