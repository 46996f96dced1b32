"""The command line. Heavy imports happen inside the commands, so `openmimo --help` answers at once.

Every mistake a user can make ends in one line on stderr and exit code 2, never in a traceback.
"""

from __future__ import annotations

import json
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from openmimo.config import missing_file, nearest
from openmimo.stop import Stopped

USAGE_ERROR: Any = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")
"""typer's own, wherever this version of typer keeps it."""


class Commands(TyperGroup):
    """A group whose unknown command is answered with the nearest one."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and not args[0].startswith("-") and args[0] not in self.commands:
            raise ValueError(f"unknown command {args[0]!r}; the nearest is {nearest(args[0], self.commands)!r}")
        return super().resolve_command(ctx, args)


class DataCommands(Commands):
    """`openmimo data RECIPE` beside `openmimo data extract|dedup|mix|sft`: what is no subcommand is a recipe."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and not args[0].startswith("-") and args[0] not in self.commands:
            from openmimo.recipes import BUILT_IN

            if args[0] not in BUILT_IN and ":" not in args[0]:
                known = [*BUILT_IN, "extract", "dedup", "mix", "sft"]
                raise ValueError(
                    f"unknown recipe or subcommand {args[0]!r}; the nearest is {nearest(args[0], known)!r}"
                )
            args = ["stage", *args]
        return super().resolve_command(ctx, args)


