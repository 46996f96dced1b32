"""The command line to a newcomer: every command shows an example, every mistake is one line that says what is right."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from openmimo.cli import app, main


def commands() -> Iterator[tuple[str, ...]]:
    """Every command and subcommand that --help shows, as words."""

    def walk(command: object, words: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
        for name, below in getattr(command, "commands", {}).items():
            if not below.hidden:
                yield (*words, name)
                yield from walk(below, (*words, name))

    yield from walk(typer.main.get_command(app), ())


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    out, err = capsys.readouterr()
    return int(ended.value.code or 0), out, err


def mistake(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line on stderr that a mistake ends in."""
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (2, ""), (code, out, err)
    assert err.count("\n") == 1 and err.startswith("openmimo: ") and "Traceback" not in err, err
    return err


def test_the_commands_are_the_known_ones() -> None:
    known = (
        "run data pretrain sft draft rl eval train-draft generate chat serve score judge checkpoint plan report doctor "
        "runs status stop rollout-sim"
    )
    assert {words[0] for words in commands()} == set(known.split())


@pytest.mark.parametrize("words", [(), *commands()], ids=" ".join)
def test_help_shows_an_example_of_the_very_command(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    code, out, err = run(capsys, *words, "--help")
    assert (code, err) == (0, "")
    lines = [line.strip().removeprefix("Example: ") for line in out.split("\n")]
    assert any(line.startswith(" ".join(("openmimo", *words))) for line in lines), out


@pytest.mark.parametrize(
    ("arguments", "wrong", "meant"),
    [
        (("runn", "tiny"), "runn", "run"),
        (("pretrian", "tiny"), "pretrian", "pretrain"),
        (("checkpoint", "inspct", "x"), "inspct", "inspect"),
        (("data", "extrac"), "extrac", "extract"),
        (("run", "tinny"), "tinny", "tiny"),
        (("plan", "mimo7"), "mimo7", "mimo7b"),
        (("data", "tinny"), "tinny", "tiny"),
        (("plan", "nano", "--set", "rl.stepz=3"), "rl.stepz", "rl.steps"),
        (("plan", "nano", "--set", "modle.hidden_size=3"), "modle.hidden_size", "model.hidden_size"),
        (("checkpoint", "export", "x", "-o", "y", "--format", "qwen"), "qwen", "qwen2"),
    ],
)
def test_a_wrong_name_is_repeated_with_the_nearest_right_one(
    arguments: tuple[str, ...], wrong: str, meant: str, capsys: pytest.CaptureFixture[str]
) -> None:
    line = mistake(capsys, *arguments)
    assert repr(wrong) in line and f"the nearest is {meant!r}" in line, line


@pytest.mark.parametrize(
    ("arguments", "given"),
    [
        (("run", "nano", "--set", "rl.steps=three"), "rl.steps=three"),
        (("run", "nano", "--set", "rl.steps"), "'rl.steps'"),
        (("run", "nano", "--set", "rl=3"), "rl=3"),
        (("run", "nano", "--seed", "x"), "--seed"),
        (("run", "nano", "--seed", "9" * 30), "9" * 30),
        (("run", "nano", "--set", "eval.temperature=-1"), "eval.temperature must be at least 0, got -1.0"),
        (("run", "nano", "--set", "threads=0"), "threads must be at least 1, got 0"),
        (("plan", "nano", "--set", "rl.steps=-1"), "rl.steps must be at least 0, got -1"),
        (("plan", "nano", "--set", "model.num_attention_heads=0"), "model.num_attention_heads must be at least 1"),
        (("generate", "nowhere", "a question", "-n", "0"), "-n must be at least 1, got 0"),
        (("generate", "nowhere"), "name a prompt: --prompt TEXT"),
        (("serve", "nowhere", "--port", "99999"), "--port must be 0 to 65535, got 99999"),
        (("run",), "recipe"),
        (("run", "--nope"), "--nope"),
    ],
)
def test_a_wrong_value_is_repeated_in_one_line(
    arguments: tuple[str, ...], given: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert given in mistake(capsys, *arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        ("data", "extract", "{wrong}", "-o", "out.jsonl"),
        ("data", "dedup", "{wrong}", "-o", "out.jsonl"),
        ("data", "nano", "--pages", "{wrong}", "--out", "out"),
    ],
    ids=lambda arguments: " ".join(arguments[:2]),
)
def test_a_missing_input_is_repeated_with_the_nearest_file_there(
    arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "documents.jsonl").write_text('{"text": "a"}\n')
    wrong, right = str(tmp_path / "document.jsonl"), str(tmp_path / "documents.jsonl")
    line = mistake(capsys, *(word.format(wrong=wrong) for word in arguments))
    assert wrong in line and f"the nearest is {right!r}" in line, line
    assert sorted(path.name for path in tmp_path.iterdir()) == ["documents.jsonl"], "a refused command leaves nothing"


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        (("judge", "document.jsonl", "documents.jsonl"), "documents.jsonl"),
        (("checkpoint", "inspect", "document"), "documents.jsonl"),
        (("run", "document.py:mine"), "documents.jsonl"),
        (("data", "extrct", "documents.jsonl"), "extract"),
    ],
    ids=["judge", "checkpoint", "recipe file", "data subcommand with arguments"],
)
def test_the_nearest_name_is_offered_here_too(
    arguments: tuple[str, ...],
    meant: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "documents.jsonl").write_text("")
    line = mistake(capsys, *arguments)
    assert "the nearest is" in line and meant in line, line


