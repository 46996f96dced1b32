"""One supervisor process: `python -m openmimo.judge.worker FD PARENT`. The pool starts, feeds, kills and replaces it.

It judges programs; maths has processes of its own (`math_pool.py`). It has a single thread; a zygote comes with the
first program. It dies with its parent, and what it started dies with it.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from multiprocessing.connection import Connection

from openmimo.judge.code import judge_code
from openmimo.judge.config import JudgeConfig
from openmimo.judge.sandbox.supervisor import Sandbox, SandboxLost
from openmimo.types import Problem, Verdict

_PR_SET_PDEATHSIG = 1


def main() -> None:
    die_with(int(sys.argv[2]))
    with Connection(int(sys.argv[1])) as connection:
        config: JudgeConfig = connection.recv()
        with Sandbox(config.limits, accept_unsafe=config.accept_unsafe) as sandbox:
            while True:
                try:
                    problem, text, source = connection.recv()
                except (EOFError, ConnectionResetError):
                    return
                connection.send(answer(problem, text, source, sandbox, config))


def die_with(parent_pid: int) -> None:
    """End when the parent ends, however it ends. Where the kernel cannot do that, the closed connection does it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent_pid:
            sys.exit(1)


def answer(
    problem: Problem, text: str, source: bool, sandbox: Sandbox, config: JudgeConfig
) -> tuple[str, Verdict | str]:
    """("verdict", it), ("lost", why) if the zygote died, ("refused", why) if no program may run here, or ("wrong", why)
    for a problem that cannot be judged."""
    try:
        return "verdict", judge_code(
            problem,
            _encodable(text) if source else text,
            sandbox,
            stop_on_fail=config.stop_on_fail,
            fuse=config.fuse,
            share_process=config.share_process,
            source=source,
        )
    except SandboxLost as error:
        return "lost", str(error)
    except RuntimeError as error:
        return "refused", str(error)
    except ValueError as error:
        return "wrong", " ".join(str(error).split())
    except Exception as error:
        return "verdict", Verdict("internal_error", detail=f"{type(error).__name__}: {error}"[:200])


def _encodable(text: str) -> str:
    """Halves of surrogate pairs, which JSON may hold, as the bytes that no UTF-8 has: for the compiler to refuse."""
    try:
        text.encode("utf-8", "surrogateescape")
        return text
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass").decode("utf-8", "surrogateescape")


if __name__ == "__main__":
    main()
