"""Curves: what reward schemes, pool policies and starting points do to RL at 1.1 M parameters, whatever they say.

    python benchmarks/rl_curves.py RUN [--seeds 5] [--only NAME ...] [benchmarks/results/rl_curves.json]

RUN is a finished `openmimo run tiny`. From its models RL is run again for each variant and seed (MiMo 3.3.1, 3.3.2,
3.6; Figures 5 and 7), and held-out problems are looked at every VALIDATE_EVERY steps. Of each variant: the curve of
held-out accuracy by kind, mean over seeds with the least and the most, valid groups per step and their share of those
judged, and the gradient's norm. `soft` is the recipe as it is: scheme soft, easy pool at alpha 0.1, from SFT, on the
run's curated problems. A variant's result stands in the JSON beside earlier ones.

Hard code problems have HARD_STEPS clauses and are solved by at most HARD of the SFT model's responses, some by
none; those held out are as hard. The lite model is the run's base model after lite SFT (MiMo 3.6).
"""

from __future__ import annotations

import argparse
import copy
import functools
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

from openmimo.curate.families import draw_pipeline
from openmimo.curate.problems import pass_rate, with_levels
from openmimo.data.chat import Chat
from openmimo.data.decontaminate import build_screen
from openmimo.data.sft import prepare
from openmimo.data.sft import samples as sft_samples
from openmimo.engine.engine import Engine
from openmimo.eval.run import evaluate
from openmimo.judge.pool import JudgePool
from openmimo.log import read_metrics
from openmimo.model.hf import load_folder
from openmimo.model.mimo import MiMo
from openmimo.recipes.tiny import tiny
from openmimo.rl.config import RLConfig
from openmimo.rl.reward import levels
from openmimo.rl.train import train
from openmimo.rows import read_problems, read_rows
from openmimo.train.sft import finetune, lite
from openmimo.types import Problem

RECIPE = tiny()
VALIDATE_EVERY = 4
HARD_STEPS, HARD, NUM_DRAWN, NUM_HARD_HELD_OUT = (4, 5), 0.25, 800, 100
VARIANTS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "soft": ("draft", "all", {}),
    "strict": ("draft", "all", {"scheme": "strict"}),
    "all or nothing": ("draft", "all", {"scheme": "all_or_nothing"}),
    "solved dropped": ("draft", "all", {"solved": "drop"}),
    "solved kept": ("draft", "all", {"solved": "keep"}),
    "hard code, soft": ("draft", "hard", {}),
    "hard code, strict": ("draft", "hard", {"scheme": "strict"}),
    "hard code, all or nothing": ("draft", "hard", {"scheme": "all_or_nothing"}),
    "zero": ("base", "all", {}),
    "lite": ("lite", "all", {}),
}
"""Model to start from, problems, and what of the recipe changes."""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("run", type=Path)
    parser.add_argument("result", nargs="?", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only", nargs="*", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--threads", type=int, default=RECIPE.threads)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    result = arguments.result
    for name in arguments.only:
        rows = [one(arguments.run, name, seed) for seed in range(1, arguments.seeds + 1)]
        found = json.loads(result.read_text(encoding="utf-8"))["variants"] if result and result.exists() else {}
        found[name] = summary(rows)
        record.write(
            "RL by reward scheme, pool policy and starting point: held-out accuracy, effective groups, gradient norm",
            "python benchmarks/rl_curves.py RUN",
            {"unit": "fractions of 1", "steps": RECIPE.rl.steps, "variants": found},
            threads=arguments.threads,
        )


