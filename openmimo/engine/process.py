"""An engine in a process of its own: requests and rollouts over a pipe, weights through shared memory (MiMo 3.4).

It generates while this process trains, packs or judges, and when it dies nothing else does: `EnginePool` replaces it.
The process ends with this one, however that ends.
"""

from __future__ import annotations

import contextlib
import multiprocessing
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from openmimo.engine.engine import Engine, EngineConfig
from openmimo.engine.pool import EnginePool, Steps
from openmimo.model.hf import load_folder
from openmimo.types import Request, Rollout

END_S = 5.0
"""Seconds that a process is given to end by itself."""


class EngineLost(RuntimeError):
    """The process is gone, or what it computed failed."""


class ProcessEngine:
    """An engine that `build` makes in a new process.

    Args:
        build: picklable, without arguments; such as `from_folder`.
    """

    def __init__(self, build: Callable[[], Engine]) -> None:
        context = multiprocessing.get_context("spawn")  # never fork: this process holds torch and its threads
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, build), name="engine", daemon=True)
        self._process.start()
        theirs.close()
        self._shared: dict[str, Tensor] = {}
        self._active: set[int] = set()

    @property
    def pid(self) -> int:
        """Of the process."""
        assert self._process.pid is not None
        return self._process.pid

    @property
    def num_active(self) -> int:
        """Sequences submitted and not finished."""
        return len(self._active)

    def submit(self, request: Request) -> int:
        """Queue a request.

        Raises:
            ValueError: as `Engine.submit`.
            EngineLost: if the process is gone.
        """
        handle: int = self._call("submit", request)
        self._active.add(handle)
        return handle

    def step(self) -> list[tuple[int, Rollout]]:
        """One iteration of the process's engine."""
        finished: list[tuple[int, Rollout]] = self._call("step")
        self._active -= {handle for handle, _ in finished}
        return finished

    def abort(self, handle: int) -> None:
        """Forget a sequence; a handle that is not active is ignored."""
        self._active.discard(handle)
        self._call("abort", handle)

    def update_weights(self, state_dict: Mapping[str, Tensor], version: int) -> None:
        """New weights, copied once into memory that both processes see.

        Raises:
            ValueError: as `Engine.update_weights`.
            EngineLost: if the process is gone.
        """
        shapes = {name: tensor.shape for name, tensor in state_dict.items()}
        if shapes != {name: tensor.shape for name, tensor in self._shared.items()}:
            self._shared = {name: torch.empty_like(t, device="cpu").share_memory_() for name, t in state_dict.items()}
            self._call("share", self._shared)
        with torch.no_grad():
            for name, tensor in state_dict.items():
                self._shared[name].copy_(tensor)
        self._call("update_weights", version)

    def close(self) -> None:
        """End the process."""
        self._connection.close()
        self._process.join(END_S)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def _call(self, name: str, *args: Any) -> Any:
        try:
            self._connection.send((name, args))
            kind, value = self._connection.recv()
        except (EOFError, OSError) as error:
            self._process.join(END_S)
            raise EngineLost(f"the engine's process ended with status {self._process.exitcode}") from error
        if kind == "refused":
            raise ValueError(value)
        if kind == "failed":
            raise EngineLost(value)
        return value


@contextlib.contextmanager
def engines_of(
    folder: Path, *, config: EngineConfig, count: int, device: str, dtype: torch.dtype | None = None
) -> Iterator[EnginePool]:
    """Engines of a model folder, lost ones replaced; ended on leaving.

    Args:
        count: engines in processes of their own, one CPU thread each; 0: one in this process, on `device`.
        dtype: of the weights of one in this process; None: the folder's own.
    """

    def build(number: int) -> Steps:
        if count:
            return ProcessEngine(from_folder(folder, config, threads=1, device=device))
        return Engine(load_folder(folder, dtype=dtype).to(device), config)

    pool = EnginePool([build(number) for number in range(max(1, count))], build=build)
    try:
        yield pool
    finally:
        pool.close()


def from_folder(
    folder: Path, config: EngineConfig, *, threads: int, device: torch.device | str = "cpu"
) -> Callable[[], Engine]:
    """What builds an engine from a model folder, with so many CPU threads."""
    return partial(_build, folder, config, threads, device)


def _build(folder: Path, config: EngineConfig, threads: int, device: torch.device | str) -> Engine:
    torch.set_num_threads(threads)
    return Engine(load_folder(folder).to(device), config)


def _serve(connection: Connection, build: Callable[[], Engine]) -> None:
    """What the process does until the other end is closed."""
    engine: Engine | None = None
    shared: dict[str, Tensor] = {}
    with contextlib.suppress(EOFError, OSError, KeyboardInterrupt):  # the other process has ended, or is ending
        while True:
            name, args = connection.recv()
            answer: tuple[str, Any]
            try:
                engine = engine or build()
                if name == "share":
                    (shared,) = args
                    answer = ("done", None)
                elif name == "update_weights":
                    engine.update_weights(shared, *args)
                    answer = ("done", None)
                else:
                    answer = ("done", getattr(engine, name)(*args))
            except ValueError as error:
                answer = ("refused", str(error))
            except Exception as error:
                answer = ("failed", f"{type(error).__name__}: {error}")
            connection.send(answer)