class JudgeCommands(Commands):
    """`openmimo judge PROBLEM.json SOLUTION...`, a hidden command, beside `openmimo judge selftest|serve`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in (*self.commands, "--help"):
            args = ["files", *args]
        return super().parse_args(ctx, args)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        self.commands["files"].format_options(ctx, formatter)
        self.format_commands(ctx, formatter)


PLAIN: dict[str, Any] = {"rich_markup_mode": None, "add_completion": False, "pretty_exceptions_enable": False}
app = typer.Typer(cls=Commands, no_args_is_help=True, **PLAIN)
data_app = typer.Typer(cls=DataCommands, no_args_is_help=True, **PLAIN)
checkpoint_app = typer.Typer(cls=Commands, no_args_is_help=True, **PLAIN)
judge_app = typer.Typer(cls=JudgeCommands, no_args_is_help=True, **PLAIN)
app.add_typer(data_app, name="data")
app.add_typer(judge_app, name="judge", subcommand_metavar="PROBLEM.json SOLUTION... | COMMAND")
app.add_typer(checkpoint_app, name="checkpoint")

RecipeName = Annotated[str, typer.Argument(help="nano, tiny, mimo7b, one_gpu, or FILE.py:FUNCTION")]
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
Accept = Annotated[
    bool,
    typer.Option("--accept-changes", help="go on with another learning rate, warm-up, clip or MTP weight than before"),
]
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
    recipe: RecipeName,
    out: Out = None,
    seed: Seed = 0,
    set: Set = None,
    pages: Pages = None,
    accept_changes: Accept = False,
    json: Json = False,
) -> None:
    """All stages of a recipe: data, pretrain, sft, draft, rl, eval. Run again, it goes on where it was.

    Example: openmimo run tiny --out runs/tiny --seed 0 --set rl.steps=20
    """
    from openmimo.recipes import STAGES

    _stages(recipe, out, seed, set, pages, STAGES, json, accept_changes)


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
    out: Annotated[str, typer.Option("--out", "-o", help="OUT.jsonl or OUT.parquet; - is JSONL on stdout")],
    pdf_command: Annotated[
        str, typer.Option(help="parse PDFs by a command of yours that prints the text: 'parser {input}'")
    ] = "",
    pdf_seconds: Annotated[float, typer.Option(help="time of that command for one PDF")] = 600.0,
    workers: Annotated[int | None, typer.Option(help="extracting processes; default one a core, 3 at most")] = None,
    json: Json = False,
) -> None:
    """Pages to documents: main text with formulas as TeX and code in fences. Broken pages cost only themselves.

    Example: openmimo data extract pages/ -o documents.jsonl
    """
    from openmimo.data.pages.extract_files import bounds_of, extract_to

    _exist(inputs)
    found = extract_to(inputs, out, bounds=bounds_of(workers, pdf_command, pdf_seconds))
    if out == "-":
        with redirect_stdout(sys.stderr):  # stdout is the documents'
            _tell(found, json)
    else:
        _tell(found, json)
    if not found["documents"]:
        raise typer.Exit(1)


@data_app.command()
def dedup(
    inputs: Annotated[list[Path], typer.Argument(help="documents: .jsonl(.gz, .zst) or .parquet with id and text")],
    out: Annotated[Path, typer.Option("--out", "-o", help="OUT.jsonl or OUT.parquet")],
    memory: Annotated[str, typer.Option(metavar="SIZE", help="of the whole process, at any size of inputs")] = "2GiB",
    max_removed: Annotated[float, typer.Option(metavar="FRACTION", help="stop where a greater share would go")] = 0.9,
    index: Annotated[
        Path | None, typer.Option(metavar="DIR", help="what earlier runs have seen goes too; made if missing")
    ] = None,
    ngram: Annotated[int, typer.Option(help="words in a shingle")] = 5,
    json: Json = False,
) -> None:
    """URL and MinHash deduplication over all inputs at once, best copy kept. Run again, it goes on where it was.

    Example: openmimo data dedup a.jsonl b.parquet -o kept.jsonl
    """
    from dataclasses import asdict

    from openmimo.data.copies.global_dedup import dedup_to, parse_bytes
    from openmimo.data.copies.steps import DedupConfig

    config = DedupConfig(ngram=ngram)
    counts = dedup_to(
        inputs, out, config=config, memory_bytes=parse_bytes(memory), max_removed=max_removed, index=index
    )
    _tell(asdict(counts), json)


@data_app.command()
def mix(recipe: RecipeName, out: Out = None, set: Set = None, json: Json = False) -> None:
    """What pre-training will ask of a run's token shards: slots and epochs of every source, its share of every stage.

    Example: openmimo data mix tiny --out runs/tiny
    """
    from openmimo.config import with_overrides
    from openmimo.recipes import load
    from openmimo.stages import mixture_plan, show_mixture

    changed = with_overrides(load(recipe), list(set or []))
    plan = mixture_plan(out or Path("runs") / changed.name, changed)
    _print(plan) if json else show_mixture(plan)


Against = Annotated[
    list[Path] | None,
    typer.Option("--against", help="benchmark that no query may overlap: .jsonl with `prompt`, `problem`, `question` "
                 "or `text`, or a text a line"),
]  # fmt: skip


@data_app.command("sft")
def data_sft(
    inputs: Annotated[list[Path], typer.Argument(help="messages JSONL: `messages`, or ShareGPT's `conversations`")],
    out: Annotated[Path, typer.Option("--out", "-o", help="OUT.jsonl; OUT.dropped.jsonl comes beside it")],
    against: Against = None,
    ngram: Annotated[int, typer.Option(help="words in a row that decide an overlap")] = 16,
    max_responses: Annotated[int, typer.Option(help="responses a query at most")] = 8,
    json: Json = False,
) -> None:
    """SFT conversations: no benchmark's queries, whole responses in one language, at most eight a query.

    Example: openmimo data sft conversations.jsonl -o sft.jsonl --against math500.jsonl
    """
    from openmimo.data.sft import prepare_to

    found = prepare_to(inputs, out, against=against or (), ngram=ngram, max_responses=max_responses)
    if json:
        _print(found)
        return
    from openmimo.sft import show_prepared

    show_prepared(found)


@app.command()
def pretrain(
    recipe: RecipeName,
    out: Out = None,
    seed: Seed = 0,
    set: Set = None,
    accept_changes: Accept = False,
    json: Json = False,
) -> None:
    """Three-stage pre-training with MTP, on the data stage's output.

    Example: openmimo pretrain tiny --out runs/tiny
    """
    _stages(recipe, out, seed, set, None, ("pretrain",), json, accept_changes)


@app.command()
def sft(
    recipe: RecipeName,
    out: Out = None,
    seed: Seed = 0,
    set: Set = None,
    start: Annotated[
        Path | None,
        typer.Option(
            "--start",
            "--start-from",  # torchrun takes --start for its own --start-method, even after the script's name
            help="a Qwen2 or MiMo folder to begin with, instead of a run's own; under torchrun --start-from",
        ),
    ] = None,
    data: Annotated[
        list[Path] | None, typer.Option("--data", help="with --start: messages JSONL to train on, prepared as data sft")
    ] = None,
    against: Against = None,
    held_out: Annotated[
        bool, typer.Option("--held-out", help="with --start: keep one query in 20 apart, to measure perplexity on")
    ] = False,
    accept_changes: Accept = False,
    json: Json = False,
) -> None:
    """Supervised fine-tuning of a run's base, or of any folder on your own conversations.

    Example: openmimo sft mimo7b --start Qwen2.5-0.5B --data sft.jsonl --out runs/mine --set sft.context=4096
    """
    if start is None and not data:
        if against or held_out:
            raise ValueError(f"{'--against' if against else '--held-out'} goes with --start DIR and --data FILE")
        _stages(recipe, out, seed, set, None, ("sft",), json, accept_changes)
        return
    if start is None or not data:
        given, lacking = ("--data", "--start DIR") if start is None else ("--start", "--data MESSAGES.jsonl")
        raise ValueError(f"{given} goes with {lacking}; without both, sft works in a run that has its own")
    from openmimo.config import with_overrides
    from openmimo.mesh import join
    from openmimo.recipes import check, load

    loaded = with_overrides(load(recipe), list(set or []))
    check(loaded)
    from openmimo.sft import finetune_folder, show_finetuned

    mesh = join()
    found = finetune_folder(
        recipe,
        loaded,
        start=start,
        data=data,
        out=out or Path("runs") / f"{loaded.name}-sft",
        against=against or (),
        held_out=held_out,
        seed=seed,
        mesh=mesh,
        accept_changes=accept_changes,
    )
    mesh.leave()
    if mesh.is_main:
        if json:
            _print(found)
        else:
            show_finetuned(found)


@app.command()
def draft(recipe: RecipeName, out: Out = None, seed: Seed = 0, set: Set = None, json: Json = False) -> None:
    """MTP layers 2 and 3 for speculative decoding, tuned on the SFT model's own rollouts.

    Example: openmimo draft tiny --out runs/tiny
    """
    _stages(recipe, out, seed, set, None, ("draft",), json)


@app.command("train-draft")
def train_draft(
    folder: Folder,
    out: Annotated[Path, typer.Option("--out", "-o", help="folder to write")],
    text: Annotated[
        Path | None, typer.Option(help="tune on texts: .jsonl with `text` or `messages`, or plain text")
    ] = None,
    prompts: Annotated[
        Path | None, typer.Option(help="tune on own rollouts: .jsonl with `prompt` or `messages`, or a prompt a line")
    ] = None,
    layers: Annotated[int, typer.Option(help="MTP layers in the end, layer 1 included")] = 3,
    chained: Annotated[bool, typer.Option("--chained", help="each layer reads the one before, not the trunk")] = False,
    steps: Annotated[int, typer.Option(help="updates")] = 200,
    batch_rows: Annotated[int, typer.Option(help="rows an update")] = 8,
    context: Annotated[int | None, typer.Option(help="tokens a row; default 2048 or the model's")] = None,
    learning_rate: Annotated[float, typer.Option(help="of AdamW's part; Muon's is four times it")] = 3e-3,
    samples: Annotated[int, typer.Option(help="rollouts a prompt")] = 2,
    temperature: Annotated[float, typer.Option(help="of the rollouts; 0 is greedy")] = 0.6,
    max_new_tokens: Annotated[int, typer.Option(help="tokens of a rollout at most")] = 512,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Copy MTP layer 1 into more, tune the copies, measure their acceptance. Run again, it goes on where it was.

    Example: openmimo train-draft runs/tiny/models/sft -o drafted --prompts prompts.txt
    """
    from openmimo.draft import DraftingConfig
    from openmimo.draft import train_draft as tune
    from openmimo.model.folder import load_config
    from openmimo.train.draft import DraftConfig
    from openmimo.train.optim import OptimConfig

    train = DraftConfig(
        num_layers=layers,
        chained=chained,
        steps=steps,
        learning_rate=learning_rate,
        final_share=0.1,
        batch_rows=batch_rows,
        context=min(2048, load_config(folder).max_position_embeddings) if context is None else context,
        optim=OptimConfig(kind="muon"),
    )
    config = DraftingConfig(num_samples=samples, temperature=temperature, max_new_tokens=max_new_tokens, train=train)
    found = tune(folder, out, config, text=text, prompts=prompts, seed=seed)
    if json:
        _print(found)
        return
    print(f"{found['folder']}: {found['mtp_layers']} MTP layers, {found['steps']} steps on {found['trained_on']} texts")
    for layer, rate in found["acceptance"].items():
        print(f"acceptance of layer {layer}: {rate:.3f} (greedy, {found['held_out']} held out)")


