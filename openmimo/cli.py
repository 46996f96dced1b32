"""The command line. Heavy imports happen inside the commands, so `openmimo --help` answers at once.

Every mistake a user can make ends in one line on stderr and exit code 2, never in a traceback.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from openmimo.config import missing_file, nearest

USAGE_ERROR: Any = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")
"""typer's own, wherever this version of typer keeps it."""


class Commands(TyperGroup):
    """A group whose unknown command is answered with the nearest one."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and not args[0].startswith("-") and args[0] not in self.commands:
            raise ValueError(f"unknown command {args[0]!r}; the nearest is {nearest(args[0], self.commands)!r}")
        return super().resolve_command(ctx, args)


class DataCommands(Commands):
    """`openmimo data RECIPE` beside `openmimo data extract|dedup`: what is no subcommand is a recipe."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and not args[0].startswith("-") and args[0] not in self.commands:
            from openmimo.recipes import BUILT_IN

            if args[0] not in BUILT_IN and ":" not in args[0]:
                known = [*BUILT_IN, "extract", "dedup"]
                raise ValueError(
                    f"unknown recipe or subcommand {args[0]!r}; the nearest is {nearest(args[0], known)!r}"
                )
            args = ["stage", *args]
        return super().resolve_command(ctx, args)


PLAIN: dict[str, Any] = {"rich_markup_mode": None, "add_completion": False, "pretty_exceptions_enable": False}
app = typer.Typer(cls=Commands, no_args_is_help=True, **PLAIN)
data_app = typer.Typer(cls=DataCommands, no_args_is_help=True, **PLAIN)
checkpoint_app = typer.Typer(cls=Commands, no_args_is_help=True, **PLAIN)
app.add_typer(data_app, name="data")
app.add_typer(checkpoint_app, name="checkpoint")

RecipeName = Annotated[str, typer.Argument(help="nano, tiny, mimo7b, or FILE.py:FUNCTION")]
Out = Annotated[Path | None, typer.Option("--out", help="run folder; default runs/RECIPE")]


def _seed(text: str) -> int:
    try:
        seed = int(text)
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is no integer, 0 is one") from error
    if not -(2**63) <= seed < 2**63:
        raise typer.BadParameter(f"{text} must fit 64 bits, 0 does")
    return seed


Seed = Annotated[int, typer.Option("--seed", parser=_seed, metavar="N", help="all but the clock follows from it")]
Set = Annotated[list[str] | None, typer.Option("--set", help="change one value of the recipe: a.b=c")]
Pages = Annotated[Path | None, typer.Option("--pages", help="folder or WARC of web pages instead of this machine's")]
Json = Annotated[bool, typer.Option("--json", help="print JSON on stdout")]
Folder = Annotated[Path, typer.Argument(help="a Hugging Face-format folder")]


@app.callback(invoke_without_command=True)
def openmimo(version: Annotated[bool, typer.Option("--version", help="print the version")] = False) -> None:
    """openmimo: web pages to a reasoning model, the system behind MiMo-7B.

    Example: openmimo run tiny
    """
    if version:
        from openmimo import __version__

        print(__version__)
        raise typer.Exit


@app.command()
def run(
    recipe: RecipeName, out: Out = None, seed: Seed = 0, set: Set = None, pages: Pages = None, json: Json = False
) -> None:
    """All stages of a recipe: data, pretrain, sft, rl, eval. Run again, it goes on where it was.

    Example: openmimo run tiny --out runs/tiny --seed 0 --set rl.steps=20
    """
    from openmimo.recipes import STAGES

    _stages(recipe, out, seed, set, pages, STAGES, json)


@data_app.callback()
def data() -> None:
    """The data stage of a recipe, or one of its steps on files of your own.

    Example: openmimo data tiny --out runs/tiny
    """


@data_app.command("stage", hidden=True)
def data_stage(
    recipe: RecipeName, out: Out = None, seed: Seed = 0, set: Set = None, pages: Pages = None, json: Json = False
) -> None:
    """Read, extract, deduplicate, tag, decontaminate, tokenize.

    Example: openmimo data tiny --out runs/tiny
    """
    _stages(recipe, out, seed, set, pages, ("data",), json)


@data_app.command()
def extract(
    inputs: Annotated[list[Path], typer.Argument(help="HTML, WARC(.gz), PDF files, or folders of them")],
    out: Annotated[Path, typer.Option("--out", "-o", help="OUT.jsonl or OUT.parquet")],
    json: Json = False,
) -> None:
    """Pages to documents: main text with formulas as TeX and code in fences.

    Example: openmimo data extract pages/ -o documents.jsonl
    """
    from openmimo.data.extract import extract_to

    _exist(inputs)
    _tell(extract_to(inputs, out), json)


@data_app.command()
def dedup(
    inputs: Annotated[list[Path], typer.Argument(help="documents: .jsonl or .parquet with id and text")],
    out: Annotated[Path, typer.Option("--out", "-o", help="OUT.jsonl or OUT.parquet")],
    json: Json = False,
) -> None:
    """URL and MinHash deduplication over all inputs at once.

    Example: openmimo data dedup a.jsonl b.parquet -o kept.jsonl
    """
    from openmimo.data.dedup import dedup_to

    _exist(inputs)
    _tell(dedup_to(inputs, out), json)


