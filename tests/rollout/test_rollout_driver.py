"""The driver with a small real engine (a fake clock's worth of steps) and a judge of threads."""

import random
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

import pytest

from openmimo.rollout.baselines import barriered
from openmimo.rollout.driver import Timing, rollout_batch, sample_seed, stream
from openmimo.rollout.seamless import Seamless
from openmimo.types import Problem, Rollout, Sampling, Verdict


class StepEngine:
    """Answers with a digit that is a function of (prompt, seed), after as many steps as `pace` says."""

    def __init__(self, pace):
        self.pace = pace
        self.running = {}
        self.handles = 0
        self.seeds = []
        self.aborted = []
        self.peak = 0

    @property
    def num_active(self):
        return len(self.running)

    def submit(self, request):
        self.handles += 1
        self.seeds.append(request.sampling.seed)
        self.running[self.handles] = [self.pace(request), request]
        self.peak = max(self.peak, len(self.running))
        return self.handles

    def step(self):
        done = []
        for handle, state in list(self.running.items()):
            state[0] -= 1
            if state[0] <= 0:
                request = self.running.pop(handle)[1]
                digit = random.Random(f"{request.prompt_ids} {request.sampling.seed}").randrange(10)
                rollout = Rollout(request.problem_id, request.prompt_ids, (48 + digit,), (-1.0,), 0, "stop")
                done.append((handle, rollout))
        return done

    def abort(self, handle):
        self.aborted.append(handle)
        self.running.pop(handle, None)


class ThreadJudge:
    """Accepts even digits, in threads, after a random moment."""

    def __init__(self, delay_s=0.0):
        self.pool = ThreadPoolExecutor(4)
        self.delay_s = delay_s
        self.permanent = set()

    def submit(self, problem, text):
        return self.pool.submit(self.judge, problem, text)

    def judge(self, problem, text):
        time.sleep(random.random() * self.delay_s)
        if problem.id in self.permanent:
            return Verdict("internal_error", detail="lost worker")
        return Verdict("accepted" if int(text) % 2 == 0 else "wrong_answer")


def decode(token_ids):
    return bytes(token_ids).decode()


def render(problem):
    return tuple(problem.prompt.encode())


def draw(number):
    return Problem(f"p{number}", f"question {number}", "math", answer="0"), "main" if number % 3 else "easy"


def chance(number):
    return 0.5 if number % 3 else 0.3


def scored(group):
    if any(verdict.status == "internal_error" for verdict in group.verdicts):
        return None, group
    rewards = tuple(float(verdict.status == "accepted") for verdict in group.verdicts)
    return max(rewards) > min(rewards), replace(group, rewards=rewards)


def batch(engine, judge, *, max_active=3, batch_groups=5, step=7, num_rollouts=2):
    return rollout_batch(
        engine, judge, draw=draw, render=render, decode=decode, sampling=Sampling(max_new_tokens=1),
        num_rollouts=num_rollouts, valid=scored,
        policy=Seamless(batch_groups, chance, max_active=max_active), seed=1, step=step,
    )  # fmt: skip


def test_same_seeds_give_the_same_batch_whatever_pace_workers_and_delays():
    results = []
    for trial, max_active in enumerate([1, 2, 3, 8, None]):
        rng = random.Random(trial)
        engine = StepEngine(lambda request, rng=rng: rng.randrange(1, 30))
        results.append(batch(engine, ThreadJudge(delay_s=0.002), max_active=max_active))
        assert engine.num_active == 0
    assert len({result.groups for result in results}) == 1
    assert len({result.prefix for result in results}) == 1
    assert len({result.prefix_end for result in results}) == 1
    first = results[0]
    assert len(first.groups) == 5
    assert [group.launch for group in first.prefix] == list(range(first.prefix_end))
    assert all(max(group.rewards) > min(group.rewards) for group in first.groups)
    outcomes = first.outcomes
    assert barriered(lambda n: outcomes[n] if n < len(outcomes) else True, 5).selected == tuple(
        group.launch for group in first.groups
    )


