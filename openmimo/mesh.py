"""Ranks as a value: passed down, never asked for from deep inside."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta
from typing import Any


@dataclass(frozen=True)
class Mesh:
    """Who this process is among its peers. One process alone is rank 0 of 1."""

    rank: int = 0
    world_size: int = 1
    device: str = "cpu"
    local_size: int = 1
    """Ranks on this machine."""

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

    def any(self, flag: bool) -> bool:
        """Whether the flag is up on any rank; all ranks must ask."""
        if self.world_size == 1:
            return flag
        import torch

        return bool(self.sum(torch.tensor(float(flag), device=self.device)) > 0)

    def wait(self) -> None:
        """Until every rank is here."""
        if self.world_size > 1:
            import torch.distributed as dist

            dist.barrier()

    def leave(self) -> None:
        """End what `join` began."""
        if self.world_size > 1:
            import torch.distributed as dist

            dist.destroy_process_group()

    def device_mesh(self) -> Any:
        """All ranks along one axis, as FSDP wants it."""
        from torch.distributed.device_mesh import init_device_mesh

        return init_device_mesh(self.device, (self.world_size,), mesh_dim_names=("shard",))

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
        if device == "cuda":
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        # Rank 0 alone writes files, and the others wait for as long as that takes.
        dist.init_process_group("nccl" if device == "cuda" else "gloo", timeout=timedelta(hours=12))
    return Mesh(dist.get_rank(), world_size, device, int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
