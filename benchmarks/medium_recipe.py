"""A 25 M-parameter model that the speed benchmarks share, trained here in at most 40 minutes on two cores.

    python benchmarks/medium_recipe.py [--threads N] [FOLDER]        default: 2 threads, .cache/medium

24.4 M parameters in the trunk (8 layers of 512) and 3.5 M in the MTP layer that pre-training has. The corpus is the
tiny recipe's, with the working written out in every answer and without web pages: half a million tokens teach such
text and no other, and speculative decoding is to be measured on responses that a model has learnt. Stages are the
product's own: data, pretrain, sft, and draft, which adds MTP layers 2 and 3. The folder stays, so the next benchmark
finds it; it is outside git.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

from openmimo.model.config import MiMoConfig
from openmimo.recipes import Recipe
from openmimo.train.optim import Piece
from openmimo.train.pretrain import StageConfig

ROOT = Path(__file__).resolve().parents[1]
CACHE = ROOT / ".cache" / "medium"
SEED = 0
CONTEXT = 256
TOTAL = 0.42e6
"""Pre-training slots: some 2,000 CPU-seconds."""
MEDIUM = MiMoConfig(
    vocab_size=768,
    hidden_size=512,
    intermediate_size=1408,
    num_hidden_layers=8,
    num_attention_heads=8,
    num_key_value_heads=4,
    head_dim=64,
    rope_theta=10_000.0,
    max_position_embeddings=512,
)
TRAINED = ("data", "pretrain", "sft", "draft")
"""Every stage up to the last that makes a model to decode with."""


def medium(threads: int = 2) -> Recipe:
    from openmimo.recipes.tiny import tiny

    base = tiny()
    return replace(
        base,
        name="medium",
        threads=threads,
        data=replace(base.data, max_pages=20),  # the pipeline wants some; the mixture takes none
        corpus=replace(
            base.corpus,
            document_styles=(1.0, 0.0, 0.0),
            chat_styles=(1.0, 0.0, 0.0),
            num_synthetic=1500,
            num_sft=900,
        ),
        model=MEDIUM,
        pretrain=replace(
            base.pretrain,
            learning_rate=(
                Piece(0.05 * TOTAL, 3e-3, "linear"),
                Piece(0.50 * TOTAL, 3e-3),
                Piece(1.00 * TOTAL, 3e-4, "cosine"),
            ),
            batch_ramp_tokens=0.1 * TOTAL,
            batch_ramp_start=3,
            mtp_weight=(Piece(TOTAL, 0.3),),
            stages=(
                StageConfig(0.65 * TOTAL, CONTEXT, 10_000.0, 5, {"lessons": 0.25, "problems": 0.75}),
                StageConfig(TOTAL, CONTEXT, 10_000.0, 5, {"lessons": 0.1, "problems": 0.4, "synthetic": 0.5}),
            ),
            checkpoint_every=120,
        ),
        sft=replace(base.sft, mtp_weight=0.3, checkpoint_every=1000),
        draft=replace(base.draft, num_prompts=400, num_samples=1, train=replace(base.draft.train, steps=40)),
        engine=replace(base.engine, max_batch_size=64, max_model_len=512),
    )


def trained(folder: Path = CACHE, *, threads: int = 2) -> Path:
    """The model folder, trained first if it is not there; an interrupted training goes on where it was."""
    from openmimo.mesh import join
    from openmimo.run import Run
    from openmimo.stages import CHECKPOINTS, run_stages

    state = folder / "state.json"
    done = json.loads(state.read_text(encoding="utf-8")) if state.is_file() else {}
    if not set(TRAINED) <= set(done):
        recipe = medium(threads)
        with Run(folder, recipe.name, SEED, recipe) as run:
            run_stages(run, recipe, TRAINED, mesh=join())
    return folder / CHECKPOINTS["sft"]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", nargs="?", type=Path, default=CACHE)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    began, used = time.perf_counter(), time.process_time()
    print(trained(arguments.folder, threads=arguments.threads))
    print(f"{time.perf_counter() - began:.0f} s, {time.process_time() - used:.0f} CPU-seconds")


if __name__ == "__main__":
    main()
