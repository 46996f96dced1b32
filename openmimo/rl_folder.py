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
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from openmimo.checkpoint import write_text
from openmimo.config import missing_file, nearest, with_overrides
from openmimo.curate.problems import curate
from openmimo.data.chat import Chat
from openmimo.data.sft import mixed_language
from openmimo.engine.engine import EngineConfig
from openmimo.engine.pool import EnginePool
from openmimo.engine.process import engines_of
from openmimo.engine.runner import bytes_per_block
from openmimo.eval.benchmarks.gsm8k import gsm8k
from openmimo.eval.benchmarks.math import math
from openmimo.eval.run import Evaluation, evaluate
from openmimo.hardware import GPUS
from openmimo.judge.code import check_problem
from openmimo.judge.pool import JudgePool
from openmimo.judge.problem_file import problem_from_json
from openmimo.log import read_metrics, say
from openmimo.memory import Colocated, Layout, Memory, rl_memory_of
from openmimo.mesh import Mesh
from openmimo.model.config import MiMoConfig
from openmimo.model.hf import load_folder, save_folder
from openmimo.recipes import Recipe
from openmimo.report.page import render
from openmimo.rl.reward import levels
from openmimo.rl.train import train
from openmimo.rollout.driver import Timing
from openmimo.rows import problem_from, read_problems, read_rows, write_rows
from openmimo.run import Run
from openmimo.sft import digest, open_start, save_like, write_companions
from openmimo.train.compute import ComputeConfig
from openmimo.types import Problem

PRESETS = {
    "gsm8k": gsm8k,
    "math": lambda path: math(path, name=f"math/{path.name.partition('.')[0]}", unanswered=True),
}
"""Public files in their own format: `--problems gsm8k:FILE`."""
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


def plan_folder(recipe: Recipe, model: Path, gpu: str | None = None) -> dict[str, Any]:
    """Plain JSON: the memory of RL on a folder, by part, before it runs; on a kind of `hardware.GPUS`, or a CPU.

    Raises:
        ValueError: for a folder that cannot be trained, or an unknown GPU.
    """
    if gpu is not None and gpu not in GPUS:
        raise ValueError(f"unknown GPU {gpu!r}; the nearest is {nearest(gpu, GPUS)!r} of {', '.join(GPUS)}")
    device = "cpu" if gpu is None else "cuda"
    recipe, _, shape = fitted(recipe, model, device)
    memory = memory_needed(shape, recipe, device)
    room = free_bytes(device) if gpu is None else GPUS[gpu].memory_bytes
    trunk, mtp = shape.num_parameters()
    fits = memory.total <= room
    return {
        "model": str(model),
        "parameters": {"trunk": trunk, "mtp": mtp},
        "device": gpu or "cpu",
        "dtype": recipe.rl.compute.dtype,
        "moment": memory.moment,
        "parts": {part: round(size) for part, size in memory.parts.items() if size},
        "total_bytes": round(memory.total),
        "capacity_bytes": round(room),
        "fits": fits,
        **({} if fits else {"instead": _what_fits(shape, recipe, device, room)}),
    }


def show_plan(plan: dict[str, Any]) -> None:
    """`plan_folder` for a person."""
    counts = plan["parameters"]
    print(f"{plan['model']}: {counts['trunk']:,} parameters trained, {counts['mtp']:,} of MTP layers that stay")
    for part, size in plan["parts"].items():
        print(f"{part:<12}{size / 1e9:>10.3f} GB")
    print(
        f"{'total':<12}{plan['total_bytes'] / 1e9:>10.3f} GB of {plan['capacity_bytes'] / 1e9:.4g} ({plan['moment']})"
    )
    if not plan["fits"]:
        print(f"does not fit; {plan['instead']}")


def fitted(recipe: Recipe, model: Path, device: str) -> tuple[Recipe, Chat, MiMoConfig]:
    """The recipe as this folder and this machine need it, the folder's chat format and its shape.

    Without a GPU everything is computed in float32. The engine's longest sequence is a row, and its cache no larger
    than its batch of longest sequences needs.

    Raises:
        ValueError: for a folder that cannot be trained.
    """
    rl = recipe.rl
    chat, shape = open_start(model, rl.context, key="rl.context")
    if not 0 < rl.max_new_tokens < rl.context:
        raise ValueError(
            f"rl.max_new_tokens={rl.max_new_tokens} leaves no room for a prompt in a row of rl.context={rl.context}"
        )
    if device == "cpu" and rl.compute != ComputeConfig():
        say("rl: no GPU here: computing in float32 on the CPU, nothing offloaded or recomputed")
        optim = dataclasses.replace(rl.optim, offload=False)
        rl = dataclasses.replace(rl, compute=ComputeConfig(), optim=optim)
    engine = dataclasses.replace(
        recipe.engine,
        max_model_len=rl.context,
        num_token_ids=min(chat.tokenizer.get_vocab_size(), shape.vocab_size),
    )
    return dataclasses.replace(recipe, rl=rl, engine=engine), chat, shape


