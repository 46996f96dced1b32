"""What a code problem may ask for: asserts, special judges, checkers, limits, profiles, languages, the fuse."""

import shutil
from dataclasses import replace

import pytest

from openmimo.judge import build as building
from openmimo.judge.code import WEAK, check_problem, judge_code, limits_of
from openmimo.judge.languages.python import profile
from openmimo.judge.sandbox.limits import Limits
from openmimo.judge.sandbox.supervisor import Sandbox
from openmimo.types import Problem, UnitTest

SUM = Problem("sum", "", "code", tests=(UnitTest("1 2\n", "3\n"), UnitTest("5 5\n", "10\n")))
ADD = "a, b = map(int, input().split())\nprint(a + b)"
CPP_ADD = "#include <bits/stdc++.h>\nint main() { long a, b; std::cin >> a >> b; std::cout << a + b << std::endl; }"
ASSERTS = Problem(
    "inc", "", "code", tests=(UnitTest("", "", assertion="assert f(1) == 2"), UnitTest("", "", assertion="f(1 / 2)"))
)
ANY_PAIR = Problem(
    "pair",
    "Two positive numbers with this sum, in any order.",
    "code",
    tests=(UnitTest("10\n", ""), UnitTest("7\n", "")),
    checker="special",
    special_judge="def check(input, output, expected):\n"
    "    a, b = map(int, output.split())\n"
    "    return a > 0 and b > 0 and a + b == int(input)",
)


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch, Sandbox(Limits(cpu_s=0.5, wall_s=1.5)) as sandbox:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield sandbox


def judged(problem, source, sandbox, **options):
    return judge_code(problem, source, sandbox, source=True, **options)


def statuses(verdict):
    return [result.status for result in verdict.tests]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("def f(x): return x + 1", ["accepted", "accepted"]),
        ("def f(x): return x + 2", ["wrong_answer", "accepted"]),
        ("def f(x): return [0, 2][x]", ["accepted", "runtime_error"]),
        ("import os\ndef f(x): os._exit(0)", ["wrong_answer", "wrong_answer"]),
        ("import sys\ndef f(x): sys.exit(0)", ["wrong_answer", "wrong_answer"]),
        ("raise SystemExit(0)", ["wrong_answer", "wrong_answer"]),
        ("def g(x): return x", ["runtime_error", "runtime_error"]),
        ("def f(x):\n    while True: pass", ["time_limit", "time_limit"]),
        ("print('f(1) == 2')\ndef f(x): print(x); return x + 1", ["accepted", "accepted"]),
    ],
)
def test_asserts_run_after_the_solution_and_must_be_reached(source, expected, sandbox):
    verdict = judged(ASSERTS, source, sandbox)
    assert statuses(verdict) == expected
    assert WEAK in verdict.detail


def test_a_special_judge_decides_in_a_sandbox_of_its_own(sandbox):
    assert judged(ANY_PAIR, "n = int(input())\nprint(1, n - 1)", sandbox).status == "accepted"
    assert judged(ANY_PAIR, "n = int(input())\nprint(n - 1)\nprint(1)", sandbox).status == "accepted"
    assert judged(ANY_PAIR, "n = int(input())\nprint(0, n)", sandbox).status == "wrong_answer"
    assert judged(ANY_PAIR, "1 / 0", sandbox).status == "runtime_error"
    # What it raises on a program's text is its own fault, and nobody's wrong answer.
    assert judged(ANY_PAIR, "print('x')", sandbox).status == "internal_error"
    broken = replace(ANY_PAIR, special_judge="def check(")
    with pytest.raises(ValueError, match="its special judge does not compile: SyntaxError"):
        judged(broken, "print(1, 9)", sandbox)


