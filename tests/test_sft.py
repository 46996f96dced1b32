"""SFT from end to end: a folder that others made and conversations of one's own, through the command line."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from openmimo.cli import main
from openmimo.data.chat import CHAT_TEMPLATE, Chat
from openmimo.data.tokenizer import save_tokenizer, train_tokenizer
from openmimo.log import read_metrics
from openmimo.model.config import MiMoConfig
from openmimo.model.folder import inspect_folder
from openmimo.model.hf import load_folder, save_folder
from openmimo.model.mimo import MiMo
from openmimo.recipes import load
from openmimo.recipes.tiny import tiny

ROOT = Path(__file__).parents[1]
ABLATIONS = ROOT / "openmimo" / "recipes" / "ablations.py"
SUMS = [(f"What is {a} plus {b}?", f"{a} plus {b} is {a + b}.") for a in range(8) for b in range(8)]
QUICK = ("--set", "threads=1", "--set", "sft.batch_rows=2", "--set", "sft.context=96", "--set", "sft.warmup_steps=0")
QWEN2_TEMPLATE = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def model_folder(
    folder: Path,
    *,
    format: str = "mimo",
    mtp_layers: int = 1,
    dtype: torch.dtype = torch.float32,
    tied: bool = False,
    template: str = CHAT_TEMPLATE,
) -> Path:
    tokenizer = train_tokenizer(
        [f"{q} {a}" for q, a in SUMS] * 3 + ["You are a helpful assistant system user"] * 9, 300
    )
    save_tokenizer(tokenizer, folder.with_name("tokenizer"), chat_template=template, max_length=128)
    config = MiMoConfig(
        vocab_size=320, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, rope_theta=1e4, max_position_embeddings=128, tie_word_embeddings=tied,
        num_nextn_predict_layers=mtp_layers,
    )  # fmt: skip
    model = MiMo(config).init_weights(torch.Generator().manual_seed(0)).to(dtype)
    return save_folder(model, folder, format=format, tokenizer_from=folder.with_name("tokenizer"))  # type: ignore[arg-type]


def talks_file(path: Path, *more: str) -> Path:
    rows = [{"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": a}]} for q, a in SUMS]
    path.write_text("".join(line + "\n" for line in (*map(json.dumps, rows), *more)))
    return path


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in arguments])
    out, err = capsys.readouterr()
    return int(ended.value.code or 0), out, err


def mistake(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The one line that a refused command ends in."""
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (2, ""), (code, out, err)
    assert err.rstrip("\n").split("\n")[-1].startswith("openmimo: ") and "Traceback" not in err, err
    return err


