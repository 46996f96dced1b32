"""Several engines behind one interface (MiMo 3.4): in this process, or as Ray actors.

Requests go to the engine with the fewest active sequences. Where a request runs changes nothing about its tokens, so
the pool's rollouts are those of a single engine. Left out: moving a sequence from one engine to another.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, Protocol

from openmimo.types import Request, Rollout


class Steps(Protocol):
    """What drivers need of an engine: `Engine`, `VllmEngine`, `RayEngine` and `EnginePool` have it."""

    @property
    def num_active(self) -> int: ...
    def submit(self, request: Request) -> int: ...
    def step(self) -> list[tuple[int, Rollout]]: ...
    def abort(self, handle: int) -> None: ...


class EnginePool:
    """Engines of the same weights; steps them side by side, a thread each."""

    def __init__(self, engines: Sequence[Steps]) -> None:
        if not engines:
            raise ValueError("a pool needs at least 1 engine, got 0")
        self.engines = list(engines)
        self._threads = ThreadPoolExecutor(len(self.engines), thread_name_prefix="engine")
        self._active: list[dict[int, int]] = [{} for _ in self.engines]  # an engine's handle -> ours
        self._place: dict[int, tuple[int, int]] = {}  # our handle -> engine number, its handle
        self._steps: dict[int, Future[list[tuple[int, Rollout]]]] = {}
        self._next_handle = 0

    @property
    def num_active(self) -> int:
        """Sequences submitted and not finished, over all engines."""
        return len(self._place)

    def submit(self, request: Request) -> int:
        """Queue a request on the least loaded engine."""
        number = min(range(len(self.engines)), key=lambda n: len(self._active[n]))
        theirs = self.engines[number].submit(request)
        handle = self._next_handle
        self._next_handle += 1
        self._active[number][theirs] = handle
        self._place[handle] = (number, theirs)
        return handle

    def step(self) -> list[tuple[int, Rollout]]:
        """One iteration of every engine that has work; finished rollouts in the engines' order."""
        for number in range(len(self.engines)):
            if self._active[number] and number not in self._steps:
                self._steps[number] = self._threads.submit(self.engines[number].step)
        finished = []
        for number in sorted(self._steps):
            wait([self._steps[number]])
        for number in sorted(self._steps):
            for theirs, rollout in self._steps.pop(number).result():  # a failure leaves the others' results for later
                handle = self._active[number].pop(theirs, None)
                if handle is not None:  # else aborted between a failed step and this one
                    del self._place[handle]
                    finished.append((handle, rollout))
        return finished

    def abort(self, handle: int) -> None:
        """Forget a sequence; a handle that is not active is ignored."""
        if handle in self._place:
            number, theirs = self._place.pop(handle)
            del self._active[number][theirs]
            self.engines[number].abort(theirs)

    def generate(self, requests: Sequence[Request]) -> list[Rollout]:
        """Run requests to their end on an idle pool; rollouts in the requests' order.

        Raises:
            ValueError: when sequences are active already.
        """
        if self.num_active:
            raise ValueError(
                f"generate needs an idle pool, got {self.num_active} active sequences; use submit and step"
            )
        handles: list[int] = []
        done: dict[int, Rollout] = {}
        try:
            for request in requests:
                handles.append(self.submit(request))
            while len(done) < len(handles):
                done.update(self.step())
        except BaseException:
            for handle in handles:
                self.abort(handle)
            raise
        return [done[handle] for handle in handles]

    def update_weights(self, state_dict: Mapping[str, Any], version: int) -> None:
        """New weights for every engine.

        Raises:
            ValueError: when any engine has active sequences; no engine has changed then.
        """
        if self.num_active:
            raise ValueError(f"{self.num_active} sequences are active: finish or abort them before new weights")
        for engine in self.engines:
            engine.update_weights(state_dict, version)  # type: ignore[attr-defined]

    def close(self) -> None:
        """End the pool's threads."""
        self._threads.shutdown()


class RayEngine:
    """An engine in a Ray actor. `build` runs there and returns the engine, so weights need not travel."""

    def __init__(self, build: Callable[[], Steps], *, num_cpus: float = 1, num_gpus: float = 0) -> None:
        """
        Raises:
            ValueError: when Ray is not installed.
        """
        try:
            import ray
        except ImportError as error:
            raise ValueError("engines as Ray actors need Ray: pip install 'openmimo[ray]'") from error
        if not ray.is_initialized():
            ray.init()
        self._ray = ray
        self._actor = ray.remote(_Actor).options(num_cpus=num_cpus, num_gpus=num_gpus).remote(build)

    @property
    def num_active(self) -> int:
        """Sequences submitted and not finished."""
        return self._call("num_active")

    def submit(self, request: Request) -> int:
        """Queue a request."""
        return self._call("submit", request)

    def step(self) -> list[tuple[int, Rollout]]:
        """One iteration of the actor's engine."""
        return self._call("step")

    def abort(self, handle: int) -> None:
        """Forget a sequence."""
        self._call("abort", handle)

    def update_weights(self, state_dict: Mapping[str, Any], version: int) -> None:
        """New weights, through Ray's object store."""
        self._call("update_weights", state_dict, version)

    def _call(self, name: str, *args: Any) -> Any:
        return self._ray.get(self._actor.call.remote(name, *args))


class _Actor:
    """Lives in the actor's process."""

    def __init__(self, build: Callable[[], Steps]) -> None:
        self._engine = build()

    def call(self, name: str, *args: Any) -> Any:
        value = getattr(self._engine, name)
        return value(*args) if callable(value) else value
