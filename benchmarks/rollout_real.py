"""Claim: the same RL steps take less time under the Seamless Rollout Engine than under naive dynamic sampling.

    python benchmarks/rollout_real.py RUN [benchmarks/results/rollout_real.json] [--rounds 3] [--brief]

RUN is a finished run of `tiny`: its RL model and its curated problems, so that the steps are those of a run in
progress, with P(valid) near MiMo's (Table 2, decoded: about three naive rounds a batch). Real engine, real judge, real
updates on two cores; STEPS steps of every method from the same weights and seed, in turn. Every method ends with the
same weights, bit for bit, so the batches were the same.

Naive generates a whole round of B groups, judges it, and begins again until B are valid; then it trains. It has both
cores at every moment: two engines in processes of their own, a judge of two workers, two threads to train. The others
have the same engines, workers and threads. They differ by one thing each from the row before: `seamless` is the
paper's engine (continuous, asynchronous rewards, early termination), then come predictive launch, longest first, and
streamed updates, which together are ours.

`--brief` leaves out the methods between the paper's and ours. `with latencies` repeats naive, the paper's and ours with
what a GPU and a busy judge take: an engine step takes STEP_S at least, however many requests it advances, and a verdict
a log-normal time longer in LANES lanes, so that rewards take about half of what generation does (MiMo Table 2,
decoded). Nothing else sleeps.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import random
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import record
import torch

from openmimo.data.chat import Chat
from openmimo.engine.pool import EnginePool
from openmimo.engine.process import engines_of
from openmimo.judge.pool import JudgePool
from openmimo.log import read_metrics
from openmimo.model.hf import load_folder
from openmimo.recipes.tiny import tiny
from openmimo.rl.config import RLConfig
from openmimo.rl.train import Decides, train
from openmimo.rollout.baselines import Rounds
from openmimo.rollout.driver import Judge
from openmimo.rollout.replay import read_trace, replay
from openmimo.rows import read_problems
from openmimo.types import Problem, Request, Rollout, Verdict

STEPS, NUM_ROUNDS, THREADS, WORKERS, ENGINES, SLOTS = 5, 3, 2, 2, 2, 512
STEP_S, VERDICT_MEDIAN_S, VERDICT_SIGMA, LANES = 0.04, 0.05, 0.75, 8
RECIPE = tiny()
BASE = replace(RECIPE.rl, steps=STEPS, validate_every=0, checkpoint_every=STEPS, show_every=0, max_active_groups=64)
METHODS: dict[str, RLConfig] = {
    "naive": BASE,
    "seamless": replace(BASE, risk=None, longest_first=False),
    "+ predictive": replace(BASE, longest_first=False),
    "+ longest first": BASE,
    "+ streamed updates": replace(BASE, stream_updates=True),
}
OURS = "+ streamed updates"


def rounds(config: RLConfig, history: Any, draws: Any) -> Rounds:
    return Rounds(config.batch_groups, max_launched=config.batch_groups * config.max_launch_factor)


class Barrier:
    """Engine and judge of the naive method: nothing is judged before all that runs has been generated."""

    def __init__(self, engine: Any, judge: Judge) -> None:
        self._engine, self._judge = engine, judge
        self._held: list[tuple[Problem, str, Future[Verdict]]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def submit(self, *args: Any) -> Any:
        """A request of the driver's, or a response to judge."""
        if len(args) == 1:
            return self._engine.submit(*args)
        future: Future[Verdict] = Future()
        self._held.append((*args, future))
        return future

    def step(self) -> list[tuple[int, Rollout]]:
        done = self._engine.step()
        if done and not self._engine.num_active:  # the driver hands these over and then waits for verdicts
            due = len(self._held) + len(done)
            threading.Thread(target=self._release, args=(due,), daemon=True).start()
        return done

    def _release(self, due: int) -> None:
        while len(self._held) < due:
            time.sleep(1e-4)
        held, self._held = self._held, []
        for problem, text, future in held:
            self._judge.submit(problem, text).add_done_callback(
                lambda done, future=future: future.set_result(done.result())
            )