@app.command()
def rl(
    recipe: RecipeName,
    out: Out = None,
    seed: Seed = 0,
    set: Set = None,
    model: Annotated[
        Path | None, typer.Option("--model", help="a Qwen2 or MiMo folder to train, instead of a run's own")
    ] = None,
    problems: Annotated[
        list[str] | None,
        typer.Option("--problems", metavar="FILE", help="with --model: JSONL of problems, or gsm8k:FILE, math:FILE"),
    ] = None,
    verifier: Annotated[
        str, typer.Option("--verifier", metavar="MODULE:FUNCTION", help="with --model: your own for maths")
    ] = "",
    json: Json = False,
) -> None:
    """Reinforcement learning on verifiable maths and code: of a run's SFT model, or of any folder on your problems.

    Example: openmimo rl one_gpu --model Qwen2.5-0.5B-Instruct --problems gsm8k:train.jsonl --out runs/mine
    """
    if model is None and not problems and not verifier:
        _stages(recipe, out, seed, set, None, ("rl",), json)
        return
    if model is None or not problems:
        given, lacking = ("--model", "--problems FILE") if model else ("--problems", "--model DIR")
        raise ValueError(
            f"{given if model or problems else '--verifier'} goes with {lacking}; without them, rl works in a run"
        )
    from openmimo.config import with_overrides
    from openmimo.mesh import join
    from openmimo.recipes import check, load

    set = [*(set or []), *([f"judge.verifier={verifier}"] if verifier else [])]
    loaded = with_overrides(load(recipe), set)
    check(loaded)
    from openmimo.rl_folder import show_trained, train_folder

    found = train_folder(
        recipe,
        loaded,
        model=model,
        problems=problems,
        out=out or Path("runs") / f"{loaded.name}-rl",
        seed=seed,
        mesh=join(),
    )
    if json:
        _print(found)
    else:
        show_trained(found)


