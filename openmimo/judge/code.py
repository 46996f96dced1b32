"""Judge a program against a problem's tests (MiMo 3.2).

The program is the last fenced code block of the response, after `</think>` where there is one. Three kinds of test: a
program over stdin and stdout; with `Problem.entry_point`, a function called with JSON arguments whose JSON result is
compared here; and Python asserts that run after the solution in its process, which protects the expected value less.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from openmimo.config import nearest
from openmimo.judge.build import build
from openmimo.judge.checkers import json_equal, outputs_equal
from openmimo.judge.languages import LANGUAGES
from openmimo.judge.languages.language import Language
from openmimo.judge.sandbox.limits import ASSERT_EXIT_CODE, COMPILE_EXIT_CODE, Limits, Run, failure
from openmimo.judge.sandbox.supervisor import CompileError, Mode, Program, Sandbox
from openmimo.types import Problem, Status, TestResult, UnitTest, Verdict

LIMITS = ("cpu_s", "wall_s", "memory_bytes", "output_bytes")
"""What a problem may limit otherwise than the judge does."""
PROFILES = ("base", "numpy")
WALL_FACTOR = 3.0
"""A problem that limits cpu_s and not wall_s gets this many times as much."""
WEAK = "assert tests: the program could look for what they expect"

_SAMPLE_BYTES = 200
_FENCE = re.compile(r"^[ \t]*(```+|~~~+)[ \t]*([^\s`]*)[^\n`]*$")


def extract_code(text: str) -> str | None:
    """The last closed fenced code block after the last `</think>`; None if there is none.

    An unclosed block is no answer: the response was cut off.
    """
    found: str | None = None
    fence, block = "", list[str]()
    for line in text.rpartition("</think>")[2].split("\n"):
        mark = _FENCE.match(line.rstrip("\r"))
        if not fence and mark:
            fence, block = mark[1], []
        elif fence and mark and mark[1].startswith(fence) and not mark[2]:
            found, fence = "\n".join(block), ""
        elif fence:
            block.append(line)
    return found


def judge_code(
    problem: Problem,
    text: str,
    sandbox: Sandbox,
    *,
    stop_on_fail: bool = False,
    fuse: int = 3,
    share_process: bool = False,
    source: bool = False,
) -> Verdict:
    """Run the response's program on every test.

    Args:
        stop_on_fail: end with the first test that is not accepted; the verdict then has fewer results than tests.
        fuse: after so many time limits in a row the rest is `time_limit` too, `inferred` and not run; 0 for never.
        share_process: call a function on all tests in one process, far cheaper. The program then keeps its globals
            from test to test; from the first test on that gives no result (a crash, a limit, which speaks of all
            tests together) each is run in a process of its own. Programs over stdin are not affected.
        source: `text` is the program itself, not a response.

    Returns:
        The verdict, with one result a test whatever happened.

    Raises:
        ValueError: for a problem that cannot be judged.
        RuntimeError: if programs cannot run here, or its language's compiler is missing.
        SandboxLost: if the sandbox died.
    """
    check_problem(problem)
    program = text if source else extract_code(text)
    if program is None:
        return _same_for_all(problem, "wrong_answer", "no code block")
    code = program.encode("utf-8", "surrogateescape" if source else "surrogatepass")
    language = LANGUAGES[problem.language]
    profile = problem.profile or language.profile(program)
    limits = limits_of(problem, sandbox.limits)
    results: list[TestResult] = []
    level = sandbox.start(profile).level
    try:
        if problem.entry_point and share_process:
            results = _shared(problem, code, sandbox, profile, limits)
        with ExitStack() as stack:
            if len(results) < len(problem.tests):
                opened = stack.enter_context(_open(problem, code, language, sandbox, profile, limits))
                judge_special = _special(problem, sandbox, limits, stack)
                for result in _results(problem, opened, judge_special, start=len(results), fuse=fuse):
                    results.append(result)
                    if stop_on_fail and result.status != "accepted":
                        break
    except CompileError as error:
        return replace(_same_for_all(problem, "compile_error", str(error)), isolation=level)
    return _verdict(problem, results, level)


def _open(problem: Problem, code: bytes, language: Language, sandbox: Sandbox, profile: str, limits: Limits) -> Program:
    if language.compiler:
        return sandbox.open(build(code, language, sandbox), mode="binary", profile=profile, limits=limits)
    mode: Mode = "assert" if problem.tests[0].assertion else "function" if problem.entry_point else "program"
    return sandbox.open(code, mode=mode, entry_point=problem.entry_point, profile=profile, limits=limits)


def check_problem(problem: Problem) -> None:
    """Refuse what cannot be judged before anything runs.

    Raises:
        ValueError: for a problem without tests, an unknown language, checker, limit or profile, or tests of another
            kind than the problem is.
    """
    where = f"code problem {problem.id!r}"
    if not problem.tests:
        raise ValueError(f"{where} has no tests")
    _known("language", problem.language, tuple(LANGUAGES), where)
    _known("profile", problem.profile, ("", *PROFILES), where)
    for name in problem.limits:
        _known("limit", name, LIMITS, where)
    try:
        limits_of(problem, Limits())
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    if (problem.checker == "special") != bool(problem.special_judge):
        raise ValueError(f"{where}: the checker special needs a special_judge, and nothing else has one")
    asserts = [bool(test.assertion) for test in problem.tests]
    if problem.entry_point and any(asserts):
        raise ValueError(f"{where} has an entry point and asserts: one or the other")
    if any(asserts) and not all(asserts):
        raise ValueError(f"{where}, test {asserts.index(False)}: has no assertion, where others have one")
    if problem.language != "python" and (problem.entry_point or any(asserts)):
        raise ValueError(f"{where}: functions and asserts are judged in python alone, got {problem.language!r}")
    if problem.entry_point:
        for number, test in enumerate(problem.tests):
            _check_call(test, f"problem {problem.id!r}, test {number}")


def limits_of(problem: Problem, default: Limits) -> Limits:
    """The judge's limits with the problem's own.

    Raises:
        ValueError: for a limit that is not positive and finite.
    """
    values: dict[str, Any] = dict(problem.limits)
    if "cpu_s" in values and "wall_s" not in values:
        values["wall_s"] = WALL_FACTOR * values["cpu_s"]
    for name in ("memory_bytes", "output_bytes"):
        if name in values and values[name] != int(values[name]):
            raise ValueError(f"limit {name} must be a whole number of bytes, got {values[name]}")
    return replace(default, **values)


def _known(what: str, name: str, known: tuple[str, ...], where: str) -> None:
    if name not in known:
        raise ValueError(f"{where} has {what} {name!r}; the nearest is {nearest(name, known)!r}")


def _check_call(test: UnitTest, where: str) -> None:
    try:
        arguments = json.loads(test.input)
        json.loads(test.expected)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where}: input and expected must be JSON, {error}") from error
    if not isinstance(arguments, list):
        raise ValueError(f"{where}: input must be a JSON list, got {test.input[:80]!r}")


SpecialJudge = Callable[[UnitTest, bytes], bool | None]
"""(test, output) -> whether it will do; None if the special judge itself failed."""


def _results(
    problem: Problem, program: Program, judge_special: SpecialJudge | None, *, start: int, fuse: int
) -> Iterator[TestResult]:
    in_a_row = 0
    for test in problem.tests[start:]:
        if fuse and in_a_row >= fuse:
            yield TestResult("time_limit", inferred=True)
            continue
        result = _run_one(problem, test, program, judge_special)
        in_a_row = in_a_row + 1 if result.status == "time_limit" else 0
        yield result


def _run_one(problem: Problem, test: UnitTest, program: Program, judge_special: SpecialJudge | None) -> TestResult:
    if test.assertion:
        # A word that only who reaches the end writes: neither an exit nor the exit code says that nothing was raised.
        word = secrets.token_hex(16)
        run = program.run(f"{word}\n{test.assertion}".encode())
        if run.wait_status == ASSERT_EXIT_CODE << 8:
            run = replace(run, wait_status=0)  # an answer, and a wrong one
        return _result(run, program.limits, run.output == word.encode())
    if problem.entry_point:
        run = program.run(_call(test))
        lines = run.output.split(b"\n", 2)[:-1]
        # More than one line: the program wrote to the result's descriptor itself.
        return _result(run, program.limits, len(lines) == 1 and _result_equal(run.output[:-1], test))
    run = program.run(test.input.encode())
    if judge_special is None:
        equal = outputs_equal(run.output, test.expected.encode(), problem.checker, tolerance=problem.tolerance)
        return _result(run, program.limits, equal)
    if failure(run, program.limits):
        return _result(run, program.limits, False)
    accepted = judge_special(test, run.output)
    result = _result(run, program.limits, bool(accepted))
    return result if accepted is not None else replace(result, status="internal_error", output="special judge failed")


def _special(problem: Problem, sandbox: Sandbox, limits: Limits, stack: ExitStack) -> SpecialJudge | None:
    """The problem's special judge, open in a zygote of its own: what it reads may attack it."""
    if not problem.special_judge:
        return None
    try:
        source, most = problem.special_judge.encode(), replace(limits, output_bytes=1 << 16)
        opened = stack.enter_context(
            sandbox.open(source, mode="function", entry_point="check", profile="special", limits=most)
        )
    except CompileError as error:
        raise ValueError(f"code problem {problem.id!r}: its special judge does not compile: {error}") from error

    def judge(test: UnitTest, output: bytes) -> bool | None:
        arguments = [test.input, output.decode("utf-8", "replace"), test.expected]
        run = opened.run(json.dumps(arguments).encode())
        if failure(run, opened.limits) or run.output not in (b"true\n", b"false\n"):
            return None
        return run.output == b"true\n"

    return judge