@app.command()
def pretrain(recipe: RecipeName, out: Out = None, seed: Seed = 0, set: Set = None, json: Json = False) -> None:
    """Three-stage pre-training with MTP, on the data stage's output.

    Example: openmimo pretrain tiny --out runs/tiny
    """
    _stages(recipe, out, seed, set, None, ("pretrain",), json)


@app.command()
def sft(recipe: RecipeName, out: Out = None, seed: Seed = 0, set: Set = None, json: Json = False) -> None:
    """Supervised fine-tuning of the pre-trained model.

    Example: openmimo sft tiny --out runs/tiny
    """
    _stages(recipe, out, seed, set, None, ("sft",), json)


@app.command()
def rl(recipe: RecipeName, out: Out = None, seed: Seed = 0, set: Set = None, json: Json = False) -> None:
    """Reinforcement learning on verifiable maths and code, from the SFT model.

    Example: openmimo rl tiny --out runs/tiny
    """
    _stages(recipe, out, seed, set, None, ("rl",), json)


@app.command("eval")
def evaluate(recipe: RecipeName, out: Out = None, seed: Seed = 0, set: Set = None, json: Json = False) -> None:
    """Held-out accuracy of base, SFT and RL; the summary and the page.

    Example: openmimo eval tiny --out runs/tiny --json
    """
    _stages(recipe, out, seed, set, None, ("eval",), json)


@app.command()
def generate(
    folder: Folder,
    prompt: Annotated[list[str], typer.Argument(help="prompts, each answered as a user's message")],
    max_new_tokens: Annotated[int, typer.Option(help="tokens at most")] = 144,
    temperature: Annotated[float, typer.Option(help="0 is greedy")] = 0.6,
    top_p: Annotated[float, typer.Option(help="nucleus")] = 0.95,
    n: Annotated[int, typer.Option("-n", help="responses a prompt")] = 1,
    seed: Seed = 0,
    draft_layers: Annotated[int, typer.Option(help="MTP layers that draft; 0 is plain decoding")] = 0,
    json: Json = False,
) -> None:
    """Answer prompts with a trained folder.

    Example: openmimo generate runs/tiny/models/rl "Work modulo 10. Start 4. A + 9. B * 3. End?"
    """
    from openmimo.talk import answer

    rows = answer(
        folder,
        prompt,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_p=top_p,
        n=n,
        seed=seed,
        num_draft_layers=draft_layers,
    )
    if json:
        _print(rows)
        return
    for row in rows:
        print(row["text"])


@app.command()
def chat(
    folder: Folder,
    max_new_tokens: Annotated[int, typer.Option(help="tokens at most")] = 144,
    temperature: Annotated[float, typer.Option(help="0 is greedy")] = 0.6,
    seed: Seed = 0,
) -> None:
    """Talk to a trained folder, a line at a time; an empty line or end of input ends it.

    Example: openmimo chat runs/tiny/models/rl
    """
    from openmimo.talk import converse

    converse(folder, sys.stdin, max_new_tokens=max_new_tokens, temperature=temperature, seed=seed)


@app.command()
def serve(
    folder: Folder,
    host: Annotated[str, typer.Option(help="address to listen on")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="port")] = 8000,
    draft_layers: Annotated[int, typer.Option(help="MTP layers that draft; 0 is plain decoding")] = 0,
) -> None:
    """Serve a trained folder over OpenAI-compatible HTTP.

    Example: openmimo serve runs/tiny/models/rl --draft-layers 1
    """
    from openmimo.talk import serve as listen

    listen(folder, host=host, port=port, num_draft_layers=draft_layers)


@app.command()
def judge(
    problems: Annotated[Path, typer.Argument(help="problems JSONL: id, prompt, kind, answer or tests")],
    responses: Annotated[Path, typer.Argument(help="responses JSONL: id (of the problem), response")],
    workers: Annotated[int, typer.Option(help="judge processes")] = 2,
    json: Json = False,
) -> None:
    """Judge responses against problems: status and detail of each, in the order of the responses.

    Example: openmimo judge runs/tiny/data/problems/held_out.jsonl responses.jsonl --json
    """
    from openmimo.judge.rows import judge_rows
    from openmimo.rows import read_problems, read_rows

    rows = judge_rows(read_problems(problems), list(read_rows(responses)), num_workers=workers)
    if json:
        _print(rows)
        return
    for row in rows:
        print(f"{row['id']}  {row['status']}  {row['detail']}")


@checkpoint_app.callback()
def checkpoint() -> None:
    """Look into, and convert, model folders.

    Example: openmimo checkpoint inspect runs/tiny/models/rl
    """


@checkpoint_app.command()
def inspect(folder: Folder, json: Json = False) -> None:
    """Parameters, MTP layers, dtypes, missing and unexpected tensors.

    Example: openmimo checkpoint inspect runs/tiny/models/rl --json
    """
    from openmimo.model.hf import inspect_folder

    _tell(inspect_folder(folder), json)