def test_other_steps_and_samples_get_other_seeds():
    seeds = {
        sample_seed(seed, step, launch, sample)
        for seed in range(3) for step in range(3) for launch in range(10) for sample in range(4)
    }  # fmt: skip
    assert len(seeds) == 3 * 3 * 10 * 4
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert sample_seed(0, 0, 0, 0) == 5809880761037817570  # stable across versions and machines


def test_stop_aborts_the_rest_at_once():
    def pace(request):
        return 10**9 if request.problem_id == "p29" else 1

    engine = StepEngine(pace)
    policy = Seamless(2, lambda number: 0.05, max_active=None)  # low expectations: it launches 40
    result = rollout_batch(
        engine, ThreadJudge(), draw=draw, render=render, decode=decode, sampling=Sampling(max_new_tokens=1),
        num_rollouts=2, valid=scored, policy=policy, seed=1, step=0,
    )  # fmt: skip
    assert len(result.groups) == 2
    assert result.stats.launched >= 30
    assert len(engine.aborted) == 2 and engine.num_active == 0


def test_an_internal_error_drops_the_group():
    healthy = batch(StepEngine(lambda request: 1), ThreadJudge())
    judge = ThreadJudge()
    judge.permanent = {healthy.groups[0].problem.id}
    dropped = batch(StepEngine(lambda request: 1), judge)
    assert dropped.stats.dropped == 1
    assert healthy.groups[0].launch not in [group.launch for group in dropped.groups]
    assert len(dropped.groups) == 5


def test_a_failing_judge_raises_and_leaves_no_request_behind():
    class Broken:
        def submit(self, problem, text):
            future = Future()
            future.set_exception(RuntimeError("judge is gone"))
            return future

    engine = StepEngine(lambda request: 3 if request.problem_id == "p0" else 50)
    with pytest.raises(ValueError, match="responses to problem p0 cannot be judged here: judge is gone"):
        batch(engine, Broken())
    assert engine.num_active == 0


def test_stream_gives_every_problem_its_samples_within_the_request_limit():
    rng = random.Random(0)
    engine = StepEngine(lambda request: rng.randrange(1, 9))
    timing = Timing()
    problems = [draw(number)[0] for number in range(20)]
    groups = list(
        stream(
            engine, ThreadJudge(delay_s=0.002), problems, render=render, decode=decode,
            sampling=Sampling(max_new_tokens=1), num_samples=3, seed=5, max_active_requests=4, timing=timing,
        )
    )  # fmt: skip
    assert sorted(group.launch for group in groups) == list(range(20))
    assert all(group.problem is problems[group.launch] for group in groups)
    assert all(len(group.rollouts) == len(group.verdicts) == 3 for group in groups)
    assert engine.peak == timing.peak_requests == 4
    assert timing.total_s >= timing.generate_s >= 0.0
    assert 0.0 <= timing.idle_ratio <= 1.0


def test_a_closed_stream_aborts_what_runs():
    engine = StepEngine(lambda request: 1 if request.problem_id == "p0" else 10**9)
    groups = stream(
        engine, ThreadJudge(), (draw(number)[0] for number in range(100)), render=render, decode=decode,
        sampling=Sampling(max_new_tokens=1), num_samples=1, seed=5, max_active_requests=4,
    )  # fmt: skip
    assert next(groups).launch == 0
    groups.close()
    assert engine.num_active == 0 and engine.aborted


def test_an_empty_stream_ends():
    engine = StepEngine(lambda request: 1)
    assert not list(
        stream(
            engine, ThreadJudge(), [], render=render, decode=decode, sampling=Sampling(max_new_tokens=1),
            num_samples=1, seed=0, max_active_requests=1,
        )
    )  # fmt: skip
