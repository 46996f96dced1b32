"""Claim: speculative decoding samples the model's own distribution, with either verifier, and this test would notice.

    OMP_NUM_THREADS=1 python benchmarks/speculative_distribution.py [benchmarks/results/speculative_distribution.json]

For each of 20 prompts, continuations of 4 tokens over a vocabulary of 8 are drawn with 3 drafts a step and counted
against their exact joint probabilities, all 4,096 of them, computed from the model's logits without the engine:
Pearson's chi-square, cells expected less than MIN_EXPECTED times pooled, summed over the prompts. Both verifiers: with
a seed (common random numbers) and without (rejection sampling); then both broken on purpose, a little: drafts kept with
probability min(1, 1.1 p / q), and one in ten of the drafts that the seeded one refuses kept all the same. The first two
should not be rejected at 1e-3 and the broken ones be rejected at 1e-6.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import product
from typing import Any

import record
import torch
from draft_models import drafting_model

from openmimo.engine import engine as engine_module
from openmimo.engine.engine import Engine, EngineConfig
from openmimo.model.attention import packed_attention
from openmimo.model.mimo import MiMo
from openmimo.types import Request, Sampling

VOCABULARY, LENGTH = 8, 4
NUM_PROMPTS, NUM_SAMPLES = 20, 5_000
MIN_EXPECTED = 20.0
KEPT_AT, REJECTED_AT = 1e-3, 1e-6


def main() -> None:
    torch.set_num_threads(1)
    found = verdicts(NUM_PROMPTS, NUM_SAMPLES)
    record.write(
        "4-token continuations against the model's exact probabilities",
        "OMP_NUM_THREADS=1 python benchmarks/speculative_distribution.py",
        {"prompts": NUM_PROMPTS, "samples_a_prompt": NUM_SAMPLES, "drafts": 3, "verifiers": found},
        torch=torch.__version__,
        threads=1,
    )
    wrong = [name for name, row in found.items() if row["as_expected"] is False]
    if wrong:
        sys.exit(f"not as claimed: {', '.join(wrong)}")


def verdicts(num_prompts: int, num_samples: int) -> dict[str, dict[str, Any]]:
    """The test's outcome by verifier."""
    model = some_model()
    found = {}
    for name, seeded, tampering in (
        ("common random numbers", True, None),
        ("rejection sampling", False, None),
        ("common random numbers, broken", True, lenient_verify),
        ("rejection sampling, broken", False, lenient_reject),
    ):
        with tampering() if tampering else nothing():
            row = test(model, num_prompts, num_samples, seeded=seeded)
        sound = tampering is None
        row["as_expected"] = row["p_value"] > KEPT_AT if sound else row["p_value"] < REJECTED_AT
        found[name] = row
    return found


def some_model() -> MiMo:
    """Of 8 ids; the drafters are right more often than not."""
    return drafting_model(vocab_size=VOCABULARY, context=0.05, noise=0.02)


def test(model: MiMo, num_prompts: int, num_samples: int, *, seeded: bool) -> dict[str, Any]:
    """Draw, count and compare, over all prompts."""
    config = EngineConfig(max_batch_size=256, max_model_len=32, num_draft_layers=3)
    engine = Engine(model, config)
    statistic, freedom = 0.0, 0
    for prompt in prompts(num_prompts):
        # One token more than is counted, so that three drafts fit after the first.
        asked = [Request(prompt, Sampling(LENGTH + 1, seed=n if seeded else None)) for n in range(num_samples)]
        counts = Counter(rollout.token_ids[:LENGTH] for rollout in engine.generate(asked))
        found = chi_square(counts, exact(model, prompt))
        statistic, freedom = statistic + found[0], freedom + found[1]
    return {
        "chi_square": round(statistic, 1),
        "degrees_of_freedom": freedom,
        "p_value": tail(statistic, freedom),
        "acceptance": {layer: round(rate, 3) for layer, rate in engine.acceptance.rates().items()},
    }


def prompts(number: int) -> list[tuple[int, ...]]:
    generator = torch.Generator().manual_seed(11)
    return [tuple(torch.randint(0, VOCABULARY, (3 + n % 8,), generator=generator).tolist()) for n in range(number)]


