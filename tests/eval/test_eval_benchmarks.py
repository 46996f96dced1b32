"""Public benchmarks as problems: on small files made here, and on the real ones where they are at hand."""

import ast
import gzip
import json
from collections import Counter
from pathlib import Path

import pytest

from openmimo.eval.benchmarks.asserts import unit_tests
from openmimo.eval.benchmarks.gsm8k import gsm8k
from openmimo.eval.benchmarks.humaneval import humaneval
from openmimo.eval.benchmarks.math import math
from openmimo.eval.benchmarks.mbpp import mbpp
from openmimo.judge.checkers import json_equal
from openmimo.judge.code import check_problem, judge_code
from openmimo.judge.math import quick
from openmimo.judge.sandbox.limits import Limits
from openmimo.judge.sandbox.supervisor import Sandbox
from openmimo.rows import read_rows
from openmimo.types import Problem, UnitTest

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"


def public(name: str) -> Path:
    if not (DATA / name).is_file():
        pytest.skip(f"../shared/data/{name} is not there")
    return DATA / name


def jsonl(path: Path, *content: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in content))
    return path


def carried(source: str, called: str = "f") -> tuple[UnitTest, ...]:
    return unit_tests(ast.parse(source).body, called)


def test_plain_equalities_become_json_calls() -> None:
    assert carried("assert f([1, 'a'], -2.5) == {'k': None}\nassert f() == True") == (
        UnitTest('[[1, "a"], -2.5]', '{"k": null}'),
        UnitTest("[]", "true"),
    )
    assert carried("assert f(1) == (1, [2, (3,)]), 'message'") == (UnitTest("[1]", "[1.0, [2.0, [3.0]]]"),)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("assert f((1, 2)) == 3", "argument has no JSON form"),
        ("assert f({1: 2}) == 3", "argument has no JSON form"),
        ("assert f(1) == {1, 2}", "expected value has no JSON form"),
        ("assert f(1) == 1e999", "expected value has no JSON form"),
        ("assert f(x) == 3", "argument is no literal"),
        ("assert f(1) == 2 ** 8", "expected value is no literal"),
        ("assert f(x=1) == 3", "keyword or starred"),
        ("assert f(*[1]) == 3", "keyword or starred"),
        ("assert g(1) == 3", "something other than the function's result"),
        ("assert set(f(1)) == 3", "something other than the function's result"),
        ("assert abs(f(1) - 0.5) < 1e-6", "no plain equality"),
        ("assert f(1)", "no plain equality"),
        ("assert 1 == f(1) == 1", "no plain equality"),
        ("for x in range(3): assert f(x) == x", "no assert: For"),
        ("", "no assert at all"),
    ],
)
def test_what_json_cannot_say_is_left_out_with_its_reason(source: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        carried(source)


def test_a_whole_number_may_come_back_as_a_float_as_python_has_it(tmp_path: Path) -> None:
    big = 10**17 + 1
    tests = carried(f"assert f(0) == 240\nassert f(1) == [True, {{'k': 1}}]\nassert f(2) == {big}")
    assert [t.expected for t in tests] == ["240.0", '[true, {"k": 1.0}]', str(big)]
    assert [json_equal(got, tests[0].expected) for got in ("240", "240.0", "240.1", "true")] == [
        True,
        True,
        False,
        False,
    ]
    assert not json_equal(str(big - 1), tests[2].expected)


def test_nothing_of_a_benchmarks_file_is_run(tmp_path: Path) -> None:
    flag = tmp_path / "ran"
    bad = f"assert f(open({str(flag)!r}, 'w')) == 1"
    row = {"text": "t", "code": "", "task_id": 11, "test_list": [bad]}
    assert mbpp(jsonl(tmp_path / "m.jsonl", row)).left_out == {"mbpp/11": "argument is no literal"}
    assert not flag.exists()


def test_a_problem_is_taken_whole_or_left_out(tmp_path: Path) -> None:
    row = {"text": "Add.", "code": "def f(x):\r\n return x", "task_id": 11, "test_list": ["assert f(1) == 1"]}
    rows_ = (
        row,
        {**row, "task_id": 12, "test_list": ["assert f(1) == 1", "assert f((1,)) == 1"]},
        {**row, "task_id": 9},
    )
    loaded = mbpp(jsonl(tmp_path / "m.jsonl", *rows_))
    assert [p.id for p in loaded.problems] == ["mbpp/11"] and list(loaded.left_out) == ["mbpp/12"]
    assert loaded.problems[0].entry_point == "f" and "\r" not in loaded.problems[0].solution
    assert "assert f(1) == 1" in loaded.problems[0].prompt and loaded.problems[0].prompt.startswith("Add.")


def test_files_that_are_wrong_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="does not exist"):
        gsm8k(tmp_path / "none.jsonl")
    with pytest.raises(ValueError, match=r"a\.jsonl:2 lacks 'answer'; it has question"):
        gsm8k(jsonl(tmp_path / "a.jsonl", {"question": "q", "answer": "#### 1"}, {"question": "q"}))
    with pytest.raises(ValueError, match="row 0: the answer must end in '#### N'"):
        gsm8k(jsonl(tmp_path / "b.jsonl", {"question": "q", "answer": "1"}))
    with pytest.raises(ValueError, match="row 0 has no answer"):
        math(jsonl(tmp_path / "c.jsonl", {"problem": "p", "solution": "s"}))
    (tmp_path / "d.gz").write_bytes(gzip.compress(b'{"a": 1}\n')[:-9])
    with pytest.raises(ValueError, match="no whole gzip file"):
        list(read_rows(tmp_path / "d.gz", ()))
    (tmp_path / "e.jsonl").write_text('{"a": "x\u2028y"}\n[1]\n')
    with pytest.raises(ValueError, match=r"e\.jsonl:2 is a list"):
        list(read_rows(tmp_path / "e.jsonl", ()))


