"""What chips can do: peak arithmetic, memory, price. Figures are the makers' data sheets, prices what clouds ask."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from functools import lru_cache
from typing import Any


@dataclass(frozen=True)
class Gpu:
    """One accelerator."""

    name: str
    bf16_flops: float
    """Dense bfloat16, FLOP/s."""
    memory_bytes: float
    dollars_per_hour: float
    """A round figure for on-demand renting, to be replaced by one's own."""


GPUS = {
    "a100": Gpu("NVIDIA A100 80 GB", 312e12, 80e9, 1.5),
    "h20": Gpu("NVIDIA H20", 148e12, 96e9, 1.5),
    "h100": Gpu("NVIDIA H100 SXM", 989e12, 80e9, 2.5),
    "h200": Gpu("NVIDIA H200 SXM", 989e12, 141e9, 3.0),
    "l40s": Gpu("NVIDIA L40S", 362e12, 48e9, 0.9),
    "mi300x": Gpu("AMD Instinct MI300X", 1307e12, 192e9, 2.5),
    "b200": Gpu("NVIDIA B200", 2250e12, 180e9, 5.0),
}


def peak_flops(device: Any, dtype: Any) -> float:
    """FLOP/s that utilisation is measured against: a known GPU's data sheet, else a large matrix product timed here."""
    import torch

    device = torch.device(device)
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device).lower()
        known = [gpu for key, gpu in GPUS.items() if re.search(rf"\b{key}\b", name)]
        if known and dtype == torch.bfloat16:
            return known[0].bf16_flops
    return _measured(str(device), dtype, torch.get_num_threads())


@lru_cache
def _measured(device: str, dtype: Any, threads: int, size: int = 1024) -> float:
    import torch

    a, b = (torch.ones(size, size, dtype=dtype, device=device) for _ in range(2))
    best = 0.0
    for _ in range(4):
        if a.is_cuda:
            torch.cuda.synchronize()
        started = time.perf_counter()
        for _ in range(4):
            c = a @ b
        float(c[0, 0])  # waits for a GPU
        best = max(best, 4 * 2 * size**3 / (time.perf_counter() - started))
    return best
