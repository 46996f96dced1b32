"""The stages of a run, in order: data -> pretrain -> sft -> draft -> rl -> eval. The one place that knows every room.

A stage takes (run, recipe, mesh), works in the run folder on what the stages before left there, goes on from its newest
checkpoint, and returns a small dict for state.json. Whatever depends on the clock stands under the key `timing`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from openmimo.checkpoint import write_text
from openmimo.curate.corpus import make_corpus
from openmimo.curate.problems import curate
from openmimo.curate.tag import TagStage, keep_share
from openmimo.data.chat import CHAT_TEMPLATE, Chat
from openmimo.data.decontaminate import build_screen
from openmimo.data.mix import Mixture
from openmimo.data.pipeline import read_documents, run_pipeline, show_funnel
from openmimo.data.pipeline import stages as pipeline_stages
from openmimo.data.sft import mixed_language, prepare
from openmimo.data.sft import samples as sft_samples
from openmimo.data.shards import TokenShard, open_shards, write_shard
from openmimo.data.snapshot import snapshot_pages
from openmimo.data.tokenizer import END_OF_TEXT, save_tokenizer, train_tokenizer
from openmimo.draft import acceptance_of, own_rollouts, spread
from openmimo.engine.engine import Engine, EngineConfig
from openmimo.engine.pool import EnginePool
from openmimo.engine.process import engines_of
from openmimo.eval.run import Evaluation, evaluate, gain
from openmimo.judge.pool import JudgePool
from openmimo.log import progress, say
from openmimo.mesh import Mesh
from openmimo.model.config import MiMoConfig
from openmimo.model.hf import load_folder, save_folder
from openmimo.model.mimo import MiMo
from openmimo.recipes import STAGES, Recipe
from openmimo.report.page import render
from openmimo.rl.reward import levels
from openmimo.rl.train import train
from openmimo.rollout.driver import Timing
from openmimo.rows import document_from, read_problems, read_rows, write_rows
from openmimo.run import Run
from openmimo.train.draft import batches_of, tune, with_copies
from openmimo.train.pretrain import demand, seeded_model
from openmimo.train.pretrain import pretrain as train_base
from openmimo.train.sft import finetune, packing
from openmimo.types import Document, Group, Problem, Request, Sampling, Verdict

MODELS = {name: f"models/{name}" for name in ("base", "sft", "draft", "rl")}
CHECKPOINTS = {"base": MODELS["base"], "sft": MODELS["draft"], "rl": MODELS["rl"]}
"""What is evaluated and served: the SFT model with all its draft layers, its trunk as in models/sft (decision 0035)."""


PARALLEL = ("pretrain", "sft")
"""Stages that several ranks share; the others take one process."""


def run_stages(run: Run, recipe: Recipe, stages: Sequence[str] = STAGES, *, mesh: Mesh) -> None:
    """Run the stages that are not done yet.

    Raises:
        ValueError: when a stage's input is missing: the stage before has not run; or for several ranks in a stage that
            takes one.
        Stopped: after SIGTERM, with all saved.
    """
    torch.set_num_threads(max(1, recipe.threads // mesh.local_size))
    for name in stages:
        if run.done(name):
            say(f"{name}: done already")
            continue
        missing = [s for s in STAGES[: STAGES.index(name)] if not run.done(s)]
        if missing:
            raise ValueError(
                f"stage {name} needs stage {missing[0]} first: openmimo {missing[0]} ... --out {run.folder}"
            )
        if mesh.world_size > 1 and name not in PARALLEL:
            raise ValueError(
                f"stage {name} takes one process and torchrun started {mesh.world_size}: run openmimo {name} without "
                f"torchrun, which is for {' and '.join(PARALLEL)}"
            )
        say(f"{name}: begins")
        torch.manual_seed(run.seed)  # no stage draws from it; what does one day should repeat
        started = time.perf_counter()
        result = FUNCTIONS[name](run, recipe, mesh)
        seconds = time.perf_counter() - started
        # After a resume this is the last attempt's time alone.
        run.finish(name, {**result, "timing": {**result.get("timing", {}), "seconds": seconds}})
        mesh.wait()
        say(f"{name}: done in {seconds:.0f} s")
    if mesh.is_main:
        if run.done("eval"):
            write_summary(run)
        render(run.folder)


def data(run: Run, recipe: Recipe, mesh: Mesh) -> dict[str, Any]:
    """Pages and problems -> documents -> tokenizer -> token shards (MiMo 2.1)."""
    folder = run.folder / "data"
    pages = (
        Path(recipe.data.pages)
        if recipe.data.pages
        else snapshot_pages(folder / "snapshot", max_pages=recipe.data.max_pages)
    )
    corpus = make_corpus(recipe.corpus, run.seed)
    for name, problems in (("held_out", corpus.held_out), ("validation", corpus.validation), ("rl", corpus.rl)):
        write_rows(folder / "problems" / f"{name}.jsonl", problems)
    for name, conversations in (("synthetic", corpus.synthetic), ("sft", corpus.sft)):
        write_rows(folder / "conversations" / f"{name}.jsonl", ({"messages": list(m)} for m in conversations))
    write_rows(folder / "problems" / "documents.jsonl", corpus.documents)

    held_out = [p.prompt for p in (*corpus.held_out, *corpus.validation)]
    funnel = run_pipeline(
        pipeline_stages(recipe.data, held_out=held_out, tag=TagStage(run.seed)),
        [pages, folder / "problems" / "documents.jsonl"],
        folder / "documents",
        seed=run.seed,
        documents_per_shard=recipe.data.documents_per_shard,
    )
    show_funnel(funnel)
    whole = [document_from(row) for table in read_documents(funnel) for row in table.to_pylist()]
    corpus_sources = {d.source for d in corpus.documents}
    documents = [d for d in whole if d.source in corpus_sources or _chance(d.id) < keep_share(d.tags)]
    if not documents:
        raise ValueError(f"no document is left after the pipeline; look at {folder / 'documents' / 'funnel.json'}")

    texts = [d.text for d in documents] + [m["content"] for messages in corpus.synthetic for m in messages]
    chat = Chat(train_tokenizer(_even_sample(texts, recipe.corpus.tokenizer_characters), recipe.model.vocab_size))
    save_tokenizer(
        chat.tokenizer,
        folder / "tokenizer",
        chat_template=CHAT_TEMPLATE,
        max_length=recipe.model.max_position_embeddings,
    )
    end = chat.encode(END_OF_TEXT)
    by_source: dict[str, list[Document]] = {}
    for document in documents:
        by_source.setdefault(document.source if document.source in corpus_sources else "web", []).append(document)
    ids_by_source = {
        source: [(*chat.encode(d.text), *end) for d in progress(rows, f"tokens: {source}")]
        for source, rows in sorted(by_source.items())
    }
    ids_by_source["synthetic"] = [
        tuple(chat.render_training(m)[0]) for m in progress(corpus.synthetic, "tokens: synthetic")
    ]
    tokens: dict[str, int] = {}
    held_out_tokens: dict[str, int] = {}
    for source, rows in ids_by_source.items():
        # Whole documents, by what they say: a copy that came through stands on the same side.
        chances = [_chance(f"held out {ids}") for ids in rows]
        least = min(chances, default=0.0) if recipe.data.held_out_share else 0.0  # of every source at least one
        aside = [chance < recipe.data.held_out_share or chance == least for chance in chances]
        parts = {"shards": [i for i, a in zip(rows, aside, strict=True) if not a]}
        if any(aside) and parts["shards"]:
            parts["held_out"] = [i for i, a in zip(rows, aside, strict=True) if a]
        for part, chosen in parts.items():
            shard = write_shard(chosen, folder / part / source, source, vocab_size=recipe.model.vocab_size)
            (tokens if part == "shards" else held_out_tokens)[source] = shard.num_tokens
    return {
        "documents": len(documents),
        "sampled_down": len(whole) - len(documents),
        "tokens": tokens,
        "held_out_tokens": held_out_tokens,
        "vocabulary": chat.tokenizer.get_vocab_size(),
        "funnel": {s.name: {"in": s.rows_in, "kept": s.kept, "dropped": s.dropped} for s in funnel.stages},
    }


def pretrain(run: Run, recipe: Recipe, mesh: Mesh) -> dict[str, Any]:
    """Three stages with MTP (MiMo 2.2, 2.3)."""
    shards = open_shards(run.folder / "data" / "shards")
    mixture = Mixture(shards, seed=run.seed, max_epochs=recipe.pretrain.max_epochs)
    tokenizer = run.folder / "data" / "tokenizer"
    model = seeded_model(MiMo(_model_config(recipe, Chat.load(tokenizer))), run.seed).to(mesh.device)
    context = recipe.pretrain.stages[0].context
    held_out = {
        source: Mixture({source: shard}, seed=run.seed).rows(_rows_in(shard, context), context, {source: 1.0})
        for source, shard in open_shards(run.folder / "data" / "held_out").items()
    }
    state = train_base(
        model,
        mixture,
        recipe.pretrain,
        out=run.folder,
        checkpoints=run.folder / "checkpoints" / "pretrain",
        mesh=mesh,
        held_out=held_out,
    )
    state.save(run.folder / MODELS["base"], tokenizer_from=tokenizer)
    return {"steps": state.step, "tokens": state.tokens, "skipped": state.skipped, "epochs": mixture.epochs()}


def mixture_plan(folder: Path, recipe: Recipe) -> dict[str, Any]:
    """What pre-training will ask of a run's sources, plain JSON: `tokens`, `slots` and `epochs` of each, and shares.

    Raises:
        ValueError: without token shards, or for a source that would be read more often than it may.
    """
    shards = open_shards(folder / "data" / "shards")
    if not shards:
        raise ValueError(f"no token shards in {folder}; make them first: openmimo data {recipe.name} --out {folder}")
    wanted = demand(recipe.pretrain)
    again = Mixture(shards, seed=0, max_epochs=recipe.pretrain.max_epochs).check_demand(wanted)
    return {
        "sources": {
            name: {"tokens": shard.num_tokens, "slots": slots, "epochs": slots / shard.num_tokens}
            for name, shard in sorted(shards.items())
            for slots in [round(wanted.get(name, 0.0))]
        },
        "stages": [
            {
                "until_tokens": stage.until_tokens,
                **{k: v / sum(stage.mixture.values()) for k, v in stage.mixture.items()},
            }
            for stage in recipe.pretrain.stages
        ],
        "warnings": again,
    }


def show_mixture(plan: dict[str, Any]) -> None:
    """`mixture_plan` for a person."""
    stages = plan["stages"]
    print(
        f"{'source':<14}{'tokens':>14}{'slots':>14}{'epochs':>8}"
        + "".join(f"  stage {n}" for n in range(1, len(stages) + 1))
    )
    for name, row in plan["sources"].items():
        shares = "".join(f"{stage.get(name, 0.0):>9.1%}" for stage in stages)
        print(f"{name:<14}{row['tokens']:>14,}{row['slots']:>14,}{row['epochs']:>8.2f}{shares}")
    for line in plan["warnings"]:
        say(line)


def sft(run: Run, recipe: Recipe, mesh: Mesh) -> dict[str, Any]:
    """The three preparation steps, then fine-tuning (MiMo 3.1)."""
    base = run.folder / MODELS["base"]
    chat = Chat.load(base)
    held_out = [p for name in ("held_out", "validation") for p in read_problems(problems_file(run, name))]
    screen = build_screen(p.prompt for p in held_out)
    conversations = [row["messages"] for row in read_rows(run.folder / "data" / "conversations" / "sft.jsonl")]
    prepared = prepare(conversations, screen)
    samples = list(sft_samples(prepared.conversations, chat, recipe.sft.context))
    too_long = len(prepared.conversations) - len(samples)
    if too_long:
        say(f"sft: {too_long} of {len(samples) + too_long} conversations exceed {recipe.sft.context} tokens: left out")
    model = load_folder(base).to(mesh.device)
    state = finetune(
        model,
        samples,
        recipe.sft,
        seed=run.seed,
        out=run.folder,
        checkpoints=run.folder / "checkpoints" / "sft",
        mesh=mesh,
    )
    state.save(run.folder / MODELS["sft"], tokenizer_from=base)
    return {
        "steps": state.step,
        "tokens": state.tokens,
        "skipped": state.skipped,
        "too_long": too_long,
        **packing(samples, recipe.sft.context),
        "prepared": prepared.counts,
    }


def draft(run: Run, recipe: Recipe, mesh: Mesh) -> dict[str, Any]:
    """MTP layers 2 and up as copies of layer 1, tuned on the SFT model's rollouts of RL problems (MiMo 2.2)."""
    start = run.folder / MODELS["sft"]
    chat, config = Chat.load(start), recipe.draft
    model = load_folder(start).to(mesh.device)
    if not model.config.num_nextn_predict_layers:
        say("draft: the model has no MTP layer to copy; it goes on as it is")
        save_folder(model, run.folder / MODELS["draft"], tokenizer_from=start)
        return {"steps": 0, "tokens": 0, "rollouts": 0}
    problems = spread(read_problems(problems_file(run, "rl")), config.num_prompts)
    samples = own_rollouts(
        run.folder / "data" / "rollouts" / "draft.jsonl",
        lambda: Engine(model, _engine_config(recipe, chat)),
        [chat.render_prompt(problem.prompt) for problem in problems],
        config,
        stop_token_ids=chat.stop_token_ids,
        seed=run.seed,
    )
    wider = with_copies(model, config.train.num_layers, chained=config.train.chained)
    state = tune(
        wider,
        batches_of(samples, config.train, seed=run.seed),
        config.train,
        out=run.folder,
        checkpoints=run.folder / "checkpoints" / "draft",
    )
    save_folder(wider, run.folder / MODELS["draft"], tokenizer_from=start)
    return {"steps": state.step, "tokens": state.tokens, "skipped": state.skipped, "rollouts": len(samples)}


