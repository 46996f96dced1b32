"""The whole system in miniature: one run, the same run killed in every stage, what both leave behind."""

import contextlib
import json
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from openmimo import cli
from openmimo.judge.problem_file import problem_to_json
from openmimo.log import read_metrics
from openmimo.rows import problem_from

STAGES = ("data", "pretrain", "sft", "draft", "rl", "eval")
LASTS_S = {"data": 8.0, "pretrain": 3.0, "sft": 1.0, "draft": 1.0, "rl": 6.0, "eval": 2.0}
"""About as long as each stage works: when it is killed."""


def command(out: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "openmimo", "run", "nano", "--out", str(out), "--seed", "0", *more]


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("nano") / "whole"
    done = subprocess.run(command(out), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return out


@pytest.fixture(scope="session")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same command, killed with -9 at a random moment of every stage, then run to its end."""
    out = tmp_path_factory.mktemp("nano") / "killed"
    rng = random.Random()
    seed = rng.randrange(10**6)
    print(f"kill seed {seed}")
    rng.seed(seed)
    for stage in STAGES:
        process = subprocess.Popen(command(out), stderr=subprocess.PIPE, text=True, start_new_session=True)
        assert process.stderr
        for line in process.stderr:
            if line.startswith(f"{stage}: begins"):
                break
        time.sleep(rng.uniform(0.0, LASTS_S[stage]))
        process.send_signal(signal.SIGKILL)
        process.stderr.close()
        process.wait()
    done = subprocess.run(command(out), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return out


def without_timing(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: without_timing(v) for k, v in value.items() if k != "timing"}
    return [without_timing(v) for v in value] if isinstance(value, list) else value


def test_a_run_killed_in_every_stage_ends_like_the_uninterrupted_one(whole: Path, killed: Path) -> None:
    for name in ("summary.json",):
        first, second = (json.loads((out / name).read_text()) for out in (whole, killed))
        assert without_timing(first) == without_timing(second)
    assert without_timing(read_metrics(whole)) == without_timing(read_metrics(killed))
    for model in ("base", "sft", "draft", "rl"):
        path = Path("models") / model / "model.safetensors"
        assert (whole / path).read_bytes() == (killed / path).read_bytes(), model


def test_each_step_stands_once_with_its_stage_tokens_and_loss(whole: Path) -> None:
    rows = read_metrics(whole)
    assert len({(row["stage"], row["step"]) for row in rows}) == len(rows)
    by_stage = {stage: [r for r in rows if r["stage"] == stage] for stage in ("pretrain", "sft", "draft", "rl")}
    assert len(by_stage["pretrain"]) >= 20 and len(by_stage["rl"]) >= 3 and by_stage["sft"]
    for stage, found in by_stage.items():
        assert [r["step"] for r in found] == list(range(len(found))), stage
        assert all({"tokens", "loss", "timing"} <= set(r) for r in found), stage


def test_the_summary_keeps_its_contract(whole: Path) -> None:
    summary = json.loads((whole / "summary.json").read_text())
    for name in ("base", "sft", "rl"):
        for kind in ("math", "code"):
            estimate = summary["accuracy"][name][kind]
            assert set(estimate) == {"mean", "low", "high", "n"}
            assert 0.0 <= estimate["low"] <= estimate["mean"] <= estimate["high"] <= 1.0 and estimate["n"] > 0
        assert (whole / summary["checkpoints"][name] / "config.json").is_file()
    assert summary["acceptance"] and set(summary["acceptance"]) <= {"1", "2", "3"}  # a layer never reached is left out
    assert all(0.0 <= rate <= 1.0 for rate in summary["acceptance"].values())
    assert set(summary["timing"]) >= set(STAGES)


def test_the_draft_stage_adds_layers_that_rl_leaves_alone(whole: Path) -> None:
    sft, draft, rl = (load_file(whole / "models" / name / "model.safetensors") for name in ("sft", "draft", "rl"))
    assert json.loads((whole / "summary.json").read_text())["checkpoints"]["sft"] == "models/draft"
    assert all(torch.equal(tensor, draft[name]) for name, tensor in sft.items()), "trunk and layer 1"
    copies = [name for name in draft if re.search(r"mtp_layers\.[12]\.", name)]
    assert len(draft) == len(sft) + len(copies) and set(rl) == set(draft)
    first = [re.sub(r"mtp_layers\.\d", "mtp_layers.0", name) for name in copies]
    assert not any(torch.equal(draft[a], draft[b]) for a, b in zip(copies, first, strict=True)), "tuned"
    assert all(torch.equal(rl[name], draft[name]) for name in draft if ".mtp_layers." in name), "frozen in RL"


def test_the_page_loads_nothing_from_the_network(whole: Path) -> None:
    page = (whole / "report.html").read_text(encoding="utf-8")
    assert "default-src &#39;none&#39;" in page  # also holds plotly, whose strings name pages of the web
    page = re.sub(r"<script>.*?</script>", "", page, flags=re.S)
    assert not re.search(r"""(src|href)\s*=\s*["']?(https?:)?//""", page)
    assert "nano" in page


def test_a_finished_run_says_so_within_a_minute(whole: Path) -> None:
    before = (whole / "summary.json").read_bytes()
    started = time.monotonic()
    done = subprocess.run(command(whole), capture_output=True, text=True)
    assert done.returncode == 0 and time.monotonic() - started < 60
    assert all(f"{stage}: done already" in done.stderr for stage in STAGES)
    assert (whole / "summary.json").read_bytes() == before


def called(*arguments: str) -> Any:
    with pytest.raises(SystemExit) as ended:
        cli.main(list(arguments))
    return ended.value.code or 0


def test_the_mixture_that_was_planned_is_the_one_that_was_read(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert called("data", "mix", "nano", "--out", str(whole), "--json") == 0
    plan = json.loads(capsys.readouterr().out)
    read = json.loads((whole / "state.json").read_text())["pretrain"]["epochs"]
    assert set(plan["sources"]) == set(read)
    for name, row in plan["sources"].items():
        assert row["epochs"] == pytest.approx(row["slots"] / row["tokens"])
        assert row["epochs"] == pytest.approx(read[name], abs=4 * 512 / row["tokens"])
    assert sum(plan["stages"][0].values()) - plan["stages"][0]["until_tokens"] == pytest.approx(1.0)
    assert called("data", "mix", "nano", "--out", str(whole / "nothing")) == 2
    assert "no token shards in" in capsys.readouterr().err


def test_another_seed_or_value_in_the_same_folder_is_refused(whole: Path) -> None:
    for more, named in ((["--seed", "5"], "seed: 0 -> 5"), (["--set", "rl.steps=4"], "config.rl.steps: 3 -> 4")):
        done = subprocess.run(command(whole, *more), capture_output=True, text=True)
        assert done.returncode == 2 and named in done.stderr and done.stderr.count("\n") == 1


def test_a_stage_without_the_one_before_is_refused_by_name(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "openmimo", "sft", "nano", "--out", str(tmp_path / "x")], capture_output=True, text=True
    )
    assert done.returncode == 2 and "needs stage data first" in done.stderr


def test_trained_folders_answer_chat_inspect_and_export(whole: Path, tmp_path: Path) -> None:
    folder = str(whole / "models" / "rl")

    def say(*arguments: str, **more: Any) -> subprocess.CompletedProcess[str]:
        done = subprocess.run([sys.executable, "-m", "openmimo", *arguments], capture_output=True, text=True, **more)
        assert done.returncode == 0, done.stderr
        return done

    rows = json.loads(say("generate", folder, "Find b.", "--json", "-n", "2", "--speculate", "3").stdout)
    plain = json.loads(say("generate", folder, "Find b.", "--json", "-n", "2", "--speculate", "0").stdout)
    assert rows == plain and len(rows) == 2
    say("chat", folder, "--max-new-tokens", "8", input="Find b.\n\n")
    facts = json.loads(say("checkpoint", "inspect", folder, "--json").stdout)
    assert facts["mtp_layers"] == 3 and facts["missing"] == facts["unexpected"] == []
    say("checkpoint", "export", folder, "-o", str(tmp_path / "q"), "--format", "qwen2")
    config = json.loads((tmp_path / "q" / "config.json").read_text())
    assert config["architectures"] == ["Qwen2ForCausalLM"] and (tmp_path / "q" / "tokenizer.json").is_file()


def test_judging_the_golden_answers_of_a_run(whole: Path, tmp_path: Path) -> None:
    problems = whole / "data" / "problems" / "held_out.jsonl"
    rows = [json.loads(line) for line in problems.read_bytes().split(b"\n") if line]
    path = tmp_path / "batch.jsonl"
    with path.open("w") as file:
        for r in rows:
            answer = f"\\boxed{{{r['answer']}}}" if r["kind"] == "math" else f"```python\n{r['solution']}\n```"
            json.dump({"problem": problem_to_json(problem_from(r)), "solutions": [answer]}, file)
            file.write("\n")
    done = subprocess.run(
        [sys.executable, "-m", "openmimo", "judge", "--batch", str(path), "--json"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.split("\n") if line]
    assert [(row["problem"], row["status"]) for row in found] == [(r["id"], "accepted") for r in rows]


def test_no_process_outlives_a_killed_run(killed: Path) -> None:
    alive = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            alive.append(path.read_bytes().replace(b"\0", b" ").decode("utf-8", "replace"))
    assert alive and not [line for line in alive if str(killed) in line]


def test_pages_of_ones_own_take_the_place_of_the_machines(tmp_path: Path) -> None:
    pages = tmp_path / "pages"
    pages.mkdir()
    for words in ("rivers and how they run", "hills and what grows on them", "ships that never came home"):
        text = f"This page says a little about {words}. " * 30
        (pages / f"{words[:5]}.html").write_text(f"<html><body><p>{text}</p></body></html>")
    (pages / "broken.html").write_bytes(b"\xff\xfe\x00\x00<<<")
    out = tmp_path / "run"
    done = subprocess.run(
        [sys.executable, "-m", "openmimo", "data", "nano", "--out", str(out), "--pages", str(pages), "--json"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)["data"]
    assert facts["tokens"]["web"] > 50 and facts["funnel"]["extract"]["kept"] >= 601
    assert not (out / "data" / "snapshot").exists()


def test_missing_pages_are_named(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "openmimo", "data", "nano", "--out", str(tmp_path), "--pages", str(tmp_path / "nope")],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 2 and "nope does not exist" in done.stderr and done.stderr.count("\n") == 1
