"""Claim: the data stage killed with -9 at 20 random moments ends in the same bytes as one that was left alone.

    python benchmarks/data_kills.py [benchmarks/results/data_kills.json]

`openmimo data tiny --pages WARC`: pages of this machine's documentation, written once before, and the corpus of
problems are read, extracted, deduplicated by URL and by MinHash, tagged, decontaminated, tokenized and written as
shards. One run is left alone. Another is started again and again, and killed with SIGKILL after a random time up to
SPAN of what the whole takes; when it has come to its end it is compared and the next folder begun, until NUM_KILLS have
struck. Counted are the files under `data` that differ, the kills by what was being made, and finished parts that were
made a second time.
"""

from __future__ import annotations

import hashlib
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import record

from openmimo.data.snapshot import snapshot_pages

NUM_KILLS, SPAN = 20, 0.4
STAGES = ("read", "extract", "url-copies", "near-copies", "tag", "decontaminate")


def command(out: Path) -> list[str]:
    pages = out.parent / "pages.warc.gz"
    return [sys.executable, "-m", "openmimo", "data", "tiny", "--out", str(out), "--seed", "1", "--pages", str(pages)]


def run_timed(out: Path) -> tuple[float, float]:
    """Run the stage to its end: seconds to its first file, and from there to the end."""
    started = time.perf_counter()
    process = subprocess.Popen(command(out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not (out / "data").exists() and process.poll() is None:
        time.sleep(0.02)
    first = time.perf_counter()
    if process.wait():
        raise RuntimeError(f"the run that was left alone ended with status {process.returncode}")
    return first - started, time.perf_counter() - first


def parts(out: Path) -> dict[str, int]:
    """Finished parts by name, with the time at which each was written."""
    folder = out / "data" / "documents"
    return {str(p.relative_to(folder)): p.stat().st_mtime_ns for p in folder.glob("*/*.json") if p.suffix == ".json"}


def reached(out: Path) -> str:
    """What the next start will go on with."""
    folder = out / "data" / "documents"
    for stage in STAGES:
        if not (folder / stage / "manifest.json").exists():
            return stage
    return "tokens"


def run_killed(out: Path, rng: random.Random, start_s: float, work_s: float, struck: Counter[str]) -> int:
    """Run it to its end, killed on the way until NUM_KILLS have struck; finished parts that were made again."""
    again = 0
    while True:
        before = parts(out)
        process = subprocess.Popen(command(out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            process.wait(rng.uniform(start_s, start_s + SPAN * work_s) if struck.total() < NUM_KILLS else None)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            struck[reached(out)] += 1
            print(f"kill {struck.total()}: {reached(out)}, {len(parts(out))} parts done", file=sys.stderr)
        again += sum(parts(out).get(name) != moment for name, moment in before.items())
        if process.returncode == 0:
            return again


def digests(out: Path) -> dict[str, str]:
    """Of every file that the stage leaves but its lock."""
    return {
        str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted((out / "data").rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


def main() -> None:
    seed = random.SystemRandom().randrange(10**6)
    rng, struck = random.Random(seed), Counter[str]()
    runs = again = 0
    differ: set[str] = set()
    with tempfile.TemporaryDirectory() as folder:
        snapshot_pages(Path(folder))
        start_s, work_s = run_timed(Path(folder) / "whole")
        whole = digests(Path(folder) / "whole")
        while struck.total() < NUM_KILLS:
            runs += 1
            out = Path(folder) / f"killed-{runs}"
            again += run_killed(out, rng, start_s, work_s, struck)
            found = digests(out)
            differ |= {name for name in {*whole, *found} if whole.get(name) != found.get(name)}
    record.write(
        "the data stage killed 20 times ends in the same bytes as one left alone",
        "python benchmarks/data_kills.py",
        {
            "kills": struck.total(),
            "kill_seed": seed,
            "by what was being made": dict(struck),
            "runs": runs,
            "files of a run": len(whole),
            "files that differ": sorted(differ),
            "finished parts made again": again,
            "seconds of work": round(work_s, 1),
        },
    )


if __name__ == "__main__":
    main()
