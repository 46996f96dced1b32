"""Draft layers from end to end: what a file gives to train on and hold out, and the command on a small folder."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from openmimo.cli import main
from openmimo.data.chat import CHAT_TEMPLATE, Chat
from openmimo.data.pack import Sample
from openmimo.data.tokenizer import END_OF_TEXT, save_tokenizer, train_tokenizer
from openmimo.draft import DraftingConfig, prompts_of, split, spread, texts_of
from openmimo.model.config import MiMoConfig
from openmimo.model.folder import inspect_folder
from openmimo.model.hf import load_folder, save_folder
from openmimo.model.mimo import MiMo

LINES = [f"count from {n} to {n + 5}: " + " ".join(str(n + i) for i in range(6)) for n in range(40)]


def model_folder(folder: Path, *, mtp_layers: int = 1, dtype: torch.dtype = torch.float32) -> Path:
    tokenizer = train_tokenizer(LINES * 3, 300)
    save_tokenizer(tokenizer, folder.with_name("tokenizer"), chat_template=CHAT_TEMPLATE, max_length=128)
    end = tokenizer.token_to_id(END_OF_TEXT)
    config = MiMoConfig(
        vocab_size=320, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, rope_theta=1e4, max_position_embeddings=128, eos_token_id=end,
        num_nextn_predict_layers=mtp_layers, initializer_range=0.2,
    )  # fmt: skip
    model = MiMo(config).init_weights(torch.Generator().manual_seed(0)).to(dtype)
    return save_folder(model, folder, tokenizer_from=folder.with_name("tokenizer"))


@pytest.fixture
def chat(tmp_path: Path) -> Chat:
    return Chat.load(model_folder(tmp_path / "m"))


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    out, err = capsys.readouterr()
    return int(ended.value.code or 0), out, err


QUICK = ("--steps", "4", "--batch-rows", "2", "--max-new-tokens", "12", "--samples", "1")


def texts_file(folder: Path) -> Path:
    path = folder / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": line}) + "\n" for line in LINES))
    return path


def prompts_file(folder: Path) -> Path:
    path = folder / "prompts.txt"
    path.write_text("\n".join(LINES) + "\n\n")
    return path


@pytest.mark.parametrize("chained", [False, True])
@pytest.mark.parametrize("kind", ["text", "prompts"])
def test_the_command_writes_a_folder_with_tuned_copies(
    kind: str, chained: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = model_folder(tmp_path / "m", dtype=torch.bfloat16)
    given = texts_file(tmp_path) if kind == "text" else prompts_file(tmp_path)
    out = tmp_path / "out"
    more = ("--chained",) if chained else ()
    arguments = ("train-draft", str(folder), "-o", str(out), f"--{kind}", str(given), *QUICK, *more, "--json")
    code, printed, _ = run(capsys, *arguments)
    found = json.loads(printed)
    assert code == 0 and found["steps"] == 4 and found["held_out"] == 4 and found["trained_on"] == 36
    assert found["mtp_layers"] == 3 and found["chained"] is chained
    assert set(found["acceptance"]) <= {"1", "2", "3"} and "1" in found["acceptance"]
    assert all(0.0 <= rate <= 1.0 for rate in found["acceptance"].values())
    before, after = load_folder(folder), load_folder(out)
    assert after.config.num_nextn_predict_layers == 3 and after.config.mtp_chained is chained
    old, new = before.state_dict(), after.state_dict()
    assert all(torch.equal(tensor, new[name]) for name, tensor in old.items()), "trunk and layer 1 bit for bit"
    assert inspect_folder(out)["dtypes"] == ["bfloat16"]
    for k in (1, 2):
        name = "mtp_layers.{}.input_proj.weight"
        assert not torch.equal(new["model." + name.format(k)], new["model." + name.format(0)])
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(["m", "tokenizer", given.name, "out"]), "no leftovers"
    code, printed, err = run(capsys, *arguments)
    assert (code, printed) == (2, "") and "exists already" in err and err.count("\n") == 1


def test_a_killed_command_goes_on_and_ends_like_an_uninterrupted_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, prompts = model_folder(tmp_path / "m"), prompts_file(tmp_path)

    def words(out: Path) -> list[str]:
        quick = ["--steps", "140", "--batch-rows", "2", "--max-new-tokens", "12"]
        return ["train-draft", str(folder), "-o", str(out), "--prompts", str(prompts), *quick, "--json"]

    work, out = tmp_path / ".cut.train-draft", tmp_path / "cut"
    process = subprocess.Popen([sys.executable, "-m", "openmimo", *words(out)], stderr=subprocess.DEVNULL)
    while not (work / "checkpoints" / "step-00000100").is_dir():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not out.exists()
    code, _, err = run(capsys, *words(out), "--seed", "1")
    assert code == 2 and "seed: 0 -> 1" in err and err.count("\n") == 1
    code, again, _ = run(capsys, *words(out))
    assert code == 0 and out.is_dir() and not work.exists()
    code, whole, _ = run(capsys, *words(tmp_path / "whole"))
    assert code == 0 and json.loads(again) == {**json.loads(whole), "folder": str(out)}
    assert (out / "model.safetensors").read_bytes() == (tmp_path / "whole" / "model.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "give --text FILE or --prompts FILE"),
        (("--text", "{texts}", "--prompts", "{prompts}"), "give --text FILE or --prompts FILE"),
        (("--prompts", "{prompts}s"), "prompts.txts does not exist; the nearest is"),
        (("--text", "{texts}s.jsonl"), "does not exist"),
        (("--prompts", "{texts}"), "texts.jsonl:1 lacks 'prompt' or 'messages'; it has text"),
        (("--prompts", "{prompts}", "--layers", "1"), "num_layers of the draft layers must be at least 2, got 1"),
        (("--prompts", "{prompts}", "--steps", "-1"), "steps of the draft layers must be at least 0, got -1"),
        (("--prompts", "{prompts}", "--context", "129"), "context must be at most the model's 128, got 129"),
        (("--prompts", "{prompts}", "--samples", "0"), "num_samples of the draft rollouts must be at least 1, got 0"),
        (("--prompts", "{prompts}", "--temperature", "nan"), "temperature of the draft rollouts must be at least 0"),
        (("--prompts", "{prompts}", "--context", "8"), "has 0 usable texts or prompts that differ"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(
    arguments: tuple[str, ...], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = model_folder(tmp_path / "m")
    names = {"texts": str(texts_file(tmp_path)), "prompts": str(prompts_file(tmp_path))}
    before = sorted(tmp_path.iterdir())
    words = (word.format(**names) for word in arguments)
    code, out, err = run(capsys, "train-draft", str(folder), "-o", str(tmp_path / "out"), *words)
    assert (code, out) == (2, "") and said in err, err
    assert err.rstrip("\n").split("\n")[-1].startswith("openmimo: ") and "Traceback" not in err
    assert sorted(tmp_path.iterdir()) == before


def test_a_model_without_mtp_layers_has_nothing_to_copy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, prompts = model_folder(tmp_path / "m", mtp_layers=0), prompts_file(tmp_path)
    code, _, err = run(capsys, "train-draft", str(folder), "-o", str(tmp_path / "out"), "--prompts", str(prompts))
    assert code == 2 and f"{folder} has 0 MTP layers; draft layers are copies of the first" in err


def test_what_is_held_out_is_never_trained_on() -> None:
    items = [Sample((n, n + 1)) for n in (*range(25), *range(25))]  # every one twice
    kept, held_out = split(items, Path("x"))
    ids = [tuple(s.token_ids) for s in kept], [tuple(s.token_ids) for s in held_out]
    assert len(ids[0]) == 23 and len(ids[1]) == 2 and not set(ids[0]) & set(ids[1])
    assert [len(part) for part in split(items[:2], Path("x"))] == [1, 1]
    with pytest.raises(ValueError, match="x has 1 usable texts or prompts that differ; at least 2"):
        split([items[0], items[25]], Path("x"))


def test_texts_and_conversations_become_pieces_of_a_row(chat: Chat, tmp_path: Path) -> None:
    end = chat.encode(END_OF_TEXT)
    talk = [{"role": "user", "content": "1 2 3?"}, {"role": "assistant", "content": "4 5 6 7 8 9"}]
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"text": " ".join(LINES)}) + "\n" + json.dumps({"messages": talk}) + "\n")
    found = texts_of(path, chat, 50)
    long = (*chat.encode(" ".join(LINES)), *end)
    number = -(-len(long) // 50)
    assert sum((tuple(s.token_ids) for s in found[:number]), ()) == long
    ids, weights = chat.render_training(talk)
    assert len(found) == number + 1 and tuple(found[-1].token_ids) == ids and tuple(found[-1].loss_weights) == weights
    plain = tmp_path / "a.txt"
    plain.write_text("\n".join(LINES))
    pieces = texts_of(plain, chat, 10_000)
    assert len(pieces) == 10 and sum((tuple(s.token_ids) for s in pieces), ()) == chat.encode("\n".join(LINES))


def test_prompts_end_where_the_assistant_begins(chat: Chat, tmp_path: Path) -> None:
    talk = [{"role": "user", "content": "1 2 3?"}, {"role": "assistant", "content": "4"}]
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"messages": talk}) + "\n" + json.dumps({"prompt": "1 2 3?"}) + "\n")
    assert [tuple(s.token_ids) for s in prompts_of(path, chat, 128)] == [chat.render_prompt("1 2 3?")] * 2
    path.write_text('{"messages": [{"role": "user"}]}\n')
    with pytest.raises(ValueError, match=r"a\.jsonl:1: messages must be a list of objects with role and content"):
        prompts_of(path, chat, 128)


@pytest.mark.parametrize(
    ("num_items", "most", "expected"),
    [(6, 3, [0, 2, 4]), (7, 3, [0, 2, 4]), (3, 12, [0, 1, 2]), (5, 0, []), (0, 4, [])],
)
def test_what_is_chosen_is_spread_and_never_more_than_asked_for(num_items: int, most: int, expected: list[int]) -> None:
    assert spread(range(num_items), most) == expected


def test_the_papers_figures_are_the_defaults() -> None:
    config = DraftingConfig()
    assert (config.train.num_layers, config.train.chained, config.temperature) == (3, False, 0.6)
