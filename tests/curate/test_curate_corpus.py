"""The corpus of a small run: from one seed, shares as stated, held-out problems held out."""

from collections import Counter
from dataclasses import replace

import pytest

from openmimo.curate.corpus import CorpusConfig, make_corpus
from openmimo.data.decontaminate import build_index, contaminated

CONFIG = CorpusConfig(
    num_documents=900, num_lessons=40, num_synthetic=300, num_sft=300, num_rl=80, num_held_out=30, num_validation=10
)
CORPUS = make_corpus(CONFIG, 5)


def test_one_seed_one_corpus() -> None:
    assert make_corpus(CONFIG, 5) == CORPUS
    other = make_corpus(CONFIG, 6)
    assert not {p.prompt for p in other.held_out} & {p.prompt for p in CORPUS.held_out}


def test_counts_are_those_asked_for() -> None:
    sources = Counter(d.source for d in CORPUS.documents)
    assert sources == {"problems": 900, "lessons": 40}
    assert (len(CORPUS.held_out), len(CORPUS.validation), len(CORPUS.rl)) == (60, 20, 80)
    assert (len(CORPUS.synthetic), len(CORPUS.sft)) == (300, 300)
    assert Counter(p.family for p in CORPUS.held_out) == {"chain": 30, "pipeline": 30}


def texts() -> list[str]:
    conversations = [m["content"] for talk in (*CORPUS.synthetic, *CORPUS.sft) for m in talk]
    return [d.text for d in CORPUS.documents] + conversations + [p.prompt for p in CORPUS.rl]


def test_held_out_prompts_are_in_no_training_text() -> None:
    held_out = {p.prompt for p in (*CORPUS.held_out, *CORPUS.validation)}
    assert len(held_out) == 80
    for text in texts():
        assert not any(prompt in text for prompt in held_out)


def test_the_decontamination_of_the_paper_finds_nothing_either_by_exact_prompt() -> None:
    held_out = [p.prompt for p in CORPUS.held_out]
    index = build_index(held_out, ngram=64)  # longer than any prompt: whole prompts alone
    assert not [text for text in texts() if contaminated(text, index)]
    assert all(contaminated(f"See: {prompt}", index) for prompt in held_out if len(prompt.split()) >= 10)


def test_ids_are_unique() -> None:
    for rows in (CORPUS.documents, (*CORPUS.held_out, *CORPUS.validation, *CORPUS.rl)):
        ids = [row.id for row in rows]
        assert len(set(ids)) == len(ids)


def test_styles_have_the_shares_asked_for() -> None:
    styles = Counter(d.tags["style"] for d in CORPUS.documents if d.source == "problems")
    for style, share in zip(("worked", "direct", "unreliable"), CONFIG.document_styles, strict=True):
        assert styles[style] / 900 == pytest.approx(share, abs=0.05)


def test_more_than_a_fifth_unreliable_is_refused() -> None:
    with pytest.raises(ValueError, match=r"chat_styles: 0\.25 of the answers unreliable; at most 0\.2 is honest"):
        CorpusConfig(chat_styles=(0.5, 0.25, 0.25))
    with pytest.raises(ValueError, match="document_styles must be three shares that sum to 1"):
        replace(CONFIG, document_styles=(0.5, 0.2, 0.1))
    with pytest.raises(ValueError, match="document_styles must be three shares that sum to 1"):
        replace(CONFIG, document_styles=(1.3, -0.5, 0.2))
    assert replace(CONFIG, document_styles=(0.5, 0.3, 0.2))
