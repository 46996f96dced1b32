"""SFT from end to end (MiMo 3.1): conversations of yours -> the three steps -> samples -> any folder fine-tuned.

`openmimo sft RECIPE --start DIR --data FILE` goes through `finetune_folder`; the stage `sft` of a run finds its start
and its conversations in the run folder and has its place in `stages.py`.

RUN/data/sft.jsonl        what the three steps kept, with sft.dropped.jsonl and sft.candidates.jsonl beside it
RUN/data/prepared.json    their counts
RUN/data/samples/         token ids and loss weights, memory-mapped: token 2 * id + weight
RUN/data/tokenizer/       tokenizer, template and generation settings that the result gets
RUN/models/sft/           the result, in the start's format and dtypes
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from jinja2.exceptions import TemplateError

from openmimo.checkpoint import write_text
from openmimo.config import missing_file
from openmimo.data.chat import CHAT_TEMPLATE, Chat, Message
from openmimo.data.decontaminate import NGRAM
from openmimo.data.messages import read_conversations
from openmimo.data.pack import Sample, fit_rows, stack
from openmimo.data.sft import MAX_RESPONSES, prepare_to, query_key, samples
from openmimo.data.shards import TokenShard, open_shard, write_shard
from openmimo.data.tokenizer import IM_END, IM_START
from openmimo.draft import as_stored
from openmimo.log import read_metrics, say
from openmimo.mesh import Mesh
from openmimo.model.card import CARD, GENERATION, generation_config
from openmimo.model.config import MiMoConfig
from openmimo.model.folder import fitting_tensors, load_config
from openmimo.model.hf import COMPANIONS, load_folder, save_folder
from openmimo.model.mimo import MiMo
from openmimo.model.parallel import whole_state_dict
from openmimo.recipes import Recipe
from openmimo.report.page import render
from openmimo.run import Run
from openmimo.train.compute import Worker
from openmimo.train.pretrain import perplexities
from openmimo.train.sft import finetune, packing
from openmimo.train.step import TrainState
from openmimo.types import Batch

HELD_OUT_EVERY = 20
"""With `--held-out`, one query in so many is kept out of the training, with all its responses."""
MOST_HELD_OUT = 200
"""Queries held out at most; the first response of each is looked at."""


def finetune_folder(
    name: str,
    recipe: Recipe,
    *,
    start: Path,
    data: Sequence[Path],
    out: Path,
    against: Sequence[Path] = (),
    held_out: bool = False,
    seed: int = 0,
    mesh: Mesh | None = None,
    accept_changes: bool = False,
) -> dict[str, Any]:
    """Fine-tune a folder on messages JSONL into OUT/models/sft; killed at any moment, the same call goes on.

    Args:
        recipe: its `sft` and `threads` are used, nothing else.
        start: a Qwen2 or MiMo folder with its tokenizer and its chat template; MTP layers are trained if it has any.
        data: messages JSONL, see `data.messages`; the three steps are applied to it.
        against: benchmarks that no query may overlap with.
        accept_changes: as in `Run`.
        held_out: keep one query in HELD_OUT_EVERY apart and give perplexity on them before and after.

    Returns:
        What was done: `folder`, steps, tokens, conversations, too_long, packing, the last ce and mtp, `prepared`.

    Raises:
        ValueError: for a start that cannot be trained on, missing or changed data, or if nothing is left to train on.
        RunRefused: if OUT holds another run.
        Stopped: after SIGTERM, with all saved.
    """
    mesh = mesh or Mesh()
    context = recipe.sft.context
    chat, shape = open_start(start, context, key="sft.context")
    for path in (*data, *against):
        if not path.is_file():
            raise ValueError(f"{path} is a folder, expected a file") if path.is_dir() else missing_file(path)
    settings = {
        "sft": recipe.sft,
        "threads": recipe.threads,
        "start": str(start.resolve()),
        "data": {str(path.resolve()): digest(path) for path in data},
        "against": {str(path.resolve()): digest(path) for path in against},
        "held_out": held_out,
    }
    fresh = not out.exists()
    torch.set_num_threads(max(1, recipe.threads // mesh.local_size))
    with Run(out, name, seed, settings, leads=mesh.is_main, accept_changes=accept_changes) as run:
        mesh.wait()
        if run.done("sft"):
            say("sft: done already")
            return run.state()["sft"]
        folder = out / "data"
        if mesh.is_main:
            try:
                _prepare(folder, data, against, start, chat, shape, context, held_out=held_out)
            except ValueError:
                if fresh:
                    shutil.rmtree(out)
                raise
        mesh.wait()
        counts = json.loads((folder / "samples.json").read_text(encoding="utf-8"))
        trained_on = Samples(open_shard(folder / "samples"))
        model = load_folder(start, dtype=torch.float32).to(mesh.device)
        apart = {"held_out": _batch(Samples(open_shard(folder / "held_out")), context)} if held_out else {}
        before = _perplexity_before(folder / "before.json", model, apart, mesh) if held_out else None
        state = finetune(
            model,
            trained_on,
            recipe.sft,
            seed=seed,
            out=out,
            checkpoints=out / "checkpoints" / "sft",
            mesh=mesh,
            held_out=apart,
        )
        save_like(state, start, out / "models" / "sft", folder / "tokenizer")
        result: dict[str, Any] = {}
        if mesh.is_main:
            last = read_metrics(out, "sft")[-1]
            prepared = json.loads((folder / "prepared.json").read_text(encoding="utf-8"))
            result = {
                "folder": str(out / "models" / "sft"),
                "steps": state.step,
                "tokens": state.tokens,
                "skipped": state.skipped,
                **counts,
                **packing(trained_on, context),
                "ce": last["ce"],
                **({"mtp": last["mtp"]} if shape.num_nextn_predict_layers else {}),
                **({"perplexity": {"before": before, "after": last["perplexity/held_out"]}} if held_out else {}),
                "prepared": {"in": prepared["in"], "kept": prepared["kept"], **prepared["dropped"]},
            }
            run.finish("sft", result)
            render(out)
        mesh.wait()
        return result


def open_start(start: Path, context: int, *, key: str) -> tuple[Chat, MiMoConfig]:
    """The chat format and the shape of a folder, once it is clear that it can be fine-tuned.

    Args:
        key: of the recipe, that `context` stands under.

    Raises:
        ValueError: naming what it lacks.
    """
    shape = load_config(start)
    fitting_tensors(start, shape)
    try:
        chat = Chat.load(start)
    except TemplateError as error:
        raise ValueError(f"{start}: its chat template cannot be read: {error}") from error
    if not _has_template(start):
        if None in (chat.tokenizer.token_to_id(token) for token in (IM_START, IM_END)):
            raise ValueError(
                f"{start} has no chat template, in tokenizer_config.json or chat_template.jinja, and its tokenizer has "
                f"no {IM_START} and {IM_END}; copy chat_template.jinja of a model with the same tokenizer into it"
            )
        say(f"sft: {start} has no chat template; it is taught ours, in ChatML")
    try:
        chat.render_training([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}])
    except (TemplateError, ValueError) as error:
        raise ValueError(f"{start}: {error}") from error
    if (size := chat.tokenizer.get_vocab_size()) > shape.vocab_size:
        raise ValueError(
            f"{start}: its tokenizer has {size:,} tokens and its model {shape.vocab_size:,}; they must fit"
        )
    if context > shape.max_position_embeddings:
        raise ValueError(
            f"{key} must be at most {start}'s {shape.max_position_embeddings:,}, got {context:,}: "
            f"--set {key}={shape.max_position_embeddings}"
        )
    return chat, shape


class Samples(Sequence[Sample]):
    """Samples in a token shard, read as they are asked for."""

    def __init__(self, shard: TokenShard) -> None:
        self._shard = shard

    def __len__(self) -> int:
        return len(self._shard)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> list[Sample]: ...
    def __getitem__(self, index: int | slice) -> Sample | list[Sample]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not 0 <= index < len(self):
            raise IndexError(index)
        doubled = np.asarray(self._shard.document(index))
        return Sample(doubled >> 1, (doubled & 1).astype(np.float32))


def show_prepared(found: dict[str, Any]) -> None:
    """The counts of `data sft`, as a table."""
    from openmimo.data.messages import BROKEN

    lines = [("in", found["in"], "")]
    for reason, count in found["dropped"].items():
        if count or reason not in BROKEN:
            lines.append((reason, -count, f"first at {found['first'][reason]}" if count else ""))
    lines.append(("kept", found["kept"], found["files"]["kept"]))
    for label, count, where in lines:
        print(f"{label:<20}{count:>10,}  {where}".rstrip())
    against = ", ".join(f"{f['texts']:,} texts of {f['file']} ({f['field']})" for f in found["against"])
    print(f"against: {against or 'nothing; name benchmarks with --against'}")
    runs = ", ".join(f"{count:,} at {length} words" for length, count in found["overlaps"].items())
    print(f"queries that overlap: {runs}; of {found['queries']:,}; {found['ngram']} decides")
    print(f"dropped rows to look at: {found['files']['dropped']}")
    if found["candidates"]:
        print(f"near a benchmark and kept, for you to judge: {found['candidates']:,} in {found['files']['candidates']}")


def show_finetuned(found: dict[str, Any]) -> None:
    """What `sft --start` did, in a few lines."""
    losses = ", ".join(f"{name} {found[name]:.4f}" for name in ("ce", "mtp") if name in found)
    print(f"{found['folder']}: {found['steps']} steps, {found['tokens']:,} tokens, last {losses}")
    print(
        f"{found['trained_on']:,} conversations in {found['rows']:,} rows, {100 * found['packing']:.1f} % filled; "
        f"{found['too_long']:,} too long, {found['prepared']['in'] - found['prepared']['kept']:,} dropped before"
    )
    if "perplexity" in found:
        before, after = found["perplexity"]["before"], found["perplexity"]["after"]
        print(f"perplexity of {found['held_out']:,} held-out answers: {before:.3f} before, {after:.3f} after")


def _prepare(
    folder: Path,
    data: Sequence[Path],
    against: Sequence[Path],
    start: Path,
    chat: Chat,
    shape: MiMoConfig,
    context: int,
    *,
    held_out: bool,
) -> None:
    """Everything below RUN/data; `samples.json` comes last, and where it stands all stands."""
    if (folder / "samples.json").is_file():
        return
    kept = folder / "sft.jsonl"
    prepared = prepare_to(data, kept, against=against, ngram=NGRAM, max_responses=MAX_RESPONSES)
    write_text(folder / "prepared.json", json.dumps(prepared, indent=2) + "\n")
    write_companions(start, folder / "tokenizer", chat, shape)
    apart = _queries_apart(kept) if held_out else {}
    num_trained = sum(query_key(messages) not in apart for messages in _conversations(kept))
    trained = _write_samples(
        (m for m in _conversations(kept) if query_key(m) not in apart), folder / "samples", chat, shape, context, start
    )
    counts = {"conversations": num_trained, "trained_on": trained, "too_long": num_trained - trained}
    if counts["too_long"]:
        say(f"sft: {counts['too_long']:,} of {num_trained:,} conversations exceed {context:,} tokens: left out")
    if held_out:
        looked_at = _first_of_each(kept, apart)
        counts["held_out"] = _write_samples(looked_at, folder / "held_out", chat, shape, context, start)
    write_text(folder / "samples.json", json.dumps(counts) + "\n")


def _conversations(path: Path) -> Iterator[list[Message]]:
    return (line.row["messages"] for line in read_conversations(path))


def _queries_apart(path: Path) -> dict[bytes, None]:
    """One query in HELD_OUT_EVERY, at least one; those whose keys, which are hashes, come first.

    Raises:
        ValueError: if fewer than two queries are there.
    """
    keys = sorted({query_key(messages) for messages in _conversations(path)})
    if len(keys) < 2:
        raise ValueError(f"--held-out needs at least 2 different queries, one to hold out; {path} has {len(keys)}")
    return dict.fromkeys(keys[: min(MOST_HELD_OUT, max(1, len(keys) // HELD_OUT_EVERY))])


def _first_of_each(path: Path, keys: dict[bytes, None]) -> Iterator[list[Message]]:
    seen: set[bytes] = set()
    for messages in _conversations(path):
        key = query_key(messages)
        if key in keys and key not in seen:
            seen.add(key)
            yield messages


def _write_samples(
    conversations: Iterator[list[Message]], folder: Path, chat: Chat, shape: MiMoConfig, context: int, start: Path
) -> int:
    """Tokenize into a shard; how many fit the context."""

    def doubled() -> Iterator[Any]:
        for messages in conversations:
            try:
                made = list(samples([messages], chat, context))
            except (TemplateError, ValueError) as error:
                asked = " ".join(next(m["content"] for m in messages if m["role"] == "user").split())
                raise ValueError(f"{start}: {error}; in the conversation that asks {asked[:60]!r}") from error
            for sample in made:
                yield 2 * np.asarray(sample.token_ids, np.int64) + np.asarray(sample.loss_weights, np.int64)

    rows = doubled()
    first = next(rows, None)
    if first is None:
        raise ValueError(
            f"no conversation fits a row of {context:,} tokens: give a longer context, up to --set "
            f"sft.context={shape.max_position_embeddings}, or shorter ones"
        )
    return len(write_shard(itertools.chain((first,), rows), folder, folder.name, vocab_size=2 * shape.vocab_size))


def _has_template(start: Path) -> bool:
    config = start / "tokenizer_config.json"
    own = json.loads(config.read_text(encoding="utf-8")).get("chat_template") if config.is_file() else None
    return bool(own) or (start / "chat_template.jinja").is_file()


def write_companions(start: Path, folder: Path, chat: Chat, shape: MiMoConfig) -> None:
    """The start's tokenizer files, and generation settings that stop where its template ends an answer."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in (*COMPANIONS, GENERATION, CARD):
        if (start / name).is_file():
            shutil.copyfile(start / name, folder / name)
    if not _has_template(start):
        write_text(folder / "chat_template.jinja", CHAT_TEMPLATE)
    path = folder / GENERATION
    try:
        settings = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else generation_config(shape)
    except ValueError as error:
        raise ValueError(f"{start / GENERATION} is not JSON: {error}") from error
    known = settings.get("eos_token_id")
    known = known if isinstance(known, list) else [] if known is None else [known]
    settings["eos_token_id"] = list(dict.fromkeys([*known, *chat.stop_token_ids]))
    write_text(path, json.dumps(settings, indent=2) + "\n")


