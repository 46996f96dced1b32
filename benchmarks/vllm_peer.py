"""vLLM beside us: a process in its own environment (`.venv-vllm`, made by `make vllm`) that runs rollouts on request.

Both ends are here. `VllmPeer` is for the benchmarks; the process itself is this file run by the other interpreter, one
JSON object a line in and out, through the product's own adapter (`openmimo.engine.vllm`). The engine's core runs in
that process, on one thread, so the CPU time it reports is all there is; starting and warming up are left out.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PYTHON = ROOT / ".venv-vllm" / "bin" / "python"


@dataclasses.dataclass(frozen=True)
class Answer:
    """What one batch of requests gave and took."""

    token_ids: list[list[int]]
    cpu_s: float
    wall_s: float
    drafted: int
    """Draft tokens judged since the process began."""
    accepted: int

    @property
    def num_tokens(self) -> int:
        return sum(map(len, self.token_ids))


class VllmPeer:
    """A vLLM process over a model folder; a context manager."""

    def __init__(self, folder: Path, *, log: Path | None = None, one_process: bool = True, **settings: Any) -> None:
        """
        Args:
            one_process: vLLM's core in the process that is asked, whose CPU time is then all; else where vLLM puts it.
            log: where vLLM's own messages go; nowhere if not given.
            settings: of `VllmEngine`.

        Raises:
            ValueError: when the environment is not there.
        """
        if not PYTHON.exists():
            raise ValueError(f"{PYTHON} does not exist: make vllm builds it")
        self._log = (log or Path(os.devnull)).open("wb")
        self._process = subprocess.Popen(
            [str(PYTHON), __file__, json.dumps({"checkpoint": str(folder), **settings})],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=environment() | {"VLLM_ENABLE_V1_MULTIPROCESSING": str(int(not one_process))},
            text=True,
        )
        self.ready = self._read()

    def __enter__(self) -> VllmPeer:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(60)
        self._log.close()

    def generate(self, requests: Sequence[Any]) -> Answer:
        """Run `openmimo.types.Request`s to their end; the prefix cache is emptied first."""
        asked = [{"prompt_ids": list(r.prompt_ids), "sampling": dataclasses.asdict(r.sampling)} for r in requests]
        return Answer(**self.ask({"generate": asked}))

    def ask(self, message: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(message) + "\n")
        self._process.stdin.flush()
        return self._read()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"vLLM ended with status {self._process.wait(60)}; its messages: {self._log.name}")
        answer: dict[str, Any] = json.loads(line)
        return answer


def environment() -> dict[str, str]:
    """One thread, no network, nothing reported home."""
    return {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": "WARNING",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }


def serve(settings: dict[str, Any]) -> None:
    """The other end: answer until standard input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # vLLM prints to standard output
    import torch
    from vllm import LLMEngine  # noqa: F401  (imported first, so that loading is timed without it)

    from openmimo.engine.vllm import VllmEngine
    from openmimo.types import Request, Sampling

    torch.set_num_threads(1)
    began = time.perf_counter()
    engine = VllmEngine(Path(settings.pop("checkpoint")), **settings)
    load_s = time.perf_counter() - began

    def answer(message: dict[str, Any]) -> None:
        answers.write(json.dumps(message) + "\n")
        answers.flush()

    answer({"threads": torch.get_num_threads(), "load_s": load_s})
    for line in sys.stdin:
        message = json.loads(line)
        if "reload" in message:
            engine.reload_weights(message["reload"])
            answer({"version": engine.policy_version})
            continue
        requests = []
        for row in message["generate"]:
            sampling = {k: tuple(v) if isinstance(v, list) else v for k, v in row["sampling"].items()}
            requests.append(Request(tuple(row["prompt_ids"]), Sampling(**sampling)))
        engine._engine.reset_prefix_cache()
        wall, cpu = time.perf_counter(), time.process_time()
        rollouts = engine.generate(requests)
        spent = {"cpu_s": time.process_time() - cpu, "wall_s": time.perf_counter() - wall}
        drafted, accepted = engine.drafts()
        answer({"token_ids": [r.token_ids for r in rollouts], "drafted": drafted, "accepted": accepted, **spent})


if __name__ == "__main__" and sys.argv[1:]:  # vLLM's own processes import this file again
    serve(json.loads(sys.argv[1]))
