"""The problem side of a small run's corpus: documents, conversations, RL problems and held-out problems.

What real corpora hold stands side by side: textbook pages (lessons), worked answers, direct ones, and a stated share of
unreliable ones, at most a fifth. Held-out problems are drawn first, and no prompt of theirs is drawn again.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from openmimo.curate.families import FAMILIES, Drawn, Style
from openmimo.data.chat import Message
from openmimo.types import Document, Problem

MOST_UNRELIABLE = 0.2


@dataclass(frozen=True)
class CorpusConfig:
    chain_steps: tuple[int, ...] = (3, 4, 5)
    """Difficulties of the maths family: equations a problem. Ours."""
    pipeline_steps: tuple[int, ...] = (2, 3, 4)
    """Difficulties of the code family: clauses a problem. Ours."""
    document_styles: tuple[float, float, float] = (0.75, 0.1, 0.15)
    """Shares of worked, direct and unreliable answers in pre-training documents."""
    chat_styles: tuple[float, float, float] = (0.2, 0.65, 0.15)
    """The same in conversations, for stage 3 and SFT: people mostly post answers without the working."""
    num_documents: int = 8000
    """Problem documents for pre-training."""
    num_lessons: int = 4000
    """Textbook pages for pre-training."""
    num_synthetic: int = 2000
    """Conversations for stage 3."""
    num_sft: int = 3000
    """Conversations for SFT, before its preparation."""
    tokenizer_characters: int = 3_000_000
    """Characters that train the tokenizer."""
    num_rl: int = 600
    """RL problems, before curation."""
    num_held_out: int = 100
    """Problems for the final evaluation, a family."""
    num_validation: int = 24
    """Problems for validation during RL, a family."""

    def __post_init__(self) -> None:
        for name in ("document_styles", "chat_styles"):
            shares = getattr(self, name)
            if abs(sum(shares) - 1.0) > 1e-6 or min(shares) < 0.0:
                raise ValueError(f"{name} must be three shares that sum to 1, got {shares}")
            if shares[2] > MOST_UNRELIABLE:
                raise ValueError(f"{name}: {shares[2]} of the answers unreliable; at most {MOST_UNRELIABLE} is honest")


@dataclass(frozen=True)
class Corpus:
    held_out: tuple[Problem, ...]
    validation: tuple[Problem, ...]
    rl: tuple[Problem, ...]
    documents: tuple[Document, ...]
    """Sources `lessons` and `problems`."""
    synthetic: tuple[tuple[Message, ...], ...]
    sft: tuple[tuple[Message, ...], ...]


def make_corpus(config: CorpusConfig, seed: int) -> Corpus:
    """Draw everything from one seed."""
    seen: set[str] = set()
    held_out = _problems(config, random.Random(f"{seed}:held_out"), config.num_held_out, seen)
    validation = _problems(config, random.Random(f"{seed}:validation"), config.num_validation, seen)
    reserved = frozenset(seen)
    rl = _problems(config, random.Random(f"{seed}:rl"), config.num_rl // len(FAMILIES), seen)
    return Corpus(
        held_out=tuple(d.problem for d in held_out),
        validation=tuple(d.problem for d in validation),
        rl=tuple(d.problem for d in rl),
        documents=tuple(_documents(config, seed, reserved)),
        synthetic=_conversations(config, random.Random(f"{seed}:synthetic"), config.num_synthetic, reserved),
        sft=_conversations(config, random.Random(f"{seed}:sft"), config.num_sft, reserved),
    )


def _steps(config: CorpusConfig) -> dict[str, tuple[int, ...]]:
    return {"chain": config.chain_steps, "pipeline": config.pipeline_steps}


def _problems(config: CorpusConfig, rng: random.Random, number: int, seen: set[str]) -> list[Drawn]:
    """`number` problems of each family, families in turn, no prompt of `seen`, which grows."""
    drawn: list[Drawn] = []
    for _ in range(number):
        for name, steps in _steps(config).items():
            while (one := FAMILIES[name].draw(rng, rng.choice(steps))).problem.prompt in seen:
                pass
            seen.add(one.problem.prompt)
            drawn.append(one)
    return drawn


def _answers(
    config: CorpusConfig, rng: random.Random, number: int, styles: tuple[float, ...], reserved: frozenset[str]
) -> Iterator[tuple[str, Drawn, str]]:
    """(style, problem, response); prompts may repeat, as on any forum."""
    names: tuple[Style, ...] = ("worked", "direct", "unreliable")
    families = sorted(_steps(config))
    made = 0
    while made < number:
        family = FAMILIES[families[made % len(families)]]
        drawn = family.draw(rng, rng.choice(_steps(config)[family.name]))
        if drawn.problem.prompt in reserved:
            continue
        style = rng.choices(names, styles)[0]
        yield style, drawn, family.solve(drawn, style, rng)
        made += 1


def _documents(config: CorpusConfig, seed: int, reserved: frozenset[str]) -> Iterator[Document]:
    rng = random.Random(f"{seed}:documents")
    for n, (style, drawn, response) in enumerate(
        _answers(config, rng, config.num_documents, config.document_styles, reserved)
    ):
        yield Document(
            id=f"problem-{n:06d}",
            url=f"corpus://problems/{n}",
            text=f"{drawn.problem.prompt}\n{response}",
            source="problems",
            tags={"family": drawn.problem.family, "style": style},
        )
    rng = random.Random(f"{seed}:lessons")
    for n in range(config.num_lessons):
        family = FAMILIES["pipeline" if n % 4 == 3 else "chain"]  # sums take more practice than clauses
        yield Document(
            id=f"lesson-{n:06d}",
            url=f"corpus://lessons/{n}",
            text=family.lesson(rng),
            source="lessons",
            tags={"family": family.name},
        )


def _conversations(
    config: CorpusConfig, rng: random.Random, number: int, reserved: frozenset[str]
) -> tuple[tuple[Message, ...], ...]:
    return tuple(
        ({"role": "user", "content": drawn.problem.prompt}, {"role": "assistant", "content": response})
        for _, drawn, response in _answers(config, rng, number, config.chat_styles, reserved)
    )
