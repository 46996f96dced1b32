"""RL problem curation (MiMo 3.2): which problems are worth training on, and how hard each test is.

Pure: judged rollouts come in, kept problems go out, every drop counted with its reason. The steps that need text alone
(no proof, no contamination, no duplicates) come before, in `data`; these need verdicts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from openmimo.types import Group, Problem, Verdict

MOST_SOLVED = 0.9  # MiMo 3.2: pass rate above 90 % is dropped


@dataclass(frozen=True)
class Curated:
    problems: tuple[Problem, ...]
    """In the order given, tests with their difficulty level."""
    counts: dict[str, int]
    """`in`, `kept`, and one count a reason."""


def curate(
    problems: Sequence[Problem],
    groups: Iterable[Group],
    *,
    levels: Callable[[Sequence[float]], Sequence[int]],
    golden: Callable[[Problem], Verdict] | None = None,
    most_solved: float = MOST_SOLVED,
) -> Curated:
    """Drop what teaches nothing; set the level of every test from the share of rollouts that pass it.

    Mathematics: dropped when over `most_solved` of the rollouts are right. Code: dropped without tests; when the golden
    solution fails any test; without a golden solution, when no rollout passes any test; when every rollout is perfect.

    Args:
        groups: one per problem, judged rollouts of the SFT model; a problem without one, or of which
            the judge could say nothing, is dropped as `not_rolled_out`.
        levels: pass rates of a problem's tests, 0 to 1 -> their difficulty levels.
        golden: judges a code problem's golden solution.
    """
    by_id = {group.problem.id: group for group in groups}
    counts = Counter({"in": 0, "kept": 0})
    kept = []
    for problem in problems:
        counts["in"] += 1
        reason = _reason(problem, by_id.get(problem.id), golden, most_solved)
        counts[reason or "kept"] += 1
        if reason is None:
            kept.append(with_levels(problem, by_id[problem.id], levels))
    return Curated(tuple(kept), dict(counts))


def pass_rate(group: Group) -> float:
    """Share of rollouts whose verdict is accepted, internal errors left out."""
    judged = [v for v in group.verdicts if v.status != "internal_error"]
    return sum(v.status == "accepted" for v in judged) / len(judged) if judged else 0.0


def rates_by_test(group: Group) -> tuple[float, ...]:
    """Share of rollouts that pass each test; a response that never ran passed none, one inferred counts nowhere."""
    judged = [v for v in group.verdicts if v.status != "internal_error"]
    num_tests = len(group.problem.tests)
    passed = [0] * num_tests
    counted = [len(judged)] * num_tests
    for verdict in judged:
        for n, result in enumerate(verdict.tests[:num_tests]):
            passed[n] += result.status == "accepted"
            counted[n] -= result.inferred
    return tuple(p / max(1, c) for p, c in zip(passed, counted, strict=True))


def with_levels(problem: Problem, group: Group, levels: Callable[[Sequence[float]], Sequence[int]]) -> Problem:
    """The problem with every test's difficulty level set."""
    found = levels(rates_by_test(group))
    tests = tuple(replace(test, level=level) for test, level in zip(problem.tests, found, strict=True))
    return replace(problem, tests=tests)


def _reason(
    problem: Problem, group: Group | None, golden: Callable[[Problem], Verdict] | None, most_solved: float
) -> str | None:
    if problem.kind == "code" and not problem.tests:
        return "no_tests"
    if problem.kind == "code" and problem.solution and golden and golden(problem).status != "accepted":
        return "golden_fails"
    if group is None or all(verdict.status == "internal_error" for verdict in group.verdicts):
        return "not_rolled_out"
    if problem.kind == "code":
        if not problem.solution and not any(rates_by_test(group)):
            return "no_test_passed"
        return "all_perfect" if pass_rate(group) >= 1.0 else None
    return "solved" if pass_rate(group) > most_solved else None
