"""Long-context tasks: to length, offline, a function of the seed, and solvable from their own text."""

import re
from collections import Counter
from collections.abc import Callable, Sequence

import pytest

from openmimo.data.chat import Chat
from openmimo.data.tokenizer import train_tokenizer
from openmimo.eval.ruler import LongTask, cwe, evaluate_ruler, fwe, niah, score, vt
from openmimo.types import Request, Rollout

MAKERS: list[Callable[..., LongTask]] = [niah, cwe, fwe, vt]


def words(text: str) -> int:
    return len(text.split())


def solve(task: LongTask) -> set[str]:
    """The answers again, from the prompt alone."""
    body, _, question = task.prompt.rpartition("\n")
    if task.family == "niah":
        asked = re.search(r"for (.*) mentioned", question)
        assert asked
        hidden = re.findall(r"numbers for (\w+) is: (\d+)\.", body)
        return {value for key, value in hidden if key in asked[1].split(", ")}
    if task.family == "vt":
        start = re.findall(r"\d+", question)[-1]
        held = {start}
        for name, value in re.findall(r"VAR (\w+) = (?:VAR )?(\w+)", body):
            if value in held:  # in order of the text: no variable is used before it is set
                held.add(name)
        return held - {start}
    counts = Counter(re.findall(r"\b[a-z]+\b", body.split("\n", 1)[1]))
    return {word for word, _ in counts.most_common(10 if task.family == "cwe" else 3)}


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("length", [1000, 4096])
def test_a_task_fills_its_length_and_its_answers_follow_from_its_text(
    make: Callable[..., LongTask], length: int
) -> None:
    for seed in range(5):
        task = make(seed, length, words)
        assert 0.95 * length <= words(task.prompt) <= length
        assert solve(task) == set(task.answers)
        assert score(task, "They are " + ", ".join(task.answers) + ".") == 1.0


@pytest.mark.parametrize("make", MAKERS)
def test_one_seed_one_task(make: Callable[..., LongTask]) -> None:
    assert make(1, 1200, words) == make(1, 1200, words)
    assert make(1, 1200, words).answers != make(2, 1200, words).answers


@pytest.mark.parametrize("shape", [(1, 1, 1), (4, 1, 1), (1, 4, 1), (4, 1, 4), (5, 3, 2)])
def test_needles_with_several_keys_values_and_queries(shape: tuple[int, int, int]) -> None:
    keys, values, queries = shape
    task = niah(0, 2000, words, num_keys=keys, num_values=values, num_queries=queries)
    assert len(task.answers) == values * queries and solve(task) == set(task.answers)
    assert task.prompt.count("is: ") == keys * values


def test_needles_lie_at_every_depth() -> None:
    depths = []
    for seed in range(60):
        task = niah(seed, 800, words)
        depths.append(task.prompt.index(task.answers[0]) / len(task.prompt))
    assert min(depths) < 0.2 and max(depths) > 0.8 and 0.35 < sum(depths) / 60 < 0.65


def test_several_chains_are_told_apart() -> None:
    for seed in range(10):
        task = vt(seed, 1500, words, num_chains=3, num_hops=2)
        assert len(task.answers) == 3 and solve(task) == set(task.answers)
        assert task.prompt.count("VAR ") == 3 * (1 + 2 * 2)


def test_the_score_is_the_share_of_answers_said_after_thinking() -> None:
    task = LongTask("t", "cwe", "", ("bana", "123"))
    assert score(task, "BANA and 123") == 1.0
    assert score(task, "bana") == 0.5
    assert score(task, "banana 1234") == 0.0  # no parts of words
    assert score(task, "<think> bana 123 </think> 123") == 0.5


def test_a_length_too_short_says_what_is_needed() -> None:
    for make in MAKERS:
        with pytest.raises(ValueError, match=r"needs at least \d+ tokens, got length_tokens 20"):
            make(0, 20, words)
    with pytest.raises(ValueError, match="niah asks for 1 to 1 of its keys"):
        niah(0, 500, words, num_queries=2)
    with pytest.raises(ValueError, match="common words must stand more often"):
        cwe(0, 500, words, common_times=3)
    with pytest.raises(ValueError, match="no long-context tasks"):
        evaluate_ruler(Solver(), [], chat=CHAT)


CHAT = Chat(train_tokenizer(["user assistant"] * 9, 280))


class Solver:
    """A generator that can read: it answers needles, and nothing else."""

    def generate(self, requests: Sequence[Request]) -> list[Rollout]:
        def answer(request: Request) -> Rollout:
            text = " ".join(re.findall(r"is: (\d+)", CHAT.decode(request.prompt_ids))) or "none"
            ids = CHAT.encode(text)
            return Rollout(request.problem_id, request.prompt_ids, ids, (0.0,) * len(ids), 0, "stop")

        return [answer(request) for request in requests]


def test_the_mean_by_family_with_a_real_tokenizer() -> None:
    def count(text: str) -> int:
        return len(CHAT.encode(text))

    tasks = [niah(seed, 1500, count) for seed in range(3)] + [vt(seed, 1500, count) for seed in range(2)]
    assert all(len(CHAT.encode(task.prompt)) <= 1500 for task in tasks)
    assert evaluate_ruler(Solver(), tasks, chat=CHAT) == {"niah": 1.0, "vt": 0.0}
