"""Claim: of 3,000 mismatched pairs whose gold answers are not equivalent, none is accepted.

    python benchmarks/judge_math_mismatches.py [benchmarks/results/judge_math_mismatches.json]

Gold answers of MATH-500, of the training problems of ../shared/data/rl and of OlympiadBench, one of them given as the
answer to another's problem. Hard ones: neighbours in value, the same characters in another order, the same shape with
other digits, the same text but for one character; and some at random. Pairs that are equivalent are left out before
anything is judged: by an evaluator of its own here (fractions, roots, powers, pi, tuples; it shares no code with the
judge or with math-verify) and by the text without its spacing. Exact match is off.
"""

from __future__ import annotations

import gzip
import json
import math
import random
import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import record

from openmimo.judge.verifier import Verifier

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT.parent / "shared" / "data"
NUM_PAIRS = 3000


def main() -> None:
    pairs = draw(golds())
    with Verifier() as verifier:
        judged = [(kind, gold, answer, *verifier.compare(gold, answer)) for kind, gold, answer in pairs]
    alone = [_peer(gold, answer) for _, gold, answer in pairs]
    kinds: dict[str, int] = defaultdict(int)
    statuses: dict[str, int] = defaultdict(int)
    for kind, _, _, status, _ in judged:
        kinds[kind] += 1
        statuses[status] += 1
    figures = {
        "pairs": {"unit": "pairs", "of": len(pairs), "accepted": statuses["accepted"], "math-verify": sum(alone)},
        "kinds": dict(kinds),
        "statuses": dict(statuses),
        "accepted": [[kind, gold, answer] for kind, gold, answer, status, _ in judged if status == "accepted"],
        "not judged": [[gold, answer, status, why] for _, gold, answer, status, why in judged if "_error" in status],
        "accepted by math-verify alone": [
            [gold, answer] for (_, gold, answer), accepted in zip(pairs, alone, strict=True) if accepted
        ],
    }
    record.write(
        "of 3,000 mismatched pairs that are not equivalent, none is accepted",
        "python benchmarks/judge_math_mismatches.py",
        figures,
    )


