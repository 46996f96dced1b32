"""Arithmetic, no measurement: what 100 dumps of Common Crawl take at the rates that were measured on one core.

    python benchmarks/data_scale.py [benchmarks/results/data_scale.json]

Rates come from the results of `extract_speed`, `data_end_to_end` and `dedup_rates`. What is assumed of the crawl and of
a machine stands at the top. Every figure scales with them; nothing says that machines this many work without loss.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import record

RESULTS = Path(__file__).with_name("results")
DUMPS, PAGES_A_DUMP, WARC_BYTES_A_DUMP = 100, 2.7e9, 90e12
"""Assumed, as Common Crawl announces its dumps: 2.4 to 3.2 billion pages and 70 to 110 TB, compressed, each."""
CORES, NETWORK_BYTES_PER_S, DAY_S = 64, 1.25e9, 86_400.0
"""A machine: cores and 10 Gbit/s."""


def result(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return found


def main() -> None:
    rates = result("dedup_rates")
    pages = DUMPS * PAGES_A_DUMP
    alone = result("extract_speed")["measured"]["all"]["pages_per_cpu_s"]["openmimo"]["median"]
    whole = result("data_end_to_end")
    bounded = whole["records"] / whole["of ours"]["extract"]["median"]
    cost = {key: value * 1e-6 for key, value in rates["CPU microseconds a document"].items()}
    sign, write = cost.pop("sign"), cost.pop("write")
    core_s = {
        "extract, as a function": pages / alone,
        "extract, in processes that may be killed": pages / bounded,
        "read, rank and sign": pages * sign,
        "URLs, pairs, components, best copies": pages * sum(cost.values()),
        "write": pages * write,
    }
    hours = {name: round(seconds / 3600) for name, seconds in core_s.items()}
    dedup_s = sum(core_s[name] for name in core_s if not name.startswith("extract"))
    extract_s = core_s["extract, in processes that may be killed"]
    shuffled = pages * rates["bytes a document that travel between machines"]
    on_disk = pages * sum(rates["bytes written a document"].values())

    def machines(core_seconds: float, moved: float) -> dict[str, float]:
        """For one day: by cores, by the network, and hours of what is left."""
        by_cores, by_network = core_seconds / (CORES * DAY_S), moved / (NETWORK_BYTES_PER_S * DAY_S)
        return {"by cores": round(by_cores, 1), "by network": round(by_network, 1)}

    record.write(
        "arithmetic from measured rates: 100 dumps of Common Crawl",
        "python benchmarks/data_scale.py",
        {
            "assumed": {"dumps": DUMPS, "pages a dump": PAGES_A_DUMP, "WARC bytes a dump": WARC_BYTES_A_DUMP,
                        "cores a machine": CORES, "bytes per second of its network": NETWORK_BYTES_PER_S},
            "pages": pages,
            "core-hours": hours,
            "machines for one day": {
                "extraction": machines(extract_s, DUMPS * WARC_BYTES_A_DUMP),
                "deduplication": machines(dedup_s, shuffled),
            },
            "hours of deduplication on one machine": round(dedup_s / CORES / 3600, 1),
            "TB that travel between machines": round(shuffled / 1e12, 1),
            "TB of sorted runs on disk": round(on_disk / 1e12, 1),
            "pairs of different texts that share a 64-bit key by accident": round(14 * pages**2 / 2 / 2**64),
        },
    )  # fmt: skip


if __name__ == "__main__":
    main()
