"""The scheduler: a bounded queue, deadlines, names, and work that is redone when its worker is lost."""

import asyncio
import importlib.util
import os
import queue
import signal
import threading
import time
from pathlib import Path

import pytest

from openmimo.judge.lane import Lost
from openmimo.judge.pool import MAX_LOST, JudgeConfig, JudgePool
from openmimo.judge.sandbox.cgroup import _parents
from openmimo.rows import problem_from
from openmimo.types import Problem, UnitTest, Verdict

KILL = Path(__file__).resolve().parents[2] / "benchmarks" / "judge_kill.py"
ADD = Problem("add", "", "code", tests=(UnitTest("[1, 2]", "3"), UnitTest("[5, 5]", "10")), entry_point="add")
HALF = Problem("half", "", "math", answer="0.5")
GOOD = "```python\ndef add(a, b):\n    return a + b\n```"
SLOW = "```python\nimport time\ndef add(a, b):\n    time.sleep(0.3)\n    return a + b\n```"


def kill_benchmark():
    spec = importlib.util.spec_from_file_location("judge_kill", KILL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class FakeLane:
    """Answers from a list, one a call: a verdict, or an exception to raise."""

    def __init__(self, place, answers=()):
        self.place, self.up, self.answers, self.seen = place, True, list(answers), []

    def takes(self, problem):
        return True

    def ready(self):
        return True

    def judge(self, work):
        self.seen.append(work)
        answer = self.answers.pop(0) if self.answers else Verdict("accepted")
        if isinstance(answer, Exception):
            raise answer
        return answer

    def kill(self):
        pass

    def close(self):
        pass


def pool_of(monkeypatch, *lanes, **config):
    monkeypatch.setattr(JudgePool, "_open_lanes", lambda *_: list(lanes))
    return JudgePool(1, JudgeConfig(**config))


def test_a_pool_judges_both_kinds_at_once():
    with JudgePool(2, JudgeConfig(cpu_s=1.0, wall_s=2.0)) as pool:
        futures = [pool.submit(ADD, GOOD if n % 2 else SLOW) for n in range(4)]
        futures += [
            pool.submit(HALF, "\\boxed{1/2}"),
            pool.submit(HALF, "\\boxed{0.5}"),
            pool.submit(HALF, "\\boxed{2}"),
        ]
        verdicts = [future.result(timeout=30) for future in futures]
        assert [verdict.status for verdict in verdicts] == ["accepted"] * 6 + ["wrong_answer"]
        assert pool.counts == {("code", "accepted"): 4, ("math", "accepted"): 2, ("math", "wrong_answer"): 1}
        assert (pool.num_waiting, pool.num_running) == (0, 0)


def test_a_program_may_come_without_a_response_around_it():
    with JudgePool(1) as pool:
        assert pool.judge(ADD, "def add(a, b):\n    '''```'''\n    return a + b\n", source=True).status == "accepted"


def test_a_killed_worker_or_zygote_is_replaced_and_its_work_redone():
    children = kill_benchmark().children
    with JudgePool(1) as pool:
        assert pool.judge(ADD, GOOD).status == "accepted"
        (lane,) = pool._lanes
        for victim in (lambda: lane.pid, lambda: children(lane.pid)[0]):
            future = pool.submit(ADD, SLOW)
            time.sleep(0.2)
            os.kill(victim(), signal.SIGKILL)
            assert future.result(timeout=30).status == "accepted"
        assert pool.num_redone == 2


def test_killing_at_random_moments_loses_no_verdict_and_leaves_no_process():
    found = kill_benchmark().measure(60, seed=1, pause_s=(0.25, 0.6))
    assert sum(found["killed"].values()) >= 3 and found["redone"] >= 1, found
    assert (found["delivered"], found["wrong"], found["processes_left"]) == (60, 0, 0), found


def test_leaving_a_pool_by_an_exception_ends_its_processes_at_once():
    benchmark = kill_benchmark()
    endless = "def add(a, b):\n    while True: pass\n"
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt), JudgePool(2, JudgeConfig(cpu_s=30, wall_s=60)) as pool:
        futures = [pool.submit(ADD, endless, source=True) for _ in range(4)]
        while pool.num_running < 2 or not all(benchmark.descendants(lane.pid) for lane in pool._lanes):
            time.sleep(0.02)
        family = {pid for lane in pool._lanes for pid in (lane.pid, *benchmark.descendants(lane.pid))}
        raise KeyboardInterrupt
    assert time.monotonic() - started < 10
    assert len(family) >= 4 and not benchmark.left(family)
    assert all(future.done() for future in futures)


