"""What the MTP objective does to the trunk: the tiny model trained with it and without, on equal tokens, five seeds.

    python benchmarks/mtp_objective.py [benchmarks/results/mtp_objective.json]

The tiny recipe's data stage and the first stage of its pre-training scaled to SLOTS slots, AdamW and Muon as in the
recipe, with lambda 0.3 throughout and with 0 (the MTP layer is there and learns nothing); the same data, order and
initial weights in each pair. Reported are the trunk's cross-entropy over the last tenth of training, its cross-entropy
and the accuracy of its next token on held-out documents of every source, and what it answers greedily to the recipe's
held-out problems. Differences are with minus without, paired by seed, with a 95 % interval by Student's t. This is no
claim: at this size the sign may be either.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import record
import torch

from openmimo.data.chat import Chat
from openmimo.data.mix import Mixture
from openmimo.data.shards import open_shards
from openmimo.engine.engine import Engine, EngineConfig
from openmimo.log import read_metrics
from openmimo.model.attention import packed_attention
from openmimo.model.mimo import MiMo
from openmimo.recipes.tiny import tiny
from openmimo.rows import read_problems
from openmimo.train.loss import targets_ahead
from openmimo.train.optim import Piece
from openmimo.train.pretrain import PretrainConfig, pretrain, seeded_model
from openmimo.train.step import on_device
from openmimo.types import Request, Sampling

NUM_SEEDS = 5
SLOTS = 0.5e6
STUDENT_T = 2.776
"""97.5 % quantile at 4 degrees of freedom."""


def config(mtp_weight: float) -> PretrainConfig:
    base = tiny().pretrain
    mixture = {"web": 0.05, "lessons": 0.2, "problems": 0.45, "synthetic": 0.3}
    return replace(
        base,
        learning_rate=(Piece(0.05 * SLOTS, 3e-3, "linear"), Piece(0.5 * SLOTS, 3e-3), Piece(SLOTS, 2e-4, "cosine")),
        batch_ramp_tokens=0.0,
        mtp_weight=(Piece(SLOTS, mtp_weight),),
        stages=(replace(base.stages[0], until_tokens=SLOTS, mixture=mixture),),
        checkpoint_every=10**9,
        keep_last=1,
        validate_every=0,
    )


def trained(data: Path, seed: int, mtp_weight: float) -> dict[str, float]:
    chat = Chat.load(data / "tokenizer")
    model = seeded_model(MiMo(tiny().model), seed)
    mixture = Mixture(open_shards(data / "shards"), seed=seed)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        pretrain(model, mixture, config(mtp_weight), out=out, checkpoints=out / "checkpoints")
        rows = read_metrics(out)
    tail = rows[-len(rows) // 10 :]
    found = {"training CE, last tenth": fmean(row["ce"] for row in tail)}
    for source, shard in open_shards(data / "held_out").items():
        batch = Mixture({source: shard}, seed=0).rows(min(16, max(1, shard.num_tokens // 256)), 256, {source: 1.0})
        loss, accuracy = scored(model, batch)
        found |= {f"held-out CE, {source}": loss, f"held-out token accuracy, {source}": accuracy}
    return {**found, **answered(model, chat, data)}


@torch.no_grad()
def scored(model: MiMo, batch: Any) -> tuple[float, float]:
    """Mean cross-entropy of the trunk in nats, and the share of tokens it thinks likeliest."""
    tensors = on_device(batch, torch.device("cpu"))
    logits = model.logits(model(tensors.token_ids, tensors.positions, packed_attention(tensors.document_ids)))
    targets, weights = targets_ahead(tensors, 1)
    counts = weights > 0
    loss = torch.nn.functional.cross_entropy(logits[counts], targets[counts])
    return float(loss), float((logits[counts].argmax(-1) == targets[counts]).float().mean())


def answered(model: MiMo, chat: Chat, data: Path) -> dict[str, float]:
    """Share of the held-out maths problems whose greedy answer ends in the right box."""
    problems = [p for p in read_problems(data / "problems" / "held_out.jsonl") if p.kind == "math"]
    vocabulary = chat.tokenizer.get_vocab_size()
    engine = Engine(model, EngineConfig(max_batch_size=64, max_model_len=512, num_token_ids=vocabulary))
    greedy = Sampling(144, temperature=0.0, stop_token_ids=chat.stop_token_ids)
    rollouts = engine.generate([Request(chat.render_prompt(p.prompt), greedy, p.id) for p in problems])
    right = [f"\\boxed{{{p.answer}}}" in chat.decode(r.token_ids) for p, r in zip(problems, rollouts, strict=True)]
    return {"held-out maths problems answered": fmean(right)}


def compared(pairs: list[tuple[dict[str, float], dict[str, float]]]) -> dict[str, Any]:
    found = {}
    for name in pairs[0][0]:
        with_mtp, without = ([pair[i][name] for pair in pairs] for i in (0, 1))
        gaps = [a - b for a, b in zip(with_mtp, without, strict=True)]
        half = STUDENT_T * stdev(gaps) / len(gaps) ** 0.5
        found[name] = {
            "with": record.spread(with_mtp, digits=4),
            "without": record.spread(without, digits=4),
            "difference": {"mean": fmean(gaps), "low": fmean(gaps) - half, "high": fmean(gaps) + half},
        }
    return found


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "openmimo", "data", "tiny", "--out", folder]
        subprocess.run(command, check=True, capture_output=True)
        data, pairs = Path(folder) / "data", []
        for seed in range(NUM_SEEDS):
            pairs.append((trained(data, seed, 0.3), trained(data, seed, 0.0)))
            print(f"seed {seed}: {pairs[-1]}", file=sys.stderr)
    record.write(
        "trunk with and without the MTP objective, tiny model, equal tokens",
        "python benchmarks/mtp_objective.py",
        {"seeds": NUM_SEEDS, "slots": SLOTS, "interval": "95 %, paired by seed", **compared(pairs)},
        torch=torch.__version__,
    )


if __name__ == "__main__":
    main()
