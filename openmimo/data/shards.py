"""Token shards: the documents of one source as one flat, memory-mapped array with its borders.

FOLDER/tokens.bin     uint16 or uint32, all documents in order
FOLDER/borders.npy    int64, start of every document, and the end
FOLDER/shard.json     format version, dtype, counts, tokenizer fingerprint
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from openmimo.checkpoint import aside, sync_folder, write_text

FORMAT_VERSION = 1


@dataclass(frozen=True)
class TokenShard:
    """One source's documents, read-only."""

    source: str
    tokens: np.ndarray
    borders: np.ndarray

    def __len__(self) -> int:
        return len(self.borders) - 1

    @property
    def num_tokens(self) -> int:
        return int(self.borders[-1])

    def document(self, index: int) -> np.ndarray:
        """Token ids of one document."""
        return self.tokens[self.borders[index] : self.borders[index + 1]]


def write_shard(documents: Iterable[Sequence[int]], folder: Path, source: str, *, vocab_size: int) -> TokenShard:
    """Write one source's token ids whole or not at all.

    Raises:
        ValueError: if there is no document at all, or a token id outside the vocabulary.
    """
    dtype = np.dtype(np.uint16 if vocab_size <= 1 << 16 else np.uint32)
    temporary = aside(folder)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    borders = [0]
    with (temporary / "tokens.bin").open("wb") as file:
        for ids in documents:
            if not len(ids):
                continue
            row = np.asarray(ids, dtype=np.int64)
            if row.min() < 0 or row.max() >= vocab_size:
                shutil.rmtree(temporary)
                wrong = int(row[(row < 0) | (row >= vocab_size)][0])
                raise ValueError(f"source {source!r} has token id {wrong}; the vocabulary has {vocab_size}")
            file.write(row.astype(dtype).tobytes())
            borders.append(borders[-1] + len(ids))
        file.flush()
        os.fsync(file.fileno())
    if len(borders) == 1:
        shutil.rmtree(temporary)
        raise ValueError(f"source {source!r} has no documents to tokenize")
    with (temporary / "borders.npy").open("wb") as file:
        np.save(file, np.asarray(borders, np.int64))
        file.flush()
        os.fsync(file.fileno())
    about = {
        "format_version": FORMAT_VERSION,
        "source": source,
        "dtype": dtype.name,
        "documents": len(borders) - 1,
        "tokens": borders[-1],
    }
    write_text(temporary / "shard.json", json.dumps(about, indent=2) + "\n")
    if folder.exists():
        shutil.rmtree(folder)
    temporary.rename(folder)
    sync_folder(folder.parent)
    return open_shard(folder)


def open_shards(folder: Path) -> dict[str, TokenShard]:
    """Every shard in a folder, by source; none if there is no such folder.

    Raises:
        ValueError: if one of them is torn.
    """
    if not folder.is_dir():
        return {}
    return {p.name: open_shard(p) for p in sorted(folder.iterdir()) if p.is_dir() and not p.name.startswith(".")}


def open_shard(folder: Path) -> TokenShard:
    """Map a shard.

    Raises:
        ValueError: if it is missing, torn or of another format version.
    """
    path = folder / "shard.json"
    if not path.is_file():
        raise ValueError(f"{folder} is no token shard: shard.json is missing")
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
        version = about["format_version"]
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path} is torn: {error}") from error
    if version != FORMAT_VERSION:
        raise ValueError(f"{folder} has shard format {version}, this is {FORMAT_VERSION}")
    dtype = np.dtype(about["dtype"])
    for name in ("tokens.bin", "borders.npy"):
        if not (folder / name).is_file():
            raise ValueError(f"{folder} is torn: {name} is missing")
    size = (folder / "tokens.bin").stat().st_size
    if size != about["tokens"] * dtype.itemsize:
        raise ValueError(f"{folder}/tokens.bin has {size} bytes, shard.json says {about['tokens'] * dtype.itemsize}")
    try:
        borders = np.load(folder / "borders.npy")
    except (ValueError, EOFError) as error:
        raise ValueError(f"{folder}/borders.npy is torn: {error}") from error
    if len(borders) != about["documents"] + 1 or borders[-1] != about["tokens"]:
        raise ValueError(
            f"{folder}/borders.npy has {len(borders) - 1} documents and {borders[-1]} tokens, "
            f"shard.json says {about['documents']} and {about['tokens']}"
        )
    tokens = np.memmap(folder / "tokens.bin", dtype=dtype, mode="r")
    return TokenShard(about["source"], tokens, borders)
