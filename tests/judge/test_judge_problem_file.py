"""PROBLEM.json: what it means, and what it refuses."""

import json

import pytest

from openmimo.judge.problem_file import parse_json, problem_from_json, problem_to_json, read_problem
from openmimo.types import Problem, UnitTest

IO = {"id": "a", "kind": "code", "tests": [{"input": "1 2\n", "output": "3\n"}]}
CALL = {"id": "b", "kind": "code", "entry_point": "f", "tests": [{"args": [1], "expected": 2}]}
ASSERT = {"id": "c", "kind": "code", "tests": [{"assert": "assert f(1) == 2"}]}
MATH = {"id": "d", "kind": "math", "answer": "\\frac{1}{2}"}


def test_the_example_of_the_issue_is_read_as_it_says():
    row = {
        **IO, "language": "python", "checker": "tokens", "profile": "numpy", "prompt": "add",
        "limits": {"cpu_s": 2, "memory_bytes": 268435456, "output_bytes": 16777216},
    }  # fmt: skip
    assert problem_from_json(row) == Problem(
        "a", "add", "code", tests=(UnitTest("1 2\n", "3\n"),), profile="numpy",
        limits={"cpu_s": 2, "wall_s": 6, "memory_bytes": 268435456, "output_bytes": 16777216},
    )  # fmt: skip
    assert problem_from_json({"kind": "math", "answer": "4"}) == Problem("", "", "math", answer="4")


@pytest.mark.parametrize(
    ("limits", "wall_s"), [({}, None), ({"cpu_s": 0.5}, 1.5), ({"cpu_s": 5, "wall_s": 7}, 7), ({"wall_s": 1}, 1)]
)
def test_wall_time_is_three_times_cpu_time_unless_it_is_said(limits, wall_s):
    assert problem_from_json({**IO, "limits": limits}).limits.get("wall_s") == wall_s


@pytest.mark.parametrize("value", [1, 1.0, True, None, "1", 0.1, -0.0, 2**70, [1, [1.0]], {"a": [None, False]}])
def test_arguments_and_results_keep_their_json_type(value):
    problem = problem_from_json({**CALL, "tests": [{"args": [value], "expected": value}]})
    test = problem.tests[0]
    for got in (json.loads(test.input)[0], json.loads(test.expected)):
        assert repr(got) == repr(value)
    assert problem_from_json(json.loads(json.dumps(problem_to_json(problem)))) == problem


@pytest.mark.parametrize(
    "row",
    [
        IO, CALL, ASSERT, MATH, {**MATH, "prompt": "half\u2028?"}, {**IO, "language": "cpp", "profile": "base"},
        {**IO, "checker": {"floats": 1e-9}}, {**IO, "checker": "floats"}, {**IO, "checker": "unordered_lines"},
        {**IO, "checker": {"special": "def check(input, output, expected): return True"}},
        {**IO, "limits": {"cpu_s": 0.5, "memory_bytes": 1 << 20}},
    ],
)  # fmt: skip
def test_a_problem_written_as_json_is_read_as_the_same_problem(row):
    problem = problem_from_json(row)
    again = problem_from_json(parse_json(json.dumps(problem_to_json(problem)).encode(), "again"))
    assert again == problem and again.limits == problem.limits


