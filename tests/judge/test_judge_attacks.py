"""Hostile programs of our own: none is accepted, reaches another solution or the host, or leaves anything."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from attacks import Attack, Ours, harms, judge_ours, judge_weak, load_attacks, our_judge
from leftovers import control_groups, descendants, kernel_objects, strays

from openmimo.judge.sandbox.supervisor import self_test

ATTACKS = load_attacks()
TARGETS = {"verdict", "others", "host"}
SHOWN = {"frames-verdict", "descriptors-others", "sysv-host", "exits-verdict", "output-shape", "output-precision"}
"""A few of the weak judges' defeats; all of them are run by `benchmarks/judge_hostile.py` and the slow tests."""
FOUND = self_test()
if not FOUND.layers["pid"]:
    pytest.skip(f"hostile programs are not let loose here: {FOUND.reason}", allow_module_level=True)


@pytest.fixture(scope="module")
def ours() -> Iterator[Ours]:
    with our_judge() as ours:
        yield ours


def test_at_least_twelve_mechanisms_are_turned_on_all_three_targets() -> None:
    targets: dict[str, set[str]] = {}
    for attack in ATTACKS:
        targets.setdefault(attack.mechanism, set()).add(attack.target)
    assert sum(found >= TARGETS for found in targets.values()) >= 12


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_attack_gets_an_allowed_verdict_and_does_no_harm(attack: Attack, ours: Ours) -> None:
    report = judge_ours(attack, ours)
    assert not harms(report), report
    assert {status for statuses in report.attack for status in statuses} <= attack.allowed, report


def test_no_process_stays_behind_all_the_attacks(ours: Ours) -> None:
    assert strays(os.getpid()) == []


def test_a_judge_that_is_closed_leaves_no_process_and_no_object_of_the_kernel() -> None:
    before, processes = kernel_objects(), set(descendants(os.getpid()))
    with our_judge() as ours:
        for attack in ATTACKS:
            if attack.target == "host" and attack.mechanism in ("sysv", "forks", "mounts", "keys"):
                judge_ours(attack, ours)
        own = set(descendants(os.getpid())) - processes
    assert own and not own & set(descendants(os.getpid()))
    assert all(count <= before[kind] for kind, count in kernel_objects().items()), before


def test_a_judge_that_is_closed_leaves_no_control_group() -> None:
    processes = set(descendants(os.getpid()))
    with our_judge() as ours:
        judge_ours(next(attack for attack in ATTACKS if attack.name == "output-shape"), ours)
        own = set(descendants(os.getpid())) - processes
    if not FOUND.layers["cgroup"]:
        pytest.fail("no control groups on this machine")
    assert control_groups(own) == []


@pytest.mark.parametrize("attack", [a for a in ATTACKS if a.name in SHOWN], ids=lambda attack: attack.name)
def test_attack_succeeds_against_its_weak_judge(attack: Attack) -> None:
    assert attack.harm in harms(judge_weak(attack))


@pytest.mark.slow
@pytest.mark.parametrize("attack", [a for a in ATTACKS if a.name not in SHOWN], ids=lambda attack: attack.name)
def test_every_other_attack_succeeds_against_its_weak_judge(attack: Attack) -> None:
    assert attack.harm in harms(judge_weak(attack))
