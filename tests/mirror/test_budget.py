"""The budget of a round: a key's rate limit in any minute, with separate buckets for active runs and first contact."""

from itertools import takewhile
from typing import Any

import pytest
import time_machine
from hypothesis import given, settings
from hypothesis import strategies as st

from taskruns.services.mirror.budget import MOST_AHEAD, Budget, Kind

START = 1_800_000_000  # seconds since 1970
Spending = list[tuple[int, Kind, int]]  # (second, kind, calls granted)


def spend(limit: int, rounds: Any) -> Spending:
    """Run rounds, each given as (seconds after the previous one, {kind: calls wanted})."""
    now, recent, granted = START, [], []
    for later, wanted in rounds:
        now += later
        with time_machine.travel(now, tick=False):
            budget = Budget(limit, recent)
            granted += [(now, kind, granted_of(budget, kind, calls)) for kind, calls in wanted.items()]
            recent = budget.recent()
    return granted


def granted_of(budget: Budget, kind: Kind, wanted: int) -> int:
    return len(list(takewhile(bool, (budget.take(kind) for _ in range(wanted)))))


def most_in_a_minute(spending: Spending, *kinds: Kind) -> int:
    return max(
        sum(calls for at, kind, calls in spending if start <= at < start + 60 and kind in kinds)
        for start, _, _ in spending
    )


def each_round(spending: Spending, kind: Kind) -> list[int]:
    return [calls for _, of, calls in spending if of is kind]


wants = st.dictionaries(st.sampled_from(Kind), st.integers(0, 400), min_size=1)


@given(limit=st.integers(1, 300), rounds=st.lists(st.tuples(st.integers(0, 40), wants), min_size=1, max_size=40))
@settings(max_examples=100, deadline=None)
def test_no_minute_exceeds_the_rate_limit_whatever_is_wanted(limit: int, rounds: Any):
    spending = spend(limit, rounds)
    assert most_in_a_minute(spending, *Kind) <= limit
    assert most_in_a_minute(spending, Kind.ACTIVE) <= max(1, limit * 2 / 3)


@pytest.mark.parametrize("limit", [60, 300])
@pytest.mark.parametrize("greedy", [(Kind.ACTIVE,), (Kind.FIRST,)])
def test_each_round_of_a_minute_gets_its_share(limit: int, greedy: tuple[Kind]):
    """Also if the first rounds want everything, for several minutes."""
    spending = spend(limit, [(5, dict.fromkeys(greedy, 1_000))] * 36)
    assert min(each_round(spending, *greedy)) >= limit // 30
    assert most_in_a_minute(spending, *greedy) >= limit / 2


@pytest.mark.parametrize("order", [(Kind.ACTIVE, Kind.FIRST), (Kind.FIRST, Kind.ACTIVE)])
def test_active_runs_and_first_contact_do_not_starve_each_other(order: tuple[Kind, Kind]):
    minutes = 3
    spending = spend(300, [(5, dict.fromkeys(order, 1_000))] * 12 * minutes)
    assert sum(each_round(spending, Kind.ACTIVE)) >= minutes * 300 / 2
    assert sum(each_round(spending, Kind.FIRST)) >= minutes * 300 / 4


def test_first_contact_leaves_calls_for_later_in_the_minute():
    """Each round reads eight active runs and follows a cancel; first contact takes as much as it can."""
    wanted = {Kind.OTHER: 1, Kind.ACTIVE: 8, Kind.FIRST: 1_000}
    spending = spend(300, [(5, wanted)] * 36)
    assert set(each_round(spending, Kind.OTHER)) == {1}
    assert set(each_round(spending, Kind.ACTIVE)) == {8}
    assert sum(each_round(spending, Kind.FIRST)) >= 3 * 150


def test_sixteen_active_tasks_are_read_every_five_seconds():
    spending = spend(300, [(5, {Kind.ACTIVE: 16})] * 24)
    assert sum(each_round(spending, Kind.ACTIVE)) >= 24 * 15.5


def test_a_round_after_a_pause_gets_the_calls_of_the_pause():
    assert each_round(spend(300, [(30, {Kind.ACTIVE: 1_000})] * 6), Kind.ACTIVE) == [50] * 6


@pytest.mark.parametrize(("limit", "ahead"), [(1, 1), (100, 5), (300, 15), (3_000, MOST_AHEAD)])
def test_calls_are_recorded_before_they_are_made(limit: int, ahead: int):
    with time_machine.travel(START, tick=False):
        budget = Budget(limit, [])
        assert budget.needs_note()
        assert sum(calls for _, _, calls in budget.ahead()) == ahead
        assert not budget.needs_note()
        taken = sum(budget.take() for _ in range(ahead))
        assert budget.needs_note()
        assert taken == ahead == sum(calls for _, _, calls in budget.recent())
