"""Claim: same seeds, same batch: whatever the timing, the workers and the crashes, the groups are those of naive
dynamic sampling, token for token.

    python benchmarks/rl_same_batch.py [benchmarks/results/rl_same_batch.json]

A policy trained on a nano corpus, maths and code problems, the real engine and the real judge; batches of 8 valid
groups of 4 responses. First naive dynamic sampling (`baselines.Rounds`: whole rounds, each judged to its end),
undisturbed. Then 50 batches by `Seamless`, each with its own random choice of: groups at once (1 to unlimited), engines
(1 or 2, in this process or their own), judge workers (1 or 2), risk, longest first, sleeps of up to 20 ms around engine
steps and up to 100 ms before judgements; and crashes at random moments: an engine that raises (or its process killed
with -9) with probability 0.6 each, a judge's worker killed with -9 up to twice. Compared is a digest of (launch number,
problem, token ids, log-probabilities, rewards) of every group of the batch.

Figures: batches; batches that differ; the crashes that struck.
"""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import record
import torch
from rl_kill_recipe import recipe as make_recipe

from openmimo.data.chat import Chat
from openmimo.engine.engine import Engine, EngineConfig
from openmimo.engine.pool import EnginePool
from openmimo.engine.process import ProcessEngine, from_folder
from openmimo.judge.pool import JudgePool
from openmimo.model.hf import load_folder
from openmimo.rl.config import RLConfig
from openmimo.rl.sampling import ProblemPool
from openmimo.rl.train import score
from openmimo.rollout.baselines import Rounds
from openmimo.rollout.driver import BatchResult, rollout_batch
from openmimo.rollout.history import History
from openmimo.rollout.seamless import Seamless
from openmimo.rows import read_problems
from openmimo.types import Problem, Request, Rollout, Sampling, Verdict

NUM_BATCHES, BATCH_GROUPS, NUM_ROLLOUTS = 50, 8, 4
RECIPE = Path(__file__).with_name("rl_kill_recipe.py")


class SlowEngine:
    """Sleeps around steps; raises at one of them, if asked to. Dies with -9, if it is a process."""

    def __init__(self, engine: Any, rng: random.Random, crash_at: int | None, crashes: Counter[str]) -> None:
        self.engine, self.rng, self.crash_at, self.crashes = engine, rng, crash_at, crashes
        self.steps = 0
        self.submit: Callable[[Request], int] = engine.submit
        self.abort: Callable[[int], None] = engine.abort
        self.update_weights = engine.update_weights
        self.close = getattr(engine, "close", lambda: None)

    @property
    def num_active(self) -> int:
        return int(self.engine.num_active)

    def step(self) -> list[tuple[int, Rollout]]:
        time.sleep(self.rng.random() * 0.02)
        self.steps += 1
        if self.steps == self.crash_at:
            if isinstance(self.engine, ProcessEngine):
                self.crashes["engine process killed"] += 1
                os.kill(self.engine.pid, signal.SIGKILL)
            else:
                self.crashes["engine raised"] += 1
                raise RuntimeError("injected")
        return list(self.engine.step())


class SlowJudge:
    """Hands work to the judge after a random moment."""

    def __init__(self, judge: JudgePool, rng: random.Random) -> None:
        self.judge, self.rng = judge, rng

    def submit(self, problem: Problem, text: str) -> Future[Verdict]:
        late: Future[Verdict] = Future()

        def work() -> None:
            try:
                late.set_result(self.judge.judge(problem, text))
            except Exception as error:  # the pool was closed under it, or cannot judge: the driver raises it
                late.set_exception(error)

        timer = threading.Timer(self.rng.random() * 0.1, work)
        timer.daemon = True
        late.set_running_or_notify_cancel()
        timer.start()
        return late


def kill_judges(rng: random.Random, crashes: Counter[str], over: threading.Event, number: int) -> None:
    """Kill so many of this process's judge workers, at random moments."""
    for _ in range(number):
        over.wait(rng.random() * 0.5)
        for pid in record.children(os.getpid()):
            try:
                words = Path(f"/proc/{pid}/cmdline").read_bytes()
            except OSError:
                continue
            if b"openmimo.judge" in words and not over.is_set():
                os.kill(pid, signal.SIGKILL)
                crashes["judge worker killed"] += 1
                break


def digest(result: BatchResult) -> str:
    found = hashlib.sha256()
    for group in result.groups:
        for rollout, points in zip(group.rollouts, group.rewards, strict=True):
            logprobs = [p.hex() for p in rollout.logprobs]
            found.update(repr((group.launch, group.problem.id, rollout.token_ids, logprobs, points)).encode())
    return found.hexdigest()


