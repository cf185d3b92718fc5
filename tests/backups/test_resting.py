"""A panel that was restored and not adopted: people look and cancel, and nothing runs by itself."""

from datetime import UTC, datetime
from typing import Any

import pytest
from django.utils import timezone

from taskruns import jobs
from taskruns.models import BatchState, CancelBatch, EmergencyStop, Invitation, Restore
from taskruns.services import batches, stops
from taskruns.services.user_errors import RESTING, UserError
from tests.factories import actor
from tests.queue_worker import every_minute, work
from tests.stage import Stage, a_stop

pytestmark = pytest.mark.usefixtures("empty_queue")
SENTENCE = "This panel was restored from a backup"


@pytest.fixture
def restore(db: None) -> Restore:
    at = datetime(2026, 11, 23, 3, 0, tzinfo=UTC)
    return Restore.objects.create(restored_by="root", backup="ab" * 32, backup_made_at=at)


@pytest.fixture
def adopted(restore: Restore) -> Any:
    return lambda: Restore.objects.update(adopted_at=timezone.now())


def a_batch(stage: Stage) -> CancelBatch:
    oli = actor(stage.people["oli"])
    batch = batches.draft_of(stage.team, run_ids=[stage.run.pk], source="selection", drafted_by=stage.people["oli"])
    assert batch is not None
    return batches.confirm(batch, reason="why", by=oli)


def test_an_interrupted_batch_waits_for_adoption(stage: Stage, adopted: Any):
    Restore.objects.all().delete()
    batch = a_batch(stage)
    Restore.objects.create(restored_by="root", backup="ab" * 32, backup_made_at=timezone.now())
    assert batches.due(timezone.now()) == []
    jobs.wake_batch(batch.pk)
    work()
    assert (stage.posts_to_arize, batches.work(batch.pk)) == (0, None)
    adopted()
    assert batch.pk in batches.due(timezone.now())
    jobs.wake_batch(batch.pk)
    work()
    assert stage.posts_to_arize, "the control"


def test_a_hold_waits_for_adoption(stage: Stage, adopted: Any):
    a_stop(stage)
    assert (stops.hold_all(), stops.hold_after_round(stage.credential.pk)) == (0, None)
    every_minute()
    work()
    assert stage.posts_to_arize == 0
    adopted()
    assert stops.hold_all() == 1, "the control"


def test_nobody_believes_that_a_stop_was_pulled(stage: Stage, restore: Restore):
    with pytest.raises(UserError, match="The emergency stop was not pulled"):
        stops.pull(stage.team, reason="now", left_out=[], by=actor(stage.people["oli"]))
    answer = stage.client("oli").post(f"/teams/{stage.team.slug}/stop/", {"reason": "now"})
    assert answer.status_code == 422
    assert "was not pulled. This panel was restored from a backup" in answer.content.decode()
    assert not EmergencyStop.objects.exists()


def test_a_bulk_cancel_cannot_be_confirmed(stage: Stage, restore: Restore):
    batch = stage.batches["batch-confirm"]
    path = f"/teams/{stage.team.slug}/batches/{batch.pk}/confirm/"
    count = batch.items.count()
    answer = stage.client("oli").post(path, {"reason": "now", "count": str(count)})
    assert answer.status_code == 422
    assert "Nothing was sent. This panel was restored from a backup" in answer.content.decode()
    batch.refresh_from_db()
    assert batch.state == BatchState.DRAFT


def test_every_page_says_so_until_adoption(stage: Stage, adopted: Any):
    for path in (f"/teams/{stage.team.slug}/runs/", "/accounts/profile/", "/nothing/"):
        assert SENTENCE in stage.client("vera").get(path).content.decode()
    adopted()
    assert SENTENCE not in stage.client("vera").get(f"/teams/{stage.team.slug}/runs/").content.decode()


def test_a_single_cancel_works(stage: Stage, restore: Restore):
    path = f"/teams/{stage.team.slug}/runs/{stage.run.pk}/cancel/"
    answer = stage.client("oli").post(path, {"confirmed": "1", "reason": "now"})
    assert answer.status_code in {200, 302}
    assert stage.posts_to_arize == 1


def test_invitations_are_not_mailed_again(stage: Stage, adopted: Any, settings: Any, mailoutbox: list[Any]):
    settings.MAILS = True
    Invitation.objects.update(by_mail=True, mailed_at=None)
    jobs.send_invitations()
    assert mailoutbox == []
    adopted()
    jobs.send_invitations()
    assert len(mailoutbox) == 1, "the control"


def test_the_sentence_says_who_can_help():
    assert "restore --adopt" in RESTING
