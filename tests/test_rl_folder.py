"""RL from end to end: a folder that others made and problems of one's own, through the command line."""

import gzip
import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from test_sft import QWEN2_TEMPLATE, mistake, model_folder, run

from openmimo.data.chat import Chat
from openmimo.log import read_metrics
from openmimo.memory import Colocated, Layout, rl_memory_of
from openmimo.model.config import MiMoConfig
from openmimo.model.folder import inspect_folder
from openmimo.model.hf import load_folder
from openmimo.own_problems import read_own_problems
from openmimo.recipes.one_gpu import one_gpu
from openmimo.rl_memory import check_memory, memory_needed
from openmimo.rows import write_rows
from openmimo.types import Problem, UnitTest

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
SMALL = (
    "rl.steps=2", "rl.batch_groups=2", "rl.num_rollouts=4", "rl.minibatch_groups=1", "rl.max_new_tokens=8",
    "rl.context=64", "rl.learning_rate=1e-3", "rl.max_active_groups=4", "rl.max_launch_factor=3",
    "rl.validate_every=1", "rl.checkpoint_every=1", "rl.micro_rows=0", "engine.max_batch_size=16",
    "eval.max_new_tokens=8", "eval.num_samples=2", "judge.num_workers=1", "threads=1", "rl.temperature=2",
)  # fmt: skip
QUICK = [word for value in SMALL for word in ("--set", value)]
EVEN = """
def even(gold: str, answer: str) -> bool:
    return len(answer) % 2 == 0
"""