def rl(run: Run, recipe: Recipe, mesh: Mesh) -> dict[str, Any]:
    """Curate problems with the SFT model's rollouts (MiMo 3.2), then GRPO (MiMo 3.3)."""
    sft, start = run.folder / MODELS["draft"], run.folder / MODELS["draft" if recipe.rl.start == "sft" else "base"]
    chat = Chat.load(start)
    model = load_folder(start).to(mesh.device)
    own = functools.partial(
        engines_of, config=_engine_config(recipe, chat), count=recipe.rl.num_engines, device=mesh.device
    )
    with own(start) as engine, JudgePool(recipe.judge.num_workers, recipe.judge) as judge:
        with own(sft) if sft != start else contextlib.nullcontext(engine) as curator:
            problems, counts, seen = _curated(run, recipe, chat, curator, judge)
        validation = read_problems(problems_file(run, "validation"))

        def validate(version: int) -> tuple[dict[str, float], dict[str, float]]:
            timing = Timing()
            found = evaluate(
                engine,
                judge,
                validation,
                recipe.eval,
                chat=chat,
                seed=run.seed,
                num_samples=2,
                title="validate",
                timing=timing,
            )
            by_kind = found.summary()["accuracy"]
            return (
                {"validation": found.mean(), **{f"validation_{k}": e["mean"] for k, e in by_kind.items()}},
                {"validation_idle": timing.idle_ratio},
            )

        state = train(
            model,
            problems,
            recipe.rl,
            chat=chat,
            engine=engine,
            judge=judge,
            seed=run.seed,
            out=run.folder,
            checkpoints=run.folder / "checkpoints" / "rl",
            slots=min(
                recipe.engine.max_batch_size * len(engine.engines),
                recipe.rl.max_active_groups * recipe.rl.num_rollouts,
            ),
            seen=seen,
            mixes=lambda prompt, response: bool(mixed_language(prompt, [response])),
            validate=validate if validation else None,
            save_model=lambda folder: save_folder(model, folder, tokenizer_from=start),
        )
        lost = engine.num_lost
    save_folder(model, run.folder / MODELS["rl"], tokenizer_from=start)
    return {
        "updates": state.step,
        "tokens": state.tokens,
        "skipped": state.skipped,
        "problems": counts,
        "timing": {"engines_lost": lost, "judgements_redone": judge.num_redone},
    }


