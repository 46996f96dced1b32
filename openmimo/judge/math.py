"""Judge the answer of a maths problem (MiMo 3.2): rule-based accuracy alone.

The answer is the content of the last `\\boxed{}` after `</think>`. Equal normalised strings and pairs of plain integers
are decided at once; the rest goes to math-verify, in a process that can be killed: its own time limit is a signal that
works on the main thread alone. Its known false accepts are refused here. Left out: choices, proofs, units.
"""

from __future__ import annotations

import ctypes
import functools
import gc
import json
import os
import re
import resource
import select
import signal
import time
from types import TracebackType
from typing import Any

from openmimo.types import Problem, Status, Verdict

_MAX_ANSWER_CHARS = 2000
_PR_SET_PDEATHSIG = 1
_INTEGER = re.compile(r"-?(0|[1-9][0-9]{0,500})")
_SPACING = re.compile(r"\\[!,;:> ]|\\(left|right|q?quad|displaystyle)(?![A-Za-z])|[$~]")
_PERIOD = re.compile(r"\.$")


def extract_answer(text: str) -> str | None:
    """Content of the last `\\boxed{}` after the last `</think>`; None if there is none, or it is never closed."""
    answer = text.rpartition("</think>")[2]
    start = answer.rfind("\\boxed{")
    if start < 0:
        return None
    depth = 0
    begin = start + len("\\boxed{")
    position = begin
    while position < len(answer):
        character = answer[position]
        if character == "\\":
            position += 2  # an escaped brace opens and closes nothing
            continue
        if character == "{":
            depth += 1
        elif character == "}":
            if depth == 0:
                return answer[begin:position].strip()
            depth -= 1
        position += 1
    return None


def normalise(answer: str) -> str:
    """Strip what never changes a value: spacing, delimiters, synonyms. Equal results mean equal answers."""
    answer = _SPACING.sub(" ", answer.strip()).replace("dfrac", "frac").replace("tfrac", "frac")
    answer = " ".join(_PERIOD.sub("", answer.strip()).split())
    # A blank separates two words or numbers; beside anything else it is nothing.
    return re.sub(r"(?<![0-9A-Za-z]) | (?![0-9A-Za-z])", "", answer)


def quick(gold: str, answer: str) -> bool | None:
    """Decide at once where no algebra is needed; None where it is."""
    one, other = normalise(gold), normalise(answer)
    if one == other:
        return bool(one)
    if not other:
        return False
    if _INTEGER.fullmatch(one) and _INTEGER.fullmatch(other):
        return False  # both canonical, and not equal
    return None


def quick_verdict(problem: Problem, text: str) -> Verdict | None:
    """The verdict, where it takes microseconds; None where math-verify has to look.

    Raises:
        ValueError: for a problem without a gold answer.
    """
    if not problem.answer.strip():
        raise ValueError(f"maths problem {problem.id!r} has no answer")
    answer = extract_answer(text)
    if answer is None:
        return Verdict("wrong_answer", detail="no boxed answer")
    if len(answer) > _MAX_ANSWER_CHARS:
        return Verdict("wrong_answer", detail=f"answer longer than {_MAX_ANSWER_CHARS} characters")
    equal = quick(problem.answer, answer)
    if equal is None:
        return None
    return Verdict("accepted" if equal else "wrong_answer", detail=answer[:200])


def judge_math(problem: Problem, text: str, verifier: Verifier) -> Verdict:
    """Judge one response; see `quick_verdict` for the errors."""
    verdict = quick_verdict(problem, text)
    if verdict is not None:
        return verdict
    answer = extract_answer(text)
    assert answer is not None
    status, detail = verifier.compare(problem.answer, answer)
    return Verdict(status, detail=detail or answer[:200])


