"""Claim: 10 hostile maths answers among 500, two workers: the others wait less than 1 s longer.

    python benchmarks/judge_math_hostile.py [benchmarks/results/judge_math_hostile.json]

490 honest pairs (MATH-500 gold answers and rewritings that need the verifier) are judged by a `MathPool` with two
workers, with and without 10 hostile answers among them, in turn within one run. Two arrivals: `burst`, all at once with
the hostile ones in front, the worst place; `stream`, 40 a second with the hostile ones spread. Extra latency of an
answer is its time to a verdict with the hostile ones less without. Each run has a pool of its own, so that nothing is
left over from the run before. At the end the hostile ones alone: they must get `wrong_answer` or `time_limit`.
"""

from __future__ import annotations

import json
import statistics
import time
from pathlib import Path
from typing import Any

import record
from judge_math_rewritings import GOLDS, draw

from openmimo.judge.math import quick
from openmimo.judge.math_pool import MathPool
from openmimo.types import Problem

ROOT = Path(__file__).resolve().parents[1]
NUM_RUNS = 3
NUM_OTHERS = 490
STREAM_PER_S = 40.0
LIMIT_S = 1.0
PROBLEM = Problem("hostile", "", "math", answer="12")

HOSTILE = [
    ("tower of powers", "9^{9^{9^{9^{9}}}}"),
    ("factorial", "10000000!"),
    ("factorial of a factorial", "((30!)!)!"),
    ("binomial", r"\binom{1000000000}{500000000}"),
    ("nested brackets", "(" * 300 + "x" + "+1)^{2}" * 300),
    ("expansion", "(a+b+c+d+e+f+g+h)^{60}-(a+b+c+d+e+f+g+h)^{59}(h+g+f+e+d+c+b+a)"),
    ("long sum", r"\sum_{k=1}^{100000000} \frac{1}{k^2+k}"),
    ("integral", r"\int_0^{\infty} \frac{\sin(x^3) e^{-x^2} \log(x+1)}{\sqrt{x^5+x+1}} dx"),
    ("tower of roots", r"\sqrt{2+" * 150 + "2" + "}" * 150),
    ("large matrix", r"\begin{pmatrix}" + r"\\".join(["&".join(["x^9"] * 20)] * 20) + r"\end{pmatrix}^{40}"),
]


def main() -> None:
    others = honest()
    results: dict[str, list[dict[str, Any]]] = {"burst": [], "stream": []}
    for _ in range(NUM_RUNS):
        for arrival, per_s in (("burst", 0.0), ("stream", STREAM_PER_S)):
            without_s = run(others, [], per_s=per_s)
            with_s = run(others, HOSTILE, per_s=per_s)
            extra_s = [a - b for a, b in zip(with_s, without_s, strict=True)]
            results[arrival].append({"extra_s": extra_s, "without_s": without_s, "with_s": with_s})
    with MathPool(2) as pool:
        futures = {name: pool.submit(PROBLEM, f"\\boxed{{{text}}}") for name, text in HOSTILE}
        verdicts = {name: future.result() for name, future in futures.items()}
    figures = {
        "runs": NUM_RUNS,
        "holds": all(max(run["extra_s"]) < LIMIT_S for runs in results.values() for run in runs),
        "worst extra latency": {
            "unit": "seconds",
            **{arrival: _spread([max(run["extra_s"]) for run in runs]) for arrival, runs in results.items()},
        },
        "median extra latency": {
            "unit": "seconds",
            **{
                arrival: _spread([statistics.median(run["extra_s"]) for run in runs])
                for arrival, runs in results.items()
            },
        },
        "worst latency": {
            "unit": "seconds",
            **{
                f"{arrival}, {name}": _spread([max(run[name]) for run in runs])
                for arrival, runs in results.items()
                for name in ("without_s", "with_s")
            },
        },
        "answers per second, burst without hostile ones": _spread(
            [NUM_OTHERS / max(run["without_s"]) for run in results["burst"]]
        ),
        "hostile": {name: f"{verdict.status}: {verdict.detail[:60]}" for name, verdict in verdicts.items()},
    }
    record.write(
        f"10 hostile answers among 500, two workers: worst extra latency of the others under {LIMIT_S} s",
        "python benchmarks/judge_math_hostile.py",
        figures,
    )


def honest() -> list[tuple[str, str]]:
    """(gold, answer) pairs that are equivalent and not to be decided at once."""
    golds = [json.loads(line)["answer"] for line in GOLDS.read_text(encoding="utf-8").split("\n") if line]
    pairs = [(gold, answer) for _, gold, answer in draw(golds, 1000) if quick(gold, answer) is None]
    return pairs[:NUM_OTHERS]


def run(others: list[tuple[str, str]], hostile: list[tuple[str, str]], *, per_s: float) -> list[float]:
    """Seconds to a verdict of each of the others; all sent at once if per_s is 0."""
    done_s: dict[int, float] = {}
    sent_s: list[float] = []
    waiting = list(hostile)
    with MathPool(2) as pool:
        pool.self_check()
        for number, (gold, answer) in enumerate(others):
            if not per_s or number % (len(others) // 10) == 0:
                now, waiting = (waiting[:1], waiting[1:]) if per_s else (waiting, [])
                for _, text in now:
                    pool.submit(PROBLEM, f"\\boxed{{{text}}}")
            sent_s.append(time.perf_counter())
            future = pool.submit(Problem(str(number), "", "math", answer=gold), f"\\boxed{{{answer}}}")
            future.add_done_callback(lambda _, number=number: done_s.setdefault(number, time.perf_counter()))
            if per_s:
                time.sleep(max(0.0, sent_s[0] + (number + 1) / per_s - time.perf_counter()))
        while len(done_s) < len(others):
            time.sleep(0.01)
    return [done_s[number] - sent_s[number] for number in range(len(others))]


def _spread(values: list[float]) -> dict[str, float]:
    return {
        "median": round(statistics.median(values), 3),
        "min": round(min(values), 3),
        "max": round(max(values), 3),
    }


if __name__ == "__main__":
    main()