def main() -> None:
    torch.set_num_threads(1)
    seed = random.SystemRandom().randrange(10**6)
    rng = random.Random(seed)
    recipe = make_recipe()
    crashes: Counter[str] = Counter()
    differ, sizes, launched = 0, [], []
    with tempfile.TemporaryDirectory() as temporary:
        out = Path(temporary) / "run"
        for stage in ("data", "pretrain", "sft", "draft", "rl"):
            short = ["--set", "rl.steps=0"]  # of RL the curation alone
            command = [sys.executable, "-m", "openmimo", stage, f"{RECIPE}:recipe", "--out", str(out), "--seed", "1"]
            subprocess.run([*command, *short], check=True, capture_output=True)
        folder = out / "models" / "draft"
        chat = Chat.load(folder)
        problems = read_problems(out / "data" / "problems" / "rl_curated.jsonl")
        sizes_of = EngineConfig(max_model_len=512, num_token_ids=chat.tokenizer.get_vocab_size())
        history = History({"main": 0.5, "easy": 0.1})
        draws = ProblemPool(problems, 1).draws(0)

        def batch(engine: Any, judge: Any, policy: Seamless) -> BatchResult:
            def decode(ids: Sequence[int]) -> str:
                return chat.decode(ids)

            return rollout_batch(
                engine, judge, draw=draws, render=lambda problem: chat.render_prompt(problem.prompt), decode=decode,
                sampling=Sampling(recipe.rl.max_new_tokens, stop_token_ids=chat.stop_token_ids),
                num_rollouts=NUM_ROLLOUTS, valid=lambda group: score(group, RLConfig()), policy=policy, seed=1, step=0,
                context=recipe.rl.context,
            )  # fmt: skip

        with JudgePool(2, recipe.judge) as judge:
            naive = batch(Engine(load_folder(folder), sizes_of), judge, Rounds(BATCH_GROUPS))
        wanted = digest(naive)
        print(f"naive: {[group.launch for group in naive.groups]}", file=sys.stderr)
        for trial in range(NUM_BATCHES):
            count, apart = rng.choice((1, 2)), rng.random() < 0.3
            crash = [rng.randrange(1, 60) if rng.random() < 0.6 else None for _ in range(count)]

            def build(number: int, apart: bool = apart, at: int | None = None) -> SlowEngine:
                process = ProcessEngine(from_folder(folder, sizes_of, threads=1)) if apart else None
                engine = process or Engine(load_folder(folder), sizes_of)
                return SlowEngine(engine, random.Random(rng.random()), at, crashes)

            pool = EnginePool([build(n, at=crash[n]) for n in range(count)], build=build)
            policy = Seamless(
                BATCH_GROUPS, lambda number: history.chance(draws(number)[0].id, draws(number)[1]),
                max_active=rng.choice((1, 2, 3, 6, None)), risk=rng.choice((None, 0.05, 0.2, 0.5)),
                length=rng.choice((None, lambda number, trial=trial: float(hash((trial, number)) % 97))),
            )  # fmt: skip
            over = threading.Event()
            with JudgePool(rng.choice((1, 2)), recipe.judge) as judge:
                killer = threading.Thread(target=kill_judges, args=(rng, crashes, over, rng.choice((0, 0, 1, 2))))
                killer.start()
                result = batch(pool, SlowJudge(judge, random.Random(rng.random())), policy)
                over.set()
                killer.join()
            pool.close()
            same = digest(result) == wanted
            differ += not same
            sizes.append(len(result.groups))
            launched.append(result.stats.launched)
            print(f"batch {trial + 1}: {'same' if same else 'DIFFERS'}, {dict(crashes)}", file=sys.stderr)
    record.write(
        "50 batches under random timings, worker counts and crashes are the batch of naive dynamic sampling",
        "python benchmarks/rl_same_batch.py",
        {
            "seed": seed,
            "batches": NUM_BATCHES,
            "batches_that_differ": differ,
            "groups_a_batch": sorted(set(sizes)),
            "naive_launched": naive.stats.launched,
            "launched": record.spread([float(n) for n in launched], "groups", 0),
            "responses_compared_a_batch": BATCH_GROUPS * NUM_ROLLOUTS,
            "crashes": dict(sorted(crashes.items())),
        },
        torch=torch.__version__,
    )


if __name__ == "__main__":
    main()
