"""A judge over HTTP, for boxes without a model (MiMo 3.4.1, dedicated judge servers).

POST /judge {"problem": {...}, "response": "..."} -> verdict; GET /health; GET /metrics for Prometheus. Rows as in
`openmimo/rows.py`. It has no authentication: keep it on a private network.
"""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from openmimo.judge.pool import JudgeConfig, JudgePool
from openmimo.rows import problem_from


def create_app(config: JudgeConfig | None = None, *, num_workers: int | None = None) -> Any:
    """A FastAPI application that owns a JudgePool while it is up."""
    from fastapi import Body, FastAPI, HTTPException, Response
    from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest

    registry = CollectorRegistry()
    verdicts = Counter(
        "openmimo_judge_verdicts", "Verdicts given, by kind and status", ["kind", "status"], registry=registry
    )
    seconds = Histogram("openmimo_judge_seconds", "Seconds from request to verdict", ["kind"], registry=registry)
    waiting = Gauge("openmimo_judge_waiting", "Responses that no worker has taken yet", registry=registry)
    pools: list[JudgePool] = []

    @asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[None]:
        pools.append(JudgePool(num_workers, config))
        waiting.set_function(lambda: pools[0].num_waiting)
        yield
        await asyncio.to_thread(pools[0].close)

    app = FastAPI(title="openmimo judge", lifespan=lifespan)

    @app.post("/judge")
    async def judge(body: dict[str, Any] = Body()) -> dict[str, Any]:
        started_s = time.monotonic()
        if not isinstance(body.get("problem"), dict) or not isinstance(body.get("response"), str):
            raise HTTPException(422, "expected {problem: object, response: text}")
        try:
            problem = problem_from(body["problem"])
            future = pools[0].submit(problem, body["response"])
        except ValueError as error:
            raise HTTPException(422, str(error)) from error
        verdict = await asyncio.wrap_future(future)
        verdicts.labels(problem.kind, verdict.status).inc()
        seconds.labels(problem.kind).observe(time.monotonic() - started_s)
        return dataclasses.asdict(verdict)

    @app.get("/health")
    async def health() -> dict[str, Any]:
        return {"status": "ok", "waiting": pools[0].num_waiting}

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    return app


def serve(config: JudgeConfig | None = None, *, host: str = "127.0.0.1", port: int = 8100) -> None:
    """Serve until interrupted."""
    import uvicorn

    uvicorn.run(create_app(config), host=host, port=port, log_level="warning")
