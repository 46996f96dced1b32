"""Claim: the embedded engine decodes rollouts of the tiny model faster than transformers.generate, and paging is cheap.

    OMP_NUM_THREADS=1 python benchmarks/engine_throughput.py [benchmarks/results/engine_throughput.json]

Three parts, each interleaved within one process and counted in CPU time, with random weights (speed does not depend on
them): (1) 512 rollouts, 32 prompts of 60 tokens by 16 samples, responses of 60-99 tokens at temperature 1, at most 256
live; transformers decodes 256 of the same prompts in one batch with a fixed 80 tokens, its best case. (2) the paged
attention loop against the same attention over contiguous keys and values by batched matrix products, the floor that
paging is measured by, and against gathering blocks first. (3) one request alone.
"""

from __future__ import annotations

import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from openmimo.engine.attention import PagedCache, Rows
from openmimo.engine.engine import Engine, EngineConfig
from openmimo.model.config import MiMoConfig
from openmimo.model.mimo import MiMo
from openmimo.types import Request, Sampling

TINY = MiMoConfig(
    vocab_size=640,
    hidden_size=128,
    intermediate_size=352,
    num_hidden_layers=4,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=32,
    max_position_embeddings=2048,
    num_nextn_predict_layers=1,
)
NUM_RUNS = 5
PROMPT_TOKENS, GROUP, NUM_PROMPTS, LIVE = 60, 16, 32, 256


def main() -> None:
    torch.set_num_threads(1)
    model = MiMo(TINY).init_weights(torch.Generator().manual_seed(0))
    result = {
        "claim": "embedded engine against transformers.generate, tiny model, one core",
        "command": "OMP_NUM_THREADS=1 python benchmarks/engine_throughput.py",
        "commit": _output("git", "rev-parse", "--short", "HEAD"),
        "hardware": {"cpu": _cpu(), "torch": torch.__version__, "threads": 1, "python": platform.python_version()},
        "batch": batch(model),
        "attention": attention(),
        "alone": alone(model),
    }
    text = json.dumps(result, indent=2)
    print(text)
    if len(sys.argv) > 1:
        path = Path(sys.argv[1])
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n", encoding="utf-8")


