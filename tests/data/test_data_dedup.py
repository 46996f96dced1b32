"""MinHash kernel, clustering and URL copies against slow obvious twins."""

# ruff: noqa: E501

import json
import random
import unicodedata
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openmimo.data.dedup import (
    cluster,
    dedup_to,
    documents_table,
    drop_near_copies,
    drop_url_copies,
    minhash_keys,
    url_keys,
)
from openmimo.data.minhash import SPACELESS, band_keys, hash_functions, ngram_hashes, signatures, word_hashes
from openmimo.data.snapshot import warc_record
from openmimo.types import Document

MASK = (1 << 64) - 1


def mix(x: int) -> int:
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 & MASK
    x = (x ^ x >> 27) * 0x94D049BB133111EB & MASK
    return x ^ x >> 31


def slow_words(text: str) -> list[str]:
    words: list[str] = []
    grow = False
    for character in text.lower():
        alone = any(a <= ord(character) <= b for a, b in SPACELESS)
        if unicodedata.category(character)[0] not in "LNM":
            grow = False
        elif alone or not grow:
            words.append(character)
            grow = not alone
        else:
            words[-1] += character
    return words


def slow_signature(text: str, num_hashes: int, ngram: int, seed: int) -> list[int]:
    hashes = []
    for word in slow_words(text):
        h = 0xCBF29CE484222325
        for character in word:
            h = (h ^ ord(character)) * 0x100000001B3 & MASK
        hashes.append(mix(h))
    n = min(ngram, len(hashes))
    shingles = []
    for i in range(len(hashes) - n + 1 if hashes else 0):
        h = 0
        for word_hash in hashes[i : i + n]:
            h = (h * 0x9E3779B97F4A7C15 + word_hash) & MASK
        shingles.append(mix(h))
    factors, offsets = hash_functions(num_hashes, seed)
    return [
        min([(s * int(a) + int(b)) & MASK for s in shingles], default=MASK)
        for a, b in zip(factors, offsets, strict=True)
    ]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.text(alphabet="ab Cé9.,-_ \n日本語ไทย🙂İ̈", max_size=40), max_size=4),
    st.integers(1, 6),
    st.integers(0, 3),
)
def test_signatures_equal_the_slow_twin(texts: list[str], ngram: int, seed: int) -> None:
    fast = signatures(texts, num_hashes=7, ngram=ngram, seed=seed)
    assert fast.tolist() == [slow_signature(text, 7, ngram, seed) for text in texts]


def test_agreement_estimates_jaccard() -> None:
    words = [f"w{i}" for i in range(3000)]
    a, b = " ".join(words[:2000]), " ".join(words[400:2400])
    shared, union = 2000 - 400 - 4, 2 * (2000 - 4) - (2000 - 400 - 4)
    signed = signatures([a, b], num_hashes=2000)
    assert abs((signed[0] == signed[1]).mean() - shared / union) < 0.04


def test_case_and_punctuation_do_not_count_but_order_does() -> None:
    one, two, three = signatures(
        ["The cat, sat on THE mat!", "the cat sat on the mat", "the mat sat on the cat"], ngram=2
    )
    assert (one == two).all() and (one != three).any()


def test_scripts_without_spaces_are_cut_by_character() -> None:
    hashes, starts, ends, text = word_hashes("素数は無限に ab")
    assert [text[s:e] for s, e in zip(starts, ends, strict=True)] == ["素", "数", "は", "無", "限", "に", "ab"]
    assert len(ngram_hashes(hashes, 5)) == 3


def test_band_keys_need_matching_sizes() -> None:
    with pytest.raises(ValueError, match="14 bands x 7 rows need 98 hashes, got 112"):
        band_keys(signatures(["a"]), bands=14, rows=7)


def slow_cluster(keys: list[list[int]]) -> list[int]:
    labels = list(range(len(keys)))
    changed = True
    while changed:
        changed = False
        for i in range(len(keys)):
            for j in range(i):
                meet = any(a == b for a, b in zip(keys[i], keys[j], strict=True)) and any(keys[i]) and any(keys[j])
                if meet and labels[i] != labels[j]:
                    labels[i] = labels[j] = min(labels[i], labels[j])
                    changed = True
    return labels


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(st.integers(0, 4), min_size=2, max_size=2), max_size=12))
def test_clusters_equal_the_slow_twin(keys: list[list[int]]) -> None:
    assert cluster(np.array(keys, dtype=np.uint64).reshape(len(keys), 2)).tolist() == slow_cluster(keys)