def one(run: Path, name: str, seed: int) -> list[dict[str, Any]]:
    """Metrics of every step of one RL run."""
    start, which, changes = VARIANTS[name]
    config: RLConfig = replace(RECIPE.rl, validate_every=VALIDATE_EVERY, checkpoint_every=RECIPE.rl.steps, **changes)
    chat = Chat.load(run / "models" / "draft")
    with tempfile.TemporaryDirectory() as folder, JudgePool(1, RECIPE.judge) as judge:
        model = (
            lite_model(run, chat, seed, Path(folder) / "sft")
            if start == "lite"
            else load_folder(run / "models" / start)
        )
        engine = engine_of(copy.deepcopy(model), chat)
        if which == "hard":
            problems, held_out = hard_problems(run)
        else:
            problems = read_problems(run / "data" / "problems" / "rl_curated.jsonl")
            held_out = read_problems(run / "data" / "problems" / "held_out.jsonl")

        def validate(version: int) -> tuple[dict[str, float], dict[str, float]]:
            looked = evaluate(engine, judge, held_out, RECIPE.eval, chat=chat, seed=seed, num_samples=2)
            by_kind = looked.summary()["accuracy"]
            return {"validation": looked.mean(), **{f"validation_{k}": e["mean"] for k, e in by_kind.items()}}, {}

        first, _ = validate(0)
        train(
            model, problems, config, chat=chat, engine=engine, judge=judge, seed=seed, out=Path(folder),
            checkpoints=Path(folder) / "checkpoints", validate=validate,
        )  # fmt: skip
        return [{"step": -1, **first}, *read_metrics(Path(folder), "rl")]


def engine_of(model: MiMo, chat: Chat) -> Engine:
    return Engine(model, replace(RECIPE.engine, num_token_ids=chat.tokenizer.get_vocab_size()))


def lite_model(run: Path, chat: Chat, seed: int, folder: Path) -> MiMo:
    """The base model after lite SFT on the run's conversations."""
    model = load_folder(run / "models" / "base")
    conversations = [row["messages"] for row in read_rows(run / "data" / "conversations" / "sft.jsonl")]
    held_out = read_problems(run / "data" / "problems" / "held_out.jsonl")
    prepared = prepare(conversations, build_screen(problem.prompt for problem in held_out)).conversations
    samples = list(sft_samples(prepared, chat, RECIPE.sft.context))
    folder.mkdir()
    finetune(model, samples, lite(RECIPE.sft), seed=seed, out=folder, checkpoints=folder / "checkpoints")
    return model


@functools.cache
def hard_problems(run: Path) -> tuple[list[Problem], list[Problem]]:
    """(to train on, with the levels of their tests; held out): code that the SFT model hardly solves."""
    rng = random.Random("hard")
    drawn = {p.prompt: p for _ in range(NUM_DRAWN) for p in [draw_pipeline(rng, rng.choice(HARD_STEPS)).problem]}
    sampling = replace(RECIPE.eval, max_new_tokens=RECIPE.rl.max_new_tokens)
    chat = Chat.load(run / "models" / "draft")
    with JudgePool(1, RECIPE.judge) as judge:
        engine = engine_of(load_folder(run / "models" / "draft"), chat)
        groups = evaluate(
            engine, judge, list(drawn.values()), sampling, chat=chat, seed=0, temperature=RECIPE.rl.temperature,
            num_samples=RECIPE.rl.curation_samples,
        ).groups  # fmt: skip
    hard = [
        with_levels(g.problem, g, lambda rates: levels(rates, RECIPE.rl.levels)) for g in groups if pass_rate(g) <= HARD
    ]
    print(f"{len(hard)} of {len(groups)} are hard", file=sys.stderr)
    return hard[NUM_HARD_HELD_OUT:], hard[:NUM_HARD_HELD_OUT]


def summary(runs: list[list[dict[str, Any]]]) -> dict[str, Any]:
    """Over seeds: curves as (steps done, mean, least, most), and means over all steps."""
    curves = {}
    for key in ("validation", "validation_math", "validation_code"):
        if key not in runs[0][0]:
            continue
        marks = [row["step"] + 1 for row in runs[0] if key in row]
        columns = [[row[key] for row in run if key in row] for run in runs]
        curves[key] = [
            [mark, *(round(f(values), 4) for f in (fmean, min, max))]
            for mark, values in zip(marks, zip(*columns, strict=True), strict=True)
        ]
    steps = [row for run in runs for row in run if row["step"] >= 0]

    def spread(key: str) -> dict[str, Any]:
        return record.spread([fmean(row[key] for row in run if key in row and row["step"] >= 0) for run in runs])

    return {
        "seeds": len(runs),
        "curves": curves,
        "valid share of judged groups": spread("valid_share"),
        "gradient norm": spread("grad_norm"),
        "largest gradient norm": round(max(row["grad_norm"] for row in steps if "grad_norm" in row), 3),
        "mean length": spread("length"),
    }


if __name__ == "__main__":
    main()