def evaluation(run: Run, recipe: Recipe, mesh: Mesh) -> dict[str, Any]:
    """Base, SFT and RL on the held-out problems (MiMo 3.5), and some of their responses to read."""
    held_out = read_problems(problems_file(run, "held_out"))
    found: dict[str, list[Evaluation]] = {}
    acceptance: dict[str, float] = {}
    with JudgePool(recipe.judge.num_workers, recipe.judge) as judge:
        for name, folder in CHECKPOINTS.items():
            chat = Chat.load(run.folder / folder)
            model = load_folder(run.folder / folder).to(mesh.device)
            engine = Engine(model, _engine_config(recipe, chat))
            main = recipe.eval.temperature
            sweep = () if name == "base" else recipe.eval.sweep_temperatures
            found[name] = [
                evaluate(
                    engine,
                    judge,
                    held_out,
                    recipe.eval,
                    chat=chat,
                    seed=run.seed,
                    temperature=temperature,
                    num_samples=recipe.eval.num_samples if temperature == main else recipe.eval.sweep_samples,
                    title=f"{name} T={temperature:g}",
                )
                for temperature in (main, *sweep)
            ]
            if name == "sft":
                greedy = Sampling(recipe.eval.max_new_tokens, temperature=0.0, stop_token_ids=chat.stop_token_ids)
                requests = [Request(chat.render_prompt(p.prompt), greedy, p.id) for p in held_out]
                acceptance = acceptance_of(model, requests, engine.config)
            shown = spread(found[name][0].groups, recipe.eval.num_shown)
            write_rows(run.folder / "samples" / f"{name}.jsonl", (_shown(group, chat) for group in shown))
    best = {name: max(rows, key=lambda e: e.mean()) for name, rows in found.items()}
    write_text(
        run.folder / "evaluation.json",
        json.dumps(
            {
                "accuracy": {name: rows[0].summary()["accuracy"] for name, rows in found.items()},
                "acceptance": acceptance,
                "checkpoints": CHECKPOINTS,
                "gain": {
                    "rl_over_sft": gain(found["sft"][0], found["rl"][0]),
                    "rl_over_sft_best": gain(best["sft"], found["rl"][0]),
                    "sft_best_temperature": best["sft"].temperature,
                },
                "evaluations": {name: [e.summary() for e in rows] for name, rows in found.items()},
            }
        ),
    )
    return {"problems": len(held_out)}


