"""Drives engines and judges: problems -> judged groups, streaming (MiMo 3.4.1).

`rollout_batch` does what a policy (`Seamless`) decides, for RL; `stream` gives every problem its samples, for
evaluation, curation and pass-rate filters. Engine and judge come in as arguments, by the two interfaces below. Judging
runs while generation goes on. Wall-clock times are collected apart from the results, which do not depend on them.
"""

from __future__ import annotations

import hashlib
import queue
import struct
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Protocol

from openmimo.rollout.seamless import Seamless, Stats
from openmimo.rollout.trace import Rate, Span
from openmimo.types import Group, Problem, Request, Rollout, Sampling, Verdict


class Engine(Protocol):
    """Generates: many requests at once, advanced a step or so at a time."""

    def submit(self, request: Request) -> int:
        """Queue a request; a handle that is never used twice."""

    def step(self) -> list[tuple[int, Rollout]]:
        """Advance all running sequences; (handle, rollout) of those that finished; [] if idle."""

    def abort(self, handle: int) -> None:
        """Drop a request; nothing of it is returned later."""

    @property
    def num_active(self) -> int:
        """Requests submitted and neither finished nor aborted."""


class Judge(Protocol):
    """Judges responses beside the generation."""

    def submit(self, problem: Problem, text: str) -> Future[Verdict]: ...


Clock = Callable[[], float]


@dataclass
class Timing:
    """Where the seconds went. Depends on machine and load; never part of a result."""

    total_s: float = 0.0
    generate_s: float = 0.0
    """Inside engine.step."""
    wait_for_judge_s: float = 0.0
    """The engine had nothing to do and the judge had not finished."""
    useful_s: float = 0.0
    """Sum over the requests of judged groups of the time in which they held a slot of the engine."""
    peak_requests: int = 0
    """Most requests active at once."""
    slots: int = 0
    """Requests that the engine can advance at once; 0: not known, and the peak stands for it."""

    @property
    def idle_ratio(self) -> float:
        """Share of slots x time without useful work; what was aborted is not useful (MiMo Table 2)."""
        capacity_s = (self.slots or self.peak_requests) * self.total_s
        return max(0.0, 1.0 - self.useful_s / capacity_s) if capacity_s else 0.0


@dataclass(frozen=True)
class BatchResult:
    """One RL rollout batch."""

    groups: tuple[Group, ...]
    """The selected groups, in launch order, rewards filled in."""
    prefix: tuple[Group, ...]
    """Every judged group of the prefix, in launch order: statistics and pool moves are applied from these alone."""
    outcomes: tuple[bool | None, ...]
    """Validity of each group of the prefix."""
    prefix_end: int
    """Launch number to which the problem cursor is to be rewound."""
    stats: Stats
    timing: Timing
    spans: tuple[Span, ...]
    """When every group that was launched ran; those that were known are not among them."""
    rate: tuple[tuple[float, float], ...]
    """(live requests, tokens a second) of the engine."""
    num_known: int
    """Groups that were known and not generated."""


