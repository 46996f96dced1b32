"""Global deduplication of files of any size in a fixed memory (MiMo 2.1): `openmimo data dedup`.

Everything that grows with the corpus lies in sorted runs on disk (`spill.py`) in a work folder beside the output and is
worked on a range at a time, by as many threads as there are cores, each within its share of the memory
(`steps.py`). What is decided stands in `groups.py` and `dedup.py`. A killed run leaves the work folder, and the
same command goes on from the pieces that it had read; the output appears whole or not at all.
"""

from __future__ import annotations

import contextlib
import fcntl
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from openmimo.config import fingerprint
from openmimo.data.copies.files import Piece, cut, list_documents
from openmimo.data.copies.index import Index
from openmimo.data.copies.steps import Counts, DedupConfig, Run
from openmimo.data.documents import publish, write_tables
from openmimo.log import say

FORMAT = 1
"""Of the work folder; raise it when code changes what a finished piece holds."""

LEAST_MEMORY = 768 << 20


def dedup_to(
    inputs: Sequence[Path],
    out: Path,
    *,
    config: DedupConfig | None = None,
    memory_bytes: int = 2 << 30,
    max_removed: float = 0.9,
    index: Path | None = None,
    threads: int | None = None,
) -> Counts:
    """Read documents, drop copies by URL and by MinHash, write the rest; the file appears whole or not at all.

    Args:
        inputs: files or folders, see `files.list_documents`.
        out: `.jsonl` or `.parquet`; the work folder stands beside it until the end.
        memory_bytes: of the whole process, resident, whatever the size of the inputs.
        max_removed: a run that would remove a greater share of the documents, 0 to 1, stops and writes nothing.
        index: folder of what earlier runs have seen; made if missing, brought up to date at the end.
        threads: as many as there are cores if None, fewer where the memory is small.

    Raises:
        ValueError: for a wrong argument, inputs without one document, or more removed than `max_removed`.
    """
    config = config or DedupConfig()
    if out.suffix not in (".jsonl", ".parquet"):
        raise ValueError(f"cannot write {out}: expected a name that ends in .jsonl or .parquet")
    if not 0.0 <= max_removed <= 1.0:
        raise ValueError(f"--max-removed must be 0 to 1, got {max_removed}")
    if memory_bytes < LEAST_MEMORY:
        raise ValueError(f"--memory must be at least {LEAST_MEMORY >> 20}MiB, got {memory_bytes / (1 << 20):.0f}MiB")
    files = [(path, name) for path, name in list_documents(inputs) if path.resolve() != out.resolve()]
    if not files:
        raise ValueError(f"the only input is the output, {out}")
    with contextlib.ExitStack() as stack:
        known = stack.enter_context(Index.opened(index, config)) if index else None
        pieces, broken = _pieces(files)
        key = fingerprint({"format": FORMAT, "config": asdict(config), "files": [(n, *_stamp(p)) for p, n in files]})
        if known and (found := known.holds(key, out)):
            say(f"dedup: {index} holds these inputs already; {out} stays as it is")
            return Counts(**found)
        work = out.with_name(f".{out.name}.dedup")
        layout = fingerprint([key, known.key if known else "", [(p.name, p.first, p.last) for p in pieces]])
        stack.enter_context(_work_folder(work, layout))
        run = Run(work, config, memory_bytes, threads, pieces, known)
        try:
            counts = run.decide(inputs, broken)
            removed = counts.removed_url + counts.removed_minhash
            if removed > max_removed * counts.documents:
                raise ValueError(
                    f"{removed} of {counts.documents} documents would go ({counts.removed_url} by URL, "
                    f"{counts.removed_minhash} by MinHash), more than --max-removed {max_removed} allows; "
                    "nothing is written"
                )
            if not counts.kept:
                say(f"dedup: every one of {counts.documents} documents is a copy of an earlier one; {out} is empty")
            written = work / f"written{out.suffix}"
            write_tables(run.kept(), written)
            if known:
                run.add_to_index(known)
            publish(written, out)
            if known:
                last = {"inputs": key, "out": str(out.resolve()), "counts": asdict(counts)}
                known.replace(run.first_piece + len(pieces), run.linked, last)
        except ValueError:
            shutil.rmtree(work)
            raise
        shutil.rmtree(work)
    return counts


def parse_bytes(text: str) -> int:
    """`2GiB`, `800 MB` or a plain number of bytes.

    Raises:
        ValueError: for anything else.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?\s*", text, re.IGNORECASE)
    if not match:
        raise ValueError(f"--memory {text!r} is no size, 2GiB is one")
    number, prefix, binary = match.groups()
    return int(float(number) * (1024 if binary else 1000) ** " kmgt".index(prefix.lower() or " "))


def _pieces(files: Sequence[tuple[Path, str]]) -> tuple[list[Piece], list[tuple[str, str]]]:
    """Pieces of all files, and the files that could not be opened."""
    pieces: list[Piece] = []
    broken: list[tuple[str, str]] = []
    for path, name in files:
        try:
            pieces += cut(path, name)
        except ValueError as error:
            broken.append((name, str(error)))
    return pieces, broken


def _stamp(path: Path) -> tuple[str, int, int]:
    status = path.stat()
    return str(path.resolve()), status.st_size, status.st_mtime_ns


@contextlib.contextmanager
def _work_folder(work: Path, key: str) -> Iterator[None]:
    """Hold the work folder; what another command, or later steps of a killed run, left there goes."""
    work.parent.mkdir(parents=True, exist_ok=True)
    work.mkdir(exist_ok=True)
    with (work / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"another run is writing beside {work}") from None
        note = work / "key"
        same = note.exists() and note.read_text() == key
        finished = {path.stem.split("-")[1] for path in work.glob("piece-*.json")} if same else set()
        for path in work.iterdir():
            kind, _, place = path.stem.partition("-")
            signed = kind in ("piece", "facts", "bands", "urls") and place.split("-")[0] in finished
            keep = signed or path.name in ("lock", "key")
            if not keep:
                path.unlink()
        note.write_text(key)
        yield
