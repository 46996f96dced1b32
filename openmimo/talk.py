"""Answering with a trained folder: for `generate`, `chat` and `serve`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from openmimo.data.chat import Chat, Message
from openmimo.engine.engine import Engine, EngineConfig
from openmimo.model.hf import load_folder
from openmimo.types import Request, Sampling


def open_engine(folder: Path, *, num_draft_layers: int = 0) -> tuple[Engine, Chat]:
    """An engine and its chat from a Hugging Face folder."""
    chat = Chat.load(folder)
    model = load_folder(folder)
    config = EngineConfig(
        max_model_len=min(model.config.max_position_embeddings, 4096),
        max_batch_size=32,
        num_draft_layers=num_draft_layers,
        num_token_ids=min(chat.tokenizer.get_vocab_size(), model.config.vocab_size),
    )
    return Engine(model, config), chat


def answer(
    folder: Path,
    prompts: Sequence[str],
    *,
    max_new_tokens: int,
    temperature: float,
    top_p: float,
    n: int,
    seed: int,
    num_draft_layers: int = 0,
) -> list[dict[str, Any]]:
    """`n` responses to every prompt, in order: prompt, text, tokens, finish_reason."""
    if n < 1:
        raise ValueError(f"-n must be at least 1, got {n}")
    engine, chat = open_engine(folder, num_draft_layers=num_draft_layers)
    sampling = Sampling(
        max_new_tokens, temperature=temperature, top_p=top_p, stop_token_ids=chat.stop_token_ids, seed=seed
    )
    asked = [(prompt, i) for prompt in prompts for i in range(n)]
    rollouts = engine.generate(
        [Request(chat.render_prompt(prompt), replace(sampling, seed=seed + i)) for prompt, i in asked]
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


def converse(folder: Path, lines: Iterable[str], *, max_new_tokens: int, temperature: float, seed: int) -> None:
    """Answer line by line, remembering what was said, until an empty line."""
    engine, chat = open_engine(folder)
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
        text = chat.decode(engine.generate([Request(prompt, replace(sampling, seed=seed + turn))])[0].token_ids)
        messages.append({"role": "assistant", "content": text})
        print(text, flush=True)


def serve(folder: Path, *, host: str, port: int, num_draft_layers: int) -> None:
    """Listen until interrupted."""
    if not 0 <= port <= 65535:
        raise ValueError(f"--port must be 0 to 65535, got {port}")
    import uvicorn

    from openmimo.engine.server import create_app

    engine, chat = open_engine(folder, num_draft_layers=num_draft_layers)
    uvicorn.run(create_app(engine, chat, model_name=folder.name), host=host, port=port, log_level="warning")