def test_gsm8k_whole() -> None:
    problems = gsm8k(public("gsm8k/test.jsonl"))
    assert len(problems) == 1319 and problems[0].answer == "18"
    assert all(float(p.answer) == int(p.answer) for p in problems)
    assert problems[0].prompt.endswith("\\boxed{}.") and len({p.id for p in problems}) == 1319


def test_math500_whole() -> None:
    problems = math(public("math/math500.jsonl"))
    assert len(problems) == 500 and problems[0].answer == "\\left( 3, \\frac{\\pi}{2} \\right)"
    assert all(quick(p.answer, p.answer) for p in problems)


def test_math_without_answers_takes_the_solutions_last_box() -> None:
    problems = math(public("math/math_test_5000.jsonl.gz"), name="math")
    assert len(problems) == 5000 and problems[0].answer == "2" and all(p.answer for p in problems)


def judged(problem: Problem, sandbox: Sandbox) -> str:
    text = f"```python\n{problem.solution}\n```"
    return judge_code(problem, text, sandbox, share_process=True).status


def test_humaneval_carries_most_problems_and_their_own_solutions_pass() -> None:
    loaded = humaneval(public("humaneval/HumanEval.jsonl.gz"))
    assert len(loaded.problems) + len(loaded.left_out) == 164
    assert len(loaded.problems) >= 110, Counter(loaded.left_out.values())
    for problem in loaded.problems:
        check_problem(problem)
    with Sandbox(Limits(cpu_s=2.0, wall_s=6.0)) as sandbox:
        assert [p.id for p in loaded.problems[:40] if judged(p, sandbox) != "accepted"] == []


def test_mbpp_carries_most_problems_and_their_own_solutions_pass() -> None:
    loaded = mbpp(public("mbpp/mbpp.jsonl"))
    assert len(loaded.problems) + len(loaded.left_out) == 500
    assert len(loaded.problems) >= 300, Counter(loaded.left_out.values())
    for problem in loaded.problems:
        check_problem(problem)
    with Sandbox(Limits(cpu_s=2.0, wall_s=6.0)) as sandbox:
        assert [p.id for p in loaded.problems[:40] if judged(p, sandbox) != "accepted"] == []