def test_the_fuse_spares_what_would_only_loop(sandbox):
    many = replace(SUM, tests=tuple(UnitTest(f"{n} 0\n", f"{n}\n") for n in range(8)))
    loops_from_1 = "a, b = map(int, input().split())\nwhile a in (1, 3, 4, 5): pass\nprint(a)"
    verdict = judged(many, loops_from_1, sandbox, fuse=3)
    assert statuses(verdict) == ["accepted", "time_limit", "accepted"] + ["time_limit"] * 5
    assert [result.inferred for result in verdict.tests] == [False] * 6 + [True] * 2
    assert not any(result.inferred for result in judged(SUM, "while True: pass", sandbox, fuse=0).tests)


def test_stop_on_fail_ends_with_the_first_failure(sandbox):
    verdict = judged(SUM, "print(1)", sandbox, stop_on_fail=True)
    assert (verdict.status, statuses(verdict)) == ("wrong_answer", ["wrong_answer"])
    assert len(judged(SUM, ADD, sandbox, stop_on_fail=True).tests) == 2


@pytest.mark.parametrize(
    ("change", "source", "status"),
    [
        ({"checker": "exact"}, ADD, "accepted"),
        ({"checker": "exact"}, ADD + "\nprint()", "wrong_answer"),
        ({}, ADD + "\nprint()", "accepted"),
        ({"checker": "floats", "tests": (UnitTest("1 3\n", "0.3333333\n"),)}, "print(1 / 3)", "accepted"),
        ({"checker": "floats", "tests": (UnitTest("1 3\n", "0.25\n"),)}, "print(1 / 3)", "wrong_answer"),
        ({"checker": "floats", "tolerance": 0.1, "tests": (UnitTest("1 3\n", "0.31\n"),)}, "print(1 / 3)", "accepted"),
        ({"checker": "unordered_lines", "tests": (UnitTest("", "b\na\n"),)}, "print('a')\nprint('b')", "accepted"),
        ({"limits": {"memory_bytes": 64 << 20}}, "x = bytearray(100 << 20)\n" + ADD, "memory_limit"),
        ({}, "x = bytearray(100 << 20)\n" + ADD, "accepted"),
        ({"limits": {"output_bytes": 100}}, "print('x' * 200)", "output_limit"),
        ({"limits": {"output_bytes": 200}}, "print('x' * 200)", "output_limit"),  # and the line break
        ({"limits": {"output_bytes": 201}}, "print('x' * 200)", "wrong_answer"),
        ({"limits": {"cpu_s": 3.0}}, "import time\nwhile time.process_time() < 0.7: pass\n" + ADD, "accepted"),
        ({"limits": {"wall_s": 0.2}}, "import time\ntime.sleep(0.4)\n" + ADD, "time_limit"),
    ],
)
def test_checker_and_limits_are_the_problems_own(change, source, status, sandbox):
    assert judged(replace(SUM, **change), source, sandbox).status == status


def test_missing_limits_are_the_judges_and_wall_follows_cpu():
    default = Limits(cpu_s=2.0, wall_s=6.0)
    assert limits_of(SUM, default) == default
    assert limits_of(replace(SUM, limits={"cpu_s": 4}), default).wall_s == 12.0
    assert limits_of(replace(SUM, limits={"cpu_s": 4, "wall_s": 5}), default).wall_s == 5
    assert limits_of(replace(SUM, limits={"memory_bytes": 1e8}), default).memory_bytes == 100_000_000


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"language": "pyhton"}, "has language 'pyhton'; the nearest is 'python'"),
        ({"profile": "nunpy"}, "has profile 'nunpy'; the nearest is 'numpy'"),
        ({"limits": {"cpu": 1}}, "has limit 'cpu'; the nearest is 'cpu_s'"),
        ({"limits": {"cpu_s": 0}}, "limit cpu_s must be positive and finite, got 0"),
        ({"limits": {"output_bytes": 1.5}}, "limit output_bytes must be a whole number of bytes, got 1.5"),
        ({"checker": "special"}, "the checker special needs a special_judge"),
        ({"special_judge": "def check(a, b, c): return True"}, "the checker special needs a special_judge"),
        ({"language": "cpp", "entry_point": "f"}, "functions and asserts are judged in python alone, got 'cpp'"),
        ({"tests": (UnitTest("", "", assertion="f()"), UnitTest("1", "1"))}, "test 1: has no assertion"),
        ({"entry_point": "f", "tests": ASSERTS.tests}, "has an entry point and asserts: one or the other"),
    ],
)
def test_a_problem_that_cannot_be_judged_is_refused_in_one_line(change, message):
    with pytest.raises(ValueError, match=message):
        check_problem(replace(SUM, **change))


