"""The decisions of seamless rollout against Figure 6 and against the barriered rule."""

import heapq
import json
import math

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from openmimo.rollout.baselines import FirstDone, Rounds, barriered
from openmimo.rollout.history import History, Outcome
from openmimo.rollout.seamless import Seamless

# Figure 6 in units of its drawing (paper-facts 3.4): (start, end) of each rollout, (start, end, valid) of each reward.
FIGURE_6_ROLLOUTS = {
    1: (0, 75), 2: (0, 120), 3: (0, 11), 4: (0, 42), 5: (16, 123), 6: (46, 99), 7: (80, 149), 8: (103, 181),
}  # fmt: skip
FIGURE_6_REWARDS = {
    1: (75, 107, True), 2: (120, 125, False), 3: (11, 40, False), 4: (40, 46, True),
    5: (123, 130, False), 6: (99, 112, True), 7: (149, 181, True),
}  # fmt: skip


def launch(machine):
    """Start the next group; its launch number."""
    number = machine.next_launch()
    machine.launched(number)
    return number


def test_figure_6_replayed_event_by_event():
    seamless = Seamless(4, lambda number: 0.5, max_active=4)
    events = sorted(
        [(end, "finished", task) for task, (_, end) in FIGURE_6_ROLLOUTS.items() if task != 8]
        + [(end, "judged", task) for task, (_, end, _) in FIGURE_6_REWARDS.items()]
    )
    launched_after = {}  # what had just happened -> the drawing's number of the task that was launched
    for _ in range(4):
        assert seamless.decide() == "launch"
        launch(seamless)
    assert seamless.decide() == "wait"
    for _, what, task in events:
        assert seamless.decide() == "wait"
        if what == "finished":
            seamless.finished(task - 1)
        else:
            seamless.judged(task - 1, FIGURE_6_REWARDS[task][2])
        if seamless.decide() == "launch":
            launched_after[(what, task)] = launch(seamless) + 1
    assert launched_after == {("finished", 3): 5, ("finished", 4): 6, ("finished", 1): 7, ("finished", 6): 8}
    assert seamless.decide() == "stop"
    assert [number + 1 for number in seamless.selected()] == [1, 4, 6, 7]
    assert [number + 1 for number in seamless.to_abort()] == [8]
    assert seamless.prefix_end() == 7
    stats = seamless.stats()
    assert (stats.launched, stats.valid, stats.aborted, stats.waste) == (8, 4, 1, 0.0)


def test_a_late_group_of_the_prefix_holds_the_batch_open():
    seamless = Seamless(1, lambda number: 0.5, max_active=2)
    slow, fast = launch(seamless), launch(seamless)
    seamless.finished(fast)
    seamless.judged(fast, True)
    assert seamless.decide() == "wait"  # the batch is full, but an earlier launch still runs
    assert seamless.selected() == ()
    seamless.finished(slow)
    seamless.judged(slow, True)
    assert seamless.decide() == "stop"
    assert seamless.selected() == (slow,)
    assert seamless.prefix_end() == 1
    assert seamless.stats().waste == 1.0


def test_a_dropped_group_is_counted_and_replaced():
    seamless = Seamless(1, lambda number: 1.0, max_active=None)
    number = launch(seamless)
    assert seamless.decide() == "wait"
    seamless.finished(number)
    seamless.judged(number, None)
    assert seamless.decide() == "launch"
    assert seamless.stats().dropped == 1
    assert seamless.selected() == ()


def test_launches_are_capped_when_nothing_is_valid():
    seamless = Seamless(2, lambda number: 0.5, max_active=None, max_launched=5)
    while (decision := seamless.decide()) != "stop":
        if decision == "launch":
            launch(seamless)
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
    while (decision := seamless.decide()) != "stop":
        if decision == "launch":
            assert free > 0
            free -= 1
            number = launch(seamless)
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
    risk=st.one_of(st.none(), st.floats(0.01, 0.99)),
    longest_first=st.booleans(),
)
def test_selection_is_the_naive_one_whatever_the_timing(
    outcomes, durations, num_workers, batch_groups, prior, cap, risk, longest_first
):
    def outcome(number):
        # After the drawn ones, every group is valid, so that each run ends.
        return outcomes[number] if number < len(outcomes) else True

    naive = barriered(outcome, batch_groups, max_launched=cap)
    length = (lambda number: durations[number % len(durations)][0]) if longest_first else None
    seamless = Seamless(
        batch_groups, lambda number: prior, max_active=num_workers, max_launched=cap, risk=risk, length=length
    )
    drive(seamless, outcome, durations, num_workers)
    assert seamless.selected() == naive.selected
    assert seamless.prefix_end() == naive.prefix_end
    assert list(seamless.outcomes()) == [outcome(n) for n in range(naive.prefix_end)]


