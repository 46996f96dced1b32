"""Many maths answers at once, in processes that may die at any moment."""

import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from openmimo.judge.math_pool import MathPool
from openmimo.types import Problem

HERE = str(Path(__file__).parent)
sys.path.insert(0, HERE)


def problem(answer):
    return Problem("p", "", "math", answer=answer)


def boxed(answer):
    return f"\\boxed{{{answer}}}"


@pytest.fixture(scope="module")
def pool():
    with MathPool(2) as pool:
        yield pool


def descendants(pid):
    """Process ids below a process."""
    parents = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents[int(entry.parent.name)] = int(fields[1])
    found = {pid}
    while len(grown := found | {child for child, parent in parents.items() if parent in found}) > len(found):
        found = grown
    return found - {pid}


def test_answers_are_judged_and_what_needs_no_algebra_at_once(pool):
    assert pool.submit(problem("17"), boxed("17")).done()
    assert pool.judge(problem("17"), "17").status == "no_answer"
    assert pool.judge(problem("0.5"), boxed(r"\frac{1}{2}")).status == "accepted"
    verdict = pool.judge(problem("5"), boxed("6=5"))
    assert (verdict.status, verdict.detail) == ("wrong_answer", "the answer is a false equation")


def test_the_self_check_starts_the_worker_and_passes(pool):
    pool.self_check()


def test_a_problem_without_an_answer_is_refused_at_once(pool):
    with pytest.raises(ValueError, match="maths problem 'p' has no answer"):
        pool.submit(problem(""), boxed("5"))


def test_bad_figures_are_refused():
    with pytest.raises(ValueError, match="a maths pool needs at least 1 worker, got 0"):
        MathPool(0)
    with pytest.raises(ValueError, match="wall_s must be positive, got -1"):
        MathPool(1, wall_s=-1)
    with pytest.raises(ValueError, match="verifier must be module:function"):
        MathPool(1, function="verify")


def test_a_hostile_answer_holds_up_nobody():
    with MathPool(1, wall_s=30.0) as pool:
        pool.self_check()
        hostile = [pool.submit(problem("12"), boxed(rf"9^{{9^{{9^{{9^{{{n}}}}}}}}}")) for n in range(2, 6)]
        others = [pool.submit(problem("12"), boxed(f"{n}+{12 - n}")) for n in range(20)]
        assert [future.result(timeout=60).status for future in others] == ["accepted"] * 20
        assert not any(future.done() and future.result().status == "accepted" for future in hostile)


def test_more_slow_answers_than_there_is_room_for_all_get_their_verdict():
    with MathPool(1, wall_s=1.0) as pool:
        futures = [pool.submit(problem("12"), boxed(f"9^{{9^{{9^{{9^{{{n}}}}}}}}}")) for n in range(2, 10)]
        assert {future.result(timeout=120).status for future in futures} <= {"time_limit", "wrong_answer"}


def test_answers_come_back_to_their_own_threads(pool):
    wrong = []

    def work(start):
        for number in range(start, start + 10):
            expected = "accepted" if number % 2 else "wrong_answer"
            answer = f"{number} + {number % 2 - 1}"
            if pool.judge(problem(str(number)), boxed(answer)).status != expected:
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(10 * number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds processes in /proc")
def test_any_process_may_be_killed_and_every_verdict_is_right():
    with MathPool(2) as pool:
        pool.self_check()
        futures = [pool.submit(problem(str(n)), boxed(f"{n - 1}+{1 + n % 2}")) for n in range(300)]
        worker = pool._process.pid
        for number in range(4):
            time.sleep(0.1)
            below = sorted(descendants(pool._process.pid))
            for pid in [pool._process.pid] if number == 2 else below[:1]:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
        statuses = [future.result(timeout=120).status for future in futures]
        assert statuses == ["wrong_answer" if n % 2 else "accepted" for n in range(300)]
        assert pool._process.pid != worker


def test_closing_cancels_and_leaves_no_process():
    pool = MathPool(1, wall_s=60.0)
    pool.self_check()
    future = pool.submit(problem("12"), boxed("9^{9^{9^{9}}}"))
    time.sleep(0.3)
    below = descendants(pool._process.pid) | {pool._process.pid}
    pool.close()
    assert future.cancelled()
    deadline_s = time.monotonic() + 10.0
    while (left := [pid for pid in below if Path(f"/proc/{pid}").exists()]) and time.monotonic() < deadline_s:
        time.sleep(0.05)
    assert left == []
    with pytest.raises(ValueError, match="the maths pool is closed"):
        pool.submit(problem("12"), boxed("13-1"))


def test_a_users_verifier_judges_in_the_pool():
    with MathPool(1, wall_s=1.0, function="math_own_verifiers:same_length") as pool:
        pool.self_check()
        assert pool.judge(problem("12"), boxed("34")).status == "accepted"
        assert pool.judge(problem("12"), boxed("345")).status == "wrong_answer"
    with MathPool(1, wall_s=0.5, function="math_own_verifiers:hangs") as pool:
        assert pool.judge(problem("12"), boxed("34")).status == "time_limit"
    with MathPool(1, function="math_own_verifiers:dies") as pool:
        assert pool.judge(problem("12"), boxed("34")).status == "internal_error"


def test_a_broken_verifier_is_an_internal_error_that_says_so(tmp_path, monkeypatch):
    (tmp_path / "math_verify.py").write_text("raise ImportError('no antlr')")
    monkeypatch.syspath_prepend(str(tmp_path))
    with MathPool(1) as pool:
        with pytest.raises(ValueError, match="math-verify cannot be imported: ImportError: no antlr"):
            pool.self_check()
        verdict = pool.judge(problem("12"), boxed("13-1"))
        assert verdict.status == "internal_error"
        assert "math-verify cannot be imported" in verdict.detail
