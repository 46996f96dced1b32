"""Claim: a pre-training step takes less CPU time here than in transformers, litgpt and nanochat.

    OMP_NUM_THREADS=1 python benchmarks/pretrain_speed.py [benchmarks/results/pretrain_speed.json]

Tokens per CPU-second of whole steps (data, forward, loss, backward, clip to 1.0, fused AdamW) at two sizes, in float32
and bfloat16: 8 rows of 512 tokens, one document a row, so that nobody needs a mask; vocabulary 4,096; one thread each.
Ours is compiled, without MTP; with MTP it stands beside, and does more. Everyone is a process of its own, and all step
in turn. `--only "5M bfloat16"` measures one size and precision; in the JSON it takes its place beside the others.

Peers run at their best. Of each peer's variants (transformers eager or compiled, the others compiled as their own
trainers do; in bfloat16 autocast over float32 weights, or bfloat16 weights with float32 masters; litgpt's loss whole or
in chunks) the one that is fastest in a few rounds beforehand runs against ours: `tried` has them all. transformers is
Qwen2 of the same shape with PyTorch's attention. litgpt needs its own environment (make litgpt), nanochat a copy of its
repository (NANOCHAT=DIR): without them their rows are missing, and a line says so. What of nanochat's model differs
stands in `nanochat_peer.py`; it is compared in FLOPs per CPU-second.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import litgpt_peer
import numpy as np
import record
from medium_recipe import MEDIUM
from train_process import BETAS, CLIP, EPS, LEARNING_RATE, WEIGHT_DECAY, TrainProcess, plain_step, serve

from openmimo.model.config import MiMoConfig
from openmimo.model.flops import flops_per_token

HERE = Path(__file__).resolve().parent
ROWS, CONTEXT, VOCABULARY = 8, 512, 4096
MEDIUM_SHAPE = replace(MEDIUM, vocab_size=VOCABULARY, max_position_embeddings=CONTEXT)
SHAPES: dict[str, MiMoConfig] = {
    "25M": MEDIUM_SHAPE,
    "5M": replace(
        MEDIUM_SHAPE,
        hidden_size=256,
        intermediate_size=704,
        num_hidden_layers=5,
        num_attention_heads=4,
        num_key_value_heads=2,
    ),
}
DTYPES = ("bfloat16", "float32")
WANTED = {"25M bfloat16": 1.15, "25M float32": 1.05, "5M bfloat16": 1.3, "5M float32": 1.25}
"""Least ratio to transformers; to litgpt and nanochat it is 1.05."""
NUM_ROUNDS = 5
STEPS = {"25M": 1, "5M": 3}
"""Steps a round."""
OURS, WITH_MTP = "openmimo", "openmimo with MTP"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("result", nargs="?", type=Path)
    parser.add_argument("--only", choices=WANTED, help="one size and precision")
    parser.add_argument("--rounds", type=int, default=NUM_ROUNDS)
    arguments = parser.parse_args()
    result = arguments.result
    found = json.loads(result.read_text(encoding="utf-8")).get("measured", {}) if result and result.exists() else {}
    with tempfile.TemporaryDirectory() as folder:
        tokens = write_tokens(Path(folder) / "tokens.bin")
        for name in [arguments.only] if arguments.only else WANTED:
            size, dtype = name.split()
            found[name] = {"commit": record.commit(), **measured(size, dtype, tokens, arguments.rounds)}
            about = {"rows": ROWS, "context": CONTEXT, "vocabulary": VOCABULARY, "wanted of transformers": WANTED}
            record.write(
                "tokens per CPU-second of training steps against transformers, litgpt and nanochat",
                "OMP_NUM_THREADS=1 python benchmarks/pretrain_speed.py",
                {**about, "measured": found},
                threads=1,
            )


def write_tokens(path: Path, num_rows: int = 512) -> Path:
    """Rows of context + 1 token ids with the frequencies of words: token n is 1/n as frequent as the first."""
    share = 1 / np.arange(1, VOCABULARY + 1)
    ids = np.random.default_rng(0).choice(VOCABULARY, (num_rows, CONTEXT + 1), p=share / share.sum())
    path.write_bytes(ids.astype(np.uint16).tobytes())
    return path


def measured(size: str, dtype: str, tokens: Path, num_rounds: int) -> dict[str, Any]:
    """Rates of ours and of the fastest variant of every peer, and their ratios paired by round."""
    config, count = SHAPES[size], STEPS[size]
    common = {"tokens": str(tokens), "rows": ROWS, "context": CONTEXT, "shape": asdict(config), "dtype": dtype}
    tried = {peer: tried_variants(variants, common, count) for peer, variants in peers(dtype).items()}
    fastest = {peer: max(rates, key=lambda name, rates=rates: rates[name]) for peer, rates in tried.items()}
    commands = {name: (sys.executable, __file__, {"contestant": name}) for name in (OURS, WITH_MTP)}
    commands |= {peer: peers(dtype)[peer][name] for peer, name in fastest.items()}
    with ExitStack() as stack:
        running = started(stack, commands, common)
        check(running)
        works = {name: lambda process=process: rate(process, count) for name, process in running.items()}
        rates = record.interleaved(works, num_rounds)
        about = {name: process.ready for name, process in running.items()}
    flops = {name: ready.get("flops_per_token", flops_of(config, name)) for name, ready in about.items()}
    # At equal FLOPs a token; these are equal for all but nanochat and the row with MTP.
    work = {name: [r * flops[name] for r in values] for name, values in rates.items()}
    found = {
        "flops_per_token": flops,
        "parameters": {name: ready["parameters"] for name, ready in about.items()},
        "torch": {name: ready["torch"] for name, ready in about.items()},
        "tried": tried,
        "fastest": fastest,
        "tokens_per_cpu_s": {name: record.spread(values, digits=1) for name, values in rates.items()},
        "gflop_per_cpu_s": {name: record.spread([w / 1e9 for w in values], digits=1) for name, values in work.items()},
        "ratios": {f"{name} / {peer}": record.over(work, name, peer) for peer in fastest for name in (OURS, WITH_MTP)},
    }
    for name, spread in found["tokens_per_cpu_s"].items():
        ratio = found["ratios"].get(f"{OURS} / {name}", {}).get("median", 1.0)
        how = fastest.get(name, "compiled")
        line = f"{size} {dtype}: {name} ({how}): {spread['median']:.0f} tokens per CPU-second; ours over it {ratio:.3f}"
        print(line, file=sys.stderr, flush=True)
    return found


Variant = tuple[str, str, dict[str, Any]]
"""Interpreter, file, settings of its own."""


def peers(dtype: str) -> dict[str, dict[str, Variant]]:
    """By peer and variant, what runs it."""
    precisions = ("float32",) if dtype == "float32" else ("autocast", "masters")
    found: dict[str, dict[str, Variant]] = {"transformers": {}}
    ways = [(precision, compiled) for precision in precisions for compiled in (False, True)]
    for precision, compiled in ways:
        name = f"{precision}, {'compiled' if compiled else 'eager'}"
        settings = {"contestant": "transformers", "precision": precision, "compiled": compiled}
        found["transformers"][name] = (sys.executable, __file__, settings)
    if litgpt_peer.PYTHON.exists():
        found["litgpt"] = {
            f"{precision}, {f'chunks of {chunk}' if chunk else 'loss whole'}": (
                str(litgpt_peer.PYTHON),
                litgpt_peer.__file__,
                {"precision": precision, "chunk": chunk},
            )
            for precision in precisions
            for chunk in (0, 128)
        }
    else:
        print(f"{litgpt_peer.PYTHON} does not exist, so litgpt is left out: make litgpt builds it", file=sys.stderr)
    if os.environ.get("NANOCHAT"):
        found["nanochat"] = {"compiled": (sys.executable, str(HERE / "nanochat_peer.py"), {})}
    else:
        print("NANOCHAT is not set, so nanochat is left out: it names a copy of its repository", file=sys.stderr)
    return found


def started(stack: ExitStack, variants: Mapping[str, Variant], common: dict[str, Any]) -> dict[str, TrainProcess]:
    """Every variant's process, begun together; they end with the stack."""
    folder = Path(common["tokens"]).parent
    begun = {
        name: TrainProcess(
            [python, file], {**common, **settings}, log=folder / f"{name}.log", NANOCHAT_DTYPE=common["dtype"]
        )
        for name, (python, file, settings) in variants.items()
    }
    return {name: stack.enter_context(process) for name, process in begun.items()}