def exact(model: MiMo, prompt: tuple[int, ...]) -> dict[tuple[int, ...], float]:
    """Joint probability of every continuation, by full forward passes in float64 softmax."""
    heads = list(product(range(VOCABULARY), repeat=LENGTH - 1))
    ids_BT = torch.tensor([(*prompt, *head) for head in heads])
    positions_BT = torch.arange(ids_BT.shape[1]).expand_as(ids_BT)
    with torch.inference_mode():
        hidden_BTD = model(ids_BT, positions_BT, packed_attention(torch.zeros_like(ids_BT)))
        logp_BTV = model.logits(hidden_BTD)[:, len(prompt) - 1 :].double().log_softmax(-1)
    ahead_BT = ids_BT[:, len(prompt) :]
    head_B = logp_BTV[:, :-1].gather(2, ahead_BT[..., None])[..., 0].sum(-1)
    joint_BV = (head_B[:, None] + logp_BTV[:, -1]).exp()
    return {(*head, last): float(joint_BV[b, last]) for b, head in enumerate(heads) for last in range(VOCABULARY)}


def chi_square(
    counts: dict[tuple[int, ...], int], probabilities: dict[tuple[int, ...], float], least: float = MIN_EXPECTED
) -> tuple[float, int]:
    """Pearson's statistic and its degrees of freedom; cells expected less often than `least` are pooled.

    Raises:
        ValueError: if something was counted that has no probability.
    """
    unknown = next((cell for cell in counts if cell not in probabilities), None)
    if unknown is not None:
        raise ValueError(f"{unknown} was counted {counts[unknown]} times and has no probability")
    total = sum(counts.values())
    cells: list[tuple[float, float]] = []
    pooled_count, pooled_expected = 0.0, 0.0
    for cell in sorted(probabilities, key=lambda c: -probabilities[c]):
        expected, count = total * probabilities[cell], counts.get(cell, 0)
        if expected >= least:
            cells.append((count, expected))
            continue
        pooled_count, pooled_expected = pooled_count + count, pooled_expected + expected
        if pooled_expected >= least:  # cells of nearly equal probability share one
            cells.append((pooled_count, pooled_expected))
            pooled_count, pooled_expected = 0.0, 0.0
    if pooled_expected:
        count, expected = cells.pop() if cells else (0.0, 0.0)
        cells.append((count + pooled_count, expected + pooled_expected))
    return sum((count - expected) ** 2 / expected for count, expected in cells), len(cells) - 1


def tail(statistic: float, freedom: int) -> float:
    """P(chi-square of so many degrees of freedom > statistic)."""
    a, x = (torch.tensor(value / 2, dtype=torch.float64) for value in (freedom, statistic))
    return float(torch.special.gammaincc(a, x))


@contextmanager
def nothing() -> Iterator[None]:
    yield


@contextmanager
def lenient_verify(share: float = 0.1) -> Iterator[None]:
    """A share of the drafts that the seeded verifier refuses is kept."""
    rng = torch.Generator().manual_seed(0)
    sound = engine_module.verify

    def verify(sequence: Any, drawn: Any, *more: Any, **settings: Any) -> int:
        token_ids = getattr(drawn, "token_ids", drawn)
        for j in range(len(token_ids) - 1):
            if token_ids[j] != sequence.draft_ids[j]:
                if float(torch.rand((), generator=rng)) < share:
                    token_ids[j] = sequence.draft_ids[j]
                break
        return sound(sequence, drawn, *more, **settings)

    with replaced("verify", verify):
        yield


@contextmanager
def lenient_reject(factor: float = 1.1) -> Iterator[None]:
    """Drafts are kept with probability min(1, factor p / q)."""
    sound = engine_module.reject

    def reject(sequence: Any, *more: Any, **settings: Any) -> Any:
        sequence.draft_probabilities = [q_V / factor for q_V in sequence.draft_probabilities]
        return sound(sequence, *more, **settings)

    with replaced("reject", reject):
        yield


@contextmanager
def replaced(name: str, function: Callable[..., Any]) -> Iterator[None]:
    """The engine with one of its functions replaced."""
    sound = getattr(engine_module, name)
    setattr(engine_module, name, function)
    try:
        yield
    finally:
        setattr(engine_module, name, sound)


if __name__ == "__main__":
    main()
