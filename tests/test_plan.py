"""`openmimo plan`: the paper's figures, time and cost by hand, and every plan that cannot run refused in one line."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from openmimo.cli import main
from openmimo.cluster import Cluster, check_cluster, memory_plan, time_plan
from openmimo.memory import PARTS
from openmimo.plan import check_stages, plan_of, row_at, table, token_counts
from openmimo.recipes import load
from openmimo.recipes.mimo7b import mimo7b
from openmimo.recipes.tiny import tiny
from openmimo.train.pretrain import PretrainConfig, count_steps, settings_at

PAPER = PretrainConfig()


def plan(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(["plan", *arguments])
    out, err = capsys.readouterr()
    return int(ended.value.code or 0), out, err


def test_the_json_holds_numbers_and_the_papers_figures(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = plan(capsys, "mimo7b", "--gpus", "128", "--at", "84e9, 10.284e12,0", "--json")
    assert code == 0
    found = json.loads(out)
    assert found["parameters"] == {"trunk": 7_622_619_136, "mtp": 210_790_400, "total": 7_833_409_536}
    flops = found["flops_per_token"]
    assert flops["8192"]["causal_with_mtp"] == pytest.approx(54.45e9, rel=1e-4)
    assert flops["8192"]["causal_without_mtp"] == pytest.approx(49.25e9, rel=1e-4)
    assert flops["8192"]["full_with_mtp"] == pytest.approx(61.90e9, rel=1e-4)
    assert flops["32768"]["causal_with_mtp"] == pytest.approx(76.79e9, rel=1e-4)
    assert [row["step"] for row in found["at"]] == [25_838, 513_723, 0]
    assert found["at"][0] == found["schedule"][1] and set(found["at"][2]) == {
        *("tokens", "step", "stage", "learning_rate", "batch_sequences", "mtp_weight", "context", "rope_theta")
    }
    numbers = [*found["at"][1].values(), *found["memory"]["stages"][2]["parts"].values(), found["time"]["wall_s"]]
    assert all(isinstance(value, (int, float)) for value in numbers)


def test_a_row_between_boundaries_is_what_the_step_there_uses() -> None:
    tokens, steps = 0, 0
    while tokens < 100e9:
        now = settings_at(PAPER, tokens)
        tokens += now.batch_sequences * now.context
        steps += 1
    row, now = row_at(PAPER, 100e9), settings_at(PAPER, 100e9)
    assert row["step"] == steps
    assert (row["learning_rate"], row["batch_sequences"]) == (now.learning_rate, now.batch_sequences)
    assert row_at(PAPER, 23.784e12)["step"] == count_steps(PAPER)


def test_time_is_flops_over_the_speed_of_all_gpus_and_cost_its_hours() -> None:
    found = time_plan(mimo7b(), Cluster(128, "h100", mfu=0.5, price=2.0))
    flops = 21.784e12 * 54.4488e9 + 2e12 * 76.7904e9  # worked from paper-facts: 8 K, then 32 K
    assert found["flops"] == pytest.approx(flops, rel=1e-4)
    assert found["wall_s"] == pytest.approx(flops / (128 * 989e12 * 0.5), rel=1e-4)
    assert found["cost_dollars"] == pytest.approx(found["wall_s"] / 3600 * 128 * 2.0)
    assert found["tokens_per_s_per_gpu"][0] == pytest.approx(9_082, rel=1e-3)  # half of the peak


def test_twice_the_gpus_take_half_the_time_at_the_same_cost() -> None:
    one, two = (time_plan(mimo7b(), Cluster(n)) for n in (64, 128))
    assert one["wall_s"] == pytest.approx(2 * two["wall_s"]) and one["cost_dollars"] == pytest.approx(
        two["cost_dollars"]
    )
    assert time_plan(mimo7b(), Cluster(64, "h200"))["wall_s"] == pytest.approx(one["wall_s"])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("--gpus 256", ("2.5 sequences per rank", "640", "stage 3", "--gpus 160")),
        ("--gpus 1", ("needs", "GB of memory", "has 80 GB", "--gpus 4 fits")),
        ("--gpus 128 --set pretrain.compute.recompute=none", ("has 80 GB", "recompute=full fits")),
        ("--gpus 3 --context-parallel 2", ("3 GPUs", "multiple of 2")),
        ("--gpus 30 --context-parallel 3", ("8,192", "context parallel 3")),
        ("--gpus 160 --tensor-parallel 16", ("8 KV heads", "tensor parallel 16", "8 divides")),
        ("--gpus 0", ("--gpus", "at least 1", "0")),
        ("--gpus 8 --context-parallel 0", ("--context-parallel", "at least 1")),
        ("--gpus x", ("--gpus",)),
        ("--gpus 8 --gpu h10", ("'h10'", "nearest is 'h100'")),
        ("--gpus 8 --mfu 0", ("--mfu", "0.0")),
        ("--gpus 8 --mfu 1.01", ("--mfu", "1.01")),
        ("--gpus 8 --mfu nan", ("--mfu", "nan")),
        ("--gpus 8 --price -1", ("--price", "-1")),
        ("--gpu h200", ("--gpus",)),
        ("--at 84e9,many", ("'many'", "84e9")),
        ("--at -1", ("-1", "2.3784e+13")),
        ("--at 24e12", ("24e12", "2.3784e+13")),
        ("--at nan", ("nan", "2.3784e+13")),
        ("--at 1,", ("''",)),
    ],
)
def test_a_plan_that_cannot_run_ends_in_one_line(
    arguments: str, said: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = plan(capsys, "mimo7b", *arguments.split())
    assert (code, out, err.count("\n")) == (2, "", 1), (out, err)
    assert all(word in err for word in said), err


@pytest.mark.parametrize(
    "arguments", ["--gpus 128", "--gpus 256 --context-parallel 2", "--gpus 640 --tensor-parallel 4"]
)
def test_a_plan_that_can_run_is_accepted(arguments: str) -> None:
    words = arguments.replace("--", "").replace("-", "_").split()
    check_cluster(mimo7b(), Cluster(**{k: int(v) for k, v in zip(words[::2], words[1::2], strict=True)}))


def test_only_constant_batches_must_divide_not_the_ramp() -> None:
    """The ramp begins with 64 sequences: 128 ranks hold none or one of them."""
    assert settings_at(PAPER, 0).batch_sequences < 128
    check_cluster(mimo7b(), Cluster(128))


@pytest.mark.parametrize(
    ("ends", "said"),
    [
        ((0.6, 0.6, 1.0), "stage 2 ends at .* must grow"),
        ((0.6, 0.5, 1.0), "stage 2 ends at .* must grow"),
        ((0.6, 0.6001, 1.0), "stage 2 has .*, too few for one step of 8 sequences of 256"),
        ((1e-4, 0.5, 1.0), "stage 1 has 180 tokens, too few for one step of 4 sequences of 256"),
    ],
)
def test_a_stage_without_a_step_is_refused(ends: tuple[float, ...], said: str) -> None:
    config = tiny().pretrain
    stages = tuple(
        replace(stage, until_tokens=end * config.total_tokens) for stage, end in zip(config.stages, ends, strict=True)
    )
    with pytest.raises(ValueError, match=said):
        check_stages(replace(config, stages=stages))


def test_a_stage_that_the_step_before_it_swallows_is_refused() -> None:
    first, second, third = tiny().pretrain.stages
    # Stage 1 ends one slot into its last step, which then reaches over all of stage 2.
    began = settings_at(tiny().pretrain, 180_000).batch_sequences * first.context
    steps_end = 180_000 // began * began
    stages = (
        replace(first, until_tokens=steps_end + 1),
        replace(second, until_tokens=steps_end + 600, batch_sequences=2),
        third,
    )
    with pytest.raises(ValueError, match="stage 2 has 599 tokens, too few"):
        check_stages(replace(tiny().pretrain, batch_ramp_tokens=0, stages=stages))


def test_token_counts_take_every_notation_within_the_run() -> None:
    assert token_counts("84e9, 10.284e12,0,1_000", PAPER) == [84e9, 10.284e12, 0, 1000]


def test_more_ranks_hold_less_state_and_the_parts_sum_to_the_total() -> None:
    eight, sixteen = (memory_plan(mimo7b(), Cluster(n)) for n in (8, 16))
    for found in (eight, sixteen):
        for row in found["stages"]:
            assert set(row["parts"]) == set(PARTS) and abs(sum(row["parts"].values()) - row["total_bytes"]) < 10
            assert all(row["largest"][name] >= row["parts"][name] for name in PARTS)
    for part in ("weights", "optimizer"):
        assert eight["stages"][0]["parts"][part] == pytest.approx(2 * sixteen["stages"][0]["parts"][part])
    assert eight["stages"][0]["parts"]["weights"] == 4 * 7_833_409_536 / 8
    modes = [eight["by_recompute"][mode]["total_bytes"] for mode in ("none", "selective", "full")]
    assert modes == sorted(modes, reverse=True) and eight["total_bytes"] == modes[2]


def test_context_and_tensor_parallel_ranks_share_activations() -> None:
    whole, rows, heads = (
        memory_plan(mimo7b(), Cluster(64, context_parallel=c, tensor_parallel=t)) for c, t in ((1, 1), (2, 1), (1, 2))
    )
    assert rows["total_bytes"] < 0.75 * whole["total_bytes"] and heads["total_bytes"] < whole["total_bytes"]
    assert heads["stages"][0]["parts"]["weights"] == whole["stages"][0]["parts"]["weights"]  # over all GPUs either way


@pytest.mark.parametrize("name", ["nano", "tiny", "mimo7b"])
def test_a_recipe_is_planned_for_one_process_on_one_screen(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    found = plan_of(load(name), Cluster(128) if name == "mimo7b" else None)
    assert found["memory"]["device"] == ("h100" if name == "mimo7b" else "cpu")
    table(found)
    out = capsys.readouterr().out
    assert len(out.split("\n")) <= 40 and max(map(len, out.split("\n"))) <= 80 and "…" not in out, out
    for word in (
        "parameters",
        "GFLOPs",
        "RoPE base",
        "memory of",
        "by recompute",
        *(["days", "$"] * (name == "mimo7b")),
    ):
        assert word in out


def test_a_recipe_of_ones_own_is_planned_from_its_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(
        "from dataclasses import replace\nfrom openmimo.recipes.mimo7b import mimo7b\n"
        "def one_token():\n    base = mimo7b()\n"
        "    stages = tuple(replace(s, until_tokens=s.until_tokens / 1e12) for s in base.pretrain.stages)\n"
        "    return replace(base, pretrain=replace(base.pretrain, stages=stages))\n"
    )
    code, _, err = plan(capsys, f"{tmp_path}/own.py:one_token")
    assert code == 2 and "too few for one step" in err and err.count("\n") == 1
