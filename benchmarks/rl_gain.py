"""Claim: RL lifts held-out accuracy over SFT by 10 points, also over SFT continued on its own accepted samples.

    python benchmarks/rl_gain.py RUN [RUN ...] [benchmarks/results/rl_gain.json]

Each RUN is a finished `openmimo run tiny --seed S`: a pipeline of its own, pages to RL. For each, on held-out problems:

* SFT at temperature 0.6 and at its best of the sweep, and RL at 0.6, as the run's own evaluation has them;
* `continued`: SFT goes on with its own accepted responses (rejection sampling). It samples as many responses to the
  same problems, at the same temperature and length, as RL did in all of its steps, and trains on those accepted as long
  as RL trained: equally many slots, with SFT's optimizer and rate.

Gains are paired by problem, intervals 95 %, by bootstrap over problems; over all runs, over all of their problems.
"""

from __future__ import annotations

import json
import random
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import record
import torch

from openmimo.data.chat import Chat
from openmimo.data.pack import Sample
from openmimo.engine.engine import Engine
from openmimo.eval.passk import paired_difference
from openmimo.eval.run import Evaluation, evaluate
from openmimo.judge.pool import JudgePool
from openmimo.log import read_metrics
from openmimo.model.hf import load_folder
from openmimo.model.mimo import MiMo
from openmimo.recipes.tiny import tiny
from openmimo.rows import read_problems
from openmimo.train.sft import finetune
from openmimo.types import Group

RECIPE = tiny()
AT, THREADS = RECIPE.eval.temperature, 1


def main() -> None:
    runs = [Path(word) for word in sys.argv[1:] if not word.endswith(".json")]
    torch.set_num_threads(THREADS)
    found = {str(json.loads((run / "run.json").read_text())["seed"]): of_run(run) for run in runs}
    pooled = {
        name: pair(
            [row for f in found.values() for row in f["rows"][other]],
            [r for f in found.values() for r in f["rows"]["rl"]],
        )
        for name, other in (
            ("over SFT", "sft"),
            ("over SFT at its best", "sft best"),
            ("over SFT continued", "continued"),
        )
    }
    for row in found.values():
        del row["rows"]
    record.write(
        "RL over SFT, over SFT at its best temperature and over SFT continued on its own accepted samples",
        "python benchmarks/rl_gain.py RUN ...",
        {"unit": "fractions of 1", "temperature": AT, "all runs": pooled, "by seed": found},
        threads=THREADS,
    )


def of_run(run: Path) -> dict[str, Any]:
    problems = read_problems(run / "data" / "problems" / "held_out.jsonl")
    seed = int(json.loads((run / "run.json").read_text())["seed"])
    temperatures = (AT, *RECIPE.eval.sweep_temperatures)
    with JudgePool(RECIPE.judge.num_workers, RECIPE.judge) as judge:
        sft = [looked_at(run, load_folder(run / "models" / "draft"), judge, problems, seed, t) for t in temperatures]
        rl = looked_at(run, load_folder(run / "models" / "rl"), judge, problems, seed, AT)
        policy, facts = continued(run, judge, seed)
        further = looked_at(run, policy, judge, problems, seed, AT)
    best = max(sft, key=Evaluation.mean)
    kept = {"sft": sft[0], "sft best": best, "continued": further, "rl": rl}
    rows = {name: evaluation.correct() for name, evaluation in kept.items()}
    return {
        "accuracy": {name: round(evaluation.mean(), 4) for name, evaluation in kept.items()},
        "by kind": {
            name: {kind: round(fmean(map(fmean, e.correct(kind))), 4) for kind in ("math", "code")}
            for name, e in kept.items()
        },
        "SFT's best temperature": best.temperature,
        "gain": {
            "over SFT": pair(rows["sft"], rows["rl"]),
            "over SFT at its best": pair(rows["sft best"], rows["rl"]),
            "over SFT continued": pair(rows["continued"], rows["rl"]),
        },
        "continued": facts,
        "rows": rows,
    }


def looked_at(run: Path, model: MiMo, judge: JudgePool, problems: Any, seed: int, temperature: float) -> Evaluation:
    chat = Chat.load(run / "models" / "draft")
    engine = Engine(model, replace(RECIPE.engine, num_token_ids=chat.tokenizer.get_vocab_size()))
    samples = RECIPE.eval.num_samples
    return evaluate(
        engine, judge, problems, RECIPE.eval, chat=chat, seed=seed, temperature=temperature, num_samples=samples
    )


def continued(run: Path, judge: JudgePool, seed: int) -> tuple[MiMo, dict[str, Any]]:
    """SFT's model after training on its own accepted responses, and what that took."""
    start, rl = run / "models" / "draft", RECIPE.rl
    chat, model = Chat.load(start), load_folder(start)
    rows = read_metrics(run, "rl")
    slots = rows[-1]["tokens"]
    num_rollouts = int(sum(row["timing"]["launched_groups"] for row in rows)) * rl.num_rollouts
    problems = read_problems(run / "data" / "problems" / "rl_curated.jsonl")
    times = max(1, round(num_rollouts / len(problems)))
    engine = Engine(load_folder(start), replace(RECIPE.engine, num_token_ids=chat.tokenizer.get_vocab_size()))
    config = replace(RECIPE.eval, max_new_tokens=rl.max_new_tokens, top_p=rl.top_p)
    sampled = evaluate(
        engine, judge, problems, config, chat=chat, seed=seed + 2, temperature=rl.temperature, num_samples=times
    )
    samples = [sample for group in sampled.groups for sample in accepted(group)]
    random.Random(seed).shuffle(samples)
    own = sum(len(sample.token_ids) for sample in samples)
    sft = replace(RECIPE.sft, warmup_steps=RECIPE.sft.warmup_steps, epochs=slots / own)
    with tempfile.TemporaryDirectory() as folder:
        state = finetune(model, samples, sft, seed=seed, out=Path(folder), checkpoints=Path(folder) / "checkpoints")
    facts = {"responses": times * len(problems), "accepted": len(samples), "slots": state.tokens, "slots of RL": slots}
    return model, facts


def accepted(group: Group) -> list[Sample]:
    return [
        Sample(
            token_ids=rollout.prompt_ids + rollout.token_ids,
            loss_weights=(0.0,) * len(rollout.prompt_ids) + (1.0,) * len(rollout.token_ids),
        )
        for rollout, verdict in zip(group.rollouts, group.verdicts, strict=True)
        if verdict.status == "accepted"
    ]


def pair(first: list[list[bool]], second: list[list[bool]]) -> dict[str, float]:
    estimate = paired_difference(first, second)
    return {
        "mean": round(estimate.mean, 4),
        "low": round(estimate.low, 4),
        "high": round(estimate.high, 4),
        "n": estimate.n,
    }


if __name__ == "__main__":
    main()
