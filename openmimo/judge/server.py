"""A judge over HTTP, for boxes without a model (MiMo 3.4.1, dedicated judge servers): `openmimo judge serve`.

    POST /judge {"problem": {as PROBLEM.json}, "response": "...", "source": false, "id": "...", "deadline_s": 60}
        200 the verdict; 202 not yet, after `wait_s`: send it again; 401 no or a wrong token; 413 too large;
        422 a mistake, named; 429 the queue is full: again after Retry-After seconds
    GET /health     without a token: whether it is up, workers, responses waiting and running
    GET /metrics    for Prometheus

It runs programs for whoever has the token; the token travels in clear, so keep it on a private network.
"""

from __future__ import annotations

import asyncio
import dataclasses
import hmac
import os
import queue
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI, HTTPException, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from openmimo.config import missing_file, nearest
from openmimo.judge.config import JudgeConfig
from openmimo.judge.pool import TOKEN_VARIABLE, JudgePool
from openmimo.judge.problem_file import parse_json, problem_from_json
from openmimo.types import Problem

_FIELDS = ("problem", "response", "source", "id", "deadline_s", "wait_s")
_MAX_WAIT_S = 3600.0


@dataclasses.dataclass(frozen=True)
class Order:
    """The body of a request to judge."""

    problem: Problem
    response: str
    source: bool
    id: str | None
    deadline_s: float | None
    wait_s: float
    """After this it is answered "not yet"; it takes an id to ask again."""


def parse_order(data: bytes) -> Order:
    """A request's body.

    Raises:
        ValueError: naming the field at fault.
    """
    row = parse_json(data, "the body")
    if not isinstance(row, dict):
        raise ValueError(f"the body must be an object with problem and response, got a {type(row).__name__}")
    for name in row:
        if name not in _FIELDS:
            raise ValueError(f"unknown key {name!r}; the nearest is {nearest(name, _FIELDS)!r}")
    for name in ("problem", "response"):
        if name not in row:
            raise ValueError(f"the body lacks {name!r}")
    kinds = {"response": (str,), "source": (bool,), "id": (str, type(None)), **dict.fromkeys(_FIELDS[4:], (int, float))}
    for name, types in kinds.items():
        if name in row and type(row[name]) not in types:
            raise ValueError(f"{name} must be {types[0].__name__}, got {str(row[name])[:80]!r}")
    for name in ("deadline_s", "wait_s"):
        if name in row and not row[name] > 0:
            raise ValueError(f"{name} must be positive, got {row[name]}")
    if "wait_s" in row and not row.get("id"):
        raise ValueError("wait_s needs an id, to ask for the same work again")
    return Order(
        problem_from_json(row["problem"]),
        row["response"],
        row.get("source", False),
        row.get("id"),
        row.get("deadline_s"),
        min(row.get("wait_s", _MAX_WAIT_S), _MAX_WAIT_S),
    )