@pytest.mark.parametrize(
    ("format", "mtp_layers", "dtype", "tied", "template"),
    [
        ("mimo", 1, torch.float32, False, CHAT_TEMPLATE),
        ("mimo", 3, torch.bfloat16, False, CHAT_TEMPLATE),
        ("qwen2", 0, torch.bfloat16, True, QWEN2_TEMPLATE),
    ],
)
def test_any_folder_is_trained_and_comes_out_as_it_went_in(
    format: str,
    mtp_layers: int,
    dtype: torch.dtype,
    tied: bool,
    template: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    start = model_folder(
        tmp_path / "m", format=format, mtp_layers=mtp_layers, dtype=dtype, tied=tied, template=template
    )
    long = {"messages": [{"role": "user", "content": "1 " * 60}, {"role": "assistant", "content": "2 " * 60}]}
    talks = talks_file(tmp_path / "talks.jsonl", json.dumps(long), "{nope")
    out = tmp_path / "run"
    code, printed, err = run(
        capsys, "sft", "tiny", "--start", start, "--data", talks, "--out", out, *QUICK, "--held-out", "--json"
    )
    found = json.loads(printed)
    assert code == 0 and found["folder"] == str(out / "models" / "sft") and found["too_long"] == 1
    assert "1 of 62 conversations exceed 96 tokens: left out" in err
    assert found["prepared"]["in"] == 66 and found["prepared"]["kept"] == 65
    assert (found["held_out"], found["conversations"], found["trained_on"]) == (3, 62, 61)
    assert found["perplexity"]["after"] < 0.8 * found["perplexity"]["before"]
    assert 0.5 < found["packing"] <= 1.0 and found["steps"] == -(-found["rows"] // 2)
    rows = read_metrics(out, "sft")
    assert len(rows) == found["steps"] and all({"loss", "ce", "mtp", "packing"} <= set(row) for row in rows)
    assert rows[-1]["ce"] < rows[0]["ce"] and {row["learning_rate"] for row in rows} == {6e-4}, "constant"
    before, after = load_folder(start), load_folder(out / "models" / "sft")
    assert after.config == before.config
    assert inspect_folder(out / "models" / "sft")["dtypes"] == inspect_folder(start)["dtypes"]
    about = [json.loads((f / "config.json").read_text())["model_type"] for f in (start, out / "models" / "sft")]
    assert about == [format, format]
    moved = [name for name, tensor in after.state_dict().items() if not torch.equal(tensor, before.state_dict()[name])]
    assert all(any(f"mtp_layers.{k}." in name for name in moved) for k in range(mtp_layers)), "every MTP layer learns"
    assert ("mtp" in found) == (mtp_layers > 0) and any("model.layers." in name for name in moved)
    chat = Chat.load(out / "models" / "sft")
    assert chat.template == template
    generation = json.loads((out / "models" / "sft" / "generation_config.json").read_text())
    assert chat.tokenizer.token_to_id("<|im_end|>") in generation["eos_token_id"], "others stop there too"


def test_a_base_model_without_a_template_is_taught_ours(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    start, talks = model_folder(tmp_path / "base", template=""), talks_file(tmp_path / "talks.jsonl")
    out = tmp_path / "out"
    words = ("--start", start, "--data", talks, "--out", out, "--set", "sft.context=96", "--set", "threads=1")
    code, _, said = run(capsys, "sft", "nano", *words)
    assert code == 0 and "has no chat template; it is taught ours" in said
    assert (out / "models" / "sft" / "chat_template.jinja").read_text() == CHAT_TEMPLATE


def test_a_killed_command_goes_on_bit_for_bit_and_other_arguments_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start, talks = model_folder(tmp_path / "m"), talks_file(tmp_path / "talks.jsonl")

    def words(out: Path) -> list[str]:
        more = ("--set", "sft.epochs=4", "--set", "sft.checkpoint_every=5")
        return [
            "sft",
            "tiny",
            *(f"--{k}={v}" for k, v in (("start", start), ("data", talks), ("out", out))),
            *QUICK,
            *more,
        ]

    cut, whole = tmp_path / "cut", tmp_path / "whole"
    process = subprocess.Popen([sys.executable, "-m", "openmimo", *words(cut)], stderr=subprocess.DEVNULL)
    while not list(cut.glob("checkpoints/sft/step-*[1-9]*")):
        assert process.poll() is None
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (cut / "models").exists(), "killed on its way"
    line = mistake(capsys, *words(cut), "--set", "sft.epochs=9")
    assert "config.sft.epochs: 4.0 -> 9.0" in line
    other = talks_file(tmp_path / "talks.jsonl", "{}")
    assert "talks.jsonl: '" in mistake(capsys, *words(cut)), "the data has changed"
    talks_file(other)
    assert run(capsys, *words(cut))[0] == 0 and run(capsys, *words(whole))[0] == 0
    model = Path("models") / "sft" / "model.safetensors"
    assert (cut / model).read_bytes() == (whole / model).read_bytes()
    first, second = ([{**row, "timing": 0} for row in read_metrics(out)] for out in (cut, whole))
    assert first == second and [row["step"] for row in first] == list(range(len(first)))
    code, printed, err = run(capsys, *words(cut))
    assert code == 0 and "sft: done already" in err and str(cut / "models" / "sft") in printed


def test_two_ranks_train_what_one_trains(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    start, talks = model_folder(tmp_path / "m"), talks_file(tmp_path / "talks.jsonl")
    words = ["sft", "tiny", "--start-from", str(start), "--data", str(talks), "--held-out", *QUICK]
    assert run(capsys, *words, "--out", tmp_path / "one")[0] == 0
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", f"--master-port={port}", "-m"]
    done = subprocess.run(
        [*launcher, "openmimo", *words, "--out", str(tmp_path / "two"), "--json"],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    one, two = (read_metrics(tmp_path / name, "sft") for name in ("one", "two"))
    assert len(one) == len(two) == found["steps"]
    assert [row["tokens"] for row in one] == [row["tokens"] for row in two]
    for a, b in zip(one, two, strict=True):
        assert b["loss"] == pytest.approx(a["loss"], rel=1e-4) and b["packing"] == a["packing"]


def test_lite_sft_trains_a_twentieth_and_is_a_recipe_by_path(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = load(f"{ABLATIONS}:lite_sft")
    assert recipe.name == "lite_sft" and recipe.sft.epochs == tiny().sft.epochs / 20 and not recipe.sft.warmup_steps
    start = model_folder(tmp_path / "m")
    talks = talks_file(
        tmp_path / "talks.jsonl",
        *[
            json.dumps(
                {
                    "messages": [
                        {"role": "user", "content": f"And {n}?"},
                        {"role": "assistant", "content": f"It is {n}."},
                    ]
                }
            )
            for n in range(60)
        ],
    )
    code, printed, _ = run(
        capsys, "sft", f"{ABLATIONS}:lite_sft", "--start", start, "--data", talks, "--out", tmp_path / "run",
        "--set", "threads=1", "--set", "sft.batch_rows=1", "--set", "sft.context=64", "--json",
    )  # fmt: skip
    found = json.loads(printed)
    assert code == 0 and found["rows"] >= 60 and found["steps"] == found["rows"] // 20


def test_data_sft_prints_a_table_or_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    talks, out = talks_file(tmp_path / "talks.jsonl", "{nope"), tmp_path / "sft.jsonl"
    bench = tmp_path / "bench.jsonl"
    bench.write_text(json.dumps({"question": SUMS[3][0]}) + "\n")
    words = ("data", "sft", talks, "-o", out, "--against", bench)
    code, printed, _ = run(capsys, *words)
    assert code == 0 and f"{'contaminated':<20}{-1:>10}  first at {talks}:4" in printed
    assert f"{'not_json':<20}{-1:>10}  first at {talks}:65" in printed and f"1 texts of {bench} (question)" in printed
    code, printed, _ = run(capsys, *words, "--json", "--max-responses", "1")
    found = json.loads(printed)
    assert code == 0 and (found["in"], found["kept"], found["max_responses"]) == (65, 63, 1)
    near = str(tmp_path / "talk.jsonl")
    assert f"{near} does not exist; the nearest is '{talks}'" in mistake(capsys, "data", "sft", near, "-o", out)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--start", "{m}x", "--data", "{talks}"), "mx does not exist; the nearest is "),
        (("--start", "{m}", "--data", "{talks}x"), "talks.jsonlx does not exist; the nearest is "),
        (("--start", "{m}", "--data", "{talks}", "--against", "{m}x"), "mx does not exist"),
        (("--start", "{m}", "--data", "{empty}"), "no conversation of 0 is left: the input is empty"),
        (("--start", "{m}", "--data", "{bad}"), "no conversation of 1 is left: 1 not_json (first "),
        (("--start", "{m}", "--data", "{talks}", "--set", "sft.context=4096"), "sft.context must be at most "),
        (("--start", "{m}", "--data", "{talks}", "--set", "sft.context=4"), "no conversation fits a row of 4 tokens"),
        (("--start", "{m}", "--data", "{talks}", "--set", "sft.epochs=0"), "sft.epochs must be above 0, got 0.0"),
        (("--start", "{m}", "--data", "{one}", "--held-out"), "--held-out needs at least 2 different queries"),
        (("--start", "{m}"), "--start goes with --data MESSAGES.jsonl"),
        (("--data", "{talks}"), "--data goes with --start DIR"),
        (("--held-out",), "--held-out goes with --start DIR and --data FILE"),
        (("--start", "{odd}", "--data", "{talks}"), "odd: the chat template ends the answer of message 1 with 'bEND'"),
        (("--start", "{torn}", "--data", "{talks}"), "torn: its chat template cannot be read: "),
        (("--start", "{strict}", "--data", "{system}"), "strict: the chat template refuses the messages: no system"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_trained_is_one_line_and_leaves_nothing(
    arguments: tuple[str, ...], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = {"m": model_folder(tmp_path / "m"), "talks": talks_file(tmp_path / "talks.jsonl")}
    refuses = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + CHAT_TEMPLATE
    templates = {"odd": "{% for m in messages %}{{ m.content }}END{% endfor %}", "torn": "{% for"}
    for name, template in {**templates, "strict": refuses}.items():
        if f"{{{name}}}" in arguments:
            names[name] = model_folder(tmp_path / name, template=template)
    user, assistant = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}
    system = {"messages": [{"role": "system", "content": "s"}, user, assistant]}
    one = {"messages": [user, assistant]}
    for name, text in {"empty": "", "bad": "{", "one": json.dumps(one), "system": json.dumps(system)}.items():
        names[name] = tmp_path / f"{name}.jsonl"
        names[name].write_text(text)
    before = sorted(tmp_path.iterdir())
    context = () if "sft.context" in " ".join(arguments) else ("--set", "sft.context=96")
    words = (word.format(**names) for word in arguments)
    assert said in mistake(capsys, "sft", "tiny", *words, "--out", tmp_path / "run", *context, "--set", "threads=1")
    assert sorted(tmp_path.iterdir()) == before
