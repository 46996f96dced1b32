"""Figures: what the three steps of SFT preparation (MiMo 3.1) drop of real problems with human solutions.

    python benchmarks/sft_preparation.py FOLDER [benchmarks/results/sft_preparation.json]

FOLDER holds math/math500.jsonl, math/math_test_5000.jsonl.gz (Hendrycks MATH) and gsm8k/{train,test}.jsonl. The MATH
test problems that are not in MATH-500 are prepared against MATH-500; GSM8K's training questions against MATH-500 and
GSM8K's test set. All of these solutions were written by people, in English, to their ends: each one that is called
mixed or incomplete is a false alarm.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import record

from openmimo.data.sft import prepare_to
from openmimo.rows import read_rows, write_rows


def conversations(rows: Iterable[tuple[str, str]]) -> Iterable[dict[str, Any]]:
    for question, answer in rows:
        yield {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def prepared(rows: Iterable[tuple[str, str]], against: list[Path], folder: Path) -> dict[str, Any]:
    write_rows(folder / "talks.jsonl", conversations(rows))
    found = prepare_to([folder / "talks.jsonl"], folder / "kept.jsonl", against=against, max_responses=1000)
    shares = [row["share"] for row in read_rows(folder / "kept.candidates.jsonl")] if found["candidates"] else []
    return {
        "conversations": found["in"],
        "queries that overlap at so many words": found["overlaps"],
        "dropped": found["dropped"],
        "candidates": found["candidates"],
        "candidates with at least half of the item": sum(share >= 0.5 for share in shares),
    }


def main() -> None:
    data = Path(sys.argv[1])
    math500, math = data / "math" / "math500.jsonl", data / "math" / "math_test_5000.jsonl.gz"
    gsm8k = data / "gsm8k"
    with tempfile.TemporaryDirectory() as name:
        in_500 = {" ".join(row["problem"].split()) for row in read_rows(math500, ("problem",))}
        rest = [
            (row["problem"], row["solution"])
            for row in read_rows(math, ("problem", "solution"))
            if " ".join(row["problem"].split()) not in in_500
        ]
        questions = [(row["question"], row["answer"]) for row in read_rows(gsm8k / "train.jsonl", ("question",))]
        figures = {
            "MATH test without MATH-500, against MATH-500": prepared(rest, [math500], Path(name)),
            "GSM8K train, against its test set and MATH-500": prepared(
                questions, [gsm8k / "test.jsonl", math500], Path(name)
            ),
        }
    record.write(
        "what SFT preparation drops of real problems, and that it calls no human solution mixed or incomplete",
        "python benchmarks/sft_preparation.py FOLDER",
        {"sets": figures},
    )


if __name__ == "__main__":
    main()