def sample_seed(seed: int, step: int, launch: int, sample: int) -> int:
    """Seed of one response, 0 to 2^63 - 1: the same in every process and on every machine."""
    digest = hashlib.blake2b(struct.pack("<4q", seed, step, launch, sample), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def rollout_batch(
    engine: Engine,
    judge: Judge,
    *,
    draw: Callable[[int], tuple[Problem, str]],
    render: Callable[[Problem], tuple[int, ...]],
    decode: Callable[[Sequence[int]], str],
    sampling: Sampling,
    num_rollouts: int,
    valid: Callable[[Group], tuple[bool | None, Group]],
    policy: Seamless,
    seed: int,
    step: int,
    context: int | None = None,
    slots: int = 0,
    known: Mapping[int, Group] | None = None,
    on_judged: Callable[[Group], None] | None = None,
    on_selected: Callable[[Group], None] | None = None,
    clock: Clock = time.perf_counter,
) -> BatchResult:
    """Fill one batch of valid groups (MiMo 3.3, dynamic sampling; 3.4.1, seamless rollout).

    Args:
        draw: launch number -> (problem, stratum); a pure function within the step, so that the batch does not
            depend on timing (decision 0007).
        render: problem -> prompt token ids.
        decode: token ids of a response -> the text to judge.
        num_rollouts: G.
        valid: scores a group: whether it carries a gradient (None: dropped for an internal error), and the group
            with its rewards.
        policy: what decides, a fresh one for each batch: `Seamless`, or a baseline.
        seed, step: with launch number and sample number they key each response's seed.
        context: most tokens of prompt and response together; None: the engine's own limit alone.
        slots: requests that the engine can advance at once, for `Timing.idle_ratio`; 0: not known.
        known: judged groups of this very step by launch number; launched, they are done at once.
        on_judged: called with every group that was judged here, rewards filled in.
        on_selected: called with every group of the batch, in launch order, as soon as nothing can change its place.

    Returns:
        The batch. Requests of unfinished groups are aborted before it returns, or raises.

    Raises:
        ValueError: for a prompt that leaves no room for a response, or a judge that refuses to judge, with its reason.
    """
    if num_rollouts < 1:
        raise ValueError(f"num_rollouts must be at least 1, got {num_rollouts}")
    known = known or {}
    judged: dict[int, Group] = {}
    validity: dict[int, bool | None] = {}
    told = num_known = 0
    timing = Timing(slots=slots)
    work = _Work(engine, judge, decode, num_rollouts, clock, timing, context)

    def report(launch: int, group: Group) -> None:
        nonlocal told
        validity[launch], judged[launch] = valid(group)
        if on_judged and launch not in known:
            on_judged(judged[launch])
        policy.judged(launch, validity[launch])
        selected = policy.selected()
        if on_selected:
            for number in selected[told:]:
                on_selected(judged[number])
        told = len(selected)

    try:
        while (decision := policy.decide()) != "stop":
            if decision == "launch":
                launch = policy.next_launch()
                policy.launched(launch)
                if launch in known:
                    num_known += 1
                    policy.finished(launch)
                    report(launch, known[launch])
                    continue
                problem, stratum = draw(launch)
                prompt_ids = render(problem)
                for sample in range(num_rollouts):
                    key = sample_seed(seed, step, launch, sample)
                    work.submit(problem, prompt_ids, replace(sampling, seed=key), launch, sample, stratum)
                continue
            for kind, launch in work.advance():
                if kind == "finished":
                    policy.finished(launch)
                else:
                    report(launch, work.take(launch))
    finally:
        work.close()
    return BatchResult(
        groups=tuple(judged[launch] for launch in policy.selected()),
        prefix=tuple(judged[launch] for launch in range(policy.prefix_end()) if launch in judged),
        outcomes=policy.outcomes(),
        prefix_end=policy.prefix_end(),
        stats=policy.stats(),
        timing=timing,
        spans=tuple(replace(span, valid=validity.get(span.launch)) for span in work.spans),
        rate=work.rate.table(),
        num_known=num_known,
    )


def stream(
    engine: Engine,
    judge: Judge,
    problems: Iterable[Problem],
    *,
    render: Callable[[Problem], tuple[int, ...]],
    decode: Callable[[Sequence[int]], str],
    sampling: Sampling,
    num_samples: int,
    seed: int,
    max_active_requests: int,
    step: int = 0,
    timing: Timing | None = None,
    clock: Clock = time.perf_counter,
) -> Iterator[Group]:
    """Every problem with `num_samples` judged rollouts, yielded as they complete.

    A group's `launch` is the problem's index, so that callers can sort. Greedy sampling (temperature 0) gives equal
    samples; ask for one. Closing the iterator aborts what is still running.

    Args:
        max_active_requests: requests in the engine at once.
        timing: filled in while the stream runs, if given.
    """
    if num_samples < 1 or max_active_requests < 1:
        raise ValueError(
            f"num_samples and max_active_requests must be at least 1, got {num_samples} and {max_active_requests}"
        )
    work = _Work(engine, judge, decode, num_samples, clock, timing or Timing())
    requests = (
        (problem, prompt_ids, replace(sampling, seed=sample_seed(seed, step, index, sample)), index, sample)
        for index, problem in enumerate(problems)
        for prompt_ids in (render(problem),)
        for sample in range(num_samples)
    )
    upcoming = next(requests, None)
    try:
        while upcoming is not None or work.open:
            if upcoming is not None and work.num_running < max_active_requests:
                work.submit(*upcoming)
                upcoming = next(requests, None)
                continue
            for kind, launch in work.advance():
                if kind == "judged":
                    yield work.take(launch)
    finally:
        work.close()


@dataclass
class _Open:
    """A group on its way: slots are filled by sample number."""

    problem: Problem
    stratum: str
    start_s: float
    rollouts: list[Rollout | None]
    verdicts: list[Verdict | None]
    futures: list[Future[Verdict]] = field(default_factory=list)
    generated_s: float = 0.0
    """When its last response was done."""
    judged_s: float = 0.0
    """When its last verdict was given."""
    held_s: float = 0.0
    """Sum over its finished responses of the time in which they held a slot."""


@dataclass(frozen=True, slots=True)
class _Running:
    """A request in the engine."""

    launch: int
    sample: int
    slot_s: float
    """`_Work.slot_s` when it was submitted."""
    step: int
    """Engine steps before it."""


class _Work:
    """The requests and judgements in flight."""

    def __init__(
        self,
        engine: Engine,
        judge: Judge,
        decode: Callable[[Sequence[int]], str],
        num_samples: int,
        clock: Clock,
        timing: Timing,
        context: int | None = None,
    ) -> None:
        self.engine, self.judge, self.decode = engine, judge, decode
        self.num_samples, self.clock, self.timing, self.context = num_samples, clock, timing, context
        self.open: dict[int, _Open] = {}
        self.spans: list[Span] = []
        self.rate = Rate()
        self.slot_s = 0.0
        """Seconds of a slot that a request active from the begin would have held by now."""
        self._num_steps = 0
        self._running: dict[int, _Running] = {}  # by the engine's handle
        self._verdicts: queue.SimpleQueue[tuple[int, int, Future[Verdict], float]] = queue.SimpleQueue()
        self._started_s = self._last_s = clock()

    @property
    def num_running(self) -> int:
        return len(self._running)

    def submit(
        self,
        problem: Problem,
        prompt_ids: tuple[int, ...],
        sampling: Sampling,
        launch: int,
        sample: int,
        stratum: str = "main",
    ) -> None:
        self._count_held()
        if launch not in self.open:
            empty = [None] * self.num_samples
            self.open[launch] = _Open(problem, stratum, self._last_s - self._started_s, list(empty), list(empty))
        if self.context is not None:
            room = self.context - len(prompt_ids)
            if room < 1:
                raise ValueError(
                    f"problem {problem.id} has a prompt of {len(prompt_ids)} tokens, and a row holds {self.context}: "
                    "nothing is left for a response"
                )
            sampling = replace(sampling, max_new_tokens=min(sampling.max_new_tokens, room))
        handle = self.engine.submit(Request(prompt_ids, sampling, problem.id))
        self._running[handle] = _Running(launch, sample, self.slot_s, self._num_steps)
        self.timing.peak_requests = max(self.timing.peak_requests, len(self._running))

    def advance(self) -> list[tuple[str, int]]:
        """Generate a step, or wait for the judge if nothing generates; the groups that got finished or judged."""
        events: list[tuple[str, int]] = []
        if self._running:
            started_s, live = self.clock(), len(self._running)
            rollouts = self.engine.step()
            self._count_held()
            self._num_steps += 1
            self.timing.generate_s += self._last_s - started_s
            self.rate.step(live, self._last_s - started_s)
            for handle, rollout in rollouts:
                events += self._finished(handle, rollout)
        elif self._verdicts.empty():
            started_s = self.clock()
            item = self._verdicts.get()
            self._count_held()
            self.timing.wait_for_judge_s += self._last_s - started_s
            events += self._judged(*item)
        while not self._verdicts.empty():
            events += self._judged(*self._verdicts.get())
        return events

    def take(self, launch: int) -> Group:
        """A completed group; it is no longer in flight."""
        group = self.open.pop(launch)
        rollouts = tuple(rollout for rollout in group.rollouts if rollout is not None)
        verdicts = tuple(verdict for verdict in group.verdicts if verdict is not None)
        assert len(rollouts) == len(verdicts) == self.num_samples
        self.timing.useful_s += group.held_s
        self.spans.append(_span(launch, group, group.generated_s, group.judged_s, aborted=False))
        return Group(group.problem, rollouts, verdicts, launch=launch, stratum=group.stratum)

    def close(self) -> None:
        """Abort every request and cancel every judgement that has not begun."""
        for handle in list(self._running):
            self.engine.abort(handle)
        self._count_held()
        self._running.clear()
        for launch, group in self.open.items():
            for future in group.futures:
                future.cancel()
            end_s = group.generated_s or self.timing.total_s
            self.spans.append(_span(launch, group, end_s, end_s, aborted=True))
        self.open.clear()

    def _finished(self, handle: int, rollout: Rollout) -> list[tuple[str, int]]:
        if handle not in self._running:
            return []  # another user of the same engine
        was = self._running.pop(handle)
        group = self.open[was.launch]
        group.rollouts[was.sample] = rollout
        group.held_s += self.slot_s - was.slot_s
        self.rate.finished(len(rollout.token_ids), self._num_steps - was.step)
        done = all(slot is not None for slot in group.rollouts)
        if done:
            group.generated_s = self.timing.total_s
        self._judge(was.launch, was.sample, self.decode(rollout.token_ids))
        return [("finished", was.launch)] if done else []

    def _judge(self, launch: int, sample: int, text: str) -> None:
        group = self.open[launch]
        future = self.judge.submit(group.problem, text)
        group.futures.append(future)
        # The callback runs in the judge's thread: all it does is put the event, with its time, in the queue.
        future.add_done_callback(lambda done: self._verdicts.put((launch, sample, done, self.clock())))

    def _judged(self, launch: int, sample: int, future: Future[Verdict], at_s: float) -> list[tuple[str, int]]:
        if launch not in self.open or future.cancelled():
            return []
        group = self.open[launch]
        try:
            group.verdicts[sample] = future.result()  # an internal error too: the judge has retried it (decision 0020)
        except RuntimeError as error:
            raise ValueError(f"responses to problem {group.problem.id} cannot be judged here: {error}") from error
        group.judged_s = max(group.judged_s, at_s - self._started_s)
        return [("judged", launch)] if all(slot is not None for slot in group.verdicts) else []

    def _count_held(self) -> None:
        now_s, live, slots = self.clock(), len(self._running), self.timing.slots
        self.slot_s += (now_s - self._last_s) * (min(1.0, slots / live) if slots and live else 1.0)
        self.timing.total_s = now_s - self._started_s
        self._last_s = now_s


def _span(launch: int, group: _Open, generated_s: float, judged_s: float, *, aborted: bool) -> Span:
    return Span(
        launch,
        group.problem.id,
        group.stratum,
        None,
        tuple(len(rollout.token_ids) for rollout in group.rollouts if rollout is not None),
        group.start_s,
        generated_s - group.start_s,
        max(0.0, judged_s - generated_s),
        aborted,
    )
