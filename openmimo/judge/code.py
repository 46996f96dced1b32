"""Judge a program against a problem's tests (MiMo 3.2).

The program is the last fenced code block of the response, after `</think>` where there is one. Two kinds of problem: a
program over stdin and stdout, and, with `Problem.entry_point`, a function called with JSON arguments whose JSON result
is compared here. Left out: languages other than Python.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from openmimo.judge.checkers import Checker, json_equal, outputs_equal
from openmimo.judge.sandbox.limits import Limits, Run, failure
from openmimo.judge.sandbox.supervisor import CompileError, Sandbox
from openmimo.types import Problem, Status, TestResult, UnitTest, Verdict

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
    checker: Checker = "tokens",
    tolerance: float = 1e-6,
    share_process: bool = False,
) -> Verdict:
    """Run the response's program on every test.

    Args:
        checker, tolerance: how standard output is compared; see `checkers.outputs_equal`. `tolerance` speaks of
            float results of functions too, with `checker="floats"`.
        share_process: call a function on all tests in one process, far cheaper. The program then keeps its globals
            from test to test; from the first test on that gives no result (a crash, a limit, which speaks of all
            tests together) each is run in a process of its own. Programs over stdin are not affected.

    Returns:
        The verdict, with one result a test whatever happened.

    Raises:
        ValueError: for a problem without tests.
        SandboxLost: if the sandbox died.
    """
    check_problem(problem)
    source = extract_code(text)
    if source is None:
        return _same_for_all(problem, "wrong_answer", "no code block")
    results: list[TestResult] = []
    if problem.entry_point and share_process:
        run = sandbox.run_alone(source, b"\n".join(map(_call, problem.tests)), entry_point=problem.entry_point)
        if failure(run, sandbox.limits) == "compile_error":
            return _same_for_all(problem, "compile_error", _sample(run.error))
        results = _shared_results(run, problem, checker, tolerance)
        if len(results) == len(problem.tests):
            return _verdict(results)
    try:
        sandbox.open(source)
    except CompileError as error:
        return _same_for_all(problem, "compile_error", str(error))
    try:
        results += [_run_one(problem, test, sandbox, checker, tolerance) for test in problem.tests[len(results) :]]
    finally:
        sandbox.end()
    return _verdict(results)


def check_problem(problem: Problem) -> None:
    """Refuse what cannot be judged before anything runs.

    Raises:
        ValueError: for a problem without tests, or arguments or results that are no JSON.
    """
    if not problem.tests:
        raise ValueError(f"code problem {problem.id!r} has no tests")
    if not problem.entry_point:
        return
    for number, test in enumerate(problem.tests):
        try:
            arguments = json.loads(test.input)
            json.loads(test.expected)
        except ValueError as error:
            raise ValueError(
                f"problem {problem.id!r}, test {number}: input and expected must be JSON, {error}"
            ) from error
        if not isinstance(arguments, list):
            raise ValueError(
                f"problem {problem.id!r}, test {number}: input must be a JSON list, got {test.input[:80]!r}"
            )


def _run_one(problem: Problem, test: UnitTest, sandbox: Sandbox, checker: Checker, tolerance: float) -> TestResult:
    if problem.entry_point:
        run = sandbox.run(_call(test), entry_point=problem.entry_point)
        lines = run.output.split(b"\n")[:-1]
        # More than one line: the program wrote to the result's descriptor itself.
        equal = len(lines) == 1 and _result_equal(lines[0], test, checker, tolerance)
    else:
        run = sandbox.run(test.input.encode())
        equal = outputs_equal(run.output, test.expected.encode(), checker, tolerance=tolerance)
    return _result(run, sandbox.limits, equal)


def _shared_results(run: Run, problem: Problem, checker: Checker, tolerance: float) -> list[TestResult]:
    """Results of the tests that gave one, in order; the first that gave none ended the process."""
    lines = run.output.split(b"\n")[:-1]
    if len(lines) > len(problem.tests):
        return []  # the program wrote there itself; apart, every test is judged on its own
    share = len(lines) or 1
    return [
        TestResult(
            status="accepted" if _result_equal(line, test, checker, tolerance) else "wrong_answer",
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


def _result_equal(line: bytes, test: UnitTest, checker: Checker, tolerance: float) -> bool:
    got = line.decode("utf-8", "replace")
    return json_equal(got, test.expected, tolerance=tolerance if checker == "floats" else None)


def _result(run: Run, limits: Limits, equal: bool) -> TestResult:
    status: Status = failure(run, limits) or ("accepted" if equal else "wrong_answer")
    printed = run.output if status in ("accepted", "wrong_answer", "output_limit") else run.error[-_SAMPLE_BYTES:]
    return TestResult(status, run.cpu_s, run.wall_s, run.peak_bytes, _sample(printed))


def _sample(output: bytes) -> str:
    return output[:_SAMPLE_BYTES].decode("utf-8", "replace")


def _same_for_all(problem: Problem, status: Status, detail: str) -> Verdict:
    return Verdict(status, tuple(TestResult(status) for _ in problem.tests), detail)


def _verdict(results: Sequence[TestResult]) -> Verdict:
    statuses = [result.status for result in results]
    if "internal_error" in statuses:
        return Verdict("internal_error", tuple(results))
    first = next((number for number, status in enumerate(statuses) if status != "accepted"), None)
    if first is None:
        return Verdict("accepted", tuple(results))
    lines = results[first].output.strip().split("\n")
    return Verdict(statuses[first], tuple(results), f"test {first}: {lines[-1]}"[:_SAMPLE_BYTES])
