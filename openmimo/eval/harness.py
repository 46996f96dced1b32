"""lm-evaluation-harness over the embedded engine (MiMo 2.4): its tasks, our model.

`harness_model(engine, chat)` is an `lm_eval` LM: pass it to `lm_eval.simple_evaluate(model=..., tasks=[...])`. The
three methods lean on functions that need no lm_eval: `score_pairs`, `score_texts`, `generate_until`.

Shapes: B = rows, T = positions, V = vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from openmimo.data.chat import Chat
from openmimo.types import Request, Sampling

if TYPE_CHECKING:
    from torch import Tensor

    from openmimo.engine.engine import Engine

MAX_NEW_TOKENS = 256
"""Where a task does not say: lm_eval's own default."""
CHECK_EVERY = 8
"""Engine steps between two looks for a stop text."""


def harness_model(engine: Engine, chat: Chat, *, batch_rows: int = 16) -> Any:
    """An `lm_eval.api.model.LM` over the engine.

    Raises:
        ValueError: if lm_eval is not installed.
    """
    try:
        from lm_eval.api.model import LM
    except ImportError as error:
        raise ValueError("lm_eval is not installed; it comes with `pip install openmimo[eval]`") from error

    class EngineLM(LM):
        def loglikelihood(self, requests: Sequence[Any], **_: Any) -> list[tuple[float, bool]]:
            return score_pairs(engine, chat, [request.args[:2] for request in requests], batch_rows=batch_rows)

        def loglikelihood_rolling(self, requests: Sequence[Any], **_: Any) -> list[float]:
            return score_texts(engine, chat, [request.args[0] for request in requests], batch_rows=batch_rows)

        def generate_until(self, requests: Sequence[Any], **_: Any) -> list[str]:
            return generate_until(engine, chat, [request.args[:2] for request in requests])

        def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
            ids = chat.render_messages(chat_history) if add_generation_prompt else chat.render_training(chat_history)[0]
            return chat.tokenizer.decode(list(ids), skip_special_tokens=False)

        def chat_template(self, chat_template: bool | str = False) -> str:
            return chat.template if chat_template else ""

        @property
        def tokenizer_name(self) -> str:
            return "openmimo"

    return EngineLM()


def score_pairs(
    engine: Engine, chat: Chat, pairs: Sequence[tuple[str, str]], *, batch_rows: int = 16
) -> list[tuple[float, bool]]:
    """(log-probability of the continuation in nats, whether greedy decoding would give it) of (context, continuation).

    Blanks at the context's end go to the continuation, where the tokenizer put them in training. A context too long
    loses its beginning.

    Raises:
        ValueError: for a continuation longer than the engine's max_model_len.
    """
    jobs = [_encode_pair(chat, context, continuation) for context, continuation in pairs]
    return _score(engine, jobs, batch_rows)


def score_texts(engine: Engine, chat: Chat, texts: Sequence[str], *, batch_rows: int = 16) -> list[float]:
    """Log-probability of whole texts in nats, every token predicted once, with as much context as there is room for."""
    jobs, owners = [], []
    for n, text in enumerate(texts):
        for job in windows([_end(chat), *chat.encode(text)], engine.config.max_model_len):
            jobs.append(job)
            owners.append(n)
    totals = [0.0] * len(texts)
    for owner, (logprob, _) in zip(owners, _score(engine, jobs, batch_rows), strict=True):
        totals[owner] += logprob
    return totals


def windows(token_ids: Sequence[int], length: int) -> list[tuple[list[int], list[int]]]:
    """(context, tokens to predict) that cover token_ids[1:] once.

    A window's input, context and all but the last predicted token, is at most `length` long; the last is as full as
    can be.
    """
    ids = list(token_ids)
    found = []
    for start in range(1, len(ids), length):
        stop = min(start + length, len(ids))
        first = max(0, stop - 1 - length)
        found.append((ids[first:start], ids[start:stop]))
    return found


def generate_until(engine: Engine, chat: Chat, requests: Sequence[tuple[str, Mapping[str, Any]]]) -> list[str]:
    """Continue texts up to the first stop text, which is not given back.

    Args:
        requests: (context, options): `until` (a text or several), `max_gen_toks`, `do_sample`, `temperature`, `top_p`.
            A context too long loses its beginning.

    Raises:
        ValueError: when sequences are active already, or max_gen_toks leaves no room for a prompt.
    """
    if engine.num_active:
        raise ValueError(f"generate_until needs an idle engine, got {engine.num_active} active sequences")
    stops: dict[int, tuple[int, list[str]]] = {}
    texts = [""] * len(requests)
    # All made before the first is submitted: a bad one leaves the engine idle.
    made = [_request(engine, chat, context, options, n) for n, (context, options) in enumerate(requests)]
    for n, (_, options) in enumerate(requests):
        until = options.get("until") or []
        until = [until] if isinstance(until, str) else list(until)
        stops[engine.submit(made[n])] = (n, [text for text in until if text])
    step = 0
    while stops:
        for handle, rollout in engine.step():
            n, until = stops.pop(handle)
            texts[n] = _cut(chat.decode(rollout.token_ids), until)[0]
        step += 1
        if step % CHECK_EVERY:
            continue
        for handle, (n, until) in list(stops.items()):
            text, stopped = _cut(chat.decode(engine.partial(handle).token_ids), until)
            if stopped:
                engine.abort(handle)
                del stops[handle]
                texts[n] = text
    return texts


