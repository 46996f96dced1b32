"""A busy machine changes no verdict, and the judge agrees with a plain Python process: the benchmark, made small."""

from __future__ import annotations

import random
import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

from judge_flips import CONFIG, Case, ask_oracle, busy, compare, judge_all
from judge_mutants import mutants

from openmimo.judge.pool import JudgePool
from openmimo.types import Problem, TestResult, UnitTest

DIVISORS = """
n = int(input())
total = 0
for k in range(1, n + 1):
    if n % k == 0:
        total += k
print(total)
"""
LONGEST = """
best = 0
run = 0
last = None
for word in input().split():
    if word == last:
        run += 1
    else:
        run = 1
    best = max(best, run)
    last = word
print(best)
"""
TESTS = {
    DIVISORS: (UnitTest("6\n", "12\n"), UnitTest("1\n", "1\n"), UnitTest("28\n", "56\n")),
    LONGEST: (UnitTest("a a b\n", "2\n"), UnitTest("\n", "0\n"), UnitTest("x y y y x\n", "3\n")),
}


def test_mutants_are_different_programs_and_the_same_for_the_same_seed() -> None:
    found = mutants(DIVISORS, 20, random.Random(3))
    assert len(set(found)) == 20
    assert found == mutants(DIVISORS, 20, random.Random(3))
    assert DIVISORS.strip() not in {text.strip() for text in found}


def test_verdicts_agree_with_a_plain_process_also_on_a_busy_machine(tmp_path: Path) -> None:
    cases = []
    for number, (source, tests) in enumerate(TESTS.items()):
        problem = Problem(str(number), "", "code", tests=tests)
        cases.append(Case("contests", problem, source))
        for mutant in mutants(source, 8, random.Random(5)):
            cases.append(Case("mutants", problem, mutant))
    truths = [ask_oracle(case, tmp_path / str(number)) for number, case in enumerate(cases)]
    with JudgePool(2, replace(CONFIG, cpu_s=0.5)) as pool:
        idle, _ = judge_all(pool, cases)
        with busy(4):
            overloaded, _ = judge_all(pool, cases)
    found = compare(cases, truths, idle, overloaded)
    assert {truth for row in truths for truth in row} >= {"right", "wrong"}
    assert (found["flips"], found["false accepts"], found["rejected though right"]) == ([], [], [])
    assert found["figures"]["canonical"] == {"all": 6, "accepted": 6, "right to the oracle": 6}


def test_a_flip_and_a_false_accept_are_found() -> None:
    case = Case("mutants", Problem("p", "", "code", tests=TESTS[DIVISORS][:2]), "pass")
    right, wrong, late = TestResult("accepted"), TestResult("wrong_answer"), TestResult("time_limit", inferred=True)
    found = compare([case], [["right", "wrong"]], [(right, wrong)], [(wrong, right)])
    assert found["figures"]["flips"] == 2 and found["figures"]["false accepts"] == 1
    assert len(found["rejected though right"]) == 1
    found = compare([case], [["right", "slow"]], [(right, late)], [(right, wrong)])
    assert found["figures"]["flips"] == 0 and found["figures"]["pairs"]["inferred"] == 1
