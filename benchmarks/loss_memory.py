"""Claim: the chunked loss needs a fraction of the memory of whole logits, in the same time.

    OMP_NUM_THREADS=1 python benchmarks/loss_memory.py [benchmarks/results/loss_memory.json]

Main and MTP cross-entropy over a vocabulary of 151,680, forward and backward, hidden size 512, float32: ours, and
PyTorch's `cross_entropy` over whole logits, each measurement a process of its own whose greatest resident memory the
kernel reports. Counted is what lies above the inputs: logits, what is kept for the backward pass, gradients. Of this
the gradients of both hidden states and of the head are what any way must give; the ratio is told with and without
them.

Whole logits of 8,192 positions do not fit a small machine: they are measured at 512, 1,024 and 2,048 positions and
computed for 8,192 by the line through the two last (the first says how good the line is). Ours is measured at 8,192.
Time is compared at 1,024, in interleaved rounds.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import record

VOCABULARY, HIDDEN, MTP_WEIGHT = 151_680, 512, 0.3
WHOLE_POSITIONS, POSITIONS = (512, 1024, 2048), 8192
NUM_ROUNDS = 5


def main() -> None:
    whole = {n: measured("whole", n) for n in WHOLE_POSITIONS}
    ours = {n: measured("chunked", n) for n in (*WHOLE_POSITIONS, POSITIONS)}
    small, middle, large = WHOLE_POSITIONS
    slope = (whole[large] - whole[middle]) / (large - middle)
    line = {n: whole[large] + slope * (n - large) for n in (small, POSITIONS)}
    given = gradient_bytes(POSITIONS)
    times = record.interleaved({way: lambda way=way: timed(way, middle) for way in ("chunked", "whole")}, NUM_ROUNDS)
    record.write(
        "peak memory and time of the main + MTP loss against whole logits",
        "OMP_NUM_THREADS=1 python benchmarks/loss_memory.py",
        {
            "vocabulary": VOCABULARY,
            "hidden": HIDDEN,
            "whole_bytes": {**whole, f"{POSITIONS}, computed": round(line[POSITIONS])},
            "line at 512 / measured": round(line[small] / whole[small], 3),
            "chunked_bytes": ours,
            "gradient_bytes": given,
            "whole / chunked at 8192": round(line[POSITIONS] / ours[POSITIONS], 1),
            "whole / chunked at 8192, without the gradients": round(
                (line[POSITIONS] - given) / (ours[POSITIONS] - given), 1
            ),
            "cpu_s at 1024": {way: record.spread(values) for way, values in times.items()},
            "time, chunked / whole": record.over(times, "chunked", "whole"),
        },
        threads=1,
    )


def gradient_bytes(positions: int) -> int:
    """Gradients of two hidden states and of the head, float32."""
    return 4 * HIDDEN * (2 * positions + VOCABULARY)


def measured(way: str, positions: int) -> int:
    """Peak bytes above the inputs."""
    found = int(_ask(way, positions)["peak_bytes"])
    print(f"{way}, {positions} positions: {found / 2**30:.2f} GiB above the inputs", file=sys.stderr)
    return found


def timed(way: str, positions: int) -> float:
    return float(_ask(way, positions)["cpu_s"])


def _ask(way: str, positions: int) -> dict[str, float]:
    done = subprocess.run([sys.executable, __file__, way, str(positions)], capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def run(way: str, positions: int) -> None:
    """In a process of its own: one forward and backward pass."""
    import torch
    from torch.nn import functional as F

    from openmimo.train.loss import cross_entropy_sum

    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    main_ND, mtp_ND = (torch.randn(1, positions, HIDDEN, generator=generator).requires_grad_() for _ in range(2))
    head_VD = torch.randn(VOCABULARY, HIDDEN, generator=generator).mul_(0.02).requires_grad_()
    targets = torch.randint(0, VOCABULARY, (1, positions), generator=generator)
    weights = torch.ones(1, positions)

    def loss(hidden: torch.Tensor, head: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        if way == "whole":
            return F.cross_entropy((hidden @ head.T).flatten(0, 1), targets.flatten(), reduction="sum")
        return cross_entropy_sum(hidden, head, targets, weights[:, : targets.shape[1]])[0]

    # What libraries allocate once is taken before.
    few = head_VD.detach()[:64].clone().requires_grad_()
    loss(main_ND[:, :8], few, targets[:, :8] % 64).backward()
    main_ND.grad = None
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    before, began = _status("VmRSS"), time.process_time()
    (loss(main_ND, head_VD, targets) + MTP_WEIGHT * loss(mtp_ND, head_VD, targets)).backward()
    print(json.dumps({"peak_bytes": _status("VmHWM") - before, "cpu_s": time.process_time() - began}))


def _status(name: str) -> int:
    """Bytes that /proc/self/status says."""
    for line in Path("/proc/self/status").read_text().split("\n"):
        if line.startswith(name + ":"):
            return int(line.split()[1]) * 1024
    raise AssertionError(name)


if __name__ == "__main__":
    if len(sys.argv) == 3 and sys.argv[1] in ("whole", "chunked"):
        run(sys.argv[1], int(sys.argv[2]))
    else:
        main()
