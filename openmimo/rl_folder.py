"""RL from end to end on a folder and problems of one's own (MiMo 3.3): any Qwen2 or MiMo folder comes out trained.

`openmimo rl one_gpu --model DIR --problems FILE` goes through `train_folder`; the stage `rl` of a run finds its model
and its problems in the run folder and has its place in `stages.py`.

RUN/data/problems/        train.jsonl and validation.jsonl; counts.json comes last; with curation curated.jsonl, .json
RUN/data/before.json      accuracy on the validation problems before the first step
RUN/data/tokenizer/       tokenizer, template and generation settings that the result gets
RUN/models/rl/            the result, in the folder's own format and dtypes
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from openmimo.checkpoint import write_text
from openmimo.curate.problems import curate
from openmimo.data.chat import Chat
from openmimo.data.sft import mixed_language
from openmimo.engine.pool import EnginePool
from openmimo.engine.process import engines_of
from openmimo.eval.run import Evaluation, evaluate
from openmimo.judge.pool import JudgePool
from openmimo.log import read_metrics, say
from openmimo.mesh import Mesh
from openmimo.model.hf import load_folder, save_folder
from openmimo.own_problems import path_of, read_own_problems
from openmimo.recipes import Recipe
from openmimo.report.page import render
from openmimo.rl.reward import levels
from openmimo.rl.train import train
from openmimo.rl_memory import check_memory, fitted, free_bytes, memory_needed
from openmimo.rollout.driver import Timing
from openmimo.rows import read_problems, write_rows
from openmimo.run import Run
from openmimo.sft import digest, save_like, write_companions
from openmimo.types import Problem

HELD_OUT_EVERY = 20
"""One prompt in so many is kept out of the training, to validate on."""
MOST_HELD_OUT = 200


def train_folder(
    name: str,
    recipe: Recipe,
    *,
    model: Path,
    problems: Sequence[str],
    out: Path,
    seed: int = 0,
    mesh: Mesh | None = None,
) -> dict[str, Any]:
    """RL on a folder, into OUT/models/rl; killed at any moment, the same call goes on.

    Args:
        recipe: its `rl`, `engine`, `judge`, `eval` and `threads` are used, nothing else.
        model: a Qwen2 or MiMo folder with its tokenizer and its chat template; MTP layers stay as they are.
        problems: files, or PRESET:FILE; see `read_own_problems`.

    Returns:
        What was done: `folder`, steps, updates, problems, `accuracy` before and after on those held out, `memory`.

    Raises:
        ValueError: for a folder that cannot be trained, problems that are none, or too little memory.
        RunRefused: if OUT holds another run.
    """
    mesh = mesh or Mesh()
    if mesh.world_size > 1:
        raise ValueError(f"RL on a folder takes one process and torchrun started {mesh.world_size}; leave torchrun out")
    recipe, chat, shape = fitted(recipe, model, mesh.device)
    memory, room = memory_needed(shape, recipe, mesh.device), free_bytes(mesh.device)
    check_memory(memory, room, shape, recipe, mesh.device)
    paths = [path_of(given) for given in problems]
    settings = {
        **{section: getattr(recipe, section) for section in ("rl", "engine", "judge", "eval", "threads")},
        "model": str(model.resolve()),
        "problems": {given: digest(path) for given, path in zip(problems, paths, strict=True)},
    }
    fresh = not out.exists()
    torch.set_num_threads(recipe.threads)
    with Run(out, name, seed, settings) as run:
        if run.done("rl"):
            say("rl: done already")
            return run.state()["rl"]
        folder = out / "data"
        try:
            counts = _prepare(folder, problems, chat, recipe)
            write_companions(model, folder / "tokenizer", chat, shape)
        except ValueError:
            if fresh:
                shutil.rmtree(out)
            raise
        trained_on, held_out = (read_problems(folder / "problems" / f"{part}.jsonl") for part in counts["parts"])
        policy = load_folder(model, dtype=torch.float32).to(mesh.device)
        with (
            engines_of(
                model,
                config=recipe.engine,
                count=recipe.rl.num_engines,
                device=mesh.device,
                dtype=getattr(torch, recipe.rl.compute.dtype),
            ) as engine,
            JudgePool(recipe.judge.num_workers, recipe.judge) as judge,
        ):

            def accuracy(title: str = "validate") -> tuple[dict[str, float], Evaluation, Timing]:
                timing = Timing()
                found = evaluate(engine, judge, held_out, recipe.eval, chat=chat, seed=seed, title=title, timing=timing)
                return {kind: row["mean"] for kind, row in found.summary()["accuracy"].items()}, found, timing

            def validate(version: int) -> tuple[dict[str, float], dict[str, float]]:
                by_kind, found, timing = accuracy()
                means = {f"validation_{kind}": mean for kind, mean in by_kind.items()}
                return {"validation": found.mean(), **means}, {"validation_idle": timing.idle_ratio}

            if recipe.rl.curation_samples:
                trained_on = _curated(folder / "problems", trained_on, recipe, chat, engine, judge, seed)
            if not (folder / "before.json").is_file():
                write_text(folder / "before.json", json.dumps(accuracy("before")[0]) + "\n")
            state = train(
                policy,
                trained_on,
                recipe.rl,
                chat=chat,
                engine=engine,
                judge=judge,
                seed=seed,
                out=out,
                checkpoints=out / "checkpoints" / "rl",
                slots=recipe.engine.max_batch_size * len(engine.engines),
                mixes=lambda prompt, response: bool(mixed_language(prompt, [response])),
                validate=validate,
                save_model=lambda best: save_folder(policy, best, tokenizer_from=folder / "tokenizer"),
            )
            after, _, _ = accuracy("after")
        save_like(state, model, out / "models" / "rl", folder / "tokenizer")
        rows = read_metrics(out, "rl")
        result = {
            "folder": str(out / "models" / "rl"),
            "steps": len(rows),
            "updates": state.step,
            "tokens": state.tokens,
            "skipped": state.skipped,
            "problems": counts["counts"],
            **({"curated": _counts_of(folder / "problems")} if recipe.rl.curation_samples else {}),
            "accuracy": {"before": json.loads((folder / "before.json").read_text()), "after": after},
            "memory": {"predicted_bytes": round(memory.total), "moment": memory.moment},
        }
        run.finish("rl", result)
        render(out)
        return result


def show_trained(found: dict[str, Any]) -> None:
    """What `rl --model` did, in a few lines."""
    print(f"{found['folder']}: {found['steps']} steps, {found['updates']} updates")
    counts = found["problems"]
    left_out = ", ".join(
        f"{n:,} {reason.replace('_', ' ')}"
        for reason, n in counts.items()
        if reason not in ("in", "train", "validation")
    )
    print(
        f"{counts['train']:,} problems of {counts['in']:,} trained on, {counts['validation']:,} held out"
        + (f"; {left_out}" if left_out else "")
    )
    accuracy = found["accuracy"]
    for kind, before in accuracy["before"].items():
        after = accuracy["after"].get(kind, 0.0)
        print(f"{kind}: {100 * before:.1f} % of those held out before, {100 * after:.1f} % after")


def _prepare(folder: Path, given: Sequence[str], chat: Chat, recipe: Recipe) -> dict[str, Any]:
    """Problems into RUN/data/problems; counts.json comes last, and where it stands all stands."""
    done = folder / "problems" / "counts.json"
    if done.is_file():
        return json.loads(done.read_text(encoding="utf-8"))
    counts: Counter[str] = Counter()
    train_rows, held_out_rows = _split(_fitting(given, chat, recipe, counts), counts)
    for part, rows in (("train", train_rows), ("validation", held_out_rows)):
        counts[part] = write_rows(folder / "problems" / f"{part}.jsonl", rows)
    for reason in ("no_answer", "repeated", "too_long"):
        if counts[reason]:
            say(f"rl: {counts[reason]:,} of {counts['in']:,} problems left out: {reason.replace('_', ' ')}")
    write_text(done, json.dumps({"parts": ["train", "validation"], "counts": dict(counts)}) + "\n")
    return json.loads(done.read_text(encoding="utf-8"))


def _curated(
    folder: Path, problems: list[Problem], recipe: Recipe, chat: Chat, engine: EnginePool, judge: JudgePool, seed: int
) -> list[Problem]:
    """Problems worth training on, with their tests' levels, by rollouts of the folder's model (MiMo 3.2); once."""
    kept = folder / "curated.jsonl"
    if not (folder / "curated.json").is_file():
        rl = recipe.rl
        sampled = dataclasses.replace(recipe.eval, max_new_tokens=rl.max_new_tokens, top_p=rl.top_p)
        judged = evaluate(
            engine, judge, problems, sampled, chat=chat, seed=seed + 1, temperature=rl.temperature,
            num_samples=rl.curation_samples, title="curate",
        )  # fmt: skip
        found = curate(
            problems,
            judged.groups,
            levels=lambda rates: levels(rates, rl.levels),
            golden=lambda p: judge.submit(p, f"```{p.language}\n{p.solution}\n```").result(),
        )
        if not found.problems:
            raise ValueError(f"curation leaves none of {len(problems)} problems: {json.dumps(found.counts)}")
        write_rows(kept, found.problems)
        write_text(folder / "curated.json", json.dumps(found.counts) + "\n")
    return read_problems(kept)


def _counts_of(folder: Path) -> dict[str, int]:
    found: dict[str, int] = json.loads((folder / "curated.json").read_text(encoding="utf-8"))
    return found


def _fitting(given: Sequence[str], chat: Chat, recipe: Recipe, counts: Counter[str]) -> Iterator[Problem]:
    """Problems of all files whose prompt leaves room for the longest response, each id and each prompt once."""
    seen: dict[str, str] = {}
    prompts: set[str] = set()
    for name in given:
        for problem in read_own_problems(name):
            counts["in"] += 1
            if problem.id in seen:
                raise ValueError(
                    f"{name}: id {problem.id!r} is in {seen[problem.id]} already; every problem needs its own"
                )
            seen[problem.id] = name
            if problem.kind == "math" and not problem.answer:
                counts["no_answer"] += 1
                continue
            if problem.prompt in prompts:
                counts["repeated"] += 1
                continue
            prompts.add(problem.prompt)
            if len(chat.render_prompt(problem.prompt)) + recipe.rl.max_new_tokens > recipe.rl.context:
                counts["too_long"] += 1
                continue
            yield problem


def _split(problems: Iterator[Problem], counts: Counter[str]) -> tuple[list[Problem], list[Problem]]:
    """To train on, and to validate on: one in HELD_OUT_EVERY, at least one; those whose prompts' hashes come first."""
    found = list(problems)
    if len(found) < 2:
        raise ValueError(
            f"RL needs at least 2 problems, one of them to validate on; {len(found)} of {counts['in']} are left"
            + (f", {counts['too_long']} are too long for rl.context" if counts["too_long"] else "")
        )
    keys = {p.id: hashlib.blake2b(p.prompt.encode(), digest_size=16).digest() for p in found}
    number = min(MOST_HELD_OUT, max(1, len(found) // HELD_OUT_EVERY))
    apart = set(sorted(keys, key=keys.__getitem__)[:number])
    return [p for p in found if p.id not in apart], [p for p in found if p.id in apart]
