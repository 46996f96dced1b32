"""Claim: log-probabilities and entropies of chosen tokens need a fraction of the memory of whole logits.

    OMP_NUM_THREADS=1 python benchmarks/logprobs_memory.py [benchmarks/results/logprobs_memory.json]

Forward and backward over a vocabulary of 151,680, hidden size 512, float32, temperature 0.6: `train.loss.
chunked_logprobs`, and PyTorch's `log_softmax` over whole logits with the entropy formed from it. Each measurement is a
process of its own whose greatest resident memory the kernel reports. Counted is what lies above the inputs; of this the
gradients of hidden state and head are what any way must give, so the ratio is told with and without them. Whole logits
are measured at 512 and 1,024 positions and computed for 4,096 by the line through both; ours is measured there. CPU
time is compared at 1,024, in interleaved rounds.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import record
from loss_memory import HIDDEN, VOCABULARY

WHOLE_POSITIONS, POSITIONS = (512, 1024), 4096
TEMPERATURE = 0.6
NUM_ROUNDS = 3


def main() -> None:
    whole = {n: measured("whole", n) for n in WHOLE_POSITIONS}
    ours = {n: measured("chunked", n) for n in (*WHOLE_POSITIONS, POSITIONS)}
    small, large = WHOLE_POSITIONS
    slope = (whole[large] - whole[small]) / (large - small)
    line = whole[large] + slope * (POSITIONS - large)
    given = 4 * HIDDEN * (POSITIONS + VOCABULARY)
    times = record.interleaved(
        {way: lambda way=way: _ask(way, large)["cpu_s"] for way in ("chunked", "whole")}, NUM_ROUNDS
    )
    record.write(
        "peak memory and time of log-probabilities and entropies against whole logits",
        "OMP_NUM_THREADS=1 python benchmarks/logprobs_memory.py",
        {
            "vocabulary": VOCABULARY,
            "hidden": HIDDEN,
            "whole_bytes": {**whole, f"{POSITIONS}, computed": round(line)},
            "chunked_bytes": ours,
            "gradient_bytes": given,
            "whole / chunked at 1024": round(whole[large] / ours[large], 2),
            "whole / chunked at 4096": round(line / ours[POSITIONS], 1),
            "whole / chunked at 4096, without the gradients": round((line - given) / (ours[POSITIONS] - given), 1),
            "cpu_s at 1024": {way: record.spread(values) for way, values in times.items()},
            "time, chunked / whole": record.over(times, "chunked", "whole"),
        },
        threads=1,
    )


def measured(way: str, positions: int) -> int:
    """Peak bytes above the inputs."""
    found = int(_ask(way, positions)["peak_bytes"])
    print(f"{way}, {positions} positions: {found / 2**30:.2f} GiB above the inputs", file=sys.stderr)
    return found


def _ask(way: str, positions: int) -> dict[str, float]:
    done = subprocess.run([sys.executable, __file__, way, str(positions)], capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def run(way: str, positions: int) -> None:
    """In a process of its own: one forward and backward pass."""
    import torch
    from torch.nn import functional as F

    from openmimo.train.loss import chunked_logprobs

    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    hidden_ND = torch.randn(positions, HIDDEN, generator=generator).requires_grad_()
    head_VD = torch.randn(VOCABULARY, HIDDEN, generator=generator).mul_(0.02).requires_grad_()
    targets_N = torch.randint(0, VOCABULARY, (positions,), generator=generator)

    def logprobs(hidden: torch.Tensor, head: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        if way == "chunked":
            return chunked_logprobs(hidden, head, targets, TEMPERATURE)[0]
        logs_NV = F.log_softmax((hidden @ head.T) / TEMPERATURE, dim=-1)
        with torch.no_grad():
            -(logs_NV.exp() * logs_NV).sum(-1)
        return logs_NV.gather(-1, targets[:, None])[:, 0]

    few = head_VD.detach()[:64].clone().requires_grad_()  # what libraries allocate once is taken before
    logprobs(hidden_ND[:8], few, targets_N[:8] % 64).sum().backward()
    hidden_ND.grad = None
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    before, began = _status("VmRSS"), time.process_time()
    logprobs(hidden_ND, head_VD, targets_N).sum().backward()
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
