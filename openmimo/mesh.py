"""Ranks as a value: passed down, never asked for from deep inside."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Mesh:
    """Who this process is among its peers. One process alone is rank 0 of 1."""

    rank: int = 0
    world_size: int = 1
    device: str = "cpu"

    @property
    def is_main(self) -> bool:
        """Whether this rank writes files and talks to people."""
        return self.rank == 0

    def sum(self, tensor: Any) -> Any:
        """Sum a tensor over all ranks, in place; the tensor itself when alone."""
        if self.world_size > 1:
            import torch.distributed as dist

            dist.all_reduce(tensor)
        return tensor

    def share(self, rows: int) -> slice:
        """This rank's rows of a global batch; shares differ by at most one row."""
        return slice(rows * self.rank // self.world_size, rows * (self.rank + 1) // self.world_size)


def join() -> Mesh:
    """The mesh that torchrun's environment describes; a single process without it."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if world_size == 1:
        return Mesh(device=device)
    import torch.distributed as dist

    if not dist.is_initialized():
        dist.init_process_group("nccl" if device == "cuda" else "gloo")
    if device == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    return Mesh(dist.get_rank(), world_size, device)
