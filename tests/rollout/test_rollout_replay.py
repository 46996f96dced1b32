"""A recorded run replayed, against a small batched engine that goes step by step on a fake clock."""

import json
import random

import pytest

from openmimo.rollout.baselines import Rounds
from openmimo.rollout.compare import compare
from openmimo.rollout.replay import read_trace, recorded, replay
from openmimo.rollout.seamless import Seamless

NUM_ROLLOUTS = 4


def step_s(live):
    """Seconds of an engine step: a part of its own and a part for every live request."""
    return 0.02 + 0.004 * live


RATE = [[live, live / step_s(live)] for live in (1, 2, 4, 8, 16, 32, 64)]


def write_run(path, policies, seed=0, slow_judge=1.0):
    """Run the machines over the engine, a token a live request a step, and write what the trainer would."""
    rows = []
    for number, policy in enumerate(policies):
        rng = random.Random(f"{seed} {number}")
        lengths = [[round(rng.lognormvariate(3.5, 0.8)) + 1 for _ in range(NUM_ROLLOUTS)] for _ in range(100)]
        valid = [rng.random() < 0.5 for _ in range(100)]
        reward_s = [slow_judge * rng.expovariate(1.0) for _ in range(100)]
        now_s, live, start_s, finish_s, judged_s, left = 0.0, {}, {}, {}, {}, {}
        while (decision := policy.decide()) != "stop":
            if decision == "launch":
                launch = policy.next_launch()
                policy.launched(launch)
                start_s[launch], left[launch] = now_s, NUM_ROLLOUTS
                live |= {(launch, sample): lengths[launch][sample] for sample in range(NUM_ROLLOUTS)}
                continue
            if live:
                now_s += step_s(len(live))
            else:
                now_s = min(finish_s[n] + reward_s[n] for n in finish_s if n not in judged_s)
            for launch, sample in list(live):
                live[launch, sample] -= 1
                if not live[launch, sample]:
                    del live[launch, sample]
                    left[launch] -= 1
                    if not left[launch]:
                        finish_s[launch] = now_s
                        policy.finished(launch)
            for launch in sorted(finish_s.keys() - judged_s.keys()):
                if finish_s[launch] + reward_s[launch] <= now_s:
                    judged_s[launch] = now_s
                    policy.judged(launch, valid[launch])
        for launch in sorted(start_s):
            end_s = finish_s.get(launch, now_s)
            done = [lengths[launch][s] for s in range(NUM_ROLLOUTS) if (launch, s) not in live]
            rows.append(
                {
                    "step": number, "launch": launch, "problem": f"p{launch}", "stratum": "main",
                    "valid": valid[launch] if launch in judged_s else None, "tokens": done,
                    "start_s": start_s[launch], "rollout_s": end_s - start_s[launch],
                    "reward_s": judged_s.get(launch, end_s) - end_s, "aborted": launch not in judged_s,
                }
            )  # fmt: skip
        name = "rounds" if isinstance(policy, Rounds) else "seamless"
        rows.append(
            {
                "step": number, "batch_groups": policy.batch_groups, "num_rollouts": NUM_ROLLOUTS, "policy": name,
                "wall_s": now_s, "train_s": 5.0, "slots": 32, "rate": RATE,
            }
        )  # fmt: skip
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def seamless(risk=None):
    return Seamless(8, lambda number: 0.5, max_active=8, risk=risk)


@pytest.mark.parametrize("slow_judge", [0.1, 1.0, 10.0])
@pytest.mark.parametrize("seed", range(3))
def test_a_replayed_run_takes_as_long_as_it_took(tmp_path, seed, slow_judge):
    policies = [seamless(), Rounds(8, max_active=8), seamless(0.05), Rounds(8)]
    trace = read_trace(write_run(tmp_path / "trace.jsonl", policies, seed, slow_judge))
    for step, predicted_s in zip(trace, replay(trace), strict=True):
        assert predicted_s == pytest.approx(step.wall_s, rel=0.05)


def test_a_replay_by_hand(tmp_path):
    """Two requests of 10 and 30 tokens at 10 tokens a second each, alone 20: 1 s for the first ten tokens of both, then
    1 s for twenty; the verdict takes 0.5 s more."""
    group = {
        "step": 0, "launch": 0, "problem": "p", "stratum": "main", "valid": True, "tokens": [10, 30],
        "start_s": 0.0, "rollout_s": 9.0, "reward_s": 0.5, "aborted": False,
    }  # fmt: skip
    step = {
        "step": 0, "batch_groups": 1, "num_rollouts": 2, "policy": "seamless", "wall_s": 9.5, "train_s": 1.0,
        "slots": 2, "rate": [[1, 20], [2, 20]],
    }  # fmt: skip
    path = tmp_path / "trace.jsonl"
    path.write_text(json.dumps(group) + "\n" + json.dumps(step) + "\n")
    assert replay(read_trace(path)) == [pytest.approx(2.5)]
    late = {**group, "launch": 1, "tokens": [4, 4], "start_s": 9.5, "rollout_s": 0.4, "reward_s": 0.0}
    path.write_text("".join(json.dumps(row) + "\n" for row in (group, late, step)))
    assert replay(read_trace(path)) == [pytest.approx(2.5 + 0.4)]  # it starts with the verdict it had waited for
    torn = {**group, "launch": 1, "tokens": [10], "valid": None, "aborted": True}
    path.write_text("".join(json.dumps(row) + "\n" for row in (group, torn, step)))
    # Four live at 5 tokens a second each for 2 s, then two at 10 for 2 s: the aborted one never ends.
    assert replay(read_trace(path)) == [pytest.approx(2.0 + 2.0 + 0.5)]


def test_a_recorded_run_is_a_workload(tmp_path):
    trace = read_trace(write_run(tmp_path / "trace.jsonl", [seamless(), seamless()]))
    cluster, groups = recorded(trace, seed=0)
    assert (cluster.batch_groups, cluster.num_workers, cluster.steps, cluster.train_s) == (8, 8, 2, 5.0)
    first = trace[0].groups[0]
    task = groups.task(0, 0)
    assert (task.valid, task.tokens, task.reward_s) == (first.valid, max(first.tokens), first.reward_s)
    assert task.rollout_s == pytest.approx(max(first.tokens) * step_s(32))
    assert groups.task(0, 90) == groups.task(0, 90) in [groups.task(0, n) for n in range(40)]
    rows = {row.method: row for row in compare(cluster, groups)}
    assert rows["ours"].selected == rows["naive"].selected
    assert rows["ours"].overall_speedup > 1.0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"step": 0, "launch": 3}', "row 1 is no row of a trace: KeyError 'problem'"),
        ('{"step": 0}', "row 1 is no row of a trace: KeyError 'rate'"),
        ("", "holds no whole step"),
        ('{"launch": 0}', "lacks 'step'"),
    ],
)
def test_a_broken_trace_is_refused_in_one_line(tmp_path, text, said):
    path = tmp_path / "trace.jsonl"
    path.write_text(text + "\n")
    with pytest.raises(ValueError, match=said):
        read_trace(path)
