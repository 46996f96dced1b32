"""Programs against tests: extraction, verdicts, limits, functions."""

import gzip
import json
from pathlib import Path

import pytest

from openmimo.judge.code import extract_code, judge_code
from openmimo.judge.sandbox.limits import Limits, Run, failure
from openmimo.judge.sandbox.supervisor import CompileError, Sandbox, SandboxLost
from openmimo.types import Problem, UnitTest

CONTESTS = Path(__file__).resolve().parents[3] / "shared" / "data" / "code" / "code_contests_20.jsonl.gz"
SUM = Problem("sum", "", "code", tests=(UnitTest("1 2\n", "3\n"), UnitTest("5 5\n", "10\n")))


def function_problem(entry_point, *pairs):
    tests = tuple(UnitTest(json.dumps(arguments), json.dumps(result)) for arguments, result in pairs)
    return Problem(entry_point, "", "code", tests=tests, entry_point=entry_point)


ADD = function_problem("add", ([1, 2], 3), ([5, 5], 10), ([-1, 1], 0))


@pytest.fixture(scope="module")
def sandbox():
    with Sandbox(Limits(cpu_s=0.5, wall_s=1.5)) as sandbox:
        yield sandbox


def fenced(code):
    return f"Here it is.\n```python\n{code}\n```\n"


def statuses(verdict):
    return [result.status for result in verdict.tests]


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("```python\nx = 1\n```", "x = 1"),
        ("```\na\n```\ntext\n```py\nb\n\nc\n```\n", "b\n\nc"),
        ("<think>\n```python\nwrong\n```\n</think>\nno code", None),
        ("<think>\n```python\nopen", None),
        ("```python\nx = 1\n```\nand\n```python\ny = ", "x = 1"),
        ("````python\ns = '''\n```\n'''\n````", "s = '''\n```\n'''"),
        ("~~~\nx\n~~~", "x"),
        ("```python\r\nx = 1\r\n```", "x = 1\r"),
        ("no code", None),
    ],
)
def test_the_last_closed_block_after_the_thinking_is_the_program(text, code):
    assert extract_code(text) == code


def test_a_program_is_judged_test_by_test(sandbox):
    verdict = judge_code(SUM, fenced("a, b = map(int, input().split())\nprint(3)"), sandbox)
    assert statuses(verdict) == ["accepted", "wrong_answer"]
    assert (verdict.status, verdict.detail) == ("wrong_answer", "test 1: 3")
    assert all(0 < result.cpu_s < 0.5 and result.peak_bytes > 1 << 20 for result in verdict.tests)


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("while True: pass", "time_limit"),
        ("import time; time.sleep(9)", "time_limit"),
        ("import signal\nsignal.setitimer(signal.ITIMER_PROF, 0)\nwhile True: pass", "time_limit"),
        ("x = bytearray(10**10)", "memory_limit"),
        (
            "x = bytes(280 << 20).replace(b'\\0', b'x')\nprint(sum(map(int, input().split())))",
            "memory_limit",
        ),
        ("while True: print('x' * 10000)", "output_limit"),
        ("1 / 0", "runtime_error"),
        ("import os; os.abort()", "runtime_error"),
        ("print(3", "compile_error"),
        ("x = '\x00'", "compile_error"),
        ("(" * 5000 + ")" * 5000, "compile_error"),
        ("import openmimo", "runtime_error"),
        ("import socket\nsocket.create_connection(('1.1.1.1', 53), timeout=1)", "runtime_error"),
        ("exit('3')", "runtime_error"),
    ],
)
def test_each_way_to_fail_has_its_name(code, status, sandbox):
    problem = Problem("one", "", "code", tests=SUM.tests[:1])
    assert judge_code(problem, fenced(code), sandbox).status == status


@pytest.mark.parametrize(
    "code",
    [
        "import atexit\natexit.register(lambda: print(sum(map(int, input().split()))))",
        "import threading\nthreading.stack_size(128 << 20)\n"
        "def f(n): return 0 if n == 0 else 1 + f(n - 1)\n"
        "import sys; sys.setrecursionlimit(10**6)\n"
        "def main():\n    f(50000); print(sum(map(int, input().split())))\n"
        "threading.Thread(target=main).start()",
        "import sys\nsys.stdout.write(str(sum(map(int, sys.stdin.buffer.read().split()))))",
        "import email.mime.text\nprint(sum(map(int, open(0).read().split())))",
        "if __name__ == '__main__':\n    print(sum(map(int, input().split())))",
        "from dataclasses import dataclass\n@dataclass\nclass P:\n    x: int\nprint(sum(map(int, input().split())))",
        "import sys, pickle\nclass P: pass\npickle.loads(pickle.dumps(P()))\nprint(sum(map(int, input().split())))",
    ],
)
def test_honest_programs_are_accepted(code, sandbox):
    assert judge_code(SUM, fenced(code), sandbox).status == "accepted"


def test_no_program_is_wrong_on_every_test(sandbox):
    verdict = judge_code(SUM, "I do not know.", sandbox)
    assert (verdict.status, verdict.detail) == ("wrong_answer", "no code block")
    assert statuses(verdict) == ["wrong_answer", "wrong_answer"]


