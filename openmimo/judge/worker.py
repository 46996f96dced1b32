"""One judge process: `python -m openmimo.judge.worker FD`. The pool starts, feeds, kills and replaces it.

It has a single thread and imports little: the zygote and math-verify come with the first problem that needs them.
"""

from __future__ import annotations

import sys
from contextlib import ExitStack
from multiprocessing.connection import Connection

from openmimo.judge.code import judge_code
from openmimo.judge.math import Verifier, judge_math
from openmimo.judge.pool import JudgeConfig
from openmimo.judge.sandbox.supervisor import Sandbox, SandboxLost
from openmimo.types import Problem, Verdict


def main() -> None:
    with Connection(int(sys.argv[1])) as connection, ExitStack() as stack:
        config: JudgeConfig = connection.recv()
        sandbox = stack.enter_context(Sandbox(config.limits))
        verifier = stack.enter_context(Verifier(wall_s=config.math_wall_s, memory_bytes=config.math_memory_bytes))
        while True:
            try:
                problem, text = connection.recv()
            except (EOFError, ConnectionResetError):
                return
            connection.send(judge(problem, text, sandbox, verifier, config))


def judge(problem: Problem, text: str, sandbox: Sandbox, verifier: Verifier, config: JudgeConfig) -> Verdict:
    if problem.kind == "math":
        return judge_math(problem, text, verifier)
    try:
        return judge_code(
            problem,
            text,
            sandbox,
            share_process=config.share_process,
        )
    except SandboxLost as error:
        return Verdict("internal_error", detail=str(error))


if __name__ == "__main__":
    main()