def show_summary(folder: Path) -> None:
    """The closing table: accuracy with intervals, acceptance, time by stage."""
    from rich.console import Console
    from rich.table import Table

    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    table = Table("", "maths", "code", title="held-out accuracy, temperature 0.6 (95 % interval over problems)")
    for name, kinds in summary["accuracy"].items():
        cells = [
            f"{100 * e['mean']:.1f} % ({100 * e['low']:.1f} to {100 * e['high']:.1f})"
            for e in (kinds["math"], kinds["code"])
        ]
        table.add_row(name, *cells)
    gain = summary["gain"]["rl_over_sft"]
    best = summary["gain"]["rl_over_sft_best"]
    console = Console()
    console.print(table)
    console.print(
        f"RL over SFT: {100 * gain['mean']:+.1f} points ({100 * gain['low']:+.1f} to {100 * gain['high']:+.1f}); "
        f"over SFT at its best temperature, {summary['gain']['sft_best_temperature']:g}: {100 * best['mean']:+.1f}"
    )
    console.print(
        "MTP acceptance by draft layer: " + ", ".join(f"{k}: {v:.3f}" for k, v in summary["acceptance"].items())
    )
    seconds = {name: row.get("seconds", 0.0) for name, row in summary["timing"].items()}
    console.print("seconds by stage: " + ", ".join(f"{k} {v:.0f}" for k, v in seconds.items()))
    console.print(f"page: {folder / 'report.html'}")