@app.command("eval")
def evaluate(recipe: RecipeName, out: Out = None, seed: Seed = 0, set: Set = None, json: Json = False) -> None:
    """Held-out accuracy of base, SFT and RL; the summary and the page.

    Example: openmimo eval tiny --out runs/tiny --json
    """
    _stages(recipe, out, seed, set, None, ("eval",), json)


Dtype = Annotated[str, typer.Option("--dtype", help="auto (the folder's own), float32 or bfloat16")]
Speculate = Annotated[
    str,
    typer.Option("--speculate", help="drafts by MTP layers: auto, or a number at any batch size; 0: plain decoding"),
]


@app.command()
def generate(
    folder: Folder,
    prompts: Annotated[
        list[str] | None, typer.Argument(metavar="[PROMPT]...", help="each answered as a user's message")
    ] = None,
    prompt: Annotated[list[str] | None, typer.Option("--prompt", help="the same, as an option")] = None,
    max_new_tokens: Annotated[int, typer.Option(help="tokens at most")] = 144,
    temperature: Annotated[float, typer.Option(help="0 is greedy")] = 0.6,
    top_p: Annotated[float, typer.Option(help="nucleus")] = 0.95,
    n: Annotated[int, typer.Option("-n", help="responses a prompt")] = 1,
    seed: Seed = 0,
    dtype: Dtype = "auto",
    speculate: Speculate = "auto",
    json: Json = False,
) -> None:
    """Answer prompts with a trained folder.

    Example: openmimo generate runs/tiny/models/rl --prompt "Work modulo 10. Start 4. A + 9. B * 3. End?" --json
    """
    from openmimo.talk import answer

    asked = [*(prompts or []), *(prompt or [])]
    if not asked:
        raise ValueError("name a prompt: --prompt TEXT")
    rows = answer(
        folder,
        asked,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_p=top_p,
        n=n,
        seed=seed,
        dtype=dtype,
        speculate=speculate,
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
    dtype: Dtype = "auto",
    speculate: Speculate = "auto",
) -> None:
    """Talk to a trained folder, a line at a time; an empty line or end of input ends it.

    Example: openmimo chat runs/tiny/models/rl
    """
    from openmimo.talk import converse

    converse(
        folder,
        sys.stdin,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        seed=seed,
        dtype=dtype,
        speculate=speculate,
    )


