"""The next batches, made in a thread while the step before them runs.

What a batch is depends on the schedule alone, so it can be known ahead; with every batch comes the state its source had
just after it, so a checkpoint never counts what was read ahead.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

T = TypeVar("T")
AHEAD = 2
"""Batches ready at most."""


class Reader(Generic[T]):
    """Runs `items()` ahead. A context manager: leaving it ends the thread.

    Iterating raises what making an item raised, in its turn.
    """

    def __init__(self, items: Callable[[], Iterator[T]], *, ahead: int = AHEAD) -> None:
        self._items = items
        self._ready: queue.Queue[Any] = queue.Queue(ahead)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="reader", daemon=True)

    def __enter__(self) -> Reader[T]:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()

    def __iter__(self) -> Iterator[T]:
        while True:
            kind, value = self._ready.get()
            if kind == "item":
                yield value
            elif kind == "error":
                raise value
            else:
                return

    def _run(self) -> None:
        try:
            for item in self._items():
                if not self._put(("item", item)):
                    return
            self._put(("end", None))
        except BaseException as error:
            self._put(("error", error))

    def _put(self, thing: Any) -> bool:
        while not self._ended.is_set():
            try:
                self._ready.put(thing, timeout=0.05)
                return True
            except queue.Full:
                continue
        return False
