"""A problem as a user writes it (PROBLEM.json, and the body of a request to the server) to `types.Problem`, and back.

    {"id", "kind": "code", "language": "python", "tests": [{"input", "output"}], "checker": "tokens", "limits": {...}}
    {..., "entry_point": "f", "tests": [{"args": [...], "expected": any JSON}]}
    {..., "tests": [{"assert": "Python source"}]}
    {"id", "kind": "math", "answer": "..."}

Every mistake is a `ValueError` of one line that names the field. Arguments and results keep their JSON types: 1, 1.0
and true stay three things. Beside asserts, which call it themselves, an entry point says nothing.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from openmimo.config import missing_file, nearest
from openmimo.types import Problem, UnitTest

_FIELDS = {
    "code": ("id", "kind", "prompt", "language", "tests", "entry_point", "checker", "limits", "profile"),
    "math": ("id", "kind", "prompt", "answer"),
}
_FORMS = (("input", "output"), ("args", "expected"), ("assert",))
_CHECKERS = ("tokens", "exact", "floats", "unordered_lines")
_LIMITS = ("cpu_s", "wall_s", "memory_bytes", "output_bytes")
_PROFILES = ("base", "numpy")
_MAX_LIMIT = 2**62  # beyond it the kernel's own numbers end


def read_problem(path: Path) -> Problem:
    """A problem of a file of its own.

    Raises:
        ValueError: for a missing file, a file that is no JSON, or no problem.
    """
    if not path.is_file():
        raise ValueError(f"{path} is a folder; name a PROBLEM.json") if path.is_dir() else missing_file(path)
    return problem_from_json(parse_json(path.read_bytes(), str(path)), str(path))


def parse_json(data: bytes, where: str) -> Any:
    """Strict JSON.

    Raises:
        ValueError: naming `where`; also for NaN and infinities, which are no JSON.
    """
    try:
        return json.loads(data, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where} is not JSON: {error}") from error


def problem_from_json(row: Any, where: str = "problem") -> Problem:
    """A problem from its JSON object.

    Raises:
        ValueError: naming `where` and the field at fault.
    """
    if not isinstance(row, Mapping):
        raise ValueError(f'{where} must be an object such as {{"id", "kind", "tests"}}, got {_short(row)}')
    kind = row.get("kind")
    if "kind" not in row:
        raise ValueError(f"{where} lacks 'kind': math or code")
    if kind not in ("math", "code"):
        raise ValueError(f"{where}: kind must be math or code, got {_short(kind)}")
    _only(row, _FIELDS[kind], where)
    id = _text(row, "id", where, default="")
    prompt = _text(row, "prompt", where, default="")
    if kind == "math":
        answer = _text(row, "answer", where)
        if not answer.strip():
            raise ValueError(f"{where}: answer must not be empty, got {answer!r}")
        return Problem(id, prompt, "math", answer=answer)
    tests, form = _tests(row, where)
    entry_point = _text(row, "entry_point", where, default="")
    if "entry_point" in row and not entry_point.isidentifier():
        raise ValueError(f"{where}: entry_point must be the name of a function, got {entry_point!r}")
    if entry_point and form == ("input", "output"):
        raise ValueError(
            f"{where}: tests of a problem with an entry_point have args and expected, not input and output"
        )
    if form == ("args", "expected") and not entry_point:
        raise ValueError(f"{where} lacks 'entry_point', the function that its tests call with args")
    language = _text(row, "language", where, default="python")
    profile = _text(row, "profile", where, default="")
    if "profile" in row and profile not in _PROFILES:
        raise ValueError(f"{where}: profile must be base or numpy, got {profile!r}")
    return Problem(
        id,
        prompt,
        "code",
        tests=tests,
        entry_point="" if form == ("assert",) else entry_point,
        language=language,
        limits=_limits(row.get("limits", {}), where),
        profile=profile,
        **_checker(row.get("checker", "tokens"), where),
    )


def problem_to_json(problem: Problem) -> dict[str, Any]:
    """The object that `problem_from_json` reads; what only training knows (levels, golden solutions) is left out.

    Raises:
        ValueError: for arguments or results that are no JSON.
    """
    row: dict[str, Any] = {"id": problem.id, "kind": problem.kind}
    if problem.prompt:
        row["prompt"] = problem.prompt
    if problem.kind == "math":
        return {**row, "answer": problem.answer}
    row["language"] = problem.language
    if problem.entry_point:
        row["entry_point"] = problem.entry_point
    row["tests"] = [_test_to_json(problem, test, number) for number, test in enumerate(problem.tests)]
    row["checker"] = problem.checker
    if problem.checker == "floats":
        row["checker"] = {"floats": problem.tolerance}
    if problem.checker == "special":
        row["checker"] = {"special": problem.special_judge}
    if problem.limits:
        row["limits"] = dict(problem.limits)
    if problem.profile:
        row["profile"] = problem.profile
    return row


def _tests(row: Mapping[str, Any], where: str) -> tuple[tuple[UnitTest, ...], Sequence[str]]:
    """The tests, and the keys that all of them have."""
    if "tests" not in row:
        raise ValueError(f"{where} lacks 'tests'")
    tests = row["tests"]
    if not isinstance(tests, list) or not tests:
        raise ValueError(f"{where}: tests must be a list of at least one, got {_short(tests)}")
    if not isinstance(tests[0], Mapping):
        raise ValueError(f"{where}: tests[0] must be an object, got {_short(tests[0])}")
    known = sorted({key for form in _FORMS for key in form})
    _only(tests[0], known, f"{where}: tests[0]")
    form = next((form for form in _FORMS if set(form) & set(tests[0])), _FORMS[0])
    return tuple(_test(test, form, f"{where}: tests[{number}]") for number, test in enumerate(tests)), form


def _test(row: Any, form: Sequence[str], where: str) -> UnitTest:
    if not isinstance(row, Mapping):
        raise ValueError(f"{where} must be an object, got {_short(row)}")
    for key in row:
        other = next((other for other in _FORMS if key in other and other is not form), None)
        if other:
            raise ValueError(f"{where} mixes {' and '.join(form)} with {key!r}; all tests of a problem have one form")
    _only(row, form, where)
    for key in form:
        if key not in row:
            raise ValueError(f"{where} lacks {key!r}")
    if form == ("assert",):
        source = _text(row, "assert", where)
        if not source.strip():
            raise ValueError(f"{where}: assert must be Python source, got {source!r}")
        return UnitTest("", "", assertion=source)
    if form == ("input", "output"):
        return UnitTest(_text(row, "input", where), _text(row, "output", where))
    if not isinstance(row["args"], list):
        raise ValueError(f"{where}: args must be a list, got {_short(row['args'])}")
    return UnitTest(_json_text(row["args"], f"{where}: args"), _json_text(row["expected"], f"{where}: expected"))


def _test_to_json(problem: Problem, test: UnitTest, number: int) -> dict[str, Any]:
    if test.assertion:
        return {"assert": test.assertion}
    if not problem.entry_point:
        return {"input": test.input, "output": test.expected}
    where = f"problem {problem.id!r}: tests[{number}]"
    args, expected = (parse_json(text.encode(), where) for text in (test.input, test.expected))
    return {"args": args, "expected": expected}


def _checker(value: Any, where: str) -> dict[str, Any]:
    if isinstance(value, str) and value in _CHECKERS:
        return {"checker": value}
    if isinstance(value, Mapping) and len(value) == 1:
        name, detail = next(iter(value.items()))
        if name == "floats":
            if not _number(detail) or not detail >= 0:
                raise ValueError(f"{where}: checker floats needs a tolerance such as 1e-9, got {_short(detail)}")
            return {"checker": "floats", "tolerance": float(detail)}
        if name == "special":
            source = _text(value, "special", f"{where}: checker")
            if not source.strip():
                raise ValueError(f"{where}: checker special must be source of check(input, output, expected), got ''")
            return {"checker": "special", "special_judge": source}
        value = name
    if value == "special":
        raise ValueError(f'{where}: checker special needs its source: {{"special": "def check(input, output, ..."}}')
    if isinstance(value, str):
        raise ValueError(f"{where}: unknown checker {value!r}; the nearest is {nearest(value, _CHECKERS)!r}")
    raise ValueError(
        f'{where}: checker must be {", ".join(_CHECKERS)}, {{"floats": tolerance}} or {{"special": source}}, '
        f"got {_short(value)}"
    )


def _limits(value: Any, where: str) -> dict[str, float]:
    if not isinstance(value, Mapping):
        raise ValueError(f'{where}: limits must be an object such as {{"cpu_s": 2}}, got {_short(value)}')
    _only(value, _LIMITS, f"{where}: limits")
    for name, limit in value.items():
        if not _number(limit) or not 0 < limit <= _MAX_LIMIT:
            raise ValueError(f"{where}: limits.{name} must be a positive number, got {_short(limit)}")
        if name.endswith("_bytes") and limit != int(limit):
            raise ValueError(f"{where}: limits.{name} must be a whole number of bytes, got {_short(limit)}")
    limits = {name: int(limit) if name.endswith("_bytes") else limit for name, limit in value.items()}
    if "cpu_s" in limits and "wall_s" not in limits:
        limits["wall_s"] = 3 * limits["cpu_s"]
    return limits


def _only(row: Mapping[str, Any], known: Sequence[str], where: str) -> None:
    for key in row:
        if key not in known:
            raise ValueError(f"{where} has unknown key {key!r}; the nearest is {nearest(key, known)!r}")


def _text(row: Mapping[str, Any], name: str, where: str, *, default: str | None = None) -> str:
    if name not in row:
        if default is None:
            raise ValueError(f"{where} lacks {name!r}")
        return default
    value = row[name]
    if not isinstance(value, str):
        raise ValueError(f"{where}: {name} must be text, got {_short(value)}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{where}: {name} holds half a surrogate pair at character {error.start}") from error
    return value


def _json_text(value: Any, where: str) -> str:
    try:
        return json.dumps(value, allow_nan=False)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where} must be plain JSON with finite numbers: {error}") from error


def _number(value: Any) -> bool:
    return type(value) is int or (type(value) is float and math.isfinite(value))


def _short(value: Any) -> str:
    try:
        text = json.dumps(value)
    except (ValueError, RecursionError):
        text = type(value).__name__
    return text if len(text) <= 80 else f"{text[:77]}..."


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON number")
