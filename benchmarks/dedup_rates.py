"""Figures: what each step of dedup costs a document, for arithmetic over more than one machine holds.

    OMP_NUM_THREADS=1 python benchmarks/dedup_rates.py [benchmarks/results/dedup_rates.json]

`global_dedup.dedup_to` with one thread on 2 GB of generated text (`generated_corpus.py`: documents of 3.2 kB with URLs,
a fifth of them copies), Parquet to Parquet. CPU seconds by step; bytes of runs written by kind, a document. Between
machines only `urls`, `keys`, the pairs and `members` would travel: these are sorted by another key than the documents.
"""

from __future__ import annotations

import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import record
from generated_corpus import generate

from openmimo.data.copies import global_dedup, spill
from openmimo.data.copies import steps as dedup_steps

TEXT_BYTES = 2_000_000_000
TRAVEL = ("urls", "lost", "folded", "keys", "round", "labels", "members", "copies", "sizes")
PAIRS = ("keys", "pairs", "labels", "round")
"""Steps that find the connected components."""


def main() -> None:
    steps: dict[str, float] = defaultdict(float)
    written: dict[str, int] = defaultdict(int)
    each, write_array = dedup_steps.Run._each, spill.write_array

    def timed(run: Any, name: str, work: Callable[[Any], Any], tasks: Sequence[Any]) -> list[Any]:
        began = time.process_time()
        found = each(run, name, work, tasks)
        steps[name.split("-")[0]] += time.process_time() - began
        return found

    def counted(path: Path, array: Any) -> None:
        written[path.name.split("-")[0]] += array.nbytes
        write_array(path, array)

    dedup_steps.Run._each = timed  # type: ignore[method-assign]
    spill.write_array = dedup_steps.write_array = counted  # type: ignore[assignment]
    with tempfile.TemporaryDirectory(dir=record.ROOT.parent) as name:
        answer = generate(Path(name) / "in", TEXT_BYTES)
        began = time.process_time()
        counts = global_dedup.dedup_to([Path(name) / "in"], Path(name) / "out.parquet", threads=1)
        total = time.process_time() - began
    n = counts.documents
    steps["write"] = total - sum(steps.values())
    components = sum(value for step, value in steps.items() if step in PAIRS)
    record.write(
        "what each step of dedup costs a document",
        "OMP_NUM_THREADS=1 python benchmarks/dedup_rates.py",
        {
            "documents": n,
            "bytes a document": round(answer.text_bytes / n),
            "file bytes a document": round(answer.file_bytes / n),
            "cpu_s": {step: round(value, 2) for step, value in steps.items()},
            "CPU microseconds a document": {step: round(value / n * 1e6, 2) for step, value in steps.items()},
            "documents per CPU-second": {
                "all steps": round(n / total),
                "all steps but writing": round(n / (total - steps["write"])),
                "read, canonical URL, rank and sign": round(n / steps["sign"]),
                "connected components from band keys": round(n / components),
            },
            "band keys per CPU-second to components": round(14 * n / components),
            "bytes written a document": {kind: round(size / n, 1) for kind, size in sorted(written.items())},
            "bytes a document that travel between machines": round(sum(written[kind] for kind in TRAVEL) / n, 1),
        },
        threads=1,
    )


if __name__ == "__main__":
    main()
