"""A small engine behind real HTTP, for the tests of the server; a chat format of bytes, small enough to see through."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import httpx
import torch
import uvicorn

from openmimo.engine.engine import Engine, EngineConfig
from openmimo.engine.server.app import create_app
from openmimo.engine.server.thread import EngineThread
from openmimo.model.config import MiMoConfig
from openmimo.model.mimo import MiMo

TINY = MiMoConfig(
    vocab_size=258,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
    head_dim=16,
    num_nextn_predict_layers=2,
    initializer_range=0.3,
)


class ByteChat:
    """Ids 0-255 are bytes, 256 ends a turn."""

    stop_token_ids: tuple[int, ...] = (256,)

    def encode(self, text: str) -> tuple[int, ...]:
        return tuple(text.encode())

    def render_messages(self, messages: list[dict[str, str]]) -> tuple[int, ...]:
        return (*(b for m in messages for b in (*f"{m['role']}:{m['content']}".encode(), 256)), *b"assistant:")

    def decode(self, token_ids: tuple[int, ...]) -> str:
        return bytes(t for t in token_ids if t < 256).decode("utf-8", errors="replace")

    def token_bytes(self, token_id: int) -> bytes:
        return bytes((token_id,)) if token_id < 256 else f"<|{token_id}|>".encode()


CHAT: Any = ByteChat()


def make_engine(**config: Any) -> Engine:
    """A small random model; the same weights every time."""
    sizes = EngineConfig(max_batch_size=16, max_model_len=128, num_token_ids=257)
    return Engine(
        MiMo(TINY).init_weights(torch.Generator().manual_seed(0)), replace(sizes, **config), decode=CHAT.decode
    )


class Served:
    """A server in this process: its address, and what stands behind it."""

    def __init__(self, url: str, worker: EngineThread, loop: asyncio.AbstractEventLoop) -> None:
        self.url = url
        self.worker = worker
        self.engine = worker.engine
        self.loop = loop
        self.client = httpx.Client(base_url=url, timeout=60)

    def post(self, path: str, body: Any, status: int = 200) -> Any:
        """The answer's JSON."""
        answer = self.client.post(path, json=body)
        assert answer.status_code == status, answer.text
        return answer.json()

    def num_tasks(self) -> int:
        """asyncio tasks of the server."""

        async def count() -> int:
            return len(asyncio.all_tasks())

        return asyncio.run_coroutine_threadsafe(count(), self.loop).result(10)

    def until(self, condition: Callable[[], bool], within_s: float = 20.0) -> None:
        """Wait for what must come about."""
        end_s = time.monotonic() + within_s
        while not condition():
            assert time.monotonic() < end_s, f"not within {within_s} s"
            time.sleep(0.005)

    @contextlib.contextmanager
    def slowed(self, step_s: float) -> Iterator[None]:
        """Every step of the engine takes longer, so that there is time to do something meanwhile."""
        step = self.engine.step

        def slow() -> Any:
            time.sleep(step_s)
            return step()

        self.engine.step = slow  # type: ignore[method-assign]
        try:
            yield
        finally:
            del self.engine.step  # type: ignore[method-assign]


@contextlib.contextmanager
def served(*, app: dict[str, Any] | None = None, **config: Any) -> Iterator[Served]:
    """Serve a small engine on a free port, in a thread; `app` goes to create_app."""
    application = create_app(make_engine(**config), CHAT, model_name="tiny", **(app or {}))
    loops: list[asyncio.AbstractEventLoop] = []
    server = uvicorn.Server(uvicorn.Config(application, port=0, log_level="warning", ws="none"))

    async def run() -> None:
        loops.append(asyncio.get_running_loop())
        await server.serve()

    thread = threading.Thread(target=lambda: asyncio.run(run()), daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive(), "the server did not start"
        time.sleep(0.005)
    port = server.servers[0].sockets[0].getsockname()[1]
    found = Served(f"http://127.0.0.1:{port}", application.state.worker, loops[0])
    found.until(lambda: found.worker.state == "ready", 60)
    try:
        yield found
    finally:
        found.client.close()
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive(), "the server did not end"
