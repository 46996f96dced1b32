"""The three preparation steps of SFT data, each with its count (MiMo 3.1)."""

import pytest

from openmimo.data.chat import Chat
from openmimo.data.decontaminate import build_index, contaminated
from openmimo.data.sft import is_complete, mixes_languages, prepare, samples
from openmimo.data.tokenizer import train_tokenizer


def talk(query: str, answer: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": query}, {"role": "assistant", "content": answer}]


def test_each_step_counts_what_it_drops() -> None:
    held_out = "A train leaves the station at noon and travels east at sixty miles an hour until it stops at four."
    index = build_index([held_out])
    rows = [
        talk(held_out, "\\boxed{240}"),
        talk(f"Please solve: {held_out} Thanks!", "\\boxed{240}"),
        talk("What is two and two?", "It is 四，因为二加二等于四"),
        talk("What is two and two?", "<think> two and"),
        *[talk("What is two and two?", f"\\boxed{{{n}}}") for n in range(10)],
        talk("What is one and one?", "2"),
    ]
    prepared = prepare(rows, contaminated=lambda query: contaminated(query, index) is not None)
    assert prepared.counts == {
        "in": 15, "kept": 9, "contaminated": 2, "mixed_language": 1, "incomplete": 1, "too_many_responses": 2,
    }  # fmt: skip
    assert prepared.conversations[:8] == tuple(tuple(row) for row in rows[4:12])
    assert prepared.counts["in"] == sum(v for k, v in prepared.counts.items() if k != "in")


def test_eight_is_the_papers_limit_and_it_is_per_query() -> None:
    rows = [talk(q, f"answer {n}") for n in range(9) for q in ("first", "second")]
    assert prepare(rows, contaminated=lambda q: False).counts["kept"] == 16
    assert prepare(rows, contaminated=lambda q: False, max_responses=1).counts["kept"] == 2


@pytest.mark.parametrize(
    ("answer", "complete"),
    [
        ("<think> so </think> \\boxed{\\frac{1}{2}}", True),
        ("plain", True),
        ("```python\nx = {1}\n```", True),
        ("", False),
        ("  \n", False),
        ("<think> so", False),
        ("<think> so </think>", False),
        ("so </think> 4", False),
        ("```python\nx = 1", False),
        ("The answer is \\boxed{\\frac{1}{2}", False),
        ("<think> open { brace </think> \\boxed{2}", True),
    ],
)
def test_a_response_is_complete_when_everything_opened_is_closed(answer: str, complete: bool) -> None:
    assert is_complete(answer) is complete


def test_a_script_the_query_does_not_use_is_mixed_language() -> None:
    assert mixes_languages("What is 2 + 2?", "答案是四")
    assert not mixes_languages("二加二是多少？", "答案是四, as one says")
    assert not mixes_languages("What is the angle?", "It is θ = π/2, so cos θ = 0")
    assert not mixes_languages("Write a program", "Here:\n```python\nprint('привет, как дела')\n```")
    assert not mixes_languages("Who wrote it?", "Fyodor Dostoevsky, in Russian Достоевский" + " and more of it" * 30)
    assert not mixes_languages("2 + 2", "4")


def test_a_conversation_without_an_answer_is_incomplete() -> None:
    assert prepare([[{"role": "user", "content": "hi"}]], contaminated=lambda q: False).counts["incomplete"] == 1
    assert prepare([[]], contaminated=lambda q: False).counts["incomplete"] == 1


def test_samples_weigh_the_assistant_alone_and_fit_the_context() -> None:
    chat = Chat(train_tokenizer(["the answer is"] * 9, 270))
    rows = [talk("a", "b"), talk("a", "b" * 500)]
    made = samples(rows, chat, 64)
    assert len(made) == 1 and made[0].loss_weights is not None
    assert sum(made[0].loss_weights) == 2  # b and its end
