"""What a step's rollouts showed, as numbers. Pure. `facts` follow from seed and weights, `cost` from the clock too."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from statistics import fmean

from openmimo.rollout.driver import BatchResult
from openmimo.types import Group, Verdict

Mixes = Callable[[str, str], bool]
"""(prompt, response) -> whether the response mixes languages."""


def facts(batch: BatchResult, *, decode: Callable[[tuple[int, ...]], str], mixes: Mixes | None) -> dict[str, float]:
    """Means over the responses of the judged prefix, groups the judge failed on left out.

    Returns:
        `reward` in points; shares `accepted`, by kind `accepted_KIND` and by family `accepted/FAMILY`, `truncated`,
        `time_limit` (the verifier's) and `mixed_language`; `length` in tokens, also by outcome; `valid_share` and
        counts of groups.
    """
    found: dict[str, list[float]] = defaultdict(list)
    for group in batch.prefix:
        for rollout, verdict, points in zip(group.rollouts, group.verdicts, group.rewards or (), strict=False):
            accepted = float(verdict.status == "accepted")
            found["reward"].append(points)
            found["accepted"].append(accepted)
            found[f"accepted_{group.problem.kind}"].append(accepted)
            if group.problem.family:
                found[f"accepted/{group.problem.family}"].append(accepted)
            found["length"].append(len(rollout.token_ids))
            found[f"length_{'accepted' if accepted else 'rejected'}"].append(len(rollout.token_ids))
            found["truncated"].append(float(rollout.finish_reason == "length"))
            found["time_limit"].append(float(_ran_out_of_time(verdict)))
            if mixes:
                found["mixed_language"].append(float(mixes(group.problem.prompt, decode(rollout.token_ids))))
    return {
        **{name: fmean(values) for name, values in found.items()},
        "valid_share": sum(valid is True for valid in batch.outcomes) / max(1, len(batch.outcomes)),
        "groups": len(batch.groups),
        "prefix_groups": len(batch.prefix),
        "dropped_groups": sum(valid is None for valid in batch.outcomes),
    }


def cost(batch: BatchResult) -> dict[str, float]:
    """What the batch took beyond itself: depends on timing."""
    return {
        "generate_s": batch.timing.generate_s,
        "wait_for_judge_s": batch.timing.wait_for_judge_s,
        "idle": batch.timing.idle_ratio,
        "launched_groups": batch.stats.launched,
        "aborted_groups": batch.stats.aborted,
        "waste": batch.stats.waste,
        "known_groups": batch.num_known,
    }


def spread(groups: tuple[Group, ...], count: int) -> list[Group]:
    """`count` of the groups, evenly from first to last; all if there are fewer."""
    if len(groups) <= count:
        return list(groups)
    return [groups[n * len(groups) // count] for n in range(count)]


def _ran_out_of_time(verdict: Verdict) -> bool:
    return verdict.status == "time_limit" or any(test.status == "time_limit" for test in verdict.tests)
