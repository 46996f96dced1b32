"""Answers of maths problems."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openmimo.judge.math import extract_answer, judge_math, normalise, quick, quick_verdict
from openmimo.judge.verifier import Verifier
from openmimo.types import Problem


@pytest.fixture(scope="module")
def verifier():
    with Verifier(wall_s=5.0) as verifier:
        yield verifier


def problem(answer):
    return Problem("p", "", "math", answer=answer)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"so \boxed{1} or rather \boxed{\frac{1}{2}}.", r"\frac{1}{2}"),
        (r"<think>\boxed{1}</think> the answer is 2", None),
        (r"<think>\boxed{1}</think> \boxed{2}", "2"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{\boxed{5}}", "5"),
        (r"\boxed{1} and then \boxed{2", None),
        ("7", None),
        (r"\boxed{}", ""),
        ("\\boxed{\\", None),
    ],
)
def test_the_last_box_after_the_thinking_is_the_answer(text, answer):
    assert extract_answer(text) == answer


@pytest.mark.parametrize(
    ("gold", "answer", "equal"),
    [
        ("17", " 17 ", True), ("17", "18", False), ("-3", "3", False), ("17", "$17$", True), ("17", "017", None),
        (r"\frac{1}{2}", r"\dfrac{1}{2}", True), ("(1, 2)", r"\left(1,2\right)", True), ("12", "1 2", None),
        ("10,000", "10000", None), ("0.5", r"\frac{1}{2}", None), ("5", "", False), ("x = 3.", "x=3", True),
    ],
)  # fmt: skip
def test_what_needs_no_algebra_is_decided_at_once(gold, answer, equal):
    assert quick(gold, answer) is equal


@given(st.text(max_size=60))
def test_normalising_and_extracting_survive_anything(text):
    assert normalise(normalise(text)) == normalise(normalise(normalise(text)))
    extract_answer("\\boxed{" + text)


@given(st.integers(), st.integers())
def test_integers_are_equal_as_integers(one, other):
    assert quick(str(one), str(other)) is (one == other)


@pytest.mark.parametrize("text", ["the answer is 5", r"<think>\boxed{5}</think> so", r"\boxed{5", ""])
def test_no_closed_box_after_the_thinking_is_no_answer(text):
    verdict = quick_verdict(problem("5"), text)
    assert (verdict.status, verdict.detail) == ("no_answer", "no closed \\boxed{} after the thinking")


def test_a_users_verifier_judges_equal_strings_too():
    assert quick_verdict(problem("5"), r"\boxed{5}").status == "accepted"
    assert quick_verdict(problem("5"), r"\boxed{5}", function="module:function") is None
    assert quick_verdict(problem("5"), "5", function="module:function").status == "no_answer"


def test_a_problem_without_answer_is_refused():
    with pytest.raises(ValueError, match="maths problem 'p' has no answer"):
        quick_verdict(problem(" "), "\\boxed{5}")


ACCEPTED = [
    ("0.5", r"\frac{1}{2}"), (r"\frac{1}{3}", "0.333333"), ("10,000", "10000"), ("x^2+1", "1+x^2"), ("5", "x=5"),
    (r"50\%", "0.5"), (r"50\%", "50"), ("1,-2", "-2,1"), (r"\text{Evelyn}", "Evelyn"), (r"90^\circ", "90"),
    (r"\frac{14}{3}", r"4\frac{2}{3}"), (r"\sqrt{2}", "1.414213562"), ("y=2x+3", "2x+3"), ("12", r"3 \cdot 4"),
    (r"\{1,2\}", r"\{2,1\}"), ("5", "6-1=5"),
]  # fmt: skip
REFUSED = [
    (r"(1,2)", r"\{1,2\}"), (r"\{1,2\}", "(1,2)"), ("[1,2]", "(1,2)"), ("(1,2)", "(2,1)"), ("5", "6=5"),
    ("5", r"\sqrt{36}=5"), ("5", "5, 6"), ("5", r"5 \text{ or } 6"), (r"\frac{1}{2^{99}}", r"\frac{1}{2^{98}}"),
    (r"\frac{1}{3}", "0.3333"), ("1000000007", "999999937.0"), ("0", "10^{-20}"), ("12", "1 2"), ("5", r"\text{foo} 5"),
    ("5", "x=6=5"),
]  # fmt: skip


@pytest.mark.parametrize(("gold", "answer"), ACCEPTED)
def test_equal_answers_are_accepted(gold, answer, verifier):
    verdict = judge_math(problem(gold), f"\\boxed{{{answer}}}", verifier)
    assert verdict.status == "accepted", verdict


@pytest.mark.parametrize(("gold", "answer"), REFUSED)
def test_false_accepts_are_refused(gold, answer, verifier):
    verdict = judge_math(problem(gold), f"\\boxed{{{answer}}}", verifier)
    assert verdict.status == "wrong_answer", verdict


@pytest.mark.parametrize(
    ("gold", "answer", "status"),
    [
        (r"\{1,2\}", "(1,2)", "wrong_answer"), ("(1,2)", r"\{1,2\}", "wrong_answer"),
        (r"\frac{1}{2^{99}}", r"\frac{1}{2^{98}}", "wrong_answer"), (r"\frac{1}{2^{99}}", "2^{-99}", "accepted"),
        ("5", "6=5", "wrong_answer"), (r"\frac{14}{3}", r"\frac{14}{3}", "accepted"),
        (r"\begin{pmatrix} 1/5 \\ -18/5 \end{pmatrix}", r"\begin{pmatrix} 1/5 \\ -18/5 \end{pmatrix}", "accepted"),
    ],
)  # fmt: skip
def test_the_known_mistakes_of_math_verify_are_none_of_ours(gold, answer, status, verifier):
    assert verifier.compare(gold, answer)[0] == status


def test_deep_nesting_ends_at_the_deadline_and_the_next_answer_is_judged():
    with Verifier(wall_s=1.0) as verifier:
        verifier.compare("1", "1+0")
        for answer in ("9^{9^{9^{9^{9}}}}", "(" * 300 + "x" + ")^{2}" * 300, r"\sqrt{2+" * 150 + "2" + "}" * 150):
            started_s = time.monotonic()
            status, _ = verifier.compare("3", answer)
            assert status in ("time_limit", "wrong_answer")
            assert time.monotonic() - started_s < 20.0  # it may have waited for a core
        assert verifier.compare("0.5", "1/2") == ("accepted", "")


def test_a_gold_answer_that_cannot_be_read_is_the_problems_fault(verifier):
    status, detail = verifier.compare(r"\frac{", "5")
    assert status == "internal_error"
    assert "the problem's gold answer cannot be parsed: '\\\\frac{'" in detail


def test_an_answer_that_cannot_be_read_is_wrong(verifier):
    assert verifier.compare("5", r"\frac{")[0] == "wrong_answer"
