"""OpenAI-compatible HTTP over an engine (MiMo 3.5 evaluates through one): routes, admission, errors.

    POST /v1/completions, /v1/chat/completions    text at once, or streamed as server-sent events
    GET  /v1/models, /v1/models/NAME
    GET  /health     200 when ready, else 503; /metrics for Prometheus; / a page to chat on: these need no key
    GET  /openapi.json

A client that hangs up has its sequences aborted. Every refusal is OpenAI's error object with one clear line. Left out:
tools, images, batches, embeddings, the Responses endpoint; docs/serving.md lists what differs from OpenAI.
"""

from __future__ import annotations

import asyncio
import hmac
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from fastapi import FastAPI, Response
from fastapi import Request as HttpRequest
from fastapi.openapi.utils import get_openapi
from fastapi.responses import HTMLResponse, JSONResponse, StreamingResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic.json_schema import models_json_schema
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from openmimo.engine.engine import Engine
from openmimo.engine.sample import LEAST_TEMPERATURE, choice_seed
from openmimo.engine.server.answers import Answer, Prompt
from openmimo.engine.server.bodies import MAX_CHOICES, Body, ChatBody, CompletionBody, parse
from openmimo.engine.server.errors import ErrorBody, Refusal
from openmimo.engine.server.metrics import registry_of
from openmimo.engine.server.thread import EngineThread
from openmimo.types import Request, Sampling

if TYPE_CHECKING:
    from openmimo.data.chat import Chat

DEFAULT_MAX_TOKENS = 16
"""Of /v1/completions, as OpenAI has it; a chat may fill the context."""
_STREAM_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}  # a proxy must not collect the pieces
PAGE = Path(__file__).with_name("page.html")
PAGE_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; img-src data:"
)

T = TypeVar("T")