class Verifier:
    """math-verify in a forked process that is killed when it takes too long.

    The parent must have a single thread. It imports math-verify once, so that another child costs a fork.

    Args:
        wall_s: limit of one comparison, in seconds.
        memory_bytes: limit of the child's data.
    """

    def __init__(self, *, wall_s: float = 5.0, memory_bytes: int = 2 << 30) -> None:
        if wall_s <= 0:
            raise ValueError(f"wall_s must be positive, got {wall_s}")
        self.wall_s = wall_s
        self.memory_bytes = memory_bytes
        self._pid = 0
        self._ask = self._answer = -1

    def compare(self, gold: str, answer: str) -> tuple[Status, str]:
        """(status, detail). `time_limit` and `memory_limit` when a limit was met, `internal_error` after a crash."""
        if not self._pid:
            self._start()
        try:
            _write_line(self._ask, [gold, answer])
            line = self._read_line(time.monotonic() + self.wall_s)
        except (BrokenPipeError, EOFError):
            return "internal_error", f"the verifier died, wait status {self.close()}"
        if line is None:
            self.close()
            return "time_limit", f"no verdict in {self.wall_s:g} s"
        status, detail = json.loads(line)
        if status == "memory_limit":
            self.close()
        return status, detail

    def close(self) -> int:
        """Kill the child; its wait status."""
        if not self._pid:
            return 0
        os.close(self._ask)
        os.close(self._answer)
        try:
            os.kill(self._pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        _, status = os.waitpid(self._pid, 0)
        self._pid = 0
        return status

    def __enter__(self) -> Verifier:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _start(self) -> None:
        import math_verify  # noqa: F401  warm before the fork

        gc.freeze()
        ask_reader, self._ask = os.pipe()
        self._answer, answer_writer = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            try:
                os.close(self._ask)
                os.close(self._answer)
                resource.setrlimit(resource.RLIMIT_DATA, (self.memory_bytes, self.memory_bytes))
                resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
                ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
                _serve(ask_reader, answer_writer)
            finally:
                os._exit(1)
        os.close(ask_reader)
        os.close(answer_writer)

    def _read_line(self, deadline_s: float) -> bytes | None:
        data = b""
        while not data.endswith(b"\n"):
            ready, _, _ = select.select([self._answer], [], [], max(0.0, deadline_s - time.monotonic()))
            if not ready:
                return None
            chunk = os.read(self._answer, 65536)
            if not chunk:
                raise EOFError
            data += chunk
        return data


def _serve(ask: int, answer: int) -> None:
    import logging

    logging.disable(logging.CRITICAL)  # math-verify warns that its own time limits are off; ours are not
    for line in os.fdopen(ask, encoding="utf-8"):
        try:
            result: tuple[Status, str] = _compare(*json.loads(line))
        except MemoryError:
            result = "memory_limit", "out of memory"
        except Exception as error:
            result = "internal_error", f"{type(error).__name__}: {error}"[:200]
        _write_line(answer, result)


def _compare(gold: str, answer: str) -> tuple[Status, str]:
    golds = _parse_gold(gold)
    if not golds:
        return "internal_error", f"the gold answer cannot be parsed: {gold[:80]!r}"
    try:
        answers = _parse(answer)
    except MemoryError:
        raise
    except Exception as error:  # what a parser makes of a policy's text is data
        return "wrong_answer", f"not to be parsed: {type(error).__name__}"
    if not answers or not _verify(golds, answers):
        return "wrong_answer", ""
    refusal = _false_accept(gold, answer, golds[0], answers[0])
    return ("wrong_answer", refusal) if refusal else ("accepted", "")


def _verify(golds: list[Any], answers: list[Any]) -> bool:
    from math_verify import verify

    try:
        return bool(verify(golds, answers, timeout_seconds=None, raise_on_error=True))
    except MemoryError:
        raise
    except Exception:  # one way of comparing failed; it goes on to the others when told not to raise
        return bool(verify(golds, answers, timeout_seconds=None))


@functools.lru_cache(maxsize=4096)
def _parse_gold(gold: str) -> list[Any]:
    return _parse(gold)


def _parse(answer: str) -> list[Any]:
    """Always within delimiters: bare LaTeX of every fifth MATH-500 answer is not found otherwise."""
    from math_verify import LatexExtractionConfig, parse

    bare = answer.replace("\\$", "").replace("$", "")
    expressions: list[Any] = parse(
        f"${bare}$", extraction_config=[LatexExtractionConfig()], parsing_timeout=None, raise_on_error=True
    )
    return expressions


def _false_accept(gold: str, answer: str, gold_value: Any, answer_value: Any) -> str:
    """Why an answer that math-verify accepts is refused, or ""."""
    brackets = {_bracket(gold), _bracket(answer)}
    if "{" in brackets and brackets & {"(", "["}:
        return "a set is not a tuple or an interval"
    for equation in _equations(answer_value):
        if not equation.lhs.free_symbols and not equation.rhs.free_symbols and not _close(equation.lhs, equation.rhs):
            return "the answer is a false equation"
    if _is_number(gold_value) and _is_number(answer_value) and not _close(gold_value, answer_value):
        percent = "%" in gold or "%" in answer
        if not (percent and (_close(gold_value * 100, answer_value) or _close(gold_value, answer_value * 100))):
            return "the numbers differ"
    return ""


def _bracket(answer: str) -> str:
    """`{`, `(` or `[` if the answer is enclosed in such, else ""."""
    text = normalise(answer).replace("\\lbrace", "\\{")
    return "{" if text.startswith("\\{") else text[:1] if text[:1] in ("(", "[") else ""


def _equations(value: Any) -> list[Any]:
    from sympy import And, Eq

    if isinstance(value, Eq):
        return [value]
    if isinstance(value, And):
        return [part for part in value.args if isinstance(part, Eq)]
    return []


def _is_number(value: Any) -> bool:
    from sympy import Expr

    return isinstance(value, Expr) and bool(value.is_number)


def _close(one: Any, other: Any) -> bool:
    """Equal to 30 digits; to 6 places and 6 digits if either was given as a decimal."""
    from sympy import Float

    one, other = one.doit(), other.doit()  # math-verify keeps 50 % as 50 * (1/100), unevaluated
    difference, first, second = (abs(value.evalf(30, maxn=200)) for value in (one - other, one, other))
    if not (difference.is_Float or difference.is_Rational) or not first.is_finite or not second.is_finite:
        return bool(one == other)
    relative = 2e-6 if one.has(Float) or other.has(Float) else 1e-25
    return bool(difference <= relative * max(first, second))


def _write_line(fd: int, message: Any) -> None:
    view = memoryview(json.dumps(message).encode() + b"\n")
    while view:
        view = view[os.write(fd, view) :]
