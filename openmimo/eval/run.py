"""Evaluation: problems -> judged samples -> avg@k and pass@k (MiMo 3.5), through the same driver and judge as RL."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from openmimo.data.chat import Chat
from openmimo.eval.passk import average, mean_pass_at_k, paired_difference, sampling_error
from openmimo.log import progress
from openmimo.rollout.driver import Engine, Judge, Timing, stream
from openmimo.types import Group, Problem, Sampling


@dataclass(frozen=True)
class EvalConfig:
    temperature: float = 0.6  # MiMo 3.5
    top_p: float = 0.95  # MiMo 3.5
    max_new_tokens: int = 32_768  # MiMo 3.5: maths, code, science
    num_samples: int = 8
    """Samples a problem: the k of avg@k."""
    sweep_temperatures: tuple[float, ...] = (0.0, 0.3, 1.0)
    """Further temperatures at which SFT and RL are compared, each at its best."""
    sweep_samples: int = 4
    """Samples a problem in the sweep; greedy takes one."""
    max_active_requests: int = 256
    """Requests in the engine at once."""
    num_shown: int = 12
    """Problems whose responses are kept to read, a checkpoint; 0 is none."""


@dataclass(frozen=True)
class Evaluation:
    """Judged samples of one policy on one set of problems at one temperature."""

    groups: tuple[Group, ...]
    """In the order of the problems."""
    temperature: float

    def correct(self, kind: str | None = None) -> list[list[bool]]:
        """Per problem, per sample; samples the judge failed on are left out."""
        rows = [_judged(g) for g in self.groups if kind is None or g.problem.kind == kind]
        return [row for row in rows if row]

    def summary(self) -> dict[str, Any]:
        """Accuracy by kind as `{mean, low, high, n}`, and what lies beside it.

        Samples the judge failed on count among the statuses alone; a kind of which none is left is left out.

        Raises:
            ValueError: if the judge failed on every sample.
        """
        if not self.correct():
            raise ValueError(f"the judge failed on every sample of {len(self.groups)} problems; look at its verdicts")
        by_kind = sorted({g.problem.kind for g in self.groups if _judged(g)})
        families: dict[str, list[float]] = defaultdict(list)
        for group in self.groups:
            if judged := _judged(group):
                families[group.problem.family or group.problem.kind] += map(float, judged)
        rollouts = [r for g in self.groups for r in g.rollouts]
        statuses: dict[str, int] = defaultdict(int)
        for group in self.groups:
            for verdict in group.verdicts:
                statuses[verdict.status] += 1
        num_samples = min(len(row) for row in self.correct())
        ks = [k for k in (1, 2, 4, 8, 16, 32) if k <= num_samples]
        return {
            "temperature": self.temperature,
            "samples": num_samples,
            "accuracy": {kind: dataclasses.asdict(average(self.correct(kind))) for kind in by_kind},
            "sampling_error": {kind: sampling_error(self.correct(kind)) for kind in by_kind},
            "pass_at_k": {kind: {str(k): mean_pass_at_k(self.correct(kind), k) for k in ks} for kind in by_kind},
            "families": {name: fmean(values) for name, values in sorted(families.items())},
            "mean_length": fmean(len(r.token_ids) for r in rollouts),
            "truncated": fmean(float(r.finish_reason == "length") for r in rollouts),
            "statuses": dict(sorted(statuses.items())),
        }

    def mean(self) -> float:
        """Mean accuracy over all problems."""
        return average(self.correct()).mean


def evaluate(
    engine: Engine,
    judge: Judge,
    problems: Sequence[Problem],
    config: EvalConfig,
    *,
    chat: Chat,
    seed: int,
    temperature: float | None = None,
    num_samples: int | None = None,
    title: str = "evaluate",
    timing: Timing | None = None,
) -> Evaluation:
    """Judge `num_samples` samples of every problem.

    Args:
        timing: filled in, if given: where the seconds went.

    Raises:
        ValueError: without problems.
    """
    if not problems:
        raise ValueError("no problems to evaluate on; 0 is too few")
    at = config.temperature if temperature is None else temperature
    judged = stream(
        engine,
        judge,
        problems,
        render=lambda problem: chat.render_prompt(problem.prompt),
        decode=chat.decode,
        sampling=Sampling(
            config.max_new_tokens,
            temperature=at,
            top_p=config.top_p if at else 1.0,
            stop_token_ids=chat.stop_token_ids,
        ),
        num_samples=1 if at == 0.0 else num_samples or config.num_samples,
        seed=seed,
        max_active_requests=config.max_active_requests,
        timing=timing,
    )
    groups = progress(judged, title, total=len(problems), unit="problems")
    return Evaluation(tuple(sorted(groups, key=lambda g: g.launch)), at)


def gain(before: Evaluation, after: Evaluation) -> dict[str, float]:
    """after - before, with an interval paired by problem; a problem the judge failed on in either is left out.

    Raises:
        ValueError: if the two are not of the same problems, or none was judged in both.
    """
    if [g.problem.id for g in before.groups] != [g.problem.id for g in after.groups]:
        raise ValueError(
            f"a gain needs the same problems in both, got {len(before.groups)} and {len(after.groups)} that differ"
        )
    pairs = [(_judged(a), _judged(b)) for a, b in zip(before.groups, after.groups, strict=True)]
    both = [(a, b) for a, b in pairs if a and b]
    return dataclasses.asdict(paired_difference([a for a, _ in both], [b for _, b in both]))


def _judged(group: Group) -> list[bool]:
    """Which samples are right, those the judge failed on left out."""
    return [v.status == "accepted" for v in group.verdicts if v.status != "internal_error"]