def _shared(problem: Problem, code: bytes, sandbox: Sandbox, profile: str, limits: Limits) -> list[TestResult]:
    """Results of the tests that gave one, in order; the first that gave none ended the process."""
    calls = b"\n".join(map(_call, problem.tests))
    run = sandbox.run_alone(code, calls, entry_point=problem.entry_point, profile=profile, limits=limits)
    if run.wait_status == COMPILE_EXIT_CODE << 8:
        raise CompileError(_sample(run.error))
    lines = run.output.split(b"\n")[:-1]
    if len(lines) > len(problem.tests):
        return []  # the program wrote there itself; apart, every test is judged on its own
    share = len(lines) or 1
    return [
        TestResult(
            status="accepted" if _result_equal(line, test) else "wrong_answer",
            cpu_s=run.cpu_s / share,
            wall_s=run.wall_s / share,
            peak_bytes=run.peak_bytes,
            output=_sample(line),
        )
        for line, test in zip(lines, problem.tests, strict=False)
    ]


def _call(test: UnitTest) -> bytes:
    """One line: JSON may be spread over several in the problem."""
    return json.dumps(json.loads(test.input)).encode()


def _result_equal(line: bytes, test: UnitTest) -> bool:
    return json_equal(line.decode("utf-8", "replace"), test.expected)


