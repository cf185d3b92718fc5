"""RUN_RETENTION_DAYS: old ended runs are deleted from the mirror; the audit log stays."""

from datetime import datetime, timedelta
from typing import Any

import pytest
import responses
import time_machine
from django.utils import timezone

from config import settings as deployment
from taskruns import jobs
from taskruns.models import AuditEvent, Cancellation, Credential, Outcome, Run, Status, Task, Team, User
from taskruns.services import cancellations
from taskruns.services.mirror import find_by_arize_id, refresh
from taskruns.services.runs import retention
from tests.factories import actor, make_run
from tests.fake_arize import World
from tests.queue_worker import every_hour
from tests.wire import run_url, wire_run

NOW = datetime.fromisoformat("2026-11-23T03:00:00+00:00")
OLD = NOW - timedelta(days=11)


@pytest.fixture(autouse=True)
def _ten_days(settings: Any) -> Any:
    settings.RUN_RETENTION_DAYS = 10
    with time_machine.travel(NOW, tick=False):
        yield


def old(task: Task, status: Status = Status.COMPLETED, **fields: Any) -> Run:
    return make_run(task, status=status, **{"created_at": OLD, "run_finished_at": OLD} | fields)


def left() -> set[str]:
    return set(Run.objects.values_list("arize_id", flat=True))


def test_the_default_is_400_days() -> None:
    assert deployment.RUN_RETENTION_DAYS == 400


@pytest.mark.parametrize("status", [Status.COMPLETED, Status.FAILED, Status.CANCELLED, Status.GONE])
def test_only_older_ended_runs_are_deleted(status: Status, task: Task) -> None:
    old(task, status, arize_id="old")
    old(task, status, arize_id="young", created_at=NOW - timedelta(days=9), run_finished_at=None)
    old(task, status, arize_id="ended lately", run_finished_at=NOW - timedelta(days=9))
    old(task, status, arize_id="gone lately", gone_since=NOW - timedelta(days=1))
    before = Team.objects.get().board_version
    assert retention.forget_old_runs() is False
    assert left() == {"young", "ended lately", "gone lately"}
    assert Team.objects.get().board_version == before + 1
    retention.forget_old_runs()
    assert Team.objects.get().board_version == before + 1


@pytest.mark.parametrize("status", [Status.PENDING, Status.RUNNING, Status.UNKNOWN])
def test_runs_that_have_not_ended_are_never_deleted(status: Status, task: Task) -> None:
    old(task, status, arize_id="goes on", run_finished_at=None)
    old(task, arize_id="ended")
    retention.forget_old_runs()
    assert left() == {"goes on"}


def test_a_run_without_any_time_counts_from_when_it_was_first_seen(task: Task) -> None:
    times = {"created_at": None, "run_started_at": None, "run_finished_at": None, "observed_at": OLD}
    make_run(task, status=Status.COMPLETED, arize_id="old", **times | {"sorted_at": OLD})
    make_run(task, status=Status.COMPLETED, arize_id="young", **times | {"sorted_at": NOW})
    retention.forget_old_runs()
    assert left() == {"young"}


@pytest.mark.parametrize(
    ("outcome", "followed", "stays"),
    [
        (Outcome.OPEN, True, True),
        (Outcome.UNKNOWN, True, True),
        (Outcome.UNKNOWN, False, False),
        (Outcome.CONFIRMED, False, False),
        (Outcome.STILL_RUNNING, False, False),
    ],
)
def test_a_run_with_an_open_or_followed_cancellation_stays(
    outcome: Outcome, followed: Any, stays: Any, task: Task
) -> None:
    run = old(task)
    Cancellation.objects.create(run=run, person_label="oli", outcome=outcome, followed=followed)
    Cancellation.objects.create(run=run, person_label="oli", outcome=Outcome.REFUSED, followed=False)
    retention.forget_old_runs()
    assert Run.objects.exists() == stays
    assert Cancellation.objects.count() == (2 if stays else 0)