def _request(engine: Engine, chat: Chat, context: str, options: Mapping[str, Any], number: int) -> Request:
    most = int(options.get("max_gen_toks", MAX_NEW_TOKENS))
    room = engine.config.max_model_len - most
    if most < 1 or room < 1:
        raise ValueError(f"max_gen_toks must be 1 to {engine.config.max_model_len - 1} (max_model_len - 1), got {most}")
    sampling = Sampling(most, temperature=0.0, seed=number, stop_token_ids=chat.stop_token_ids)
    temperature = float(options.get("temperature") or 0.0)
    if options.get("do_sample", temperature > 0.0) and temperature > 0.0:
        sampling = replace(sampling, temperature=temperature, top_p=float(options.get("top_p", 1.0)))
    ids = chat.encode(context) or (_end(chat),)
    return Request(ids[-room:], sampling, str(number))


def _cut(text: str, until: Sequence[str]) -> tuple[str, bool]:
    """The text before the first stop text, and whether there was one."""
    found = [at for at in (text.find(stop) for stop in until) if at >= 0]
    return (text[: min(found)], True) if found else (text, False)


def _encode_pair(chat: Chat, context: str, continuation: str) -> tuple[list[int], list[int]]:
    bare = context.rstrip()
    continuation = context[len(bare) :] + continuation
    if not bare:
        return [_end(chat)], list(chat.encode(continuation))
    start = list(chat.encode(bare))
    whole = list(chat.encode(bare + continuation))
    if whole[: len(start)] != start:  # a token lies across the border: keep the context's own
        return start, list(chat.encode(continuation))
    return start, whole[len(start) :]


def _score(engine: Engine, jobs: Sequence[tuple[list[int], list[int]]], batch_rows: int) -> list[tuple[float, bool]]:
    """Sum of log-probabilities and greedy agreement of each (context, continuation), longest first, in batches."""
    import torch

    length = engine.config.max_model_len
    for _, continuation in jobs:
        if len(continuation) > length:
            raise ValueError(f"a continuation of {len(continuation)} tokens does not fit max_model_len {length}")
    results: list[tuple[float, bool]] = [(0.0, True)] * len(jobs)
    order = sorted((n for n in range(len(jobs)) if jobs[n][1]), key=lambda n: -len(jobs[n][0]) - len(jobs[n][1]))
    device = engine.model.lm_head.weight.device
    for start in range(0, len(order), batch_rows):
        part = order[start : start + batch_rows]
        inputs = [(jobs[n][0] + jobs[n][1])[-length - 1 : -1] for n in part]
        ids_BT = torch.zeros(len(part), max(map(len, inputs)), dtype=torch.long)
        for row, ids in enumerate(inputs):
            ids_BT[row, : len(ids)] = torch.tensor(ids)
        ids_BT = ids_BT.to(device)
        positions_BT = torch.arange(ids_BT.shape[1], device=device).expand_as(ids_BT)
        with torch.inference_mode():
            hidden_BTD = engine.model(ids_BT, positions_BT, _causal)
            for row, (n, ids) in enumerate(zip(part, inputs, strict=True)):
                targets = torch.tensor(jobs[n][1], device=device)
                last_TD = hidden_BTD[row : row + 1, len(ids) - len(targets) : len(ids)]
                logs_TV = engine.model.logits(last_TD)[0, :, : engine.num_token_ids].float().log_softmax(-1)
                total = logs_TV.gather(-1, targets[:, None]).sum()
                results[n] = (float(total), bool((logs_TV.argmax(-1) == targets).all()))
    return results


def _causal(layer: int, q_BTHE: Tensor, k_BTKE: Tensor, v_BTKE: Tensor) -> Tensor:
    """Dense causal attention; rows are padded at their end, which no real token reads."""
    from torch.nn import functional as F

    q, k, v = (x.transpose(1, 2) for x in (q_BTHE, k_BTKE, v_BTKE))
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=q.shape[1] != k.shape[1]).transpose(1, 2)


def _end(chat: Chat) -> int:
    """What stands before a text in training: the end of the one before it."""
    return chat.stop_token_ids[-1]
