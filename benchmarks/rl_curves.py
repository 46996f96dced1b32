"""Curves: what reward schemes, pool policies and starting points do to RL at 1.1 M parameters, whatever they say.

    python benchmarks/rl_curves.py RUN [--seeds 5] [--only NAME ...] [benchmarks/results/rl_curves.json]

RUN is a finished `openmimo run tiny`. From its models, on its curated problems, RL is run again for each variant and
seed (MiMo 3.3.1, 3.3.2, 3.6; Figures 5 and 7), and held-out problems are looked at every VALIDATE_EVERY steps. Of each
variant: the curve of held-out accuracy by kind, mean over seeds with the least and the most, the share of groups that
carry a gradient, and the gradient's norm. `soft` is the recipe as it is: scheme soft, easy pool at alpha 0.1, from SFT.
A variant's result stands in the JSON beside earlier ones.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import record
import torch

from openmimo.data.chat import Chat
from openmimo.engine.engine import Engine
from openmimo.eval.run import evaluate
from openmimo.judge.pool import JudgePool
from openmimo.log import read_metrics
from openmimo.model.hf import load_folder
from openmimo.recipes.tiny import tiny
from openmimo.rl.config import RLConfig
from openmimo.rl.train import train
from openmimo.rows import read_problems

RECIPE = tiny()
VALIDATE_EVERY = 4
VARIANTS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "soft": ("draft", "", {}),
    "strict": ("draft", "", {"scheme": "strict"}),
    "all or nothing": ("draft", "", {"scheme": "all_or_nothing"}),
    "solved dropped": ("draft", "", {"solved": "drop"}),
    "solved kept": ("draft", "", {"solved": "keep"}),
    "code, soft": ("draft", "code", {}),
    "code, strict": ("draft", "code", {"scheme": "strict"}),
    "code, all or nothing": ("draft", "code", {"scheme": "all_or_nothing"}),
    "zero": ("base", "", {}),
}
"""Model to start from, kind of problems ("" is all), and what of the recipe changes."""


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
    found = json.loads(result.read_text(encoding="utf-8"))["variants"] if result and result.exists() else {}
    for name in arguments.only:
        rows = [one(arguments.run, name, seed) for seed in range(1, arguments.seeds + 1)]
        found[name] = summary(rows)
        record.write(
            "RL by reward scheme, pool policy and starting point: held-out accuracy, effective groups, gradient norm",
            "python benchmarks/rl_curves.py RUN",
            {"unit": "fractions of 1", "steps": RECIPE.rl.steps, "variants": found},
            threads=arguments.threads,
        )


def one(run: Path, name: str, seed: int) -> list[dict[str, Any]]:
    """Metrics of every step of one RL run."""
    model_name, kind, changes = VARIANTS[name]
    start = run / "models" / model_name
    config: RLConfig = replace(RECIPE.rl, validate_every=VALIDATE_EVERY, checkpoint_every=RECIPE.rl.steps, **changes)
    chat, model = Chat.load(start), load_folder(start)
    engine = Engine(load_folder(start), replace(RECIPE.engine, num_token_ids=chat.tokenizer.get_vocab_size()))
    problems = [p for p in read_problems(run / "data" / "problems" / "rl_curated.jsonl") if p.kind == (kind or p.kind)]
    held_out = read_problems(run / "data" / "problems" / "held_out.jsonl")
    with tempfile.TemporaryDirectory() as folder, JudgePool(1, RECIPE.judge) as judge:

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


def summary(runs: list[list[dict[str, Any]]]) -> dict[str, Any]:
    """Over seeds: curves as (steps done, mean, least, most), and means over all steps."""
    curves = {}
    for key in ("validation", "validation_math", "validation_code"):
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