@app.command()
def score(
    folder: Folder,
    ids: Annotated[str, typer.Option("--ids", help='token ids: "5 17 3"')] = "",
    text: Annotated[str, typer.Option("--text", help="text instead of ids, by the folder's tokenizer")] = "",
    json: Json = False,
) -> None:
    """Natural log-probability of every token given those before it, under the raw model and its MTP layers.

    mtp_logprobs[k-1][j] is what MTP layer k gives token j; null for j <= k.

    Example: openmimo score runs/tiny/models/sft --ids "5 17 3" --json
    """
    from openmimo.talk import score as scores

    found = scores(folder, ids=ids, text=text)
    if json:
        _line(found)
        return
    for n, token in enumerate(found["ids"]):
        columns = [found["logprobs"], *found["mtp_logprobs"]]
        print(f"{token:>8}" + "".join(f"{'-':>10}" if c[n] is None else f"{c[n]:10.4f}" for c in columns))


@app.command()
def serve(
    folder: Folder,
    host: Annotated[str, typer.Option(help="address to listen on")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="port; 0 takes a free one and prints it")] = 8000,
    dtype: Dtype = "auto",
    speculate: Speculate = "auto",
    max_model_len: Annotated[
        int | None, typer.Option(help="tokens of prompt and answer; default the model's, at most 4096")
    ] = None,
    max_batch_size: Annotated[int, typer.Option(help="sequences decoded together")] = 32,
    max_waiting: Annotated[int, typer.Option(help="sequences that may wait; beyond them calls get 429")] = 256,
    max_body_bytes: Annotated[int, typer.Option(help="largest request")] = 4 << 20,
    api_key_file: Annotated[
        Path | None, typer.Option(help="file with the key that callers must give; else OPENMIMO_API_KEY; else none")
    ] = None,
) -> None:
    """Serve a trained folder over OpenAI-compatible HTTP, with a page to chat on.

    Example: openmimo serve runs/tiny/models/rl --port 8000
    """
    from openmimo.talk import serve as listen

    listen(
        folder,
        host=host,
        port=port,
        dtype=dtype,
        speculate=speculate,
        max_model_len=max_model_len,
        max_batch_size=max_batch_size,
        max_waiting=max_waiting,
        max_body_bytes=max_body_bytes,
        api_key_file=api_key_file,
    )


