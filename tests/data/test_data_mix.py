"""The mixture: by count and not by chance, and the same after any resume."""

import json
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openmimo.data.mix import WINDOW, Mixture
from openmimo.data.shards import TokenShard
from openmimo.types import Batch


def shard(name: str, documents: list[list[int]]) -> TokenShard:
    borders = np.cumsum([0, *map(len, documents)])
    return TokenShard(name, np.array([t for d in documents for t in d], np.uint16), borders)


def sources(number: int = 3, seed: int = 0) -> dict[str, TokenShard]:
    """Sources whose every document is told by its first token."""
    rng = random.Random(seed)
    return {
        f"s{n}": shard(f"s{n}", [[1000 * n + d] * rng.randint(1, 30) for d in range(rng.randint(1, 60))])
        for n in range(number)
    }


def same(a: Batch, b: Batch) -> bool:
    names = ("token_ids", "positions", "document_ids", "loss_weights")
    return all(np.array_equal(getattr(a, n), getattr(b, n)) for n in names)


WEIGHT = st.one_of(st.floats(0.01, 1.0), st.floats(1e-4, 1e-2), st.integers(1, 20).map(float))


@settings(deadline=None, max_examples=60)
@given(st.lists(WEIGHT, min_size=1, max_size=9))
def test_every_source_stays_within_a_row_of_its_target_at_any_step(weights: list[float]) -> None:
    mixture = Mixture({f"s{n}": shard(f"s{n}", [[n] * 8]) for n in range(len(weights))}, seed=0)
    for _ in range(120):
        mixture.rows(1, 8, {f"s{n}": weight for n, weight in enumerate(weights)})
        served, target = mixture.served, mixture.target
        assert all(abs(served[name] - target[name]) <= 8 + 1e-6 for name in served), (served, target)


def test_the_case_in_which_the_source_furthest_behind_is_the_wrong_choice() -> None:
    weights = [0.092, 4, 19, 13, 0.836, 19, 0.108, 0.615]
    mixture = Mixture({f"s{n}": shard(f"s{n}", [[n] * 4]) for n in range(len(weights))}, seed=0)
    for _ in range(400):
        mixture.rows(1, 4, {f"s{n}": weight for n, weight in enumerate(weights)})
        assert max(abs(mixture.served[name] - mixture.target[name]) for name in mixture.served) <= 4


def test_shares_over_a_change_of_weights_and_of_context() -> None:
    mixture = Mixture({name: shard(name, [[1] * 16]) for name in "abc"}, seed=0)
    for count, context, weights in ((50, 16, {"a": 1, "b": 3}), (50, 16, {"b": 1, "c": 1}), (40, 64, {"c": 9, "a": 1})):
        for _ in range(count):
            mixture.rows(2, context, weights)
        assert all(abs(mixture.served[n] - mixture.target[n]) <= context for n in "abc")
    assert sum(mixture.served.values()) == 2 * (50 * 16 + 50 * 16 + 40 * 64)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 1000), st.integers(0, 25), st.sampled_from([8, 16, 32]))
def test_a_resume_at_any_moment_serves_the_identical_stream(seed: int, at: int, context: int) -> None:
    shards, weights = sources(seed=seed), {"s0": 0.5, "s1": 0.3, "s2": 0.2}
    whole = Mixture(shards, seed=seed)
    for _ in range(at):
        whole.rows(2, context, weights)
    state = json.loads(json.dumps(whole.state_dict()))  # plain values, so any checkpoint can carry it
    again = Mixture(shards, seed=seed)
    again.load_state_dict(state)
    for _ in range(8):
        assert same(whole.rows(2, context, weights), again.rows(2, context, weights))
    assert whole.state_dict() == again.state_dict() and whole.epochs() == again.epochs()


def test_a_state_is_not_changed_by_what_is_served_later() -> None:
    mixture = Mixture(sources(), seed=0)
    mixture.rows(3, 16, {"s0": 1})
    state = mixture.state_dict()
    before = json.dumps(state)
    mixture.rows(3, 16, {"s0": 1})
    assert json.dumps(state) == before


def test_every_document_is_served_once_an_epoch() -> None:
    documents = [[n] * (1 + n % 7) for n in range(100)]
    mixture = Mixture({"a": shard("a", documents)}, seed=3)
    found: Counter[int] = Counter()
    while mixture.epochs()["a"] < 3.0:
        batch = mixture.rows(1, 16, {"a": 1})
        for d in range(batch.document_ids.max() + 1):
            inside = batch.document_ids == d
            token = int(batch.token_ids[inside][0])
            assert int(inside.sum()) == len(documents[token])  # whole
            found[token] += 1
    # The window may hold back, or have begun, WINDOW documents of the neighbouring epoch.
    off = sum(abs(found[n] - 3) for n in range(100))
    assert set(found) == set(range(100)) and max(found.values()) <= 4 and off <= WINDOW + 16