def test_checkers_carry_their_tolerance_or_source():
    assert problem_from_json({**IO, "checker": {"floats": 1e-9}}).tolerance == 1e-9
    special = problem_from_json({**IO, "checker": {"special": "def check(): ..."}})
    assert (special.checker, special.special_judge) == ("special", "def check(): ...")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ([], "p must be an object"),
        ({"id": "a"}, "p lacks 'kind'"),
        ({"kind": "maths", "answer": "4"}, 'kind must be math or code, got "maths"'),
        ({**MATH, "anwser": "4"}, "p has unknown key 'anwser'; the nearest is 'answer'"),
        ({**MATH, "tests": []}, "unknown key 'tests'"),
        ({"kind": "math"}, "p lacks 'answer'"),
        ({**MATH, "answer": " "}, "answer must not be empty"),
        ({**MATH, "answer": 4}, "answer must be text, got 4"),
        ({**MATH, "answer": "\ud800"}, "answer holds half a surrogate pair at character 0"),
        ({**MATH, "id": 7}, "id must be text, got 7"),
        ({"kind": "code"}, "p lacks 'tests'"),
        ({**IO, "tests": []}, r"tests must be a list of at least one, got \[\]"),
        ({**IO, "tests": [1]}, r"tests\[0\] must be an object, got 1"),
        ({**IO, "tests": [{}]}, r"tests\[0\] lacks 'input'"),
        ({**IO, "tests": [{"input": "1"}]}, r"tests\[0\] lacks 'output'"),
        ({**IO, "tests": [{"input": 1, "output": "1"}]}, r"tests\[0\]: input must be text, got 1"),
        ({**IO, "tests": [{"input": "1", "outptu": "1"}]}, "unknown key 'outptu'; the nearest is 'output'"),
        ({**IO, "tests": IO["tests"] + ASSERT["tests"]}, r"tests\[1\] mixes input and output with 'assert'"),
        ({**IO, "tests": [{"input": "", "output": "", "assert": ""}]}, r"tests\[0\] mixes"),
        ({**IO, "entry_point": "f"}, "tests of a problem with an entry_point have args and expected"),
        ({**CALL, "entry_point": "f()"}, r"entry_point must be the name of a function, got 'f\(\)'"),
        ({"kind": "code", "tests": CALL["tests"]}, "p lacks 'entry_point'"),
        ({**CALL, "tests": [{"args": 1, "expected": 1}]}, r"tests\[0\]: args must be a list, got 1"),
        ({**CALL, "tests": [{"args": [float("inf")], "expected": 1}]}, r"tests\[0\]: args must be plain JSON"),
        ({**CALL, "tests": [{"args": [], "expected": float("nan")}]}, r"tests\[0\]: expected must be plain JSON"),
        ({**ASSERT, "tests": [{"assert": " "}]}, r"tests\[0\]: assert must be Python source"),
        ({**IO, "checker": "token"}, "unknown checker 'token'; the nearest is 'tokens'"),
        ({**IO, "checker": "special"}, "checker special needs its source"),
        ({**IO, "checker": {"special": ""}}, "checker special must be source"),
        ({**IO, "checker": {"floats": -1}}, "checker floats needs a tolerance such as 1e-9, got -1"),
        ({**IO, "checker": {"floats": True}}, "checker floats needs a tolerance"),
        ({**IO, "checker": {"exact": 1}}, "unknown checker|checker must be"),
        ({**IO, "checker": {}}, "checker must be tokens, exact"),
        ({**IO, "limits": []}, "limits must be an object"),
        ({**IO, "limits": {"cpu": 1}}, "limits has unknown key 'cpu'; the nearest is 'cpu_s'"),
        ({**IO, "limits": {"cpu_s": -1}}, "limits.cpu_s must be a positive number, got -1"),
        ({**IO, "limits": {"cpu_s": 0}}, "limits.cpu_s must be a positive number, got 0"),
        ({**IO, "limits": {"cpu_s": True}}, "limits.cpu_s must be a positive number, got true"),
        ({**IO, "limits": {"wall_s": float("inf")}}, "limits.wall_s must be a positive number"),
        ({**IO, "limits": {"wall_s": 10**400}}, "limits.wall_s must be a positive number"),
        ({**IO, "limits": {"memory_bytes": 0.5}}, "limits.memory_bytes must be a whole number of bytes, got 0.5"),
        ({**IO, "profile": "scipy"}, "profile must be base or numpy, got 'scipy'"),
        ({**IO, "language": 3}, "language must be text, got 3"),
    ],
)  # fmt: skip
def test_a_mistake_is_named_in_one_line(row, message):
    with pytest.raises(ValueError, match=message) as error:
        problem_from_json(row, "p")
    assert "\n" not in str(error.value) and str(error.value).startswith("p")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b'{"kind": ', "is not JSON"),
        (b'{"limits": NaN}', "NaN is no JSON number"),
        (b"[" * 100_000, "is not JSON"),
        (b"\xff\xfe\xfd", "is not JSON"),
        (b"[]", "must be an object"),
    ],
    ids=["torn", "NaN", "deep", "binary", "a list"],
)
def test_a_file_that_is_no_problem_is_named(data, message, tmp_path):
    path = tmp_path / "p.json"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=message) as error:
        read_problem(path)
    assert str(error.value).startswith(str(path))


def test_a_missing_file_is_answered_with_the_nearest(tmp_path):
    (tmp_path / "problem.json").write_text("{}")
    with pytest.raises(ValueError, match=r"does not exist; the nearest is .*problem\.json"):
        read_problem(tmp_path / "problm.json")
    with pytest.raises(ValueError, match=r"is a folder; name a PROBLEM\.json"):
        read_problem(tmp_path)
