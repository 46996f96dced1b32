"""Claim: a 25 M-parameter model decodes faster here than in transformers.generate, and batch-invariant at that.

    OMP_NUM_THREADS=1 python benchmarks/engine_speed.py [benchmarks/results/engine_speed.json]

Generated tokens per CPU-second, batch 1 and batch 32, fp32, one thread, interleaved rounds; prompts of 64 tokens are
computed in the same time. Weights are random: speed does not depend on them. Everyone samples at temperature 1 from the
whole distribution and gives the same number of tokens. transformers runs as it comes (dynamic cache), with a static
cache, and with a static cache and torch.compile; compared is whichever of them is fastest. vLLM (`make vllm`) runs
beside, compiled, in its own environment and times itself; without it its row is missing, and a line says so.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import record
import torch
from medium_recipe import MEDIUM
from vllm_peer import PYTHON, VllmPeer

from openmimo.engine.engine import Engine, EngineConfig
from openmimo.model.hf import save_folder
from openmimo.model.mimo import MiMo
from openmimo.types import Request, Sampling

NUM_ROUNDS = 5
PROMPT_TOKENS, NEW_TOKENS = 64, 96
BATCHES = (1, 32)
PEER = "transformers"
ENGINES: dict[str, dict[str, Any]] = {
    "engine": {},
    "engine, PyTorch backend": {"backend": "torch", "batch_invariant": False},
    "engine, PyTorch backend, batch-invariant": {"backend": "torch", "batch_invariant": True},
}
"""The engine as it comes is batch-invariant; without that it is the same: there is nothing to gain. What invariance
costs where matrices are PyTorch's is shown beside it."""


def main() -> None:
    torch.set_num_threads(1)
    model = MiMo(MEDIUM).init_weights(torch.Generator().manual_seed(0)).eval()
    with ExitStack() as stack:
        folder = save_folder(model, Path(stack.enter_context(tempfile.TemporaryDirectory())) / "model")
        vllm = None
        if PYTHON.exists():
            settings = {"max_model_len": PROMPT_TOKENS + NEW_TOKENS, "max_batch_size": max(BATCHES)}
            vllm = stack.enter_context(VllmPeer(folder, dtype="float32", **settings))
        else:
            print(f"{PYTHON} does not exist, so vLLM is left out: make vllm builds it", file=sys.stderr)
        peers = transformers_peers(model)
        found = {f"batch {batch}": measured(contestants(model, peers, vllm, batch)) for batch in BATCHES}
    trunk, mtp = MEDIUM.num_parameters()
    record.write(
        "generated tokens per CPU-second against transformers.generate and vLLM",
        "OMP_NUM_THREADS=1 python benchmarks/engine_speed.py",
        {"parameters": trunk, "mtp_parameters": mtp, "prompt": PROMPT_TOKENS, "new": NEW_TOKENS, **found},
        torch=torch.__version__,
        threads=1,
    )


def measured(works: dict[str, Callable[[], float]]) -> dict[str, Any]:
    """Rates, and ratios of ours to the fastest of each peer's, paired by round."""
    rates = record.interleaved(works, NUM_ROUNDS)
    peers = {PEER: fastest(rates, PEER)} | ({"vllm": "vllm"} if "vllm" in rates else {})
    return {
        "tokens_per_cpu_s": {name: record.spread(values, digits=1) for name, values in rates.items()},
        "fastest_of_transformers": peers[PEER],
        "ratios": {
            f"{name} / {peer}": record.over(rates, name, chosen)
            for peer, chosen in peers.items()
            for name in rates
            if name.startswith("engine")
        },
    }


def fastest(rates: dict[str, list[float]], prefix: str) -> str:
    """The name with this prefix whose median is largest."""
    return max(
        (name for name in rates if name.startswith(prefix)), key=lambda name: record.spread(rates[name])["median"]
    )