Workers = Annotated[int | None, typer.Option("--workers", help="judge processes; default one a core")]
StopOnFail = Annotated[bool, typer.Option("--stop-on-fail", help="end at a solution's first failed test")]
Unsafe = Annotated[bool, typer.Option("--i-accept-unsafe", help="run programs even where they cannot be isolated")]
VerifierName = Annotated[str, typer.Option("--verifier", metavar="MODULE:FUNCTION", help="your own for maths")]


@judge_app.callback()
def judge() -> None:
    """Judge solutions of a problem: code by its tests, maths by its answer.

    Example: openmimo judge problem.json solution.py other.py --json
    """


@judge_app.command("files", hidden=True)
def judge_files(
    problem: Annotated[Path | None, typer.Argument(metavar="PROBLEM.json", help="the problem")] = None,
    solutions: Annotated[list[str] | None, typer.Argument(metavar="SOLUTION...", help="files: source, or text")] = None,
    batch: Annotated[Path | None, typer.Option("--batch", help="JSONL of problems, each with its solutions")] = None,
    workers: Workers = None,
    stop_on_fail: StopOnFail = False,
    i_accept_unsafe: Unsafe = False,
    verifier: VerifierName = "",
    json: Json = False,
) -> None:
    """Judge solutions of a problem: code by its tests, maths by its answer.

    Example: openmimo judge problem.json solution.py other.py --json
    """
    from openmimo.judge import command

    config = _judge_config(workers, stop_on_fail, i_accept_unsafe, verifier)
    if batch is not None:
        if problem is not None:
            raise ValueError(f"--batch {batch} names its problems itself; leave {problem} out")
        total, rows = command.judge_batch(batch, config)
    elif problem is not None:
        total, rows = len(solutions or []), command.judge_files(problem, solutions or [], config)
    else:
        raise ValueError("name a PROBLEM.json and its solutions, or --batch FILE.jsonl")
    _judged(rows, total, json)


@judge_app.command("selftest")
def judge_selftest(json: Json = False) -> None:
    """How far programs are isolated here: full, without user namespaces, or refused, and why.

    Example: openmimo judge selftest --json
    """
    from openmimo.judge.command import self_test

    found = self_test()
    if json:
        _print(found)
    else:
        print(f"{found['isolation']}: {found['reason']}")
    if found["isolation"] == "refused":
        raise typer.Exit(1)


@judge_app.command("serve")
def judge_serve(
    host: Annotated[str, typer.Option(help="address to listen on")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="port")] = 8100,
    token_file: Annotated[
        Path | None, typer.Option(help="file with the token that callers must give; else OPENMIMO_JUDGE_TOKEN")
    ] = None,
    workers: Workers = None,
    queue_size: Annotated[int, typer.Option(help="responses that may wait; beyond it callers are sent away")] = 4096,
    max_body_bytes: Annotated[int, typer.Option(help="largest request")] = 64 << 20,
    stop_on_fail: StopOnFail = False,
    i_accept_unsafe: Unsafe = False,
    verifier: VerifierName = "",
) -> None:
    """Judge over HTTP, for callers that have the token.

    Example: openmimo judge serve --host 0.0.0.0 --port 8100 --token-file token.txt
    """
    from dataclasses import replace

    from openmimo.judge.server import read_token
    from openmimo.judge.server import serve as listen

    config = _judge_config(workers, stop_on_fail, i_accept_unsafe, verifier)
    for name, value, least in (("--queue-size", queue_size, 1), ("--max-body-bytes", max_body_bytes, 1)):
        if value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}")
    if not 0 <= port <= 65535:
        raise ValueError(f"--port must be 0 to 65535, got {port}")
    token = read_token(token_file)
    listen(replace(config, queue_size=queue_size), host=host, port=port, token=token, max_body_bytes=max_body_bytes)


@checkpoint_app.callback()
def checkpoint() -> None:
    """Look into, and convert, model folders.

    Example: openmimo checkpoint inspect runs/tiny/models/rl
    """


