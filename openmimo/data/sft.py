"""Preparing SFT data (MiMo 3.1): three steps over conversations, every drop counted with its reason.

1. Drop every query with an n-gram overlap with an evaluation benchmark.
2. Drop mixed-language and incomplete responses.
3. At most eight responses a query.

The paper does not say how the second step tells; the rules here are ours. A query is all that the user says, whatever
its case and spacing; a response is all that the assistant says. Left out: languages that
share a script, but for the six of STOP_WORDS.
"""

from __future__ import annotations

import hashlib
import heapq
import json
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from openmimo.checkpoint import aside, sync_folder
from openmimo.config import missing_file
from openmimo.data.chat import Chat, Message
from openmimo.data.decontaminate import NGRAM, Overlap, Screen, build_screen, find_overlap, read_held_out, share_found
from openmimo.data.messages import BROKEN, read_conversations
from openmimo.data.pack import Sample
from openmimo.log import progress

MAX_RESPONSES = 8  # MiMo 3.1
MOST_FOREIGN = 0.05
"""Share of a response's letters that may be of scripts which its query does not use."""
STEPS = ("contaminated", "mixed_language", "incomplete", "too_many_responses")
"""Reasons of the three steps, in the order in which they are asked."""
NUM_SHOWN = 20
"""Dropped rows that are kept of each reason."""


@dataclass(frozen=True)
class Judged:
    """What the three steps say of one conversation."""

    reason: str = ""
    """One of STEPS; nothing: it is kept."""
    detail: str = ""
    overlap: Overlap | None = None
    """The query's, whether it decides or only makes a candidate."""
    new_query: bool = False
    """Whether this query had not been seen before."""