@pytest.mark.parametrize("now", [False, True])
def test_a_pool_that_is_closed_leaves_no_control_group(now):
    pool = JudgePool(2)
    futures = [pool.submit(ADD, SLOW) for _ in range(2)]
    while pool.num_running < 2:
        time.sleep(0.01)
    time.sleep(0.3)
    pids = [lane.pid for lane in pool._lanes]
    groups = [folder for parent in _parents() for pid in pids for folder in parent.glob(f"openmimo-judge-{pid}-*")]
    pool.close(now=now)
    assert all(future.done() for future in futures)
    assert not any(folder.exists() for folder in groups)


def test_a_pool_that_is_not_used_starts_no_process():
    with JudgePool(2) as pool:
        assert pool.judge(HALF, "\\boxed{0.5}").status == "accepted", "decided without algebra"
        assert [lane.pid for lane in pool._lanes] == [0, 0]


def test_closing_cancels_what_has_not_begun():
    pool = JudgePool(1)
    futures = [pool.submit(ADD, SLOW) for _ in range(20)]
    pool.judge(HALF, "\\boxed{0.5}")
    pool.close()
    pool.close()
    assert futures[-1].cancelled()
    with pytest.raises(ValueError, match="closed"):
        pool.submit(ADD, GOOD)


def test_a_full_queue_refuses_or_waits_for_room():
    with JudgePool(1, JudgeConfig(queue_size=1)) as pool:
        first = pool.submit(ADD, SLOW)
        while not pool.num_running:
            time.sleep(0.01)
        pool.submit(ADD, SLOW)
        with pytest.raises(queue.Full, match="1 responses wait"):
            pool.submit(ADD, GOOD, block=False)
        assert pool.judge(HALF, "\\boxed{0.5}").status == "accepted", "what takes no worker takes no room"
        last = pool.submit(ADD, GOOD)
        assert first.done(), "it came back only when there was room"
        assert last.result(timeout=30).status == "accepted"


def test_waiting_without_blocking_the_event_loop():
    async def many(pool):
        return await asyncio.gather(*(pool.ajudge(ADD, GOOD) for _ in range(6)))

    with JudgePool(1, JudgeConfig(queue_size=2)) as pool:
        assert [verdict.status for verdict in asyncio.run(many(pool))] == ["accepted"] * 6


def test_a_deadline_ends_waiting_and_running_work_with_an_internal_error():
    with JudgePool(1, JudgeConfig(cpu_s=30, wall_s=60)) as pool:
        started = time.monotonic()
        running = pool.submit(ADD, "def add(a, b):\n    while True: pass", source=True, deadline_s=1.5)
        waiting = pool.submit(ADD, GOOD, deadline_s=0.4)
        assert waiting.result(timeout=30) == Verdict("internal_error", detail="the deadline of 0.4 s passed")
        assert not running.done(), "not only when the worker was free"
        assert running.result(timeout=30).detail == "the deadline of 1.5 s passed"
        assert time.monotonic() - started < 6
        assert pool.judge(ADD, GOOD).status == "accepted"


def test_an_id_is_judged_once():
    with JudgePool(1) as pool:
        first = pool.submit(ADD, SLOW, id="a")
        assert pool.submit(ADD, SLOW, id="a") is first
        first.result(timeout=30)
        assert pool.submit(ADD, SLOW, id="a") is first
        assert pool.counts.total() == 1
        with pytest.raises(ValueError, match="id 'a' stands for another response"):
            pool.submit(ADD, GOOD, id="a")


