"""The worker's clock gives what is due to lanes, whatever the queue does."""

import time
from datetime import timedelta
from typing import Any

import pytest
from django.db import DatabaseError
from django.utils import timezone

from taskruns import jobs
from taskruns.models import BatchState, CancelBatch, Channel, Credential, Heartbeat, Team
from taskruns.services import channels, mirror
from taskruns.services.mirror import schedule
from taskruns.worker import clock as module
from taskruns.worker.clock import Clock
from tests.channels.scene import BY, HOOK, add_channel
from tests.factories import make_credential


class Notes:
    """Stands in for a lane."""

    def __init__(self) -> None:
        self.added: list[Any] = []

    def add(self, key: Any) -> None:
        self.added.append(key)

    def staff(self) -> None:
        pass


@pytest.fixture
def clock(db: None, monkeypatch: Any) -> Clock:
    """A clock whose lanes only note what they get, and whose time the test moves."""
    monkeypatch.setattr(module, "close_old_connections", lambda: None)
    clock = Clock()
    for name in ("rounds", "suspects", "batches", "cancels", "chores", "facts", "time", "channels", "failing"):
        monkeypatch.setattr(clock, name, Notes())
    monkeypatch.setattr(clock, "_lanes", ())
    return clock


def added(clock: Clock, name: str) -> list[Any]:
    lane: Any = getattr(clock, name)
    found, lane.added = lane.added, []
    return found


def test_keys_that_are_due_go_to_the_lane_of_their_health(clock: Clock, team: Team) -> None:
    key = make_credential(team)
    silent = make_credential(team, name="Silent", failures=1)
    later = timezone.now() + timedelta(minutes=4)
    make_credential(team, name="Later", next_refresh_at=later)
    make_credential(team, name="Waiting", backoff_until=later)
    make_credential(team, name="Failing", failing_since=timezone.now())
    clock.tick()
    assert (added(clock, "rounds"), added(clock, "suspects")) == ([key.pk], [silent.pk])


def test_a_thread_that_cannot_be_started_does_not_end_the_clock(clock: Clock, team: Team, monkeypatch: Any) -> None:
    class Full(Notes):
        def staff(self) -> None:
            raise RuntimeError("can't start new thread")

    behind = Notes()
    monkeypatch.setattr(behind, "staff", lambda: behind.add("staffed"))
    monkeypatch.setattr(clock, "_lanes", (Full(), behind))
    clock.tick()
    assert behind.added == ["staffed"]


def test_channels_that_failed_last_have_a_lane_of_their_own(clock: Clock, team: Team) -> None:
    works, fails = add_channel(team, HOOK), add_channel(team, HOOK, name="Silent")
    for channel in (works, fails):
        channels.send_test(channel, by=BY)
    Channel.objects.filter(pk=fails.pk).update(failures=1)
    clock.tick()
    assert (added(clock, "channels"), added(clock, "failing")) == ([works.pk], [fails.pk])


def test_batches_that_are_due_have_a_lane_of_their_own(clock: Clock, team: Team) -> None:
    batch = CancelBatch.objects.create(team=team, source="selection", state=BatchState.WORKING)
    CancelBatch.objects.create(team=team, source="selection", state=BatchState.DRAFT)
    clock.tick()
    assert added(clock, "batches") == [batch.pk]


def test_the_minutes_and_the_hours_work_come_at_their_time(clock: Clock, monkeypatch: Any) -> None:
    now = time.monotonic()
    counts = []
    for second in (0, 1, 59, 61, 122, 301, 302, 3_902):
        monkeypatch.setattr(time, "monotonic", lambda second=second: now + 1 + second)
        clock.tick()
        names = added(clock, "chores")
        counts.append((names.count("sweep"), names.count("forget_old_runs")))
    assert counts == [(1, 0), (0, 0), (0, 0), (1, 0), (1, 0), (1, 1), (0, 0), (1, 1)]


def test_heartbeats_are_written_every_few_seconds(clock: Clock, monkeypatch: Any) -> None:
    now = time.monotonic()
    for second in (0, 4, 6):
        monkeypatch.setattr(time, "monotonic", lambda second=second: now + 1 + second)
        Heartbeat.objects.all().delete()
        clock.tick()
        assert {row.name for row in Heartbeat.objects.all()} == (set() if second == 4 else {"worker", "queue"})


def test_without_a_queue_only_its_heartbeat_stops(clock: Clock, monkeypatch: Any, credential: Credential) -> None:
    monkeypatch.setattr(clock, "_is_queue_working", lambda: False)
    clock.tick()
    assert [row.name for row in Heartbeat.objects.all()] == ["worker"]
    assert added(clock, "rounds") == [credential.pk]


def test_a_failing_heartbeat_does_not_stop_the_reading(
    clock: Clock, monkeypatch: Any, credential: Credential, caplog: Any
) -> None:
    def full(_: str) -> None:
        raise DatabaseError("database or disk is full")

    monkeypatch.setattr("taskruns.services.heartbeats.note", full)
    monkeypatch.setattr(module, "SEEN_EVERY", 0.0)
    for _ in range(5):
        clock.tick()
    assert added(clock, "rounds") == [credential.pk] * 5
    assert caplog.text.count("clock_failed") == 1


def test_claims_of_unfinished_rounds_are_given_back(credential: Credential) -> None:
    clock = Clock()
    claimed = schedule.claim(credential.pk)
    assert claimed is not None
    assert mirror.due(timezone.now()) == []
    assert mirror.give_back_claims() == 1
    assert mirror.due(timezone.now()) == [credential.pk]
    other = schedule.claim(credential.pk)
    assert other is not None
    Credential.objects.update(claimed_until=timezone.now() + timedelta(seconds=39))
    assert mirror.give_back_claims() == 0, "another worker has claimed it since"
    clock.stop()
    assert jobs.clock is None
