"""Rollouts as OpenAI's answers: whole ones, chunks of a stream, log-probabilities, usage.

Log-probabilities are natural logarithms under the raw model: before temperature, nothing cut off. Every sampled token
has one, the token that ended the text included.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from openmimo.engine.server.bodies import Body, ChatBody, CompletionBody
from openmimo.engine.server.stream import TextStream
from openmimo.engine.server.thread import Call, EngineThread
from openmimo.types import Rollout

if TYPE_CHECKING:
    from openmimo.data.chat import Chat

LEAST_LOGPROB = -9999.0
"""OpenAI's figure for what is impossible: JSON has no infinity."""

Alternatives = Sequence[tuple[int, float]]


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt as tokens, and as text where the answer begins with it."""

    token_ids: tuple[int, ...]
    text: str = ""


@dataclass(frozen=True, slots=True)
class Piece:
    """News of one choice: new text, and the tokens since the last piece."""

    choice: int
    text: str
    rollout: Rollout
    first: int
    stop: int
    """Tokens first .. stop - 1 of the response are this piece's."""
    offsets: list[int]
    """Of every token so far: where its text begins in the response, in characters."""
    finish_reason: str | None

    @property
    def begins(self) -> bool:
        """Whether it is the choice's first."""
        return self.first == 0


