"""Claim: the MTP objective costs little more time than its arithmetic.

    OMP_NUM_THREADS=1 python benchmarks/mtp_overhead.py [benchmarks/results/mtp_overhead.json]

CPU time of compiled training steps of the 25 M shape with the MTP layer and its loss, and without, in turn, nine
rounds. What the objective adds to the time, over what it adds to the FLOPs (`flops_per_token`, causal):
(time with / time without - 1) / (FLOPs with / FLOPs without - 1), and the same of the whole step. One process each;
rows, context and vocabulary are those of `pretrain_speed.py`.
"""

from __future__ import annotations

import sys
import tempfile
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

import pretrain_speed
import record
from pretrain_speed import CONTEXT, DTYPES, OURS, ROWS, SHAPES, WITH_MTP

NUM_ROUNDS = 9


def main() -> None:
    config = SHAPES["25M"]
    flops = {name: pretrain_speed.flops_of(config, name) for name in (OURS, WITH_MTP)}
    extra = flops[WITH_MTP] / flops[OURS] - 1
    found = {}
    for dtype in DTYPES:
        with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
            tokens = pretrain_speed.write_tokens(Path(folder) / "tokens.bin")
            common = {"tokens": str(tokens), "rows": ROWS, "context": CONTEXT, "shape": asdict(config), "dtype": dtype}
            commands = {name: (sys.executable, pretrain_speed.__file__, {"contestant": name}) for name in flops}
            running = pretrain_speed.started(stack, commands, common)
            works = {name: lambda p=process: p.steps(1)["cpu_s"][0] for name, process in running.items()}
            spent = record.interleaved(works, NUM_ROUNDS)
        pairs = list(zip(spent[WITH_MTP], spent[OURS], strict=True))
        found[dtype] = {
            "step_cpu_s": {name: record.spread(values) for name, values in spent.items()},
            "extra time": record.spread([a / b - 1 for a, b in pairs]),
            "extra FLOPs": round(extra, 4),
            "extra time / extra FLOPs": record.spread([(a / b - 1) / extra for a, b in pairs]),
            "time / FLOPs of the whole step": record.spread([a / b / (1 + extra) for a, b in pairs]),
        }
        print(f"{dtype}: extra time / extra FLOPs {found[dtype]['extra time / extra FLOPs']}", file=sys.stderr)
    record.write(
        "what MTP adds to a step's time over what it adds to its FLOPs",
        "OMP_NUM_THREADS=1 python benchmarks/mtp_overhead.py",
        {"parameters": config.num_parameters(), "flops_per_token": flops, **found},
        threads=1,
    )


if __name__ == "__main__":
    main()
