"""Judge the answer of a maths problem (MiMo 3.2): rule-based accuracy alone.

The answer is the content of the last `\\boxed{}` after `</think>`. Equal normalised strings and pairs of plain integers
are decided here, at once; the rest is algebra for `math_equal.py`, in a process that can be killed (`verifier.py`).
Left out: proofs, and conversion of units.
"""

from __future__ import annotations

import re

from openmimo.judge.verifier import Verifier
from openmimo.types import Problem, Verdict

_MAX_ANSWER_CHARS = 2000
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


def quick_verdict(problem: Problem, text: str, *, function: str = "") -> Verdict | None:
    """The verdict, where it takes microseconds; None where a verifier has to look.

    Args:
        function: name of the user's own verifier, if there is one: then equal strings are for it to judge too.

    Raises:
        ValueError: for a problem without a gold answer.
    """
    if not problem.answer.strip():
        raise ValueError(f"maths problem {problem.id!r} has no answer")
    answer = extract_answer(text)
    if answer is None:
        return Verdict("no_answer", detail="no closed \\boxed{} after the thinking")
    if len(answer) > _MAX_ANSWER_CHARS:
        return Verdict("wrong_answer", detail=f"answer longer than {_MAX_ANSWER_CHARS} characters")
    equal = None if function else quick(problem.answer, answer)
    if equal is None:
        return None
    return Verdict("accepted" if equal else "wrong_answer", detail=answer[:200])


def judge_math(problem: Problem, text: str, verifier: Verifier) -> Verdict:
    """Judge one response; see `quick_verdict` for the errors. For many at once: `math_pool.MathPool`."""
    verdict = quick_verdict(problem, text, function=verifier.function)
    if verdict is not None:
        return verdict
    answer = extract_answer(text)
    assert answer is not None
    status, detail = verifier.compare(problem.answer, answer)
    return Verdict(status, detail=detail or answer[:200])
