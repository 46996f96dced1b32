"""Rejection sampling and analysis prompts: what is kept, and a count for everything that is not."""

import pytest

from openmimo.curate.synth import Analysis, analyse, analyses, synthesize
from openmimo.types import Document, FinishReason, Group, Problem, Rollout, Status, Verdict


def decode(ids) -> str:  # type: ignore[no-untyped-def]
    return bytes(ids).decode()


def rollout(text: str, finish: FinishReason = "stop") -> Rollout:
    ids = tuple(text.encode())
    return Rollout("p", (1,), ids, (0.0,) * len(ids), 0, finish)


def group(problem: Problem, *answers: tuple[str, Status]) -> Group:
    return Group(problem, tuple(rollout(t) for t, _ in answers), tuple(Verdict(s) for _, s in answers))


A, B, C = (Problem(name, f"{name}?", "math", answer="1") for name in "abc")


def test_accepted_responses_become_conversations_and_the_rest_is_counted() -> None:
    cut = Group(A, (rollout("<think> so", "length"),), (Verdict("accepted"),))
    groups = [
        group(
            A, ("1", "accepted"), ("2", "wrong_answer"), (" 1\n", "accepted"), ("<think> one </think> 1", "accepted")
        ),
        cut,
        group(B, ("1", "time_limit"), ("1", "internal_error"), ("<think> 1 </think>", "accepted"), ("", "accepted")),
        group(Problem("z", "z?", "math"), ("1", "accepted")),
    ]
    made = synthesize([B, A, C], groups, decode=decode)
    assert made.conversations == (
        ({"role": "user", "content": "a?"}, {"role": "assistant", "content": "1"}),
        ({"role": "user", "content": "a?"}, {"role": "assistant", "content": "<think> one </think> 1"}),
    )
    assert made.counts == {
        "in": 9, "kept": 2, "not_accepted": 2, "internal_error": 1, "cut_off": 1, "repeated": 1, "empty": 2,
    }  # fmt: skip
    assert made.counts["in"] == sum(n for name, n in made.counts.items() if name != "in")
    assert made.unanswered == ("b", "c")


def test_a_think_that_never_ends_is_cut_off_even_if_the_model_stopped() -> None:
    assert synthesize([A], [group(A, ("<think> so 1", "accepted"))], decode=decode).counts["cut_off"] == 1


def test_at_most_eight_a_problem_over_all_its_groups() -> None:
    groups = [group(A, *((f"{n} {m}", "accepted") for n in range(6))) for m in range(2)]
    made = synthesize([A], groups, decode=decode)
    assert len(made.conversations) == 8 and made.counts["too_many_responses"] == 4
    assert [talk[1]["content"] for talk in made.conversations[:7]] == [*(f"{n} 0" for n in range(6)), "0 1"]
    assert len(synthesize([A], groups, decode=decode, at_most=1).conversations) == 1


def test_finished_responses_need_no_judge() -> None:
    some = group(A, ("a poem", "wrong_answer"), ("another", "internal_error"), ("<think> x", "accepted"))
    made = synthesize([A], [some], decode=decode, keep="finished")
    assert [talk[1]["content"] for talk in made.conversations] == ["a poem", "another"]
    with pytest.raises(ValueError, match="keep is accepted or finished, got 'best'"):
        synthesize([A], [some], decode=decode, keep="best")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at_most must be at least 1, got 0"):
        synthesize([A], [some], decode=decode, at_most=0)


def page(name: str, domain: str, depth: float, text: str = "Let n be prime.") -> Document:
    return Document(name, "u", text, "web", tags={"domain": domain, "reasoning_depth": depth})


def test_deep_stem_documents_are_analysed() -> None:
    pages = [
        page("a", "maths", 0.9, "Let {n} be prime."),
        page("b", "prose", 0.9),
        page("c", "code", 0.69),
        page("d", "code", 0.7),
        page("e", "maths", 1.0, "x" * 20_001),
    ]
    prompts, counts = analyse(pages)
    assert [p.document_id for p in prompts] == ["a", "d"] and prompts[0].prompt.endswith("\n\nLet {n} be prime.")
    assert counts == {"in": 5, "kept": 2, "other_domain": 1, "shallow": 1, "too_long": 1}
    assert len(analyse(pages, least_depth=0.0, domains=("prose",))[0]) == 1
    with pytest.raises(ValueError, match="document 'f' has no tag 'domain'; run the tagger first"):
        analyse([Document("f", "u", "t", "web")])


def test_finished_analyses_become_conversations() -> None:
    prompts = [Analysis(name, f"Analyse {name}") for name in "abc"]
    made = analyses(prompts, {"a": rollout("It follows."), "b": rollout("It fol", "length")}, decode=decode)
    assert made.conversations == (
        ({"role": "user", "content": "Analyse a"}, {"role": "assistant", "content": "It follows."}),
    )
    assert made.counts == {"in": 3, "kept": 1, "cut_off": 1, "not_rolled_out": 1} and made.unanswered == ("b", "c")