def write_summary(run: Run) -> None:
    """summary.json: the evaluation, what each stage left behind, and, under `timing`, how long it took."""
    state = run.state()
    results = json.loads((run.folder / "evaluation.json").read_text(encoding="utf-8"))
    write_text(
        run.folder / "summary.json",
        json.dumps(
            {
                "recipe": run.recipe,
                "seed": run.seed,
                **results,
                "stages": {name: {k: v for k, v in row.items() if k != "timing"} for name, row in state.items()},
                "timing": {name: row.get("timing", {}) for name, row in state.items()},
            },
            indent=2,
        )
        + "\n",
    )


def problems_file(run: Run, name: str) -> Path:
    """Where the data stage wrote problems: held_out, validation or rl."""
    return run.folder / "data" / "problems" / f"{name}.jsonl"


def _curated(
    run: Run, recipe: Recipe, chat: Chat, engine: EnginePool, judge: JudgePool
) -> tuple[list[Problem], Any, list[tuple[str, float, float]]]:
    """The RL problems worth training on, how many were dropped, and (id, pass rate, longest response) of those kept.

    Computed once and kept in the run folder. With `rl.curation_samples` 0 all are kept.
    """
    if not recipe.rl.curation_samples:
        return read_problems(problems_file(run, "rl")), {}, []
    kept, counts = problems_file(run, "rl_curated"), run.folder / "data" / "problems" / "rl_curated.json"
    seen = problems_file(run, "rl_seen")
    if not (kept.is_file() and counts.is_file() and seen.is_file()):
        problems = read_problems(problems_file(run, "rl"))
        rolled_out = evaluate(
            engine,
            judge,
            problems,
            dataclasses.replace(recipe.eval, max_new_tokens=recipe.rl.max_new_tokens, top_p=recipe.rl.top_p),
            chat=chat,
            seed=run.seed + 1,
            temperature=recipe.rl.temperature,
            num_samples=recipe.rl.curation_samples,
            title="curate",
        )
        curated = curate(
            problems,
            rolled_out.groups,
            levels=lambda rates: levels(rates, recipe.rl.levels),
            golden=lambda p: _golden_verdict(judge, p),
        )
        ids = {problem.id for problem in curated.problems}
        write_rows(
            seen,
            (
                {
                    "id": group.problem.id,
                    "pass_rate": fmean(float(v.status == "accepted") for v in group.verdicts),
                    "longest_tokens": max(len(r.token_ids) for r in group.rollouts),
                }
                for group in rolled_out.groups
                if group.problem.id in ids
            ),
        )
        write_rows(kept, curated.problems)
        write_text(counts, json.dumps(curated.counts, indent=2) + "\n")
    rows = read_rows(seen, ("id", "pass_rate", "longest_tokens"))
    return (
        read_problems(kept),
        json.loads(counts.read_text(encoding="utf-8")),
        [(row["id"], row["pass_rate"], row["longest_tokens"]) for row in rows],
    )