@dataclass
class Preparation:
    """The three steps over a stream of conversations; holds a few bytes a query, no text."""

    screen: Screen
    max_responses: int = MAX_RESPONSES
    responses: Counter[bytes] = field(default_factory=Counter)
    """Kept responses by query."""
    overlaps: dict[bytes, Overlap | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.max_responses < 1:
            raise ValueError(f"max_responses must be at least 1, got {self.max_responses}")

    def judge(self, messages: Sequence[Message], *, finish_reason: object = None) -> Judged:
        """Whether a conversation is kept; it counts as a response of its query if so.

        Args:
            finish_reason: as engines and datasets write it; `length` says that the response was cut.
        """
        asked = [message["content"] for message in messages if message["role"] == "user"]
        answers = [message["content"] for message in messages if message["role"] == "assistant"]
        key = query_key(messages)
        new = key not in self.overlaps
        if new:
            texts = asked if len(asked) < 2 else ["\n".join(asked), *asked]
            self.overlaps[key] = find_overlap(texts, self.screen)
        overlap = self.overlaps[key]
        reason, detail = "", ""
        if overlap and overlap.ngram >= self.screen.ngram:
            reason, detail = "contaminated", overlap.match.gram
        elif detail := mixed_language("\n".join(asked), answers):
            reason = "mixed_language"
        elif detail := cut_short(messages, answers, finish_reason):
            reason = "incomplete"
        elif self.responses[key] >= self.max_responses:
            reason, detail = "too_many_responses", f"the query has {self.max_responses} already"
        else:
            self.responses[key] += 1
        return Judged(reason, detail, overlap, new)


@dataclass(frozen=True)
class Prepared:
    """What came through, and why the rest did not."""

    conversations: tuple[tuple[Message, ...], ...]
    counts: dict[str, int]
    """`in`, `kept` and one count a reason of STEPS that dropped any."""


def prepare(
    conversations: Iterable[Sequence[Message]], screen: Screen, *, max_responses: int = MAX_RESPONSES
) -> Prepared:
    """The three steps over conversations in memory, in order of arrival."""
    preparation = Preparation(screen, max_responses)
    kept: list[tuple[Message, ...]] = []
    counts = Counter({"in": 0, "kept": 0})
    for messages in conversations:
        judged = preparation.judge(messages)
        counts["in"] += 1
        counts[judged.reason or "kept"] += 1
        if not judged.reason:
            kept.append(tuple(messages))
    return Prepared(tuple(kept), dict(counts))


def prepare_to(
    inputs: Sequence[Path],
    out: Path,
    *,
    against: Sequence[Path] = (),
    ngram: int = NGRAM,
    max_responses: int = MAX_RESPONSES,
) -> dict[str, Any]:
    """The three steps over messages JSONL, a line at a time, into OUT.jsonl; all written or nothing.

    Beside it: OUT.dropped.jsonl, up to NUM_SHOWN rows of each reason, chosen by their place in the input; and, where
    shorter runs find something, OUT.candidates.jsonl: every query that overlaps at 8 or 13 words and not at `ngram`.

    Args:
        against: benchmarks, see `decontaminate.read_held_out`.

    Returns:
        Counts: `in` = `kept` + all of `dropped`; `queries` of conversations that are none broken; `overlaps`, how many
        of these overlap at each run length; `first`, where each reason was first met; files and what they hold.

    Raises:
        ValueError: for a missing or torn file, an output that would replace an input, or if nothing is kept.
    """
    if out.suffix != ".jsonl":
        raise ValueError(f"-o writes messages JSONL, so its name ends in .jsonl, got {out}")
    for path in (*inputs, *against):
        if not path.is_file():
            raise ValueError(f"{path} is a folder, expected a file") if path.is_dir() else missing_file(path)
        if path.resolve() == out.resolve():
            raise ValueError(f"-o {out} is one of the inputs; choose another")
    benchmarks = [read_held_out(path) for path in against]
    screen = build_screen((text for file in benchmarks for text in file.texts), ngram=ngram)
    preparation = Preparation(screen, max_responses)
    dropped, first = Counter[str](), dict[str, str]()
    shown = _Shown()
    num_in = kept = candidates = 0
    out.parent.mkdir(parents=True, exist_ok=True)
    paths = {name: out.with_name(f"{out.stem}{name}.jsonl") for name in ("", ".candidates", ".dropped")}
    temporary = {name: aside(path) for name, path in paths.items()}
    try:
        with temporary[""].open("wb") as rows, temporary[".candidates"].open("wb") as near:
            for path in inputs:
                for line in progress(read_conversations(path), f"sft: {path.name}", unit="conversations"):
                    num_in += 1
                    judged = Judged(line.reason, line.detail)
                    if line.row:
                        finish_reason = line.row.get("finish_reason")
                        judged = preparation.judge(line.row["messages"], finish_reason=finish_reason)
                    place = {"file": str(path), "line": line.number}
                    if judged.new_query and judged.overlap and judged.overlap.ngram < ngram:
                        candidates += 1
                        near.write(_json({**place, **_candidate(line.row["messages"], judged.overlap, screen)}))
                    if not judged.reason:
                        kept += 1
                        rows.write(_json(line.row))
                        continue
                    dropped[judged.reason] += 1
                    first.setdefault(judged.reason, f"{path}:{line.number}")
                    what = {"row": line.row} if line.row else {"text": line.text}
                    shown.add(num_in, {"reason": judged.reason, **place, "detail": judged.detail, **what})
            if not kept:
                whys = ", ".join(f"{count} {reason} (first {first[reason]})" for reason, count in dropped.items())
                raise ValueError(f"no conversation of {num_in} is left: {whys or 'the input is empty'}")
            _sync(rows, near)
        with temporary[".dropped"].open("wb") as file:
            file.writelines(_json(row) for row in shown.rows())
            _sync(file)
        for name in (".dropped", ".candidates", ""):  # the output itself last: where it stands, all stands
            if name == ".candidates" and not candidates:
                paths[name].unlink(missing_ok=True)
            else:
                temporary[name].replace(paths[name])
        sync_folder(out.parent)
    finally:
        for path in temporary.values():
            path.unlink(missing_ok=True)
    decided = Counter(overlap.ngram for overlap in preparation.overlaps.values() if overlap)
    return {
        "in": num_in,
        "kept": kept,
        "dropped": {reason: dropped[reason] for reason in (*BROKEN, *STEPS)},
        "first": first,
        "queries": len(preparation.overlaps),
        "overlaps": {
            str(index.ngram): sum(count for length, count in decided.items() if length >= index.ngram)
            for index in reversed(screen.indices)
        },
        "candidates": candidates,
        "ngram": ngram,
        "max_responses": max_responses,
        "against": [{"file": str(f.path), "field": f.column, "texts": len(f.texts)} for f in benchmarks],
        "files": {
            "kept": str(paths[""]),
            "dropped": str(paths[".dropped"]),
            "candidates": str(paths[".candidates"]) if candidates else None,
        },
    }


def query_key(messages: Sequence[Message]) -> bytes:
    """16 bytes that are equal for equal queries: what the user says, whatever its case and spacing."""
    words = [" ".join(m["content"].casefold().split()) for m in messages if m["role"] == "user"]
    return hashlib.blake2b("\n".join(words).encode("utf-8", "surrogatepass"), digest_size=16).digest()


def cut_short(messages: Sequence[Message], answers: Sequence[str], finish_reason: object = None) -> str:
    """What says that a response was not finished; nothing if all were."""
    if not messages or messages[-1]["role"] != "assistant":
        return "the last message is not the assistant's"
    if finish_reason == "length":
        return "finish_reason is length"
    return next((why for answer in answers if (why := incomplete(answer))), "")


def incomplete(answer: str) -> str:
    """What a response left open: reasoning, a fence, a box, mathematics, a sentence; nothing if it is complete."""
    said = answer.rpartition("</think>")[2]
    if answer.count("<think>") != answer.count("</think>"):
        return "<think> and </think> do not pair"
    if not said.strip():
        return "nothing is said" + (" after </think>" if answer.strip() else "")
    if answer.count("```") % 2:
        return "a code fence is open"
    prose = re.sub(r"`[^`\n]*`", "", "".join(said.split("```")[::2])).replace("\\\\", "")
    if not all(_closes(prose, box.end()) for box in re.finditer(r"\\boxed\s*\{", prose)):
        return "a \\boxed{ is open"
    for opening, closing in (("\\[", "\\]"), ("\\(", "\\)"), ("\\begin{", "\\end{")):
        if prose.count(opening) != prose.count(closing):
            return f"{opening} and {closing} do not pair"
    end = said.rstrip()
    if end[-1] in ",=([{" and len(end.split()) > 1:
        return f"it ends with {end[-1]!r}"
    if prose.count("**") % 2 and re.search(r"(^|\s)\*\*(\S[^*\n]*)?$", prose.rstrip()):
        return "an emphasis is open"
    last = end.rpartition("\n")[2].split()
    if len(last) > 1 and last[-1] in OPEN_WORDS:
        return f"it ends with {last[-1]!r}"
    if len(last) >= 12 and last[-1].isalpha() and len(re.findall(r"[.!?](?=\s)", prose)) >= 2:
        return f"its last sentence is cut off after {last[-1]!r}"
    return ""


OPEN_WORDS = set(
    "the an and or but because of to is are that which with for by from if than was were has have will".split()
)
"""What no sentence ends with."""


def mixed_language(query: str, answers: Sequence[str], *, most: float = MOST_FOREIGN) -> str:
    """Which script of a response the query does not use, if over `most` of the response's letters are foreign to it.

    Greek is never foreign, nor is the script of a language that the query names; code fences do not count. Latin
    letters are, to a query without Latin words, where they make prose (LATIN_PROSE words on end). And a response that
    is plainly in another of the languages of STOP_WORDS than the query is.
    """
    known = {"LATIN", "GREEK", *map(_script, set(query))}
    known |= {script for name, script in SCRIPT_OF.items() if re.search(rf"\b{name}\b", query, re.IGNORECASE)}
    if known & {"HIRAGANA", "KATAKANA"}:
        known |= {"HIRAGANA", "KATAKANA", "CJK"}
    others = set(map(_script, set(query))) - {"", "LATIN", "GREEK"}
    asked_in_latin = not others or bool(_ASKED_IN_LATIN.search(query))
    asked = _language(query)
    for answer in answers:
        if asked and (spoken := _language(answer)) and spoken != asked and spoken not in query.casefold():
            return f"it is in {spoken.capitalize()}, the query in {asked.capitalize()}"
        letters: Counter[str] = Counter()
        for letter, count in Counter("".join(answer.split("```")[::2])).items():
            letters[_script(letter)] += count
        del letters[""]
        foreign = Counter({script: n for script, n in letters.items() if script not in known})
        if not asked_in_latin:
            foreign["LATIN"] = sum(sum(map(str.isalpha, run)) for run in _latin_prose(answer))
        share = foreign.total() / max(1, letters.total())
        if share > most:
            return (
                f"{100 * share:.0f} % of the letters are foreign to the query, {foreign.most_common(1)[0][0]} above all"
            )
    return ""


LATIN_PROSE = 5
"""Latin words in a row that make prose: names and terms are fewer."""

STOP_WORDS = {
    "english": "the and is of to that which with for are this was from we it has have be by",
    "spanish": "el los las que es una por para del está son como más pero se",
    "french": "les des est une que dans avec qui sur nous pas ce cette sont du",
    "german": "der das und ist nicht ein eine mit für den auf wir sich dem zu",
    "italian": "il che di è una sono della gli nel si questo più anche degli",
    "portuguese": "que uma não com para os é da são em um como mais pela",
}
"""Small words that tell languages of one script apart; none is an English word of another meaning."""
_STOP_WORDS = {language: frozenset(words.split()) for language, words in STOP_WORDS.items()}


_ASKED_IN_LATIN = re.compile(r"[A-Za-z]{3,} +[A-Za-z]{2,}|英[语文語]|[Аа]нглийск|영어|الإنجليزية|अंग्रेज़ी")
"""Words of a query that is partly in Latin letters, or that asks for English."""


def _language(text: str, *, least: int = 4) -> str:
    """A language of STOP_WORDS, if at least `least` and a twelfth of the words are its, thrice those of any other."""
    words = re.findall(r"[^\W\d_]+", re.sub(r"\$[^$]*\$", " ", "".join(text.split("```")[::2])).casefold())
    counts = Counter({language: sum(word in known for word in words) for language, known in _STOP_WORDS.items()})
    (first, most), (_, second) = counts.most_common(2)
    return first if most >= max(least, len(words) / 12) and most >= 3 * second else ""


def _latin_prose(answer: str) -> list[str]:
    """Runs of LATIN_PROSE Latin words and more, outside of code and formulas."""
    prose = re.sub(
        r"\$[^$]*\$|`[^`\n]*`|\\\(.*?\\\)|\\\[.*?\\\]", "|", "".join(answer.split("```")[::2]), flags=re.DOTALL
    )
    return re.findall(rf"(?:[A-Za-z'’-]+[ ,;:.\n]+){{{LATIN_PROSE - 1},}}[A-Za-z'’-]+", prose)


SCRIPT_OF = {
    **dict.fromkeys(("chinese", "mandarin", "cantonese", "hanzi", "kanji"), "CJK"),
    **dict.fromkeys(("japanese", "hiragana"), "HIRAGANA"),
    **dict.fromkeys(("korean", "hangul"), "HANGUL"),
    **dict.fromkeys(("russian", "ukrainian", "bulgarian", "serbian", "belarusian", "kazakh", "cyrillic"), "CYRILLIC"),
    **dict.fromkeys(("arabic", "persian", "farsi", "urdu"), "ARABIC"),
    **dict.fromkeys(("hindi", "sanskrit", "marathi", "nepali", "devanagari"), "DEVANAGARI"),
    **dict.fromkeys(("bengali", "bangla"), "BENGALI"),
    **{name.lower(): name for name in ("HEBREW", "THAI", "TAMIL", "TELUGU", "ARMENIAN", "GEORGIAN")},
}
"""Languages that a query may ask for by name."""


def samples(conversations: Iterable[Sequence[Message]], chat: Chat, context: int) -> Iterator[Sample]:
    """Conversations ready to pack, loss on the assistant's tokens only.

    Those longer than `context` do not come out: what is missing, compared with what went in, is too long.
    """
    for messages in conversations:
        ids, weights = chat.render_training(messages)
        if len(ids) <= context:
            yield Sample(np.array(ids, np.int32), np.array(weights, np.float32))


class _Shown:
    """Up to NUM_SHOWN rows of each reason, chosen by a hash of their place: an even sample that never changes."""

    def __init__(self) -> None:
        self._heaps: dict[str, list[tuple[int, int, dict[str, Any]]]] = {}

    def add(self, number: int, row: dict[str, Any]) -> None:
        heap = self._heaps.setdefault(row["reason"], [])
        chance = int.from_bytes(hashlib.blake2b(str(number).encode(), digest_size=8).digest(), "big")
        heapq.heappush(heap, (-chance, number, row))
        if len(heap) > NUM_SHOWN:
            heapq.heappop(heap)

    def rows(self) -> Iterator[dict[str, Any]]:
        """By reason, in the order of arrival."""
        for reason in (*BROKEN, *STEPS):
            yield from (row for _, _, row in sorted(self._heaps.get(reason, ()), key=lambda entry: entry[1]))


def _candidate(messages: Sequence[Message], overlap: Overlap, screen: Screen) -> dict[str, Any]:
    match = overlap.match
    query = "\n".join(message["content"] for message in messages if message["role"] == "user")
    held_out = screen.texts[match.item]
    return {
        "ngram": overlap.ngram,
        "matched": match.gram,
        "num_items": match.num_items,
        "share": round(share_found(query, held_out, ngram=min(8, screen.ngram)), 3),
        "query": query,
        "benchmark": held_out,
    }


def _closes(text: str, start: int) -> bool:
    """Whether a brace opened just before `start` is closed; escaped ones do not count."""
    depth = 1
    for brace in re.finditer(r"\\[{}]|([{}])", text[start:]):
        depth += {"{": 1, "}": -1}.get(brace[1], 0)
        if depth == 0:
            return True
    return False


@lru_cache(maxsize=1 << 16)
def _script(letter: str) -> str:
    """The script of a letter, nothing for what is none; mathematical and wide forms are the letters they stand for."""
    plain = unicodedata.normalize("NFKC", letter)[0]
    if not plain.isalpha():
        return ""
    name = re.split(r"[ -]", unicodedata.name(plain, "UNKNOWN"), maxsplit=1)[0]
    return {"IDEOGRAPHIC": "CJK", "MODIFIER": ""}.get(name, name)


def _json(row: dict[str, Any]) -> bytes:
    return (json.dumps(row, ensure_ascii=False) + "\n").encode()


def _sync(*files: Any) -> None:
    for file in files:
        file.flush()
        os.fsync(file.fileno())
