"""Claim: speculative decoding with MTP layers is faster than plain decoding in the same engine, and never much slower.

    OMP_NUM_THREADS=1 python benchmarks/speculative_speed.py [--tiny RUN] [--medium RUN] [--temperature T] [RESULT.json]

Wall time of the same held-out problems answered by the same engine with 0, 1, 2 and 3 drafts a step, interleaved; as
many drafts as the folder has MTP layers. RUN is a run folder after its draft stage (`openmimo run tiny`; the medium
model's default is .cache/medium, trained first if it is not there). Tiny model: batch 1. Medium model, 25 M parameters:
batch 1 and 4, forced and adaptive; batch 8 to 64 adaptive alone, where a number of drafts that did not follow the live
batch would lose. Everyone must give the same tokens. Ratios are plain's time over the other's, paired by round.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import medium_recipe
import record
import torch

from openmimo.data.chat import Chat
from openmimo.engine.engine import Engine, EngineConfig
from openmimo.model.hf import load_folder
from openmimo.model.mimo import MiMo
from openmimo.rows import read_problems
from openmimo.stages import CHECKPOINTS
from openmimo.types import Request, Sampling

NUM_ROUNDS = 3
NEW_TOKENS = 144
NUM_PROMPTS = {1: 6, 4: 12}
"""By batch, of the medium model; else one for every place and a quarter more, so that places are filled again."""
NUM_TINY_PROMPTS = 60
PLAIN = "0 drafts"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("result", nargs="?", help="RESULT.json")
    parser.add_argument("--tiny", type=Path)
    parser.add_argument("--medium", type=Path, default=medium_recipe.CACHE)
    parser.add_argument("--temperature", type=float, default=0.6)  # MiMo 3.5
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, Any] = {}
    if arguments.tiny:
        tiny = batch(arguments.tiny, 1, arguments.temperature, forced=True, num_prompts=NUM_TINY_PROMPTS)
        found["tiny"] = {"batch 1": tiny}
    medium_recipe.trained(arguments.medium)
    torch.set_num_threads(1)
    found["medium"] = {
        f"batch {size}": batch(arguments.medium, size, arguments.temperature, forced=size <= 4)
        for size in (1, 4, 8, 16, 32, 64)
    }
    record.write(
        "wall time of speculative decoding against plain decoding in the same engine",
        "OMP_NUM_THREADS=1 python benchmarks/speculative_speed.py --tiny RUN",
        {"temperature": arguments.temperature, **found, **summary(found)},
        torch=torch.__version__,
        threads=1,
    )


def summary(found: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The claim's figures: each batch's best forced ratio, and the least adaptive one of all."""
    best = {
        f"{name}, {size}": max(
            ((row["median"], who) for who, row in rows["speed_up"].items() if who != "adaptive"), default=None
        )
        for name, sizes in found.items()
        for size, rows in sizes.items()
    }
    adaptive = [
        (rows["speed_up"]["adaptive"]["median"], f"{name}, {size}")
        for name, sizes in found.items()
        for size, rows in sizes.items()
        if "adaptive" in rows["speed_up"]
    ]
    return {
        "best_forced": {name: pair for name, pair in best.items() if pair},
        "least_adaptive": min(adaptive, default=None),
    }


def batch(run: Path, size: int, temperature: float, *, forced: bool, num_prompts: int = 0) -> dict[str, Any]:
    """One model at one batch size: seconds and speed-ups by number of drafts."""
    folder = run / CHECKPOINTS["sft"]
    chat = Chat.load(folder)
    model = load_folder(folder, dtype=torch.float32).eval()
    prompts = problems(run, num_prompts or NUM_PROMPTS.get(size, size + size // 4))
    sampling = Sampling(NEW_TOKENS, temperature=temperature, top_p=0.95, stop_token_ids=chat.stop_token_ids)
    asked = [Request(chat.render_prompt(text), replace(sampling, seed=n)) for n, text in enumerate(prompts)]
    most = min(3, model.config.num_nextn_predict_layers)
    engines = {PLAIN: engine(model, chat, size, 0)}
    if forced:
        engines |= {f"{k} draft{'s' if k > 1 else ''}": engine(model, chat, size, k) for k in range(1, most + 1)}
    engines["adaptive"] = engine(model, chat, size, most, adaptive=True)
    answers: dict[str, list[tuple[int, ...]]] = {}
    cpu_s: dict[str, list[float]] = {name: [] for name in engines}
    works = {name: timed(one, asked, answers, cpu_s, name) for name, one in engines.items()}
    seconds = record.interleaved(works, NUM_ROUNDS)
    cpu_s = {name: values[1:] for name, values in cpu_s.items()}  # the first round warmed up
    wrong = [name for name in engines if answers[name] != answers[PLAIN]]
    if wrong:
        raise ValueError(f"batch {size}: not the tokens of plain decoding with {', '.join(wrong)}")
    return {
        "requests": len(asked),
        "tokens": sum(map(len, answers[PLAIN])),
        "seconds": {name: record.spread(values, "s") for name, values in seconds.items()},
        "speed_up": {name: record.over(seconds, PLAIN, name) for name in engines if name != PLAIN},
        "speed_up_in_cpu_time": {name: record.over(cpu_s, PLAIN, name) for name in engines if name != PLAIN},
        "acceptance": {
            name: {layer: round(rate, 3) for layer, rate in one.acceptance.rates().items()}
            for name, one in engines.items()
            if name != PLAIN
        },
        "mean_length": {name: round(one.acceptance.mean_length(), 3) for name, one in engines.items()},
    }


def problems(run: Path, number: int) -> list[str]:
    """Prompts of held-out problems, again from the first where there are too few."""
    held_out = [problem.prompt for problem in read_problems(run / "data" / "problems" / "held_out.jsonl")]
    return [held_out[n % len(held_out)] for n in range(number)]


def engine(model: MiMo, chat: Chat, size: int, num_drafts: int, *, adaptive: bool = False) -> Engine:
    config = EngineConfig(
        max_batch_size=size,
        max_model_len=model.config.max_position_embeddings,
        num_draft_layers=num_drafts,
        adapt_drafts=adaptive,
        num_token_ids=chat.tokenizer.get_vocab_size(),
        share_prefixes=False,  # the same prompts again and again: every round computes them
    )
    return Engine(model, config)


def timed(
    one: Engine,
    asked: list[Request],
    answers: dict[str, list[tuple[int, ...]]],
    cpu_s: dict[str, list[float]],
    name: str,
) -> Callable[[], float]:
    """Wall seconds of answering everything; the answers and the CPU seconds are kept under the name."""

    def run() -> float:
        began, used = time.perf_counter(), time.process_time()
        rollouts = one.generate(asked)
        seconds = time.perf_counter() - began
        cpu_s[name].append(time.process_time() - used)
        answers[name] = [rollout.token_ids for rollout in rollouts]
        return seconds

    return run


if __name__ == "__main__":
    main()
