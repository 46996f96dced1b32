"""Safetensors on disk, no file ever held whole: headers say where a tensor lies, pieces of it are read and written.

A file is eight bytes of header length, a JSON header, and the tensors' bytes. Reading goes straight into fresh, aligned
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

INDEX = "model.safetensors.index.json"
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
"""Of the format; what a model may be made of is `hf.py`'s to say."""
NAMES = {dtype: name for name, dtype in DTYPES.items()}
PIECE_BYTES = 16 << 20
"""Read, converted and written at a time."""
MOST_HEADER_BYTES = 100_000_000
"""As the format has it."""


@dataclass(frozen=True, slots=True)
class Stored:
    """Where one tensor lies."""

    name: str
    path: Path
    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    """Byte of the file."""

    @property
    def numel(self) -> int:
        return math.prod(self.shape)


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


def find_tensors(folder: Path) -> dict[str, Stored]:
    """All tensors of a folder's safetensors files, from their headers alone.

    Raises:
        ValueError: if there are none, a file is torn, or the index names a file or a tensor that is not there.
    """
    index = folder / INDEX
    named: dict[str, str] = _weight_map(index) if index.is_file() else {}
    files = sorted(set(named.values())) or sorted(p.name for p in folder.glob("*.safetensors"))
    if not files:
        others = sorted(p.name for pattern in ("*.bin", "*.pt", "*.pth") for p in folder.glob(pattern))
        hint = f" ({others[0]} is not read: pickled files can run code)" if others else ""
        raise ValueError(f"{folder} has no safetensors file{hint}")
    by_file = {name: read_header(folder / name) for name in files}
    for tensor, file in named.items():
        if tensor not in by_file[file]:
            raise ValueError(f"{folder}: {INDEX} says that tensor {tensor} is in {file}, which lacks it")
    found: dict[str, Stored] = {}
    for file, tensors in by_file.items():
        for name, stored in tensors.items():
            if named.get(name, file) != file:
                continue
            if name in found:
                raise ValueError(f"{folder}: tensor {name} is in {found[name].path.name} and in {file}")
            found[name] = stored
    return found


def read_header(path: Path) -> dict[str, Stored]:
    """Tensors of one safetensors file.

    Raises:
        ValueError: if it is missing, no such file, or shorter than its header says.
    """
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            head = file.read(8)
            length = int.from_bytes(head, "little")
            if len(head) < 8 or length > min(size - 8, MOST_HEADER_BYTES):
                raise ValueError(
                    f"{path} cannot be read: {size} bytes are too few for its header, so it is torn or none"
                )
            header = json.loads(file.read(length))
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror or error}") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{path} cannot be read: its header is not JSON, so it is torn or no safetensors file"
        ) from error
    if not isinstance(header, dict):
        raise ValueError(f"{path} cannot be read: its header is a {type(header).__name__}, expected an object")
    header.pop("__metadata__", None)
    found = {name: _stored(path, name, row, 8 + length) for name, row in header.items()}
    for stored in found.values():
        end = stored.start + stored.numel * stored.dtype.itemsize
        if end > size:
            raise ValueError(f"{path} cannot be read: tensor {stored.name} ends at byte {end}, the file has {size}")
    return found


def read_tensor(stored: Stored, dtype: torch.dtype | None = None) -> Tensor:
    """One tensor in memory of its own, as `dtype` or as stored.

    Raises:
        ValueError: if the file is cut short meanwhile, or a value does not fit `dtype`.
    """
    out = torch.empty(stored.shape, dtype=dtype or stored.dtype)
    flat = out.view(-1) if out.dim() else out.view(1)
    if flat.dtype == stored.dtype:
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
    buffer = torch.empty(min(stored.numel, PIECE_BYTES // stored.dtype.itemsize), dtype=stored.dtype)
    with stored.path.open("rb", buffering=0) as file:
        file.seek(stored.start)
        for first in range(0, stored.numel, max(1, buffer.numel())):
            piece = buffer[: min(buffer.numel(), stored.numel - first)]
            _fill(file, piece, stored)
            yield converted(piece, dtype or piece.dtype, f"{stored.path}: tensor {stored.name}")


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


def _stored(path: Path, name: str, row: Any, base: int) -> Stored:
    try:
        dtype, shape, (start, end) = DTYPES.get(row["dtype"]), tuple(row["shape"]), row["data_offsets"]
        whole = all(isinstance(n, int) and n >= 0 for n in (*shape, start, end))
    except (KeyError, TypeError, ValueError):
        dtype, whole = None, False
    if not whole:
        raise ValueError(f"{path} cannot be read: tensor {name} has no dtype, shape and data_offsets in the header")
    if dtype is None:
        raise ValueError(f"{path}: tensor {name} is {row['dtype']}, which is not supported; {', '.join(DTYPES)} are")
    if end - start != math.prod(shape) * dtype.itemsize:
        raise ValueError(
            f"{path} cannot be read: tensor {name} of shape {shape} in {row['dtype']} takes "
            f"{math.prod(shape) * dtype.itemsize} bytes, its header gives it {end - start}"
        )
    return Stored(name, path, dtype, shape, base + start)


def _weight_map(index: Path) -> dict[str, str]:
    try:
        named = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        if not named or not all(isinstance(file, str) for file in named.values()):
            raise TypeError
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{index} is no index of tensors: expected an object with a weight_map") from error
    for tensor, file in named.items():
        if file in ("", "..") or Path(file).name != file:
            raise ValueError(
                f"{index} says that tensor {tensor} is in {file!r}; a name of a file in the folder is right"
            )
    return named