def document(name: str, text: str, url: str = "", **tags: float) -> Document:
    return Document(id=name, url=url, text=text, source="web", tags=tags)


def outcome(table: pa.Table, decided: pa.Table) -> dict[str, tuple[str, int]]:
    """Survivor -> (cluster_id, cluster_size)."""
    rows = zip(table["id"].to_pylist(), decided.to_pylist(), strict=True)
    return {name: (row["cluster_id"], row["cluster_size"]) for name, row in rows if row["dropped"] is None}


BASE = " ".join(f"word{i}" for i in range(300))


def test_the_best_copy_stays_and_speaks_for_its_cluster() -> None:
    table = documents_table(
        [document("a", BASE), document("b", BASE + " longer"), document("c", "something else entirely " * 20),
         document("d", BASE, quality=0.1), document("e", ""), document("f", "")]
    )  # fmt: skip
    assert outcome(table, drop_near_copies(minhash_keys(table))) == {
        "c": ("c", 1),
        "d": ("d", 3),
        "e": ("e", 1),
        "f": ("f", 1),
    }


def test_url_copies_meet_and_documents_without_url_never_do() -> None:
    table = documents_table(
        [
            document("a", "x", "http://a.b/?utm_source=z"),
            document("b", "longer", "https://www.a.b/"),
            document("c", "x"),
            document("d", "x"),
        ]
    )
    assert outcome(table, drop_url_copies(url_keys(table))) == {"b": ("b", 2), "c": ("c", 1), "d": ("d", 1)}


def test_the_order_of_inputs_does_not_matter() -> None:
    rng = random.Random(0)
    texts = [" ".join(rng.choices(["a", "b", "c", "d"], k=40)) for _ in range(30)]
    documents = [document(f"{i}", texts[i % 30] + (" z" if i >= 60 else ""), quality=(i % 7) / 7) for i in range(90)]
    results = []
    for _ in range(3):
        table = documents_table(documents)
        results.append(outcome(table, drop_near_copies(minhash_keys(table))))
        rng.shuffle(documents)
    assert results[0] == results[1] == results[2] and len(results[0]) <= 30


def test_dedup_to_counts_and_writes(tmp_path: Path) -> None:
    rows = [{"id": "1", "text": BASE, "url": "http://a.b/"}, {"id": "2", "text": BASE + " x", "url": "http://a.b/#f"},
            {"id": "3", "text": BASE}, {"id": "4", "text": " "}]  # fmt: skip
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    counts = dedup_to([tmp_path / "in.jsonl"], tmp_path / "out.jsonl")
    assert counts == {"documents": 3, "kept": 1, "dropped: empty": 1, "dropped: same URL": 1, "dropped: near duplicate": 1,
                      "broken inputs": 0}  # fmt: skip
    (row,) = [json.loads(line) for line in (tmp_path / "out.jsonl").open()]
    assert (row["id"], row["cluster_size"], row["tags"]) == ("2", 3, {})
    dedup_to([tmp_path / "out.jsonl"], tmp_path / "again.parquet")
    assert pa.parquet.read_table(tmp_path / "again.parquet").num_rows == 1


def test_one_hostile_page_costs_nothing_but_itself(tmp_path: Path) -> None:
    surrogate, tags = "a half \\ud800 of a pair", [1]
    (tmp_path / "in.jsonl").write_text(
        f'{{"text": "{surrogate}", "url": "http://\\ud800.x/"}}\n{json.dumps({"text": "tagged", "tags": tags})}\n'
    )
    header = "text/plain; charset=unicode_escape"
    (tmp_path / "in.warc").write_bytes(warc_record("response", "http://w.x/", surrogate.encode(), header))
    counts = dedup_to([tmp_path], tmp_path / "out.jsonl")
    assert counts["documents"] == 2 and counts["dropped: broken row"] == 1
    kept = [json.loads(line)["text"] for line in (tmp_path / "out.jsonl").open()]
    assert kept == ["a half ? of a pair", surrogate]  # no page is in a codec of Python's own