def test_epochs_differ_in_order_and_seeds_too() -> None:
    documents = {"a": shard("a", [[n] for n in range(64)])}

    def stream(seed: int) -> list[int]:
        return Mixture(documents, seed=seed).rows(2, 64, {"a": 1}).token_ids.flatten().tolist()

    first = stream(0)
    assert stream(0) == first != stream(1)
    assert first[:64] != first[64:]


def test_a_document_longer_than_a_row_is_cut_and_loses_nothing() -> None:
    mixture = Mixture({"a": shard("a", [list(range(50)), list(range(100, 107))])}, seed=0, max_epochs={"a": 1})
    seen: list[int] = []
    try:
        while True:
            batch = mixture.rows(1, 16, {"a": 1})
            seen += batch.token_ids[batch.document_ids >= 0].tolist()
    except ValueError:
        pass
    assert set(range(48)) <= set(seen)


def test_a_few_long_documents_are_read_to_their_ends_before_they_begin_again() -> None:
    documents = [list(range(1000 * n, 1000 * n + 160)) for n in range(3)]
    mixture = Mixture({"a": shard("a", documents)}, seed=0)
    seen: Counter[int] = Counter()
    for _ in range(100):
        seen.update(mixture.rows(1, 16, {"a": 1}).token_ids.flatten().tolist())
        for document in documents:
            times = [seen[token] for token in document]
            assert max(times) - min(times) <= 1
    assert min(seen.values()) >= 2 and len(seen) == 480


def test_a_source_asked_for_more_than_its_epochs_is_refused() -> None:
    mixture = Mixture({"a": shard("a", [[1] * 16] * 4), "b": shard("b", [[2] * 16] * 4)}, seed=0, max_epochs={"a": 2})
    mixture.rows(8, 16, {"a": 1})
    assert mixture.epochs()["a"] == 2.0
    mixture.rows(20, 16, {"b": 1})  # no limit
    with pytest.raises(ValueError, match=r"source 'a' would be read 2\.25 times, its limit is 2; lower its weight"):
        mixture.rows(1, 16, {"a": 1})


def test_what_cannot_be_mixed_says_why(tmp_path: Path) -> None:
    mixture = Mixture({"web": shard("web", [[1]]), "code": shard("code", [[1]])}, seed=0)
    with pytest.raises(ValueError, match="names source 'maths'; there are code, web"):
        mixture.rows(1, 4, {"maths": 1})
    for weights in ({}, {"web": 0.0}, {"web": 2.0, "code": -1.0}):
        with pytest.raises(ValueError, match="mixture weights must be at least 0 and not all 0"):
            mixture.rows(1, 4, weights)
    assert not mixture.rows(4, 4, {"web": 1.0, "code": 0.0}).token_ids.size == 0 and mixture.served["code"] == 0


def test_ranks_that_take_their_share_see_the_rows_of_one() -> None:
    whole, parts = Mixture(sources(), seed=3), [Mixture(sources(), seed=3) for _ in range(3)]
    weights = {name: 1.0 + n for n, name in enumerate(whole.names)}
    for num_rows in (5, 2, 7):
        expected = whole.rows(num_rows, 24, weights)
        shares = [slice(num_rows * r // 3, num_rows * (r + 1) // 3) for r in range(3)]
        got = [part.rows(num_rows, 24, weights, share) for part, share in zip(parts, shares, strict=True)]
        for field in ("token_ids", "document_ids", "positions", "loss_weights", "sources"):
            assert np.array_equal(np.concatenate([getattr(b, field) for b in got]), getattr(expected, field)), field
        assert all(part.state_dict() == whole.state_dict() for part in parts)


def test_a_demand_beyond_the_limit_says_how_many_epochs_it_takes() -> None:
    shards = {name: shard(name, [[1] * 10] * 10) for name in ("synthetic", "web")}
    mixture = Mixture(shards, seed=0, max_epochs={"web": 2.0})
    assert mixture.check_demand({"web": 100.0, "synthetic": 5000.0}) == []  # synthetic text may be repeated, MiMo 2.1
    assert mixture.check_demand({"web": 200.0}) == ["source 'web' will be read 2.0 times: 200 of 100 tokens"]
    asked = r"source 'web' has 100 tokens and the run asks for 250: 2\.50 epochs, its limit is 2"
    with pytest.raises(ValueError, match=asked):
        mixture.check_demand({"web": 250.0})
    with pytest.raises(ValueError, match="source 'books'; there are synthetic, web"):
        mixture.check_demand({"books": 1.0})
    free = Mixture(shards, seed=0)
    assert free.check_demand({"web": 250.0}) == ["source 'web' will be read 2.5 times: 250 of 100 tokens"]
