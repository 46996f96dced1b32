"""MinHash kernel, clustering and URL copies against slow obvious twins."""

import contextlib
import random
import unicodedata
from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from openmimo.data.copies import minhash, minhash_numba
from openmimo.data.copies.dedup import (
    cluster,
    drop_near_copies,
    drop_url_copies,
    minhash_keys,
    url_keys,
)
from openmimo.data.copies.minhash import SPACELESS, band_keys, hash_functions, ngram_hashes, signatures, word_hashes
from openmimo.data.documents import DOCUMENT_SCHEMA, document_row
from openmimo.types import Document

try:
    from openmimo.data.copies import _kernels
except ImportError:
    _kernels = None  # type: ignore[assignment]

MASK = (1 << 64) - 1


def documents_table(documents: Iterable[Document]) -> pa.Table:
    return pa.Table.from_pylist([document_row(document) for document in documents], schema=DOCUMENT_SCHEMA)


def mix(x: int) -> int:
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 & MASK
    x = (x ^ x >> 27) * 0x94D049BB133111EB & MASK
    return x ^ x >> 31


def slow_words(text: str) -> list[str]:
    words: list[str] = []
    grow = False
    for character in text:
        alone = any(a <= ord(character) <= b for a, b in SPACELESS)
        if unicodedata.category(character)[0] not in "LNM":
            grow = False
            continue
        lower = character.lower()[0] if character.isupper() or character.istitle() else character
        if alone or not grow:
            words.append(lower)
            grow = not alone
        else:
            words[-1] += lower
    return words


def slow_word_hash(word: str) -> int:
    data = word.encode()
    h = len(data) * 0xA0761D6478BD642F & MASK
    for i in range(0, len(data), 8):
        h = (h ^ int.from_bytes(data[i : i + 8], "little")) * 0xE7037ED1A0B428DB & MASK
        h ^= h >> 32
    return h


def slow_signature(text: str, num_hashes: int, ngram: int, seed: int) -> list[int]:
    hashes = [slow_word_hash(word) for word in slow_words(text)]
    n = min(ngram, len(hashes))
    shingles = []
    for i in range(len(hashes) - n + 1 if hashes else 0):
        h = 0
        for word_hash in hashes[i : i + n]:
            h = (h * 0x9E3779B97F4A7C15 + word_hash) & MASK
        shingles.append(mix(h) >> 32)
    factors, offsets = hash_functions(num_hashes, seed)
    return [
        min([(s * int(a) + int(b)) & 0xFFFFFFFF for s in shingles], default=0xFFFFFFFF)
        for a, b in zip(factors, offsets, strict=True)
    ]


def kernel_names() -> list[str]:
    """What can compute here: numba, and the compiled module's instruction sets that this machine has."""
    names = ["numba"]
    if _kernels is not None:
        for name in ("plain", "avx2", "avx512"):
            with contextlib.suppress(ValueError):
                names.append(_kernels.use(name))
        _kernels.use()
    return names


@pytest.fixture(params=kernel_names())
def kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    if request.param == "numba":
        monkeypatch.setattr(minhash, "kernels", lambda: minhash_numba)
    else:
        _kernels.use(request.param)
    yield request.param
    if _kernels is not None:
        _kernels.use()


WILD = st.text(alphabet="ab Cé9.,-_ \n日本語ไทย🙂İ̈ȺǅΣ\ud800߿", max_size=40)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(WILD, max_size=4), st.integers(1, 6), st.integers(0, 3), st.integers(1, 40))
def test_signatures_equal_the_slow_twin(kernel: str, texts: list[str], ngram: int, seed: int, hashes: int) -> None:
    fast = signatures(texts, num_hashes=hashes, ngram=ngram, seed=seed)
    assert fast.tolist() == [slow_signature(text, hashes, ngram, seed) for text in texts]


def test_long_texts_equal_the_slow_twin_too(kernel: str) -> None:
    rng = random.Random(0)
    pieces = ["word", "Two words", "a", "Ünï", "日本語", "a-long-one" * 3, "x" * 64, "ab12345", "12345678", "\n\n"]
    texts = [" ".join(rng.choices(pieces, k=size)) for size in (10, 300, 3000)]
    assert signatures(texts, num_hashes=20).tolist() == [slow_signature(text, 20, 5, 0) for text in texts]


def test_an_arrow_column_gives_what_its_strings_give() -> None:
    texts = ["a b c d e f", None, "", "日本語"]
    expected = signatures([text or "" for text in texts]).tolist()
    for kind in (pa.string(), pa.large_string()):
        column = pa.array(["cut off", *texts], kind).slice(1)
        assert signatures(column).tolist() == expected
        assert signatures(pa.chunked_array([column.slice(0, 1), column.slice(1)])).tolist() == expected
    assert signatures(pa.chunked_array([], pa.large_string())).shape == (0, 112)


def test_bytes_that_are_no_utf8_stand_between_words(kernel: str) -> None:
    raw = b"one two\xff three \xe6\x97 four \xc0\xaf five \xf4\x90\x80\x80 six\xe6"
    column = pa.array([raw], pa.large_binary()).view(pa.large_string())
    assert signatures(column).tolist() == signatures(["one two three four five six"]).tolist()


def test_band_keys_are_chains_of_their_rows(kernel: str) -> None:
    expected = []
    for band in range(2):
        h = band + 1
        for row in (1 + 3 * band, 2 + 3 * band, 3 + 3 * band):
            h = mix((h * 0x9E3779B97F4A7C15 + row) & MASK)
        expected.append(h)
    assert band_keys(np.array([[1, 2, 3, 4, 5, 6]], np.uint32), bands=2, rows=3).tolist() == [expected]


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
                meet = bool(set(keys[i]) & set(keys[j]))
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
    kept = outcome(table, drop_near_copies(minhash_keys(table)))
    assert kept == {
        "c": ("c", 1),
        "d": ("d", 3),
        **({"e": ("e", 2)} if "e" in kept else {"f": ("f", 2)}),
    }


def test_texts_without_a_word_meet_only_what_equals_them() -> None:
    texts = ["", " ", "!!!", "!!! ", "?!", "---"]
    table = documents_table([document(str(i), text) for i, text in enumerate(texts)])
    kept = outcome(table, drop_near_copies(minhash_keys(table)))
    assert sorted(size for _, size in kept.values()) == [1, 1, 2, 2]


def test_the_mean_of_the_scores_decides_then_the_length() -> None:
    table = documents_table(
        [document("a", BASE + " much longer text", quality=0.4), document("b", BASE, quality=0.2, reasoning_depth=0.8),
         document("c", BASE + " x", quality=0.5), document("d", BASE, other=1.0)]
    )  # fmt: skip
    assert outcome(table, drop_near_copies(minhash_keys(table))) == {"c": ("c", 4)}


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
