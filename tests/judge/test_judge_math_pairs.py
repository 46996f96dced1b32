"""Pairs of answers that look alike, and pairs that look different: the figures of the benchmarks, in small."""

import json
import sys
from pathlib import Path

import pytest

from openmimo.judge.math import quick
from openmimo.judge.verifier import Verifier

sys.path.insert(0, str(Path(__file__).parent))
from math_near_misses import NEAR_MISSES

MATH500 = Path(__file__).resolve().parents[3] / "shared" / "data" / "math" / "math500.jsonl"


@pytest.fixture(scope="module")
def verifier():
    with Verifier() as verifier:
        yield verifier


@pytest.mark.parametrize(("kind", "gold", "wrong", "right"), NEAR_MISSES, ids=[row[0] for row in NEAR_MISSES])
def test_a_near_miss_is_refused_and_its_right_neighbour_accepted(kind, gold, wrong, right, verifier):
    assert verifier.compare(gold, wrong)[0] == "wrong_answer"
    assert not quick(gold, wrong)
    assert verifier.compare(gold, right) == ("accepted", "")
    assert quick(gold, right) is not False


def test_near_misses_are_many_and_each_of_its_own_kind():
    assert len({kind for kind, *_ in NEAR_MISSES}) == len(NEAR_MISSES) >= 60


def test_math500_gold_answers_equal_themselves_without_exact_match(verifier):
    if not MATH500.exists():
        pytest.skip(f"{MATH500} is missing")
    golds = [json.loads(line)["answer"] for line in MATH500.read_text(encoding="utf-8").split("\n") if line]
    for gold in list(dict.fromkeys(golds))[::4]:
        assert verifier.compare(gold, gold) == ("accepted", ""), gold
