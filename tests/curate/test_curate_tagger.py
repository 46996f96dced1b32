"""The tagger learns from text alone, is a function of its seed, and tags whole tables."""

import json
import pickle
import random

import pyarrow as pa
import pytest

from openmimo.curate.corpus import CorpusConfig, make_corpus
from openmimo.curate.tag import TagStage, keep_share, provenance
from openmimo.curate.tagger import SCORES, Label, Tags, fit

WORDS = {
    "maths": "theorem proof lemma integer sum prime equation let modulo".split(),
    "sport": "goal match team season coach league player score win".split(),
    "ads": "buy now cheap offer price sale click order free".split(),
}
SCORE = {"maths": (0.9, 0.8, 1.0), "sport": (0.5, 0.3, 0.1), "ads": (0.1, 0.1, 0.0)}


def pages(number: int, seed: int) -> tuple[list[str], list[Label]]:
    rng = random.Random(seed)
    common = "the a of and to in is it that for".split()
    texts, labels = [], []
    for n in range(number):
        domain = sorted(WORDS)[n % 3]
        texts.append(" ".join(rng.choice(WORDS[domain] if rng.random() < 0.3 else common) for _ in range(60)))
        labels.append(Label(domain, SCORE[domain]))
    return texts, labels


def test_it_learns_domains_and_scores_and_finds_them_on_pages_it_has_not_seen() -> None:
    tagger = fit(*pages(600, 0), seed=0)
    texts, labels = pages(90, 1)
    found = tagger.tag(texts)
    assert sum(t.domain == label.domain for t, label in zip(found, labels, strict=True)) >= 88
    for name, n in zip(SCORES, range(3), strict=True):
        error = sum(abs(t.scores[name] - label.scores[n]) for t, label in zip(found, labels, strict=True)) / 90
        assert error < 0.15, name
    assert all(0.0 <= t.confidence <= 1.0 and 0.0 <= min(t.scores.values()) <= 1.0 for t in found)


def test_one_seed_one_tagger() -> None:
    def tags(seed: int) -> list[Tags]:
        return fit(*pages(120, 0), seed=seed).tag(pages(30, 1)[0])

    assert tags(3) == tags(3) != tags(4)


def test_any_text_can_be_tagged() -> None:
    tagger = fit(*pages(60, 0), seed=0)
    assert len(tagger.tag(["", "\0", "😀" * 9, "word " * 100_000])) == 4
    assert tagger.tag([]) == []


def test_labels_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="as many labels as texts, and at least one; got 0, 0"):
        fit([], [], seed=0)
    with pytest.raises(ValueError, match="got 2, 1"):
        fit(["a", "b"], [Label("x", (0.0, 0.0, 0.0))], seed=0)


def test_the_stage_tags_every_document_and_drops_none() -> None:
    corpus = make_corpus(CorpusConfig(num_documents=400, num_lessons=200, num_synthetic=0, num_sft=0, num_rl=4), 0)
    prose = [f"It was a day in {month}, and the harbour lay still." for month in ("May", "June", "July")] * 100
    rows = [
        {"url": d.url, "source": d.source, "text": d.text, "tags": json.dumps(dict(d.tags))} for d in corpus.documents
    ]
    rows += [{"url": f"w{n}", "source": "web", "text": text, "tags": None} for n, text in enumerate(prose)]
    table = pa.Table.from_pylist(rows)
    stage = TagStage(0)
    halves = [table.slice(0, 350), table.slice(350)]
    tagger = stage.learn([half.select for half in halves])
    found = pa.concat_tables([stage(half, tagger) for half in halves])
    assert found.drop(["tags"]).equals(table.drop(["tags"]))
    tags = [json.loads(t) for t in found["tags"].to_pylist()]
    expected = [provenance(r["url"], r["source"], json.loads(r["tags"] or "{}")).domain for r in rows]
    agree = sum(t["domain"] == e for t, e in zip(tags, expected, strict=True))
    assert agree / len(rows) > 0.9
    assert tags[0]["family"] in ("chain", "pipeline")  # what was known stays
    again = stage.learn([table.select])
    assert stage(table, again).equals(found.combine_chunks())
    assert pickle.dumps(again) == pickle.dumps(tagger) == pickle.dumps(pickle.loads(pickle.dumps(tagger)))


def test_shallow_text_is_sampled_down_and_nothing_else() -> None:
    assert keep_share({"quality": 0.2, "knowledge_density": 0.3, "reasoning_depth": 0.44}) == 0.5
    assert keep_share({"quality": 0.2, "knowledge_density": 0.3, "reasoning_depth": 0.45}) == 1.0
    assert keep_share({}) == 1.0