@checkpoint_app.command()
def inspect(folder: Folder, json: Json = False) -> None:
    """Parameters, MTP layers, dtypes, missing and unexpected tensors; reads headers only.

    Example: openmimo checkpoint inspect runs/tiny/models/rl --json
    """
    from openmimo.model.folder import inspect_folder

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
    if format not in ("mimo", "qwen2"):
        raise ValueError(f"unknown format {format!r}; the nearest is {nearest(format, ('mimo', 'qwen2'))!r}")
    from openmimo.model.hf import convert_folder

    print(convert_folder(folder, out, format=format))  # type: ignore[arg-type]


@checkpoint_app.command()
def convert(
    folder: Folder,
    out: Annotated[Path, typer.Option("--out", "-o", help="folder to write")],
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16")],
) -> None:
    """Write a folder in another dtype, a piece at a time: models larger than the memory too.

    Example: openmimo checkpoint convert runs/tiny/models/rl -o rl-bfloat16 --dtype bfloat16
    """
    known = ("float32", "bfloat16", "float16")
    if dtype not in known:
        raise ValueError(f"unknown dtype {dtype!r}; the nearest is {nearest(dtype, known)!r}")
    import torch

    from openmimo.model.hf import convert_folder

    print(convert_folder(folder, out, dtype=getattr(torch, dtype)))


@app.command()
def plan(
    recipe: RecipeName,
    set: Set = None,
    gpus: Annotated[int | None, typer.Option(help="GPUs: data-parallel ranks with sharded state")] = None,
    gpu: Annotated[str | None, typer.Option(help="kind: h100 (default), h200, a100, h20, l40s, b200, mi300x")] = None,
    mfu: Annotated[float | None, typer.Option(help="share of the peak, causal FLOPs; default 0.4")] = None,
    price: Annotated[float | None, typer.Option(help="dollars a GPU hour instead of a round figure")] = None,
    context_parallel: Annotated[int, typer.Option(help="GPUs that share a row; planned only, not built")] = 1,
    tensor_parallel: Annotated[int, typer.Option(help="GPUs that share heads; planned only, not built")] = 1,
    at: Annotated[str | None, typer.Option(help="schedule at token counts too: 84e9,10.284e12")] = None,
    model: Annotated[
        Path | None, typer.Option("--model", help="instead: memory of RL on this folder, here or on one --gpu")
    ] = None,
    json: Json = False,
) -> None:
    """A recipe's figures before it runs: parameters, FLOPs, memory, schedule, time, cost. Refuses what cannot run.

    Example: openmimo plan mimo7b --gpus 128 --gpu h100 --mfu 0.4
    """
    from openmimo.cluster import Cluster
    from openmimo.config import with_overrides
    from openmimo.plan import plan_of, table, token_counts
    from openmimo.recipes import check, load

    if model is not None:
        if (gpus or 1, mfu, price, at, context_parallel, tensor_parallel) != (1, None, None, None, 1, 1):
            raise ValueError("--model plans RL on one device: --gpu KIND is all that goes with it")
        from openmimo.rl_memory import plan_folder, show_plan

        own = with_overrides(load(recipe), set or [])
        check(own)
        planned = plan_folder(own, model, gpu)
        if json:
            _print(planned)
        else:
            show_plan(planned)
        return
    cluster = Cluster(
        1 if gpus is None else gpus,
        "h100" if gpu is None else gpu,
        mfu=0.4 if mfu is None else mfu,
        price=price,
        context_parallel=context_parallel,
        tensor_parallel=tensor_parallel,
    )
    if gpus is None and (gpu, mfu, price) != (None, None, None):
        raise ValueError("--gpu, --mfu and --price speak of GPUs: say how many, for example --gpus 128")
    changed = with_overrides(load(recipe), set or [])
    check(changed)
    counts = [] if at is None else token_counts(at, changed.pretrain)
    found = plan_of(changed, None if gpus is None else cluster, at=counts)
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
def runs(
    folder: Annotated[Path, typer.Argument(help="folder of run folders")] = Path("runs"), json: Json = False
) -> None:
    """The runs in a folder: how far each is, and which is at work.

    Example: openmimo runs runs
    """
    from openmimo.runs import line, survey

    found = survey(folder)
    if json:
        _print(found)
    for row in () if json else found:
        print(line(row))


RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="a run folder")]


@app.command()
def status(run: RunFolder, json: Json = False) -> None:
    """How far a run is: stage, step, tokens, loss, time left.

    Example: openmimo status runs/tiny --json
    """
    from openmimo.runs import line
    from openmimo.runs import status as status_of

    found = status_of(run)
    if json:
        _print(found)
    else:
        print(line(found))


@app.command()
def stop(
    run: RunFolder, wait: Annotated[float, typer.Option("--wait", help="seconds until it must have ended")] = 600.0
) -> None:
    """Ask a run to save and end; the command that began it goes on where it was.

    Example: openmimo stop runs/tiny
    """
    from openmimo.runs import stop as stop_run

    print(stop_run(run, wait_s=wait))


@app.command("rollout-sim")
def rollout_sim(
    workload: Annotated[
        str, typer.Option("--workload", help="paper, parameters (.json) or a run's rollouts/trace.jsonl")
    ] = "paper",
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Rollout methods side by side on a simulated cluster: the rows of MiMo's Table 2, ours, first done.

    Example: openmimo rollout-sim --workload paper --seed 0 --json
    """
    from openmimo.rollout_sim import as_json, show, simulate_file

    found = simulate_file(workload, seed)
    if json:
        _print(as_json(found))
    else:
        show(found)


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
    except Stopped as error:
        from openmimo.log import say

        say(f"openmimo: {error}; the same command goes on where it was")  # once, not on every rank
        sys.exit(143)  # 128 + SIGTERM
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
    accept_changes: bool = False,
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
        own = "; a model of your own is given with --model DIR and --problems FILE" if stages == ("rl",) else ""
        raise ValueError(f"stage {stages[0]} needs stage data first: openmimo data {name} --out {folder}{own}")
    from openmimo.mesh import join

    mesh = join()
    with Run(folder, name, seed, recipe, leads=mesh.is_main, accept_changes=accept_changes) as opened:
        mesh.wait()
        from openmimo.stages import run_stages, show_summary

        run_stages(opened, recipe, stages, mesh=mesh)
        mesh.leave()
        if not mesh.is_main:
            return
        if "eval" in stages:
            summary = folder / "summary.json"
            if json:
                print(summary.read_text(encoding="utf-8"), end="")
            else:
                show_summary(folder)
        elif json:
            _print({stage: opened.state()[stage] for stage in stages})


def _judge_config(workers: int | None, stop_on_fail: bool, accept_unsafe: bool, verifier: str) -> Any:
    import os

    from openmimo.judge.config import JudgeConfig

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    count = cores if workers is None else workers
    if count < 1:
        raise ValueError(f"--workers must be at least 1, got {count}")
    return JudgeConfig(num_workers=count, stop_on_fail=stop_on_fail, accept_unsafe=accept_unsafe, verifier=verifier)


def _judged(rows: Any, total: int, as_json: bool) -> None:
    """Print judged rows as they come; a reader that goes away ends the judging."""
    import os
    from collections import Counter
    from contextlib import closing

    from openmimo.judge.command import HEAD, line, summary

    statuses: Counter[str] = Counter()
    with closing(rows):  # an interrupt may come between two rows: the judge's threads must end before the interpreter
        try:
            if as_json:
                for row in rows:
                    print(json.dumps(row), flush=True)
                return
            from openmimo.log import progress

            for number, row in enumerate(progress(rows, "judge", total, unit="solutions") if total > 1 else rows):
                if number == 0:
                    print(HEAD)
                print(line(row), flush=True)
                statuses[row["status"]] += 1
            print(summary(statuses))
        except BrokenPipeError:
            rows.close()
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left unprinted has nowhere to go
            sys.exit(1)


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


def _line(value: Any) -> None:
    print(json.dumps(value, ensure_ascii=False))


def _one_line(message: str) -> str:
    return " ".join(message.split())


def _fail(message: str) -> None:
    print(f"openmimo: {message}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main()
