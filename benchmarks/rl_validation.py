"""Claim: validation through the streaming driver takes the time of the slower of generation and judging, where
generating first and judging then takes both.

    python benchmarks/rl_validation.py [benchmarks/results/rl_validation.json]

`eval.run.evaluate` on 60 problems with 8 samples each. Engine and judge are fakes with latencies of their own, so that
the ratio of generation to reward can be set: an engine of 16 slots whose step sleeps 5 ms and whose responses take 10
to 60 steps, a judge of 4 threads that sleep 0.5 to 1.5 times a mean, chosen for g : r = 3 : 1, 1 : 1 and 1 : 2. g and r
are measured in the same run: all responses generated with verdicts that cost nothing, then all of them judged. Rounds
alternate between the two.

Figures: at each ratio g, r, (g + r) / streamed, the bound (g + r) / max(g, r), their ratio, and the share of slots x
time without useful work.
"""

from __future__ import annotations

import random
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from statistics import fmean

import record

from openmimo.data.chat import Chat
from openmimo.data.tokenizer import train_tokenizer
from openmimo.eval.run import EvalConfig, evaluate
from openmimo.rollout.driver import Timing
from openmimo.types import Problem, Request, Rollout, Verdict

SLOTS, STEP_S, THREADS, NUM_ROUNDS = 16, 0.005, 4, 3
CONFIG = EvalConfig(num_samples=8, max_active_requests=SLOTS)
PROBLEMS = [Problem(f"p{n}", "say 1", "math", answer="1") for n in range(60)]
CHAT = Chat(train_tokenizer(["say 1"] * 3, 300))
RATIOS = {"3:1": 3.0, "1:1": 1.0, "1:2": 0.5}


class SleepingEngine:
    """A step is a sleep; a response takes 10 to 60 of them, by its seed."""

    def __init__(self) -> None:
        self.left: dict[int, list[int]] = {}
        self.requests: dict[int, Request] = {}
        self.handles = 0

    @property
    def num_active(self) -> int:
        return len(self.left)

    def submit(self, request: Request) -> int:
        self.handles += 1
        self.left[self.handles] = [10 + (request.sampling.seed or 0) % 51]
        self.requests[self.handles] = request
        return self.handles

    def step(self) -> list[tuple[int, Rollout]]:
        time.sleep(STEP_S)
        done = []
        for handle, left in list(self.left.items()):
            left[0] -= 1
            if not left[0]:
                del self.left[handle]
                request = self.requests.pop(handle)
                done.append((handle, Rollout(request.problem_id, request.prompt_ids, (1,), (0.0,), 0, "stop")))
        return done

    def abort(self, handle: int) -> None:
        self.left.pop(handle, None)


class SleepingJudge:
    """Sleeps 0.5 to 1.5 times `mean_s` a response, in threads."""

    def __init__(self, mean_s: float) -> None:
        self.mean_s, self.rng = mean_s, random.Random(0)
        self.pool = ThreadPoolExecutor(THREADS)

    def submit(self, problem: Problem, text: str) -> Future[Verdict]:
        return self.pool.submit(self._judge, self.mean_s * (0.5 + self.rng.random()))

    def _judge(self, sleep_s: float) -> Verdict:
        time.sleep(sleep_s)
        return Verdict("accepted")


class NoJudge:
    """Costs nothing."""

    def submit(self, problem: Problem, text: str) -> Future[Verdict]:
        future: Future[Verdict] = Future()
        future.set_result(Verdict("accepted"))
        return future


@dataclass
class Round:
    generate_s: float
    judge_s: float
    streamed_s: float
    idle: float


def timed(judge: SleepingJudge | NoJudge) -> Timing:
    timing = Timing(slots=SLOTS)
    evaluate(SleepingEngine(), judge, PROBLEMS, CONFIG, chat=CHAT, seed=1, timing=timing)
    return timing


def judged_s(judge: SleepingJudge) -> float:
    started = time.perf_counter()
    for future in [judge.submit(problem, "") for problem in PROBLEMS for _ in range(CONFIG.num_samples)]:
        future.result()
    return time.perf_counter() - started


def main() -> None:
    figures: dict[str, object] = {}
    generate_s = timed(NoJudge()).total_s
    responses = len(PROBLEMS) * CONFIG.num_samples
    for name, ratio in RATIOS.items():
        mean_s = generate_s / ratio * THREADS / responses
        rounds = []
        for _ in range(NUM_ROUNDS):
            streamed = timed(SleepingJudge(mean_s))
            rounds.append(
                Round(timed(NoJudge()).total_s, judged_s(SleepingJudge(mean_s)), streamed.total_s, streamed.idle_ratio)
            )
        speedups = [(r.generate_s + r.judge_s) / r.streamed_s for r in rounds]
        bounds = [(r.generate_s + r.judge_s) / max(r.generate_s, r.judge_s) for r in rounds]
        figures[f"g:r {name}"] = {
            "generate_s": round(fmean(r.generate_s for r in rounds), 2),
            "judge_s": round(fmean(r.judge_s for r in rounds), 2),
            "speedup": record.spread(speedups),
            "bound": record.spread(bounds),
            "share_of_bound": record.spread([s / b for s, b in zip(speedups, bounds, strict=True)]),
            "idle": record.spread([r.idle for r in rounds]),
        }
    record.write(
        "validation streams: at least 92 % of the bound (g + r) / max(g, r) over generating first and judging then",
        "python benchmarks/rl_validation.py",
        {"latencies": "injected: sleeps in a fake engine and a fake judge", "responses": responses, **figures},
    )


if __name__ == "__main__":
    main()
