"""What the worker deletes every hour, and what it keeps."""

from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from taskruns import jobs
from taskruns.models import (
    AuditAnchor,
    AuditVerification,
    BatchState,
    CancelBatch,
    CancelItem,
    Cancellation,
    EmergencyStop,
    Run,
    StopEnd,
    Team,
)
from taskruns.services.audit import actions as audit_actions
from taskruns.services.batches import actions as batch_actions
from tests.queue_worker import every_hour

Result = AuditVerification.Result


@pytest.fixture(autouse=True)
def _retention(settings: Any) -> None:
    settings.RUN_RETENTION_DAYS = 400


def ago(days: float) -> Any:
    return timezone.now() - timedelta(days=days)


def batch(team: Team, days: float | None, **fields: Any) -> CancelBatch:
    finished_at = None if days is None else ago(days)
    state = BatchState.WORKING if days is None else BatchState.FINISHED
    return CancelBatch.objects.create(team=team, source="selection", state=state, finished_at=finished_at, **fields)


def test_batches_are_kept_as_long_as_runs(team: Team, run: Run) -> None:
    old, young, unfinished = batch(team, 401), batch(team, 399), batch(team, None, created_at=ago(500))
    CancelItem.objects.create(batch=old, run=run)
    cancellation = Cancellation.objects.create(run=run, batch=old, outcome="confirmed", followed=False)
    every_hour()
    assert set(CancelBatch.objects.all()) == {young, unfinished}
    assert not CancelItem.objects.exists()
    cancellation.refresh_from_db()
    assert cancellation.batch is None, "the cancel stays with its run"


def test_many_batches_are_deleted_in_chunks(team: Team, monkeypatch: Any) -> None:
    monkeypatch.setattr(batch_actions, "CHUNK", 2)
    for _ in range(5):
        batch(team, 401)
    assert jobs.do_chore("forget_past_work"), "there is more"
    assert CancelBatch.objects.count() == 3
    every_hour()
    assert not CancelBatch.objects.exists()


def stop(team: Team, days: float) -> EmergencyStop:
    ended = {"end": StopEnd.LIFTED, "ended_at": ago(days)}
    return EmergencyStop.objects.create(team=team, person_label="oli", reason="why", expires_at=ago(days), **ended)


def test_stops_are_kept_as_long_as_runs_and_their_batches(team: Team) -> None:
    stop(team, 401)
    with_batch, young = stop(team, 401), stop(team, 399)
    batch(team, 399, stop=with_batch)
    holding = EmergencyStop.objects.create(team=team, person_label="oli", reason="why", pulled_at=ago(500))
    every_hour()
    assert set(EmergencyStop.objects.all()) == {with_batch, young, holding}


def verification(result: str, days: float, **fields: Any) -> AuditVerification:
    return AuditVerification.objects.create(
        asked_by="ada", result=result, started_at=ago(days), finished_at=ago(days), **fields
    )


def test_old_verifications_are_deleted_unless_the_page_may_show_them(db: None, monkeypatch: Any) -> None:
    verification(Result.CLEAN, 92)
    verification(Result.BROKEN_OFF, 92)
    verification(Result.CLEAN, 92, compared=True)
    kept = {
        verification(Result.CLEAN, 89),
        verification(Result.BROKEN_OFF, 91),
        verification(Result.CLEAN, 91, compared=True),
        verification(Result.FAULTS, 500, fault_count=1),
    }
    every_hour()
    assert set(AuditVerification.objects.all()) == kept
    monkeypatch.setattr(audit_actions, "KEPT", timedelta(days=1))
    verification(Result.BROKEN_OFF, 2)
    every_hour()
    assert {row.result for row in AuditVerification.objects.all()} == {"clean", "faults", "broken off"}


def test_anchors_are_kept(db: None) -> None:
    columns = {"hash": "0" * 64, "key_id": "k", "signature": "s"}
    AuditAnchor(chain="site", seq=1, signed_at=ago(2_000), **columns).save()
    every_hour()
    assert AuditAnchor.objects.count() == 1