@settings(max_examples=100, deadline=None)
@given(
    outcomes=st.lists(st.sampled_from([True, False, None]), min_size=1, max_size=40),
    durations=st.lists(st.tuples(st.floats(0, 100), st.floats(0, 30)), min_size=1, max_size=40),
    num_workers=st.integers(1, 12),
    batch_groups=st.integers(1, 8),
    round_groups=st.integers(1, 9),
    cap=st.one_of(st.none(), st.integers(1, 60)),
)
def test_rounds_are_the_barriered_rule(outcomes, durations, num_workers, batch_groups, round_groups, cap):
    def outcome(number):
        return outcomes[number] if number < len(outcomes) else True

    naive = barriered(outcome, batch_groups, round_groups=round_groups, max_launched=cap)
    rounds = Rounds(batch_groups, round_groups=round_groups, max_active=num_workers, max_launched=cap)
    drive(rounds, outcome, durations, num_workers)
    assert (rounds.selected(), rounds.prefix_end()) == (naive.selected, naive.prefix_end)
    assert rounds.stats().launched == naive.launched and rounds.stats().aborted == 0


def test_first_done_takes_the_short_ones():
    durations = [(float(n % 10), 0.0) for n in range(40)]
    first = FirstDone(6, lambda number: 0.5, max_active=12)
    drive(first, lambda number: True, durations, 12)
    assert len(first.selected()) == 6
    assert max(durations[n][0] for n in first.selected()) < 5  # of 0 to 9; in launch order it would be 0 to 5
    assert first.prefix_end() == 12 and first.outcomes().count(None) == first.stats().aborted


def test_what_is_wanted_by_hand():
    """B = 2 at P = 0.5: 4 are expected to hold two; with 0.3125 of risk 4 do not, 5 do (0.1875)."""
    assert Seamless(2, lambda number: 0.5, max_active=None).wanted() == 4
    assert Seamless(2, lambda number: 0.5, max_active=None, risk=0.3125).wanted() == 4  # (1 + 4) / 16
    assert Seamless(2, lambda number: 0.5, max_active=None, risk=0.31).wanted() == 5  # (1 + 5) / 32
    cautious = Seamless(2, lambda number: 0.5, max_active=None, risk=0.31)
    for number in (0, 1):
        cautious.launched(number)
        cautious.finished(number)
        cautious.judged(number, True)
    assert cautious.decide() == "stop" and cautious.wanted() == 2
    assert Seamless(2, lambda number: 0.5, max_active=None, risk=0.01, max_launched=7).wanted() == 7


def test_many_chances_are_nearly_exact():
    """Against the binomial distribution summed out."""
    for needed, chance, risk in ((100, 0.4, 0.05), (30, 0.3, 0.2), (200, 0.9, 0.01)):
        exact = next(
            n
            for n in range(needed, 9 * needed)
            if sum(math.comb(n, k) * chance**k * (1 - chance) ** (n - k) for k in range(needed)) <= risk
        )
        assert abs(Seamless(needed, lambda number, p=chance: p, max_active=None, risk=risk).wanted() - exact) <= 1


def test_the_longest_of_what_is_wanted_starts_first():
    lengths = [5, 9, 2, 9, 100]
    seamless = Seamless(2, lambda number: 0.5, max_active=None, length=lambda number: lengths[number])
    order = []
    while seamless.decide() == "launch":
        order.append(launch(seamless))
    assert order == [1, 3, 0, 2]  # the fifth is not wanted yet


def test_where_room_is_short_a_long_group_starts_early_enough_and_the_others_keep_their_order():
    """Two places, a load of 14 / 2 = 7, taken to last 9.1: the last, of 9, has to start at 0.1, after the first and
    before the second, whose turn comes at 7 / 6. One of 5 has to start at 4.1, after the fourth's turn at 3.5."""
    for lengths, order in (([1, 1, 1, 1, 1, 9], [0, 5, 1, 2, 3, 4]), ([2, 2, 2, 2, 1, 5], [0, 1, 2, 3, 5, 4])):
        seamless = Seamless(6, lambda number: 1.0, max_active=2, length=lengths.__getitem__)
        found = []
        while (decision := seamless.decide()) != "stop":
            if decision == "launch":
                found.append(launch(seamless))
                continue
            number = seamless.to_abort()[0]
            seamless.finished(number)
            seamless.judged(number, True)
        assert found == order


