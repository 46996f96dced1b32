"""Claim: from a WARC to deduplicated Parquet in a tenth of the CPU time of datatrove's recipe.

    make data-peers
    python benchmarks/data_end_to_end.py [PAGES.jsonl.gz] [benchmarks/results/data_end_to_end.json]

Pages are this machine's documentation and, if given, the field `html` of PAGES.jsonl.gz. Each stands in the archive
three times, as dumps have them: as it is; at its own URL with a tracking parameter; at another URL with more words.
Ours is `openmimo data extract` and `openmimo data dedup`, with one worker. Both run as whole commands, starts included,
in turn; CPU seconds are of all their processes.
"""

from __future__ import annotations

import gzip
import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import record

from openmimo.data.read import read
from openmimo.data.snapshot import snapshot_pages, warc_record

ROUNDS = 3
PEER = Path(__file__).parents[1] / ".venv-datatrove" / "bin" / "python"


def archive(folder: Path, more: Path | None) -> tuple[Path, int, int]:
    """The WARC, how many records it has and how many bytes of HTML."""
    pages = [(page.url, page.content) for page in read([snapshot_pages(folder)], broken=lambda name, reason: None)]
    if more:
        with gzip.open(more, "rb") as file:
            pages += [
                (f"http://docs.example.org/{n}.html", json.loads(line)["html"].encode()) for n, line in enumerate(file)
            ]
    path, num_records, num_bytes = folder / "pages.warc.gz", 0, 0
    path.unlink(missing_ok=True)
    with path.open("wb") as out:
        for url, content in pages:
            near = content.replace(b"</body>", b"<p>Seen on a mirror of this page.</p></body>")
            copies = ((url, content), (f"{url}?utm_source=feed", content), (url.replace("://", "://mirror."), near))
            for address, html in copies:
                out.write(warc_record("response", address, html, "text/html; charset=utf-8"))
                num_records, num_bytes = num_records + 1, num_bytes + len(html)
    return path, num_records, num_bytes


def cpu_s(*command: str) -> tuple[float, str]:
    """CPU seconds of a command and all it started, and what it printed."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr[-2000:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, done.stdout


def main() -> None:
    more = next((Path(word) for word in sys.argv[1:] if word.endswith(".jsonl.gz")), None)
    if not PEER.exists():
        raise SystemExit("datatrove is missing: make data-peers")
    found: dict[str, Any] = {}
    steps: dict[str, list[float]] = {"extract": [], "dedup": []}
    with tempfile.TemporaryDirectory() as folder:
        pages, num_records, num_bytes = archive(Path(folder), more)

        def ours() -> float:
            documents, kept = Path(folder) / "documents.parquet", Path(folder) / "kept.parquet"
            command = (sys.executable, "-m", "openmimo", "data")
            first, told = cpu_s(*command, "extract", str(pages), "-o", str(documents), "--workers", "1", "--json")
            second, counted = cpu_s(*command, "dedup", str(documents), "-o", str(kept), "--json")
            found["ours"] = {"extract": json.loads(told), "dedup": json.loads(counted)}
            steps["extract"].append(first)
            steps["dedup"].append(second)
            return first + second

        def datatrove() -> float:
            with tempfile.TemporaryDirectory() as work:
                seconds, told = cpu_s(str(PEER), str(Path(__file__).with_name("datatrove_peer.py")), str(pages), work)
            found["datatrove"] = json.loads(told.strip().rsplit("\n", 1)[-1])
            return seconds

        seconds = record.interleaved({"ours": ours, "datatrove": datatrove}, ROUNDS)
    record.write(
        "from a WARC to deduplicated Parquet, CPU time of datatrove's recipe over ours",
        "python benchmarks/data_end_to_end.py ../shared/data/pages/pages.jsonl.gz",
        {
            "records": num_records,
            "bytes of HTML": num_bytes,
            "cpu_s": {name: record.spread(values, digits=2) for name, values in seconds.items()},
            "of ours": {name: record.spread(values[-ROUNDS:], digits=2) for name, values in steps.items()},
            "datatrove / ours": record.over(seconds, "datatrove", "ours"),
            "counts": found,
        },
    )


if __name__ == "__main__":
    main()