@pytest.mark.parametrize("share_process", [False, True])
@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("def add(a, b):\n    print('noise')\n    return a + b", ["accepted"] * 3),
        ("class Solution:\n    def add(self, a, b):\n        return a + b", ["accepted"] * 3),
        ("def add(a, b):\n    return 3", ["accepted", "wrong_answer", "wrong_answer"]),
        ("def add(a, b):\n    return a + b if a != 5 else 1 / 0", ["accepted", "runtime_error", "accepted"]),
        ("def add(a, b):\n    while a == 5: pass\n    return a + b", ["accepted", "time_limit", "accepted"]),
        ("def add(a, b):\n    return {1, 2}", ["wrong_answer"] * 3),
        ("def add(a, b):\n    return float(a + b)", ["wrong_answer"] * 3),
        ("def sub(a, b):\n    return a - b", ["runtime_error"] * 3),
        ("class E:\n    __eq__ = lambda s, o: True\ndef add(a, b): return E()", ["wrong_answer"] * 3),
        ("import os\ndef add(a, b):\n    os.write(1, b'3\\n')\n    os._exit(0)", None),
        ("def add(a, b):\n    import sys; sys.exit(0)", ["wrong_answer"] * 3),
        ("import os\nos.write(1, b'3\\n10\\n0\\n' * 9)\ndef add(a, b): return a + b", ["wrong_answer"] * 3),
    ],
)
def test_functions_are_called_with_json(code, expected, share_process, sandbox):
    verdict = judge_code(ADD, fenced(code), sandbox, share_process=share_process)
    # Writing "3" and leaving is the same as returning 3: no more than a constant function earns.
    assert statuses(verdict) == (expected or ["accepted", "wrong_answer", "wrong_answer"])


def test_bool_is_not_int_and_tuples_are_lists(sandbox):
    problem = function_problem("f", ([1], [True, [1, 2], None, "x"]))
    right = "def f(x):\n    return (x == 1, (1, 2), None, 'x')"
    wrong = "def f(x):\n    return (1, (1, 2), None, 'x')"
    assert judge_code(problem, fenced(right), sandbox).status == "accepted"
    assert judge_code(problem, fenced(wrong), sandbox).status == "wrong_answer"


def test_a_problem_that_cannot_be_judged_is_refused(sandbox):
    with pytest.raises(ValueError, match="code problem 'p' has no tests"):
        judge_code(Problem("p", "", "code"), fenced("x"), sandbox)
    with pytest.raises(ValueError, match=r"input must be a JSON list, got '1'"):
        judge_code(Problem("p", "", "code", tests=(UnitTest("1", "1"),), entry_point="f"), fenced("x"), sandbox)


def test_what_a_program_sees_is_bare(sandbox):
    with sandbox.open(
        b"import os, sys\nprint(os.listdir('/'), dict(os.environ), os.getuid() != 0, os.path.exists('/proc'))"
    ) as program:
        run = program.run(b"")
    entries, rest = run.output.decode().split("]", 1)
    assert "tmp" not in entries and "work" not in entries
    assert rest.split() == ["{}", "True", "False"]


def test_set_order_is_the_same_in_every_zygote():
    outputs = []
    for _ in range(2):
        with Sandbox(Limits()) as sandbox:
            program = sandbox.open(b"import random\nprint(list({'a', 'b', 'c', 'd', 'e', 'f'}), random.random())")
            outputs += [program.run(b"").output, program.run(b"").output]
    # Sets have one order; random starts anew from a state that is the zygote's own.
    assert len({output.split(b"]")[0] for output in outputs}) == 1
    assert outputs[0] == outputs[1]


def test_a_killed_zygote_is_replaced(sandbox):
    sandbox.start()
    sandbox._zygotes["base"]._process.kill()
    sandbox._zygotes["base"]._process.wait()
    with pytest.raises(SandboxLost):
        judge_code(SUM, fenced("print(3)"), sandbox)
    assert statuses(judge_code(SUM, fenced("print(3)"), sandbox)) == ["accepted", "wrong_answer"]


def test_a_syntax_error_says_where(sandbox):
    with pytest.raises(CompileError, match=r"SyntaxError.*line 2"):
        sandbox.open(b"x = 1\ny = = 2")


def test_failure_reads_facts_in_a_fixed_order():
    limits = Limits(cpu_s=1.0, memory_bytes=100, output_bytes=10)

    def status(**facts):
        run = {"wait_status": 0, "cpu_s": 0.1, "wall_s": 0.1, "peak_bytes": 1, "timed_out": False}
        return failure(Run(**{**run, "output": b"", "error": b"", **facts}), limits)

    assert status() is None
    assert status(output=b"x" * 11, timed_out=True) == "output_limit"
    assert status(output=b"x" * 10) is None
    assert status(timed_out=True, peak_bytes=101) == "time_limit"
    assert status(cpu_s=1.0, wait_status=9) == "time_limit"
    assert status(peak_bytes=101, wait_status=1 << 8) == "memory_limit"
    assert status(wait_status=97 << 8) == "memory_limit"
    assert status(wait_status=11) == "runtime_error"
    with pytest.raises(ValueError, match="limit cpu_s must be positive and finite, got 0"):
        Limits(cpu_s=0)


def test_contest_problems_accept_their_outputs_and_nothing_else(sandbox):
    if not CONTESTS.exists():
        pytest.skip(f"{CONTESTS} is missing")
    with gzip.open(CONTESTS, "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    assert len(rows) == 20
    for row in rows:
        tests = tuple(
            UnitTest(test["input"]["stdin"], test["output"]["stdout"]) for test in json.loads(row["test"])[:4]
        )
        problem = Problem(str(row["id"]), row["content"], "code", tests=tests)
        # There are no golden solutions: a table of the answers is one, and shows that input and output pass unharmed.
        table = {test.input: test.expected for test in tests}
        code = f"import sys\nprint({table!r}[sys.stdin.read()], end='')"
        assert judge_code(problem, fenced(code), sandbox).status == "accepted"
        wrong = judge_code(problem, fenced("print('no such answer')"), sandbox)
        assert statuses(wrong) == ["wrong_answer"] * len(tests)