def problems_file(path: Path, number: int = 24) -> Path:
    rows = [{"kind": "math", "prompt": f"What is {n} plus 1?", "answer": str(n + 1)} for n in range(number)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def boxed_folder(folder: Path, **options: object) -> Path:
    """A model folder whose template opens the box, so that a random model answers at all."""
    template = QWEN2_TEMPLATE.replace("<|im_start|>assistant\n", "<|im_start|>assistant\n\\\\boxed{")
    return model_folder(folder, template=template, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("format", "mtp_layers", "dtype", "tied"), [("qwen2", 0, torch.bfloat16, True), ("mimo", 1, torch.float32, False)]
)
def test_any_folder_is_trained_and_comes_out_as_it_went_in(
    format: str, mtp_layers: int, dtype: torch.dtype, tied: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    start = model_folder(
        tmp_path / "m", format=format, mtp_layers=mtp_layers, dtype=dtype, tied=tied, template=QWEN2_TEMPLATE
    )
    (tmp_path / "own_verifier.py").write_text(EVEN)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{Path(__file__).parents[1]}")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(Chat, "decode", lambda self, ids: "\\boxed{" + "x" * (sum(ids) % 4 + 1) + "}")
    out = tmp_path / "run"
    code, printed, err = run(
        capsys, "rl", "one_gpu", "--model", start, "--problems", problems_file(tmp_path / "p.jsonl"),
        "--verifier", "own_verifier:even", "--out", out, *QUICK, "--json",
    )  # fmt: skip
    assert code == 0, err
    found = json.loads(printed)
    assert "no GPU here: computing in float32" in err
    assert (
        found["problems"] == {"in": 24, "train": 23, "validation": 1} and found["steps"] == 2 and found["updates"] >= 2
    )
    assert set(found["accuracy"]["before"]) == set(found["accuracy"]["after"]) == {"math"}
    rows = read_metrics(out, "rl")
    assert [row["groups"] for row in rows] == [2, 2] and all("validation_math" in row for row in rows)
    assert all(0.0 < row["reward"] < 1.0 for row in rows), "the user's verifier decided"
    before, after = load_folder(start), load_folder(out / "models" / "rl")
    assert after.config == before.config
    assert inspect_folder(out / "models" / "rl")["dtypes"] == inspect_folder(start)["dtypes"]
    kinds = [json.loads((f / "config.json").read_text())["model_type"] for f in (start, out / "models" / "rl")]
    assert kinds == [format, format] and Chat.load(out / "models" / "rl").template == QWEN2_TEMPLATE
    moved = {name for name, tensor in after.state_dict().items() if not torch.equal(tensor, before.state_dict()[name])}
    assert any("model.layers." in name for name in moved) and not any("mtp_layers" in name for name in moved)
    assert (out / "report.html").is_file()


def test_curation_leaves_out_what_the_model_solves(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    start, out = model_folder(tmp_path / "m"), tmp_path / "run"
    answers = iter(range(10**6))
    monkeypatch.setattr(Chat, "decode", lambda self, ids: f"\\boxed{{{next(answers) % 2 or 7}}}")
    rows = [{"kind": "math", "prompt": f"Say {n}.", "answer": str(1 + n % 2)} for n in range(12)]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["rl", "one_gpu", "--model", start, "--problems", tmp_path / "p.jsonl", "--out", out, *QUICK, "--json"]
    code, printed, err = run(capsys, *words, "--set", "rl.curation_samples=2", "--set", "rl.steps=1")
    assert code == 0, err
    found = json.loads(printed)
    assert found["curated"] == {"in": 11, "kept": 11}, "half of the rollouts are right, or none"
    monkeypatch.setattr(Chat, "decode", lambda self, ids: "\\boxed{1}")
    words[words.index(out)] = tmp_path / "other"
    (tmp_path / "p.jsonl").write_text("".join(json.dumps({**row, "answer": "1"}) + "\n" for row in rows))
    line = mistake(capsys, *words, "--set", "rl.curation_samples=2")
    assert 'curation leaves none of 11 problems: {"in": 11, "kept": 0, "solved": 11}' in line


def test_a_killed_command_goes_on_and_other_arguments_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start, problems = model_folder(tmp_path / "m"), problems_file(tmp_path / "p.jsonl")

    def words(out: Path, *more: str) -> list[str]:
        return ["rl", "one_gpu", f"--model={start}", f"--problems={problems}", f"--out={out}", *QUICK, *more]

    cut, whole = tmp_path / "cut", tmp_path / "whole"
    process = subprocess.Popen([sys.executable, "-m", "openmimo", *words(cut)], stderr=subprocess.DEVNULL)
    while not list(cut.glob("checkpoints/rl/step-*1")):
        assert process.poll() is None
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert "config.rl.alpha: 0.1 -> 0.5" in mistake(capsys, *words(cut, "--set", "rl.alpha=0.5"))
    problems_file(problems, 25)
    assert "p.jsonl: '" in mistake(capsys, *words(cut)), "the problems have changed"
    problems_file(problems)
    assert run(capsys, *words(cut))[0] == 0 and run(capsys, *words(whole))[0] == 0
    model = Path("models") / "rl" / "model.safetensors"
    assert (cut / model).read_bytes() == (whole / model).read_bytes()
    first, second = ([{**row, "timing": 0} for row in read_metrics(out, "rl")] for out in (cut, whole))
    assert first == second and [row["step"] for row in first] == [0, 1]
    code, printed, err = run(capsys, *words(cut))
    assert code == 0 and "rl: done already" in err and str(cut / "models" / "rl") in printed


def test_problems_are_read_as_the_judge_takes_them_and_as_a_run_writes_them(tmp_path: Path) -> None:
    ours = [
        Problem("a", "Add.", "code", tests=(UnitTest("[1]", "2", level=1),), entry_point="f", family="sums"),
        Problem("b", "Say 3.", "math", answer="3", family="sums"),
    ]
    write_rows(tmp_path / "ours.jsonl", ours)
    assert read_own_problems(str(tmp_path / "ours.jsonl")) == ours
    judges = tmp_path / "judges.jsonl"
    rows = [
        {"kind": "code", "prompt": "Add.", "entry_point": "f", "tests": [{"args": [1], "expected": 2}]},
        {"id": "x", "kind": "math", "prompt": "Say 3.", "answer": "3"},
    ]
    judges.write_text("".join(json.dumps(row) + "\n" for row in rows))
    first, second = read_own_problems(str(judges))
    assert (first.id, second.id) == ("judges/1", "x") and first.tests == (UnitTest("[1]", "2"),)


def test_math_is_read_from_an_array_too(tmp_path: Path) -> None:
    path = tmp_path / "train.json.gz"
    path.write_bytes(gzip.compress(json.dumps([{"problem": "Say 3.", "answer": "3", "type": "Algebra"}]).encode()))
    (problem,) = read_own_problems(f"math:{path}")
    assert (problem.id, problem.answer) == ("math/train/0", "3") and problem.prompt.startswith("Say 3.")


@pytest.mark.skipif(not DATA.is_dir(), reason="../shared/data is not there")
def test_the_presets_read_the_real_files() -> None:
    counts = {
        f"gsm8k:{DATA}/gsm8k/train.jsonl": 7473,
        f"gsm8k:{DATA}/gsm8k/test.jsonl": 1319,
        f"math:{DATA}/math/math500.jsonl": 500,
        f"math:{DATA}/math/math_test_5000.jsonl.gz": 5000,
        f"math:{DATA}/rl/math_train_7474.json.gz": 7474,
    }
    for given, count in counts.items():
        problems = read_own_problems(given)
        assert len(problems) == len({p.id for p in problems}) == count
        assert all(p.kind == "math" and "\\boxed{}" in p.prompt for p in problems)
        assert sum(not p.answer for p in problems) == (4 if "math_train" in given else 0), "left out, and counted"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--model", "{m}"), "--model goes with --problems FILE"),
        (("--problems", "{p}"), "--problems goes with --model DIR"),
        (("--verifier", "a:b"), "--verifier goes with --model DIR"),
        (("--model", "{m}x", "--problems", "{p}"), "mx does not exist; the nearest is "),
        (("--model", "{m}", "--problems", "{p}x"), "p.jsonlx does not exist; the nearest is "),
        (("--model", "{m}", "--problems", "gsm9k:{p}"), "'gsm9k' is no preset; gsm8k, math are"),
        (("--model", "{m}", "--problems", "math:{p}"), "lacks 'problem'"),
        (("--model", "{m}", "--problems", "{bare}"), "bare.jsonl, row 1 has no prompt"),
        (("--model", "{m}", "--problems", "{kind}"), "kind.jsonl, row 1 lacks 'kind': math or code"),
        (("--model", "{m}", "--problems", "{one}"), "needs at least 2 problems, one of them to validate on; 1 of 1"),
        (("--model", "{m}", "--problems", "{p}", "--problems", "{p}"), "id 'p/1' is in"),
        (("--model", "{m}", "--problems", "{p}", "--set", "rl.context=4096"), "rl.context must be at most"),
        (("--model", "{m}", "--problems", "{p}", "--set", "rl.max_new_tokens=64"), "leaves no room for a prompt"),
        (("--model", "{m}", "--problems", "{p}", "--set", "rl.max_new_tokens=60"), "24 are too long for rl.context"),
        (("--model", "{m}", "--problems", "{p}", "--set", "engine.cache_bytes=1e15", "--set",
          "engine.max_batch_size=1000000000"), "RL on this folder needs "),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_what_cannot_be_trained_is_one_line_and_leaves_nothing(
    arguments: tuple[str, ...], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = {"m": model_folder(tmp_path / "m"), "p": problems_file(tmp_path / "p.jsonl")}
    for name, row in {
        "bare": {"kind": "math", "answer": "3"},
        "kind": {"prompt": "Say 3.", "answer": "3"},
        "one": {"kind": "math", "prompt": "Say 3.", "answer": "3"},
    }.items():
        names[name] = tmp_path / f"{name}.jsonl"
        names[name].write_text(json.dumps(row) + "\n")
    before = sorted(tmp_path.iterdir())
    words = [word.format(**names) for word in arguments]
    options = QUICK if "--model" in words and "--problems" in words else []
    own = {words[i + 1].split("=")[0] for i, word in enumerate(words) if word == "--set"}
    options = [
        w for a, b in zip(options[::2], options[1::2], strict=True) if b.split("=")[0] not in own for w in (a, b)
    ]
    assert said in mistake(capsys, "rl", "one_gpu", *words, "--out", tmp_path / "run", *options)
    assert sorted(tmp_path.iterdir()) == before


QWEN_1_5B = MiMoConfig(
    vocab_size=151_936, hidden_size=1536, intermediate_size=8960, num_hidden_layers=28, num_attention_heads=12,
    num_key_value_heads=2, head_dim=128, tie_word_embeddings=True, num_nextn_predict_layers=0,
)  # fmt: skip


def test_memory_is_told_by_part_and_what_would_fit_is_named() -> None:
    recipe = one_gpu()
    needed = memory_needed(QWEN_1_5B, recipe, "cuda")
    count = sum(QWEN_1_5B.num_parameters())
    assert needed.parts["weights"] == 4 * count and needed.parts["copies"] == needed.parts["engine"] == 2 * count
    plain = replace(recipe, rl=replace(recipe.rl, optim=replace(recipe.rl.optim, offload=False), micro_rows=0))
    more = memory_needed(QWEN_1_5B, plain, "cuda")
    with pytest.raises(
        ValueError,
        match=r"needs 8\d\.\d+ GB \(activations .*optimizer 12.*has 47 GB free; --set rl.micro_rows=1 needs 42",
    ):
        check_memory(more, 47e9, QWEN_1_5B, plain, "cuda")
    check_memory(needed, 40e9, QWEN_1_5B, recipe, "cuda")
    with pytest.raises(ValueError, match=r"take a smaller model, or a shorter rl\.context"):
        check_memory(needed, 4e9, QWEN_1_5B, recipe, "cuda")


def test_a_plan_tells_the_memory_before_anything_is_loaded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    start = model_folder(tmp_path / "m")
    words = ("plan", "one_gpu", "--model", start, "--set", "rl.context=64", "--set", "rl.max_new_tokens=8")
    code, printed, _ = run(capsys, *words, "--gpu", "l40s", "--json")
    found = json.loads(printed)
    assert code == 0 and found["fits"] and found["dtype"] == "bfloat16" and found["capacity_bytes"] == 48e9
    assert sum(found["parts"].values()) == pytest.approx(found["total_bytes"], abs=10)
    code, printed, _ = run(capsys, *words)
    assert code == 0 and "cache" in printed and "total" in printed
    assert "unknown GPU 'l40x'; the nearest is 'l40s'" in mistake(capsys, *words, "--gpu", "l40x")
    assert "--gpu KIND is all that goes with it" in mistake(capsys, *words, "--gpus", "8")


def test_offloading_takes_the_optimizers_state_off_the_device() -> None:
    layout = Layout(1, 1024, "bfloat16", "full", device="cuda")
    with_state, without = (rl_memory_of(QWEN_1_5B, layout, Colocated(1e9, 64, offload)) for offload in (False, True))
    assert with_state.parts["optimizer"] == 8 * sum(QWEN_1_5B.num_parameters())
    assert with_state.total - without.total > 0.9 * with_state.parts["optimizer"]