class SlowEngine:
    """An engine whose every step takes STEP_S at least."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def submit(self, request: Request) -> int:
        return self._engine.submit(request)

    def step(self) -> list[tuple[int, Rollout]]:
        until = time.perf_counter() + STEP_S
        done: list[tuple[int, Rollout]] = self._engine.step()
        time.sleep(max(0.0, until - time.perf_counter()))
        return done


class SlowJudge:
    """A judge whose verdicts take a time longer that the response decides, LANES at once."""

    def __init__(self, judge: Judge) -> None:
        self._judge, self._lanes = judge, ThreadPoolExecutor(LANES)

    def submit(self, problem: Problem, text: str) -> Future[Verdict]:
        return self._lanes.submit(self._verdict, problem, text)

    def _verdict(self, problem: Problem, text: str) -> Verdict:
        seed = hashlib.blake2b(f"{problem.id} {text}".encode()).digest()
        time.sleep(VERDICT_MEDIAN_S * random.Random(seed).lognormvariate(0.0, VERDICT_SIGMA))
        return self._judge.submit(problem, text).result()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("run", type=Path)
    parser.add_argument("result", nargs="?", type=Path)
    parser.add_argument("--rounds", type=int, default=NUM_ROUNDS)
    parser.add_argument("--brief", action="store_true")
    arguments = parser.parse_args()
    run, num_rounds = arguments.run, arguments.rounds
    torch.set_num_threads(THREADS)
    ends = {name: METHODS[name] for name in ("naive", "seamless", OURS)}
    plain = measured(run, ends if arguments.brief else METHODS, num_rounds, slow=False)
    slow = measured(run, ends, num_rounds, slow=True)
    record.write(
        "RL steps under the Seamless Rollout Engine against naive dynamic sampling, same batches, two cores",
        "python benchmarks/rollout_real.py RUN",
        {
            "steps": STEPS,
            "batch_groups": BASE.batch_groups,
            "num_rollouts": BASE.num_rollouts,
            "engines": ENGINES,
            "judge_workers": WORKERS,
            "train_threads": THREADS,
            "plain": plain,
            "latencies": {"step_s": STEP_S, "verdict_median_s": VERDICT_MEDIAN_S, "lanes": LANES},
            "with latencies": slow,
        },
    )


def measured(run: Path, methods: dict[str, RLConfig], num_rounds: int, *, slow: bool) -> dict[str, Any]:
    """Seconds of every method, their ratios to naive, paired by round; what they were made of; and that all agree."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in methods}
    works: dict[str, Callable[[], float]] = {}
    for name, config in methods.items():

        def work(name: str = name, config: RLConfig = config) -> float:
            found[name].append(steps_of(run, config, naive=name == "naive", slow=slow))
            print(f"  {name}: {found[name][-1]['wall_s']:.1f} s", file=sys.stderr, flush=True)
            return float(found[name][-1]["wall_s"])

        works[name] = work
    seconds = record.interleaved(works, num_rounds)
    digests = {row["weights"] for rows in found.values() for row in rows}
    last = {name: rows[-1] for name, rows in found.items()}
    return {
        "same weights": len(digests) == 1,
        "generation : reward of naive": round(last["naive"]["generate_s"] / max(1e-9, last["naive"]["reward_s"]), 2),
        "wall_s": {name: record.spread(values, digits=2) for name, values in seconds.items()},
        "naive over it": {name: record.over(seconds, "naive", name) for name in seconds if name != "naive"},
        "replay over measured": {name: round(row["replay"], 3) for name, row in last.items() if "replay" in row},
        "last": {name: {k: v for k, v in row.items() if k not in ("weights", "replay")} for name, row in last.items()},
    }


def steps_of(run: Path, config: RLConfig, *, naive: bool, slow: bool) -> dict[str, Any]:
    """STEPS steps from the RL model, timed without starting and ending."""
    start = run / "models" / "rl"
    chat, model = Chat.load(start), load_folder(start)
    problems = read_problems(run / "data" / "problems" / "rl_curated.jsonl")
    engine_config = replace(
        RECIPE.engine, num_token_ids=chat.tokenizer.get_vocab_size(), max_batch_size=SLOTS // ENGINES
    )
    with (
        tempfile.TemporaryDirectory() as folder,
        engines_of(start, config=engine_config, count=ENGINES, device="cpu") as engines,
        JudgePool(WORKERS, RECIPE.judge) as pool,
        quiet(),
    ):
        engines.update_weights(model.state_dict(), 0)  # they have started
        for future in [pool.submit(problem, "no answer") for problem in problems[:8]]:
            future.result()
        engine, judge = latencies(engines, pool) if slow else (engines, pool)
        decides: Decides | None = None
        if naive:
            engine = judge = Barrier(engine, judge)
            decides = rounds
        started = time.perf_counter()
        state = train(
            model, problems, config, chat=chat, engine=engine, judge=judge, seed=1, out=Path(folder),
            checkpoints=Path(folder) / "checkpoints", slots=SLOTS, decides=decides,
        )  # fmt: skip
        wall_s = time.perf_counter() - started
        rows = [row["timing"] for row in read_metrics(Path(folder), "rl")]
        trace = read_trace(Path(folder) / "rollouts" / "trace.jsonl")
        sums = {key: round(sum(row[key] for row in rows), 3) for key in ("rollout_s", "train_s", "generate_s")}
        found = {
            "wall_s": round(wall_s, 3),
            **sums,
            "reward_s": round(sum(row["wait_for_judge_s"] for row in rows), 3),
            "launched": sum(row["launched_groups"] for row in rows),
            "aborted": sum(row["aborted_groups"] for row in rows),
            "waste": round(sum(row["waste"] for row in rows) / len(rows), 3),
            "idle": round(sum(row["idle"] for row in rows) / len(rows), 3),
            "weights": digest(state.model),
        }
        if not naive and not config.stream_updates:
            found["replay"] = sum(replay(trace)) / sum(step.wall_s for step in trace)
    return found


def latencies(engines: EnginePool, pool: JudgePool) -> tuple[Any, Judge]:
    return SlowEngine(engines), SlowJudge(pool)


def digest(model: torch.nn.Module) -> str:
    found = hashlib.blake2b(digest_size=8)
    for tensor in model.state_dict().values():
        found.update(tensor.numpy().tobytes())
    return found.hexdigest()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """The trainer's lines are not this benchmark's."""
    with open("/dev/null", "w") as nowhere, contextlib.redirect_stderr(nowhere):
        yield


if __name__ == "__main__":
    main()
