"""RULER: long-context tasks made to length (MiMo 2.4): needle in a haystack, common words, frequent words, variable
tracking. Offline, a function of the seed, each with its gold answers.

A task is as long as fits `length_tokens`, counted by the caller's tokenizer. The score is RULER's: the share of gold
answers that stand in the response. Left out: haystacks of essays (noise sentences instead), the worked example before
common words, question answering over documents.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean
from typing import Protocol

from openmimo.data.chat import Chat
from openmimo.types import Request, Rollout, Sampling

Count = Callable[[str], int]
"""Tokens of a text."""

NOISE = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."


@dataclass(frozen=True)
class LongTask:
    id: str
    family: str
    """`niah`, `cwe`, `fwe` or `vt`."""
    prompt: str
    answers: tuple[str, ...]
    """All of them are asked for."""


class Generator(Protocol):
    """Answers requests in order; an embedded engine does."""

    def generate(self, requests: Sequence[Request]) -> list[Rollout]: ...


def score(task: LongTask, response: str) -> float:
    """Share of the gold answers that stand in the response as whole words, 0 to 1; what was thought does not count."""
    said = response.rpartition("</think>")[2].lower()
    found = [re.search(rf"(?<!\w){re.escape(answer.lower())}(?!\w)", said) is not None for answer in task.answers]
    return fmean(map(float, found))


def niah(
    seed: int, length_tokens: int, count: Count, *, num_keys: int = 1, num_values: int = 1, num_queries: int = 1
) -> LongTask:
    """Needles in a haystack of noise: magic numbers of some words among `num_keys` words with `num_values` each.

    RULER's single, multi-key, multi-value and multi-query tasks are (1, 1, 1), (4, 1, 1), (1, 4, 1) and (4, 1, 4).

    Raises:
        ValueError: if more is asked for than there is, or the needles alone are too long.
    """
    if not 1 <= num_queries <= num_keys or num_values < 1:
        raise ValueError(f"niah asks for 1 to {num_keys} of its keys with at least 1 value, got {num_queries} queries")
    rng = random.Random(f"niah:{seed}")
    keys = _words(rng, num_keys)
    numbers = iter(rng.sample(range(1_000_000, 10_000_000), num_keys * num_values))
    values = {key: [str(next(numbers)) for _ in range(num_values)] for key in keys}
    needles = [f"One of the special magic numbers for {key} is: {v}." for key in keys for v in values[key]]
    rng.shuffle(needles)
    depths = sorted(rng.random() for _ in needles)
    asked = rng.sample(keys, num_queries)

    def build(num_noise: int) -> str:
        lines = [NOISE] * num_noise
        for needle, depth in reversed(list(zip(needles, depths, strict=True))):
            lines.insert(int(depth * (num_noise + 1)), needle)
        return (
            "Some special magic numbers are hidden within the following text. Make sure to memorize them.\n"
            + "\n".join(lines)
            + f"\nWhat are all the special magic numbers for {', '.join(asked)} mentioned in the text?"
        )

    prompt = _fit(build, 0, length_tokens, count, "niah")
    return LongTask(f"niah/{length_tokens}/{seed}", "niah", prompt, tuple(v for key in asked for v in values[key]))


def cwe(
    seed: int, length_tokens: int, count: Count, *, num_common: int = 10, common_times: int = 30, other_times: int = 3
) -> LongTask:
    """Common words: the `num_common` words that stand in the list far more often than the others.

    Raises:
        ValueError: if the common words alone are too long, or are not the commoner ones.
    """
    if not 1 <= other_times < common_times:
        raise ValueError(f"common words must stand more often than others, got {common_times} and {other_times}")
    rng = random.Random(f"cwe:{seed}")
    common = _words(rng, num_common)
    others = _words(rng, max(1, length_tokens // other_times), without=frozenset(common))

    def build(num_others: int) -> str:
        words = common * common_times + others[:num_others] * other_times
        random.Random(f"cwe:{seed}:{num_others}").shuffle(words)
        listed = " ".join(f"{n}. {word}" for n, word in enumerate(words, 1))
        return (
            "Below is a numbered list of words. Some of them appear more often than others. "
            f"Memorize the ones that appear most often.\n{listed}\n"
            f"What are the {num_common} most common words in the list above?"
        )

    prompt = _fit(build, 1, length_tokens, count, "cwe", most=len(others))
    return LongTask(f"cwe/{length_tokens}/{seed}", "cwe", prompt, tuple(common))


def fwe(seed: int, length_tokens: int, count: Count, *, alpha: float = 2.0, num_words: int = 50) -> LongTask:
    """Frequent words: the three most frequent of a coded text whose word of rank k appears in proportion to k^-alpha.

    Raises:
        ValueError: if the text is too short for its third word to stand out.
    """
    rng = random.Random(f"fwe:{seed}")
    words = _words(rng, num_words)
    shares = [(rank + 1) ** -alpha for rank in range(num_words)]

    def build(size: int) -> str:
        times = [max(1, round(size * share / sum(shares))) for share in shares]
        text = [word for word, n in zip(words, times, strict=True) for _ in range(n)]
        random.Random(f"fwe:{seed}:{size}").shuffle(text)
        return (
            "Read the following coded text and track the frequency of each coded word.\n"
            + " ".join(text)
            + "\nWhat are the three most frequently appeared words in the above coded text?"
        )

    smallest = next(n for n in range(1, 1_000_000) if _rank_3_stands_out(n, shares))
    return LongTask(
        f"fwe/{length_tokens}/{seed}", "fwe", _fit(build, smallest, length_tokens, count, "fwe"), tuple(words[:3])
    )


def vt(seed: int, length_tokens: int, count: Count, *, num_chains: int = 1, num_hops: int = 4) -> LongTask:
    """Variable tracking: every variable that holds a number, through `num_hops` assignments hidden in noise.

    Raises:
        ValueError: if the assignments alone are too long.
    """
    rng = random.Random(f"vt:{seed}")
    names = [word.upper() for word in _words(rng, num_chains * (num_hops + 1))]
    starts = [str(number) for number in rng.sample(range(10_000, 100_000), num_chains)]
    chains = [names[c * (num_hops + 1) : (c + 1) * (num_hops + 1)] for c in range(num_chains)]
    lines = [
        [f"VAR {chain[0]} = {start}", *(f"VAR {b} = VAR {a}" for a, b in pairwise(chain))]
        for chain, start in zip(chains, starts, strict=True)
    ]
    # Each chain's lines in order; the chains' own depths mix them.
    placed = sorted(
        (depth, c, line)
        for c, chain_lines in enumerate(lines)
        for depth, line in zip(sorted(rng.random() for _ in chain_lines), chain_lines, strict=True)
    )

    def build(num_noise: int) -> str:
        text = [NOISE] * num_noise
        for depth, _, line in reversed(placed):
            text.insert(int(depth * (num_noise + 1)), line)
        return (
            "Memorize and track the chains of variable assignment hidden in the following text.\n"
            + "\n".join(text)
            + f"\nFind all variables that are assigned the value {starts[0]} in the text above."
        )

    prompt = _fit(build, 0, length_tokens, count, "vt")
    return LongTask(f"vt/{length_tokens}/{seed}", "vt", prompt, tuple(chains[0]))


def evaluate_ruler(
    engine: Generator, tasks: Sequence[LongTask], *, chat: Chat, max_new_tokens: int = 128
) -> dict[str, float]:
    """Mean score by family, greedy.

    Raises:
        ValueError: without tasks.
    """
    if not tasks:
        raise ValueError("no long-context tasks to evaluate on; 0 is too few")
    sampling = Sampling(max_new_tokens, temperature=0.0, stop_token_ids=chat.stop_token_ids)
    rollouts = engine.generate([Request(chat.render_prompt(task.prompt), sampling, task.id) for task in tasks])
    scores: dict[str, list[float]] = {}
    for task, rollout in zip(tasks, rollouts, strict=True):
        scores.setdefault(task.family, []).append(score(task, chat.decode(rollout.token_ids)))
    return {family: fmean(values) for family, values in sorted(scores.items())}


def _fit(
    build: Callable[[int], str], smallest: int, length_tokens: int, count: Count, family: str, most: int = 1 << 40
) -> str:
    """The longest text that `build` makes of at most `length_tokens`."""
    if (needed := count(build(smallest))) > length_tokens:
        raise ValueError(f"{family} needs at least {needed} tokens, got length_tokens {length_tokens}")
    low, high = smallest, smallest + 1
    while high <= most and count(build(high)) <= length_tokens:
        low, high = high, 2 * high
    high = min(high, most + 1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if count(build(middle)) <= length_tokens else (low, middle)
    return build(low)


def _rank_3_stands_out(size: int, shares: Sequence[float]) -> bool:
    times = [max(1, round(size * share / sum(shares))) for share in shares[:4]]
    return len(times) > 3 and times[2] > times[3]


def _words(rng: random.Random, number: int, *, without: frozenset[str] = frozenset()) -> list[str]:
    """Different made-up words of two to four syllables."""
    found: dict[str, None] = {}
    while len(found) < number:
        word = "".join(rng.choice("bcdfghjklmnpqrstvwxyz") + rng.choice("aeiou") for _ in range(rng.randint(2, 4)))
        if word not in without:
            found[word] = None
    return list(found)
