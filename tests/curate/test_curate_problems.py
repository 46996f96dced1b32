"""RL problem curation on hand-made groups: every reason of MiMo 3.2, and the levels of tests."""

from collections.abc import Sequence

import pytest

from openmimo.curate.problems import curate, pass_rate, rates_by_test, with_levels
from openmimo.types import Group, Problem, Rollout, Status, TestResult, UnitTest, Verdict

ROLLOUT = Rollout("p", (1,), (2,), (-0.5,), 0, "stop")


def maths(name: str) -> Problem:
    return Problem(name, name, "math", answer="1")


def code(name: str, num_tests: int = 2, solution: str = "") -> Problem:
    tests = tuple(UnitTest("[1]", "1") for _ in range(num_tests))
    return Problem(name, name, "code", tests=tests, entry_point="f", solution=solution)


def verdict(*statuses: Status) -> Verdict:
    worst = next((s for s in statuses if s != "accepted"), "accepted")
    return Verdict(worst, tuple(TestResult(s) for s in statuses))


def group(problem: Problem, verdicts: list[Verdict]) -> Group:
    return Group(problem, (ROLLOUT,) * len(verdicts), tuple(verdicts))


def right_of_16(problem: Problem, right: int) -> Group:
    return group(problem, [Verdict("accepted")] * right + [Verdict("wrong_answer")] * (16 - right))


def levels(rates: Sequence[float]) -> list[int]:
    return [2 if rate < 0.3 else 1 if rate < 0.7 else 0 for rate in rates]


def reasons(*groups: Group, extra: tuple[Problem, ...] = (), golden: str = "accepted") -> dict[str, int]:
    problems = [g.problem for g in groups] + list(extra)
    return curate(problems, groups, levels=levels, golden=lambda p: Verdict(golden)).counts  # type: ignore[arg-type]


def test_mathematics_above_nine_tenths_is_dropped() -> None:
    kept = [right_of_16(maths(f"m{n}"), n) for n in (0, 1, 14)]  # 14/16 = 0.875
    counts = reasons(*kept, right_of_16(maths("m15"), 15), right_of_16(maths("m16"), 16))
    assert counts == {"in": 5, "kept": 3, "solved": 2}


def test_exactly_nine_tenths_stays() -> None:
    at = group(maths("a"), [Verdict("accepted")] * 9 + [Verdict("wrong_answer")])
    assert reasons(at)["kept"] == 1


def test_code_without_tests_is_dropped_before_anything_is_run() -> None:
    empty = code("none", num_tests=0, solution="def f(x): return x")

    def golden(problem: Problem) -> Verdict:
        raise AssertionError("never asked")

    assert curate([empty], [], levels=levels, golden=golden).counts == {"in": 1, "kept": 0, "no_tests": 1}


def test_code_whose_golden_solution_fails_is_dropped() -> None:
    some = group(code("g", solution="x"), [verdict("accepted", "wrong_answer")] * 4)
    assert reasons(some, golden="wrong_answer") == {"in": 1, "kept": 0, "golden_fails": 1}
    assert reasons(some)["kept"] == 1


def test_code_without_a_solution_needs_one_test_passed_once() -> None:
    nobody = group(code("n"), [verdict("wrong_answer", "time_limit")] * 16)
    once = group(code("o"), [verdict("wrong_answer", "wrong_answer")] * 15 + [verdict("wrong_answer", "accepted")])
    with_solution = group(code("s", solution="x"), [verdict("wrong_answer", "wrong_answer")] * 16)
    assert reasons(nobody, once, with_solution) == {"in": 3, "kept": 2, "no_test_passed": 1}


def test_code_that_every_rollout_solves_is_dropped_and_one_failure_keeps_it() -> None:
    perfect = group(code("p"), [verdict("accepted", "accepted")] * 16)
    nearly = group(
        code("q"), [verdict("accepted", "accepted")] * 15 + [verdict("accepted", "wrong_answer")]
    )  # 0.94, above mathematics' limit
    assert reasons(perfect, nearly) == {"in": 2, "kept": 1, "all_perfect": 1}


def test_a_problem_nobody_rolled_out_is_counted_as_such() -> None:
    assert reasons(extra=(maths("m"), code("c"))) == {"in": 2, "kept": 0, "not_rolled_out": 2}


def test_an_internal_error_is_nobodys_failure() -> None:
    broken = Verdict("internal_error")
    mixed = group(code("c"), [verdict("accepted", "wrong_answer"), broken, broken])
    assert rates_by_test(mixed) == (1.0, 0.0)
    assert pass_rate(group(maths("m"), [Verdict("accepted"), broken])) == 1.0
    assert pass_rate(group(maths("m"), [broken])) == 0.0


def test_levels_come_from_the_share_that_passes_each_test() -> None:
    problem = code("c", num_tests=3)
    rows = [verdict("accepted", "accepted" if n < 2 else "wrong_answer", "wrong_answer") for n in range(4)]
    judged = group(problem, rows)
    assert rates_by_test(judged) == (1.0, 0.5, 0.0)
    assert [t.level for t in with_levels(problem, judged, levels).tests] == [0, 1, 2]
    never_ran = group(problem, [Verdict("compile_error"), verdict("accepted", "accepted", "accepted")])
    assert rates_by_test(never_ran) == pytest.approx((0.5, 0.5, 0.5))


def test_a_result_that_was_inferred_counts_in_no_tests_statistics() -> None:
    fused = Verdict("time_limit", (TestResult("time_limit"), TestResult("time_limit", inferred=True)))
    assert rates_by_test(group(code("c"), [fused, verdict("accepted", "accepted")])) == (0.5, 1.0)


def test_kept_problems_stay_in_order_with_their_levels() -> None:
    groups = [right_of_16(maths("a"), 3), group(code("b"), [verdict("accepted", "wrong_answer")] * 4)]
    kept = curate([g.problem for g in groups], groups, levels=levels).problems
    assert [p.id for p in kept] == ["a", "b"] and [t.level for t in kept[1].tests] == [0, 2]