def create_app(
    config: JudgeConfig | None = None,
    *,
    num_workers: int | None = None,
    token: str = "",
    max_body_bytes: int = 64 << 20,
) -> FastAPI:
    """A FastAPI application that owns a JudgePool while it is up.

    Args:
        token: asked of every request but /health; empty asks for none.
        max_body_bytes: of a request; a larger one is refused before it is read to the end.
    """
    registry = CollectorRegistry()
    verdicts = Counter(
        "openmimo_judge_verdicts", "Verdicts given, by kind and status", ["kind", "status"], registry=registry
    )
    seconds = Histogram("openmimo_judge_seconds", "Seconds from request to verdict", ["kind"], registry=registry)
    gauges = {
        "waiting": Gauge("openmimo_judge_waiting", "Responses that no worker has taken yet", registry=registry),
        "running": Gauge("openmimo_judge_running", "Responses that a worker has taken", registry=registry),
        "redone": Gauge("openmimo_judge_redone", "Times that work was redone after a loss", registry=registry),
    }
    pools: list[JudgePool] = []

    @asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[None]:
        pool = JudgePool(num_workers, config)
        gauges["waiting"].set_function(lambda: pool.num_waiting)
        gauges["running"].set_function(lambda: pool.num_running)
        gauges["redone"].set_function(lambda: pool.num_redone)
        pools.append(pool)
        try:
            yield
        finally:
            pools.clear()
            await asyncio.to_thread(pool.close, now=True)

    app = FastAPI(title="openmimo judge", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)

    def admit(request: Request) -> None:
        given = request.headers.get("authorization", "").removeprefix("Bearer ")
        if token and not hmac.compare_digest(given.encode(), token.encode()):
            raise HTTPException(
                401, "a token is needed: Authorization: Bearer TOKEN", headers={"WWW-Authenticate": "Bearer"}
            )

    async def body_of(request: Request) -> bytes:
        parts, size = [], 0
        async for part in request.stream():
            size += len(part)
            if size > max_body_bytes:
                raise HTTPException(413, f"the body is larger than {max_body_bytes} bytes")
            parts.append(part)
        return b"".join(parts)

    @app.post("/judge")
    async def judge(request: Request, response: Response) -> dict[str, Any]:
        started_s = time.monotonic()
        admit(request)
        data = await body_of(request)
        try:
            order = await asyncio.to_thread(parse_order, data)
            future = pools[0].submit(
                order.problem,
                order.response,
                source=order.source,
                deadline_s=order.deadline_s,
                id=order.id,
                block=False,
            )
        except ValueError as error:
            raise HTTPException(422, str(error)) from error
        except queue.Full as error:
            raise HTTPException(429, str(error), headers={"Retry-After": "1"}) from error
        try:
            # A caller that goes away takes nothing with it: under the same id the verdict is there when it returns.
            verdict = await asyncio.wait_for(asyncio.shield(asyncio.wrap_future(future)), order.wait_s)
        except TimeoutError:
            response.status_code = 202
            return {"detail": "not yet; send it again"}
        except RuntimeError as error:
            raise HTTPException(500, str(error)) from error
        verdicts.labels(order.problem.kind, verdict.status).inc()
        seconds.labels(order.problem.kind).observe(time.monotonic() - started_s)
        return dataclasses.asdict(verdict)

    @app.get("/health")
    async def health(request: Request) -> dict[str, Any]:
        if "authorization" in request.headers:
            admit(request)
        pool = pools[0]
        return {
            "status": "ok", "workers": pool.num_lanes, "waiting": pool.num_waiting, "running": pool.num_running,
        }  # fmt: skip

    @app.get("/metrics")
    async def metrics(request: Request) -> Response:
        admit(request)
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    return app


def read_token(path: Path | None) -> str:
    """The token of a file or, without one, of the environment; empty if there is none.

    Raises:
        ValueError: for a file that is missing, or holds no token of one line.
    """
    if path is None:
        return os.environ.get(TOKEN_VARIABLE, "")
    if not path.is_file():
        raise missing_file(path)
    token = path.read_bytes().decode("utf-8", "replace").strip()
    if not token or not token.isascii() or not token.isprintable():
        raise ValueError(f"{path} must hold a token: one line of ASCII, such as `openssl rand -hex 32` prints")
    return token


def serve(
    config: JudgeConfig | None = None,
    *,
    host: str = "127.0.0.1",
    port: int = 8100,
    token: str = "",
    max_body_bytes: int = 64 << 20,
) -> None:
    """Serve until interrupted.

    Raises:
        ValueError: without a token, for an address that others can reach; where programs cannot be isolated, unless
            the config accepts that.
    """
    import uvicorn

    from openmimo.judge.sandbox import supervisor

    if not token and host not in ("127.0.0.1", "::1", "localhost"):
        raise ValueError(f"--host {host} can be reached by others: give --token-file, or set OPENMIMO_JUDGE_TOKEN")
    isolation = supervisor.self_test()
    if isolation.level == "refused" and not (config or JudgeConfig()).accept_unsafe:
        raise ValueError(f"programs would run unguarded here ({isolation.reason}); accept it with --i-accept-unsafe")
    app = create_app(config, token=token, max_body_bytes=max_body_bytes)
    uvicorn.run(app, host=host, port=port, log_level="warning", timeout_graceful_shutdown=2)