def tried_variants(variants: Mapping[str, Variant], common: dict[str, Any], count: int) -> dict[str, float]:
    """Tokens per CPU-second of every variant of a peer, the median of three interleaved rounds."""
    if len(variants) == 1:
        return dict.fromkeys(variants, 0.0)
    with ExitStack() as stack:
        running = started(stack, variants, common)
        works = {name: lambda process=process: rate(process, count) for name, process in running.items()}
        rates = record.interleaved(works, 3)
    found = {name: float(record.spread(values, digits=1)["median"]) for name, values in rates.items()}
    print("\n".join(f"  tried {name}: {r:.0f} tokens per CPU-second" for name, r in found.items()), file=sys.stderr)
    return found


def rate(process: TrainProcess, count: int) -> float:
    return count * ROWS * CONTEXT / sum(process.steps(count)["cpu_s"])


def check(running: dict[str, TrainProcess]) -> None:
    """Everyone starts from the loss of a model that knows nothing."""
    for name, process in running.items():
        first, nothing = process.ready["losses"][0], float(np.log(VOCABULARY))
        weight = 1.3 if name == WITH_MTP else 1.0
        if not -0.1 < first / weight - nothing < 0.3:  # random logits cost a little more
            raise ValueError(f"{name} began with a loss of {first:.3f}, expected {weight * nothing:.3f}")


