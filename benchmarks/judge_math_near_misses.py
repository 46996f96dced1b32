"""Claim: of the hand-written near misses at most 2 % are accepted, and their right neighbours are.

    python benchmarks/judge_math_near_misses.py [benchmarks/results/judge_math_near_misses.json]

The pairs are those of tests/judge/math_near_misses.py; exact match is off. math-verify alone, both sides in `$...$`, is
asked the same.
"""

from __future__ import annotations

import sys
from pathlib import Path

import record

from openmimo.judge.verifier import Verifier

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "judge"))

from math_near_misses import NEAR_MISSES  # noqa: E402


def main() -> None:
    with Verifier() as verifier:
        ours = [[verifier.compare(gold, answer)[0] == "accepted" for answer in pair] for _, gold, *pair in NEAR_MISSES]
    alone = [[_peer(gold, answer) for answer in pair] for _, gold, *pair in NEAR_MISSES]
    figures = {
        "near misses accepted": {
            "unit": "pairs",
            "of": len(NEAR_MISSES),
            "openmimo": sum(wrong for wrong, _ in ours),
            "math-verify": sum(wrong for wrong, _ in alone),
        },
        "right neighbours accepted": {
            "unit": "pairs",
            "of": len(NEAR_MISSES),
            "openmimo": sum(right for _, right in ours),
            "math-verify": sum(right for _, right in alone),
        },
        "near misses accepted, openmimo": _rows(ours, 0, True),
        "near misses accepted, math-verify": _rows(alone, 0, True),
        "right neighbours refused, openmimo": _rows(ours, 1, False),
        "right neighbours refused, math-verify": _rows(alone, 1, False),
    }
    record.write("at most 2 % of the near misses are accepted", "python benchmarks/judge_math_near_misses.py", figures)


def _rows(found: list[list[bool]], column: int, accepted: bool) -> list[str]:
    return [
        f"{row[0]}: {row[1]} | {row[2 + column]}"
        for row, pair in zip(NEAR_MISSES, found, strict=True)
        if pair[column] is accepted
    ]


def _peer(gold: str, answer: str) -> bool:
    """What math-verify says alone."""
    from math_verify import parse, verify

    return bool(verify(parse(f"${gold}$"), parse(f"${answer}$")))


if __name__ == "__main__":
    main()
