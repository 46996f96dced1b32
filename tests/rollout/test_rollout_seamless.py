"""The decisions of seamless rollout against Figure 6 and against the barriered rule."""

import heapq
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openmimo.rollout.seamless import Prior, Seamless, barriered

# Figure 6 in units of its drawing (paper-facts 3.4): (start, end) of each rollout, (start, end, valid) of each reward.
FIGURE_6_ROLLOUTS = {
    1: (0, 75), 2: (0, 120), 3: (0, 11), 4: (0, 42), 5: (16, 123), 6: (46, 99), 7: (80, 149), 8: (103, 181),
}  # fmt: skip
FIGURE_6_REWARDS = {
    1: (75, 107, True), 2: (120, 125, False), 3: (11, 40, False), 4: (40, 46, True),
    5: (123, 130, False), 6: (99, 112, True), 7: (149, 181, True),
}  # fmt: skip


def test_figure_6_replayed_event_by_event():
    seamless = Seamless(4, {"main": 0.5}, max_active=4)
    events = sorted(
        [(end, "finished", task) for task, (_, end) in FIGURE_6_ROLLOUTS.items() if task != 8]
        + [(end, "judged", task) for task, (_, end, _) in FIGURE_6_REWARDS.items()]
    )
    launched_after = {}  # what had just happened -> the drawing's number of the task that was launched
    for _ in range(4):
        assert seamless.decide("main") == "launch"
        seamless.launched("main")
    assert seamless.decide("main") == "wait"
    for _, what, task in events:
        assert seamless.decide("main") == "wait"
        if what == "finished":
            seamless.finished(task - 1)
        else:
            seamless.judged(task - 1, FIGURE_6_REWARDS[task][2])
        if seamless.decide("main") == "launch":
            launched_after[(what, task)] = seamless.launched("main") + 1
    assert launched_after == {("finished", 3): 5, ("finished", 4): 6, ("finished", 1): 7, ("finished", 6): 8}
    assert seamless.decide("main") == "stop"
    assert [number + 1 for number in seamless.selected()] == [1, 4, 6, 7]
    assert [number + 1 for number in seamless.to_abort()] == [8]
    assert seamless.prefix_end() == 7
    stats = seamless.stats()
    assert (stats.launched, stats.valid, stats.aborted, stats.waste) == (8, 4, 1, 0.0)


def test_a_late_group_of_the_prefix_holds_the_batch_open():
    seamless = Seamless(1, {"main": 0.5}, max_active=2)
    slow, fast = seamless.launched("main"), seamless.launched("main")
    seamless.finished(fast)
    seamless.judged(fast, True)
    assert seamless.decide("main") == "wait"  # the batch is full, but an earlier launch still runs
    assert seamless.selected() == ()
    seamless.finished(slow)
    seamless.judged(slow, True)
    assert seamless.decide("main") == "stop"
    assert seamless.selected() == (slow,)
    assert seamless.prefix_end() == 1
    assert seamless.stats().waste == 1.0


def test_a_dropped_group_is_counted_and_replaced():
    seamless = Seamless(1, {"main": 1.0}, max_active=None)
    number = seamless.launched("main")
    assert seamless.decide("main") == "wait"
    seamless.finished(number)
    seamless.judged(number, None)
    assert seamless.decide("main") == "launch"
    assert seamless.stats().dropped == 1
    assert seamless.selected() == ()


def test_launches_are_capped_when_nothing_is_valid():
    seamless = Seamless(2, {"main": 0.5}, max_active=None, max_launched=5)
    while (decision := seamless.decide("main")) != "stop":
        if decision == "launch":
            seamless.launched("main")
        else:
            number = seamless.to_abort()[0]
            seamless.finished(number)
            seamless.judged(number, False)
    assert seamless.stats().launched == 5
    assert seamless.selected() == ()
    assert seamless.prefix_end() == 5


def drive(seamless, outcomes, durations, num_workers):
    """Run the machine on a fake clock with random rollout and reward times."""
    events, now, free = [], 0.0, num_workers
    while (decision := seamless.decide("main")) != "stop":
        if decision == "launch":
            assert free > 0
            free -= 1
            number = seamless.launched("main")
            rollout_s, reward_s = durations[number % len(durations)]
            heapq.heappush(events, (now + rollout_s, number, "finished", reward_s))
            continue
        now, number, what, reward_s = heapq.heappop(events)
        if what == "finished":
            free += 1
            seamless.finished(number)
            heapq.heappush(events, (now + reward_s, number, "judged", 0.0))
        else:
            seamless.judged(number, outcomes(number))


@settings(max_examples=200, deadline=None)
@given(
    outcomes=st.lists(st.sampled_from([True, False, None]), min_size=1, max_size=40),
    durations=st.lists(st.tuples(st.floats(0, 100), st.floats(0, 30)), min_size=1, max_size=40),
    num_workers=st.integers(1, 12),
    batch_groups=st.integers(1, 8),
    prior=st.floats(0.05, 1.0),
    cap=st.one_of(st.none(), st.integers(1, 60)),
)
def test_selection_is_the_naive_one_whatever_the_timing(outcomes, durations, num_workers, batch_groups, prior, cap):
    def outcome(number):
        # After the drawn ones, every group is valid, so that each run ends.
        return outcomes[number] if number < len(outcomes) else True

    naive = barriered(outcome, batch_groups, max_launched=cap)
    seamless = Seamless(batch_groups, {"main": prior}, max_active=num_workers, max_launched=cap)
    drive(seamless, outcome, durations, num_workers)
    assert seamless.selected() == naive.selected
    assert seamless.prefix_end() == naive.prefix_end
    assert [valid for _, valid in seamless.prefix_outcomes()] == [outcome(n) for n in range(naive.prefix_end)]


def test_prior_follows_the_outcomes_with_decay():
    prior = Prior({"main": 0.5, "easy": 0.2}, decay=0.5, initial_weight=2.0)
    prior.update([("main", True), ("main", None), ("main", False)])
    # weight 2 -> 2 -> 2, valid 1 -> 1.5 -> 0.75
    assert prior.probabilities() == pytest.approx({"main": 0.375, "easy": 0.2})


def test_prior_never_falls_to_zero_and_survives_a_checkpoint():
    prior = Prior({"main": 0.5}, floor=0.1)
    prior.update([("main", False)] * 500)
    assert prior.probabilities() == {"main": 0.1}
    again = Prior.from_state(json.loads(json.dumps(prior.state())))
    for one in (prior, again):
        one.update([("main", True)] * 7)
    assert again.probabilities() == prior.probabilities()


def test_what_cannot_be_is_refused_in_one_line():
    with pytest.raises(ValueError, match="batch_groups must be at least 1, got 0"):
        Seamless(0, {"main": 0.5}, max_active=None)
    with pytest.raises(ValueError, match=r"\(0, 1\], got 0"):
        Seamless(1, {"main": 0.0}, max_active=None)
    seamless = Seamless(1, {"main": 0.5}, max_active=None)
    with pytest.raises(ValueError, match="no prior for stratum 'code'; known: main"):
        seamless.decide("code")
    with pytest.raises(ValueError, match="does not wait for a reward"):
        seamless.judged(seamless.launched("main"), True)
