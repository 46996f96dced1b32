"""The tagging stage (MiMo 2.1): fit a tagger on documents of known provenance, then tag every document by its text.

No strong model is at hand in a small run, so the labels of the training documents come from where they were taken: the
tagger must find them again from the text alone, and that is what it then does for pages it has not seen. With a strong
model at hand `labels` may be its answers instead.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from openmimo.curate.tagger import SCORES, Label, Tagger, fit

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


@dataclass(frozen=True)
class TagStage:
    """Documents with what a tagger says of them in `tags`; none is dropped. The tagger is learnt from all, once."""

    seed: int
    labels: Callable[[str, str, Mapping[str, Any]], Label] = provenance
    """(url, source, tags) -> what is known of a training document."""

    def learn(self, parts: Sequence[Callable[[Sequence[str]], pa.Table]]) -> Tagger:
        """Fit on at most MOST_SEEDS documents, every source evenly thinned.

        Args:
            parts: names of columns -> those of a part of the documents.
        """
        sources = [part(["source"])["source"].to_pylist() for part in parts]
        chosen = _spread([source for of_part in sources for source in of_part], MOST_SEEDS)
        rows: list[dict[str, Any]] = []
        first = 0
        for part, of_part in zip(parts, sources, strict=True):
            here = [n - first for n in chosen if first <= n < first + len(of_part)]
            first += len(of_part)
            if here:
                rows += part(["url", "source", "text", "tags"]).take(here).to_pylist()
        known = [self.labels(row["url"], row["source"], json.loads(row["tags"] or "{}")) for row in rows]
        return fit([row["text"] for row in rows], known, seed=self.seed)

    def __call__(self, documents: pa.Table, tagger: Tagger) -> pa.Table:
        found = tagger.tag(documents["text"].to_pylist())
        merged = [
            json.dumps(
                {**json.loads(old or "{}"), "domain": new.domain, "domain_confidence": new.confidence, **new.scores},
                sort_keys=True,
            )
            for old, new in zip(documents["tags"].to_pylist(), found, strict=True)
        ]
        place = documents.schema.get_field_index("tags")
        return documents.set_column(place, "tags", pa.array(merged, pa.string()))


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
