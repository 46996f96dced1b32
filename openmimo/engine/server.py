"""OpenAI-compatible HTTP over an engine: completions, chat, streaming, metrics (MiMo 3.5 evaluates through one).

One thread owns the engine and steps it while there is work; handlers talk to it through queues. A client that hangs up
has its sequences aborted. Left out: tools, echo, several alternatives' log-probabilities, authentication (bind to
localhost or stand behind a proxy).
"""

from __future__ import annotations

import asyncio
import json
import queue
import secrets
import threading
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, HTTPException, Response
from fastapi import Request as HttpRequest
from fastapi.responses import JSONResponse, StreamingResponse
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from pydantic import BaseModel, Field

from openmimo.engine.engine import Engine
from openmimo.types import Request, Rollout, Sampling

if TYPE_CHECKING:
    from openmimo.data.chat import Chat


class _Body(BaseModel):
    model: str = ""
    max_tokens: int | None = None
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    n: int = Field(default=1, ge=1, le=128)
    seed: int | None = None
    stop: str | list[str] | None = None
    stream: bool = False


class CompletionBody(_Body):
    """Body of /v1/completions."""

    prompt: str | list[int] | list[str] | list[list[int]]
    logprobs: int | None = None
    echo: bool = False


class ChatBody(_Body):
    """Body of /v1/chat/completions."""

    messages: list[dict[str, Any]]
    max_completion_tokens: int | None = None
    logprobs: bool | None = None


@dataclass(frozen=True, slots=True)
class Piece:
    """News of one response: new text, and the rollout so far."""

    choice: int
    text: str
    rollout: Rollout
    finish_reason: str | None


class EngineThread:
    """Owns an engine and steps it; every other thread only puts jobs in its queue."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._jobs: queue.Queue[Callable[[], None] | None] = queue.Queue()
        self._watchers: dict[int, Callable[[Rollout | Exception, bool], None]] = {}
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the thread after its current step; active sequences are aborted."""
        self._jobs.put(None)
        self._thread.join()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def submit(self, request: Request, watch: Callable[[Rollout | Exception, bool], None]) -> Callable[[], None]:
        """Queue a request. `watch(rollout, finished)` is called in the engine's thread after every step that added
        tokens, or once with an exception. Returns what aborts the request."""
        handle: list[int] = []

        def begin() -> None:
            try:
                handle.append(self.engine.submit(request))
            except ValueError as error:
                watch(error, True)
            else:
                self._watchers[handle[0]] = watch

        def abort() -> None:
            if handle:
                self.engine.abort(handle[0])
                self._watchers.pop(handle[0], None)

        self._jobs.put(begin)
        return lambda: self._jobs.put(abort)

    def _run(self) -> None:
        while True:
            try:
                job = self._jobs.get(block=not self.engine.num_active)
            except queue.Empty:
                self._step()
                continue
            if job is None:
                for handle in list(self._watchers):
                    self.engine.abort(handle)
                return
            job()

    def _step(self) -> None:
        try:
            finished = self.engine.step()
        except Exception as error:  # a failed step must answer its clients, not hang them
            for handle, watch in self._watchers.items():
                self.engine.abort(handle)
                watch(error, True)
            self._watchers.clear()
            return
        for handle, rollout in finished:
            self._watchers.pop(handle)(rollout, True)
        for handle, watch in self._watchers.items():
            watch(self.engine.partial(handle), False)


class TextStream:
    """Turns a growing list of tokens into pieces of text, cut at stop strings.

    Text that could still change is held back: a character whose bytes are not complete, and what may be the beginning
    of a stop string.
    """

    def __init__(
        self, decode: Callable[[tuple[int, ...]], str], stop_token_ids: tuple[int, ...], stop: list[str]
    ) -> None:
        self._decode = decode
        self._stop_token_ids = stop_token_ids
        self._stop = [text for text in stop if text]
        self._sent = 0

    def push(self, token_ids: tuple[int, ...], finished: bool) -> tuple[str, bool]:
        """New text, and whether a stop string ended the response."""
        if token_ids and token_ids[-1] in self._stop_token_ids:
            token_ids = token_ids[:-1]
        text = self._decode(token_ids)
        found = [at for at in (text.find(stop, max(0, self._sent)) for stop in self._stop) if at >= 0]
        if found:
            end = min(found)
        elif finished:
            end = len(text)
        else:
            end = len(text.rstrip("\ufffd"))
            end = min([end, *(end - _overlap(text[:end], stop) for stop in self._stop)])
        piece = text[self._sent : end]
        self._sent = max(self._sent, end)
        return piece, bool(found)


def _overlap(text: str, stop: str) -> int:
    """Length of the longest beginning of `stop` that `text` ends with."""
    return next((n for n in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:n])), 0)


