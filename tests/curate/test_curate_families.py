"""Problems of our own: every answer checked by doing the problem again, without the judge."""

import json
import random
import re

import pytest

from openmimo.curate.families import FAMILIES, NUM_TESTS, Drawn
from openmimo.types import Problem


def boxed(text: str) -> str:
    found = re.findall(r"\\boxed\{([^{}]*)\}", text.rpartition("</think>")[2])
    return found[-1] if found else ""


def solve_chain_again(prompt: str) -> str:
    """Do the operations of the prompt's own words, one after the other."""
    match = re.fullmatch(r"Work modulo 10\. Start (\d)\. (.*)\. End\?", prompt)
    assert match
    value = int(match[1])
    for step in match[2].split(". "):
        _, operator, number = step.split(" ")
        value = eval(f"{value} {operator} {number}") % 10
    return str(value)


def passes(problem: Problem, response: str) -> bool:
    """Run the response's code on every test, in this process: it is our own."""
    blocks = re.findall(r"```python\n(.*?)\n```", response, re.S)
    space: dict[str, object] = {}
    exec(blocks[-1], space)
    function = space[problem.entry_point]
    assert callable(function)
    return all(function(*json.loads(t.input)) == json.loads(t.expected) for t in problem.tests)


def right(drawn: Drawn, response: str) -> bool:
    if drawn.problem.kind == "code":
        return passes(drawn.problem, response)
    return boxed(response) == drawn.problem.answer


def draws(name: str, number: int) -> list[tuple[Drawn, random.Random]]:
    rng = random.Random(f"test:{name}")
    return [(FAMILIES[name].draw(rng, 2 + n % 4), rng) for n in range(number)]


def test_the_gold_answer_of_a_chain_is_what_its_words_say() -> None:
    for drawn, _ in draws("chain", 300):
        assert solve_chain_again(drawn.problem.prompt) == drawn.problem.answer


def test_the_tests_of_a_pipeline_are_what_its_words_say() -> None:
    """The clauses are parsed from the prompt and done by hand-written steps, apart from the family's own."""
    for drawn, _ in draws("pipeline", 200):
        match = re.fullmatch(r"Write f\(xs\): (.*), return (the [a-z]+)(?:, or 0)?\.", drawn.problem.prompt)
        assert match
        for test in drawn.problem.tests:
            xs = list(json.loads(test.input)[0])
            for clause in match[1].split(", "):
                xs = do(clause, xs)
            result = {"the sum": sum(xs), "the count": len(xs), "the list": xs}
            result |= {"the largest": max(xs, default=0), "the smallest": min(xs, default=0)}
            assert json.loads(test.expected) == result[match[2]], drawn.problem.prompt


def do(clause: str, xs: list[int]) -> list[int]:
    number = re.search(r"\d+", clause)
    k = int(number[0]) if number else 0
    out: list[int] = []
    if clause == "reverse the list":
        return list(reversed(xs))
    if clause == "sort the list":
        return sorted(xs)
    if clause.startswith(("take", "skip")):
        return xs[:k] if clause.startswith("take") else xs[k:]
    for x in xs:
        keeps = {
            "keep the even numbers": x % 2 == 0,
            "keep the odd numbers": x % 2 != 0,
            f"drop numbers below {k}": not x < k,
            f"drop numbers above {k}": not x > k,
            f"drop every {k}": x != k,
        }
        changes = {f"add {k} to each": x + k, f"multiply each by {k}": x * k, "square each": x**2, "negate each": 0 - x}
        assert clause in keeps or clause in changes, clause
        if clause in changes:
            out.append(changes[clause])
        elif keeps[clause]:
            out.append(x)
    return out


@pytest.mark.parametrize("name", sorted(FAMILIES))
@pytest.mark.parametrize("style", ["worked", "direct"])
def test_worked_and_direct_answers_are_right(name: str, style: str) -> None:
    for drawn, rng in draws(name, 300):
        response = FAMILIES[name].solve(drawn, style, rng)  # type: ignore[arg-type]
        assert right(drawn, response), (drawn.problem.prompt, response)


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_unreliable_answers_are_usually_wrong_and_look_like_worked_ones(name: str) -> None:
    wrong = 0
    for drawn, rng in draws(name, 300):
        response = FAMILIES[name].solve(drawn, "unreliable", rng)
        worked = FAMILIES[name].solve(drawn, "worked", rng)
        assert response.startswith(worked[:8])
        wrong += not right(drawn, response)
    assert wrong > 0.6 * 300


def test_every_line_of_a_worked_chain_is_true() -> None:
    for drawn, rng in draws("chain", 200):
        thought = FAMILIES["chain"].solve(drawn, "worked", rng).split("</think>")[0].removeprefix("<think> ")
        for line in thought.strip().split("; ")[1:]:
            sum_, value = re.findall(r"(\d [-+*] \d) = (\d)", line)[-1]
            assert eval(sum_) % 10 == int(value), line


def test_lessons_tell_the_truth() -> None:
    rng = random.Random(0)
    for _ in range(50):
        for expression, value in re.findall(r"(\d [-+*] \d) = (\d)", FAMILIES["chain"].lesson(rng)):
            assert eval(expression) % 10 == int(value)
        lines = FAMILIES["pipeline"].lesson(rng).split("\n")
        for words, code in zip(lines[::2], lines[1::2], strict=True):
            space = {"xs": [3, 1, 4, 1, 5, 9, 2, 6]}
            exec(code, space)
            assert space["xs"] == do(words.removeprefix("# "), [3, 1, 4, 1, 5, 9, 2, 6])


def test_problems_are_ready_for_the_judge() -> None:
    for name in FAMILIES:
        for drawn, _ in draws(name, 50):
            problem = drawn.problem
            assert problem.family == name and problem.id.startswith(name)
            if problem.kind == "code":
                assert len(problem.tests) == NUM_TESTS and problem.entry_point == "f" and problem.solution
                assert passes(problem, f"```python\n{problem.solution}\n```")
            else:
                assert problem.answer.isdigit() and not problem.tests
    chain, longer = (FAMILIES["chain"].draw(random.Random(1), n).problem.prompt for n in (3, 6))
    assert chain.count(".") == 3 + 2 and longer.count(".") == 6 + 2