def test_the_profile_follows_the_imports(sandbox):
    for source in ("import numpy", "import numpy as np", "from numpy.linalg import det", "import os, numpy as np",
                   "try: import numpy\nexcept ImportError: pass", "def f():\n    import numpy"):  # fmt: skip
        assert profile(source) == "numpy", source
    for source in ("# import numpy", "print('numpy')", "import numpyish", "from mynumpy import x"):
        assert profile(source) == "base", source
    numeric = (
        "import numpy as np\na, b = map(int, input().split())\nprint(np.linalg.det(np.diag([1, 1])) > 0 and a + b)"
    )
    assert judged(SUM, numeric, sandbox).status == "accepted"
    assert judged(replace(SUM, profile="base"), numeric, sandbox).status == "runtime_error"


needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not installed")


@needs_compiler
def test_cpp_is_compiled_in_the_sandbox_once(sandbox, monkeypatch):
    problem = replace(SUM, language="cpp")
    assert judged(problem, CPP_ADD, sandbox).status == "accepted"
    assert len(list((building.cache_folder() / "programs").iterdir())) == 1
    assert list((building.cache_folder() / "headers").rglob("stdc++.h.gch"))
    monkeypatch.setattr(building, "_compile", None)  # the second time nothing is compiled
    assert judged(problem, CPP_ADD, sandbox).status == "accepted"


@needs_compiler
@pytest.mark.parametrize(
    ("source", "status"),
    [
        (CPP_ADD.replace("a + b", "a - b"), "wrong_answer"),
        ("int main() { return 1 }", "compile_error"),
        ('#include "/etc/passwd"\nint main() {}', "compile_error"),
        ("int main() { for (volatile int i = 0;; i++); }", "time_limit"),
        ("#include <vector>\nint main() { std::vector<int> v; for (;;) v.push_back(1); }", "memory_limit"),
        ("#include <cstdio>\nint main() { for (;;) puts(\"x\"); }", "output_limit"),
        ("int main() { return 3; }", "runtime_error"),
        ("int main() { return *(volatile int *)8; }", "runtime_error"),
        ("#include <unistd.h>\nint main() { return fork() < 0 ? 7 : 0; }", "runtime_error"),
        ("#include <unistd.h>\nint main() { execl(\"/bin/true\", \"true\", 0); return 7; }", "runtime_error"),
        ("int f(int n) { volatile char c[1000]; c[0] = n; return n ? f(n - 1) + c[0] : 0; }\n"
         "#include <cstdio>\nint main() { f(100000); long a, b; scanf(\"%ld %ld\", &a, &b); printf(\"%ld\", a + b); }",
         "accepted"),
    ],
)  # fmt: skip
def test_cpp_ends_as_it_should(source, status, sandbox):
    assert judged(replace(SUM, language="cpp"), source, sandbox).status == status


def test_a_parser_bomb_is_a_compile_error_and_harms_nobody(sandbox):
    for bomb in ("(" * 100_000, "-" * 3_000_000 + "1", "x = " + "[" * 5000 + "]" * 5000, "\0", "f'" + "{" * 500):
        assert judged(SUM, bomb, sandbox).status == "compile_error"
    assert judged(SUM, ADD, sandbox).status == "accepted"