def golds() -> list[str]:
    """Gold answers, each once."""
    math500 = (DATA / "math" / "math500.jsonl").read_text(encoding="utf-8")
    found = [json.loads(line)["answer"] for line in math500.split("\n") if line]
    with gzip.open(DATA / "rl" / "math_train_7474.json.gz", "rt", encoding="utf-8") as file:
        found += [row["answer"] for row in json.load(file)]
    with gzip.open(DATA / "olympiadbench" / "test.jsonl.gz", "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file.read().split("\n") if line]
    found += [row["final_answer"][0].strip("$") for row in rows if len(row["final_answer"] or []) == 1]
    return [gold for gold in dict.fromkeys(found) if gold and gold.strip() and len(gold) < 120]


def draw(answers: list[str], num: int = NUM_PAIRS) -> list[tuple[str, str, str]]:
    """(kind, gold, answer of another problem), not equivalent, in equal shares of the kinds while they last."""
    rng = random.Random(3)
    shuffled = rng.sample(answers, len(answers))
    sources = [
        ("neighbours in value", _neighbours(answers)),
        ("the same characters", _alike(shuffled, lambda answer: "".join(sorted(_bare(answer))))),
        ("the same shape", _alike(shuffled, lambda answer: re.sub(r"\d+", "0", _bare(answer)))),
        ("one character more", _one_more(shuffled)),
        ("random", ((one, rng.choice(answers)) for one in shuffled * 2)),
    ]
    drawn: list[tuple[str, str, str]] = []
    seen: set[tuple[str, str]] = set()
    while sources and len(drawn) < num:
        for kind, source in list(sources):
            pair = next(
                (pair for pair in source if pair not in seen and pair[::-1] not in seen and not same(*pair)), None
            )
            if pair is None:
                sources.remove((kind, source))
            elif len(drawn) < num:
                seen.add(pair)
                drawn.append((kind, *pair))
    return drawn


def _neighbours(answers: list[str]) -> Iterator[tuple[str, str]]:
    """Numbers next to each other, those that are no integers first."""
    valued = [(values[0], answer) for answer in answers if len(values := evaluate(answer)) == 1]
    valued.sort(key=lambda pair: (pair[0].real, pair[0].imag))
    pairs = [(one, other) for (_, one), (_, other) in pairwise(valued)]
    yield from sorted(pairs, key=lambda pair: sum(bool(re.fullmatch(r"-?\d+", answer)) for answer in pair))


def _alike(answers: list[str], key: Callable[[str], str]) -> Iterator[tuple[str, str]]:
    groups: dict[str, list[str]] = defaultdict(list)
    for answer in answers:
        if not re.fullmatch(r"-?\d+", answer):
            groups[key(answer)].append(answer)
    for group in sorted(groups.values(), key=len):
        yield from zip(group, group[1:] + group[:1], strict=True)


def _one_more(answers: list[str]) -> Iterator[tuple[str, str]]:
    known = {_bare(answer): answer for answer in answers}
    for answer in answers:
        bare = _bare(answer)
        for position in range(len(bare)):
            other = known.get(bare[:position] + bare[position + 1 :])
            if other:
                yield (answer, other) if position % 2 else (other, answer)


def same(one: str, other: str) -> bool:
    """Whether two gold answers are equivalent, or may be."""
    if _bare(one) == _bare(other):
        return True
    first, second = evaluate(one), evaluate(other)
    if len(first) != len(second) or not first:
        return False
    if one.lstrip()[:1] not in "([" and not one.lstrip().startswith("\\left"):
        first, second = sorted(first, key=str), sorted(second, key=str)
    return all(abs(a - b) <= 1e-9 * max(1e-300, abs(a), abs(b)) for a, b in zip(first, second, strict=True))


def _bare(answer: str) -> str:
    """Without spacing, size, currency, a full stop, and words about units."""
    answer = answer.replace("\\$", "").strip().removesuffix(".")
    text = re.sub(
        r"\\(left|right|!|,|;|:|\s|text|mbox|mathrm|displaystyle)|[\s${}]", "", answer.replace("dfrac", "frac")
    )
    text = re.sub(r"^[a-zA-Z](\([a-z]\))?(=|\\in)", "", text.replace("tfrac", "frac"))
    return re.sub(r"(?<=\d)(\^\\circ|degrees|cm\^?\d?|inches|units?|feet|dollars|cents|\\?%)$", "", text).lower()


def evaluate(answer: str) -> list[complex]:
    """Values of an answer made of numbers alone, one a part; [] of anything else."""
    text = re.sub(
        r"\\(?:text|mbox|mathrm)\{[^{}]*\}(\^\d)?|\\(left|right|!|,|;|:|displaystyle)|[\s$~]",
        "",
        answer.replace("\\$", ""),
    )
    text = re.sub(r"^[a-zA-Z](\([a-z]\))?(=|\\in)", "", text).replace(r"^\circ", "").replace(r"^{\circ}", "")
    text = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", text.replace(r"\%", "").rstrip("."))
    if text[:1] + text[-1:] in ("()", "[]", "(]", "[)"):
        text = text[1:-1]
    elif text.startswith(r"\{") and text.endswith(r"\}"):
        text = text[2:-2]
    values: list[complex] = []
    for part in text.split(","):
        try:
            value, rest = _sum(part)
        except (ValueError, IndexError, ZeroDivisionError, OverflowError):
            return []
        if rest or not math.isfinite(abs(value)):
            return []
        values.append(value)
    return values


def _sum(text: str) -> tuple[complex, str]:
    sign = 1
    if text[0] in "+-":
        sign, text = (-1 if text[0] == "-" else 1), text[1:]
    total, text = _product(text)
    total *= sign
    while text[:1] in ("+", "-") and text:
        sign = -1 if text[0] == "-" else 1
        term, text = _product(text[1:])
        total += sign * term
    return total, text


def _product(text: str) -> tuple[complex, str]:
    value, text = _power(text)
    mixed = value.imag == 0 and value.real == int(value.real)
    while text and text[0] not in "+-)}]":
        if text[0] == "/":
            other, text = _power(text[1:])
            value /= other
        elif text.startswith((r"\cdot", r"\times")):
            other, text = _power(text[5:] if text.startswith(r"\cdot") else text[6:])
            value *= other
        elif mixed and re.match(r"\\[dt]?frac\{?\d", text):
            other, text = _power(text)  # a mixed number
            value += other
        else:
            other, text = _power(text)
            value *= other
        mixed = False
    return value, text


def _power(text: str) -> tuple[complex, str]:
    value, text = _atom(text)
    if text.startswith("^"):
        exponent, text = _argument(text[1:])
        value **= exponent
    return value, text


def _argument(text: str) -> tuple[complex, str]:
    """What stands in braces, or one character, or one command."""
    if text[0] == "{":
        value, text = _sum(text[1:])
        if text[0] != "}":
            raise ValueError(text)
        return value, text[1:]
    if text[0].isdigit():
        return complex(int(text[0])), text[1:]
    return _atom(text)


def _atom(text: str) -> tuple[complex, str]:
    number = re.match(r"\d*\.?\d+", text)
    if number:
        return complex(float(number[0])), text[number.end() :]
    if text.startswith("("):
        value, text = _sum(text[1:])
        if text[0] != ")":
            raise ValueError(text)
        return value, text[1:]
    if re.match(r"\\[dt]?frac", text):
        top, text = _argument(text[text.index("frac") + 4 :])
        bottom, text = _argument(text)
        return top / bottom, text
    if text.startswith(r"\sqrt["):
        index, _, text = text[6:].partition("]")
        value, text = _argument(text)
        return value ** (1 / int(index)), text
    if text.startswith(r"\sqrt"):
        value, text = _argument(text[5:])
        return value**0.5, text
    for name, constant in ((r"\pi", math.pi), ("i", 1j), ("e", math.e)):
        if text.startswith(name):
            return complex(constant), text[len(name) :]
    raise ValueError(text)


def _peer(gold: str, answer: str) -> bool:
    from math_verify import parse, verify

    return bool(verify(parse(f"${gold}$"), parse(f"${answer}$")))


if __name__ == "__main__":
    main()