def memory_needed(shape: MiMoConfig, recipe: Recipe, device: str) -> Memory:
    """The largest moment of a step of this recipe on this device."""
    rl, engine = recipe.rl, recipe.engine
    # Without micro_rows a mini-batch goes through at once: at worst every response has a row of its own.
    rows = rl.micro_rows or rl.minibatch_groups * rl.num_rollouts
    layout = Layout(
        rows,
        rl.context,
        dtype=rl.compute.dtype,
        recompute=rl.compute.recompute,
        optimizer=rl.optim.kind,
        device="cuda" if device.startswith("cuda") else "cpu",
    )
    return rl_memory_of(
        shape,
        layout,
        Colocated(cache_bytes_of(shape, engine, rl.compute.dtype), engine.max_batch_size, rl.optim.offload),
    )


def cache_bytes_of(shape: MiMoConfig, engine: EngineConfig, dtype: str) -> int:
    """Keys and values that the engine takes memory for."""
    block = bytes_per_block(shape, engine.block_size, engine.num_draft_layers, getattr(torch, dtype))
    longest = -(-engine.max_model_len // engine.block_size)
    return block * (engine.num_blocks or min(engine.cache_bytes // block, engine.max_batch_size * longest))


def free_bytes(device: str) -> float:
    """Memory that a run may take on the device now."""
    if device.startswith("cuda"):
        return float(torch.cuda.mem_get_info(device)[0])
    for line in Path("/proc/meminfo").read_text().split("\n"):
        if line.startswith("MemAvailable:"):
            return 1024.0 * int(line.split()[1])
    return float("inf")


def check_memory(memory: Memory, room: float, shape: MiMoConfig, recipe: Recipe, device: str) -> None:
    """Refuse a run that does not fit, before anything is loaded.

    Raises:
        ValueError: with what it needs, by part, and the first settings that would fit.
    """
    if memory.total <= room:
        return
    parts = sorted(((size, part) for part, size in memory.parts.items() if size >= 0.01 * memory.total), reverse=True)
    needs = ", ".join(f"{part} {size / 1e9:.3g}" for size, part in parts)
    where = "this GPU" if device.startswith("cuda") else "this machine"
    raise ValueError(
        f"RL on this folder needs {memory.total / 1e9:.4g} GB ({needs}) and {where} has {room / 1e9:.4g} GB free; "
        f"{_what_fits(shape, recipe, device, room)}"
    )


def _what_fits(shape: MiMoConfig, recipe: Recipe, device: str, room: float) -> str:
    """Settings, one more at a time, until it fits."""
    given: list[str] = []
    needed = memory_needed(shape, recipe, device).total
    on_gpu = ("rl.compute.dtype=bfloat16", "rl.compute.recompute=full", "rl.optim.offload=true")
    for setting in ("rl.micro_rows=1", *(on_gpu if device != "cpu" else ()), "engine.cache_bytes=1e9"):
        changed = with_overrides(recipe, [setting])
        if changed == recipe:
            continue
        recipe, given = changed, [*given, f"--set {setting}"]
        needed = memory_needed(shape, recipe, device).total
        if needed <= room:
            return f"{' '.join(given)} needs {needed / 1e9:.4g} GB"
    return (
        f"even with {' '.join(given) or 'all of that'} it needs {needed / 1e9:.4g} GB: take a smaller model, or a "
        "shorter rl.context"
    )


def path_of(given: str) -> Path:
    """The file of FILE or PRESET:FILE.

    Raises:
        ValueError: if it is not there, or a folder.
    """
    preset, colon, rest = given.partition(":")
    path = Path(rest) if colon and preset in PRESETS else Path(given)
    if path.is_dir():
        raise ValueError(f"{path} is a folder, expected a file of problems")
    if not path.is_file():
        if colon and not Path(given).parent.is_dir():
            raise ValueError(f"--problems {given}: {preset!r} is no preset; {', '.join(PRESETS)} are")
        raise missing_file(path)
    return path


def read_own_problems(given: str) -> list[Problem]:
    """Problems of FILE or PRESET:FILE.

    A file is JSONL, gzipped or not, a row a problem: as the judge takes it (`judge.problem_file`), or as a run writes
    it (`types.Problem`). Without an id it is FILE/NUMBER.

    Raises:
        ValueError: for a row that is no problem with a prompt, naming file and row.
    """
    path = path_of(given)
    preset = given.partition(":")[0]
    if not Path(given).is_file() and preset in PRESETS:
        return PRESETS[preset](path)
    found = []
    for number, row in enumerate(read_rows(path), 1):
        where = f"{path}, row {number}"
        problem = problem_from(row, where) if _is_ours(row) else problem_from_json(row, where)
        if not problem.prompt.strip():
            raise ValueError(f"{where} has no prompt: the problem as the model is asked it")
        if problem.kind == "math" and not problem.answer.strip():
            raise ValueError(f"{where}: answer must not be empty")
        if problem.kind == "code":
            check_problem(problem)
        found.append(problem if problem.id else dataclasses.replace(problem, id=f"{path.stem}/{number}"))
    return found


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


def _is_ours(row: Mapping[str, Any]) -> bool:
    """Whether a row is a `types.Problem` as a run writes it, rather than the judge's own form."""
    tests = row.get("tests")
    first = tests[0] if isinstance(tests, list) and tests else {}
    ours = {"family", "solution", "special_judge", "tolerance"} & set(row)
    return bool(ours) or (isinstance(first, Mapping) and {"input", "expected"} <= set(first))


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
