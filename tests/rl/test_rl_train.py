"""The RL loop's parts against the paper's figures and a slow twin; the loop itself runs in `test_walks.py`."""

import math
from dataclasses import replace

import pytest
import torch

from openmimo.engine.engine import Engine, EngineConfig
from openmimo.eval.run import EvalConfig
from openmimo.model.config import MiMoConfig
from openmimo.model.mimo import MiMo
from openmimo.rl.config import RLConfig
from openmimo.rl.loss import policy_loss
from openmimo.rl.update import to_samples, update
from openmimo.train.optim import OptimConfig, Optimizer
from openmimo.train.pretrain import seeded_model
from openmimo.train.step import TrainState
from openmimo.types import Batch, Group, Problem, Request, Sampling, Verdict

MODEL = MiMoConfig(
    vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, head_dim=8, rope_theta=1e4, max_position_embeddings=64, initializer_range=0.3,
)  # fmt: skip
CONFIG = RLConfig(
    batch_groups=4, num_rollouts=2, minibatch_groups=2, learning_rate=1e-3, max_new_tokens=8, context=32,
    temperature=0.8, optim=OptimConfig(weight_decay=0.0),
)  # fmt: skip


def model() -> MiMo:
    return seeded_model(MiMo(MODEL), 3)


def rollout_groups(num_groups: int = 4) -> list[Group]:
    """Real rollouts of the same weights, one right and one wrong a group."""
    engine = Engine(model(), EngineConfig(max_batch_size=8, max_model_len=32))
    requests = [
        Request((1, 2 + g), Sampling(8, temperature=CONFIG.temperature, seed=2 * g + s))
        for g in range(num_groups)
        for s in range(2)
    ]
    rollouts = engine.generate(requests)
    return [
        Group(
            Problem(str(g), "", "math", answer="1"), tuple(rollouts[2 * g : 2 * g + 2]), (Verdict("accepted"),) * 2,
            rewards=(1.0, 0.0),
        )
        for g in range(num_groups)
    ]  # fmt: skip


def engines_logprobs(groups: list[Group]) -> list[float]:
    return sorted(p for group in groups for rollout in group.rollouts for p in rollout.logprobs)


def run_update(groups: list[Group], config: RLConfig = CONFIG, *, step: int = 0, frozen: MiMo | None = None):  # type: ignore[no-untyped-def]
    """One update; the mini-batches as the loss saw them, the metrics, and the state."""
    seen: list[Batch] = []
    inner = policy_loss(clip_low=config.clip_low, clip_high=config.clip_high, temperature=config.temperature)

    def loss(policy: MiMo, batch: Batch):  # type: ignore[no-untyped-def]
        seen.append(batch)
        return inner(policy, batch)

    policy = model()
    state = TrainState(policy, Optimizer(policy, config.optim))
    return seen, update(state, groups, loss, config, step=step, frozen=frozen).metrics, state


def group_order(seen: list[Batch]) -> list[list[int]]:
    return [sorted(set(batch.sequence_ids[batch.sequence_ids >= 0].tolist())) for batch in seen]


def test_rl_defaults_are_the_papers() -> None:
    config = RLConfig()
    assert (config.batch_groups, config.num_rollouts, config.minibatch_groups) == (512, 16, 32)  # MiMo 3.3.3
    assert config.batch_groups // config.minibatch_groups == 16  # gradient updates an iteration
    assert (config.learning_rate, config.temperature, config.top_p) == (1e-6, 1.0, 1.0)
    assert config.max_new_tokens == config.context == 32_768
    assert (config.clip_low, config.clip_high) == (0.2, 0.28)  # decision 0002
    assert config.alpha == 0.1  # MiMo 3.3.2
    assert (config.normalization, config.scheme, config.curation_samples) == ("token", "soft", 16)


def test_evaluation_defaults_are_the_papers() -> None:
    config = EvalConfig()
    assert (config.temperature, config.top_p, config.max_new_tokens) == (0.6, 0.95, 32_768)  # MiMo 3.5


def test_samples_carry_the_groups_advantages_and_weigh_the_response_alone() -> None:
    right, wrong = to_samples(rollout_groups(1)[0], 0)
    assert right.advantage == pytest.approx(1 / math.sqrt(2), abs=1e-4)  # (1 - 0.5) / std, unbiased 0.7071
    assert wrong.advantage == pytest.approx(-right.advantage)
    assert right.loss_weights is not None and right.loss_weights[:2] == (0.0, 0.0)
    assert sum(right.loss_weights) == len(right.token_ids) - 2 and right.group == wrong.group == 0


