"""Claim: a busy machine does not change verdicts, and no wrong program is accepted.

    python benchmarks/judge_flips.py [benchmarks/results/judge_flips.json] [--tests 12] [--mutants 50] [--problems N]

Programs: the canonical solutions of HumanEval and MBPP with their asserts, and the solutions of ten code-contests
problems in `judge_solutions/`, each with 50 mutants (`judge_mutants.py`). A pair is a solution and a test. The truth is
a plain Python process a pair, with generous limits, whose tokens are compared. Then the judge sees all pairs twice: on
the machine as it is, and beside four busy processes a core. A mutant may use one CPU second a test, the solutions two,
the asserts eight: one of MBPP's needs three. A flip is a pair whose status differs between the two; one whose status
was inferred by the fuse in either is counted apart. Needs ../shared. About 8 minutes on two quiet cores.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import record  # noqa: E402
from judge_mutants import mutants  # noqa: E402

from openmimo.judge.pool import JudgeConfig, JudgePool  # noqa: E402
from openmimo.types import Problem, TestResult, UnitTest  # noqa: E402

DATA = ROOT.parent / "shared" / "data"
CONFIG = JudgeConfig()
MUTANT_LIMITS = {"cpu_s": 1.0}
ASSERT_LIMITS = {"cpu_s": 8.0}
BUSY_PER_CORE = 4
SEED = 7
ORACLE_CPU_S, ORACLE_WALL_S, ORACLE_BYTES = 10, 120, 1 << 30
MOST_SLOW = 2
"""Tests in a row that the oracle waits for in vain; it calls the rest slow without running them."""


@dataclass(frozen=True)
class Case:
    """A program and the problem that it is judged on."""

    origin: str
    """`humaneval`, `mbpp`, `contests`, `contests in C++` or `mutants`."""
    problem: Problem
    source: str

    @property
    def text(self) -> str:
        return f"```{self.problem.language}\n{self.source}\n```"


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("result", nargs="?", help="where the JSON goes")
    options.add_argument("--tests", type=int, default=12, help="tests a mutant")
    options.add_argument("--mutants", type=int, default=50, help="mutants a contests problem")
    options.add_argument("--problems", type=int, help="take only the first N of each source")
    given = options.parse_args()
    cores = len(os.sched_getaffinity(0))
    cases = contests(given.tests, given.mutants, given.problems) + humaneval(given.problems) + mbpp(given.problems)
    started_s = time.monotonic()
    truths = run_oracle(cases, cores)
    oracle_s = time.monotonic() - started_s
    with JudgePool(cores, CONFIG) as pool:
        idle, idle_s = judge_all(pool, cases)
        with busy(BUSY_PER_CORE * cores):
            overloaded, overloaded_s = judge_all(pool, cases)
    figures = {
        "wall_s": {
            "oracle": round(oracle_s, 1),
            "judge, idle": round(idle_s, 1),
            "judge, overloaded": round(overloaded_s, 1),
        },
        **compare(cases, truths, idle, overloaded),
    }
    claim = "flips at most 0.1 % of pairs between idle and 4x overload; canonical 100 % accepted; no false accept"
    record.write(claim, "python benchmarks/judge_flips.py", figures)


# Programs


def contests(num_tests: int, num_mutants: int, limit: int | None = None) -> list[Case]:
    """Our solutions with all tests, in C++ too where there is a compiler; mutants with some of the tests."""
    rng = random.Random(SEED)
    rows = read_rows(DATA / "code" / "code_contests_20.jsonl.gz")
    with_cpp = shutil.which("g++") is not None
    cases: list[Case] = []
    for path in sorted((ROOT / "benchmarks" / "judge_solutions").glob("*.py"))[:limit]:
        row = rows[int(path.stem[1:3])]
        given = json.loads(row["test"]) if isinstance(row["test"], str) else row["test"]
        tests = tuple(UnitTest(test["input"]["stdin"], test["output"]["stdout"]) for test in given)
        source = path.read_text(encoding="utf-8")
        cases.append(Case("contests", Problem(path.stem, "", "code", tests=tests), source))
        if with_cpp and path.with_suffix(".cpp").is_file():
            problem = Problem(f"{path.stem}, C++", "", "code", tests=tests, language="cpp")
            cases.append(Case("contests in C++", problem, path.with_suffix(".cpp").read_text(encoding="utf-8")))
        for number, mutant in enumerate(mutants(source, num_mutants, rng)):
            some = tuple(tests[i] for i in sorted(rng.sample(range(len(tests)), min(num_tests, len(tests)))))
            cases.append(
                Case("mutants", Problem(f"{path.stem}-{number}", "", "code", tests=some, limits=MUTANT_LIMITS), mutant)
            )
    return cases


def humaneval(limit: int | None = None) -> list[Case]:
    """A problem's `check` is one test."""
    cases = []
    for row in read_rows(DATA / "humaneval" / "HumanEval.jsonl.gz")[:limit]:
        test = UnitTest("", "", assertion=f"{row['test']}\ncheck({row['entry_point']})")
        problem = Problem(row["task_id"], "", "code", tests=(test,), limits=ASSERT_LIMITS)
        cases.append(Case("humaneval", problem, row["prompt"] + row["canonical_solution"]))
    return cases


def mbpp(limit: int | None = None) -> list[Case]:
    cases = []
    for row in read_rows(DATA / "mbpp" / "mbpp.jsonl")[:limit]:
        tests = tuple(UnitTest("", "", assertion=f"{row['test_setup_code']}\n{line}") for line in row["test_list"])
        problem = Problem(f"MBPP/{row['task_id']}", "", "code", tests=tests, limits=ASSERT_LIMITS)
        cases.append(Case("mbpp", problem, row["code"].replace("\r\n", "\n")))
    return cases