@checkpoint_app.command()
def export(
    folder: Folder,
    out: Annotated[Path, typer.Option("--out", "-o", help="folder to write")],
    format: Annotated[str, typer.Option(help="mimo, or qwen2: without MTP, for any Qwen2 loader")] = "mimo",
) -> None:
    """Write a folder in another format.

    Example: openmimo checkpoint export runs/tiny/models/rl -o rl-qwen2 --format qwen2
    """
    from openmimo.model.hf import load_folder, save_folder

    if format not in ("mimo", "qwen2"):
        raise ValueError(f"unknown format {format!r}; the nearest is {nearest(format, ('mimo', 'qwen2'))!r}")
    if out.exists():
        raise ValueError(f"{out} exists already; choose another -o")
    save_folder(load_folder(folder), out, format=format, tokenizer_from=folder)  # type: ignore[arg-type]
    print(out)


@app.command()
def plan(recipe: RecipeName, set: Set = None, json: Json = False) -> None:
    """A recipe's figures before it runs: parameters, FLOPs, schedule.

    Example: openmimo plan mimo7b
    """
    from openmimo.config import with_overrides
    from openmimo.plan import plan_of, table
    from openmimo.recipes import check, load

    changed = with_overrides(load(recipe), set or [])
    check(changed)
    found = plan_of(changed)
    if json:
        _print(found)
        return
    table(found)


@app.command()
def report(
    folders: Annotated[list[Path], typer.Argument(metavar="RUN", help="run folders")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="page to write; default RUN/report.html, board.html for several")
    ] = None,
) -> None:
    """Write a run's page again, also while it runs; of several runs a board that compares them.

    Example: openmimo report runs/tiny runs/other -o board.html
    """
    if out is not None and out.is_dir():
        raise ValueError(f"{out} is a folder; name a file to write, such as {out / 'board.html'}")
    if len(folders) == 1:
        from openmimo.report.page import render

        print(render(folders[0], out))
        return
    from openmimo.report.board import board

    print(board(folders, out or Path("board.html")))


@app.command()
def doctor(json: Json = False) -> None:
    """What this machine has and lacks, each with its fix.

    Example: openmimo doctor --json
    """
    from openmimo.doctor import examine, show

    findings = examine()
    if json:
        _print(findings)
    else:
        show(findings)
    if any(row["status"] == "broken" for row in findings):
        raise typer.Exit(1)


def main(arguments: list[str] | None = None) -> None:
    """Entry point: one clear line for what went wrong."""
    try:
        code = app(args=arguments, standalone_mode=False, prog_name="openmimo")
        sys.exit(code if isinstance(code, int) else 0)
    except USAGE_ERROR as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            print(error.format_message())
            sys.exit(0)
        _fail(_one_line(error.format_message()))
    except (typer.Abort, KeyboardInterrupt):
        print("openmimo: interrupted; the same command goes on where it was", file=sys.stderr)
        sys.exit(130)
    except ValueError as error:
        _fail(_one_line(str(error)))
    except OSError as error:
        import errno

        hint = "the disk is full: free some space and run the same command again" if error.errno == errno.ENOSPC else ""
        where = f" ({error.filename})" if error.filename else ""
        _fail(f"{hint or error.strerror or error}{where}")


def _stages(
    name: str,
    out: Path | None,
    seed: int,
    assignments: list[str] | None,
    pages: Path | None,
    stages: tuple[str, ...],
    json: bool,
) -> None:
    from openmimo.config import with_overrides
    from openmimo.recipes import STAGES, check, load
    from openmimo.run import Run

    recipe = load(name)
    assignments = list(assignments or [])
    if pages is not None:
        from openmimo.data.read import list_files, nothing_read

        _exist([pages])
        if not list_files([pages]):
            raise nothing_read([pages], [])
        assignments.append(f"data.pages={pages}")
    recipe = with_overrides(recipe, assignments)
    check(recipe)
    folder = out or Path("runs") / recipe.name
    if stages[0] != STAGES[0] and not (folder / "run.json").is_file():
        raise ValueError(f"stage {stages[0]} needs stage data first: openmimo data {name} --out {folder}")
    with Run(folder, name, seed, recipe) as opened:
        from openmimo.stages import run_stages, show_summary

        run_stages(opened, recipe, stages)
        if "eval" in stages:
            summary = folder / "summary.json"
            if json:
                print(summary.read_text(encoding="utf-8"), end="")
            else:
                show_summary(folder)
        elif json:
            _print({stage: opened.state()[stage] for stage in stages})


def _exist(paths: list[Path]) -> None:
    for path in paths:
        if not path.exists():
            raise missing_file(path)


def _tell(found: dict[str, Any], as_json: bool) -> None:
    if as_json:
        _print(found)
        return
    for key, value in found.items():
        print(f"{key}: {value}")


def _print(value: Any) -> None:
    print(json.dumps(value, indent=2, ensure_ascii=False))


def _one_line(message: str) -> str:
    return " ".join(message.split())


def _fail(message: str) -> None:
    print(f"openmimo: {message}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main()
