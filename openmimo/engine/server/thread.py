"""The thread that owns the engine, and the calls that wait for it (3.4.2: continuous batching under many clients).

Handlers live in an event loop and never touch the engine: they open a call, which becomes a job of the thread, and read
its news. News of a choice is its rollout so far, so older news that nobody has read is replaced: a client that reads
slowly costs no memory. Everything a call holds goes back when it is closed, whatever ended it.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable, Sequence
from typing import Literal

from openmimo.engine.engine import Engine, EngineStats
from openmimo.engine.server.errors import Refusal
from openmimo.engine.speculate import Acceptance
from openmimo.log import say
from openmimo.types import Request, Rollout, Sampling

MAX_FAILED_STEPS = 3
"""Failed steps in a row after which the engine is given up."""
RETRY_AFTER_S = 1

State = Literal["starting", "ready", "draining", "dead"]


class Call:
    """The sequences of one HTTP call; lives in the event loop."""

    def __init__(self, requests: Sequence[Request], *, partials: bool) -> None:
        self.requests = list(requests)
        self.partials = partials
        self.handles: list[int] = []  # the engine thread's
        self.open = set(range(len(self.requests)))
        self.accepted = False
        self.error: Exception | None = None
        self._news: dict[int, tuple[Rollout, bool]] = {}
        self._change = asyncio.Event()

    async def wait_accepted(self) -> None:
        """Until the engine has taken every sequence.

        Raises:
            Refusal: with status 400 when it takes one of them not.
        """
        while not self.accepted:
            await self._changed()

    async def news(self) -> dict[int, tuple[Rollout, bool]]:
        """By choice the newest rollout, and whether it is finished; waits until there is some."""
        while not self._news:
            await self._changed()
        found, self._news = self._news, {}
        return found

    async def _changed(self) -> None:
        await self._change.wait()
        self._change.clear()
        if isinstance(self.error, ValueError):
            raise Refusal(400, str(self.error))
        if isinstance(self.error, Refusal):
            raise self.error
        if self.error is not None:
            raise Refusal(500, f"the engine failed: {type(self.error).__name__}: {self.error}")

    def tell(self, number: int, rollout: Rollout, finished: bool) -> None:
        """News of a choice, in the event loop."""
        self._news[number] = (rollout, finished)
        self._change.set()

    def fail(self, error: Exception) -> None:
        """End the call with an error, in the event loop."""
        self.error = error
        self._change.set()

    def accept(self) -> None:
        """The engine has taken the sequences, in the event loop."""
        self.accepted = True
        self._change.set()


class EngineThread:
    """Owns an engine and steps it; everybody else only opens calls, in the event loop."""

    def __init__(self, engine: Engine, *, max_waiting: int = 256) -> None:
        """
        Args:
            max_waiting: sequences that may wait beyond those that the engine decodes together.
        """
        self.engine = engine
        self.capacity = engine.config.max_batch_size + max_waiting
        self.state: State = "starting"
        self.num_failed_steps = 0
        self._num_failed_in_a_row = 0
        self.num_refused = 0
        """Calls that found the queue full."""
        self.calls: set[Call] = set()
        self._num_opened = 0  # sequences; written by the event loop alone
        self._num_begun = 0  # sequences; written by the thread alone
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._places: dict[int, tuple[Call, int]] = {}  # handle -> call and choice, the thread's
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        """Begin, from a running event loop; ready once a first response has been generated."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    def stop(self) -> None:
        """End the thread after its current step; what is active is aborted."""
        self._jobs.put(None)
        if self._thread.ident is not None:
            self._thread.join()

    def drain(self) -> None:
        """Refuse new calls from now on; those that are open go on."""
        if self.state != "dead":
            self.state = "draining"

    @property
    def num_open(self) -> int:
        """Sequences of open calls that have not finished."""
        return sum(len(call.open) for call in self.calls)

    @property
    def num_running(self) -> int:
        """Sequences that hold a row of the engine."""
        return len(self.engine.scheduler.running)

    @property
    def num_waiting(self) -> int:
        """Sequences that the engine holds without a row, or has not seen yet."""
        return len(self.engine.scheduler.waiting) + self._num_opened - self._num_begun

    def open(self, requests: Sequence[Request], *, partials: bool) -> Call:
        """Queue the sequences of a call, all or none.

        Args:
            partials: whether unfinished rollouts are news.

        Raises:
            Refusal: 503 while draining or dead; 429 when too many wait already; 400 for more than ever fit.
        """
        if self.state == "dead":
            raise Refusal(503, "the engine has failed; restart the server")
        if self.state == "draining":
            raise Refusal(503, "the server is shutting down", headers={"Retry-After": str(RETRY_AFTER_S)})
        if len(requests) > self.capacity:
            raise Refusal(400, f"n times prompts must be at most {self.capacity} on this server, got {len(requests)}")
        if (found := self.num_open) + len(requests) > self.capacity:
            self.num_refused += 1
            raise Refusal(
                429,
                f"too many requests: {found} sequences run or wait and at most {self.capacity} may; try again",
                code="queue_full",
                headers={"Retry-After": str(RETRY_AFTER_S)},
            )
        call = Call(requests, partials=partials)
        self.calls.add(call)
        self._num_opened += len(requests)
        self._jobs.put(lambda: self._begin(call))
        return call

    def end_choice(self, call: Call, number: int) -> None:
        """A choice has all the text it will have: abort what is left of it."""
        call.open.discard(number)
        self._jobs.put(lambda: self._abort(call, number))

    def close(self, call: Call) -> None:
        """End a call: abort what has not finished. Closing twice is nothing."""
        if call not in self.calls:
            return
        self.calls.discard(call)
        if call.open:
            call.open.clear()
            self._jobs.put(lambda: self._abort_call(call))

    def _begin(self, call: Call) -> None:
        self._num_begun += len(call.requests)
        try:
            for number, request in enumerate(call.requests):
                handle = self.engine.submit(request)
                call.handles.append(handle)
                self._places[handle] = (call, number)
        except Exception as error:
            self._abort_call(call)
            self._post(lambda error=error: call.fail(error))  # type: ignore[misc]
        else:
            self._post(call.accept)

    def _abort(self, call: Call, number: int) -> None:
        if number < len(call.handles) and call.handles[number] in self._places:
            del self._places[call.handles[number]]
            self.engine.abort(call.handles[number])

    def _abort_call(self, call: Call) -> None:
        for number in range(len(call.handles)):
            self._abort(call, number)

    def _run(self) -> None:
        try:
            self._warm_up()
            self._post(self._become_ready)
            while self._do_jobs():
                self._step()
        except Exception as error:
            say(f"the engine failed and is given up: {type(error).__name__}: {error}")
            self._post(lambda error=error: self._die(error))  # type: ignore[misc]
        finally:
            self._abort_all()

    def _do_jobs(self) -> bool:
        """Do the jobs that wait, and wait for one as long as the engine is idle; False: it is time to stop."""
        while not self.engine.num_active or not self._jobs.empty():
            job = self._jobs.get()
            if job is None:
                return False
            job()
        return True

    def _warm_up(self) -> None:
        """Generate a little, which compiles and allocates what the first client would wait for; count none of it."""
        engine = self.engine
        new = min(engine.config.num_draft_layers + 2, engine.config.max_model_len - 1)
        engine.generate([Request((0,), Sampling(new, temperature=temperature)) for temperature in (0.0, 1.0)])
        engine.stats, engine.acceptance = EngineStats(), Acceptance()

    def _step(self) -> None:
        try:
            finished = self.engine.step()
        except Exception as error:  # a failed step must answer its clients, not hang them
            self.num_failed_steps += 1
            self._num_failed_in_a_row += 1
            if self._num_failed_in_a_row >= MAX_FAILED_STEPS:
                raise
            calls = {call for call, _ in self._places.values()}
            self._abort_all()
            self._post(lambda error=error: _fail(calls, error))  # type: ignore[misc]
            return
        self._num_failed_in_a_row = 0
        news: list[tuple[Call, int, Rollout, bool]] = []
        for handle, rollout in finished:
            if place := self._places.pop(handle, None):
                news.append((*place, rollout, True))
        for handle, (call, number) in self._places.items():
            if call.partials:
                news.append((call, number, self.engine.partial(handle), False))
        if news:
            self._post(lambda: self._deliver(news))

    def _deliver(self, news: list[tuple[Call, int, Rollout, bool]]) -> None:
        for call, number, rollout, finished in news:
            if finished:
                call.open.discard(number)
            call.tell(number, rollout, finished)

    def _abort_all(self) -> None:
        for handle in self._places:
            self.engine.abort(handle)
        self._places.clear()

    def _become_ready(self) -> None:
        if self.state == "starting":
            self.state = "ready"

    def _die(self, error: Exception) -> None:
        self.state = "dead"
        _fail(self.calls, error)

    def _post(self, action: Callable[[], object]) -> None:
        """Run something in the event loop."""
        assert self._loop is not None
        with contextlib.suppress(RuntimeError):  # the loop has ended, and with it every client
            self._loop.call_soon_threadsafe(action)


def _fail(calls: set[Call], error: Exception) -> None:
    for call in calls:
        call.fail(error)
