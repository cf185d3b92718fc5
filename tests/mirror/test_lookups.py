"""Looking up a run by its Arize ID: a small share of the rate limit, reserved under the key's lock."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import responses
import time_machine
from django.db import connection
from django.utils import timezone

from taskruns.models import Team
from taskruns.services.credentials.budget import Budget, Kind, reserve
from taskruns.services.mirror import find_by_arize_id, schedule
from tests.factories import make_credential
from tests.wire import ENDPOINT

START = 1_800_000_000  # seconds since 1970


def test_lookups_get_a_tenth_of_a_minute() -> None:
    with time_machine.travel(START, tick=False) as clock:
        budget = Budget(300, [])
        taken = 0
        for _ in range(120):
            taken += budget.take(Kind.LOOKUP)
            clock.shift(0.5)
    assert taken <= 30
    assert taken >= 25


def test_lookups_of_many_threads_never_exceed_their_share(committed: None, team: Team, settings: Any) -> None:
    settings.ARIZE_CALLS_PER_MINUTE = 100
    credential = make_credential(team)

    def look(_: int) -> bool:
        try:
            return reserve(credential, Kind.LOOKUP)
        finally:
            connection.close()

    with ThreadPoolExecutor(8) as pool:
        taken = sum(pool.map(look, range(40)))
    assert taken == 5
    credential.refresh_from_db()
    assert sum(calls for _, _, calls in credential.recent_calls) == 5


def test_round_and_lookups_together_keep_the_limit(db: None, team: Team, settings: Any) -> None:
    """A lookup in the middle of a round is counted exactly once."""
    settings.ARIZE_CALLS_PER_MINUTE = 40
    credential = make_credential(team, claimed_until=timezone.now())
    budget = Budget(40, credential.recent_calls)
    spent = looked = 0
    for number in range(60):
        schedule.renew(credential, budget=budget)
        spent += budget.take()
        if number % 5 == 0:
            looked += reserve(credential, Kind.LOOKUP)
    assert looked >= 1
    assert spent + looked <= 40
    schedule.note_calls(credential, budget, ahead=False)
    credential.refresh_from_db()
    assert sum(calls for _, _, calls in credential.recent_calls) == spent + looked


def test_forced_round_does_not_use_up_the_limit_of_later_rounds(db: None, team: Team) -> None:
    credential = make_credential(team, claimed_until=timezone.now())
    budget = Budget(1_000_000, credential.recent_calls, is_apart=True)
    for _ in range(500):
        schedule.renew(credential, budget=budget)
        assert budget.take()
    schedule.note_calls(credential, budget, ahead=False)
    credential.refresh_from_db()
    assert credential.recent_calls == []


def test_unknown_run_is_not_looked_up_again_for_a_minute(db: None, team: Team, arize: responses.RequestsMock) -> None:
    make_credential(team)
    asked = arize.get(f"{ENDPOINT}/v2/task-runs/R1", status=404)
    for seconds, calls in ((0, 1), (30, 1), (61, 2)):
        with time_machine.travel(START + seconds, tick=False):
            assert find_by_arize_id(team, "R1") is None
        assert asked.call_count == calls
