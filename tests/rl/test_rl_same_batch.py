"""Same seeds, same batch, with the real engine and the real judge: as naive dynamic sampling, whatever happens."""

import os
import random
import signal
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from small import CHAT, make_engine

from openmimo.engine.pool import EnginePool
from openmimo.judge.config import JudgeConfig
from openmimo.judge.pool import JudgePool
from openmimo.rl.config import RLConfig
from openmimo.rl.train import score
from openmimo.rollout.baselines import Rounds
from openmimo.rollout.driver import BatchResult, rollout_batch
from openmimo.rollout.seamless import Seamless
from openmimo.types import Problem, Sampling, UnitTest

JUDGE = JudgeConfig(share_process=True, accept_unsafe=True, wall_s=5.0)
MATH = Problem("m", "say 1", "math", answer="1/2")
CODE = Problem("c", "say 2", "code", tests=(UnitTest("", "2\n"), UnitTest("", "2")))


def draw(launch: int) -> tuple[Problem, str]:
    return replace(CODE if launch % 3 else MATH, id=f"p{launch}"), "main"


def decode(token_ids: Sequence[int]) -> str:
    """One of three answers; the right one is `2` as a program and, to be compared by algebra, 1/2 as 0.50."""
    digit = (token_ids[0] + len(token_ids)) % 3
    return f"```python\nprint({digit})\n```\nThus \\boxed{{{['0.50', '7', '8'][digit]}}}"


def batch(engine: Any, judge: Any, policy: Seamless) -> BatchResult:
    return rollout_batch(
        engine, judge, draw=draw, render=lambda problem: CHAT.render_prompt(problem.prompt), decode=decode,
        sampling=Sampling(8), num_rollouts=3, valid=lambda group: score(group, RLConfig()), policy=policy, seed=2,
        step=1,
    )  # fmt: skip


def facts(result: BatchResult) -> list[Any]:
    """What must not depend on the clock: verdicts hold times."""
    return [(g.launch, g.problem.id, [(r.token_ids, r.logprobs) for r in g.rollouts], g.rewards) for g in result.groups]


def fragile(rng: random.Random) -> Any:
    engine = make_engine()
    step, at = engine.step, rng.randrange(2, 12)

    def dying() -> Any:
        nonlocal at
        at -= 1
        if not at:
            raise RuntimeError("injected")
        return step()

    engine.step = dying  # type: ignore[method-assign]
    return engine


def judges() -> list[int]:
    """Judge workers of this process."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parent = (path / "stat").read_text().rsplit(")", 1)[1].split()[1]
            words = (path / "cmdline").read_bytes()
        except OSError:
            continue
        if parent == str(os.getpid()) and b"openmimo.judge" in words:
            found.append(int(path.name))
    return found


@pytest.fixture(scope="module")
def naive() -> list[Any]:
    with JudgePool(1, JUDGE) as judge:
        found = facts(batch(make_engine(), judge, Rounds(5)))
    assert len(found) == 5
    return found


@pytest.mark.parametrize(("num_engines", "max_active", "risk"), [(1, 1, None), (2, 3, 0.2), (2, None, 0.5)])
def test_a_batch_with_lost_engines_is_the_naive_one(
    naive: list[Any], num_engines: int, max_active: int | None, risk: float | None
) -> None:
    rng = random.Random(num_engines)
    pool = EnginePool([fragile(rng) for _ in range(num_engines)], build=lambda number: make_engine())
    policy = Seamless(5, lambda number: 0.6, max_active=max_active, risk=risk, length=lambda number: number % 4)
    with JudgePool(2, JUDGE) as judge:
        assert facts(batch(pool, judge, policy)) == naive
    pool.close()
    assert pool.num_lost >= 1


def test_a_batch_with_killed_judges_is_the_naive_one(naive: list[Any]) -> None:
    with JudgePool(2, JUDGE) as judge:
        killed = 0
        submit = judge.submit

        def killing(problem: Problem, text: str, **named: Any) -> Any:
            nonlocal killed
            future = submit(problem, text, **named)
            if killed < 2 and (pids := judges()):
                os.kill(pids[0], signal.SIGKILL)
                killed += 1
            return future

        judge.submit = killing  # type: ignore[method-assign]
        assert facts(batch(make_engine(), judge, Seamless(5, lambda number: 0.6, max_active=2))) == naive
    assert killed == 2
