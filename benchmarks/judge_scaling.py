"""Claims: two cores judge nearly twice as much as one, and the judge's whole process tree stays under 1.5 GiB on two.

    python benchmarks/judge_scaling.py [benchmarks/results/judge_scaling.json]

Speed: 60 solutions of 40 tests, right and wrong, trivial programs and some that compute for about 5 ms; the same work
through a pool of one worker held to one core and through a pool of two on two, in turn, wall time from the first
submission to the last verdict. Beside it, in the same rounds, what the machine itself gives: two processes that start
1,000 small Python children each by fork, on one core and on two. Memory: while two workers judge Python, NumPy, C++ and
mathematics at once, among them programs that fill their limit of 256 MiB, the sum of the proportional set sizes of
every process below the caller, read 20 times a second; the caller itself is left out.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import record

from openmimo.judge.pool import JudgeConfig, JudgePool
from openmimo.types import Problem, UnitTest

NUM_ROUNDS = 5
SUM = "a, b = map(int, input().split())\n"
SOLUTIONS = [
    SUM + "print(a + b)",
    SUM + "print(a + b if a % 7 else a)",
    SUM + "print(sum(i % 3 for i in range(60_000)) * 0 + a + b)",
]
PROBLEM = Problem("sum", "", "code", tests=tuple(UnitTest(f"{n} {n}\n", f"{2 * n}\n") for n in range(40)))
CPP = "#include <bits/stdc++.h>\nint main() { long a, b; std::cin >> a >> b; std::cout << a + b; }"
HOG = "x = bytearray(10)\nwhile True: x += bytes(1 << 20)"


def main() -> None:
    cores = sorted(os.sched_getaffinity(0))
    times: dict[int, list[float]] = {1: [], 2: []}
    floor: dict[int, list[float]] = {1: [], 2: []}
    for number in range(-1, NUM_ROUNDS):
        for count in times:
            wall_s, floor_s = judged(cores[:count]), forked(cores[:count])
            if number >= 0:
                times[count].append(wall_s)
                floor[count].append(floor_s)
    os.sched_setaffinity(0, cores)
    figures = {
        "wall_s": {f"{count} core{'s' * (count > 1)}": record.spread(values, "s") for count, values in times.items()},
        "speed of two cores / speed of one": record.spread(
            [one / two for one, two in zip(times[1], times[2], strict=True)]
        ),
        "the same of processes that only fork": record.spread(
            [one / two for one, two in zip(floor[1], floor[2], strict=True)]
        ),
        "peak_bytes_of_the_tree": peak_bytes(),
        "unit": "bytes, sum of proportional set sizes",
    }
    record.write(
        "two cores against one, and the memory of the whole tree", "python benchmarks/judge_scaling.py", figures
    )


def judged(cores: list[int]) -> float:
    """Wall seconds for all solutions, workers warm."""
    os.sched_setaffinity(0, cores)
    with JudgePool(len(cores)) as pool:
        warm = [pool.submit(PROBLEM, fenced(SOLUTIONS[0])) for _ in range(4 * len(cores))]
        assert all(future.result().status == "accepted" for future in warm)
        started_s = time.perf_counter()
        futures = [pool.submit(PROBLEM, fenced(SOLUTIONS[n % len(SOLUTIONS)])) for n in range(60)]
        statuses = [future.result().status for future in futures]
        wall_s = time.perf_counter() - started_s
    assert statuses == ["accepted", "wrong_answer", "accepted"] * 20, statuses
    return wall_s


FORK = """import os, decimal, random
for _ in range(1000):
    pid = os.fork()
    if pid == 0:
        sum(range(2000))
        os._exit(0)
    os.waitpid(pid, 0)
"""


def forked(cores: list[int]) -> float:
    """Wall seconds of two processes that fork and wait."""
    os.sched_setaffinity(0, cores)
    started_s = time.perf_counter()
    processes = [subprocess.Popen([sys.executable, "-c", FORK]) for _ in range(2)]
    assert all(process.wait() == 0 for process in processes)
    return time.perf_counter() - started_s


def peak_bytes() -> int:
    most = 0
    done = threading.Event()

    def watch() -> None:
        nonlocal most
        while not done.wait(0.05):
            most = max(most, sum(map(tree_bytes, record.children(os.getpid()))))

    with JudgePool(2, JudgeConfig(num_workers=2)) as pool:
        watcher = threading.Thread(target=watch)
        watcher.start()
        futures = []
        for _ in range(6):
            futures += [
                pool.submit(PROBLEM, fenced(SOLUTIONS[0])),
                pool.submit(PROBLEM, fenced("import numpy\n" + HOG)),
            ]
            futures += [pool.submit(PROBLEM, fenced(HOG)), pool.submit(Problem("m", "", "math", "1/3"), "\\boxed{2/6}")]
            if shutil.which("g++"):
                cpp = Problem("c", "", "code", tests=PROBLEM.tests, language="cpp")
                futures.append(pool.submit(cpp, fenced(CPP)))
        statuses = {future.result().status for future in futures}
        done.set()
        watcher.join()
    assert statuses == {"accepted", "memory_limit"}, statuses
    return most


def tree_bytes(pid: int) -> int:
    """Proportional set size of a process and its descendants; one that has just ended counts nothing."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().split("\n")
        own = next(int(line.split()[1]) << 10 for line in lines if line.startswith("Pss:"))
        return own + sum(map(tree_bytes, record.children(pid)))
    except (OSError, StopIteration):
        return 0


def fenced(source: str) -> str:
    return f"```\n{source}\n```"


if __name__ == "__main__":
    main()
