"""The budget of a round: a key's rate limit in any minute, with a bucket for each kind of calls."""

from itertools import takewhile
from typing import Any

import pytest
import time_machine
from hypothesis import given, settings
from hypothesis import strategies as st

from taskruns.services.credentials.budget import MOST_AHEAD, Budget, Kind

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


def test_looks_at_cancelled_runs_have_a_twelfth_of_a_minute():
    """Rounds and the sweep together."""
    spending = spend(300, [(5, {Kind.LOOK: 20, Kind.SWEEP: 20 if tick % 12 == 0 else 0}) for tick in range(48)])
    looks = sum(each_round(spending, Kind.LOOK)) + sum(each_round(spending, Kind.SWEEP))
    assert 85 <= looks <= 4 * 25
    assert most_in_a_minute(spending, Kind.LOOK, Kind.SWEEP) <= 25


@pytest.mark.parametrize(("pages", "every"), [(3, 5), (10, 16), (37, 60)])
def test_tasks_are_listed_with_an_eighth_of_the_limit(pages: int, every: float):
    """A listing is not interrupted; the next one waits until its calls are paid off."""
    recent, listings = [], 0
    for tick in range(120):
        with time_machine.travel(START + 5 * tick, tick=False):
            budget = Budget(300, recent)
            if budget.may_list():
                listings += 1
                assert all(budget.take(Kind.LIST) for _ in range(pages))
            recent = budget.recent()
    assert 0.9 <= listings * every / 600 <= 1.1


def test_the_search_gets_what_the_others_leave():
    others = {Kind.ACTIVE: 8, Kind.LOOK: 2, Kind.MOVED: 3}
    spending = spend(300, [(5, others | {Kind.SEARCH: 1_000})] * 48)
    assert set(each_round(spending, Kind.ACTIVE)[1:]) == {8}
    assert set(each_round(spending, Kind.MOVED)[1:]) == {3}
    assert sum(each_round(spending, Kind.SEARCH)) >= 4 * (285 - 12 * 13) - 20


def test_the_search_keeps_an_even_pace_when_a_board_is_opened():
    """It foresees the calls of the next rounds, so that it does not stand still at the end of the first minute."""
    rounds = [(5, {Kind.ACTIVE: 8, Kind.LIST: 3, Kind.SEARCH: 1_000})] * 60
    searches = each_round(spend(300, rounds), Kind.SEARCH)
    assert min(searches) >= 8
    assert min(sum(searches[start : start + 22]) for start in range(36)) >= 288


def test_greedy_kinds_leave_calls_for_active_runs_and_looks():
    greedy = {Kind.MOVED: 1_000, Kind.BACKFILL: 1_000, Kind.SEARCH: 1_000}
    spending = spend(300, [(5, {Kind.ACTIVE: 8, Kind.LOOK: 1} | greedy)] * 48)
    assert set(each_round(spending, Kind.ACTIVE)[24:]) == {8}
    assert set(each_round(spending, Kind.LOOK)[24:]) == {1}
    assert sum(each_round(spending, Kind.ACTIVE)[:24]) >= 0.8 * 24 * 8, "also while the greedy ones start"
    assert sum(each_round(spending, Kind.BACKFILL)) >= 4 * 10


def test_calls_of_a_clock_that_was_ahead_do_not_count():
    """A stamp further ahead than a minute is of a wrong clock, and would stop all calls until then."""
    with time_machine.travel(START + 3600, tick=False):
        ahead = Budget(300, [])
        assert all(ahead.take() for _ in range(300))
        recent = ahead.recent()
    with time_machine.travel(START, tick=False):
        assert Budget(300, recent).left() == 300
    with time_machine.travel(START + 3590, tick=False):
        assert Budget(300, recent).left() == 0


def test_a_call_counts_for_no_less_than_a_minute():
    with time_machine.travel(START + 0.95, tick=False) as clock:
        budget = Budget(1, [])
        assert budget.take()
        clock.move_to(START + 60.94)
        assert not budget.take()
        clock.move_to(START + 61.01)
        assert budget.take()
