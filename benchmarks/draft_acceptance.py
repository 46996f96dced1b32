"""Acceptance of MTP layers 1, 2 and 3 on the tiny run's held-out problems: copies, tuned copies; parallel and chained.

Run: `python benchmarks/draft_acceptance.py [RUN] [OUT.json]`; RUN is a folder in which `openmimo sft tiny` has run
(made in runs/tiny, about eight minutes, if it is missing). All is what the stage `draft` does, three seeds of it: its
recipe, rollouts of RL problems, 64 updates. The engine counts acceptance in greedy decoding with all three layers,
conditionally: a layer is judged only where all before it were kept.
"""

from __future__ import annotations

import contextlib
import io
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import record
import torch

from openmimo.data.chat import Chat
from openmimo.draft import acceptance_of, own_rollouts
from openmimo.engine.engine import Engine, EngineConfig
from openmimo.model.hf import load_folder
from openmimo.model.mimo import MiMo
from openmimo.recipes.tiny import tiny
from openmimo.rows import read_problems
from openmimo.train.draft import batches_of, tune, with_copies
from openmimo.types import Request, Sampling

SEEDS = (0, 1, 2)
TEMPERATURES = (0.6, 1.0)
AIM = {"1": 0.90, "2": 0.80, "3": 0.80}


def main() -> None:
    run = Path(next((word for word in sys.argv[1:] if not word.endswith(".json")), "runs/tiny"))
    if not (run / "models" / "sft").is_dir():
        for stage in ("data", "pretrain", "sft"):
            subprocess.run([sys.executable, "-m", "openmimo", stage, "tiny", "--out", str(run)], check=True)
    torch.set_num_threads(1)
    chat, sft = Chat.load(run / "models" / "sft"), load_folder(run / "models" / "sft")
    recipe = tiny()
    sizes = replace(recipe.engine, num_token_ids=chat.tokenizer.get_vocab_size())
    held_out = read_problems(run / "data" / "problems" / "held_out.jsonl")
    greedy = Sampling(recipe.eval.max_new_tokens, temperature=0.0, stop_token_ids=chat.stop_token_ids)
    requests = [Request(chat.render_prompt(p.prompt), greedy, p.id) for p in held_out]
    by_kind = {
        kind: [r for r, p in zip(requests, held_out, strict=True) if p.kind == kind] for kind in ("math", "code")
    }
    prompts = [chat.render_prompt(p.prompt) for p in read_problems(run / "data" / "problems" / "rl.jsonl")]

    figures: dict[str, object] = {}
    for name, chained in (("parallel", False), ("chained", True)):
        untuned = acceptance_of(with_copies(sft, recipe.draft.train.num_layers, chained=chained), requests, sizes)
        rounds, kinds, warm, cpu_s = [], [], [], []
        for seed in SEEDS:
            started = time.process_time()
            model = tuned(sft, sizes, prompts, chat.stop_token_ids, chained=chained, seed=seed)
            cpu_s.append(time.process_time() - started)
            rounds.append(acceptance_of(model, requests, sizes))
            warm.append({t: acceptance_of(model, requests, sizes, temperature=t) for t in TEMPERATURES})
            kinds.append({kind: acceptance_of(model, some, sizes) for kind, some in by_kind.items()})
        figures[name] = {
            "copies_before_tuning": {layer: round(rate, 4) for layer, rate in untuned.items()},
            "tuned": {layer: record.spread([r[layer] for r in rounds], digits=4) for layer in AIM},
            "tuned_by_kind": {
                kind: {layer: record.spread([k[kind][layer] for k in kinds], digits=4) for layer in AIM}
                for kind in by_kind
            },
            "tuned_by_temperature": {
                f"{t:g}": {layer: record.spread([w[t][layer] for w in warm], digits=4) for layer in AIM}
                for t in TEMPERATURES
            },
            "mean_tokens_a_step": record.spread([mean_length(r) for r in rounds]),
            "cpu_s_of_rollouts_and_tuning": record.spread(cpu_s, "s", 1),
        }
    record.write(
        "Acceptance of MTP layers 1 / 2 / 3, tiny SFT model, held-out problems, greedy, conditional: at least "
        "0.90 / 0.80 / 0.80",
        "python benchmarks/draft_acceptance.py RUN OUT.json",
        {
            "aim": AIM,
            "held_out_problems": len(held_out),
            "rounds_are": "seeds of rollouts and tuning; trunk and layer 1 are the same in all",
            "updates": recipe.draft.train.steps,
            **figures,
        },
        torch_threads=1,
    )


def tuned(
    sft: MiMo,
    sizes: EngineConfig,
    prompts: list[tuple[int, ...]],
    stops: tuple[int, ...],
    *,
    chained: bool,
    seed: int,
) -> MiMo:
    """As the stage does it."""
    config = tiny().draft
    train = replace(config.train, chained=chained)
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):
        work = Path(folder)
        samples = own_rollouts(
            work / "rollouts.jsonl", lambda: Engine(sft, sizes), prompts, config, stop_token_ids=stops, seed=seed
        )
        model = with_copies(sft, train.num_layers, chained=chained)
        tune(model, batches_of(samples, train, seed=seed), train, out=work, checkpoints=work / "checkpoints")
    return model


def mean_length(rates: dict[str, float]) -> float:
    """Tokens a target step gives with all three layers: 1 + p1 + p1 p2 + p1 p2 p3."""
    length, kept = 1.0, 1.0
    for layer in sorted(rates):
        kept *= rates[layer]
        length += kept
    return length


if __name__ == "__main__":
    main()
