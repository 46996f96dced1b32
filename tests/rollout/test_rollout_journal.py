"""Finished groups survive a kill: the journal, and a batch that is taken up again and again."""

import json
import random
from collections import Counter

import pytest
from test_rollout_driver import StepEngine, ThreadJudge, chance, decode, draw, render, scored

from openmimo.rollout.driver import rollout_batch
from openmimo.rollout.journal import Journal, keep_steps
from openmimo.rollout.seamless import Seamless
from openmimo.types import Group, Problem, Rollout, Sampling, TestResult, Verdict

PROBLEMS = {problem.id: problem for problem, _ in map(draw, range(1000))}


class Killed(Exception):
    pass


def journal(folder, *, seed=1, step=7, version=7):
    return Journal(folder, seed=seed, step=step, policy_version=version, problem=PROBLEMS.__getitem__)


def batch(folder, *, lives=10**9, pace=lambda request: 1 + request.sampling.seed % 7, on_selected=None):
    """A batch by an engine that dies after `lives` steps; the launches that were generated, and the batch."""
    engine = StepEngine(pace)
    generated = Counter()
    step, submit = engine.step, engine.submit

    def dying():
        nonlocal lives
        lives -= 1
        if lives < 0:
            raise Killed
        return step()

    def counted(request):
        generated[request.problem_id] += 1
        return submit(request)

    engine.step, engine.submit = dying, counted
    with journal(folder) as book:
        known = set(book.groups)
        result = None
        try:
            result = rollout_batch(
                engine, ThreadJudge(), draw=draw, render=render, decode=decode, sampling=Sampling(max_new_tokens=1),
                num_rollouts=2, valid=scored, policy=Seamless(6, chance, max_active=3), seed=1, step=7,
                known=book.groups, on_judged=book.add, on_selected=on_selected,
            )  # fmt: skip
        except Killed:
            assert engine.num_active == 0
    return known, generated, result


def test_a_batch_killed_at_random_points_is_the_same_and_redoes_only_what_was_not_judged(tmp_path):
    _, _, whole = batch(tmp_path / "whole")
    rng = random.Random(0)
    for trial in range(20):
        folder = tmp_path / str(trial)
        result, num_kills, before = None, 0, set()
        while result is None:
            known, generated, result = batch(folder, lives=rng.randrange(1, 12))
            assert before <= known, "a judged group was lost"
            assert not {PROBLEMS[f"p{launch}"].id for launch in known} & set(generated), "a judged group was redone"
            with journal(folder) as book:
                before = set(book.groups)
            num_kills += result is None
        assert num_kills > 1
        assert result.groups == whole.groups and result.prefix == whole.prefix
        assert (result.outcomes, result.prefix_end) == (whole.outcomes, whole.prefix_end)
        assert result.num_known > 0


def test_groups_are_told_in_launch_order_as_soon_as_their_place_is_final(tmp_path):
    told = []
    _, _, whole = batch(tmp_path / "a", on_selected=told.append)
    assert tuple(told) == whole.groups
    again = []
    known, generated, _ = batch(tmp_path / "a", on_selected=again.append)  # all of it is known now
    assert tuple(again) == whole.groups and not generated and len(known) >= whole.prefix_end


def test_a_journal_gives_back_every_bit(tmp_path):
    rng = random.Random(3)
    logprobs = tuple(-rng.expovariate(1.0) for _ in range(50)) + (-0.1, -1e-300, float("-inf"))
    rollouts = tuple(
        Rollout("p1", (1, 2), tuple(range(53)), logprobs, 7, reason, raw_logprobs=logprobs[::-1])
        for reason in ("stop", "length")
    )
    verdicts = (
        Verdict("accepted", (TestResult("accepted", 0.25, 0.5, 1000, "out\u2028put"),)),
        Verdict("time_limit", (TestResult("time_limit", inferred=True),), "slow", "namespace"),
    )
    group = Group(PROBLEMS["p1"], rollouts, verdicts, launch=1, stratum="easy", rewards=(1.0, 0.1))
    with journal(tmp_path) as book:
        book.add(group)
    with journal(tmp_path) as book:
        assert book.groups == {1: group}


def test_a_torn_last_line_is_cut_off_and_the_journal_goes_on(tmp_path):
    batch(tmp_path)
    (path,) = tmp_path.iterdir()
    lines = path.read_bytes().split(b"\n")
    path.write_bytes(b"\n".join(lines[:3]) + b"\n" + lines[3][:40])
    with journal(tmp_path) as book:
        assert len(book.groups) == 2
        book.add(Group(Problem("p5", "", "math"), (), (), launch=5))
    with journal(tmp_path) as book:
        assert len(book.groups) == 3


def test_a_damaged_line_ends_what_is_believed(tmp_path):
    batch(tmp_path)
    (path,) = tmp_path.iterdir()
    lines = path.read_bytes().split(b"\n")
    path.write_bytes(b"\n".join([*lines[:3], b"\0" * 50, *lines[3:]]))
    for _ in range(2):
        with journal(tmp_path) as book:
            assert len(book.groups) == 2


@pytest.mark.parametrize("other", [{"seed": 2}, {"version": 6}])
def test_a_journal_under_another_key_is_begun_anew(tmp_path, other):
    batch(tmp_path)
    with journal(tmp_path, **other) as book:
        assert book.groups == {}
    assert len(next(tmp_path.iterdir()).read_bytes().split(b"\n")) == 2  # the key's line alone


def test_journals_of_steps_that_no_resume_begins_at_go(tmp_path):
    for step in range(5):
        journal(tmp_path, step=step).close()
    keep_steps(tmp_path, {2, 4})
    assert [json.loads(path.read_text())["step"] for path in sorted(tmp_path.iterdir())] == [2, 4]
