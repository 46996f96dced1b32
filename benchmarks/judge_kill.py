"""Claim: kill -9 of zygotes and supervisors during 2,000 tests: every verdict is delivered, none is wrong.

    python benchmarks/judge_kill.py [benchmarks/results/judge_kill.json]

200 solutions of 10 tests each, right and wrong ones whose status on every test is known, go through a pool of two
workers. Meanwhile one process of the judge is killed every 0.05 to 0.3 s: a supervisor (a worker of the pool), or a
zygote (a process that a supervisor started), chosen at random. A verdict is wrong if the status of any test is not the
known one; `internal_error` counts as not delivered. At the end no process of the judge may be left.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import record

from openmimo.judge.pool import JudgeConfig, JudgePool
from openmimo.types import Problem, UnitTest

NUM_TESTS = 2000
TESTS_A_SOLUTION = 10
ROOT = Path(__file__).resolve().parents[1]

SUM = Problem(
    "sum", "", "code", tests=tuple(UnitTest(f"{n} {n * n}\n", f"{n + n * n}\n") for n in range(TESTS_A_SOLUTION))
)
ADD = Problem(
    "add",
    "",
    "code",
    tests=tuple(UnitTest(f"[{n}, {n * n}]", f"{n + n * n}") for n in range(TESTS_A_SOLUTION)),
    entry_point="add",
)
WORK = "for _ in range(100000): pass\n"
READ = WORK + "a, b = map(int, input().split())\n"
ALL = range(TESTS_A_SOLUTION)
SOLUTIONS: list[tuple[Problem, str, list[str]]] = [
    (SUM, READ + "print(a + b)", ["accepted"] * TESTS_A_SOLUTION),
    (SUM, READ + "print(a + b + (a == 7))", ["wrong_answer" if n == 7 else "accepted" for n in ALL]),
    (SUM, READ + "print(a + b)\nassert a != 3", ["runtime_error" if n == 3 else "accepted" for n in ALL]),
    (SUM, READ + "print(a * b)", ["accepted" if n + n * n == n**3 else "wrong_answer" for n in ALL]),
    (SUM, READ + "while a == 9: pass\nprint(a + b)", ["time_limit" if n == 9 else "accepted" for n in ALL]),
    (SUM, "print(1", ["compile_error"] * TESTS_A_SOLUTION),
    (ADD, f"def add(a, b):\n    {WORK}    return a + b", ["accepted"] * TESTS_A_SOLUTION),
    (ADD, f"def add(a, b):\n    {WORK}    return a + b if a != 4 else None",
     ["wrong_answer" if n == 4 else "accepted" for n in ALL]),
]  # fmt: skip


def main() -> None:
    figures = {
        **measure(NUM_TESTS // TESTS_A_SOLUTION, seed=0, pause_s=(0.05, 0.3)),
    }
    record.write(
        "kill -9 of zygotes and supervisors: every verdict delivered, none wrong",
        "python benchmarks/judge_kill.py",
        figures,
    )


def measure(num_solutions: int, *, seed: int, pause_s: tuple[float, float] = (0.2, 1.0)) -> dict[str, Any]:
    """Judge solutions while processes are killed; the counts of what came of it."""
    rng = random.Random(seed)
    order = [SOLUTIONS[number % len(SOLUTIONS)] for number in range(num_solutions)]
    rng.shuffle(order)
    killed: Counter[str] = Counter()
    seen: set[int] = set()
    stop = threading.Event()
    started_s = time.monotonic()
    with JudgePool(2, JudgeConfig(cpu_s=0.2, wall_s=5.0)) as pool:
        futures = [pool.submit(problem, text, source=True) for problem, text, _ in order]
        killer = threading.Thread(target=_kill, args=(pool, rng, pause_s, stop, killed, seen))
        killer.start()
        try:
            verdicts = [future.result(timeout=300.0) for future in futures]
        finally:
            stop.set()
            killer.join()
    found = [[test.status for test in verdict.tests] for verdict in verdicts]
    delivered = [verdict.status != "internal_error" for verdict in verdicts]
    return {
        "solutions": num_solutions,
        "tests": num_solutions * TESTS_A_SOLUTION,
        "killed": dict(killed),
        "redone": pool.num_redone,
        "delivered": sum(delivered),
        "wrong": sum(
            ok and statuses != known for ok, statuses, (_, _, known) in zip(delivered, found, order, strict=True)
        ),
        "not_delivered": [verdict.detail for verdict in verdicts if verdict.status == "internal_error"],
        "statuses": dict(Counter(verdict.status for verdict in verdicts)),
        "processes_seen": len(seen),
        "processes_left": len(left(seen)),
        "unit": "solutions; redone: times that one was judged again because its worker was lost",
        "seconds": round(time.monotonic() - started_s, 1),
    }


def _kill(
    pool: JudgePool,
    rng: random.Random,
    pause_s: tuple[float, float],
    stop: threading.Event,
    killed: Counter[str],
    seen: set[int],
) -> None:
    while not stop.wait(rng.uniform(*pause_s)):
        supervisors = [pid for lane in pool._lanes if (pid := lane.pid)]  # type: ignore[attr-defined]
        for supervisor in supervisors:
            seen.update((supervisor, *descendants(supervisor)))
        zygotes = [pid for supervisor in supervisors for pid in children(supervisor)]
        kind = rng.choice(["supervisor", "zygote"])
        victims = zygotes if kind == "zygote" else supervisors
        if victims:
            try:
                os.kill(rng.choice(victims), signal.SIGKILL)
                killed[kind] += 1
            except ProcessLookupError:
                pass


def children(pid: int) -> list[int]:
    """Processes that a process started itself."""
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def descendants(pid: int) -> list[int]:
    """Children, and theirs."""
    found = children(pid)
    return found + [below for child in found for below in descendants(child)]


def left(pids: set[int], *, patience_s: float = 5.0) -> list[int]:
    """Those that are still alive after a moment: the kernel takes down a tree one process after the other."""
    end_s = time.monotonic() + patience_s
    while (found := [pid for pid in pids if alive(pid)]) and time.monotonic() < end_s:
        time.sleep(0.05)
    return found


def alive(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except OSError:
        return False


if __name__ == "__main__":
    main()