def _result(run: Run, limits: Limits, equal: bool) -> TestResult:
    status: Status = failure(run, limits) or ("accepted" if equal else "wrong_answer")
    printed = run.output if status in ("accepted", "wrong_answer", "output_limit") else run.error[-_SAMPLE_BYTES:]
    return TestResult(status, run.cpu_s, run.wall_s, run.peak_bytes, _sample(printed))


def _sample(output: bytes) -> str:
    return output[:_SAMPLE_BYTES].decode("utf-8", "replace")


def _same_for_all(problem: Problem, status: Status, detail: str) -> Verdict:
    return Verdict(status, tuple(TestResult(status) for _ in problem.tests), detail)


def _verdict(problem: Problem, results: Sequence[TestResult], level: str) -> Verdict:
    statuses = [result.status for result in results]
    first = next((number for number, status in enumerate(statuses) if status != "accepted"), None)
    status: Status = "accepted" if first is None else statuses[first]
    if "internal_error" in statuses:
        status, first = "internal_error", statuses.index("internal_error")
    detail = ""
    if first is not None:
        lines = results[first].output.strip().split("\n")
        detail = f"test {first}: {lines[-1]}"[:_SAMPLE_BYTES]
    if problem.tests[0].assertion:
        detail = f"{detail}; {WEAK}".lstrip("; ")
    return Verdict(status, tuple(results), detail, level)
