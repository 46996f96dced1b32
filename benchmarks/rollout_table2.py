"""MiMo's Table 2 on the stated workload: the paper's rows beside ours.

    python benchmarks/rollout_table2.py [benchmarks/results/rollout_table2.json]

Claim: each overall speed-up of the paper's five methods within 10 %; ours at least 3.0x overall with idle at most 22 %
and waste at most 11 %, the batch being that of naive sampling. The workload (openmimo/rollout/workload.py: paper) was
chosen by a random search over the paper's rows alone, before ours was tuned. `live_cost` came after: it is arithmetic,
no fit, and only methods that fill slots by the response feel it.

Figures: every method over five seeds of five steps. Over two seeds: the frontier of overall speed-up, idle and waste
over the risk, with slots filled by the response and with a group a worker; the most that any schedule could reach with
a group a worker; ours where curation's pass rates and lengths still hold for every problem, and where live responses
cost one another nothing. `first_done`'s length bias is the mean length of its groups over that of the naive batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import record

from openmimo.rollout.compare import METHODS, OURS, RISK, Method, Row, compare, run
from openmimo.rollout.workload import Drawn, Workload, paper

NUM_SEEDS = 5
RISKS = (0.001, 0.02, 0.1, 0.3, 0.5)
TABLE_2: dict[str, dict[str, float]] = {
    "static": {"overall_speedup": 2.45, "rollout_speedup": 2.82, "idle_ratio": 0.708, "normalized_idle": 0.36},
    "naive": {
        "overall_speedup": 1.0, "rollout_speedup": 1.0, "idle_ratio": 0.693, "normalized_idle": 1.0, "waste": 0.221,
    },
    "continuous": {
        "overall_speedup": 1.99, "rollout_speedup": 2.20, "idle_ratio": 0.388, "normalized_idle": 0.25, "waste": 0.139,
    },
    "async": {
        "overall_speedup": 2.09, "rollout_speedup": 2.34, "idle_ratio": 0.340, "normalized_idle": 0.21, "waste": 0.164,
    },
    "early_termination": {
        "overall_speedup": 2.29, "rollout_speedup": 2.61, "idle_ratio": 0.277, "normalized_idle": 0.15, "waste": 0.129,
    },
}  # fmt: skip
"""MiMo 3.4.1."""
FIELDS = ("overall_speedup", "rollout_speedup", "idle_ratio", "normalized_idle", "waste")
NAIVE = {"naive": METHODS["naive"]}


def main() -> None:
    seeds = {seed: paper.groups(seed) for seed in range(NUM_SEEDS)}
    compared = [compare(paper, groups) for groups in seeds.values()]
    methods = {rows[0].method: figures(rows) for rows in zip(*compared, strict=True)}
    for name, published in TABLE_2.items():
        methods[name]["paper"] = published
        methods[name]["overall_over_paper"] = round(
            methods[name]["overall_speedup"]["median"] / published["overall_speedup"], 3
        )
    few = {seed: seeds[seed] for seed in range(2)}
    by_worker = replace(OURS, by_response=False)
    holding = replace(paper, changed=0.0)
    flat = replace(paper, live_cost=0.0)
    biases = [rows[-1].mean_length / rows[1].mean_length for rows in compared]
    record.write(
        "each overall speed-up of Table 2 within 10 %; ours at least 3.0x overall, idle <= 22 %, waste <= 11 %",
        "python benchmarks/rollout_table2.py benchmarks/results/rollout_table2.json",
        {
            "seeds": NUM_SEEDS,
            "workload": asdict(paper),
            "risk": RISK,
            "methods": methods,
            "same_batch_as_naive": all(same_batch(rows) for rows in compared),
            "first_done_length_over_naive": record.spread(biases),
            "frontier_by_response": {str(risk): ours(paper, few, OURS, risk) for risk in RISKS},
            "frontier_by_worker": {str(risk): ours(paper, few, by_worker, risk) for risk in RISKS},
            "overall_speedup_by_worker_at_most": record.spread([at_most(groups) for groups in few.values()]),
            "nothing_changed_since_curation": {
                "ours": ours(holding, groups_of(holding), OURS, RISK),
                "ours -by_response": ours(holding, groups_of(holding), by_worker, RISK),
            },
            "live_cost_0": ours(flat, groups_of(flat), OURS, RISK),
        },
    )


def figures(rows: Sequence[Row]) -> dict[str, Any]:
    """One method over the seeds."""
    return {name: record.spread([getattr(row, name) for row in rows]) for name in FIELDS}


def ours(work: Workload, seeds: Mapping[int, Drawn], method: Method, risk: float) -> dict[str, float]:
    """Medians of the three that are claimed."""
    rows = [compare(work, groups, {**NAIVE, "ours": method}, risk=risk)[1] for groups in seeds.values()]
    found = figures(rows)
    return {name: found[name]["median"] for name in ("overall_speedup", "idle_ratio", "waste")}


def groups_of(work: Workload) -> dict[int, Drawn]:
    return {seed: work.groups(seed) for seed in range(2)}


def same_batch(rows: list[Row]) -> bool:
    return len({row.selected for row in rows if row.method not in ("static", "first_done")}) == 1


def at_most(groups: Drawn) -> float:
    """Naive's time over that of the selected prefixes on workers that are never idle, with nothing beside them."""
    naive = run(paper, groups, METHODS["naive"])
    naive_s = sum(step.makespan_s + paper.train_s for step in naive)
    tasks = [groups.task(number, launch) for number, step in enumerate(naive) for launch in range(step.prefix_end)]
    return naive_s / (sum(task.rollout_s for task in tasks) / paper.num_workers + paper.steps * paper.train_s)


if __name__ == "__main__":
    main()