@pytest.mark.parametrize(
    "arguments",
    [
        ("judge", "{wrong}", "{wrong}"),
        ("generate", "{wrong}", "hello"),
        ("chat", "{wrong}"),
        ("serve", "{wrong}"),
        ("checkpoint", "inspect", "{wrong}"),
        ("checkpoint", "export", "{wrong}", "-o", "out"),
        ("report", "{wrong}"),
        ("run", "{wrong}.py:mine"),
    ],
    ids=lambda arguments: " ".join(arguments[:2]),
)
def test_every_missing_file_or_folder_is_repeated_in_one_line(
    arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    wrong = str(tmp_path / "nowhere")
    assert wrong in mistake(capsys, *(word.format(wrong=wrong) for word in arguments))
    assert not list(tmp_path.iterdir()), "a refused command leaves nothing behind"


@pytest.mark.parametrize(
    "arguments",
    [
        ("data", "nano", "--pages", "{inputs}", "--out", "out"),
        ("data", "extract", "{inputs}", "-o", "out.jsonl"),
        ("data", "dedup", "{inputs}", "-o", "out.parquet"),
        ("pretrain", "nano", "--out", "{inputs}"),
    ],
    ids=lambda arguments: " ".join(arguments[:2]),
)
def test_an_empty_folder_is_refused_and_nothing_is_written(
    arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    inputs = tmp_path / "empty"
    inputs.mkdir()
    assert str(inputs) in mistake(capsys, *(word.format(inputs=inputs) for word in arguments))
    assert list(tmp_path.rglob("*")) == [inputs], "a refused command leaves nothing behind"


def test_inputs_of_which_nothing_can_be_read_are_refused_with_the_reason(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "a.jsonl").write_text("{nope\n")
    line = mistake(capsys, "data", "dedup", str(tmp_path / "a.jsonl"), "-o", str(tmp_path / "out.jsonl"))
    assert str(tmp_path / "a.jsonl") in line and "a.jsonl:1: not a document row" in line, line
    assert not (tmp_path / "out.jsonl").exists()


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.py", "def f(:", "SyntaxError"),
        ("a.py", "import nowhere_to_be_found", "nowhere_to_be_found"),
        ("a.py", "def f(x): return x", "missing 1 required positional argument"),
        ("a.txt", "text", "no Python file"),
    ],
)
def test_a_broken_recipe_file_is_one_line(
    name: str, text: str, said: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / name).write_text(text)
    line = mistake(capsys, "plan", f"{tmp_path / name}:f")
    assert name in line and said in line, line


@pytest.mark.parametrize("name", ["run.json", "state.json"])
@pytest.mark.parametrize("text", ['{"data": ', "[]"], ids=["torn", "a list"])
def test_a_damaged_run_folder_is_named(
    name: str, text: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / name).write_text(text)
    code, out, err = run(capsys, "run", "nano", "--out", str(tmp_path))
    assert (code, out) == (2, "") and err.count("\n") == 1 and str(tmp_path / name) in err, err


@pytest.mark.parametrize(
    ("name", "text"), [("tokenizer.json", "{}"), ("tokenizer_config.json", "{"), ("config.json", "[]")]
)
def test_a_damaged_model_folder_is_named(
    name: str, text: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    from openmimo.data.tokenizer import save_tokenizer, train_tokenizer

    save_tokenizer(train_tokenizer(["some text"], 300), tmp_path, chat_template="", max_length=64)
    (tmp_path / name).write_text(text)
    assert str(tmp_path / name) in mistake(capsys, "generate", str(tmp_path), "a question")


def test_a_process_ends_with_code_2_and_one_line_and_help_without_torch() -> None:
    wrong = subprocess.run([sys.executable, "-m", "openmimo", "runn"], capture_output=True, text=True)
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr == "openmimo: unknown command 'runn'; the nearest is 'run'\n"
    code = (
        "import sys\nfrom openmimo.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
        "heavy = {'torch', 'numpy', 'pyarrow', 'daft', 'numba', 'fastapi', 'transformers'} & set(sys.modules)\n"
        "sys.exit(' '.join(sorted(heavy)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