def _batch(found: Sequence[Sample], context: int) -> Batch:
    rows = fit_rows([len(sample.token_ids) for sample in found], context)
    return stack([[found[i] for i in row] for row in rows], context)


def _perplexity_before(path: Path, model: MiMo, apart: dict[str, Batch], mesh: Mesh) -> float:
    """The start's, looked at once: a run that goes on finds it on disk."""
    if not path.is_file():
        found = perplexities(Worker(model), apart)["perplexity/held_out"]
        mesh.wait()
        if mesh.is_main:
            write_text(path, json.dumps(found) + "\n")
        mesh.wait()
    value = float(json.loads(path.read_text(encoding="utf-8")))
    assert math.isfinite(value)
    return value


def save_like(state: TrainState, start: Path, folder: Path, companions: Path) -> None:
    """Write the trained model in the format and the dtypes of the start; every rank must call it."""
    mesh, config = state.worker.mesh, state.model.config
    tensors = whole_state_dict(state.model, keep=mesh.is_main)
    if mesh.is_main:
        trained = MiMo.skeleton(config)
        trained.load_state_dict(tensors, assign=True)
        if config.tie_word_embeddings:
            trained.lm_head.weight = trained.model.embed_tokens.weight
        trained.rope_theta = state.model.rope_theta
        format = json.loads((start / "config.json").read_text(encoding="utf-8"))["model_type"]
        save_folder(as_stored(trained, start), folder, format=format, tokenizer_from=companions)
    mesh.wait()


def digest(path: Path) -> str:
    """Of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
