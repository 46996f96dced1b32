"""Short versions of the benchmarks on speculative decoding: identity, distribution, an identical drafter."""

from dataclasses import replace

import pytest
import speculative_distribution as distribution
import speculative_identity as identity
import torch
from draft_models import drafting_model

from openmimo.engine import engine as engine_module
from openmimo.engine.engine import Engine, EngineConfig
from openmimo.model.mimo import MiMo
from openmimo.types import Sampling


@pytest.mark.parametrize(("context", "noise"), [(0.005, 0.01), (0.1, 0.03)])
def test_the_same_seeds_give_the_same_responses_with_any_number_of_drafts(context: float, noise: float) -> None:
    found = identity.rounds(drafting_model(context=context, noise=noise), num_requests=8, new_tokens=24)
    assert {row["drafts"] for row in found} == {1, 2, 3, "adaptive"}
    assert {(row["temperature"], row["truncation"]) for row in found} == {
        (temperature, name) for temperature in identity.TEMPERATURES for name in identity.TRUNCATIONS
    }
    assert [row for row in found if row["differ"]] == []
    kept = [row["acceptance"]["1"] for row in found if row["drafts"] == 3]
    assert 0.0 < min(kept) and max(kept) < 1.0  # both outcomes were there


def test_a_response_that_differs_is_counted() -> None:
    model = drafting_model(context=0.1, noise=0.03)
    with distribution.lenient_verify():
        found = identity.rounds(model, num_requests=6, new_tokens=24)
    assert sum(row["differ"] for row in found) > 0.1 * sum(row["compared"] for row in found)


@pytest.mark.parametrize("seeded", [True, False], ids=["common random numbers", "rejection sampling"])
def test_four_token_continuations_have_the_models_joint_distribution(seeded: bool) -> None:
    found = distribution.test(distribution.some_model(), num_prompts=3, num_samples=800, seeded=seeded)
    assert found["p_value"] > 1e-5  # the benchmark has the samples for 1e-3; unseeded draws differ from run to run
    assert 0.3 < found["acceptance"]["1"] < 0.9


@pytest.mark.parametrize("seeded", [True, False], ids=["common random numbers", "rejection sampling"])
def test_a_lenient_verifier_is_found_out(seeded: bool) -> None:
    broken = distribution.lenient_verify(0.3) if seeded else distribution.lenient_reject(1.5)
    sound = engine_module.verify, engine_module.reject
    with broken:
        found = distribution.test(distribution.some_model(), num_prompts=3, num_samples=600, seeded=seeded)
    assert found["p_value"] < 1e-6
    assert (engine_module.verify, engine_module.reject) == sound


def kept(model: MiMo, *, seeded: bool) -> dict[str, float]:
    asked = identity.requests(model, 24, Sampling(40))
    engine = Engine(model, EngineConfig(max_batch_size=24, max_model_len=128, num_draft_layers=3))
    engine.generate(asked if seeded else [replace(r, sampling=replace(r.sampling, seed=None)) for r in asked])
    return engine.acceptance.rates()


@pytest.mark.parametrize("seeded", [True, False], ids=["common random numbers", "rejection sampling"])
def test_an_identical_drafter_is_kept_at_temperature_1(seeded: bool) -> None:
    rates = kept(drafting_model(), seeded=seeded)
    assert set(rates) == {"1", "2", "3"}
    assert min(rates.values()) >= 0.99
    assert kept(drafting_model(context=0.05), seeded=seeded)["1"] < 0.9  # and another one is not


def test_an_identical_drafter_really_predicts_what_the_trunk_does() -> None:
    model = drafting_model()
    ids = torch.tensor([[5, 17, 3, 80, 41]])
    positions = torch.arange(5)[None]

    def nothing(layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(q)

    with torch.inference_mode():
        hidden = model(ids, positions, nothing)
        target = model.logits(hidden)[0, 1:]
        draft = model.draft_normed(0, model.draft_hidden(0, hidden[:, :-1], ids[:, 1:], positions[:, :-1], nothing))
        torch.testing.assert_close(model.lm_head(draft)[0], target, rtol=1e-4, atol=1e-4)
    assert target.softmax(-1).max() < 0.9  # temperature 1 has something to choose
