"""A clock that was an hour ahead and is set back: everything goes on at once."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import responses
import time_machine

from taskruns.models import (
    BatchState,
    CancelBatch,
    CancelItem,
    Cancellation,
    CancelPace,
    Credential,
    EmergencyStop,
    ItemState,
    Limit,
    Outcome,
    Run,
    SignInCount,
    Status,
    Task,
    Team,
    User,
)
from taskruns.models.stamps import SKEW, ahead, is_ahead, is_recent, long_ago, over, recent
from taskruns.services import batches, cancellations, leases, mirror, stops
from taskruns.services.batches import pace
from taskruns.services.credentials.budget import Budget
from taskruns.services.runs.observations import Reading, record_gone, record_observation, record_readings
from tests.factories import actor, make_credential, make_run
from tests.fake_arize import World
from tests.runs.readings import reading
from tests.wire import run_url, wire_run

NOW = datetime(2026, 11, 23, 3, 0, tzinfo=UTC)
AHEAD = NOW + timedelta(hours=1)
MINUTE = timedelta(minutes=1)


@pytest.fixture
def clock() -> Iterator[Any]:
    """A clock that is an hour ahead. `clock.move_to(NOW)` sets it back."""
    with time_machine.travel(AHEAD, tick=False) as clock:
        yield clock


@pytest.fixture
def world(arize: responses.RequestsMock) -> World:
    return World().install(arize)


# The helpers

STAMPS = (None, NOW - MINUTE, NOW, NOW + SKEW, NOW + MINUTE, NOW + MINUTE + SKEW, NOW + MINUTE + 2 * SKEW, AHEAD)
AWAIT = [False, False, False, True, True, True, False, False]


def test_a_stamp_too_far_ahead_is_over(credential: Credential) -> None:
    assert [is_ahead(at, NOW, MINUTE) for at in STAMPS] == AWAIT
    for at, waits in zip(STAMPS, AWAIT, strict=True):
        Credential.objects.update(backoff_until=at)
        assert Credential.objects.filter(ahead("backoff_until", NOW, MINUTE)).exists() is waits, at
        assert Credential.objects.filter(over("backoff_until", NOW, MINUTE)).exists() is not waits, at


def test_something_that_happened_in_the_future_is_not_recent(credential: Credential) -> None:
    stamps = (None, NOW - 2 * MINUTE, NOW - MINUTE, NOW, NOW + SKEW, NOW + MINUTE, AHEAD)
    lately = [False, False, False, True, True, False, False]
    assert [is_recent(at, NOW, MINUTE) for at in stamps] == lately
    for at, expected in zip(stamps, lately, strict=True):
        Credential.objects.update(backoff_until=at)
        assert Credential.objects.filter(recent("backoff_until", NOW, MINUTE)).exists() is expected, at
        assert Credential.objects.filter(long_ago("backoff_until", NOW, MINUTE)).exists() is not expected, at


# The mirror


def test_a_key_is_read_again_at_once(clock: Any, team: Team, world: World) -> None:
    key = make_credential(team)
    world.task("T1")
    world.run("R1", status="RUNNING")
    mirror.note_attention([team])
    mirror.refresh(key.pk)
    assert (Run.objects.get().status, Run.objects.get().observed_at) == ("running", AHEAD)
    world.runs["T1"][0]["status"] = "COMPLETED"
    clock.move_to(NOW)
    assert mirror.due(NOW) == [key.pk]
    mirror.refresh(key.pk)
    assert (Run.objects.get().status, Run.objects.get().observed_at) == ("completed", NOW)
    key.refresh_from_db()
    assert key.next_refresh_at <= NOW + timedelta(minutes=5)
    assert key.tasks_read_at == NOW


@pytest.mark.parametrize("column", ["claimed_until", "backoff_until", "next_refresh_at"])
def test_no_stamp_of_a_key_keeps_it_from_being_read(column: str, clock: Any, credential: Credential) -> None:
    longest = {"claimed_until": 40, "backoff_until": 300, "next_refresh_at": 300}[column]
    Credential.objects.update(next_refresh_at=NOW)
    Credential.objects.update(**{column: AHEAD + timedelta(seconds=longest)})
    assert mirror.due(AHEAD) == []
    clock.move_to(NOW)
    assert mirror.due(NOW) == [credential.pk]


def test_calls_of_the_future_do_not_use_up_the_rate_limit(clock: Any) -> None:
    budget = Budget(10, [])
    while budget.take():
        pass
    assert Budget(10, budget.recent()).left() == 0
    clock.move_to(NOW)
    assert Budget(10, budget.recent()).left() == 10


def test_attention_is_noted_again(clock: Any, team: Team, credential: Credential) -> None:
    mirror.note_attention([team])
    clock.move_to(NOW)
    Credential.objects.update(next_refresh_at=NOW + timedelta(minutes=4))
    team.refresh_from_db()
    assert not mirror.has_attention(team)
    assert mirror.note_attention([team]) == [credential.pk]
    team.refresh_from_db()
    assert (team.watched_at, mirror.has_attention(team)) == (NOW, True)


@pytest.mark.parametrize("how", ["single", "list", "gone"])
def test_a_reading_in_the_future_loses_against_a_new_one(how: str, clock: Any, task: Task) -> None:
    run = make_run(task, status=Status.RUNNING, observed_at=AHEAD)
    clock.move_to(NOW)
    if how == "single":
        record_observation(run, reading(run, "COMPLETED"), NOW)
    elif how == "list":
        record_readings([Reading(task, [reading(run, "COMPLETED")], NOW)])
    else:
        record_gone(run, NOW)
    run.refresh_from_db()
    assert (run.status, run.observed_at) == ("gone" if how == "gone" else "completed", NOW)


def test_an_earlier_reading_still_loses_against_a_later_one(clock: Any, task: Task) -> None:
    run = make_run(task, status=Status.RUNNING, observed_at=AHEAD)
    record_observation(run, reading(run, "COMPLETED"), AHEAD - timedelta(seconds=1))
    record_gone(run, AHEAD - timedelta(seconds=1))
    run.refresh_from_db()
    assert run.status == "running"


# Cancels


def test_a_batch_goes_on(clock: Any, credential: Credential, task: Task, oli: User, arize: Any) -> None:
    run = make_run(task, observed_at=NOW - MINUTE)
    arize.post(run_url(run, "/cancel"), json=wire_run(run, status="CANCELLED"))
    batch = batches.create_batch(task.team, run_ids=[run.pk], reason="why", by=actor(oli), source="selection")  # type: ignore[arg-type]
    CancelBatch.objects.update(claimed_until=AHEAD + timedelta(seconds=4), due_at=AHEAD + timedelta(seconds=5))
    CancelItem.objects.update(next_try_at=AHEAD + timedelta(minutes=5))
    CancelPace.objects.create(
        credential=credential, free_at=AHEAD + timedelta(seconds=0.5), paused_until=AHEAD + timedelta(minutes=5)
    )
    Credential.objects.update(backoff_until=AHEAD + timedelta(minutes=5))
    assert batches.due(AHEAD) == []
    clock.move_to(NOW)
    assert batches.due(NOW) == [batch.pk]
    assert not CancelPace.objects.filter(pace.is_paused(NOW)).exists()
    with time_machine.travel(NOW):
        batches.work(batch.pk)
    assert CancelItem.objects.get().state == Outcome.CONFIRMED


def test_a_stop_cancels_again(clock: Any, team: Team, task: Task, oli: User) -> None:
    make_run(task, observed_at=NOW - MINUTE)
    stops.pull(team, reason="why", left_out=[], by=actor(oli))
    CancelItem.objects.update(state=Outcome.UNKNOWN)
    CancelBatch.objects.update(finished_at=AHEAD, state=BatchState.FINISHED)
    assert stops.hold(team.pk) is None
    clock.move_to(NOW)
    assert stops.hold(team.pk) is not None
    assert EmergencyStop.objects.holding().exists(), "a deadline of hours is no pause"
    assert ItemState.QUEUED in CancelItem.objects.values_list("state", flat=True)


def test_a_cancel_that_crashed_is_swept(clock: Any, task: Task, arize: Any) -> None:
    run = make_run(task, observed_at=NOW - MINUTE)
    arize.get(run_url(run), json=wire_run(run, status="COMPLETED"))
    cancellation = Cancellation.objects.create(run=run, person_label="oli", requested_at=AHEAD)
    clock.move_to(NOW)
    cancellations.sweep()
    cancellation.refresh_from_db()
    assert cancellation.outcome == Outcome.FINISHED_FIRST


def test_a_cancel_that_is_stopping_waits_from_now(clock: Any, task: Task, arize: Any) -> None:
    run = make_run(task, observed_at=NOW - MINUTE)
    arize.get(run_url(run), json=wire_run(run, status="RUNNING"))
    cancellation = Cancellation.objects.create(
        run=run, person_label="oli", requested_at=NOW - MINUTE, stopping_since=AHEAD
    )
    clock.move_to(NOW)
    cancellations.sweep()
    cancellation.refresh_from_db()
    assert (cancellation.outcome, cancellation.stopping_since) == (Outcome.OPEN, NOW)
    clock.move_to(NOW + timedelta(seconds=301))
    cancellations.sweep()
    cancellation.refresh_from_db()
    assert cancellation.outcome == Outcome.STILL_RUNNING


# People


def test_a_full_window_of_attempts_ends(clock: Any, db: None) -> None:
    limit = Limit("tests", 1, MINUTE)
    assert [SignInCount.objects.try_count(limit, "oli") for _ in range(2)] == [True, False]
    clock.move_to(NOW)
    assert [SignInCount.objects.try_count(limit, "oli") for _ in range(2)] == [True, False]


def test_the_place_of_an_export_becomes_free(clock: Any, oli: User) -> None:
    leases.acquire(leases.EXPORT, oli)
    with pytest.raises(leases.Busy):
        leases.acquire(leases.EXPORT, oli)
    clock.move_to(NOW)
    assert leases.acquire(leases.EXPORT, oli).until == NOW + leases.LIFETIME
