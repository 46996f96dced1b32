"""Answering with a trained folder: for `generate`, `chat` and `serve`."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from openmimo.config import nearest
from openmimo.data.chat import Chat, Message
from openmimo.engine.engine import Engine, EngineConfig
from openmimo.engine.sample import choice_seed
from openmimo.model.config import MiMoConfig
from openmimo.model.hf import load_config, load_folder
from openmimo.types import Request, Sampling

DTYPES = ("auto", "float32", "bfloat16")
MAX_MODEL_LEN = 4096
"""Longest prompt plus response served by default, tokens; a longer context takes more memory for its cache."""


def open_engine(
    folder: Path,
    *,
    dtype: str = "auto",
    speculate: str = "auto",
    max_model_len: int | None = None,
    max_batch_size: int = 32,
) -> tuple[Engine, Chat]:
    """An engine and its chat from a Hugging Face folder, on a GPU where there is one.

    Args:
        dtype: `auto` is the folder's own.
        speculate: a number of drafts, made at any batch size; `auto` lets every MTP layer of the folder draft, as many
            at a time as pay for the live batch. No choice changes a token.
        max_model_len: longest prompt plus response, tokens; by default the model's, at most 4,096.

    Raises:
        ValueError: for a folder that cannot be read, or an option that does not suit it.
    """
    import torch

    if dtype not in DTYPES:
        raise ValueError(
            f"--dtype must be one of {', '.join(DTYPES)}, got {dtype!r}; the nearest is {nearest(dtype, DTYPES)!r}"
        )
    chat = Chat.load(folder)
    config = load_config(folder)
    num_drafts = _num_drafts(speculate, config, folder)
    longest = config.max_position_embeddings
    if max_model_len is not None and not 2 <= max_model_len <= longest:
        raise ValueError(f"--max-model-len must be 2 to {longest}, the model's own, got {max_model_len}")
    model = load_folder(folder, dtype=None if dtype == "auto" else getattr(torch, dtype))
    if torch.cuda.is_available():
        model = model.to("cuda")
    engine_config = EngineConfig(
        max_model_len=max_model_len or min(longest, MAX_MODEL_LEN),
        max_batch_size=max_batch_size,
        cache_bytes=2 * 2**30,  # room for a longest sequence of MiMo-7B and a few more
        num_draft_layers=num_drafts,
        adapt_drafts=speculate == "auto",
        num_token_ids=min(chat.tokenizer.get_vocab_size(), config.vocab_size),
    )
    return Engine(model, engine_config, decode=chat.decode), chat


def _num_drafts(speculate: str, config: MiMoConfig, folder: Path) -> int:
    most = config.num_nextn_predict_layers
    if speculate == "auto":
        return most
    if not speculate.isascii() or not speculate.isdigit():
        raise ValueError(f"--speculate must be auto or a number of drafts, got {speculate!r}")
    if int(speculate) > most:
        raise ValueError(f"--speculate must be auto or 0 to {most}, the MTP layers of {folder}, got {speculate}")
    return int(speculate)


def answer(
    folder: Path,
    prompts: Sequence[str],
    *,
    max_new_tokens: int,
    temperature: float,
    top_p: float,
    n: int,
    seed: int,
    dtype: str = "auto",
    speculate: str = "auto",
) -> list[dict[str, Any]]:
    """`n` responses to every prompt, in order: prompt, text, tokens, finish_reason."""
    if n < 1:
        raise ValueError(f"-n must be at least 1, got {n}")
    engine, chat = open_engine(folder, dtype=dtype, speculate=speculate)
    sampling = Sampling(
        max_new_tokens, temperature=temperature, top_p=top_p, stop_token_ids=chat.stop_token_ids, seed=seed
    )
    asked = [(prompt, i) for prompt in prompts for i in range(n)]
    rollouts = engine.generate(
        [Request(chat.render_prompt(prompt), replace(sampling, seed=choice_seed(seed, i))) for prompt, i in asked]
    )
    return [
        {
            "prompt": prompt,
            "text": chat.decode(rollout.token_ids),
            "tokens": len(rollout.token_ids),
            "finish_reason": rollout.finish_reason,
        }
        for (prompt, _), rollout in zip(asked, rollouts, strict=True)
    ]


def score(folder: Path, *, ids: str = "", text: str = "") -> dict[str, Any]:
    """Log-probabilities of a text's tokens under the raw model and its MTP layers: ids, logprobs, mtp_logprobs.

    Raises:
        ValueError: when neither or both are given, or an id is no integer of the vocabulary.
    """
    if bool(ids.strip()) == bool(text):
        raise ValueError('give --ids "5 17 3" or --text, one of the two')
    model = load_folder(folder)
    words = ids.replace(",", " ").split()
    wrong = next((word for word in words if not word.removeprefix("-").isdigit()), None)
    if wrong is not None:
        raise ValueError(f"--ids takes token ids, such as 5 17 3, got {wrong!r}")
    token_ids = [int(word) for word in words] or list(Chat.load(folder).encode(text))
    config = EngineConfig(
        max_model_len=min(model.config.max_position_embeddings, max(64, len(token_ids))),
        max_batch_size=1,
        num_draft_layers=model.config.num_nextn_predict_layers,
    )
    rollout = Engine(model, config).score([token_ids], drafts=True)[0]
    return {
        "ids": token_ids,
        "logprobs": list(rollout.prompt_logprobs),
        "mtp_logprobs": [list(layer) for layer in rollout.prompt_draft_logprobs],
    }


def converse(
    folder: Path,
    lines: Iterable[str],
    *,
    max_new_tokens: int,
    temperature: float,
    seed: int,
    dtype: str = "auto",
    speculate: str = "auto",
) -> None:
    """Answer line by line, as the text comes, remembering what was said, until an empty line."""
    from openmimo.engine.server.stream import TextStream

    engine, chat = open_engine(folder, dtype=dtype, speculate=speculate)
    sampling = Sampling(max_new_tokens, temperature=temperature, top_p=0.95, stop_token_ids=chat.stop_token_ids)
    messages: list[Message] = []
    for turn, line in enumerate(lines):
        if not line.strip():
            return
        messages.append({"role": "user", "content": line.strip()})
        prompt = chat.render_messages(messages)
        if len(prompt) + max_new_tokens > engine.config.max_model_len:
            messages = messages[-1:]
            print("(the conversation outgrew the context: starting afresh)", flush=True)
            prompt = chat.render_messages(messages)
        stream = TextStream(chat.decode, chat.stop_token_ids, ())
        text = ""
        handle = engine.submit(Request(prompt, replace(sampling, seed=seed + turn)))
        while True:
            finished = dict(engine.step())
            rollout = finished.get(handle) or engine.partial(handle)
            piece, _ = stream.push(rollout.token_ids[len(stream.offsets) :], handle in finished)
            text += piece
            sys.stdout.write(piece)
            sys.stdout.flush()
            if finished:
                break
        print(flush=True)
        messages.append({"role": "assistant", "content": text})


def serve(
    folder: Path,
    *,
    host: str,
    port: int,
    dtype: str = "auto",
    speculate: str = "auto",
    max_model_len: int | None = None,
    max_batch_size: int = 32,
    max_waiting: int = 256,
    max_body_bytes: int = 4 << 20,
    api_key_file: Path | None = None,
) -> None:
    """Serve over HTTP until a signal."""
    if not 0 <= port <= 65535:
        raise ValueError(f"--port must be 0 to 65535, got {port}")
    for name, value, least in (
        ("--max-batch-size", max_batch_size, 1),
        ("--max-waiting", max_waiting, 0),
        ("--max-body-bytes", max_body_bytes, 1),
    ):
        if value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}")
    from openmimo.engine.server.app import create_app
    from openmimo.engine.server.listen import listen, read_key

    api_key = read_key(api_key_file)
    engine, chat = open_engine(
        folder, dtype=dtype, speculate=speculate, max_model_len=max_model_len, max_batch_size=max_batch_size
    )
    app = create_app(
        engine,
        chat,
        model_name=folder.resolve().name,
        api_key=api_key,
        max_waiting=max_waiting,
        max_body_bytes=max_body_bytes,
    )
    listen(app, host=host, port=port, api_key=api_key)