class Answer:
    """One call's answer as it grows; knows the shapes of both endpoints."""

    def __init__(self, body: Body, prompts: list[Prompt], chat: Chat, model_name: str) -> None:
        self.body = body
        self.prompts = prompts
        self.chat = chat
        stop_token_ids = (*chat.stop_token_ids, *(body.stop_token_ids or ()))
        count = len(prompts) * body.num_choices
        self.streams = [TextStream(chat.decode, stop_token_ids, body.stops) for _ in range(count)]
        is_chat = isinstance(body, ChatBody)
        kind = ("chat.completion.chunk" if body.stream else "chat.completion") if is_chat else "text_completion"
        self.frame = {
            "id": f"{'chatcmpl' if is_chat else 'cmpl'}-{uuid.uuid4().hex}",
            "object": kind,
            "created": int(time.time()),
            "model": model_name,
        }

    async def pieces(self, call: Call, worker: EngineThread) -> AsyncIterator[Piece]:
        """The choices' pieces as they come."""
        left = set(range(len(self.streams)))
        told = [0] * len(self.streams)
        while left:
            for number, (rollout, finished) in (await call.news()).items():
                if number not in left:
                    continue
                stream = self.streams[number]
                text, stopped = stream.push(rollout.token_ids[len(stream.offsets) :], finished)
                if stopped or finished:
                    left.discard(number)
                    if not finished:
                        worker.end_choice(call, number)
                elif not text:
                    continue
                first, told[number] = told[number], len(stream.offsets)
                reason = "stop" if stopped else rollout.finish_reason if finished else None
                yield Piece(number, text, rollout, first, told[number], stream.offsets, reason)

    async def whole(self, call: Call, worker: EngineThread) -> dict[str, Any]:
        """The answer in one piece."""
        choices: dict[int, dict[str, Any]] = {}
        texts = [""] * len(self.streams)
        async for piece in self.pieces(call, worker):
            texts[piece.choice] += piece.text
            if piece.finish_reason:
                whole = Piece(
                    piece.choice, texts[piece.choice], piece.rollout, 0, piece.stop, piece.offsets, piece.finish_reason
                )
                choices[piece.choice] = self.choice(whole)
        return {**self.frame, "choices": [choices[n] for n in sorted(choices)], "usage": self.usage()}

    async def chunks(self, call: Call, worker: EngineThread) -> AsyncIterator[dict[str, Any]]:
        """The answer as the chunks of a stream."""
        frame = {**self.frame, "usage": None} if self.body.wants_usage else self.frame
        if isinstance(self.body, ChatBody):
            for number in range(len(self.streams)):
                delta = {"role": "assistant", "content": ""}
                opening = {"index": number, "delta": delta, "logprobs": None, "finish_reason": None}
                yield {**frame, "choices": [opening]}
        async for piece in self.pieces(call, worker):
            yield {**frame, "choices": [self.choice(piece)]}
        if self.body.wants_usage:
            yield {**frame, "choices": [], "usage": self.usage()}

    def usage(self) -> dict[str, int]:
        """Tokens so far: every prompt once, every sampled token, the one that ended the text included."""
        prompt_tokens = sum(len(prompt.token_ids) for prompt in self.prompts)
        completion_tokens = sum(len(stream.offsets) for stream in self.streams)
        return {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": completion_tokens,
            "total_tokens": prompt_tokens + completion_tokens,
        }

    def choice(self, piece: Piece) -> dict[str, Any]:
        """A choice, or a chunk's part of it."""
        made: dict[str, Any] = {"index": piece.choice, "logprobs": None, "finish_reason": piece.finish_reason}
        if isinstance(self.body, CompletionBody):
            prompt = self.prompts[piece.choice // self.body.num_choices]
            echoes = bool(self.body.echo) and piece.begins
            made["text"] = (prompt.text if echoes else "") + piece.text
            if self.body.logprobs is not None:
                made["logprobs"] = self._completion_logprobs(piece, prompt, echoes)
            return made
        if self.body.num_top_logprobs is not None:
            made["logprobs"] = {"content": self._chat_logprobs(piece), "refusal": None}
        if self.body.stream:
            made["delta"] = {"content": piece.text} if piece.text else {}
        else:
            made["message"] = {"role": "assistant", "content": piece.text, "refusal": None}
        return made

    def _completion_logprobs(self, piece: Piece, prompt: Prompt, echoes: bool) -> dict[str, Any]:
        rollout, shift = piece.rollout, len(prompt.text)
        token_ids = list(rollout.token_ids[piece.first : piece.stop])
        logprobs: list[float | None] = list(rollout.raw_logprobs[piece.first : piece.stop])
        tops: list[Alternatives] = list(rollout.top_logprobs[piece.first : piece.stop])
        offsets = [shift + at for at in piece.offsets[piece.first : piece.stop]]
        if echoes:
            token_ids = [*prompt.token_ids, *token_ids]
            logprobs = [*rollout.prompt_logprobs, *logprobs]
            tops = [*rollout.prompt_top_logprobs, *tops]
            offsets = [*self._offsets(prompt.token_ids), *offsets]
        return {
            "tokens": [self._name(token_id) for token_id in token_ids],
            "token_logprobs": [_finite(p) for p in logprobs],
            "top_logprobs": [
                self._alternatives(token_id, p, top)
                for token_id, p, top in zip(token_ids, logprobs, tops, strict=True)
            ] if self.body.num_top_logprobs else None,
            "text_offset": offsets,
        }  # fmt: skip

    def _alternatives(self, token_id: int, logprob: float | None, top: Alternatives) -> dict[str, float | None] | None:
        """Names to log-probabilities, the token's own always among them; None for a prompt's first token."""
        if logprob is None:
            return None
        return {self._name(other): _finite(p) for other, p in (*top, (token_id, logprob))}

    def _chat_logprobs(self, piece: Piece) -> list[dict[str, Any]]:
        rollout, span = piece.rollout, range(piece.first, piece.stop)
        return [
            {
                **self._token(rollout.token_ids[i], rollout.raw_logprobs[i]),
                "top_logprobs": [self._token(*top) for top in rollout.top_logprobs[i]]
                if self.body.num_top_logprobs
                else [],
            }
            for i in span
        ]

    def _token(self, token_id: int, logprob: float) -> dict[str, Any]:
        data = self.chat.token_bytes(token_id)
        return {
            "token": data.decode("utf-8", "replace"),
            "logprob": _finite(logprob),
            "bytes": list(data),
        }

    def _name(self, token_id: int) -> str:
        """A token's text; of one that is no whole characters its bytes, so that names differ where tokens do."""
        data = self.chat.token_bytes(token_id) or f"<unknown {token_id}>".encode()
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)

    def _offsets(self, token_ids: Sequence[int]) -> list[int]:
        stream = TextStream(self.chat.decode, (), ())
        stream.push(token_ids, True)
        return stream.offsets


def _finite(logprob: float | None) -> float | None:
    return None if logprob is None else max(logprob, LEAST_LOGPROB)