def create_app(
    engine: Engine,
    chat: Chat,
    *,
    model_name: str = "openmimo",
    api_key: str = "",
    max_waiting: int = 256,
    max_body_bytes: int = 4 << 20,
) -> FastAPI:
    """The HTTP application; its lifespan starts and stops the engine's thread, which is `app.state.worker`.

    Args:
        api_key: asked of everything under /v1; empty asks for none.
        max_waiting: sequences that may wait beyond the running batch; then calls are answered 429.
        max_body_bytes: of a request; a larger one is refused before it is read to the end.
    """
    worker = EngineThread(engine, max_waiting=max_waiting)
    registry = registry_of(worker)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        worker.start()
        yield
        await asyncio.to_thread(worker.stop)

    app = FastAPI(title="openmimo", lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.worker = worker
    app.add_exception_handler(Refusal, _on_refusal)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(Exception, _on_mistake)

    def admit(http: HttpRequest) -> None:
        given = http.headers.get("authorization", "").removeprefix("Bearer ")
        if api_key and not hmac.compare_digest(given.encode("utf-8", "replace"), api_key.encode()):
            raise Refusal(
                401,
                "an API key is needed: Authorization: Bearer KEY",
                code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )

    @app.get("/health", responses=_refusals(503))
    async def health() -> dict[str, str]:
        """200 when the engine is ready; 503 while it starts, while it ends, and after it has failed."""
        if worker.state != "ready":
            raise Refusal(503, f"not ready: the engine is {worker.state}")
        return {"status": "ok"}

    @app.get("/metrics", response_class=Response)
    async def metrics() -> Response:
        """Figures for Prometheus."""
        return Response(generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    @app.get("/", response_class=HTMLResponse)
    async def page() -> HTMLResponse:
        """A page to chat on."""
        return HTMLResponse(PAGE.read_text(encoding="utf-8"), headers={"Content-Security-Policy": PAGE_POLICY})

    card = {"id": model_name, "object": "model", "created": 0, "owned_by": "openmimo"}
    card["max_model_len"] = engine.config.max_model_len

    @app.get("/v1/models", responses=_refusals(401))
    async def models(http: HttpRequest) -> dict[str, Any]:
        """The one model that is served."""
        admit(http)
        return {"object": "list", "data": [card]}

    @app.get("/v1/models/{name:path}", responses=_refusals(401, 404))
    async def model(name: str, http: HttpRequest) -> dict[str, Any]:
        """One model."""
        admit(http)
        _check_model(name, model_name)
        return card

    @app.post("/v1/completions", **_generates(CompletionBody))
    async def completions(http: HttpRequest) -> Response:
        """Go on with a text or token ids."""
        admit(http)
        body = await asyncio.to_thread(parse, CompletionBody, await _read(http, max_body_bytes))
        _check_model(body.model, model_name)
        prompts = await asyncio.to_thread(_prompts, body, chat)
        max_tokens = DEFAULT_MAX_TOKENS if body.max_tokens is None else body.max_tokens
        return await _respond(body, prompts, max_tokens, http)

    @app.post("/v1/chat/completions", **_generates(ChatBody))
    async def chat_completions(http: HttpRequest) -> Response:
        """Answer a conversation."""
        admit(http)
        body = await asyncio.to_thread(parse, ChatBody, await _read(http, max_body_bytes))
        _check_model(body.model, model_name)
        prompt = await asyncio.to_thread(_render, body, chat)
        max_tokens = body.max_completion_tokens or body.max_tokens or engine.config.max_model_len
        return await _respond(body, [prompt], max_tokens, http)

    async def _respond(body: Body, prompts: list[Prompt], max_tokens: int, http: HttpRequest) -> Response:
        requests = _requests(body, prompts, max_tokens, chat, engine)
        answer = Answer(body, prompts, chat, model_name)
        call = worker.open(requests, partials=bool(body.stream))
        with ExitStack() as stack:
            stack.callback(worker.close, call)
            await call.wait_accepted()
            if body.stream:
                return EventStream(_events(answer.chunks(call, worker)), stack.pop_all().close)
            return JSONResponse(await _unless_gone(http, answer.whole(call, worker)))

    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]
    return app


class EventStream(StreamingResponse):
    """Server-sent events; whatever ends them, a client that hung up too, closes their call."""

    def __init__(self, events: AsyncIterator[str], close: Callable[[], None]) -> None:
        super().__init__(events, media_type="text/event-stream", headers=_STREAM_HEADERS)
        self._close = close

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._close()


async def _events(chunks: AsyncIterator[dict[str, Any]]) -> AsyncIterator[str]:
    try:
        async for chunk in chunks:
            yield f"data: {json.dumps(chunk, allow_nan=False)}\n\n"  # ASCII: some clients split at Unicode's line ends
    except Refusal as refusal:  # the status has been sent: the error is an event
        yield f"data: {json.dumps(refusal.body())}\n\n"
    yield "data: [DONE]\n\n"


async def _unless_gone(http: HttpRequest, work: Awaitable[T]) -> T:
    """The work's result, unless the client hangs up first."""

    async def gone() -> None:
        while (await http.receive())["type"] != "http.disconnect":
            pass

    working, watching = asyncio.ensure_future(work), asyncio.ensure_future(gone())
    try:
        await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise Refusal(499, "the client hung up")
        return working.result()
    finally:
        for task in (working, watching):
            task.cancel()
        await asyncio.gather(working, watching, return_exceptions=True)


async def _read(http: HttpRequest, max_body_bytes: int) -> bytes:
    kind = http.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise Refusal(415, f"the body must be application/json, got {kind[:80] or 'no Content-Type'}")
    parts, size = [], 0
    try:
        async for part in http.stream():
            size += len(part)
            if size > max_body_bytes:
                raise Refusal(413, f"the body is larger than {max_body_bytes} bytes", headers={"Connection": "close"})
            parts.append(part)
    except ClientDisconnect as error:
        raise Refusal(499, "the client hung up") from error
    return b"".join(parts)


def _prompts(body: CompletionBody, chat: Chat) -> list[Prompt]:
    given = body.prompt
    many: list[Any] = [given] if isinstance(given, str) or isinstance(given[0], int) else list(given)
    if len(many) * body.num_choices > MAX_CHOICES:
        raise Refusal(400, f"n times prompts must be at most {MAX_CHOICES}, got {len(many) * body.num_choices}")
    found = []
    for one in many:
        token_ids = chat.encode(one) if isinstance(one, str) else tuple(one)
        text = "" if not body.echo else one if isinstance(one, str) else _decode(chat, token_ids)
        found.append(Prompt(token_ids, text))
    return found


def _decode(chat: Chat, token_ids: tuple[int, ...]) -> str:
    try:
        return chat.decode(token_ids)
    except OverflowError as error:
        raise Refusal(400, f"prompt token id {max(token_ids)} is not in the vocabulary", param="prompt") from error


def _render(body: ChatBody, chat: Chat) -> Prompt:
    roles = {"developer": "system"}
    messages = [{"role": roles.get(m.role, m.role), "content": m.text} for m in body.messages]
    try:
        return Prompt(chat.render_messages(messages))
    except Exception as error:  # a folder's template may refuse anything, in any way
        why = " ".join(str(error).split())[:200]
        raise Refusal(400, f"messages cannot be rendered: {why}", param="messages") from error


def _requests(body: Body, prompts: list[Prompt], max_tokens: int, chat: Chat, engine: Engine) -> list[Request]:
    """n requests a prompt."""
    temperature = 1.0 if body.temperature is None else body.temperature
    echoes = isinstance(body, CompletionBody) and bool(body.echo) and body.logprobs is not None
    sampling = Sampling(
        max_new_tokens=min(max_tokens, engine.config.max_model_len),
        temperature=0.0 if temperature < LEAST_TEMPERATURE else temperature,
        top_p=1.0 if body.top_p is None else body.top_p,
        top_k=min(max(0, body.top_k or 0), engine.num_token_ids),
        min_p=body.min_p or 0.0,
        stop_token_ids=(*chat.stop_token_ids, *(body.stop_token_ids or ())),
        stop=body.stops,
        top_logprobs=min(body.num_top_logprobs or 0, engine.model.config.vocab_size),
        prompt_logprobs=echoes or max_tokens == 0,
    )
    return [
        Request(prompt.token_ids, replace(sampling, seed=choice_seed(body.seed, choice)))
        for prompt in prompts
        for choice in range(body.num_choices)
    ]


def _check_model(name: str | None, model_name: str) -> None:
    if name and name != model_name:
        short = name if len(name) <= 80 else f"{name[:77]}..."
        raise Refusal(404, f"model {short!r} is not served; {model_name!r} is", param="model", code="model_not_found")


async def _on_refusal(http: HttpRequest, error: Any) -> Response:
    return error.response()


async def _on_http_exception(http: HttpRequest, error: Any) -> Response:
    """Unknown paths and methods."""
    message = f"{error.detail}: {http.method} {http.url.path}"
    return Refusal(error.status_code, message, headers=error.headers).response()


async def _on_mistake(http: HttpRequest, error: Exception) -> Response:
    """A mistake of ours; the traceback is in the log."""
    return Refusal(500, f"the server made a mistake: {type(error).__name__}").response()


def _refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": ErrorBody, "description": "refused, with a message"} for status in statuses}


def _generates(body: type[Body]) -> dict[str, Any]:
    """What the OpenAPI description says of an endpoint that generates."""
    schema = {"$ref": f"#/components/schemas/{body.__name__}"}
    return {
        "response_class": Response,
        "responses": {
            200: {
                "description": "the answer, or with `stream` its events",
                "content": {"application/json": {"schema": {"type": "object"}}, "text/event-stream": {}},
            },
            **_refusals(400, 401, 404, 413, 415, 429, 500, 503),
        },
        "openapi_extra": {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}},
    }


def _openapi(app: FastAPI) -> dict[str, Any]:
    if not app.openapi_schema:
        found = get_openapi(title=app.title, version=app.version, routes=app.routes)
        template = "#/components/schemas/{model}"
        kinds = [(kind, "validation") for kind in (CompletionBody, ChatBody)]
        _, bodies = models_json_schema(kinds, ref_template=template)  # type: ignore[arg-type]
        found["components"]["schemas"].update(bodies["$defs"])
        app.openapi_schema = found
    return app.openapi_schema
