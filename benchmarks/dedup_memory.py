"""Claim: dedup of 20 GB of text stays within a memory of 2 GiB, and finds the planted copies.

    OMP_NUM_THREADS=1 python benchmarks/dedup_memory.py [GIGABYTES] [benchmarks/results/dedup_memory.json]

`openmimo data dedup FOLDER -o OUT.parquet --memory 2GiB` on a generated corpus (`generated_corpus.py`: documents of 400
words, 3.2 kB each, a fifth of them planted copies; Parquet, zstd). Memory is the resident set of the whole process
tree, summed over its processes, every 50 ms; the greatest is told. It needs about 1.4 bytes of disk a byte of text,
and cleans up.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import record
from generated_corpus import generate

BUDGET = 2 << 30


def main() -> None:
    sizes = [float(word) for word in sys.argv[1:] if not word.endswith(".json")]
    gigabytes = sizes[0] if sizes else 20.0
    with tempfile.TemporaryDirectory(dir=record.ROOT.parent) as name:
        folder = Path(name)
        began = time.process_time()
        answer = generate(folder / "in", int(gigabytes * 1e9))
        generated_s = time.process_time() - began
        print(f"generated {answer} in {generated_s:.0f} s", file=sys.stderr)
        out = folder / "out.parquet"
        command = [sys.executable, "-m", "openmimo", "data", "dedup", str(folder / "in"), "-o", str(out)]
        found = watched([*command, "--memory", "2GiB", "--json"], folder / f".{out.name}.dedup")
        counts = found.pop("answer")
        left = sorted(path.name for path in folder.iterdir())
        assert left == ["in", "out.parquet"], left
        out_bytes = out.stat().st_size
    planted = answer.near + answer.exact
    record.write(
        "peak memory of dedup with a 2 GiB budget on 20 GB of generated text",
        "OMP_NUM_THREADS=1 python benchmarks/dedup_memory.py",
        {
            "corpus": asdict(answer),
            "counts": counts,
            "URL copies removed / planted": round(counts["removed_url"] / answer.same_url, 6),
            "text copies removed / planted": round(counts["removed_minhash"] / planted, 6),
            "budget_bytes": BUDGET,
            "peak / budget": round(found["peak_rss_bytes"] / BUDGET, 3),
            **found,
            "out_bytes": out_bytes,
            "documents per CPU-second, all steps": round(answer.documents / found["cpu_s"]),
        },
    )


def watched(command: list[str], work: Path) -> dict[str, Any]:
    """Run a command; its answer, peak resident memory of its tree, greatest size of its work folder, time."""
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(record.ROOT)})
    peak = disk = cpu = 0.0
    beat = 0
    while process.poll() is None:
        try:
            peak = max(peak, tree_rss(process.pid))
            cpu = record.tree_cpu_s(process.pid)
        except (FileNotFoundError, ProcessLookupError, IndexError):
            pass
        if beat % 40 == 0:
            disk = max(disk, folder_bytes(work))
        beat += 1
        time.sleep(0.05)
    assert process.stdout is not None
    said = process.stdout.read()
    if process.returncode:
        raise RuntimeError(f"{command} ended with {process.returncode}")
    return {
        "answer": json.loads(said),
        "peak_rss_bytes": int(peak),
        "peak_work_bytes": int(disk),
        "cpu_s": round(cpu, 1),
        "wall_s": round(time.perf_counter() - began, 1),
    }


def tree_rss(pid: int) -> int:
    """Resident bytes of a process and its descendants; what they share counts for each."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") + sum(tree_rss(child) for child in record.children(pid))


def folder_bytes(folder: Path) -> int:
    total = 0
    if folder.exists():
        for path in folder.iterdir():
            try:
                total += path.stat().st_size
            except FileNotFoundError:  # gone since it was listed
                continue
    return total


if __name__ == "__main__":
    main()
