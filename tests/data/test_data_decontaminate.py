"""n-gram overlap with held-out problems, by hand and against a slow obvious twin."""

import gzip
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openmimo.data.decontaminate import (
    Match,
    Overlap,
    build_index,
    build_screen,
    contaminated,
    find_overlap,
    matches,
    overlap_report,
    read_held_out,
    share_found,
)

PROBLEM = "Natalia sold clips to 48 of her friends in April, and then she sold half as many clips in May."


def test_sixteen_shared_words_are_found_through_other_punctuation() -> None:
    index = build_index([PROBLEM])
    page = "Homework: natalia sold CLIPS to $48$ of her friends -- in April; and then she sold nothing."
    assert contaminated(page, index) is None  # 14 words in a row
    page = page.replace("nothing", "half, as many as before")
    assert contaminated(page, index) == "natalia sold clips to 48 of her friends in april and then she sold half as"


def test_short_problems_match_exactly() -> None:
    index = build_index(["What is 2 + 2?", "Find the sum of all primes below one hundred."])
    assert contaminated("what is 2+2", index) == "what is 2 2"
    assert contaminated("Intro.\nWhat is 2 + 2?\nIt is 4.", index) == "what is 2 2"
    assert contaminated("Tell me what is 2 + 2 please", index) is None
    assert contaminated("Now find the sum of all primes below one hundred, quickly", index) is not None
    assert contaminated("find the sum of all primes below one thousand", index) is None


def test_shorter_runs_drop_more() -> None:
    texts = ["she sold half as many clips in may and june", PROBLEM, "nothing of the kind"]
    assert overlap_report(texts, [PROBLEM]) == {16: 1, 13: 1, 8: 2}
    with pytest.raises(ValueError, match="ngram must be at least 1, got 0"):
        build_index([PROBLEM], ngram=0)


def test_nothing_held_out_drops_nothing() -> None:
    assert contaminated(PROBLEM, build_index([])) is None
    assert contaminated("", build_index([PROBLEM, "", "?!"])) is None


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.sampled_from("abc"), min_size=8, max_size=14),
    st.lists(st.sampled_from("abc"), max_size=30),
    st.integers(8, 10),
)
def test_overlap_equals_the_slow_twin(held: list[str], words: list[str], ngram: int) -> None:
    run = min(ngram, len(held))
    grams = {tuple(held[i : i + run]) for i in range(len(held) - run + 1)}
    expected = any(tuple(words[i : i + run]) in grams for i in range(len(words) - run + 1))
    assert (contaminated(" ".join(words), build_index([" ".join(held)], ngram=ngram)) is not None) == expected


def test_a_screen_tells_copies_near_copies_and_phrases_apart() -> None:
    phrase = "m and n are relatively prime positive integers find m plus n"
    held = [PROBLEM, f"A bag holds red balls, {phrase}", f"A coin is tossed, {phrase}", "What is 2 + 2?"]
    screen = build_screen(held)
    near = PROBLEM.replace("48", "30").replace("May", "June")
    assert find_overlap([PROBLEM], screen) == Overlap(16, next(matches(PROBLEM, screen.indices[-1])))
    assert find_overlap(["what is 2 + 2"], screen) == Overlap(16, Match("what is 2 2", 3, 1)), "short: exact"
    found = find_overlap([near], screen)
    assert found is not None and found.ngram == 13 and found.match.item == 0 and found.match.num_items == 1
    common = find_overlap([f"Of a deck of cards, {phrase}"], screen)
    assert common is not None and common.ngram == 8 and common.match.num_items == 2, "a phrase stands in several"
    assert share_found(near, PROBLEM, ngram=8) > 0.6 > share_found(f"Of cards, {phrase}", PROBLEM, ngram=8) == 0.0
    assert find_overlap(["nothing of the kind"], screen) is None and find_overlap([], screen) is None


def test_of_several_runs_the_one_that_fewest_held_out_texts_have_is_named() -> None:
    phrase = "where m and n are relatively prime positive integers find m plus n"
    own = "seven dwarfs walk home along the river at night"
    screen = build_screen([f"Balls, {phrase}", f"Coins, {phrase} {own}"])
    found = find_overlap([f"Cards, {phrase}. {own}"], screen)
    assert found is not None and (found.match.item, found.match.num_items) == (1, 1)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from("ab"), min_size=1, max_size=20), st.lists(st.sampled_from("ab"), max_size=30))
def test_what_a_longer_run_finds_a_shorter_one_finds_too(held: list[str], words: list[str]) -> None:
    found = [contaminated(" ".join(words), index) is not None for index in build_screen([" ".join(held)]).indices]
    assert found == sorted(found, reverse=True)


def test_benchmarks_are_read_from_the_columns_they_come_with(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    for rows, column, texts in (
        ('{"prompt": "a", "problem": "b"}', "prompt", ("a",)),
        ('{"problem": "b", "id": 1}\n\n{"problem": "c"}', "problem", ("b", "c")),
        ('{"question": "b"}\n{"text": "c"}', "mixed", ("b", "c")),
    ):
        path.write_text(rows)
        found = read_held_out(path)
        assert (found.column, found.texts) == (column, texts)
    (tmp_path / "a.txt").write_text("first\u2028 still\n\n second \n", encoding="utf-8")
    assert read_held_out(tmp_path / "a.txt").texts == ("first\u2028 still", "second")
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(b'{"question": "q"}'))
    assert read_held_out(tmp_path / "a.jsonl.gz").texts == ("q",)
    path.write_text('{"question": "b"}\n{"answer": 3}')
    with pytest.raises(ValueError, match=r"a\.jsonl, row 2: a benchmark row has prompt or .*; it has answer"):
        read_held_out(path)
    (tmp_path / "b.txt").write_bytes(b"\xff")
    with pytest.raises(ValueError, match=r"b\.txt is no UTF-8 text, a problem a line"):
        read_held_out(tmp_path / "b.txt")
