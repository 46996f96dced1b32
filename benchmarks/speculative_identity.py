"""Claim: with the same seeds, 0, 1, 2 and 3 drafts give token-identical responses at any temperature and truncation.

    OMP_NUM_THREADS=1 python benchmarks/speculative_identity.py [MODEL_FOLDER] [RESULT.json]

For temperatures 0, 0.6 and 1.0, each plain, with top-p, with top-k and with both: the same requests with every number
of drafts, and with a number that follows the live batch, on models whose drafters are identical, good and bad, and on a
trained folder if one is given. Counted are responses in which a token or the bits of a log-probability differ from
plain decoding's, with how often drafts were kept, without which nothing would be shown. fp32, on the CPU.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import record
import torch
from draft_models import drafting_model

from openmimo.engine.engine import Engine, EngineConfig
from openmimo.model.hf import load_folder
from openmimo.model.mimo import MiMo
from openmimo.types import Request, Sampling

TEMPERATURES = (0.0, 0.6, 1.0)
TRUNCATIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "top-p 0.9": {"top_p": 0.9},
    "top-k 20": {"top_k": 20},
    "top-p 0.9, top-k 20": {"top_p": 0.9, "top_k": 20},
}
NUM_REQUESTS, NEW_TOKENS = 48, 60


def main() -> None:
    torch.set_num_threads(1)
    models = {
        "identical drafter": drafting_model(),
        "good drafter": drafting_model(context=0.005, noise=0.01),
        "bad drafter": drafting_model(context=0.1, noise=0.03),
    }
    folders = [Path(word) for word in sys.argv[1:] if not word.endswith(".json")]
    models |= {str(folder): load_folder(folder, dtype=torch.float32) for folder in folders}
    found = {name: rounds(model, NUM_REQUESTS, NEW_TOKENS) for name, model in models.items()}
    record.write(
        "same seeds, 0 to 3 drafts: responses that differ",
        "OMP_NUM_THREADS=1 python benchmarks/speculative_identity.py MODEL_FOLDER",
        {
            "responses_that_differ": sum(r["differ"] for rows in found.values() for r in rows),
            "responses_compared": sum(r["compared"] for rows in found.values() for r in rows),
            "models": found,
        },
        torch=torch.__version__,
        threads=1,
    )
    if any(r["differ"] for rows in found.values() for r in rows):
        sys.exit("responses differ")


def rounds(model: MiMo, num_requests: int, new_tokens: int) -> list[dict[str, Any]]:
    """One row for every temperature, truncation and number of drafts."""
    most = min(3, model.config.num_nextn_predict_layers)
    found = []
    for temperature in TEMPERATURES:
        for truncation, settings in TRUNCATIONS.items():
            asked = requests(model, num_requests, Sampling(new_tokens, temperature=temperature, **settings))
            plain, _ = decode(model, asked, 0)
            for num_drafts in (*range(1, most + 1), "adaptive"):
                responses, rates = decode(model, asked, num_drafts)
                found.append(
                    {
                        "temperature": temperature,
                        "truncation": truncation,
                        "drafts": num_drafts,
                        "compared": len(plain),
                        "differ": sum(a != b for a, b in zip(plain, responses, strict=True)),
                        "acceptance": {layer: round(rate, 3) for layer, rate in rates.items()},
                    }
                )
    return found


def requests(model: MiMo, number: int, sampling: Sampling) -> list[Request]:
    """Prompts of several lengths, some shared; seeds 0, 1, ..."""
    generator = torch.Generator().manual_seed(3)
    prompts = [
        tuple(torch.randint(0, model.config.vocab_size, (4 + n % 29,), generator=generator).tolist())
        for n in range(-(-number // 2))
    ]
    return [Request(prompts[n // 2], replace(sampling, seed=n)) for n in range(number)]


def decode(
    model: MiMo, asked: list[Request], num_drafts: int | Literal["adaptive"]
) -> tuple[list[Any], dict[str, float]]:
    """(token ids, log-probabilities) of every response, and acceptance by layer."""
    adaptive = num_drafts == "adaptive"
    layers = min(3, model.config.num_nextn_predict_layers) if num_drafts == "adaptive" else num_drafts
    config = EngineConfig(max_batch_size=32, max_model_len=128, num_draft_layers=layers, adapt_drafts=adaptive)
    engine = Engine(model, config)
    rollouts = engine.generate(asked)
    return [(r.token_ids, r.logprobs, r.raw_logprobs) for r in rollouts], engine.acceptance.rates()


if __name__ == "__main__":
    main()