def create_app(
    engine: Engine, chat: Chat, *, model_name: str = "openmimo", encode: Callable[[str], tuple[int, ...]] | None = None
) -> FastAPI:
    """The HTTP application; its lifespan starts and stops the engine's thread.

    Args:
        encode: token ids of a bare text, for /v1/completions; without it a text is rendered as a user's prompt.
    """
    worker = EngineThread(engine)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        worker.start()
        yield
        worker.stop()

    app = FastAPI(title="openmimo", lifespan=lifespan)
    registry = CollectorRegistry()
    registry.register(_EngineMetrics(engine))

    @app.exception_handler(HTTPException)
    async def on_error(request: HttpRequest, error: HTTPException) -> JSONResponse:
        kind = "invalid_request_error" if error.status_code < 500 else "server_error"
        return JSONResponse({"error": {"message": str(error.detail), "type": kind}}, status_code=error.status_code)

    @app.get("/health")
    async def health() -> dict[str, str]:
        if not worker.alive:
            raise HTTPException(503, "the engine's thread has ended")
        return {"status": "ok"}

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(generate_latest(registry), media_type="text/plain; version=0.0.4")

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [{"id": model_name, "object": "model", "created": 0, "owned_by": "openmimo"}]}

    @app.post("/v1/completions")
    async def completions(body: CompletionBody, http: HttpRequest) -> Any:
        _check_model(body, model_name)
        if body.echo:
            raise HTTPException(400, "echo is not supported: the prompt is not returned")
        prompts = _prompts(body.prompt, encode or chat.render_prompt)
        requests = _requests(body, prompts, chat, engine, body.max_tokens if body.max_tokens is not None else 16)
        frame = {"id": f"cmpl-{uuid.uuid4().hex}", "object": "text_completion", "model": model_name}
        return await _respond(worker, chat, body, requests, http, frame, _completion_choice, len(prompts))

    @app.post("/v1/chat/completions")
    async def chat_completions(body: ChatBody, http: HttpRequest) -> Any:
        _check_model(body, model_name)
        try:
            prompt = chat.render_messages(body.messages)
        except (ValueError, KeyError) as error:
            raise HTTPException(400, f"messages cannot be rendered: {error}") from error
        most = body.max_completion_tokens if body.max_completion_tokens is not None else body.max_tokens
        left = max(1, engine.config.max_model_len - len(prompt))
        requests = _requests(body, [prompt], chat, engine, left if most is None else most)
        kind = "chat.completion.chunk" if body.stream else "chat.completion"
        frame = {"id": f"chatcmpl-{uuid.uuid4().hex}", "object": kind, "model": model_name}
        return await _respond(worker, chat, body, requests, http, frame, _chat_choice, 1)

    return app


