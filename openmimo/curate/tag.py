"""The tagging stage (MiMo 2.1): fit a tagger on documents of known provenance, then tag every document by its text.

No strong model is at hand in a small run, so the labels of the training documents come from where they were taken: the
tagger must find them again from the text alone, and that is what it then does for pages it has not seen. With a strong
model at hand `labels` may be its answers instead.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from openmimo.curate.tagger import SCORES, Label, fit

MOST_SEEDS = 2000
"""Training documents at most."""


def provenance(url: str, source: str, tags: Mapping[str, Any]) -> Label:
    """What the origin of a document says of it: (quality, knowledge density, reasoning depth)."""
    if source == "lessons":
        return Label("maths" if tags.get("family") == "chain" else "code", (0.9, 1.0, 0.4))
    if source == "problems":
        domain = "maths" if tags.get("family") == "chain" else "code"
        return Label(domain, (0.8, 0.6, 1.0) if tags.get("style") != "direct" else (0.5, 0.4, 0.2))
    if "pydoc" in url:
        return Label("reference", (0.7, 0.8, 0.3))
    return Label("prose", (0.5, 0.4, 0.2))


def tag_stage(
    seed: int, labels: Callable[[str, str, Mapping[str, Any]], Label] = provenance
) -> Callable[[pa.Table], pa.Table]:
    """A whole-corpus stage: all documents in, their `tags` out, a row each; none is dropped."""

    def tag(table: pa.Table) -> pa.Table:
        rows = table.select(["url", "source", "text", "tags"]).to_pylist()
        tags = [json.loads(row["tags"] or "{}") for row in rows]
        texts = [row["text"] for row in rows]
        seeds = _spread([row["source"] for row in rows], MOST_SEEDS)
        tagger = fit(
            [texts[i] for i in seeds], [labels(rows[i]["url"], rows[i]["source"], tags[i]) for i in seeds], seed=seed
        )
        found = tagger.tag(texts)
        merged = [
            json.dumps({**old, "domain": new.domain, "domain_confidence": new.confidence, **new.scores}, sort_keys=True)
            for old, new in zip(tags, found, strict=True)
        ]
        nothing = pa.nulls(len(merged), pa.string())
        return pa.table({"tags": pa.array(merged, pa.string()), "dropped": nothing, "detail": nothing})

    return tag


def keep_share(tags: Mapping[str, Any], *, shallow: float = 0.45, kept: float = 0.5) -> float:
    """Share of such documents that enters the mixture: shallow, thin text is sampled down (MiMo 2.1)."""
    scores = [float(tags.get(name, 1.0)) for name in SCORES]
    return kept if max(scores) < shallow else 1.0


def _spread(sources: Sequence[str], most: int) -> list[int]:
    """Up to `most` row numbers, each source evenly thinned."""
    by_source: dict[str, list[int]] = {}
    for n, source in enumerate(sources):
        by_source.setdefault(source, []).append(n)
    each = max(1, most // max(1, len(by_source)))
    return sorted(n for rows in by_source.values() for n in rows[:: max(1, -(-len(rows) // each))])
