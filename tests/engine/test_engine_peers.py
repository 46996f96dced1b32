"""What the benchmarks against peers compute themselves, and what the vLLM adapter refuses before vLLM sees it."""

from pathlib import Path

import check_vllm
import engine_speed
import medium_recipe
import mpmath
import pytest
import record
import speculative_distribution as distribution
import speculative_speed
import vllm_peer

from openmimo import recipes
from openmimo.engine.vllm import _check_supported
from openmimo.types import Sampling


def test_chi_square_of_counts_worked_by_hand() -> None:
    probabilities = {(0,): 0.5, (1,): 0.3, (2,): 0.2}
    statistic, freedom = distribution.chi_square({(0,): 60, (1,): 25, (2,): 15}, probabilities, least=1.0)
    assert statistic == pytest.approx(100 / 50 + 25 / 30 + 25 / 20) and freedom == 2


def test_rare_cells_share_one_and_nothing_is_lost() -> None:
    probabilities = {(0,): 0.9, **{(n,): 0.01 for n in range(1, 11)}}
    counts = {(0,): 80, (3,): 20}
    # 90 + four pools of 3, 3, 3 and the last of 1, which joins the one before.
    statistic, freedom = distribution.chi_square(counts, probabilities, least=3.0)
    assert freedom == 3
    assert statistic == pytest.approx(100 / 90 + (20 - 3) ** 2 / 3 + 3 + 4)


def test_what_cannot_happen_is_no_cell() -> None:
    with pytest.raises(ValueError, match=r"\(7,\) was counted 2 times"):
        distribution.chi_square({(7,): 2}, {(0,): 1.0})


@pytest.mark.parametrize(("statistic", "freedom"), [(3.2, 2), (150.0, 100), (900.0, 700), (6200.0, 6000)])
def test_the_tail_of_chi_square_is_that_of_another_library(statistic: float, freedom: int) -> None:
    expected = float(mpmath.gammainc(freedom / 2, statistic / 2, regularized=True))
    assert distribution.tail(statistic, freedom) == pytest.approx(expected, rel=1e-6)


def test_exact_probabilities_sum_to_1_over_every_continuation() -> None:
    found = distribution.exact(distribution.some_model(), (3, 1, 4))
    assert len(found) == distribution.VOCABULARY**distribution.LENGTH
    assert sum(found.values()) == pytest.approx(1.0, abs=1e-9)


def test_rounds_are_interleaved_and_the_first_is_thrown_away() -> None:
    order = []

    def work(name: str) -> float:
        order.append(name)
        return float(len(order))

    found = record.interleaved({name: lambda name=name: work(name) for name in "abc"}, 2)
    assert "".join(order) == "cbaabccba"
    assert found == {"a": [4.0, 9.0], "b": [5.0, 8.0], "c": [6.0, 7.0]}


def test_ratios_are_paired_by_round() -> None:
    found = record.over({"a": [2.0, 9.0, 4.0], "b": [1.0, 3.0, 4.0]}, "a", "b")
    assert found == {"median": 2.0, "min": 1.0, "max": 3.0, "rounds": 3}


def test_speed_is_compared_with_the_fastest_variant_of_a_peer() -> None:
    rates = {"engine, x": [9.0], "transformers, a": [5.0, 1.0, 3.0], "transformers, b": [2.0, 4.0, 4.0]}
    assert engine_speed.fastest(rates, "transformers") == "transformers, b"


def test_a_contestant_that_gives_fewer_tokens_is_refused() -> None:
    with pytest.raises(ValueError, match="vllm gave 7 tokens, expected 8"):
        engine_speed.checked("vllm", lambda: (7, 1.0), 8)()


def test_the_summary_names_the_best_forced_and_the_least_adaptive_ratio() -> None:
    def row(**ratios: float) -> dict[str, object]:
        return {"speed_up": {name: {"median": value} for name, value in ratios.items()}}

    found = {"medium": {"batch 1": row(one=1.2, two=1.4, adaptive=1.3), "batch 64": row(adaptive=0.98)}}
    assert speculative_speed.summary(found) == {
        "best_forced": {"medium, batch 1": (1.4, "two")},
        "least_adaptive": (0.98, "medium, batch 64"),
    }


def test_check_vllm_fails_for_other_tokens_and_for_no_drafts() -> None:
    sound = {"0 drafts": 0, "1 draft": 0}
    answer = vllm_peer.Answer([[1, 2], [3]], 0.1, 0.1, drafted=4, accepted=3)
    rounds = {name: check_vllm.compared([[1, 2], [3]], {"1": 0.8}, answer) for name in sound}
    assert rounds["1 draft"]["acceptance"] == {"ours": {"1": 0.8}, "vllm": 0.75}
    assert check_vllm.faults(rounds) == []
    rounds["0 drafts"] = check_vllm.compared([[1, 2], [4]], {}, answer)
    rounds["1 draft"] = check_vllm.compared([[1, 2], [3]], {}, vllm_peer.Answer([[1, 2], [3]], 0.1, 0.1, 0, 0))
    assert [fault.split(":")[0] for fault in check_vllm.faults(rounds)] == ["0 drafts", "1 draft"]


def test_without_vllms_environment_one_line_says_how_to_build_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vllm_peer, "PYTHON", tmp_path / "python")
    with pytest.raises(ValueError, match="make vllm builds it"):
        vllm_peer.VllmPeer(tmp_path)


@pytest.mark.parametrize(
    ("sampling", "reason"),
    [
        (Sampling(4, stop=("end",)), "stop_token_ids"),
        (Sampling(4, top_logprobs=2), "top_logprobs 2"),
        (Sampling(4, prompt_logprobs=True), "prompt_logprobs True"),
        (Sampling(0), "max_new_tokens 0"),
    ],
)
def test_the_vllm_adapter_names_what_it_does_not_do(sampling: Sampling, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        _check_supported(sampling)
    _check_supported(Sampling(4, seed=None, min_p=0.1))


def test_the_medium_recipe_is_sound_and_has_25_million_parameters() -> None:
    recipe = medium_recipe.medium()
    recipes.check(recipe)
    trunk, mtp = recipe.model.num_parameters()
    assert 24e6 < trunk < 26e6 and mtp < 4e6
