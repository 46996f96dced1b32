"""Advantage (Eq. 2), loss (Eq. 1), dynamic sampling and the easy pool on numbers worked by hand."""

import math

import numpy as np
import pytest
import torch

from openmimo.model.config import MiMoConfig
from openmimo.model.mimo import MiMo
from openmimo.rl.advantage import advantages
from openmimo.rl.loss import clipped_objective, importance_weights, policy_loss, token_weights
from openmimo.rl.sampling import ProblemPool, is_easy, is_valid
from openmimo.types import Batch, Group, Problem

TINY = MiMoConfig(
    vocab_size=32, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2,
    num_key_value_heads=1, head_dim=8, rope_theta=1e4, max_position_embeddings=64,
)  # fmt: skip


def test_advantages_are_centred_and_scaled_by_the_unbiased_deviation() -> None:
    # mean 0.25, deviations .75 -.25 -.25 -.25, unbiased variance 0.25, std 0.5
    assert advantages([1, 0, 0, 0]) == pytest.approx([1.5, -0.5, -0.5, -0.5], abs=1e-5)


def test_equal_rewards_give_no_advantage() -> None:
    assert advantages([0.5, 0.5, 0.5]) == (0.0, 0.0, 0.0)


def test_one_rollout_is_no_group() -> None:
    with pytest.raises(ValueError, match="at least 2 rollouts, got 1"):
        advantages([1.0])


def test_the_objective_clips_high_for_gains_and_low_for_losses() -> None:
    ratios = torch.tensor([1.5, 1.1, 0.5, 1.5, 0.5, 0.9])
    signs = torch.tensor([1.0, 1.0, 1.0, -1.0, -1.0, -1.0])
    found = clipped_objective(ratios.log(), torch.zeros(6), signs, clip_low=0.2, clip_high=0.28)
    assert found.tolist() == pytest.approx([1.28, 1.1, 0.5, -1.5, -0.8, -0.9], abs=1e-6)


def batch(groups: list[list[int]], weights: list[list[float]]) -> Batch:
    shape = np.zeros((len(groups), len(groups[0])))
    return Batch(
        token_ids=torch.arange(shape.size).reshape(shape.shape) % 31,
        positions=torch.arange(shape.shape[1]).expand(shape.shape),
        document_ids=torch.zeros(shape.shape, dtype=torch.long),
        loss_weights=torch.tensor(weights),
        advantages=torch.ones(shape.shape),
        old_logprobs=torch.zeros(shape.shape),
        sequence_ids=torch.tensor(groups),
    )


def test_group_normalisation_gives_every_group_the_same_say() -> None:
    made = batch([[0, 0, 0, 1]], [[1.0, 1.0, 1.0, 1.0]])
    # 4 tokens, 2 groups: 2 to each, split over 3 tokens and over 1.
    assert token_weights(made, "group")[0].tolist() == pytest.approx([2 / 3, 2 / 3, 2 / 3, 2.0])
    assert token_weights(made, "token")[0].tolist() == [1.0, 1.0, 1.0, 1.0]


def test_on_policy_the_loss_is_minus_the_advantages_and_its_gradient_the_policy_gradient() -> None:
    model = MiMo(TINY).init_weights(torch.Generator().manual_seed(0))
    made = batch([[0] * 6, [1] * 6], [[0.0, 0.0, 1.0, 1.0, 1.0, 1.0]] * 2)
    from openmimo.train.loss import token_logprobs

    with torch.no_grad():
        old, _ = token_logprobs(model, made)
    signs = torch.tensor([[1.0], [-0.5]]).expand(2, 6)
    made = Batch(made.token_ids, made.positions, made.document_ids, made.loss_weights, signs, old, made.sequence_ids)
    loss, metrics = policy_loss(clip_low=0.2, clip_high=0.28)(model, made)
    assert loss.item() == pytest.approx(-(4 * 1.0 + 4 * -0.5), abs=1e-5)
    assert metrics["kl"].item() == pytest.approx(0.0, abs=1e-6)
    loss.backward()
    found = model.lm_head.weight.grad.clone()
    model.zero_grad()
    logp, _ = token_logprobs(model, made)
    (-(logp * signs * made.loss_weights).sum()).backward()
    assert torch.allclose(found, model.lm_head.weight.grad, atol=1e-6)


def test_entropy_of_a_flat_policy_is_the_log_of_the_vocabulary() -> None:
    model = MiMo(TINY).init_weights(torch.Generator().manual_seed(0))
    torch.nn.init.zeros_(model.lm_head.weight)
    _, metrics = policy_loss(clip_low=0.2, clip_high=0.28)(model, batch([[0] * 4], [[0.0, 1.0, 1.0, 1.0]]))
    assert metrics["entropy"].item() == pytest.approx(3 * math.log(32), rel=1e-5)


def test_a_group_is_valid_when_its_rewards_differ_and_easy_when_all_are_full() -> None:
    assert is_valid([0.0, 1.0]) and is_valid([0.3, 0.3, 0.31])
    assert not is_valid([1.0, 1.0]) and not is_valid([0.4, 0.4])
    assert is_easy([1.0, 1.0]) and not is_easy([1.0, 0.9]) and not is_easy([0.4, 0.4])


def problems(number: int) -> list[Problem]:
    return [Problem(f"p{n}", "", "math", answer="1") for n in range(number)]


