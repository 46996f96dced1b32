"""The steps of global deduplication, each over sorted runs on disk and within a share of the memory (MiMo 2.1).

    sign      every piece of the inputs: canonical URLs, band keys, ranks; a killed run goes on at the piece
    urls      by URL key: all but the best of each URL leave
    keys      by piece: the band keys of those that stay, sorted
    pairs     by band key: rows that share one
    stars     by row: pairs contracted again and again until each points at the least row of its cluster
    clusters  by cluster: the best copy and the size
    write     by piece: the documents that stay, in the order of the inputs

A document is a row number: its piece's number, then its place in the piece. An index (`index.py`) adds the keys
of earlier runs; their rows are below all new ones, so a cluster that holds one has been written already.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import xxhash
from numpy.typing import NDArray

from openmimo.data.copies.dedup import rank_facts, ranks, text_keys
from openmimo.data.copies.files import Faults, Piece, read_piece
from openmimo.data.copies.groups import best_first, contract, linked, unique_pairs
from openmimo.data.copies.index import Index
from openmimo.data.copies.spill import END, Runs, write_array, write_run
from openmimo.data.urls import canonical_url
from openmimo.log import progress, say

T = TypeVar("T")
U64 = NDArray[np.uint64]

PIECE_ROWS = 1 << 28
"""Row numbers of one piece."""
CHUNK_ROWS = 32768  # ours: documents of one run at most
FIXED_BYTES = 300 << 20  # measured: the interpreter, its libraries, the writer's buffers
READ_BYTES = 96 << 20  # measured: what one thread needs to read and sign
PEAK = 12  # measured: bytes a thread takes for each byte of a range's records, at most
NAMED = 20  # ours: faults told one by one


@dataclass(frozen=True)
class DedupConfig:
    """What decides which documents stay."""

    bands: int = 14
    """LSH bands. Ours: 14 x 8 as in FineWeb, half of the pairs at Jaccard 0.72 meet."""
    rows: int = 8
    """Hashes a band."""
    ngram: int = 5
    """Words a shingle (characters where a script has no spaces). Ours, as in FineWeb."""
    seed: int = 0
    """Of the hash functions."""

    def __post_init__(self) -> None:
        for name in ("bands", "rows", "ngram"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")


@dataclass(frozen=True)
class Counts:
    """What became of the documents."""

    documents: int
    kept: int
    removed_url: int
    """A better copy of the same canonical URL stays, or an earlier run had the URL."""
    removed_minhash: int
    """A better copy of nearly the same text stays, or an earlier run had one."""
    clusters: int
    """Documents kept that stand for others too."""


class Run:
    """One deduplication: where its runs lie, and how much a thread may hold."""

    def __init__(
        self,
        work: Path,
        config: DedupConfig,
        memory_bytes: int,
        threads: int | None,
        pieces: Sequence[Piece],
        known: Index | None,
    ) -> None:
        self.work, self.config, self.pieces, self.known = work, config, pieces, known
        free = memory_bytes - FIXED_BYTES
        self.threads = max(1, min(threads or len(os.sched_getaffinity(0)), free // (2 * READ_BYTES)))
        self.share = free // self.threads
        self.first_piece = known.next_piece if known else 1
        self.first_row = self.first_piece * PIECE_ROWS

    def decide(self, inputs: Sequence[Path], broken: list[tuple[str, str]]) -> Counts:
        """All steps but the last."""
        signed = self._each("sign", self._sign, range(len(self.pieces)))
        documents = sum(found["rows"] for found in signed)
        if not documents:
            where = ", ".join(map(str, inputs))
            first = next(
                (f"{name}: {why}" for name, why in _faults(self.pieces, signed, broken)), "the files are empty"
            )
            raise ValueError(f"no document in {where}; {first}")
        _tell_faults(self.pieces, signed, broken)
        self.chunks = [(n, c) for n, found in enumerate(signed) for c in range(found["chunks"])]
        self.signed = signed
        removed_url = sum(self._each("urls", self._best_of_urls, self._runs("urls", 6).ranges(self._most(6))))
        self._each("keys", self._sort_keys, self.chunks)
        self._each("pairs", self._pair, self._keys().ranges(self._most(2)))
        self._contract()
        self._each("members", self._join_ranks, self.chunks)
        ranges = self._runs("members", 6).ranges(self._most(6))
        removed_minhash, clusters = 0, 0
        for removed, many in self._each("clusters", self._best_of_clusters, ranges):
            removed_minhash += removed
            clusters += many
        clusters += sum(self._each("alone", self._folded_alone, self.chunks))
        kept = documents - removed_url - removed_minhash
        return Counts(documents, kept, removed_url, removed_minhash, clusters)

    # ---- sign: what is known of each document by itself ----

    def _sign(self, number: int) -> dict[str, Any]:
        """Runs of one piece, a chunk at a time; its sidecar is written last."""
        sidecar = self.work / f"piece-{number:06d}.json"
        if sidecar.exists():
            found: dict[str, Any] = json.loads(sidecar.read_text(encoding="utf-8"))
            return found
        faults = Faults()
        config = self.config
        row = chunks = 0
        held: list[tuple[U64, U64, U64]] = []

        def flush() -> None:
            nonlocal chunks
            facts = np.concatenate([part for part, _, _ in held], axis=1)
            keys, urls = (np.concatenate([part[n] for part in held]) for n in (1, 2))
            write_array(self._path("facts", number, chunks), facts)
            write_array(self._path("bands", number, chunks), keys)
            named = urls != 0
            write_run(self._path("urls", number, chunks), np.concatenate([urls[None, named], facts[:, named]]))
            held.clear()
            chunks += 1

        for table in read_piece(self.pieces[number], faults):
            keys_NB = text_keys(
                table["text"], bands=config.bands, rows=config.rows, ngram=config.ngram, seed=config.seed
            )
            facts = rank_facts(table)
            start = (self.first_piece + number) * PIECE_ROWS + row
            rows = np.arange(start, start + len(facts), dtype=np.uint64)
            sizes = facts["cluster_size"].to_numpy().astype(np.uint64)
            held.append((np.concatenate([rows[None], ranks(facts), sizes[None]]), keys_NB, _url_keys(table["url"])))
            row += len(rows)
            if sum(len(keys) for _, keys, _ in held) >= CHUNK_ROWS:
                flush()
        if held:
            flush()
        found = {"rows": row, "chunks": chunks, "lines": faults.lines, "faults": faults.count, "named": faults.named}
        temporary = sidecar.with_suffix(".tmp")
        temporary.write_text(json.dumps(found, ensure_ascii=False), encoding="utf-8")
        temporary.replace(sidecar)
        return found

    # ---- urls: one document a canonical URL ----

    def _best_of_urls(self, span: tuple[int, int]) -> int:
        """Rows that leave, and the sizes that winners take over; how many leave. Fields: key, row, 3 of rank, size."""
        seen = self.known.urls(span, self._most(6)) if self.known else np.empty(0, dtype=np.uint64)
        runs, lost, taken = self._runs("urls", 6), [], []
        best = np.empty((6, 0), dtype=np.uint64)  # of the one key that comes in pieces
        for records in runs.read(*span, self._most(6)):
            records = np.concatenate([best, records], axis=1)
            old = np.isin(records[0], seen)
            lost.append(records[1, old])
            records = records[:, ~old]
            order, starts = best_first(records[0], records[[2, 3, 4, 1]])
            sizes = np.diff(starts, append=len(order))
            first = np.zeros(len(order), dtype=bool)
            first[starts] = True
            lost.append(records[1, order[~first]])
            best = records[:, order[starts]]
            if len(order):
                best[5] = np.add.reduceat(records[5, order], starts)
            taken.append(best[:, sizes > 1][[1, 5]])
        name = f"{span[0]:016x}"
        write_run(self._path("lost", name), np.concatenate(lost)[None])
        sizes_of = np.concatenate(taken, axis=1)
        latest = np.unique(sizes_of[0][::-1], return_index=True)[1]  # of a key in pieces the last sum holds
        write_run(self._path("folded", name), sizes_of[:, ::-1][:, latest])
        return sum(map(len, lost))

    # ---- keys and pairs: who shares a band ----

    def _sort_keys(self, chunk: tuple[int, int]) -> None:
        """Runs of (key, row) and of ranks for the documents that are left."""
        facts, keys_NB = (np.load(self._path(kind, *chunk)) for kind in ("facts", "bands"))
        rows = facts[0]
        lost = self._in_rows("lost", 1, rows)
        stays = ~np.isin(rows, lost[0]) if lost.shape[1] else np.ones(len(rows), dtype=bool)
        folded = self._in_rows("folded", 2, rows)
        facts[4, np.searchsorted(rows, folded[0])] = folded[1]
        facts, keys_NB = facts[:, stays], keys_NB[stays]
        write_array(self._path("ranks", *chunk), facts)
        pairs = np.stack([keys_NB.ravel(), np.repeat(facts[0], self.config.bands)])
        write_run(self._path("keys", *chunk), unique_pairs(pairs))

    def _in_rows(self, kind: str, fields: int, rows: U64) -> U64:
        """The records of runs by row that concern these rows."""
        low, high = int(rows[0]), int(rows[-1]) + 1
        return np.concatenate(list(self._runs(kind, fields).read(low, high, END)), axis=1)

    def _keys(self) -> Runs:
        return Runs([*self._paths("keys"), *(self.known.paths("keys") if self.known else [])], 2)

    def _pair(self, span: tuple[int, int]) -> None:
        """Pairs of rows that share a key, both ways round."""
        found, least = [], np.empty((2, 0), dtype=np.uint64)
        for records in self._keys().read(*span, self._most(2)):
            keys, rows = np.concatenate([least, records], axis=1)
            found.append(contract(linked(keys, rows)))
            least = np.array([[span[0]], [rows.min()]], dtype=np.uint64)  # the next piece has the same key
        _write_both_ways(self._path("round-000", f"{span[0]:016x}"), np.concatenate(found, axis=1))

    # ---- stars: connected components ----

    def _contract(self) -> None:
        """Rounds of `contract` over ranges of rows until no pair changes, then each row's label."""
        rounds, settled = 0, False
        links = self.known.paths("links") if self.known else []
        while not settled:
            self.pairs = Runs([*self._paths(f"round-{rounds:03d}"), *links], 2)
            links = []
            rounds += 1
            spans = self.pairs.ranges(self._most(2))
            self.round = f"round-{rounds:03d}"
            whole = len(spans) == 1 and self.pairs.count() <= self._most(2)  # nothing else that a pair could meet
            settled = all(self._each(self.round, self._contract_range, spans)) or whole
            for path in self._paths(f"round-{rounds - 1:03d}"):
                path.unlink()
        self.pairs = Runs(self._paths(self.round), 2)
        found = self._each("labels", self._label, self.pairs.ranges(self._most(2)))
        self.linked = sum(linked for linked, _ in found)
        old = sum(old for _, old in found) - (self.known.linked if self.known else 0)
        if old:
            say(f"dedup: new documents join {old} of the clusters written earlier to others; all of these stay written")

    def _contract_range(self, span: tuple[int, int]) -> bool:
        """Whether all pairs of these rows stood in stars already."""
        most, stars, settled = self._most(2), [], True
        least = np.empty((2, 0), dtype=np.uint64)
        if (
            self.pairs.count(*span) > most
        ):  # one row's pairs, in pieces: each is told the least row that all of them know
            row = min(int(pairs.min()) for pairs in self.pairs.read(*span, most))
            least = np.array([[span[0]], [row]] if row < span[0] else [[], []], dtype=np.uint64)
        for pairs in self.pairs.read(*span, most):
            pairs = np.concatenate([least, pairs], axis=1)
            found = contract(pairs)
            places = np.minimum(np.searchsorted(found[0], pairs.max(axis=0)), max(found.shape[1] - 1, 0))
            settled &= bool((found[1, places] == pairs.min(axis=0)).all())
            stars.append(found)
        _write_both_ways(self._path(self.round, f"{span[0]:016x}"), np.concatenate(stars, axis=1))
        return settled

    def _label(self, span: tuple[int, int]) -> tuple[int, int]:
        """Runs by row of (row, least row of its cluster); how many are not the least, and how many of these are old."""
        found = []
        for pairs in self.pairs.read(*span, self._most(2)):
            pairs = unique_pairs(np.stack([pairs[0], pairs.min(axis=0)]))
            found.append(pairs[:, np.unique(pairs[0], return_index=True)[1]])
        labels = unique_pairs(np.concatenate(found, axis=1))
        labels = labels[:, np.unique(labels[0], return_index=True)[1]]
        write_run(self._path("labels", f"{span[0]:016x}"), labels)
        linked = labels[0] != labels[1]
        return int(linked.sum()), int((linked & (labels[0] < self.first_row)).sum())

    # ---- clusters: the best copy of each ----

    def _join_ranks(self, chunk: tuple[int, int]) -> None:
        """Runs by label: label, row, 3 of rank, size, of the documents that are in a cluster with others."""
        facts = np.load(self._path("ranks", *chunk))
        labels = self._in_rows("labels", 2, facts[0]) if facts.shape[1] else np.empty((2, 0), dtype=np.uint64)
        places = np.searchsorted(facts[0], labels[0])
        write_run(self._path("members", *chunk), np.concatenate([labels[1:], facts[:, places]]))

    def _best_of_clusters(self, span: tuple[int, int]) -> tuple[int, int]:
        """Rows that leave, and sizes of those that stay for others; how many of each."""
        lost, kept = [], np.empty((6, 0), dtype=np.uint64)
        for records in self._runs("members", 6).read(*span, self._most(6)):
            old = records[0] < self.first_row
            lost.append(records[1, old])
            records = np.concatenate([kept, records[:, ~old]], axis=1)
            order, starts = best_first(records[0], records[[2, 3, 4, 1]])
            first = np.zeros(len(order), dtype=bool)
            first[starts] = True
            lost.append(records[1, order[~first]])
            kept = records[:, order[starts]]
            if len(order):
                kept[5] = np.add.reduceat(records[5, order], starts)
        name = f"{span[0]:016x}"
        write_run(self._path("copies", name), np.concatenate(lost)[None])
        write_run(self._path("sizes", name), kept[[1, 5]])
        return sum(map(len, lost)), kept.shape[1]

    def _folded_alone(self, chunk: tuple[int, int]) -> int:
        """Documents without a near copy that stand for copies of their URL, or of an earlier deduplication."""
        facts = np.load(self._path("ranks", *chunk))
        if not facts.shape[1]:
            return 0
        alone = ~np.isin(facts[0], self._in_rows("labels", 2, facts[0])[0])
        return int((facts[4, alone] > 1).sum())

    # ---- write ----

    def kept(self) -> Iterator[pa.Table]:
        """The documents that stay, in the order of the inputs."""
        for number in progress(range(len(self.pieces)), "write", unit="pieces"):
            chunks = iter(range(self.signed[number]["chunks"]))
            first = row = (self.first_piece + number) * PIECE_ROWS
            last = row - 1
            for table in read_piece(self.pieces[number], Faults()):
                if row > last:  # a chunk is whole tables
                    chunk = next(chunks, None)
                    if chunk is None:
                        break
                    last = int(np.load(self._path("facts", number, chunk), mmap_mode="r")[0, -1])
                    stays, sizes = self._decided(np.load(self._path("ranks", number, chunk)))
                rows = np.arange(row, row + table.num_rows, dtype=np.uint64)
                row += table.num_rows
                mine = np.isin(rows, stays)
                places = np.searchsorted(stays, rows[mine])
                if mine.any():
                    column = pa.array(sizes[places].astype(np.int64))
                    table = table.filter(pa.array(mine))
                    yield table.set_column(table.schema.get_field_index("cluster_size"), "cluster_size", column)
            if row - first != self.signed[number]["rows"]:
                raise ValueError(f"{self.pieces[number].path} has changed while it was deduplicated; run it again")

    def _decided(self, facts: U64) -> tuple[U64, U64]:
        """Rows of a chunk that stay, and the sizes of their clusters."""
        if not facts.shape[1]:
            return facts[0], facts[4]
        found = self._in_rows("sizes", 2, facts[0])
        facts[4, np.searchsorted(facts[0], found[0])] = found[1]
        stays = ~np.isin(facts[0], self._in_rows("copies", 1, facts[0])[0])
        return facts[0, stays], facts[4, stays]

    def add_to_index(self, known: Index) -> None:
        """Prepare the index's next state."""
        known.add(self._keys(), self._runs("urls", 6), self.pairs.paths, self.first_row, self._most(6))

    # ---- how steps are run ----

    def _each(self, name: str, work: Callable[[Any], T], tasks: Sequence[Any]) -> list[T]:
        """Results in order; several at a time."""
        with ThreadPoolExecutor(self.threads) as pool:
            shown = progress(pool.map(work, tasks), name, total=len(tasks), unit="parts")
            return list(shown)

    def _most(self, fields: int) -> int:
        """Records of so many fields that a thread may have in a range."""
        return max(1, self.share // (8 * fields * PEAK))

    def _path(self, kind: str, *place: Any) -> Path:
        parts = "-".join(f"{p:06d}" if isinstance(p, int) else p for p in place)
        return self.work / f"{kind}-{parts}.npy"

    def _paths(self, kind: str) -> list[Path]:
        return sorted(self.work.glob(f"{kind}-*.npy"))

    def _runs(self, kind: str, fields: int) -> Runs:
        return Runs(self._paths(kind), fields)


def _write_both_ways(path: Path, pairs: U64) -> None:
    if pairs.shape[1]:
        write_run(path, unique_pairs(np.concatenate([pairs, pairs[::-1]], axis=1)))


def _url_keys(urls: pa.ChunkedArray) -> U64:
    """(N,) uint64 hashes of canonical URLs; 0 for a document without one."""
    canonical = (canonical_url(url).encode("utf-8", "replace") for url in urls.to_pylist())
    keys = (xxhash.xxh3_64_intdigest(url) if url else 0 for url in canonical)
    return np.fromiter(keys, dtype=np.uint64, count=len(urls))


def _faults(
    pieces: Sequence[Piece], signed: Sequence[dict[str, Any]], broken: Sequence[tuple[str, str]]
) -> Iterator[tuple[str, str]]:
    """(place, reason) of faults, with line numbers of whole files."""
    yield from broken
    before, name = 0, ""
    for piece, found in zip(pieces, signed, strict=True):
        before, name = (before if piece.first and piece.name == name else 0), piece.name
        for number, reason in found["named"]:
            yield f"{name}:{before + number}", reason
        before += found["lines"]


def _tell_faults(pieces: Sequence[Piece], signed: Sequence[dict[str, Any]], broken: Sequence[tuple[str, str]]) -> None:
    total = len(broken) + sum(found["faults"] for found in signed)
    named = 0
    for place, reason in _faults(pieces, signed, broken):
        if named == NAMED:
            break
        named += 1
        say(f"dedup: {place}: {reason}")
    if total:
        rest = f", the first {named} named above" if total > named else ""
        say(f"dedup: {total} broken inputs left out{rest}")