def _golden_verdict(judge: JudgePool, problem: Problem) -> Verdict:
    """What the judge says of the golden solution.

    Raises:
        ValueError: if programs cannot be judged here, with the reason.
    """
    try:
        return judge.judge(problem, f"```python\n{problem.solution}\n```")
    except RuntimeError as error:
        raise ValueError(f"problem {problem.id} cannot be judged here: {error}") from error


def _rows_in(shard: TokenShard, context: int, most: int = 16) -> int:
    """Rows of held-out text to look at: all there is, up to `most`."""
    return max(1, min(most, shard.num_tokens // context))


def _chance(text: str) -> float:
    """A number in [0, 1) that depends on the text alone."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "little") / 2**48


def _even_sample(texts: Sequence[str], characters: int) -> list[str]:
    """The head of every text, as long as fits the budget when all get the same."""
    chosen = spread(texts, max(1, characters // 64))
    return [text[: 4 * characters // len(chosen)] for text in chosen]


def _model_config(recipe: Recipe, chat: Chat) -> MiMoConfig:
    """The recipe's shape with the tokenizer's end token."""
    return dataclasses.replace(
        recipe.model, bos_token_id=chat.tokenizer.token_to_id(END_OF_TEXT), eos_token_id=chat.stop_token_ids[0]
    )


def _engine_config(recipe: Recipe, chat: Chat) -> EngineConfig:
    """Ids that the tokenizer does not define are never sampled."""
    return dataclasses.replace(recipe.engine, num_token_ids=chat.tokenizer.get_vocab_size())


def _shown(group: Group, chat: Chat) -> dict[str, Any]:
    """One problem with its responses, to read."""
    return {
        "problem": dataclasses.asdict(group.problem),
        "responses": [
            {"text": chat.decode(r.token_ids), "status": v.status, "finish_reason": r.finish_reason}
            for r, v in zip(group.rollouts, group.verdicts, strict=True)
        ],
    }


FUNCTIONS: dict[str, Callable[[Run, Recipe, Mesh], dict[str, Any]]] = {
    "data": data,
    "pretrain": pretrain,
    "sft": sft,
    "draft": draft,
    "rl": rl,
    "eval": evaluation,
}