def group(problem: Problem, rewards: tuple[float, ...], stratum: str = "main") -> Group:
    return Group(problem, (), (), stratum=stratum, rewards=rewards)


def test_draws_depend_on_the_launch_number_alone() -> None:
    first = ProblemPool(problems(9), seed=3, alpha=0.5)
    first.easy = ["p1", "p2"]
    second = ProblemPool(problems(9), seed=3, alpha=0.5)
    second.easy = ["p1", "p2"]
    forwards = first.draws(4)
    backwards = second.draws(4)
    assert [forwards(n) for n in range(20)] == [backwards(n) for n in reversed(range(20))][::-1]


def test_an_epoch_of_the_main_set_shows_every_problem_once() -> None:
    pool = ProblemPool(problems(7), seed=0, alpha=0.1)
    drawn = [pool.draws(0)(n)[0].id for n in range(14)]
    assert sorted(drawn[:7]) == sorted(drawn[7:]) == [f"p{n}" for n in range(7)]
    assert drawn[:7] != drawn[7:]


def test_the_cursor_is_rewound_to_the_prefix() -> None:
    pool = ProblemPool(problems(7), seed=0, alpha=0.1)
    draws = pool.draws(0)
    launched = [draws(n) for n in range(6)]
    pool.apply(0, [group(p, (0.0, 1.0)) for p, _ in launched[:4]], draws)
    assert pool.cursor == 4
    assert pool.draws(1)(0)[0] == launched[4][0]


def test_perfect_problems_enter_the_easy_pool_and_imperfect_draws_leave_it() -> None:
    pool = ProblemPool(problems(4), seed=0, alpha=0.1)
    a, b = pool.problems[0], pool.problems[1]
    pool.apply(0, [group(a, (1.0, 1.0)), group(b, (1.0, 1.0))], pool.draws(0))
    assert pool.easy == [a.id, b.id]
    pool.apply(1, [group(a, (1.0, 0.0), "easy"), group(b, (1.0, 1.0), "easy")], pool.draws(1))
    assert pool.easy == [b.id]


def test_a_group_that_the_judge_failed_on_leaves_the_easy_pool_as_it_was() -> None:
    pool = ProblemPool(problems(4), seed=0, alpha=0.1)
    pool.easy = ["p1"]
    pool.apply(0, [group(pool.by_id("p1"), (), "easy")], pool.draws(0))
    assert pool.easy == ["p1"]


def test_pooled_problems_come_from_the_easy_stratum_alone_at_rate_alpha() -> None:
    pool = ProblemPool(problems(50), seed=1, alpha=0.1)
    pool.easy = ["p3", "p4"]
    drawn = [pool.draws(0)(n) for n in range(2000)]
    easy = [p.id for p, stratum in drawn if stratum == "easy"]
    assert set(easy) == {"p3", "p4"} and 0.07 < len(easy) / 2000 < 0.13
    assert not {"p3", "p4"} & {p.id for p, stratum in drawn if stratum == "main"}


def test_an_empty_easy_pool_draws_from_the_main_set() -> None:
    pool = ProblemPool(problems(3), seed=0, alpha=1.0)
    assert all(pool.draws(0)(n)[1] == "main" for n in range(10))


def test_no_problems_are_refused() -> None:
    with pytest.raises(ValueError, match="no problems left"):
        ProblemPool([], seed=0)


def test_solved_problems_are_pooled_dropped_or_kept() -> None:
    easy, drawn = {}, {}
    for solved in ("pool", "drop", "keep"):
        pool = ProblemPool(problems(4), seed=0, alpha=0.5, solved=solved)  # type: ignore[arg-type]
        pool.apply(0, [group(pool.by_id("p1"), (1.0, 1.0))], pool.draws(0))
        draws = pool.draws(1)
        easy[solved] = pool.easy
        drawn[solved] = {(p.id, stratum) for p, stratum in map(draws, range(40)) if p.id == "p1"}
    assert easy == {"pool": ["p1"], "drop": ["p1"], "keep": []}
    assert drawn == {"pool": {("p1", "easy")}, "drop": set(), "keep": {("p1", "main")}}


def test_dropped_problems_come_back_once_no_other_is_left() -> None:
    pool = ProblemPool(problems(2), seed=0, solved="drop")
    pool.easy = ["p0", "p1"]
    assert {pool.draws(0)(n)[1] for n in range(5)} == {"easy"}


def test_importance_weights_are_the_ratio_of_trainer_to_engine_cut_at_the_cap() -> None:
    old, engine = torch.log(torch.tensor([0.5, 0.9, 0.1])), torch.log(torch.tensor([0.25, 0.3, 0.2]))
    assert importance_weights(old, engine, 2.5).tolist() == pytest.approx([2.0, 2.5, 0.5])
    assert importance_weights(old, engine, 0.0).tolist() == [1.0, 1.0, 1.0]


def test_weighted_advantages_weigh_the_objective() -> None:
    logp, old = torch.randn(9, generator=torch.Generator().manual_seed(0)), torch.zeros(9)
    advantage, weight = torch.linspace(-1, 1, 9), torch.linspace(0, 2, 9)
    plain, folded = (
        clipped_objective(logp, old, a, clip_low=0.2, clip_high=0.28) for a in (advantage, advantage * weight)
    )
    assert torch.allclose(folded, plain * weight, atol=1e-6)
