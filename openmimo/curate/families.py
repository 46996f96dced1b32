"""Families of verifiable problems of our own, with solutions in several styles.

A family draws a problem of a given difficulty from an RNG; `solve` writes a response in one of three styles, as real
corpora hold them side by side:

* `worked`: reasoning step by step, then the answer;
* `direct`: the answer alone, right, but hard to predict without the steps;
* `unreliable`: worked, with one slip somewhere, so the answer is usually wrong. A stated share, at most a fifth.

No I/O, no hidden RNG. Responses follow decision 0023: `<think>...</think>`, then the last \\boxed{} or fenced block.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from openmimo.types import Problem, UnitTest

Style = Literal["worked", "direct", "unreliable"]
NUM_TESTS = 12
LABELS = "ABCDEFGH"


@dataclass(frozen=True)
class Drawn:
    """A problem with what its solutions are written from."""

    problem: Problem
    plan: Any


@dataclass(frozen=True)
class Family:
    name: str
    draw: Callable[[random.Random, int], Drawn]
    """(rng, difficulty) -> problem; difficulty is the number of steps."""
    solve: Callable[[Drawn, Style, random.Random], str]
    lesson: Callable[[random.Random], str]
    """A textbook page: the family's elementary facts, without problems."""


# ---------------------------------------------------------------- maths: a chain of operations


def draw_chain(rng: random.Random, difficulty: int) -> Drawn:
    """A start value and `difficulty` operations on it, one after the other, modulo 10."""
    start = rng.randrange(10)
    steps = [(LABELS[n], rng.choice("+-*"), rng.randrange(2, 10)) for n in range(difficulty)]
    shown = " ".join(f"{label} {operator} {number}." for label, operator, number in steps)
    prompt = f"Work modulo 10. Start {start}. {shown} End?"
    value = start
    for _, operator, number in steps:
        value = _apply(value, operator, number)
    problem = Problem(id=f"chain-{_key(prompt)}", prompt=prompt, kind="math", answer=str(value), family="chain")
    return Drawn(problem, (start, steps))


def solve_chain(drawn: Drawn, style: Style, rng: random.Random) -> str:
    """Worked: each step names its operation, then carries it out; every token follows from what stands near it."""
    if style == "direct":
        return f"\\boxed{{{drawn.problem.answer}}}"
    value, steps = drawn.plan
    slip = rng.randrange(len(steps)) if style == "unreliable" else -1
    lines = [f"Start {value}."]
    for n, (label, operator, number) in enumerate(steps):
        before, value = value, _apply(value, operator, number)
        if n == slip:
            value = (value + rng.choice((1, 2, 8, 9))) % 10
        lines.append(f"{label} {operator} {number}, {before} {operator} {number} = {value}.")
    return "<think> " + " ".join(lines) + f" </think> \\boxed{{{value}}}"


def chain_lesson(rng: random.Random) -> str:
    """A page of single sums, modulo 10."""
    facts = []
    for _ in range(16):
        a, operator, b = rng.randrange(10), rng.choice("+-*"), rng.randrange(10)
        facts.append(f"{a} {operator} {b} = {_apply(a, operator, b)}")
    return "Modulo 10: " + ", ".join(facts)


def _apply(a: int, operator: str, b: int) -> int:
    return {"+": a + b, "-": a - b, "*": a * b}[operator] % 10


# ---------------------------------------------------------------- code: a pipeline of clauses over a list


@dataclass(frozen=True)
class Clause:
    words: str
    code: str
    """A comprehension or slice over `xs`, assigned back to xs; `{k}` is the clause's number."""
    run: Callable[[list[int], int], list[int]]
    numbers: tuple[int, ...] = (0,)


# fmt: off
CLAUSES = (
    Clause("keep the even numbers", "[x for x in xs if x % 2 == 0]", lambda xs, k: [x for x in xs if x % 2 == 0]),
    Clause("keep the odd numbers", "[x for x in xs if x % 2 == 1]", lambda xs, k: [x for x in xs if x % 2 == 1]),
    Clause("drop numbers below {k}", "[x for x in xs if x >= {k}]", lambda xs, k: [x for x in xs if x >= k], (3, 4, 5)),
    Clause("drop numbers above {k}", "[x for x in xs if x <= {k}]", lambda xs, k: [x for x in xs if x <= k], (5, 6, 7)),
    Clause("drop every {k}", "[x for x in xs if x != {k}]", lambda xs, k: [x for x in xs if x != k], (1, 2, 3, 4, 5)),
    Clause("add {k} to each", "[x + {k} for x in xs]", lambda xs, k: [x + k for x in xs], (1, 2, 3, 4, 5)),
    Clause("multiply each by {k}", "[x * {k} for x in xs]", lambda xs, k: [x * k for x in xs], (2, 3, 4)),
    Clause("square each", "[x * x for x in xs]", lambda xs, k: [x * x for x in xs]),
    Clause("negate each", "[-x for x in xs]", lambda xs, k: [-x for x in xs]),
    Clause("reverse the list", "xs[::-1]", lambda xs, k: xs[::-1]),
    Clause("sort the list", "sorted(xs)", lambda xs, k: sorted(xs)),
    Clause("take the first {k}", "xs[:{k}]", lambda xs, k: xs[:k], (2, 3, 4)),
    Clause("skip the first {k}", "xs[{k}:]", lambda xs, k: xs[k:], (1, 2)),
)
# fmt: on

