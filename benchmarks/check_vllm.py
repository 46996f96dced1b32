"""Claim: on a folder that we export, vLLM's greedy tokens are ours, with and without its MTP layer.

    make check-vllm        or, once `make vllm` has built the environment:
    OMP_NUM_THREADS=1 python benchmarks/check_vllm.py [benchmarks/results/check_vllm.json]

A model of 1.1 M parameters with one MTP layer and a tokenizer of its own is trained for a few seconds, so that drafts
are kept and refused, and exported. The same 20 chat prompts go through our engine and, in its own environment and
through the product's adapter, through vLLM, fp32, plain and with one draft a step; then again after vLLM has read new
weights from the folder. vLLM gives embeddings at position 0 to its MTP layer as zeros, which the released code does
not, so the two acceptances stand side by side and need not be equal. Exits with status 1 if a token differs.
"""

from __future__ import annotations

import random
import sys
import tempfile
from pathlib import Path
from typing import Any

import record
from vllm_peer import Answer, VllmPeer

from openmimo.types import Request, Sampling

NUM_PROMPTS, NEW_TOKENS = 20, 64
STEPS = 90


def main() -> None:
    import torch

    from openmimo.model.hf import save_folder

    torch.set_num_threads(1)
    rounds: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "model"
        model, chat, requests = small_model(Path(name) / "tokenizer")
        other = [t.clone() for t in model.parameters()]
        train(model, chat, STEPS // 3, seed=2)
        for num_drafts in (0, 1):
            save_folder(model, folder, tokenizer_from=Path(name) / "tokenizer")
            settings = {"max_model_len": 256, "max_batch_size": 32, "dtype": "float32", "enforce_eager": True}
            log = Path(name) / "vllm.log"
            with VllmPeer(folder, log=log, num_draft_tokens=num_drafts, **settings) as peer:
                ours, rates = greedy(model, requests, num_drafts)
                rounds["1 draft" if num_drafts else "0 drafts"] = compared(ours, rates, peer.generate(requests))
                if not num_drafts:
                    with torch.no_grad():  # the trainer replaces the folder
                        for parameter, value in zip(model.parameters(), other, strict=True):
                            parameter.copy_(value)
                    save_folder(model, folder, tokenizer_from=Path(name) / "tokenizer")
                    peer.ask({"reload": 1})
                    ours, rates = greedy(model, requests, 0)
                    rounds["0 drafts, new weights"] = compared(ours, rates, peer.generate(requests))
    record.write(
        "greedy tokens of vLLM against ours, fp32",
        "make check-vllm",
        {"prompts": NUM_PROMPTS, "new_tokens": NEW_TOKENS, "rounds": rounds},
        threads=1,
    )
    wrong = faults(rounds)
    if wrong:
        sys.exit("\n".join(wrong))


def faults(rounds: dict[str, Any]) -> list[str]:
    """What the rounds disprove: tokens that differ, or a round with drafts in which vLLM made none."""
    found = [
        f"{name}: {round_['prompts_that_differ']} of {NUM_PROMPTS} prompts differ from vLLM's"
        for name, round_ in rounds.items()
        if round_["prompts_that_differ"]
    ]
    if rounds["1 draft"]["acceptance"]["vllm"] is None:
        found.append("1 draft: vLLM drafted nothing, so its MTP layer was not checked")
    return found


def compared(ours: list[list[int]], rates: dict[str, float], theirs: Answer) -> dict[str, Any]:
    return {
        "prompts_that_differ": sum(a != b for a, b in zip(ours, theirs.token_ids, strict=True)),
        "tokens": sum(map(len, ours)),
        "acceptance": {
            "ours": {layer: round(rate, 4) for layer, rate in rates.items()},
            "vllm": round(theirs.accepted / theirs.drafted, 4) if theirs.drafted else None,
        },
    }


def greedy(model: Any, requests: list[Request], num_drafts: int) -> tuple[list[list[int]], dict[str, float]]:
    """Token ids by request, and acceptance by layer."""
    from openmimo.engine.engine import Engine, EngineConfig

    engine = Engine(model, EngineConfig(max_batch_size=32, max_model_len=256, num_draft_layers=num_drafts))
    return [list(rollout.token_ids) for rollout in engine.generate(requests)], engine.acceptance.rates()


def small_model(tokenizer: Path) -> tuple[Any, Any, list[Request]]:
    """A model that has learnt a little, its chat, and greedy requests for problems it has not seen."""
    import torch

    from openmimo.curate.families import FAMILIES
    from openmimo.data.chat import CHAT_TEMPLATE, Chat
    from openmimo.data.tokenizer import save_tokenizer, train_tokenizer
    from openmimo.model.config import MiMoConfig
    from openmimo.model.mimo import MiMo

    chat = Chat(train_tokenizer([m["content"] for pair in conversations(300, seed=0) for m in pair], 512))
    save_tokenizer(chat.tokenizer, tokenizer, chat_template=CHAT_TEMPLATE, max_length=256)
    config = MiMoConfig(
        vocab_size=512,
        hidden_size=128,
        intermediate_size=352,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=256,
        eos_token_id=chat.stop_token_ids[0],
    )
    model = MiMo(config).init_weights(torch.Generator().manual_seed(0))
    train(model, chat, STEPS, seed=1)
    rng = random.Random("held out")
    families = sorted(FAMILIES)
    drawn = [FAMILIES[families[n % len(families)]].draw(rng, 3) for n in range(NUM_PROMPTS)]
    sampling = Sampling(NEW_TOKENS, temperature=0.0, stop_token_ids=chat.stop_token_ids)
    return model, chat, [Request(chat.render_prompt(d.problem.prompt), sampling, d.problem.id) for d in drawn]


def conversations(number: int, *, seed: int) -> list[list[dict[str, str]]]:
    from openmimo.curate.families import FAMILIES

    rng = random.Random(seed)
    found = []
    for n in range(number):
        family = FAMILIES[sorted(FAMILIES)[n % len(FAMILIES)]]
        drawn = family.draw(rng, 3)
        answer = family.solve(drawn, "worked", rng)
        found.append([{"role": "user", "content": drawn.problem.prompt}, {"role": "assistant", "content": answer}])
    return found


def train(model: Any, chat: Any, steps: int, *, seed: int) -> None:
    from openmimo.data.pack import Sample, fit_rows, stack
    from openmimo.train.loss import next_token_loss
    from openmimo.train.optim import OptimConfig, Optimizer
    from openmimo.train.step import TrainState, train_step

    rows_a_step, context = 4, 256
    texts = [chat.render_training(m)[0] for m in conversations(steps * rows_a_step * 3, seed=seed)]
    samples = [Sample(ids) for ids in texts if len(ids) <= context]
    rows = fit_rows([len(s.token_ids) for s in samples], context)
    random.Random(seed).shuffle(rows)
    state = TrainState(model, Optimizer(model, OptimConfig(kind="muon")))
    loss = next_token_loss(mtp_weight=0.3)
    for step in range(min(steps, len(rows) // rows_a_step)):
        chosen = rows[step * rows_a_step : (step + 1) * rows_a_step]
        batch = stack([[samples[i] for i in row] for row in chosen], context)
        train_step(state, batch, loss, learning_rate=3e-3 * min(1.0, (step + 1) / 10))


if __name__ == "__main__":
    main()