@settings(max_examples=200, deadline=None)
@given(
    chances=st.lists(st.floats(0.05, 1.0), min_size=30, max_size=30),
    outcomes=st.lists(st.sampled_from([True, False, None]), min_size=30, max_size=30),
    reports=st.lists(st.integers(0, 29), max_size=30),
    batch_groups=st.integers(1, 5),
    risk=st.one_of(st.none(), st.floats(0.03, 0.9)),
)
def test_what_is_wanted_is_the_shortest_prefix_counted_anew(chances, outcomes, reports, batch_groups, risk):
    """The machine keeps it up to date; here every prefix is tried after every report, every pattern summed out."""
    seamless = Seamless(batch_groups, lambda number: chances[number], max_active=None, risk=risk, max_launched=30)
    known = {}

    def short(end):
        needed = batch_groups - sum(known.get(n) is True for n in range(end))
        undecided = [chances[n] for n in range(end) if n not in known]
        if risk is None:
            return sum(undecided) < needed - 1e-9
        odds = {0: 1.0}  # number of valid ones -> probability
        for chance in undecided:
            odds = {
                k: odds.get(k, 0.0) * (1 - chance) + odds.get(k - 1, 0.0) * chance for k in range(len(undecided) + 1)
            }
        missing = sum(odds.get(k, 0.0) for k in range(max(0, needed)))
        assume(abs(missing - risk) > 1e-9)
        return missing > risk

    for number in [None, *reports]:
        while seamless.decide() == "launch":
            launch(seamless)
        if number is not None and number in seamless.to_abort():
            seamless.finished(number)
            seamless.judged(number, outcomes[number])
            known[number] = outcomes[number]
        if seamless.decide() == "stop":
            break
        assert seamless.wanted() == next((end for end in range(30) if not short(end)), 30)


def test_history_follows_the_outcomes_of_a_stratum_with_decay():
    history = History({"main": 0.5, "easy": 0.2}, decay=0.5, initial_weight=2.0)
    history.update([Outcome("a", "main", True, 10), Outcome("b", "main", None, 10), Outcome("c", "main", False, 40)])
    # weight 2 -> 2 -> 2, valid 1 -> 1.5 -> 0.75; tokens 10 -> 45 over weights 1 -> 1.5
    assert history.chance("new", "main") == pytest.approx(0.375)
    assert history.chance("new", "easy") == pytest.approx(0.2)
    assert history.length("new", "main") == pytest.approx(30.0)
    assert history.length("new", "easy") == 0.0


def test_history_of_a_problem_is_drawn_towards_its_stratum():
    history = History({"main": 0.5}, initial_weight=1e9, shrink=2.0, own_decay=0.5)
    history.update([Outcome("a", "main", True, 100), Outcome("a", "main", True, 200)])
    # own weight 1 -> 1.5, valid 1 -> 1.5: (1.5 + 2 * 0.5) / (1.5 + 2)
    assert history.chance("a", "main") == pytest.approx(2.5 / 3.5)
    # tokens 100 -> 250 over 1.5, the stratum's (99 + 200) / 1.99
    assert history.length("a", "main") == pytest.approx((250 + 2 * 299 / 1.99) / 3.5)


def test_curation_tells_the_first_chance():
    history = History({"main": 0.5}, shrink=1.0)
    history.seed_with("a", 0.5, 2, 60.0)
    history.seed_with("b", 1.0, 8, 20.0)
    assert history.chance("a", "main") == pytest.approx(0.5)  # 1 - 1/4 - 1/4, as the stratum
    assert history.chance("b", "main") == pytest.approx(0.25)  # 0 and the stratum's 0.5
    assert (history.length("a", "main"), history.length("b", "main")) == (60.0, 20.0)


def test_a_chance_never_falls_to_zero_and_history_survives_a_checkpoint():
    history = History({"main": 0.5}, floor=0.1)
    history.update([Outcome("a", "main", False, 5)] * 500)
    assert history.chance("a", "main") == history.chance("new", "main") == 0.1
    again = History({})
    again.load_state_dict(json.loads(json.dumps(history.state_dict())))
    for one in (history, again):
        one.update([Outcome("a", "main", True, 7)] * 7)
    assert again.state_dict() == history.state_dict()


def test_what_cannot_be_is_refused_in_one_line():
    with pytest.raises(ValueError, match="batch_groups must be at least 1, got 0"):
        Seamless(0, lambda number: 0.5, max_active=None)
    with pytest.raises(ValueError, match=r"chance of group 0 must lie in \(0, 1\], got 0"):
        Seamless(1, lambda number: 0.0, max_active=None).decide()
    with pytest.raises(ValueError, match=r"risk must lie in \(0, 1\) or be None, got 1.0"):
        Seamless(1, lambda number: 0.5, max_active=None, risk=1.0)
    with pytest.raises(ValueError, match="no chance for stratum 'code'; known: main"):
        History({"main": 0.5}).chance("a", "code")
    seamless = Seamless(1, lambda number: 0.5, max_active=None)
    with pytest.raises(ValueError, match="does not wait for a reward"):
        seamless.judged(launch(seamless), True)
    with pytest.raises(ValueError, match="group 0 has been launched before"):
        seamless.launched(0)
