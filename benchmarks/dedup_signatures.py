"""Claim: MinHash signatures, documents per CPU-second: 2.5x Daft, 6x rensa, 30x datasketch, 300x datatrove.

    make data-peers
    OMP_NUM_THREADS=1 python benchmarks/dedup_signatures.py [benchmarks/results/dedup_signatures.json]

112 hashes of word 5-grams, from texts to signatures, one thread, the same texts for all, lower case. Texts are runs of
words from the Python documentation that every Python carries (`pydoc_data.topics`), with its punctuation: a web page's
main text has some 500 words; 100 and 2,000 stand beside it. Each peer is a process of its own (`minhash_peer.py`, which
says how it is driven), the slow ones take the first of the documents. Rounds are interleaved; CPU seconds count.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from pydoc_data.topics import topics

import record

from openmimo.data.copies import _kernels

LENGTHS = (500, 100, 2000)
NUM_ROUNDS = 5
ROOT = record.ROOT
WORDS_A_ROUND = {
    "ours": 10_000_000, "ours, numba": 5_000_000, "daft": 2_500_000, "rensa": 1_000_000, "rensa, rho": 1_000_000,
    "datasketch": 250_000, "datatrove": 50_000,
}  # fmt: skip
ENVIRONMENT = {"rensa": "rensa", "rensa, rho": "rensa", "datasketch": "datasketch", "datatrove": "datatrove"}
TARGETS = {"daft": 2.5, "rensa": 6, "datasketch": 30, "datatrove": 300}


def main() -> None:
    lengths = {}
    with tempfile.TemporaryDirectory() as name:
        for words in LENGTHS:
            print(f"{words} words a document", file=sys.stderr)
            lengths[f"{words} words"] = measured(words, Path(name))
    record.write(
        "MinHash signatures, documents per CPU-second, against Daft, rensa, datasketch and datatrove",
        "OMP_NUM_THREADS=1 python benchmarks/dedup_signatures.py",
        {"hashes": 112, "ngram": 5, "instructions": _kernels.use(), "targets": TARGETS, "documents of": lengths},
        threads=1,
    )


def measured(words: int, folder: Path) -> dict[str, object]:
    texts = documents(words, 10_000_000 // words)
    makers = {name: Maker(name, texts[: max(20, WORDS_A_ROUND[name] // words)], folder) for name in WORDS_A_ROUND}
    rates = record.interleaved({name: maker.rate for name, maker in makers.items()}, NUM_ROUNDS)
    for maker in makers.values():
        maker.end()
    peers = [name for name in makers if not name.startswith("ours")]
    return {
        "bytes a document": round(sum(map(len, texts)) / len(texts)),
        "documents per CPU-second": {name: record.spread(values, digits=0) for name, values in rates.items()},
        "ours / peer": {name: record.over(rates, "ours", name) for name in peers},
        "ours, numba / daft": record.over(rates, "ours, numba", "daft"),
        "agreement of a pair that differs in one word": {name: round(maker.agree, 3) for name, maker in makers.items()},
    }


def documents(words: int, count: int) -> list[str]:
    """Runs of words from the documentation, wherever they start; the second is the first with a word in it changed."""
    prose = " ".join(topics[name] for name in sorted(topics)).lower().split()
    texts = [" ".join(prose[(s := i * 7919 % (len(prose) - words)) : s + words]) for i in range(count)]
    changed = texts[0].split()
    changed[len(changed) // 2] = "entirely-changed"
    return [texts[0], " ".join(changed), *texts[2:]]


class Maker:
    """A process that makes signatures when told."""

    def __init__(self, name: str, texts: list[str], folder: Path) -> None:
        path = folder / "documents.jsonl"
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
        python = ROOT / f".venv-{ENVIRONMENT[name]}" / "bin" / "python" if name in ENVIRONMENT else sys.executable
        if not Path(python).exists():
            raise SystemExit(f"{python} is missing: make data-peers")
        log = (folder / "log").open("wb")
        self.name, self.count = name, len(texts)
        self.process = subprocess.Popen(
            [str(python), str(ROOT / "benchmarks" / "minhash_peer.py"), name, str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": "" if name in ENVIRONMENT else str(ROOT)},
            text=True,
        )
        self.agree: float = self._read()["agree"]

    def rate(self) -> float:
        """Documents per CPU-second of one round."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self.count / self._read()["cpu_s"]

    def end(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(60)

    def _read(self) -> dict[str, float]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name} ended with {self.process.wait(60)}")
        found: dict[str, float] = json.loads(line)
        return found


if __name__ == "__main__":
    main()
