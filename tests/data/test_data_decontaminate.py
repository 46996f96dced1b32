"""n-gram overlap with held-out problems, by hand and against a slow obvious twin."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openmimo.data.decontaminate import build_index, contaminated, overlap_report

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