@pytest.mark.parametrize("micro_rows", [0, 1])
def test_the_trainers_old_logprobs_are_the_engines_and_so_the_first_update_is_on_policy(micro_rows: int) -> None:
    groups = rollout_groups()
    seen, metrics, _ = run_update(groups, replace(CONFIG, minibatch_groups=4, micro_rows=micro_rows))
    engines = engines_logprobs(groups)
    trainers = sorted(p for batch in seen for p in batch.old_logprobs[batch.loss_weights > 0].tolist())
    assert trainers == pytest.approx(engines, abs=1e-4)
    assert metrics["engine_kl"] == pytest.approx(0.0, abs=1e-6)
    assert metrics["kl"] == pytest.approx(0.0, abs=1e-6) and metrics["clip_low"] == metrics["clip_high"] == 0.0


def test_old_logprobs_are_those_before_the_first_update_in_every_mini_batch() -> None:
    groups = rollout_groups()
    seen, metrics, state = run_update(groups, replace(CONFIG, learning_rate=0.05))
    engines = engines_logprobs(groups)
    trainers = sorted(p for batch in seen for p in batch.old_logprobs[batch.loss_weights > 0].tolist())
    assert trainers == pytest.approx(engines, abs=1e-4)  # also the second mini-batch's, which trains on moved weights
    assert len(seen) == metrics["updates"] == state.step == 2
    assert metrics["kl"] > 1e-6  # by then the policy has moved


def test_engine_kl_sees_an_engine_that_is_off() -> None:
    off = 0.1
    groups = [
        replace(g, rollouts=tuple(replace(r, logprobs=tuple(p + off for p in r.logprobs)) for r in g.rollouts))
        for g in rollout_groups()
    ]
    _, metrics, _ = run_update(groups)
    assert metrics["engine_kl"] == pytest.approx(math.exp(-off) - 1 + off, abs=1e-4)  # k3 of a constant gap


def test_importance_sampling_weighs_tokens_by_trainer_over_engine() -> None:
    off = 0.5  # the engine holds every token less likely than the trainer, by a factor exp(0.5) = 1.65
    groups = [
        replace(g, rollouts=tuple(replace(r, logprobs=tuple(p - off for p in r.logprobs)) for r in g.rollouts))
        for g in rollout_groups()
    ]
    plain, cut, whole = (run_update(groups, replace(CONFIG, importance_cap=cap))[0] for cap in (0.0, 1.25, 5.0))
    inside = plain[0].loss_weights > 0
    for seen, share in ((cut, 1.25), (whole, math.exp(off))):
        ratio = (seen[0].advantages / plain[0].advantages)[inside]
        assert torch.allclose(ratio, torch.full_like(ratio, share), rtol=1e-3)
        assert torch.equal(seen[0].loss_weights, plain[0].loss_weights)


def test_mini_batches_are_consecutive_groups_in_launch_order() -> None:
    groups = rollout_groups(5)
    assert group_order(run_update(groups)[0]) == [[0, 1], [2, 3], [4]]  # decision 0043


def test_old_logprobs_of_a_frozen_copy_give_the_same_update_bit_for_bit() -> None:
    groups = rollout_groups()
    (seen, metrics, whole), (early, others, streamed) = run_update(groups), run_update(groups, frozen=model())
    assert metrics == others
    assert all((a.old_logprobs == b.old_logprobs).all() for a, b in zip(seen, early, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(whole.model.parameters(), streamed.model.parameters(), strict=True))


@pytest.mark.parametrize("normalization", ["token", "group"])
def test_micro_rows_change_memory_and_not_the_update(normalization: str) -> None:
    groups = rollout_groups()
    short = tuple(replace(r, token_ids=r.token_ids[:4], logprobs=r.logprobs[:4]) for r in groups[0].rollouts)
    groups[0] = replace(groups[0], rollouts=short)
    config = replace(CONFIG, normalization=normalization, optim=replace(CONFIG.optim, eps=1e-2))  # type: ignore[arg-type]
    (whole, _, one), (parts, _, other) = (run_update(groups, replace(config, micro_rows=rows)) for rows in (0, 1))
    assert len(parts) > len(whole) == 2
    assert all(
        torch.allclose(a, b, atol=1e-6) for a, b in zip(one.model.parameters(), other.model.parameters(), strict=True)
    )


def test_the_rate_warms_up_over_iterations() -> None:
    groups = rollout_groups(2)
    rates = [
        run_update(groups, replace(CONFIG, warmup_steps=4), step=step)[1]["learning_rate"] for step in (0, 1, 3, 8)
    ]
    assert rates == pytest.approx([0.25e-3, 0.5e-3, 1e-3, 1e-3])


def test_an_iteration_without_a_valid_group_changes_nothing() -> None:
    before = [p.detach().clone() for p in model().parameters()]
    seen, metrics, state = run_update([])
    assert seen == [] and metrics == {"loss": 0.0, "updates": 0, "engine_kl": 0.0}
    assert all(torch.equal(a, b) for a, b in zip(before, state.model.parameters(), strict=True))