def test_the_audit_log_is_not_touched(task: Task, oli: User, arize: responses.RequestsMock) -> None:
    run = old(task, Status.RUNNING, run_finished_at=None)
    arize.post(run_url(run, "/cancel"), json=wire_run(run, "CANCELLED"))
    cancellations.cancel(run, by=actor(oli), reason="stuck")
    rows = list(AuditEvent.objects.values())
    assert len(rows) == 2
    Run.objects.update(run_finished_at=OLD, sorted_at=OLD)
    retention.forget_old_runs()
    assert (left(), Cancellation.objects.count()) == (set(), 0)
    assert list(AuditEvent.objects.values()) == rows


def test_runs_are_deleted_in_chunks_until_none_are_left(
    task: Task, monkeypatch: Any, django_assert_max_num_queries: Any
) -> None:
    monkeypatch.setattr(retention, "CHUNK", 3)
    monkeypatch.setattr(retention, "CHUNKS", 2)
    for number in range(8):
        old(task, arize_id=f"R{number}", created_at=OLD - timedelta(hours=number))
    assert retention.forget_old_runs() is True
    assert left() == {"R0", "R1"}, "the oldest runs are deleted first"
    assert retention.forget_old_runs() is False
    assert left() == set()


def test_runs_of_all_teams_are_deleted_including_archived_ones(task: Task, other_team: Team) -> None:
    old(task)
    elsewhere = Task.objects.create(team=other_team, endpoint=task.endpoint, arize_id="T2")
    old(elsewhere)
    Team.objects.filter(pk=other_team.pk).update(archived_at=NOW)
    retention.forget_old_runs()
    assert left() == set()


def test_a_worker_deletes_old_runs_each_hour_until_none_are_left(task: Task, monkeypatch: Any) -> None:
    monkeypatch.setattr(retention, "CHUNK", 2)
    monkeypatch.setattr(retention, "CHUNKS", 1)
    for _ in range(5):
        old(task)
    assert jobs.do_chore("forget_old_runs"), "there is more"
    assert len(left()) == 3
    every_hour()
    assert left() == set()


def test_a_list_that_still_holds_an_old_run_does_not_restore_it(
    credential: Credential, arize: responses.RequestsMock
) -> None:
    world = World().install(arize)
    world.task("T1")
    world.run("old", status="COMPLETED", created_at=OLD.isoformat())
    world.run("old but active", created_at=OLD.isoformat())
    world.run("old but ended lately", status="FAILED", created_at=OLD.isoformat(), run_finished_at=NOW.isoformat())
    world.run("without a time", status="COMPLETED", created_at=None)
    world.run("young", status="COMPLETED", created_at=NOW.isoformat())
    refresh(credential.pk)
    assert left() == {"young", "without a time", "old but active", "old but ended lately"}
    retention.forget_old_runs()
    assert len(left()) == 4


def test_a_backfill_ends_at_runs_too_old_to_be_kept(credential: Credential, arize: responses.RequestsMock) -> None:
    world = World(page=2).install(arize)
    world.task("T1", last_run_at="2026-11-22T00:00:00Z")
    refresh(credential.pk)
    for number in range(8):
        world.run(f"old{number}", status="COMPLETED", created_at=OLD.isoformat())
    for number in range(3):
        world.run(f"young{number}", status="COMPLETED", created_at=NOW.isoformat())
    world.tasks["T1"]["last_run_at"] = "2026-11-23T00:00:00Z"
    world.calls.clear()
    with time_machine.travel(NOW + timedelta(seconds=301)):
        refresh(credential.pk)
    assert left() == {"young0", "young1", "young2"}
    assert world.reads_of("T1/runs") == 2


def test_an_old_run_that_a_person_requests_is_shown(credential: Credential, arize: responses.RequestsMock) -> None:
    world = World().install(arize)
    world.task("T1")
    world.run("old", status="COMPLETED", created_at=OLD.isoformat())
    found = find_by_arize_id(credential.team, "old")
    assert found is not None
    assert found.status == Status.COMPLETED
    assert timezone.now() - found.sorted_at > timedelta(days=10)
