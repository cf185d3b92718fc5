"""Huey's jobs. The queue only wakes work up; the database says what is to be done, so a lost message, a killed or a
second worker change nothing.
"""

import threading
import uuid
from collections.abc import Callable

import structlog
from django.utils import timezone
from huey import crontab
from huey.contrib.djhuey import db_periodic_task, db_task, on_startup

from taskruns.audit import Actor
from taskruns.audit.anchors import DUE_AFTER, anchor_moved, publish
from taskruns.models import Heartbeat
from taskruns.services import audit, batches, cancellations, credentials, mirror, stops, triggers
from taskruns.services.people import throttles
from taskruns.services.runs import retention

log = structlog.get_logger(__name__)

CLOCK = Actor.job("clock")
TICK = 5  # seconds; Huey's own grain is a minute
_first_start = threading.Lock()


@on_startup()
def start() -> None:
    """Look at once, not at the next full minute. Huey calls this in each of its threads; the first is enough."""
    if _first_start.acquire(blocking=False):
        every_minute.call_local()


@db_periodic_task(crontab(minute="*"))
def every_minute() -> None:
    Heartbeat.objects.update_or_create(name="worker", defaults={"seen_at": timezone.now()})
    sweep()
    look_after_stops()
    look_after_audit()
    for delay in range(0, 60, TICK):
        tick.schedule(delay=delay)


@db_task(expires=2 * 60)
def sweep() -> None:
    triggers.sweep()
    cancellations.sweep()
    batches.follow_unknown()
    credentials.sweep()


@db_task(expires=2 * 60)
def look_after_stops() -> None:
    """End those whose time is over; let the others cancel what the rounds of reading have left."""
    stops.expire()
    for batch in stops.hold_all():
        wake_batch(batch.pk)


@db_task(expires=2 * 60)
def look_after_audit() -> None:
    """Anchor what moved, tell of tries that were only counted, take up verifications whose worker died."""
    anchor_moved(due_after=DUE_AFTER)
    publish()
    audit.record_left_out()
    for verification_id in audit.stalled():
        run_verification(str(verification_id))


@db_periodic_task(crontab(minute="23"))
def every_hour() -> None:
    forget_old_runs()
    look_after_keys()
    look_after_throttles()


@db_task(expires=60 * 60)
def look_after_keys() -> None:
    credentials.tell_of_expiring(by=CLOCK)
    credentials.forget_old_counts()


@db_task(expires=60 * 60)
def look_after_throttles() -> None:
    throttles.forget_over()


@db_task(expires=60 * 60)
def forget_old_runs() -> None:
    """A few portions, then others have their turn before the next few."""
    batches.forget_drafts()
    if retention.forget_old_runs():
        forget_old_runs()


@db_task()
def run_verification(verification_id: str) -> None:
    audit.run_verification(uuid.UUID(verification_id))


@db_task(expires=90)
def tick() -> None:
    """Wake the batches and the keys whose time has come; claims make a second wake-up harmless."""
    for batch_id in batches.due(timezone.now()):
        work_batch(str(batch_id))
    for credential_id in mirror.due(timezone.now()):
        refresh_credential(str(credential_id))


@db_task(expires=60)
def work_batch(batch_id: str) -> None:
    """One portion, then others have their turn before the next one. A tick takes up what was lost."""
    delay = batches.work(uuid.UUID(batch_id))
    if delay == 0:
        work_batch(batch_id)
    elif delay is not None and delay < TICK:
        work_batch.schedule((batch_id,), delay=delay)


@db_task(expires=60)
def refresh_credential(credential_id: str) -> None:
    """A round of reading, then what an emergency stop says to the runs it has found."""
    mirror.refresh(uuid.UUID(credential_id))
    batch = stops.hold_of(uuid.UUID(credential_id))
    if batch is not None:
        wake_batch(batch.pk)


def wake(credential_id: uuid.UUID) -> None:
    """Read with this key soon. If the queue cannot be reached, the next tick does it."""
    _enqueue(refresh_credential, credential_id)


def wake_batch(batch_id: uuid.UUID) -> None:
    """Begin to cancel. If the queue cannot be reached, the next tick does it."""
    _enqueue(work_batch, batch_id)


def wake_verification(verification_id: uuid.UUID) -> None:
    """Begin it now. If the queue cannot be reached, the next minute does it."""
    _enqueue(run_verification, verification_id)


def _enqueue(job: Callable[[str], object], row_id: uuid.UUID) -> None:
    try:
        job(str(row_id))
    except Exception:  # each queue has errors of its own, and none may undo what was saved
        log.warning("queue_unreachable", exc_info=True)