async def _respond(
    worker: EngineThread,
    chat: Chat,
    body: _Body,
    requests: list[Request],
    http: HttpRequest,
    frame: dict[str, Any],
    choice: Callable[[Piece, _Body, Chat, int], dict[str, Any]],
    num_prompts: int,
) -> Any:
    """Run the requests of one HTTP call, and answer at once or piece by piece."""
    frame["created"] = int(time.time())
    stops = [body.stop] if isinstance(body.stop, str) else body.stop or []
    pieces = _pieces(worker, chat, requests, stops, http)
    if not body.stream:
        texts, last = [""] * len(requests), {}
        async with aclosing(pieces):
            async for piece in pieces:
                texts[piece.choice] += piece.text
                last[piece.choice] = piece
        if len(last) < len(requests):
            raise HTTPException(499, "the client hung up")
        ends = [replace(last[n], text=texts[n]) for n in range(len(requests))]
        prompt_tokens = sum(len(r.prompt_ids) for r in requests[:: max(1, len(requests) // num_prompts)])
        completion_tokens = sum(len(end.rollout.token_ids) for end in ends)
        usage = {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": completion_tokens,
            "total_tokens": prompt_tokens + completion_tokens,
        }
        return {**frame, "choices": [choice(end, body, chat, 0) for end in ends], "usage": usage}

    first = await anext(pieces, None)  # so that a bad request is still answered with 400
    if first is None:
        raise HTTPException(499, "the client hung up")

    async def events() -> AsyncIterator[str]:
        told = [0] * len(requests)
        piece: Piece | None = first
        async with aclosing(pieces):
            while piece is not None:
                made = choice(piece, body, chat, told[piece.choice])
                told[piece.choice] = len(piece.rollout.token_ids)
                yield f"data: {json.dumps({**frame, 'choices': [made]})}\n\n"
                piece = await anext(pieces, None)
        yield "data: [DONE]\n\n"

    return StreamingResponse(events(), media_type="text/event-stream")


async def _pieces(
    worker: EngineThread, chat: Chat, requests: list[Request], stops: list[str], http: HttpRequest
) -> AsyncGenerator[Piece, None]:
    """The pieces of all responses as they come; whatever ends the iteration aborts what is left."""
    loop = asyncio.get_running_loop()
    news: asyncio.Queue[tuple[int, Rollout | Exception, bool]] = asyncio.Queue()

    def watcher(number: int) -> Callable[[Rollout | Exception, bool], None]:
        return lambda rollout, finished: _post(loop, news, (number, rollout, finished))

    streams = [TextStream(chat.decode, r.sampling.stop_token_ids, stops) for r in requests]
    aborts = {n: worker.submit(request, watcher(n)) for n, request in enumerate(requests)}
    try:
        while aborts:
            try:
                number, rollout, finished = await asyncio.wait_for(news.get(), timeout=1.0)
            except TimeoutError:
                if await http.is_disconnected():
                    return
                continue
            if isinstance(rollout, Exception):
                raise HTTPException(400 if isinstance(rollout, ValueError) else 500, str(rollout))
            if number not in aborts:
                continue  # steps made before the engine learnt of the stop string
            text, stopped = streams[number].push(rollout.token_ids, finished)
            if stopped or finished:
                abort = aborts.pop(number)
                if stopped and not finished:
                    abort()
                yield Piece(number, text, rollout, "stop" if stopped else rollout.finish_reason)
            elif text:
                yield Piece(number, text, rollout, None)
    finally:
        for abort in aborts.values():
            abort()


def _post(loop: asyncio.AbstractEventLoop, news: asyncio.Queue[Any], item: Any) -> None:
    try:
        loop.call_soon_threadsafe(news.put_nowait, item)
    except RuntimeError:  # the event loop has ended, and with it the client
        return


def _requests(
    body: _Body, prompts: list[tuple[int, ...]], chat: Chat, engine: Engine, max_tokens: int
) -> list[Request]:
    """n requests a prompt. Without a seed every call draws a new one."""
    seed = secrets.randbits(48) if body.seed is None else body.seed
    return [
        Request(
            prompt,
            Sampling(
                max_new_tokens=max_tokens,
                temperature=body.temperature,
                top_p=body.top_p,
                top_k=max(0, body.top_k),
                seed=seed + sample,
                stop_token_ids=chat.stop_token_ids,
            ),
        )
        for prompt in prompts
        for sample in range(body.n)
    ]


def _prompts(
    prompt: str | list[int] | list[str] | list[list[int]], encode: Callable[[str], tuple[int, ...]]
) -> list[tuple[int, ...]]:
    if isinstance(prompt, str):
        return [encode(prompt)]
    if not prompt:
        raise HTTPException(400, "prompt is empty: give a text, token ids, or a list of either")
    if isinstance(prompt[0], int):
        return [tuple(prompt)]
    return [encode(p) if isinstance(p, str) else tuple(p) for p in prompt]


def _check_model(body: _Body, model_name: str) -> None:
    if body.model and body.model != model_name:
        raise HTTPException(404, f"model {body.model!r} is not served; {model_name!r} is")


def _completion_choice(piece: Piece, body: _Body, chat: Chat, told: int) -> dict[str, Any]:
    made: dict[str, Any] = {"index": piece.choice, "text": piece.text, "finish_reason": piece.finish_reason}
    made["logprobs"] = None
    if isinstance(body, CompletionBody) and body.logprobs is not None:
        token_ids = piece.rollout.token_ids[told:]
        made["logprobs"] = {
            "tokens": [chat.decode((token,)) for token in token_ids],
            "token_logprobs": list(piece.rollout.logprobs[told:]),
        }
    return made


def _chat_choice(piece: Piece, body: _Body, chat: Chat, told: int) -> dict[str, Any]:
    message = {"role": "assistant", "content": piece.text}
    made: dict[str, Any] = {"index": piece.choice, "finish_reason": piece.finish_reason}
    made["delta" if body.stream else "message"] = message
    if isinstance(body, ChatBody) and body.logprobs:
        pairs = zip(piece.rollout.token_ids[told:], piece.rollout.logprobs[told:], strict=True)
        made["logprobs"] = {"content": [{"token": chat.decode((token,)), "logprob": p} for token, p in pairs]}
    return made


class _EngineMetrics:
    """Reads the engine's counters when Prometheus asks."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def collect(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
        engine, stats, pool = self._engine, self._engine.stats, self._engine.scheduler.pool
        for name, value, text in (
            ("steps", stats.num_steps, "Iterations of the scheduler"),
            ("prompt_tokens", stats.num_prompt_tokens, "Prompt tokens computed"),
            ("generated_tokens", stats.num_generated_tokens, "Tokens generated"),
            ("finished", stats.num_finished, "Sequences finished"),
            ("aborted", stats.num_aborted, "Sequences aborted"),
            ("preempted", stats.num_preempted, "Preemptions"),
        ):
            yield CounterMetricFamily(f"openmimo_{name}", text, value=value)
        yield GaugeMetricFamily("openmimo_active", "Sequences submitted and not finished", value=engine.num_active)
        yield GaugeMetricFamily("openmimo_blocks_free", "Cache blocks nobody holds", value=pool.num_free)
        yield GaugeMetricFamily("openmimo_blocks", "Cache blocks", value=pool.num_blocks)
        rates = GaugeMetricFamily("openmimo_draft_acceptance", "Conditional acceptance", labels=["layer"])
        for layer, rate in engine.acceptance.rates().items():
            rates.add_metric([layer], rate)
        yield rates
