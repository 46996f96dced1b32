"""What safetensors files hold, from their headers alone: names, types, shapes, places. Standard library only.

A file is eight bytes of header length, a JSON header, and the tensors' bytes.
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

INDEX = "model.safetensors.index.json"
ITEM_BYTES = {"F64": 8, "F32": 4, "BF16": 2, "F16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
MOST_HEADER_BYTES = 100_000_000
"""As the format has it."""


@dataclass(frozen=True, slots=True)
class Stored:
    """Where one tensor lies."""

    name: str
    path: Path
    dtype: str
    """`F32`, `BF16`, ...: a key of ITEM_BYTES."""
    shape: tuple[int, ...]
    start: int
    """Byte of the file."""

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    @property
    def num_bytes(self) -> int:
        return self.numel * ITEM_BYTES[self.dtype]


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
        end = stored.start + stored.num_bytes
        if end > size:
            raise ValueError(f"{path} cannot be read: tensor {stored.name} ends at byte {end}, the file has {size}")
    return found


def _stored(path: Path, name: str, row: Any, base: int) -> Stored:
    try:
        dtype, shape, (start, end) = row["dtype"], tuple(row["shape"]), row["data_offsets"]
        whole = all(isinstance(n, int) and n >= 0 for n in (*shape, start, end))
    except (KeyError, TypeError, ValueError):
        dtype, shape, start, end, whole = "", (), 0, 0, False
    if not whole:
        raise ValueError(f"{path} cannot be read: tensor {name} has no dtype, shape and data_offsets in the header")
    if dtype not in ITEM_BYTES:
        raise ValueError(f"{path}: tensor {name} is {dtype}, which is not supported; {', '.join(ITEM_BYTES)} are")
    stored = Stored(name, path, dtype, shape, base + start)
    if end - start != stored.num_bytes:
        raise ValueError(
            f"{path} cannot be read: tensor {name} of shape {shape} in {dtype} takes {stored.num_bytes} bytes, "
            f"its header gives it {end - start}"
        )
    return stored


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