def read_rows(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        raise SystemExit(f"judge_flips needs {path}, which is not there")
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return [json.loads(line) for line in data.decode().split("\n") if line.strip()]


# The slow obvious way


def run_oracle(cases: Sequence[Case], num_workers: int) -> list[list[str]]:
    """`right`, `wrong` or `slow` for each test of each case."""
    with ThreadPoolExecutor(num_workers) as executor, tempfile.TemporaryDirectory() as folder:
        return list(executor.map(lambda job: ask_oracle(job[1], Path(folder, str(job[0]))), enumerate(cases)))


def ask_oracle(case: Case, folder: Path) -> list[str]:
    folder.mkdir()
    command = [sys.executable, "-S", str(folder / "solution.py")]
    if case.problem.language == "cpp":
        (folder / "solution.cpp").write_text(case.source, encoding="utf-8")
        subprocess.run(["g++", "-O2", "-std=c++17", "-o", folder / "solution", folder / "solution.cpp"], check=True)
        command = [str(folder / "solution")]
    truths: list[str] = []
    for test in case.problem.tests:
        if truths[-MOST_SLOW:] == ["slow"] * MOST_SLOW:
            truths.append("slow")
            continue
        if case.problem.language == "python":
            (folder / "solution.py").write_text(f"{case.source}\n{test.assertion}\n", encoding="utf-8")
        truths.append(run_once(command, test, folder / "output"))
    return truths


def run_once(command: Sequence[str], test: UnitTest, output: Path) -> str:
    """One plain process, its output in a file."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_CPU, (ORACLE_CPU_S, ORACLE_CPU_S))
        resource.setrlimit(resource.RLIMIT_AS, (ORACLE_BYTES, ORACLE_BYTES))
        resource.setrlimit(resource.RLIMIT_FSIZE, (ORACLE_BYTES >> 5, ORACLE_BYTES >> 5))

    with open(output, "w+b") as stdout:
        try:
            process = subprocess.run(
                command,
                input=test.input.encode(),
                stdout=stdout,
                stderr=subprocess.DEVNULL,
                env={"PYTHONHASHSEED": "0", "PATH": os.environ["PATH"]},
                timeout=ORACLE_WALL_S,
                preexec_fn=limit,
            )
        except subprocess.TimeoutExpired:
            return "slow"
        if process.returncode in (-signal.SIGKILL, -signal.SIGXCPU):
            return "slow"
        stdout.seek(0)
        same = bool(test.assertion) or stdout.read().split() == test.expected.encode().split()
    return "right" if process.returncode == 0 and same else "wrong"


# The judge, and what differs


def judge_all(pool: JudgePool, cases: Sequence[Case]) -> tuple[list[Sequence[TestResult]], float]:
    """Results of every case, and the wall seconds for all."""
    started_s = time.monotonic()
    futures = [pool.submit(case.problem, case.text) for case in cases]
    return [future.result().tests for future in futures], time.monotonic() - started_s


@contextmanager
def busy(count: int) -> Iterator[None]:
    """So many processes that do nothing but use a core."""
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def compare(
    cases: Sequence[Case],
    truths: Sequence[Sequence[str]],
    idle: Sequence[Sequence[TestResult]],
    overloaded: Sequence[Sequence[TestResult]],
) -> dict[str, Any]:
    """Counts of pairs by what happened to them, and each pair that is not as it should be."""
    pairs: Counter[str] = Counter()
    origins: Counter[str] = Counter()
    canonical: Counter[str] = Counter()
    statuses: Counter[str] = Counter()
    flips, false_accepts, false_rejects = [], [], []
    for case, truth, calm, pressed in zip(cases, truths, idle, overloaded, strict=True):
        for number, (right, one, other) in enumerate(zip(truth, calm, pressed, strict=True)):
            name = f"{case.problem.id}, test {number}"
            origins[case.origin] += 1
            pairs["all"] += 1
            statuses[one.status] += 1
            for result in (one, other):
                if result.status == "accepted" and right != "right":
                    false_accepts.append(f"{name}: the oracle says {right}")
                if result.status != "accepted" and right == "right":
                    false_rejects.append(f"{name}: {result.status}, {result.cpu_s:.2f} CPU s")
            if case.origin != "mutants":
                canonical["all"] += 1
                canonical["accepted"] += one.status == other.status == "accepted"
                canonical["right to the oracle"] += right == "right"
            if one.inferred or other.inferred:
                pairs["inferred"] += 1
            elif one.status != other.status:
                flips.append(
                    f"{name}: {one.status} ({one.cpu_s:.2f} CPU s) -> {other.status} ({other.cpu_s:.2f} CPU s)"
                )
    seen = [case for case in cases if case.origin == "mutants"]
    alive = [t for case, t in zip(cases, truths, strict=True) if case.origin == "mutants" and set(t) == {"right"}]
    judged = pairs["all"] - pairs["inferred"]
    return {
        "holds": {
            "at least 5,000 pairs": judged >= 5000,
            "flips": len(flips) <= judged / 1000,
            "canonical": canonical["accepted"] == canonical["right to the oracle"],
            "no false accept": not false_accepts,
        },
        "figures": {
            "unit": "pairs of a solution and a test",
            "pairs": dict(pairs),
            "by origin": dict(origins),
            "flips": len(flips),
            "flips, percent": round(100 * len(flips) / max(1, judged), 4),
            "canonical": dict(canonical),
            "false accepts": len(false_accepts),
            "rejected though right": len(false_rejects),
            "statuses, idle": dict(statuses),
            "mutants": {"all": len(seen), "as good as the original on their tests": len(alive)},
        },
        "flips": flips,
        "false accepts": false_accepts,
        "rejected though right": false_rejects[:50],
    }


if __name__ == "__main__":
    main()
