"""Safetensors on disk, no file ever held whole: headers say where a tensor lies, pieces of it are read and written.

Reading goes straight into fresh, aligned
memory, a piece at a time. Nothing is left mapped: mapped pages count as the process's memory too, so a model read
through a mapping takes twice its size at the peak. Left out: quantized types.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from openmimo.checkpoint import write_text
from openmimo.model.headers import INDEX, Stored

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}
PIECE_BYTES = 16 << 20
"""Read, converted and written at a time."""


@dataclass(frozen=True, slots=True)
class Source:
    """One tensor to write, which need not exist as a whole."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    pieces: Callable[[], Iterator[Tensor]]
    """Its elements in order, in any number of tensors of any shape and of `dtype`."""

    @property
    def num_bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def read_tensor(stored: Stored, dtype: torch.dtype | None = None) -> Tensor:
    """One tensor in memory of its own, as `dtype` or as stored.

    Raises:
        ValueError: if the file is cut short meanwhile, or a value does not fit `dtype`.
    """
    out = torch.empty(stored.shape, dtype=dtype or DTYPES[stored.dtype])
    flat = out.view(-1) if out.dim() else out.view(1)
    if flat.dtype == DTYPES[stored.dtype]:
        with stored.path.open("rb", buffering=0) as file:
            file.seek(stored.start)
            _fill(file, flat, stored)
        return out
    first = 0
    for piece in read_pieces(stored, dtype):
        flat[first : first + piece.numel()] = piece
        first += piece.numel()
    return out


def read_pieces(stored: Stored, dtype: torch.dtype | None = None) -> Iterator[Tensor]:
    """One tensor's elements in order, PIECE_BYTES at a time; each lasts until the next is asked for.

    Raises:
        ValueError: as `read_tensor`.
    """
    own = DTYPES[stored.dtype]
    buffer = torch.empty(min(stored.numel, PIECE_BYTES // own.itemsize), dtype=own)
    with stored.path.open("rb", buffering=0) as file:
        file.seek(stored.start)
        for first in range(0, stored.numel, max(1, buffer.numel())):
            piece = buffer[: min(buffer.numel(), stored.numel - first)]
            _fill(file, piece, stored)
            yield converted(piece, dtype or own, f"{stored.path}: tensor {stored.name}")


def converted(piece: Tensor, dtype: torch.dtype, where: str) -> Tensor:
    """The piece as `dtype`, rounded to nearest.

    Raises:
        ValueError: for a finite value that is beyond the new type's largest.
    """
    if piece.dtype == dtype:
        return piece
    out = piece.to(dtype)
    if torch.finfo(dtype).max < torch.finfo(piece.dtype).max:
        lost = out.isinf()
        if bool(lost.any()) and bool(lost.logical_and_(piece.isinf().logical_not_()).any()):
            raise ValueError(
                f"{where} holds {float(piece[lost][0]):g}, beyond {str(dtype).removeprefix('torch.')}'s "
                f"{torch.finfo(dtype).max:g}; bfloat16 and float32 can hold it"
            )
    return out


def source_of(tensor: Tensor) -> Source:
    """A tensor in memory, as something to write."""

    def pieces() -> Iterator[Tensor]:
        flat = tensor.detach().contiguous().view(-1)
        step = PIECE_BYTES // flat.dtype.itemsize
        for first in range(0, flat.numel(), step):
            yield flat[first : first + step].cpu()

    return Source(tuple(tensor.shape), tensor.dtype, pieces)


def write_shards(sources: Mapping[str, Source], folder: Path, max_shard_bytes: int) -> None:
    """Write tensors into model.safetensors, or into several files with their index, each durable once written."""
    shards: list[dict[str, Source]] = [{}]
    size = 0
    for name, source in sources.items():
        if size and size + source.num_bytes > max_shard_bytes:
            shards.append({})
            size = 0
        shards[-1][name] = source
        size += source.num_bytes
    if len(shards) == 1:
        _write_file(shards[0], folder / "model.safetensors")
        return
    weight_map = {}
    for n, shard in enumerate(shards, 1):
        name = f"model-{n:05d}-of-{len(shards):05d}.safetensors"
        _write_file(shard, folder / name)
        weight_map.update(dict.fromkeys(shard, name))
    total = sum(source.num_bytes for source in sources.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    write_text(folder / INDEX, json.dumps(index, indent=2) + "\n")


def _write_file(sources: Mapping[str, Source], path: Path) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, source in sources.items():
        header[name] = {
            "dtype": NAMES[source.dtype],
            "shape": list(source.shape),
            "data_offsets": [end, end + source.num_bytes],
        }
        end += source.num_bytes
    head = json.dumps(header, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    with path.open("wb", buffering=0) as file:
        _write_all(file, len(head).to_bytes(8, "little") + head)
        for name, source in sources.items():
            written = 0
            for piece in source.pieces():
                assert piece.dtype == source.dtype, (name, piece.dtype)
                written += piece.numel()
                _write_all(file, _bytes(piece.contiguous().view(-1)))
            assert written == math.prod(source.shape), (name, written)
        os.fsync(file.fileno())


def _write_all(file: FileIO, data: bytes | memoryview) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[file.write(rest) :]


def _fill(file: FileIO, flat: Tensor, stored: Stored) -> None:
    rest = _bytes(flat)
    while rest:
        count = file.readinto(rest)
        if not count:
            raise ValueError(f"{stored.path} cannot be read: it ends inside tensor {stored.name}")
        rest = rest[count:]


def _bytes(flat: Tensor) -> memoryview:
    """The memory of a contiguous one-dimensional tensor on the CPU."""
    return memoryview(flat.view(torch.uint8).numpy().data) if flat.numel() else memoryview(bytearray())
