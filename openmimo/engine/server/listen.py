"""The process that listens: sockets, signals, an end that cuts nobody off.

SIGTERM or SIGINT: new calls are refused (503), those that are open go on to their last byte, then the process ends with
status 0. A second signal ends it at once, with status 128 + signal.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import uvicorn
from fastapi import FastAPI

from openmimo.config import missing_file
from openmimo.engine.server.thread import EngineThread
from openmimo.log import say

KEY_VARIABLE = "OPENMIMO_API_KEY"
LOOPBACK = ("localhost", "127.", "::1")


def read_key(path: Path | None) -> str:
    """The API key of a file or, without one, of the environment; empty if there is none.

    Raises:
        ValueError: for a file that is missing, or a key that is not one line of ASCII.
    """
    if path is None:
        text, source = os.environ.get(KEY_VARIABLE, ""), KEY_VARIABLE
        if not text:
            return ""
    elif path.is_file():
        text, source = path.read_bytes().decode("utf-8", "replace").strip(), str(path)
    else:
        raise missing_file(path)
    if not text or not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError(f"{source} must hold an API key: one ASCII word, such as `openssl rand -hex 32` prints")
    return text


def listen(app: FastAPI, *, host: str, port: int, api_key: str = "") -> None:
    """Serve until a signal; returns when every open call has been answered.

    Args:
        port: 0 takes a free one. The address is printed.

    Raises:
        ValueError: when the address cannot be listened on.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(2048)  # from here on connections wait, and the line below is true
    except OSError as error:
        raise ValueError(f"cannot listen on {host}:{port}: {error.strerror or error}") from error
    if not api_key and not host.startswith(LOOPBACK):
        say(f"warning: {host} is reachable by others and no API key is set: give --api-key-file or {KEY_VARIABLE}")
    name = f"[{host}]" if ":" in host else host
    say(f"listening on http://{name}:{listener.getsockname()[1]}")
    logging.getLogger("asyncio").setLevel(logging.ERROR)  # it warns of every write to a client that has hung up
    config = uvicorn.Config(app, log_level="warning", timeout_keep_alive=30, ws="none", server_header=False)
    _Server(config, app.state.worker).run(sockets=[listener])


class _Server(uvicorn.Server):
    """uvicorn's, with signals of our own."""

    def __init__(self, config: uvicorn.Config, worker: EngineThread) -> None:
        super().__init__(config)
        self._worker = worker
        self._asked_to_end = False

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """uvicorn would raise the signal again at the end, and the status would not be 0."""
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """First drain, then end at once."""
        if self._asked_to_end:
            os._exit(128 + sig)
        self._asked_to_end = True
        self._worker.drain()

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second: whether to close the sockets."""
        if self._asked_to_end and not self._worker.calls:
            self.should_exit = True
        return await super().on_tick(counter)
