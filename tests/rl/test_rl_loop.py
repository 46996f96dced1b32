"""The RL loop as a whole: killed anywhere it ends like one left alone, streamed updates are the same updates."""

import json
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from small import CONFIG, PROBLEMS, ThreadJudge, differing, left_behind, make_engine, policy, run

from openmimo import checkpoint
from openmimo.engine.pool import EnginePool
from openmimo.log import read_metrics
from openmimo.rl import train as loop
from openmimo.rl import update
from openmimo.rows import read_rows
from openmimo.stop import Stopped
from openmimo.types import Problem


class Killed(Exception):
    pass


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("rl") / "whole"
    run(out, save_model=lambda folder: folder.mkdir(parents=True, exist_ok=True))
    return out


def dying_engine(lives: int) -> Any:
    engine = make_engine()
    step = engine.step

    def dying() -> Any:
        nonlocal lives
        lives -= 1
        if lives < 0:
            raise Killed("killed")
        return step()

    engine.step = dying  # type: ignore[method-assign]
    return engine


@pytest.mark.parametrize("config", [CONFIG, replace(CONFIG, checkpoint_every=3, stream_updates=True)])
def test_a_run_killed_again_and_again_ends_like_one_that_was_left_alone(
    config: Any, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In generation by the engine, in an update by the optimizer, while a checkpoint is written by its file."""
    train_step, write_text = update.train_step, checkpoint.write_text
    updates_left = writes_left = 10**9

    def dying_step(*args: Any, **named: Any) -> Any:
        nonlocal updates_left
        updates_left -= 1
        if updates_left < 0:
            raise Killed("killed")
        return train_step(*args, **named)

    def dying_write(path: Path, text: str) -> None:
        nonlocal writes_left
        writes_left -= path.name == "about.json"
        if writes_left < 0:
            raise ValueError("killed")
        write_text(path, text)

    monkeypatch.setattr(update, "train_step", dying_step)
    monkeypatch.setattr(checkpoint, "write_text", dying_write)
    for kind, after in (("generation", 12), ("update", 3), ("saving", 0), ("generation", 9), ("update", 1)):
        updates_left = after if kind == "update" else 10**9
        writes_left = after if kind == "saving" else 10**9
        with pytest.raises((Killed, ValueError), match="killed"):
            run(tmp_path, config, engine=dying_engine(after) if kind == "generation" else make_engine())
    updates_left = writes_left = 10**9
    run(tmp_path, config)
    (state, lines), (state_whole, lines_whole) = left_behind(tmp_path), left_behind(whole)
    assert lines == lines_whole and len(lines) == config.steps
    state["best"]["found"]["model"] = state_whole["best"]["found"]["model"]  # here no folder was written
    assert differing(state, state_whole) == []


@pytest.mark.parametrize("threads", [1, 2])
def test_streamed_updates_are_the_same_bit_for_bit(tmp_path: Path, threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for stream in (False, True):
            config = replace(CONFIG, steps=2, stream_updates=stream)
            run(tmp_path / str(stream), config, judge=ThreadJudge(delay_s=0.01))
    finally:
        torch.set_num_threads(before)
    (state, lines), (others, other_lines) = left_behind(tmp_path / "False"), left_behind(tmp_path / "True")
    assert lines == other_lines and differing(state, others) == []


def test_streamed_updates_begin_while_the_tail_generates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    train_step, rollout_batch = update.train_step, loop.rollout_batch

    def step(*args: Any, **named: Any) -> Any:
        assert threading.current_thread().name == "updates"
        events.append("update")
        return train_step(*args, **named)

    def batch(engine: Any, judge: Any, **named: Any) -> Any:
        found = rollout_batch(engine, judge, **named)
        events.append("rollout ends")
        return found

    monkeypatch.setattr(update, "train_step", step)
    monkeypatch.setattr(loop, "rollout_batch", batch)
    engine = make_engine()
    slow = engine.step
    engine.step = lambda: (time.sleep(0.01), slow())[1]  # type: ignore[method-assign]
    run(tmp_path, replace(CONFIG, stream_updates=True, steps=1, batch_groups=6, max_active_groups=1), engine=engine)
    assert events.index("update") < events.index("rollout ends")


def test_what_fails_in_a_streamed_update_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: Any, **named: Any) -> Any:
        raise MemoryError("no room")

    monkeypatch.setattr(update, "train_step", broken)
    with pytest.raises(MemoryError, match="no room"):
        run(tmp_path, replace(CONFIG, stream_updates=True))


def test_a_lost_engine_changes_nothing(whole: Path, tmp_path: Path) -> None:
    pool = EnginePool([dying_engine(30)], build=lambda number: make_engine())
    run(tmp_path, engine=pool)
    pool.close()
    assert pool.num_lost == 1
    assert left_behind(tmp_path)[1] == left_behind(whole)[1]


def test_sigterm_saves_at_the_end_of_the_step_and_the_same_command_goes_on(whole: Path, tmp_path: Path) -> None:
    config = replace(CONFIG, checkpoint_every=100)
    engine = make_engine()
    update_weights = engine.update_weights

    def asked(weights: Any, version: int) -> None:
        update_weights(weights, version)
        if version == 2:
            signal.raise_signal(signal.SIGTERM)

    engine.update_weights = asked  # type: ignore[method-assign, assignment]
    with pytest.raises(Stopped, match="after step 2 of 4"):
        run(tmp_path, config, engine=engine)
    run(tmp_path, config)
    assert left_behind(tmp_path)[1] == left_behind(whole)[1]


def test_sigterm_within_a_rollout_ends_it_with_the_next_judged_group(whole: Path, tmp_path: Path) -> None:
    engine = make_engine()
    step, sent = engine.step, False

    def asked() -> Any:
        nonlocal sent
        if engine.policy_version == 1 and not sent:
            sent = True
            signal.raise_signal(signal.SIGTERM)
        return step()

    engine.step = asked  # type: ignore[method-assign]
    with pytest.raises(Stopped, match="in step 2; its judged groups are kept"):
        run(tmp_path, engine=engine)
    assert engine.num_active == 0 and any((tmp_path / "rollouts").glob("groups-*.jsonl"))
    run(tmp_path)
    assert read_metrics(tmp_path)[1]["timing"]["known_groups"] > 0
    assert left_behind(tmp_path)[1] == left_behind(whole)[1]


def test_a_step_says_all_that_is_asked_of_it(whole: Path) -> None:
    rows = read_metrics(whole, "rl")
    assert [row["step"] for row in rows] == [0, 1, 2, 3]
    for row in rows:
        assert {"reward", "accepted_math", "accepted/family0", "accepted/family1", "valid_share", "length", "truncated",
                "mixed_language", "time_limit", "entropy", "clip_low", "clip_high", "kl", "engine_kl", "easy_pool",
                "groups", "prefix_groups", "dropped_groups"} <= row.keys()  # fmt: skip
        timing = row["timing"]
        assert {"rollout_s", "train_s", "pack_s", "old_logprobs_s", "update_s", "weights_s", "checkpoint_s", "step_s",
                "idle", "waste", "aborted_groups", "launched_groups"} <= timing.keys()  # fmt: skip
        assert 0.0 <= timing["idle"] <= 1.0 and 0.0 < row["mixed_language"] < 1.0
        assert timing["pack_s"] + timing["old_logprobs_s"] + timing["update_s"] <= timing["train_s"]
    assert ["validation" in row for row in rows] == [False, True, False, True]
    assert ["validate_s" in row["timing"] for row in rows] == [False, True, False, True]
    assert rows[1]["timing"]["checkpoint_s"] > 0.0


def test_the_trace_has_a_line_for_every_launch_and_one_for_the_step(whole: Path) -> None:
    rows = list(read_rows(whole / "rollouts" / "trace.jsonl"))
    for metrics in read_metrics(whole, "rl"):
        own = [row for row in rows if row["step"] == metrics["step"]]
        assert [row["launch"] for row in own[:-1]] == list(range(int(metrics["timing"]["launched_groups"])))
        assert {key for row in own[:-1] for key in row} == {
            "step", "launch", "problem", "stratum", "valid", "tokens", "start_s", "rollout_s", "reward_s", "aborted",
        }  # fmt: skip
        assert sum(row["aborted"] for row in own[:-1]) == metrics["timing"]["aborted_groups"]
        last = own[-1]
        assert (last["batch_groups"], last["num_rollouts"], last["policy"]) == (4, 4, "Seamless")
        assert last["wall_s"] >= max(row["start_s"] + row["rollout_s"] for row in own[:-1]) - 1e-3
        assert last["train_s"] > 0 and last["slots"] >= 4 and all(rate > 0 for _, rate in last["rate"])


def test_rollouts_to_read_are_kept_every_so_often(whole: Path) -> None:
    assert sorted(path.name for path in (whole / "samples").iterdir()) == ["rl-000000.jsonl", "rl-000002.jsonl"]
    for row in read_rows(whole / "samples" / "rl-000002.jsonl"):
        assert len(row["responses"]) == 4 and row["problem"]["id"].startswith("p")
        assert {response["reward"] for response in row["responses"]} <= {0.0, 1.0}


def test_the_best_model_is_pointed_at_and_kept(whole: Path) -> None:
    rows = read_metrics(whole, "rl")
    best = max((row["validation"], -row["step"]) for row in rows if "validation" in row)
    pointer = json.loads((whole / "best.json").read_text())
    assert (pointer["validation"], pointer["step"]) == (best[0], 1 - best[1])
    assert (whole / pointer["model"]).is_dir() and pointer["model"] == f"models/rl-best-{pointer['step']:06d}"


def test_journals_go_once_the_run_is_through(whole: Path) -> None:
    assert [path.name for path in (whole / "rollouts").iterdir()] == ["trace.jsonl"]


def test_a_run_that_teaches_nothing_stops_and_says_why(tmp_path: Path) -> None:
    config = replace(CONFIG, steps=20, no_groups_steps=2, max_launch_factor=1)
    hard = [replace(problem, answer="never") for problem in PROBLEMS]
    with pytest.raises(ValueError, match="2 steps in a row without a valid group; in 8 of 8 groups all"):
        run(tmp_path, config, problems=hard)
    assert len(read_metrics(tmp_path)) == 2


def test_prompt_and_response_share_the_row_so_the_longest_response_may_be_as_long_as_a_row(tmp_path: Path) -> None:
    config = replace(CONFIG, max_new_tokens=CONFIG.context, steps=1)  # as in mimo7b: 32,768 both
    run(tmp_path, config)
    tokens = [row["tokens"] for row in read_rows(tmp_path / "rollouts" / "trace.jsonl") if "launch" in row]
    assert 0 < max(max(lengths) for lengths in tokens if lengths) < CONFIG.context


def test_a_prompt_that_leaves_no_room_is_refused_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"prompt of problem long takes \d+ tokens and a row holds 48"):
        run(tmp_path, problems=[Problem("long", "say 0 " * 40, "math", answer="0")])


def test_a_torn_checkpoint_is_told_of_and_passed_over(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(tmp_path, replace(CONFIG, steps=3))
    newest = sorted((tmp_path / "checkpoints").iterdir())[-1] / "state.pt"
    newest.write_bytes(newest.read_bytes()[:1000])
    run(tmp_path)
    assert "is torn" in capsys.readouterr().err
    assert left_behind(tmp_path)[1] == left_behind(whole)[1]


def test_the_model_does_learn(whole: Path) -> None:
    state, _ = left_behind(whole)
    before = policy().state_dict()
    changed = [name for name, tensor in state["train"]["model"].items() if not torch.equal(tensor, before[name])]
    assert changed and not [name for name in changed if ".mtp_layers." in name]
