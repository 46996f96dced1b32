"""Schedules are functions of tokens: MiMo 2.3's table, every boundary in tokens and steps."""

import math

import pytest

from openmimo.model.config import MiMoConfig
from openmimo.model.flops import flops_per_token
from openmimo.plan import boundaries, row_at, steps_before
from openmimo.train.optim import Piece, at_tokens
from openmimo.train.pretrain import PretrainConfig, count_steps, settings_at

PAPER = PretrainConfig()

GOLDEN = [
    (84e9, 25_838, 1, 1.07e-4, 1312, 0.3, 8192, 1e4),
    (168e9, 31_355, 1, 1.07e-4, 2560, 0.3, 8192, 1e4),
    (10.284e12, 513_723, 1, 1.07e-4, 2560, 0.3, 8192, 1e4),
    (10.3e12, 514_486, 1, None, 2560, 0.1, 8192, 1e4),
    (17.784e12, 871_351, 2, 3e-5, 2560, 0.1, 8192, 1e4),
    (21.784e12, 1_062_086, 3, 3e-5, 640, 0.1, 32_768, 64e4),
    (23.284e12, 1_133_612, 3, 3e-5, 640, 0.1, 32_768, 64e4),
    (23.784e12, 1_157_454, 3, 1e-5, 640, 0.1, 32_768, 64e4),
]


@pytest.mark.parametrize("row", GOLDEN, ids=lambda row: f"{row[0]:.4g}")
def test_every_boundary_of_the_paper_in_tokens_and_steps(row: tuple) -> None:
    tokens, step, stage, rate, batch, mtp, context, theta = row
    found = row_at(PAPER, tokens)
    assert (found["step"], found["stage"], found["batch_sequences"]) == (step, stage, batch)
    assert (found["mtp_weight"], found["context"], found["rope_theta"]) == (mtp, context, theta)
    if rate:
        assert found["learning_rate"] == pytest.approx(rate, rel=1e-12)


def test_the_boundaries_are_those_of_the_table() -> None:
    assert boundaries(PAPER) == [0.0, *(row[0] for row in GOLDEN)]


def test_both_batches_hold_the_same_tokens() -> None:
    for tokens in (1e12, 22e12):
        now = settings_at(PAPER, tokens)
        assert now.batch_sequences * now.context == 20_971_520


def test_counting_the_ramp_step_by_step_gives_the_same_steps() -> None:
    tokens, steps = 0, 0
    while tokens < 84e9:
        now = settings_at(PAPER, tokens)
        tokens += now.batch_sequences * now.context
        steps += 1
    assert steps == steps_before(PAPER, 84e9) == 25_838
    assert count_steps(PAPER) == 1_157_454


def test_the_cosine_is_half_way_at_its_middle() -> None:
    middle = (10.284e12 + 17.784e12) / 2
    assert settings_at(PAPER, middle).learning_rate == pytest.approx((1.07e-4 + 3e-5) / 2)
    assert settings_at(PAPER, 42e9).learning_rate == pytest.approx(1.07e-4 / 2)


def test_pieces_hold_ramp_and_bend() -> None:
    pieces = (Piece(10, 1.0, "linear"), Piece(20, 1.0), Piece(30, 0.0, "cosine"))
    assert [at_tokens(pieces, t) for t in (0, 5, 10, 19.9, 20, 25, 30, 99)] == pytest.approx(
        [0, 0.5, 1, 1, 1, 0.5, 0, 0]
    )
    assert at_tokens(pieces, 22.5) == pytest.approx(0.5 + 0.5 * math.cos(math.pi / 4))


def test_the_plan_counts_the_papers_parameters_and_flops() -> None:
    config = MiMoConfig()
    assert config.num_parameters() == (7_622_619_136, 210_790_400)
    giga = [
        flops_per_token(config, 8192) / 1e9,
        flops_per_token(config, 8192, mtp=False) / 1e9,
        flops_per_token(config, 32_768) / 1e9,
        flops_per_token(config, 8192, causal=False) / 1e9,
    ]
    assert giga == pytest.approx([54.45, 49.25, 76.79, 61.90], abs=0.006)
