"""Claim: training here gives transformers' losses, step by step, from the same initial weights.

    OMP_NUM_THREADS=1 python benchmarks/transformers_parity.py [benchmarks/results/transformers_parity.json]

The 5 M shape without MTP, its vocabulary cut to 512, float32, 200 steps of 4 x 128 tokens at a learning rate of 1e-3:
our `train_step` against Qwen2ForCausalLM from the same weights on the same rows, with its own loss, clip to 1.0 and
PyTorch's AdamW. Tokens are a walk in which every token has four successors, so that the loss falls. Told are the
largest relative difference of a step's loss, plain and compiled, and where it is.
"""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import record
import torch
from pretrain_speed import SHAPES, transformers_model
from train_process import LEARNING_RATE, plain_step

from openmimo.data.pack import Sample, stack
from openmimo.model.config import MiMoConfig
from openmimo.model.mimo import MiMo
from openmimo.train.compute import ComputeConfig, Worker
from openmimo.train.loss import next_token_loss
from openmimo.train.optim import OptimConfig, Optimizer
from openmimo.train.step import TrainState, train_step

NUM_STEPS, ROWS, CONTEXT = 200, 4, 128
VOCABULARY = 512


def main() -> None:
    torch.set_num_threads(1)
    config = replace(SHAPES["5M"], vocab_size=VOCABULARY, num_nextn_predict_layers=0)
    rows = [walk(step, ROWS, CONTEXT, VOCABULARY) for step in range(NUM_STEPS)]
    theirs = their_losses(config, rows)
    found = {}
    for name, compiled in (("plain", False), ("compiled", True)):
        ours = our_losses(config, rows, ComputeConfig(compile=compiled))
        differences = [abs(a - b) / b for a, b in zip(ours, theirs, strict=True)]
        worst = int(np.argmax(differences))
        found[name] = {
            "largest relative difference": float(f"{differences[worst]:.3g}"),
            "at step": worst,
            "median": float(f"{np.median(differences):.3g}"),
            "last loss": round(ours[-1], 5),
        }
        print(f"{name}: {found[name]}", file=sys.stderr)
    record.write(
        "loss of every step against transformers' Qwen2 from the same weights, float32",
        "OMP_NUM_THREADS=1 python benchmarks/transformers_parity.py",
        {
            "steps": NUM_STEPS,
            "parameters": config.num_parameters()[0],
            "their losses": {str(n): round(theirs[n], 5) for n in (0, NUM_STEPS // 2, NUM_STEPS - 1)},
            **found,
        },
        torch=torch.__version__,
        threads=1,
    )


def walk(seed: int, num_rows: int, context: int, vocabulary: int) -> np.ndarray:
    """(rows, context) ids: after token t comes one of 5t + 1 .. 5t + 4."""
    generator = np.random.default_rng(seed)
    ids = np.zeros((num_rows, context), np.int64)
    ids[:, 0] = generator.integers(0, vocabulary, num_rows)
    for n in range(1, context):
        ids[:, n] = (5 * ids[:, n - 1] + generator.integers(1, 5, num_rows)) % vocabulary
    return ids


def initial(config: MiMoConfig) -> MiMo:
    return MiMo(config).init_weights(torch.Generator().manual_seed(0))


def our_losses(config: MiMoConfig, rows: list[np.ndarray], compute: ComputeConfig) -> list[float]:
    model = initial(config)
    state = TrainState(model, Optimizer(model, OptimConfig()), Worker(model, compute))
    loss = next_token_loss(mtp_weight=0.0)
    batches = [stack([[Sample(row)] for row in part], part.shape[1]) for part in rows]
    return [train_step(state, batch, loss, learning_rate=LEARNING_RATE)["loss"] for batch in batches]


def their_losses(config: MiMoConfig, rows: list[np.ndarray]) -> list[float]:
    peer = transformers_model(vars(config))
    peer.load_state_dict(initial(config).state_dict())
    step = plain_step(peer, lambda model, ids: model(input_ids=ids, labels=ids).loss, "float32")
    return [step(part) for part in rows]


if __name__ == "__main__":
    main()
