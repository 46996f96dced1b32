"""Preparing SFT data (MiMo 3.1): three steps over conversations, every drop counted with its reason.

1. Drop every query with an n-gram overlap with an evaluation benchmark.
2. Drop mixed-language and incomplete responses.
3. At most eight responses a query.

A row is `{"messages": [{"role", "content"}, ...]}`, messages JSONL as the ecosystem has it.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from openmimo.data.chat import Chat, Message
from openmimo.data.pack import Sample

MAX_RESPONSES = 8  # MiMo 3.1


@dataclass(frozen=True)
class Prepared:
    """What came through, and why the rest did not."""

    conversations: tuple[tuple[Message, ...], ...]
    counts: dict[str, int]
    """`in`, `kept` and one count a reason: `contaminated`, `mixed_language`, `incomplete`, `too_many_responses`."""


def prepare(
    conversations: Iterable[Sequence[Message]],
    *,
    contaminated: Callable[[str], bool],
    max_responses: int = MAX_RESPONSES,
) -> Prepared:
    """Apply the three steps, in order of arrival.

    Args:
        contaminated: whether a query overlaps with an evaluation benchmark.
    """
    kept: list[tuple[Message, ...]] = []
    counts = Counter({"in": 0, "kept": 0})
    responses: Counter[str] = Counter()
    overlaps: dict[str, bool] = {}
    for messages in conversations:
        counts["in"] += 1
        query = "\n".join(m["content"] for m in messages if m["role"] == "user")
        answer = messages[-1]["content"] if messages and messages[-1]["role"] == "assistant" else ""
        if query not in overlaps:
            overlaps[query] = contaminated(query)
        if overlaps[query]:
            reason = "contaminated"
        elif mixes_languages(query, answer):
            reason = "mixed_language"
        elif not is_complete(answer):
            reason = "incomplete"
        elif responses[query] >= max_responses:
            reason = "too_many_responses"
        else:
            responses[query] += 1
            kept.append(tuple(messages))
            reason = "kept"
        counts[reason] += 1
    return Prepared(tuple(kept), dict(counts))


def is_complete(answer: str) -> bool:
    """Whether a response was finished: reasoning, fences and boxes closed, something said after the reasoning."""
    said = answer.rpartition("</think>")[2]
    return (
        bool(said.strip())
        and answer.count("<think>") == answer.count("</think>")
        and answer.count("```") % 2 == 0
        and ("\\boxed{" not in said or said.count("{") == said.count("}"))
    )


def mixes_languages(query: str, answer: str, *, most: float = 0.05) -> bool:
    """Whether over `most` of the answer's letters are of a script the query does not use; code fences do not count."""
    prose = "".join(answer.split("```")[::2])
    known = set(map(_script, filter(str.isalpha, query))) | {"LATIN", "GREEK"}
    letters = [_script(c) for c in prose if c.isalpha()]
    return bool(letters) and sum(script not in known for script in letters) / len(letters) > most


def samples(conversations: Iterable[Sequence[Message]], chat: Chat, context: int) -> list[Sample]:
    """Conversations ready to pack, loss on the assistant's tokens only; those longer than the context are left out."""
    rendered = (chat.render_training(messages) for messages in conversations)
    return [Sample(ids, weights) for ids, weights in rendered if len(ids) <= context]


def _script(letter: str) -> str:
    return unicodedata.name(letter, "UNKNOWN").split(" ", 1)[0]