def test_a_cancelled_id_is_judged_anew(monkeypatch):
    gate = threading.Event()
    lane = FakeLane("a")
    lane.judge = lambda work: gate.wait(10) and Verdict("accepted")
    with pool_of(monkeypatch, lane) as pool:
        pool.submit(ADD, GOOD)
        waiting = pool.submit(ADD, GOOD, id="x")
        assert waiting.cancel()
        again = pool.submit(ADD, GOOD, id="x")
        gate.set()
        assert again is not waiting and again.result(timeout=5).status == "accepted"


def test_an_internal_error_is_retried_once_by_another_worker(monkeypatch):
    broken = [Verdict("internal_error", detail="broken")] * 9
    one, other = FakeLane("one", broken), FakeLane("other", broken)
    with pool_of(monkeypatch, one, other) as pool:
        assert pool.judge(ADD, GOOD).status == "internal_error"
        assert (len(one.seen), len(other.seen)) == (1, 1)
        other.answers = []
        assert [pool.judge(ADD, GOOD).status for _ in range(4)] == ["accepted"] * 4


def test_alone_a_worker_retries_its_internal_error_itself(monkeypatch):
    lane = FakeLane("one", [Verdict("internal_error")])
    with pool_of(monkeypatch, lane) as pool:
        assert pool.judge(ADD, GOOD).status == "accepted"
        assert len(lane.seen) == 2


def test_a_lost_worker_does_not_use_up_the_retry_and_has_an_end(monkeypatch):
    lane = FakeLane("one", [Lost("gone")] * MAX_LOST + [Verdict("internal_error"), Verdict("wrong_answer")])
    with pool_of(monkeypatch, lane) as pool:
        assert pool.judge(ADD, GOOD).status == "wrong_answer"
        lane.answers = [Lost("gone")] * 99
        assert pool.judge(ADD, GOOD) == Verdict("internal_error", detail=f"lost {MAX_LOST + 1} times; gone")
        assert len(lane.answers) == 99 - MAX_LOST - 1


def test_a_worker_that_refuses_says_why_to_the_caller(monkeypatch):
    with pool_of(monkeypatch, FakeLane("one", [RuntimeError("no namespaces here")])) as pool:
        with pytest.raises(RuntimeError, match="no namespaces here"):
            pool.judge(ADD, GOOD)
        assert pool.judge(ADD, GOOD).status == "accepted"


def test_a_problem_that_cannot_be_judged_is_refused_at_once():
    with JudgePool(1) as pool:
        with pytest.raises(ValueError, match="no tests"):
            pool.submit(Problem("p", "", "code"), GOOD)
        with pytest.raises(ValueError, match="deadline_s must be positive, got 0"):
            pool.submit(ADD, GOOD, deadline_s=0)
    for wrong, message in (
        (dict(num_workers=0), "at least 1 worker, got 0"),
        (dict(config=JudgeConfig(wall_s=-1)), "limit wall_s must be positive and finite, got -1"),
        (dict(config=JudgeConfig(queue_size=0)), "queue_size must be at least 1, got 0"),
    ):
        with pytest.raises(ValueError, match=message):
            JudgePool(**wrong)


HALF_ROW = {"id": "m", "prompt": "half\u2028?", "kind": "math", "answer": "0.5"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"anwser": "1"}, "unknown field 'anwser'; the nearest is 'answer'"),
        ({"kind": "maths"}, "has kind 'maths'; math and code are known"),
        ({"id": 7}, "id must be text, got '7'"),
        ({"tests": 3}, "tests must be a list, got '3'"),
        ({"tests": [{"input": "1"}]}, "a test has input, expected and maybe level or assertion, got"),
        ({"tests": [{"input": "1", "expected": 2}]}, "input, expected and assertion must be text"),
        ({"tests": [{"input": "1", "expected": "2", "level": -1}]}, "level must be 0 or more, or null, got -1"),
    ],
)  # fmt: skip
def test_a_bad_problem_is_refused_in_one_line(change, message):
    with pytest.raises(ValueError, match=message):
        problem_from({**HALF_ROW, **change})