def contestants(
    model: MiMo, peers: dict[str, Callable[[torch.Tensor], int]], vllm: VllmPeer | None, batch: int
) -> dict[str, Callable[[], float]]:
    """By name, what decodes one batch and returns tokens per CPU-second."""
    generator = torch.Generator().manual_seed(batch)
    prompts_BT = torch.randint(0, MEDIUM.vocab_size, (batch, PROMPT_TOKENS), generator=generator)
    requests = [Request(tuple(ids), Sampling(NEW_TOKENS, seed=n)) for n, ids in enumerate(prompts_BT.tolist())]
    found: dict[str, Callable[[], tuple[int, float]]] = {}
    for name, settings in ENGINES.items():
        config = EngineConfig(max_batch_size=batch, max_model_len=PROMPT_TOKENS + NEW_TOKENS)
        engine = Engine(model, replace(config, **settings))

        def ours(engine: Engine = engine) -> int:
            engine.scheduler.pool.drop_cache()
            return sum(len(rollout.token_ids) for rollout in engine.generate(requests))

        found[name] = rate(ours)
    for name, peer in peers.items():
        found[name] = rate(lambda peer=peer: peer(prompts_BT))
    if vllm is not None:
        found["vllm"] = lambda: vllm_rate(vllm, requests)
    expected = batch * NEW_TOKENS
    return {name: checked(name, work, expected) for name, work in found.items()}


def rate(work: Callable[[], int]) -> Callable[[], tuple[int, float]]:
    """The work with its tokens per CPU-second."""

    def run() -> tuple[int, float]:
        began = time.process_time()
        count = work()
        return count, count / (time.process_time() - began)

    return run


def vllm_rate(vllm: VllmPeer, requests: list[Request]) -> tuple[int, float]:
    answer = vllm.generate(requests)
    return answer.num_tokens, answer.num_tokens / answer.cpu_s


def checked(name: str, work: Callable[[], tuple[int, float]], expected: int) -> Callable[[], float]:
    """The work's rate; everyone has to give as many tokens."""

    def run() -> float:
        count, found = work()
        if count != expected:
            raise ValueError(f"{name} gave {count} tokens, expected {expected}")
        return found

    return run


def transformers_peers(model: MiMo) -> dict[str, Callable[[torch.Tensor], int]]:
    """transformers.generate over the same trunk, by variant: prompts in, number of new tokens out."""
    from transformers import CompileConfig, Qwen2Config, Qwen2ForCausalLM

    config = Qwen2Config(
        vocab_size=MEDIUM.vocab_size,
        hidden_size=MEDIUM.hidden_size,
        intermediate_size=MEDIUM.intermediate_size,
        num_hidden_layers=MEDIUM.num_hidden_layers,
        num_attention_heads=MEDIUM.num_attention_heads,
        num_key_value_heads=MEDIUM.num_key_value_heads,
        max_position_embeddings=MEDIUM.max_position_embeddings,
        rms_norm_eps=MEDIUM.rms_norm_eps,
        rope_theta=MEDIUM.rope_theta,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=None,
    )
    peer = Qwen2ForCausalLM(config).eval()
    peer.load_state_dict({name: t for name, t in model.state_dict().items() if "mtp_layers" not in name})
    compiled = CompileConfig(fullgraph=False, mode="default")
    compiled._compile_all_devices = True  # transformers compiles on GPUs only unless told
    variants: dict[str, dict[str, Any]] = {
        f"{PEER}, dynamic cache": {},
        f"{PEER}, static cache": {"cache_implementation": "static", "disable_compile": True},
        f"{PEER}, static cache, compiled": {"cache_implementation": "static", "compile_config": compiled},
    }

    def generate(prompts_BT: torch.Tensor, settings: dict[str, Any]) -> int:
        with torch.inference_mode():
            out_BT = peer.generate(
                prompts_BT,
                attention_mask=torch.ones_like(prompts_BT),
                do_sample=True,
                temperature=1.0,
                top_k=0,
                top_p=1.0,
                max_new_tokens=NEW_TOKENS,
                min_new_tokens=NEW_TOKENS,
                pad_token_id=0,
                **settings,
            )
        return out_BT.numel() - prompts_BT.numel()

    return {name: lambda ids, chosen=chosen: generate(ids, chosen) for name, chosen in variants.items()}


if __name__ == "__main__":
    main()
