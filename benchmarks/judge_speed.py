"""Claim: a test costs the judge a small part of what a Python process a test costs, isolation included.

    python benchmarks/judge_speed.py [benchmarks/results/judge_speed.json]

The program reads two numbers and prints their sum, once without and once with `import numpy`. In turn, every round:
`judge_code` on a problem of 200 tests, isolated; the same fork-server with every layer of isolation off; and
`subprocess.run([python, solution.py])` a test, the judge most people write, at its best too (`-I -S -E`, which is no
choice for NumPy). CPU time of everything: caller, zygote, hosts, tests, whatever was waited for. Zygotes are warm, as
they are after a judge's first test; the cost of opening a solution is in.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import record

from openmimo.judge.code import judge_code
from openmimo.judge.sandbox.limits import Limits
from openmimo.judge.sandbox.supervisor import Sandbox
from openmimo.types import Problem, UnitTest

NUM_ROUNDS = 7
NUM_TESTS = 200
NUM_PROCESSES = 20
SUM = "a, b = map(int, input().split())\nprint(a + b)\n"
PROGRAMS = {"trivial": SUM, "numpy": "import numpy as np\n" + SUM}
PROBLEM = Problem("sum", "", "code", tests=tuple(UnitTest(f"{n} {n}\n", f"{2 * n}\n") for n in range(NUM_TESTS)))


def main() -> None:
    figures = {}
    for name, source in PROGRAMS.items():
        cost = measure(source, plain_peer=name == "trivial")
        judge = cost["judge"]
        figures[name] = {
            "cpu_ms_a_test": {who: record.spread(values, "ms") for who, values in cost.items()},
            "ratios": {
                f"{who} / judge": record.spread([a / b for a, b in zip(values, judge, strict=True)])
                for who, values in cost.items()
                if who.startswith("subprocess")
            },
            "judge / judge without isolation": record.spread(
                [a / b for a, b in zip(judge, cost["judge without isolation"], strict=True)]
            ),
        }
    record.write("CPU time a test against a Python process a test", "python benchmarks/judge_speed.py", figures)


def measure(source: str, *, plain_peer: bool) -> dict[str, list[float]]:
    """CPU milliseconds a test by judge, one value a round."""
    with (
        tempfile.TemporaryDirectory() as folder,
        Sandbox(Limits()) as isolated,
        Sandbox(Limits(), bare=True) as bare,
    ):
        path = Path(folder) / "solution.py"
        path.write_text(source)
        judges: dict[str, Callable[[], float]] = {
            "judge": lambda: judged(source, isolated),
            "judge without isolation": lambda: judged(source, bare),
            "subprocess python": lambda: started([sys.executable, str(path)]),
        }
        if plain_peer:
            judges["subprocess python -I -S -E"] = lambda: started([sys.executable, "-I", "-S", "-E", str(path)])
        times: dict[str, list[float]] = {name: [] for name in judges}
        for number in range(-1, NUM_ROUNDS):
            for name, run in judges.items():
                cost_ms = run()
                if number >= 0:
                    times[name].append(cost_ms)
        return times


def judged(source: str, sandbox: Sandbox) -> float:
    began = cpu_s(sandbox)
    verdict = judge_code(PROBLEM, source, sandbox, source=True)
    assert verdict.status == "accepted" and len(verdict.tests) == NUM_TESTS, verdict.detail
    return (cpu_s(sandbox) - began) / NUM_TESTS * 1e3


def cpu_s(sandbox: Sandbox) -> float:
    """Of this process and of the zygotes with everything below them."""
    zygotes = [zygote._process.pid for zygote in sandbox._zygotes.values() if zygote._process is not None]
    return time.process_time() + sum(record.tree_cpu_s(pid) for pid in zygotes)


def started(command: list[str]) -> float:
    import resource

    def used() -> float:
        done = resource.getrusage(resource.RUSAGE_CHILDREN)
        return time.process_time() + done.ru_utime + done.ru_stime

    began = used()
    for number in range(NUM_PROCESSES):
        done = subprocess.run(command, input=f"{number} {number}\n", capture_output=True, text=True, check=True)
        assert done.stdout == f"{2 * number}\n"
    return (used() - began) / NUM_PROCESSES * 1e3


if __name__ == "__main__":
    main()
