"""Claim: pages per CPU-second of extraction, at least 8x trafilatura, 0.7x resiliparse, 4x OpenWebMath.

    OPENWEBMATH=DIR python benchmarks/extract_speed.py PAGES MAGIC_HTML [benchmarks/results/extract_speed.json]

PAGES is pages.jsonl.gz with real documentation pages, MAGIC_HTML a copy of github.com/opendatalab/magic-html whose
benchmark holds article and forum pages as the web serves them. Everyone is a process of its own with one thread, gets
the same bytes and turns all pages into text, in turn, once to warm up and then three times; CPU time of these passes
alone. Ours does everything `openmimo data extract` does to a page: title, language, tags, threads, formulas, code.
trafilatura is as it comes, and `fast`; resiliparse finds the main content; OpenWebMath with its own settings.
"""

from __future__ import annotations

import gzip
import json
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import record
from extract_peer import OURS, Peer, peers

NUM_ROUNDS = 3
WANTED = {"trafilatura": 8.0, "resiliparse": 0.7, "OpenWebMath": 4.0}


def page_sets(pages: Path, magic_html: Path) -> dict[str, list[dict[str, str]]]:
    """Real pages by kind."""
    with gzip.open(pages, "rb") as file:
        found = {"documentation": [{"html": json.loads(line)["html"]} for line in file]}
    for part in ("article", "forum"):
        folder = magic_html / "benchmark/data" / part
        gold = json.loads((folder / "base.json").read_text(encoding="utf-8"))
        found[part] = [
            {"html": (folder / "htmls" / f"{name}.html").read_text(encoding="utf-8"), "url": row["url"]}
            for name, row in gold.items()
        ]
    return found


def main() -> None:
    sets = page_sets(Path(sys.argv[1]), Path(sys.argv[2]))
    seconds: dict[str, dict[str, list[float]]] = {}
    for name, pages in sets.items():
        with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
            path = Path(folder) / "pages.json"
            path.write_text(json.dumps(pages))
            running = {
                peer: stack.enter_context(Peer(peer, python, variables, path))
                for peer, (python, variables) in peers(*WANTED, "trafilatura fast").items()
            }
            seconds[name] = record.interleaved({peer: process.cpu_s for peer, process in running.items()}, NUM_ROUNDS)
    contestants = list(next(iter(seconds.values())))
    seconds["all"] = {
        peer: [sum(found) for found in zip(*(seconds[name][peer] for name in sets), strict=True)]
        for peer in contestants
    }
    counts = {name: len(pages) for name, pages in sets.items()}
    counts["all"] = sum(counts.values())
    measured: dict[str, Any] = {}
    for name, found in seconds.items():
        rates = {peer: [counts[name] / s for s in values] for peer, values in found.items()}
        ratios = {peer: record.over(rates, OURS, peer) for peer in contestants if peer != OURS}
        measured[name] = {
            "pages": counts[name],
            "pages_per_cpu_s": {peer: record.spread(values, digits=1) for peer, values in rates.items()},
            "ours over": ratios,
        }
    record.write(
        "pages per CPU-second of extraction against trafilatura, resiliparse and OpenWebMath",
        "OPENWEBMATH=DIR python benchmarks/extract_speed.py PAGES MAGIC_HTML",
        {"wanted": WANTED, "measured": measured},
        threads=1,
    )


if __name__ == "__main__":
    main()