RESULTS = (
    ("the sum", "sum(xs)", sum),
    ("the count", "len(xs)", len),
    ("the list", "xs", list),
    ("the largest, or 0", "max(xs, default=0)", lambda xs: max(xs, default=0)),
    ("the smallest, or 0", "min(xs, default=0)", lambda xs: min(xs, default=0)),
)


def draw_pipeline(rng: random.Random, difficulty: int) -> Drawn:
    """A function that applies `difficulty` clauses in order and returns a result; 12 tests."""
    steps = []
    for _ in range(difficulty):
        clause = rng.choice(CLAUSES)
        steps.append((clause, rng.choice(clause.numbers)))
    result = rng.choice(RESULTS)
    words = ", ".join(clause.words.format(k=k) for clause, k in steps)
    prompt = f"Write f(xs): {words}, return {result[0]}."
    tests = []
    for n in range(NUM_TESTS):
        # Short, plain lists first and longer, wider ones later: what a wrong program passes differs.
        xs = [rng.randrange(0, 6 + 2 * n) for _ in range(2 + 2 * n // 3)]
        out = list(xs)
        for clause, k in steps:
            out = clause.run(out, k)
        tests.append(UnitTest(json.dumps([xs]), json.dumps(result[2](out))))
    code = _program([(clause.code.format(k=k)) for clause, k in steps], result[1])
    problem = Problem(
        id=f"pipeline-{_key(prompt)}", prompt=prompt, kind="code", tests=tuple(tests), entry_point="f",
        family="pipeline", solution=code,
    )  # fmt: skip
    return Drawn(problem, (steps, result))


def solve_pipeline(drawn: Drawn, style: Style, rng: random.Random) -> str:
    steps, result = drawn.plan
    if style == "direct":
        expression = "xs"
        for clause, k in steps:
            expression = _inline(clause.code.format(k=k), expression)
        return _fence(f"def f(xs):\n    return {_inline(result[1], expression)}")
    steps = list(steps)
    if style == "unreliable":
        at = rng.randrange(len(steps))
        clause, k = steps[at]
        others = [n for n in range(1, 9) if n != k]
        if clause.numbers != (0,) and rng.random() < 0.5:
            steps[at] = (clause, rng.choice(others))
        elif rng.random() < 0.5 and len(steps) > 1:
            del steps[at]
        else:
            wrong = rng.choice([c for c in CLAUSES if c is not clause])
            steps[at] = (wrong, rng.choice(wrong.numbers))
    return _fence(_program([clause.code.format(k=k) for clause, k in steps], result[1]))


def pipeline_lesson(rng: random.Random) -> str:
    """A page of single clauses, in words and in code."""
    lines = []
    for _ in range(5):
        clause = rng.choice(CLAUSES)
        k = rng.choice(clause.numbers)
        lines.append(f"# {clause.words.format(k=k)}\nxs = {clause.code.format(k=k)}")
    return "\n".join(lines)


def _program(lines: list[str], result: str) -> str:
    body = "".join(f"    xs = {line}\n" for line in lines)
    return f"def f(xs):\n{body}    return {result}"


def _inline(code: str, inner: str) -> str:
    """The clause over an expression instead of the name xs, which stands in it once."""
    return re.sub(r"\bxs\b", lambda _: inner, code)


def _fence(code: str) -> str:
    return f"```python\n{code}\n```"


def _key(text: str) -> str:
    import hashlib

    return hashlib.sha256(text.encode()).hexdigest()[:12]


FAMILIES = {
    "chain": Family("chain", draw_chain, solve_chain, chain_lesson),
    "pipeline": Family("pipeline", draw_pipeline, solve_pipeline, pipeline_lesson),
}
