"""Synthetic reasoning data (MiMo 2.1): models write it, rules and counts decide what is kept.

1. `analyse`: STEM documents of high reasoning depth -> prompts that ask a reasoning model to analyse them.
2. `synthesize`: maths and code problems with judged rollouts -> conversations, by rejection sampling.
3. General queries, creative writing above all, have no judge: `synthesize(..., keep="finished")`.

Pure: generating and judging are the caller's, with the same `generate` and `judge` as everywhere. The conversations go
into stage 3 of pre-training (about 10 % of its mixture) and into SFT; they may be repeated for many epochs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from openmimo.data.chat import Message
from openmimo.types import Document, Group, Problem, Rollout

Keep = Literal["accepted", "finished"]

STEM_DOMAINS = ("maths", "code", "reference")
"""The tagger's domains that count as STEM."""
LEAST_DEPTH = 0.7
"""Reasoning depth from which a document is analysed, 0 to 1. Ours: MiMo says high."""
ANALYSIS = (
    "Read the following text closely. Explain the reasoning it rests on step by step: what is assumed, why each step "
    "follows, what is left unsaid, and what would change if an assumption failed.\n\n{text}"
)


@dataclass(frozen=True)
class Synthesised:
    """Conversations, and why the other responses are not among them."""

    conversations: tuple[tuple[Message, ...], ...]
    """Problems in the order given, responses in the order sampled."""
    counts: dict[str, int]
    """Of responses: `in`, `kept` and one count a reason; they add up."""
    unanswered: tuple[str, ...]
    """Ids of the problems without any conversation."""


@dataclass(frozen=True)
class Analysis:
    """One document to be analysed."""

    document_id: str
    prompt: str


def synthesize(
    problems: Sequence[Problem],
    groups: Iterable[Group],
    *,
    decode: Callable[[Sequence[int]], str],
    keep: Keep = "accepted",
    at_most: int = 8,
) -> Synthesised:
    """Rejection sampling: the rollouts worth learning from, as conversations.

    A response is dropped when it was cut off or is a repetition of one kept for the same problem; with keep="accepted"
    also when the judge did not accept it, or failed on it.

    Args:
        groups: judged rollouts; several groups of one problem count together, those of other problems not at all.
        decode: token ids of a response -> its text.
        keep: `accepted` asks the judge; `finished` is for queries no rule can verify.
        at_most: conversations a problem; MiMo 3.1 takes eight.

    Raises:
        ValueError: for another `keep`, or at_most below 1.
    """
    if keep not in ("accepted", "finished"):
        raise ValueError(f"keep is accepted or finished, got {keep!r}")
    if at_most < 1:
        raise ValueError(f"at_most must be at least 1, got {at_most}")
    by_id: dict[str, list[Group]] = {}
    for group in groups:
        by_id.setdefault(group.problem.id, []).append(group)
    counts = Counter({"in": 0, "kept": 0})
    conversations: list[tuple[Message, ...]] = []
    unanswered = []
    for problem in problems:
        kept: dict[str, None] = {}
        for group in by_id.get(problem.id, ()):
            for rollout, verdict in zip(group.rollouts, group.verdicts, strict=True):
                counts["in"] += 1
                text = decode(rollout.token_ids).strip()
                reason = _unfinished(rollout, text)
                if not reason and keep == "accepted" and verdict.status != "accepted":
                    reason = "internal_error" if verdict.status == "internal_error" else "not_accepted"
                if not reason and text in kept:
                    reason = "repeated"
                if not reason and len(kept) >= at_most:
                    reason = "too_many_responses"
                counts[reason or "kept"] += 1
                if not reason:
                    kept[text] = None
        conversations += [conversation(problem.prompt, text) for text in kept]
        if not kept:
            unanswered.append(problem.id)
    return Synthesised(tuple(conversations), dict(counts), tuple(unanswered))


def analyse(
    documents: Iterable[Document],
    *,
    least_depth: float = LEAST_DEPTH,
    domains: Sequence[str] = STEM_DOMAINS,
    most_characters: int = 20_000,
) -> tuple[tuple[Analysis, ...], dict[str, int]]:
    """Prompts for the STEM documents of high reasoning depth, by the tagger's `domain` and `reasoning_depth`.

    Args:
        most_characters: longer documents are left out, since half an argument cannot be analysed.

    Returns:
        The prompts in the documents' order, and counts: `in`, `kept` and one a reason.

    Raises:
        ValueError: for a document that was never tagged.
    """
    counts = Counter({"in": 0, "kept": 0})
    prompts = []
    for document in documents:
        for name in ("domain", "reasoning_depth"):
            if name not in document.tags:
                raise ValueError(f"document {document.id!r} has no tag {name!r}; run the tagger first")
        counts["in"] += 1
        if document.tags["domain"] not in domains:
            reason = "other_domain"
        elif float(document.tags["reasoning_depth"]) < least_depth:
            reason = "shallow"
        elif len(document.text) > most_characters:
            reason = "too_long"
        else:
            reason = "kept"
            prompts.append(Analysis(document.id, ANALYSIS.format(text=document.text)))
        counts[reason] += 1
    return tuple(prompts), dict(counts)


def analyses(
    prompts: Iterable[Analysis], rollouts: Mapping[str, Rollout], *, decode: Callable[[Sequence[int]], str]
) -> Synthesised:
    """The finished analyses as conversations.

    Args:
        rollouts: by document id.
    """
    counts = Counter({"in": 0, "kept": 0})
    conversations = []
    unanswered = []
    for prompt in prompts:
        rollout = rollouts.get(prompt.document_id)
        text = decode(rollout.token_ids).strip() if rollout else ""
        counts["in"] += 1
        reason = _unfinished(rollout, text) if rollout else "not_rolled_out"
        counts[reason or "kept"] += 1
        if reason:
            unanswered.append(prompt.document_id)
        else:
            conversations.append(conversation(prompt.prompt, text))
    return Synthesised(tuple(conversations), dict(counts), tuple(unanswered))


def conversation(prompt: str, response: str) -> tuple[Message, ...]:
    """A question and its answer."""
    return ({"role": "user", "content": prompt}, {"role": "assistant", "content": response})


def _unfinished(rollout: Rollout, text: str) -> str:
    """Why a response is no whole answer; empty if it is one."""
    if rollout.finish_reason != "stop" or text.count("<think>") != text.count("</think>"):
        return "cut_off"
    return "" if text.rpartition("</think>")[2].strip() else "empty"