def batch(model: MiMo) -> dict[str, Any]:
    """Generated tokens per CPU-second, many rollouts."""
    generator = torch.Generator().manual_seed(1)
    prompts_PT = torch.randint(0, TINY.vocab_size, (NUM_PROMPTS, PROMPT_TOKENS), generator=generator)
    lengths = torch.randint(60, 100, (NUM_PROMPTS * GROUP,), generator=generator).tolist()
    requests = [
        Request(tuple(prompts_PT[n // GROUP].tolist()), Sampling(length, seed=n)) for n, length in enumerate(lengths)
    ]
    engine = Engine(model, EngineConfig(max_batch_size=LIVE, max_model_len=256))
    peer = _transformers(model)
    peer_prompts = prompts_PT[: LIVE // GROUP].repeat_interleave(GROUP, 0)

    def ours() -> int:
        engine.scheduler.pool.drop_cache()
        return sum(len(rollout.token_ids) for rollout in engine.generate(requests))

    def theirs() -> int:
        with torch.inference_mode():
            out = peer.generate(
                peer_prompts, attention_mask=torch.ones_like(peer_prompts), do_sample=True, max_new_tokens=80,
                min_new_tokens=80, top_k=0, top_p=1.0, temperature=1.0, pad_token_id=0,
            )  # fmt: skip
        return out.numel() - peer_prompts.numel()

    return _ratio({"engine": ours, "transformers": theirs}, unit="generated tokens per CPU-second")


def alone(model: MiMo) -> dict[str, Any]:
    """Generated tokens per CPU-second, one request at a time."""
    prompt = tuple(range(PROMPT_TOKENS))
    engine = Engine(model, EngineConfig(max_batch_size=1, max_model_len=256))
    peer = _transformers(model)

    def ours() -> int:
        return len(engine.generate([Request(prompt, Sampling(80))])[0].token_ids)

    def theirs() -> int:
        with torch.inference_mode():
            ids = torch.tensor([prompt])
            out = peer.generate(
                ids, attention_mask=torch.ones_like(ids), do_sample=True, max_new_tokens=80, min_new_tokens=80,
                top_k=0, top_p=1.0, temperature=1.0, pad_token_id=0,
            )  # fmt: skip
        return out.numel() - len(prompt)

    return _ratio({"engine": ours, "transformers": theirs}, unit="generated tokens per CPU-second")


def attention(length: int = 112, block: int = 16) -> dict[str, Any]:
    """Rows attended per CPU-second in one layer: 256 sequences, 48 prompt tokens shared by 16 each."""
    kv_heads, head_dim = TINY.num_key_value_heads, TINY.head_dim
    group = TINY.num_attention_heads // kv_heads
    num_blocks = LIVE * length // block
    table = np.random.default_rng(0).permutation(num_blocks).reshape(LIVE, -1).astype(np.int32)
    table[:, :3] = np.repeat(table[::GROUP, :3], GROUP, 0)
    shape = {"dtype": torch.float32, "device": torch.device("cpu"), "table_RJ": table}
    cache = PagedCache(1, num_blocks, block, kv_heads, head_dim, **shape)  # type: ignore[arg-type]
    cache.keys.normal_()
    cache.values.normal_()
    rows = Rows.of([0] * LIVE, [length - 1] * LIVE, list(range(LIVE)), table, block)
    q = torch.randn(1, LIVE, kv_heads * group, head_dim)
    k, v = (torch.randn(1, LIVE, kv_heads, head_dim) for _ in range(2))
    flat_k, flat_v = (torch.randn(LIVE, kv_heads, length, head_dim) for _ in range(2))

    def contiguous() -> int:
        flat_k[:, :, -1] = k[0]
        flat_v[:, :, -1] = v[0]
        scores = q.view(LIVE, kv_heads, group, head_dim) @ flat_k.transpose(-1, -2) / head_dim**0.5
        scores.softmax(-1) @ flat_v
        return LIVE

    def paged() -> int:
        cache.compiled = True
        cache.attend(rows)(0, q, k, v)
        return LIVE

    def gathered() -> int:
        cache.compiled = False
        cache.attend(rows)(0, q, k, v)
        return LIVE

    def often(work: Callable[[], int]) -> Callable[[], int]:
        return lambda: sum(work() for _ in range(50))

    return _ratio(
        {"paged": often(paged), "contiguous": often(contiguous), "gathered": often(gathered)},
        unit="rows per CPU-second in one layer",
    )


def _ratio(works: dict[str, Callable[[], int]], unit: str) -> dict[str, Any]:
    """Run the works in turn; their rates, and the first one's over each other's, paired by round."""
    rates: dict[str, list[float]] = {name: [] for name in works}
    for run in range(-1, NUM_RUNS):  # the first round warms up
        for name, work in works.items():
            start = time.process_time()
            count = work()
            if run >= 0:
                rates[name].append(count / (time.process_time() - start))
    first, *others = works
    ratios = {
        f"{first} / {name}": _spread([a / b for a, b in zip(rates[first], rates[name], strict=True)]) for name in others
    }
    return {"unit": unit, "rates": {name: _spread(values) for name, values in rates.items()}, "ratios": ratios}


def _spread(values: list[float]) -> dict[str, float]:
    digits = 0 if min(values) > 100 else 3
    return {
        "median": round(statistics.median(values), digits),
        "min": round(min(values), digits),
        "max": round(max(values), digits),
    }


def _transformers(model: MiMo) -> Any:
    from transformers import Qwen2Config, Qwen2ForCausalLM

    config = Qwen2Config(
        vocab_size=TINY.vocab_size, hidden_size=TINY.hidden_size, intermediate_size=TINY.intermediate_size,
        num_hidden_layers=TINY.num_hidden_layers, num_attention_heads=TINY.num_attention_heads,
        num_key_value_heads=TINY.num_key_value_heads, max_position_embeddings=TINY.max_position_embeddings,
        rms_norm_eps=TINY.rms_norm_eps, rope_theta=TINY.rope_theta, tie_word_embeddings=False,
        bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    peer = Qwen2ForCausalLM(config).eval()
    peer.load_state_dict({name: t for name, t in model.state_dict().items() if "mtp_layers" not in name})
    return peer


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    main()
