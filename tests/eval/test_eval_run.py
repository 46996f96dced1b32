"""Evaluation through a small real engine: every problem judged, in order, as a function of the seed."""

from concurrent.futures import Future

import pytest
import torch

from openmimo.data.chat import Chat
from openmimo.data.tokenizer import train_tokenizer
from openmimo.engine.engine import Engine, EngineConfig
from openmimo.eval.run import EvalConfig, Evaluation, evaluate, gain
from openmimo.model.config import MiMoConfig
from openmimo.model.mimo import MiMo
from openmimo.types import Group, Problem, Rollout, Verdict

CHAT = Chat(train_tokenizer(["user assistant 0 1 2 3"] * 9, 270))
PROBLEMS = [Problem(f"m{n}", f"{n} + {n}?", "math", answer=str(2 * n)) for n in range(5)] + [
    Problem("c0", "Write f", "code", family="lists")
]
CONFIG = EvalConfig(max_new_tokens=6, num_samples=4, max_active_requests=5)


class HashJudge:
    """A small real judge: accepts a text by its length; some problems it fails on."""

    def __init__(self, broken: tuple[str, ...] = ()) -> None:
        self.broken = broken
        self.asked: list[tuple[str, str]] = []

    def submit(self, problem: Problem, text: str) -> Future[Verdict]:
        self.asked.append((problem.id, text))
        future: Future[Verdict] = Future()
        right = len(text.encode()) % 2 == 0
        future.set_result(
            Verdict("internal_error" if problem.id in self.broken else "accepted" if right else "wrong_answer")
        )
        return future


def engine() -> Engine:
    config = MiMoConfig(
        vocab_size=CHAT.tokenizer.get_vocab_size(), hidden_size=16, intermediate_size=24, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=1, head_dim=8, rope_theta=1e4, max_position_embeddings=128,
    )  # fmt: skip
    model = MiMo(config).init_weights(torch.Generator().manual_seed(0))
    return Engine(model, EngineConfig(max_batch_size=8, max_model_len=128))


def test_every_problem_gets_its_samples_in_the_order_of_the_problems() -> None:
    judge = HashJudge()
    found = evaluate(engine(), judge, PROBLEMS, CONFIG, chat=CHAT, seed=0)
    assert [g.problem.id for g in found.groups] == [p.id for p in PROBLEMS]
    assert all(len(g.rollouts) == len(g.verdicts) == 4 for g in found.groups)
    assert len(judge.asked) == 24 and found.temperature == 0.6
    for group in found.groups:
        assert all(r.prompt_ids == CHAT.render_prompt(group.problem.prompt) for r in group.rollouts)
        assert all(len(r.token_ids) <= 6 for r in group.rollouts)
        assert len({r.token_ids for r in group.rollouts}) > 1  # samples, not copies


def test_the_result_is_a_function_of_the_seed_and_not_of_the_batch() -> None:
    first = evaluate(engine(), HashJudge(), PROBLEMS, CONFIG, chat=CHAT, seed=1)
    wide = EvalConfig(**{**vars(CONFIG), "max_active_requests": 256})
    assert evaluate(engine(), HashJudge(), PROBLEMS, wide, chat=CHAT, seed=1) == first
    assert evaluate(engine(), HashJudge(), PROBLEMS, CONFIG, chat=CHAT, seed=2) != first


def test_greedy_takes_one_sample() -> None:
    found = evaluate(engine(), HashJudge(), PROBLEMS, CONFIG, chat=CHAT, seed=0, temperature=0.0, num_samples=9)
    assert all(len(g.rollouts) == 1 for g in found.groups) and found.temperature == 0.0


def test_the_summary_by_kind_and_family() -> None:
    found = evaluate(engine(), HashJudge(), PROBLEMS, CONFIG, chat=CHAT, seed=0)
    summary = found.summary()
    rates = [sum(v.status == "accepted" for v in g.verdicts) / 4 for g in found.groups]
    assert summary["accuracy"]["math"]["mean"] == pytest.approx(sum(rates[:5]) / 5)
    assert summary["accuracy"]["math"]["n"] == 5 and summary["accuracy"]["code"]["n"] == 1
    assert summary["families"].keys() == {"lists", "math"} and summary["samples"] == 4
    assert set(summary["pass_at_k"]["math"]) == {"1", "2", "4"}
    assert summary["pass_at_k"]["math"]["1"] == pytest.approx(sum(rates[:5]) / 5)
    assert sum(summary["statuses"].values()) == 24
    assert summary["truncated"] == sum(r.finish_reason == "length" for g in found.groups for r in g.rollouts) / 24
    assert found.mean() == pytest.approx(sum(rates) / 6)


def test_samples_the_judge_failed_on_are_left_out_and_shown() -> None:
    found = evaluate(engine(), HashJudge(broken=("m1", "c0")), PROBLEMS, CONFIG, chat=CHAT, seed=0)
    assert len(found.correct()) == 4
    summary = found.summary()
    assert summary["accuracy"]["math"]["n"] == 4 and summary["statuses"]["internal_error"] == 8
    assert "code" not in summary["accuracy"] and "lists" not in summary["families"]


def made(rows: dict[str, str]) -> Evaluation:
    """`rows`: problem -> one letter a sample, a(ccepted), w(rong), i(nternal error)."""
    status = {"a": "accepted", "w": "wrong_answer", "i": "internal_error"}
    rollout = Rollout("p", (1,), (2,), (0.0,), 0, "stop")
    return Evaluation(
        tuple(
            Group(Problem(name, name, "math"), (rollout,) * len(row), tuple(Verdict(status[c]) for c in row))  # type: ignore[arg-type]
            for name, row in rows.items()
        ),
        1.0,
    )


def test_the_gain_is_paired_by_problem_also_where_the_judge_failed() -> None:
    assert gain(made({"a": "aw", "b": "ww"}), made({"a": "aa", "b": "aw"}))["mean"] == 0.5
    found = gain(made({"a": "ii", "b": "ww", "c": "aa"}), made({"a": "aa", "b": "aa", "c": "ii"}))
    assert (found["mean"], found["n"]) == (1.0, 1)  # b alone was judged in both
    with pytest.raises(ValueError, match="same problems"):
        gain(made({"a": "a"}), made({"b": "a"}))


def test_no_problems_are_refused() -> None:
    with pytest.raises(ValueError, match="no problems to evaluate on"):
        evaluate(engine(), HashJudge(), [], CONFIG, chat=CHAT, seed=0)