def flops_of(config: MiMoConfig, name: str) -> float:
    return flops_per_token(config, CONTEXT, mtp=name == WITH_MTP)


def build(settings: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Ours and transformers', in the process that `serve` answers for."""
    if settings["contestant"] == "transformers":
        return transformers(settings)
    import torch

    from openmimo.data.pack import Sample, stack
    from openmimo.model.mimo import MiMo
    from openmimo.train.compute import ComputeConfig, Worker
    from openmimo.train.loss import next_token_loss
    from openmimo.train.optim import OptimConfig, Optimizer
    from openmimo.train.step import TrainState, train_step

    mtp = settings["contestant"] == WITH_MTP
    config = replace(MiMoConfig(**settings["shape"]), num_nextn_predict_layers=int(mtp))
    model = MiMo(config).init_weights(torch.Generator().manual_seed(0))
    optimizer = Optimizer(model, OptimConfig(betas=BETAS, eps=EPS, weight_decay=WEIGHT_DECAY, clip=CLIP))
    state = TrainState(model, optimizer, Worker(model, ComputeConfig(dtype=settings["dtype"], compile=True)))
    loss = next_token_loss(mtp_weight=0.3 if mtp else 0.0)

    def step(rows: Any) -> float:
        batch = stack([[Sample(row[:-1])] for row in rows], settings["context"])
        return train_step(state, batch, loss, learning_rate=LEARNING_RATE)["loss"]

    return step, {"parameters": sum(config.num_parameters())}


def transformers(settings: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    import torch

    model = transformers_model(settings["shape"])
    called = torch.compile(model, dynamic=False) if settings["compiled"] else model

    def loss(_: Any, ids: Any) -> Any:
        rows = ids[:, :-1].contiguous()
        return called(input_ids=rows, labels=rows).loss

    parameters = sum(p.numel() for p in model.parameters())
    return plain_step(model, loss, settings["precision"]), {"parameters": parameters}


def transformers_model(shape: Mapping[str, Any]) -> Any:
    """Qwen2ForCausalLM of the trunk's shape, with PyTorch's attention."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    names = (
        "vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads "
        "max_position_embeddings rms_norm_eps rope_theta tie_word_embeddings"
    )
    settings = {name: shape[name] for name in names.split()}
    config = Qwen2Config(**settings, use_cache=False, attn_implementation="sdpa", bos_token_id=None, eos_token_id=None)
    return Qwen2ForCausalLM(config).train()


if __name__ == "__main__":
    serve(build) if sys.argv[-1].startswith("{") else main()
