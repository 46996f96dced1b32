"""Several engines behind one interface (MiMo 3.4): in this process, in processes of their own, or as Ray actors.

Requests go to the engine with the fewest active sequences. Where a request runs changes nothing about its tokens, so
the pool's rollouts are those of a single engine, also when an engine dies: it is replaced and its requests are sent
again, with the same seeds. Left out: moving a sequence from one engine to another.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any, Protocol

from openmimo.log import say
from openmimo.types import Request, Rollout

MAX_LOST = 3
"""Times that a request is sent again because its engine died: enough for bad luck, and a request that kills engines
comes to an end."""


class Steps(Protocol):
    """What drivers need of an engine: `Engine`, `VllmEngine`, `RayEngine` and `EnginePool` have it."""

    @property
    def num_active(self) -> int: ...
    def submit(self, request: Request) -> int: ...
    def step(self) -> list[tuple[int, Rollout]]: ...
    def abort(self, handle: int) -> None: ...


@dataclass
class _Sent:
    """A request that is under way."""

    request: Request
    engine: int
    theirs: int
    """The engine's handle."""
    num_lost: int = 0


class EnginePool:
    """Engines of the same weights; steps them side by side, a thread each.

    Args:
        build: number -> a new engine in place of one that raised or died, with any weights: it is given the newest. To
            that end the pool keeps a copy of them in main memory. None: what an engine raises is raised.
    """

    def __init__(self, engines: Sequence[Steps], *, build: Callable[[int], Steps] | None = None) -> None:
        if not engines:
            raise ValueError("a pool needs at least 1 engine, got 0")
        self.engines = list(engines)
        self.num_lost = 0
        """Engines that were replaced."""
        self._build = build
        self._threads = ThreadPoolExecutor(len(self.engines), thread_name_prefix="engine")
        self._active: list[dict[int, int]] = [{} for _ in self.engines]  # an engine's handle -> ours
        self._sent: dict[int, _Sent] = {}  # by our handle
        self._steps: dict[int, Future[list[tuple[int, Rollout]]]] = {}
        self._next_handle = 0
        self._weights: dict[str, Any] = {}
        self._version: int | None = None

    @property
    def num_active(self) -> int:
        """Sequences submitted and not finished, over all engines."""
        return len(self._sent)

    def submit(self, request: Request) -> int:
        """Queue a request on the least loaded engine."""
        number = min(range(len(self.engines)), key=lambda n: len(self._active[n]))
        handle = self._next_handle
        self._next_handle += 1
        try:
            theirs = self.engines[number].submit(request)
        except ValueError:
            raise  # the request's fault
        except Exception as error:
            self._replace(number, error)
            theirs = self.engines[number].submit(request)
        self._active[number][theirs] = handle
        self._sent[handle] = _Sent(request, number, theirs)
        return handle

    def step(self) -> list[tuple[int, Rollout]]:
        """One iteration of every engine that has work; finished rollouts in the engines' order.

        Raises:
            ValueError: for a request that has lost its engine more than MAX_LOST times.
        """
        for number in range(len(self.engines)):
            if self._active[number] and number not in self._steps:
                self._steps[number] = self._threads.submit(self.engines[number].step)
        finished = []
        for number in sorted(self._steps):
            wait([self._steps[number]])
        for number in sorted(self._steps):
            try:
                rollouts = self._steps.pop(number).result()  # a failure leaves the others' results for later
            except Exception as error:
                self._replace(number, error)
                continue
            for theirs, rollout in rollouts:
                handle = self._active[number].pop(theirs, None)
                if handle is not None:  # else aborted between a failed step and this one
                    del self._sent[handle]
                    finished.append((handle, rollout))
        return finished

    def abort(self, handle: int) -> None:
        """Forget a sequence; a handle that is not active is ignored."""
        sent = self._sent.pop(handle, None)
        if sent is None or self._active[sent.engine].pop(sent.theirs, None) is None:
            return  # not active, or its engine was lost and no other would take it
        try:
            self.engines[sent.engine].abort(sent.theirs)
        except Exception as error:
            self._replace(sent.engine, error)

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
        if self._build:
            self._keep(state_dict, version)
        for number, engine in enumerate(self.engines):
            try:
                engine.update_weights(state_dict, version)  # type: ignore[attr-defined]
            except ValueError:
                raise  # weights that do not fit
            except Exception as error:
                self._replace(number, error)

    def close(self) -> None:
        """End the pool's threads, and the engines that need it."""
        self._threads.shutdown()
        for engine in self.engines:
            _close(engine)

    def _keep(self, state_dict: Mapping[str, Any], version: int) -> None:
        """A copy of the weights: the caller goes on to change its own."""
        for name, tensor in state_dict.items():
            if name in self._weights and self._weights[name].shape == tensor.shape:
                self._weights[name].copy_(tensor)
            else:
                self._weights[name] = tensor.detach().to("cpu", copy=True)
        self._version = version

    def _replace(self, number: int, error: Exception) -> None:
        """A new engine in place of a lost one, with all that ran there.

        Raises:
            Exception: `error`, if no engine can be built.
        """
        if self._build is None:
            raise error
        self.num_lost += 1
        lost, self._active[number] = self._active[number], {}
        say(
            f"engine {number} was lost ({type(error).__name__}: {' '.join(str(error).split())[:200]}); it is replaced, "
            f"{len(lost)} requests are sent again"
        )
        _close(self.engines[number])
        self.engines[number] = self._build(number)
        if self._version is not None:
            self.engines[number].update_weights(self._weights, self._version)  # type: ignore[attr-defined]
        for handle in sorted(lost.values()):
            sent = self._sent[handle]
            sent.num_lost += 1
            if sent.num_lost > MAX_LOST:
                raise ValueError(
                    f"a request of problem {sent.request.problem_id!r} has lost its engine {sent.num_lost} times, "
                    f"{MAX_LOST} are allowed; the last time by {type(error).__name__}: {error}"
                ) from error
            sent.theirs = self.engines[number].submit(sent.request)
            self._active[number][sent.theirs] = handle


def _close(engine: Steps) -> None:
    close = getattr(engine, "close", None)
    if close:
        close()


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
