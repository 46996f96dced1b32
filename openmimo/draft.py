"""Draft layers from end to end (MiMo 2.2): texts or the model's own rollouts -> batches -> copies tuned -> acceptance.

The stage `draft` of a run and the command `train-draft` both go through here. Left out: layer 1, which is trained with
the trunk and stays as it is.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import torch

from openmimo.config import missing_file, to_dict
from openmimo.data.chat import Chat, Message
from openmimo.data.pack import Sample
from openmimo.data.tokenizer import END_OF_TEXT
from openmimo.engine.engine import Engine, EngineConfig
from openmimo.engine.speculate import measure_acceptance
from openmimo.log import progress, say
from openmimo.mesh import join
from openmimo.model.folder import load_config
from openmimo.model.headers import find_tensors
from openmimo.model.hf import load_folder, save_folder
from openmimo.model.mimo import MiMo
from openmimo.model.tensors import DTYPES
from openmimo.rows import read_rows, write_rows
from openmimo.run import Run
from openmimo.train.draft import DraftConfig, batches_of, tune, with_copies
from openmimo.types import Request, Rollout, Sampling

T = TypeVar("T")

HELD_OUT_EVERY = 10
"""Of the texts or prompts given to `train-draft`, one in so many is kept out of the training, to measure acceptance."""
MOST_HELD_OUT = 200


@dataclass(frozen=True)
class DraftingConfig:
    """What draft layers are tuned on, and how. Figures are ours: the paper has none (decision 0035)."""

    num_prompts: int = 4096
    """Training prompts at most, spread over all."""
    num_samples: int = 2
    """Rollouts a prompt."""
    temperature: float = 0.6  # MiMo 3.5: what the drafts will serve
    max_new_tokens: int = 32_768  # MiMo 3.5
    train: DraftConfig = field(default_factory=DraftConfig)

    def __post_init__(self) -> None:
        for name, least in (("num_prompts", 1), ("num_samples", 1), ("temperature", 0), ("max_new_tokens", 1)):
            if not getattr(self, name) >= least:
                raise ValueError(f"{name} of the draft rollouts must be at least {least}, got {getattr(self, name)}")


def own_rollouts(
    path: Path,
    open_engine: Callable[[], Engine],
    prompts: Sequence[tuple[int, ...]],
    config: DraftingConfig,
    *,
    stop_token_ids: tuple[int, ...],
    seed: int,
) -> list[Sample]:
    """The engine's responses to training prompts, ready to pack, loss on the response.

    Args:
        path: where they are kept; if they are there already, no engine is opened.
    """
    if not path.is_file():
        rollouts = generate(open_engine(), prompts, config, stop_token_ids=stop_token_ids, seed=seed)
        write_rows(path, ({"prompt_ids": r.prompt_ids, "token_ids": r.token_ids} for r in rollouts))
    cut = (
        ((*row["prompt_ids"], *row["token_ids"])[: config.train.context], len(row["prompt_ids"]))
        for row in read_rows(path, ("prompt_ids", "token_ids"))
    )
    return [Sample(ids, [0.0] * first + [1.0] * (len(ids) - first)) for ids, first in cut if len(ids) > first]


def generate(
    engine: Engine,
    prompts: Sequence[tuple[int, ...]],
    config: DraftingConfig,
    *,
    stop_token_ids: tuple[int, ...],
    seed: int,
) -> list[Rollout]:
    """`num_samples` responses to every prompt, by prompt and sample, each of a seed of its own."""
    sampling = Sampling(config.max_new_tokens, temperature=config.temperature, stop_token_ids=stop_token_ids)
    handles = [
        engine.submit(Request(prompt, replace(sampling, seed=(seed * len(prompts) + n) * config.num_samples + i)))
        for n, prompt in enumerate(prompts)
        for i in range(config.num_samples)
    ]

    def finished() -> Iterator[tuple[int, Rollout]]:
        while engine.num_active:
            yield from engine.step()

    done = dict(progress(finished(), "rollouts", total=len(handles), unit="rollouts"))
    return [done[handle] for handle in handles]


def acceptance_of(
    model: MiMo, requests: Sequence[Request], config: EngineConfig, *, temperature: float = 0.0
) -> dict[str, float]:
    """Share of drafts kept by MTP layer, given that all before were kept; every step drafts with all (MiMo 2.2)."""
    if not model.config.num_nextn_predict_layers:
        return {}
    drafting = replace(config, num_draft_layers=model.config.num_nextn_predict_layers, adapt_drafts=False)
    return measure_acceptance(Engine(model, drafting), requests, temperature=temperature)


def train_draft(
    folder: Path,
    out: Path,
    config: DraftingConfig,
    *,
    text: Path | None = None,
    prompts: Path | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Write a folder with more MTP layers, tuned on texts or on the model's own rollouts of prompts.

    Killed at any moment, the same call goes on: rollouts and checkpoints wait in a hidden folder beside `out`, which
    appears whole or not at all.

    Args:
        folder: a model with at least one MTP layer, and its tokenizer; layers beyond the first are made anew.
        text: .jsonl rows with `text` or `messages`, or a plain text file. Exactly one of text and prompts is given.
        prompts: .jsonl rows with `prompt` or `messages`, or a text file, one prompt a line.

    Returns:
        What was done, and `acceptance` by layer on the one in HELD_OUT_EVERY that was not trained on.

    Raises:
        ValueError: if `out` exists, the folder has no MTP layer, or the file has too little to train on and hold out.
    """
    given = text or prompts
    if given is None or (text and prompts):
        raise ValueError("train-draft needs something to tune on: give --text FILE or --prompts FILE, one of them")
    if out.exists():
        raise ValueError(f"{out} exists already; choose another -o")
    shape, chat, train = load_config(folder), Chat.load(folder), config.train
    if not shape.num_nextn_predict_layers:
        raise ValueError(f"{folder} has 0 MTP layers; draft layers are copies of the first, so it needs at least 1")
    if train.context > shape.max_position_embeddings:
        raise ValueError(f"context must be at most the model's {shape.max_position_embeddings}, got {train.context}")
    pieces = texts_of(given, chat, train.context) if text else prompts_of(given, chat, train.context)
    kept, held_out = split(pieces, given)
    settings = {**to_dict(config), "text": text and str(text.resolve()), "prompts": prompts and str(prompts.resolve())}
    work = out.with_name(f".{out.name}.train-draft")
    with Run(work, f"train-draft {folder.resolve()}", seed, settings):
        model = load_folder(folder, dtype=torch.float32).to(join().device)
        sizes = EngineConfig(
            max_batch_size=64,
            max_model_len=train.context,
            num_token_ids=min(chat.tokenizer.get_vocab_size(), shape.vocab_size),
        )
        if text:
            samples, asked = kept, [Sample(s.token_ids[: max(1, len(s.token_ids) // 2)]) for s in held_out]
        else:
            chosen = [tuple(sample.token_ids) for sample in spread(kept, config.num_prompts)]
            path, stops = work / "rollouts.jsonl", chat.stop_token_ids
            samples = own_rollouts(path, lambda: Engine(model, sizes), chosen, config, stop_token_ids=stops, seed=seed)
            asked = held_out
        wider = with_copies(model, train.num_layers, chained=train.chained)
        state = tune(wider, batches_of(samples, train, seed=seed), train, out=work, checkpoints=work / "checkpoints")
        greedy = Sampling(config.max_new_tokens, temperature=0.0, stop_token_ids=chat.stop_token_ids)
        requests = [Request(tuple(sample.token_ids), greedy) for sample in spread(asked, MOST_HELD_OUT)]
        acceptance = acceptance_of(wider, requests, sizes)
        save_folder(as_stored(wider.cpu(), folder), out, tokenizer_from=folder)
    shutil.rmtree(work, ignore_errors=True)
    return {
        "folder": str(out),
        "mtp_layers": train.num_layers,
        "chained": train.chained,
        "steps": state.step,
        "tokens": state.tokens,
        "trained_on": len(samples),
        "held_out": len(requests),
        "acceptance": acceptance,
    }


def split(items: Sequence[Sample], source: Path) -> tuple[list[Sample], list[Sample]]:
    """What to train on, and one in HELD_OUT_EVERY, at least one, to measure on; no item is in both.

    Raises:
        ValueError: if fewer than two different ones are left.
    """
    different = list({tuple(item.token_ids): item for item in items}.values())
    if len(different) < 2:
        raise ValueError(
            f"{source} has {len(different)} usable texts or prompts that differ; at least 2 are needed, one to hold out"
        )
    last = HELD_OUT_EVERY - 1
    held_out = different[last::HELD_OUT_EVERY] or different[-1:]
    away = {id(item) for item in held_out}
    return [item for item in different if id(item) not in away], held_out


def spread(items: Sequence[T], most: int) -> list[T]:
    """At most so many of them, in order, spread from the first on."""
    count = min(most, len(items))
    return [items[i * len(items) // count] for i in range(count)]


def as_stored(model: MiMo, folder: Path) -> MiMo:
    """The model with every tensor in the dtype that the folder has it in; copies like layer 1's."""
    stored = find_tensors(folder)
    for name, parameter in model.named_parameters():
        first = re.sub(r"mtp_layers\.\d+\.", "mtp_layers.0.", name)
        parameter.data = parameter.data.to(DTYPES[stored[first].dtype])
    return model


def texts_of(path: Path, chat: Chat, context: int) -> list[Sample]:
    """Texts of a file, cut into pieces of a row; loss on all of a text, on the assistant's tokens of messages."""
    end = chat.encode(END_OF_TEXT)
    if not _is_jsonl(path):
        ids = chat.encode(_read_text(path))
        # A text that is short gives several pieces all the same: one of them is held out.
        size = max(16, min(context, -(-len(ids) // HELD_OUT_EVERY)))
        return _pieces(ids, [1.0] * len(ids), size)
    found: list[Sample] = []
    for number, row in enumerate(read_rows(path), 1):
        if "messages" in row:
            found += _pieces(*chat.render_training(_messages(row, path, number)), context)
        elif isinstance(row.get("text"), str):
            ids = (*chat.encode(row["text"]), *end)
            found += _pieces(ids, [1.0] * len(ids), context)
        else:
            raise ValueError(f"{path}:{number} lacks 'text' or 'messages'; it has {', '.join(sorted(row))}")
    return found


def prompts_of(path: Path, chat: Chat, context: int) -> list[Sample]:
    """Prompts of a file, rendered for the assistant to answer; one that leaves no room for an answer is left out."""
    rendered: list[tuple[int, ...]] = []
    if not _is_jsonl(path):
        rendered = [chat.render_prompt(line.strip()) for line in _read_text(path).split("\n") if line.strip()]
    else:
        for number, row in enumerate(read_rows(path), 1):
            if "messages" in row:
                messages = _messages(row, path, number)
                while messages and messages[-1]["role"] == "assistant":
                    messages = messages[:-1]
                rendered.append(chat.render_messages(messages))
            elif isinstance(row.get("prompt"), str):
                rendered.append(chat.render_prompt(row["prompt"]))
            else:
                raise ValueError(f"{path}:{number} lacks 'prompt' or 'messages'; it has {', '.join(sorted(row))}")
    fitting = [Sample(ids) for ids in rendered if len(ids) <= context // 2]
    if len(fitting) < len(rendered):
        say(f"{len(rendered) - len(fitting)} of {len(rendered)} prompts take over half of a row of {context}: left out")
    return fitting


def _pieces(ids: Sequence[int], weights: Sequence[float], size: int) -> list[Sample]:
    starts = range(0, len(ids), size)
    pieces = [Sample(tuple(ids[a : a + size]), list(weights[a : a + size])) for a in starts]
    return [piece for piece in pieces if len(piece.token_ids) > 3 and any(piece.loss_weights or ())]


def _messages(row: dict[str, Any], path: Path, number: int) -> list[Message]:
    messages = row["messages"]
    if not isinstance(messages, list) or not all(
        isinstance(m, dict) and isinstance(m.get("role"), str) and isinstance(m.get("content"), str) for m in messages
    ):
        raise ValueError(f"{path}:{number}: messages must be a list of objects with role and content")
    return messages


def _is_jsonl(path: Path) -> bool:
    return path.name.endswith((".jsonl", ".jsonl.gz"))


def _read_text(path: Path) -> str:
    if not path.is_file():
        raise missing_file(path)
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no UTF-8 text: {error}") from error
