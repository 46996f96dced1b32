"""datatrove's recipe from WARC to deduplicated Parquet, in its own environment; driven by `data_end_to_end.py`.

    .venv-datatrove/bin/python benchmarks/datatrove_peer.py PAGES.warc.gz WORK_FOLDER

The steps of its examples process_common_crawl_dump.py and minhash_deduplication.py: read the archive, Trafilatura, then
signatures, buckets, clusters and the filter. Left out, in its favour: the URL, language and quality filters. One task,
one worker: nothing is started that the work does not need. A line of JSON: documents kept, and what Trafilatura did.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path


def main() -> None:
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.dedup.minhash import (
        MinhashConfig,
        MinhashDedupBuckets,
        MinhashDedupCluster,
        MinhashDedupFilter,
        MinhashDedupSignature,
    )
    from datatrove.pipeline.extractors import Trafilatura
    from datatrove.pipeline.readers import JsonlReader, WarcReader
    from datatrove.pipeline.writers import JsonlWriter, ParquetWriter

    pages, work = Path(sys.argv[1]), Path(sys.argv[2])
    config = MinhashConfig(n_grams=5, num_buckets=14, hashes_per_bucket=8)
    folders = {name: str(work / name) for name in ("extracted", "signatures", "buckets", "removed", "kept")}

    def run(name: str, steps: list, tasks: int = 1) -> None:
        LocalPipelineExecutor(pipeline=steps, tasks=tasks, workers=1, logging_dir=str(work / "logs" / name)).run()

    run(
        "extract",
        [
            WarcReader(str(pages.parent), glob_pattern=pages.name),
            Trafilatura(favour_precision=True),
            JsonlWriter(folders["extracted"]),
        ],
    )
    reader = JsonlReader(folders["extracted"])
    run("signatures", [reader, MinhashDedupSignature(folders["signatures"], config)])
    run(
        "buckets",
        [MinhashDedupBuckets(folders["signatures"], folders["buckets"], config=config)],
        tasks=config.num_buckets,
    )
    run("clusters", [MinhashDedupCluster(folders["buckets"], folders["removed"], config)])
    run("filter", [reader, MinhashDedupFilter(folders["removed"]), ParquetWriter(folders["kept"])])

    import pyarrow.parquet as pq

    kept = sum(pq.read_metadata(path).num_rows for path in Path(folders["kept"]).rglob("*.parquet"))
    facts = json.loads((work / "logs" / "extract" / "stats.json").read_text())
    print(json.dumps({"kept": kept, "stats": facts[1].get("stats", {})}))


if __name__ == "__main__":
    main()
