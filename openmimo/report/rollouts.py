"""Rollouts to read: each problem with the responses of base, SFT and RL side by side.

What a model wrote is untrusted: Markdown is rendered without raw HTML, links and images, and everything else is
escaped. The page's content security policy is the second fence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from markdown_it import MarkdownIt
from markupsafe import Markup

HEAD, TAIL = 12_000, 4_000
"""Characters shown of a long response: its beginning and its end."""
THINK, END_THINK = "<think>", "</think>"


@dataclass(frozen=True)
class Response:
    """One response, ready to show."""

    thinking: str
    """Text between <think> and </think>, as it was written."""
    answer: Markup
    status: str
    cut: bool
    """It ran into the length limit."""
    points: float | None = None
    """Its reward, where RL gave one."""


@dataclass(frozen=True)
class Shown:
    """One problem with its responses."""

    id: str
    kind: str
    prompt: Markup
    gold: str
    """The answer of a maths problem; how many tests a code problem has."""
    responses: Mapping[str, Sequence[Response]]
    """By checkpoint, in the order base, SFT, RL."""

    def accepted(self, checkpoint: str) -> str:
        found = self.responses[checkpoint]
        return f"{sum(r.status == 'accepted' for r in found)} of {len(found)} accepted"


def to_show(samples: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[Shown]:
    """Problems in the order of their first appearance; a checkpoint that has no samples is left out."""
    problems: dict[str, Mapping[str, Any]] = {}
    responses: dict[str, dict[str, list[Response]]] = {}
    for checkpoint, rows in samples.items():
        for row in rows:
            problem = row["problem"]
            problems.setdefault(problem["id"], problem)
            responses.setdefault(problem["id"], {})[checkpoint] = [_response(r) for r in row["responses"]]
    return [
        Shown(id, problem["kind"], markdown(problem["prompt"]), _gold(problem), responses[id])
        for id, problem in problems.items()
    ]


def markdown(text: str) -> Markup:
    """Markdown as HTML that can neither run nor load anything."""
    return Markup(_renderer().render(text))


def shortened(text: str) -> str:
    """Beginning and end of a text that is too long to show."""
    if len(text) <= HEAD + TAIL:
        return text
    return f"{text[:HEAD]}\n\n[… {len(text) - HEAD - TAIL} characters …]\n\n{text[-TAIL:]}"


def split(text: str) -> tuple[str, str]:
    """(thinking, answer) of a response; without `</think>` after `<think>` there is no answer yet."""
    before, think, after = text.partition(THINK)
    if not think:
        thinking, end, answer = text.partition(END_THINK)
        return (thinking.strip("\n"), answer) if end else ("", text)
    thinking, _, answer = after.partition(END_THINK)
    return thinking.strip("\n"), before + answer


def _response(row: Mapping[str, Any]) -> Response:
    thinking, answer = split(row["text"])
    return Response(
        thinking=shortened(thinking),
        answer=markdown(shortened(answer)),
        status=row["status"],
        cut=row.get("finish_reason") == "length",
        points=row.get("reward"),
    )


def _gold(problem: Mapping[str, Any]) -> str:
    if problem["kind"] == "math":
        return f"answer {problem.get('answer', '')}"
    return f"{len(problem.get('tests') or ())} tests"


@cache
def _renderer() -> MarkdownIt:
    # Escapes and indented code stay as written: a model's `\(` and leading blanks mean neither.
    off = ["html_block", "html_inline", "link", "image", "autolink", "reference", "escape", "entity", "code"]
    return MarkdownIt("commonmark", {"html": False, "breaks": True}).disable(off)
