"""Where the time of a rollout went, on a fake clock, by hand."""

from concurrent.futures import Future
from dataclasses import replace

import pytest

from openmimo.rollout.driver import rollout_batch
from openmimo.rollout.seamless import Seamless
from openmimo.rollout.trace import Rate, append, drop_from
from openmimo.rows import read_rows
from openmimo.types import Problem, Rollout, Sampling, Verdict


class Clock:
    now_s = 0.0

    def __call__(self):
        return self.now_s


class TimedEngine:
    """A second a step; a request of launch n takes `steps[n]` of them."""

    def __init__(self, clock, steps):
        self.clock, self.steps, self.left, self.handles = clock, steps, {}, 0

    def submit(self, request):
        self.handles += 1
        self.left[self.handles] = [self.steps[int(request.problem_id)], request]
        return self.handles

    def step(self):
        self.clock.now_s += 1.0
        done = []
        for handle, state in list(self.left.items()):
            state[0] -= 1
            if not state[0]:
                tokens = tuple(range(self.steps[int(state[1].problem_id)]))
                done.append((handle, Rollout(state[1].problem_id, (), tokens, (0.0,) * len(tokens), 0, "stop")))
                del self.left[handle]
        return done

    def abort(self, handle):
        self.left.pop(handle, None)


class TimedJudge:
    """Accepts every other answer, at once."""

    calls = 0

    def submit(self, problem, text):
        future = Future()
        self.calls += 1
        future.set_result(Verdict("accepted" if self.calls % 2 else "wrong_answer"))
        return future


def test_idle_is_slots_without_useful_work_and_aborted_work_is_none():
    """Two groups of two requests at once on 4 slots: group 0 takes 2 s, group 1 would take 9 and is aborted."""
    clock = Clock()
    engine = TimedEngine(clock, {0: 2, 1: 9})
    result = rollout_batch(
        engine, TimedJudge(), draw=lambda n: (Problem(str(n), "", "math", answer="1"), "main"),
        render=lambda problem: (1,), decode=lambda ids: "", sampling=Sampling(9), num_rollouts=2,
        valid=lambda group: (True, replace(group, rewards=(1.0, 0.0))),
        policy=Seamless(1, lambda number: 0.5, max_active=2), seed=0, step=0, slots=4, clock=clock,
    )  # fmt: skip
    # 2 s of 4 slots; useful are 2 s of 2 slots: group 0's.
    assert (result.timing.total_s, result.timing.useful_s, result.timing.idle_ratio) == (2.0, 4.0, 0.5)
    first, second = sorted(result.spans, key=lambda span: span.launch)
    assert (first.start_s, first.rollout_s, first.reward_s, first.tokens, first.valid) == (0.0, 2.0, 0.0, (2, 2), True)
    assert second.aborted and second.valid is None and second.tokens == () and second.rollout_s == 2.0
    assert result.rate == ((4.0, 4.0),)  # 4 live requests, a token each a second


def test_more_requests_than_slots_share_them():
    """Four requests of 2 steps on 2 slots hold, together, 2 slots for 2 s: nothing is idle."""
    clock = Clock()
    result = rollout_batch(
        TimedEngine(clock, {0: 2, 1: 2}), TimedJudge(),
        draw=lambda n: (Problem(str(n), "", "math", answer="1"), "main"),
        render=lambda problem: (1,), decode=lambda ids: "", sampling=Sampling(9), num_rollouts=2,
        valid=lambda group: (True, replace(group, rewards=(1.0, 0.0))),
        policy=Seamless(2, lambda number: 1.0, max_active=2), seed=0, step=0, slots=2, clock=clock,
    )  # fmt: skip
    assert (result.timing.useful_s, result.timing.idle_ratio) == (4.0, 0.0)


def test_a_response_is_given_the_room_its_prompt_leaves():
    asked = []

    class Recorder(TimedEngine):
        def submit(self, request):
            asked.append((len(request.prompt_ids), request.sampling.max_new_tokens))
            return super().submit(request)

    def run(prompt):
        clock = Clock()
        return rollout_batch(
            Recorder(clock, {0: 1}), TimedJudge(),
            draw=lambda n: (Problem(str(n), "", "math", answer="1"), "main"), render=lambda problem: (1,) * prompt,
            decode=lambda ids: "", sampling=Sampling(8), num_rollouts=1, valid=lambda group: (True, group),
            policy=Seamless(1, lambda number: 1.0, max_active=1), seed=0, step=0, context=10, clock=clock,
        )  # fmt: skip

    run(1), run(2), run(9)
    assert asked == [(1, 8), (2, 8), (9, 1)]
    with pytest.raises(ValueError, match="problem 0 has a prompt of 10 tokens, and a row holds 10"):
        run(10)


def test_the_rate_is_tokens_a_second_by_live_requests():
    rate = Rate()
    for _ in range(3):
        rate.step(4, 0.5)  # two tokens a request and step, see below: 16 tokens a second
    rate.step(1, 0.25)  # 8 tokens a second
    rate.finished(8, 4)
    assert rate.table() == ((1.0, 8.0), (4.0, 16.0))


def test_a_trace_forgets_the_steps_that_are_run_again(tmp_path):
    path = tmp_path / "trace.jsonl"
    drop_from(path, 0)
    for step in range(3):
        append(path, step, (), wall_s=1.0)
    with path.open("a") as file:
        file.write('{"step": 3, "wal')
    drop_from(path, 2)
    assert [row["step"] for row in read_rows(path)] == [0, 1]
