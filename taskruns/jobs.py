"""Huey's jobs. The queue only wakes a worker; the database says what to do. A lost message, a killed worker or a second
worker therefore does no harm.
"""

import threading
import uuid
from collections.abc import Callable

import structlog
from django.conf import settings
from django.utils import timezone
from huey import crontab
from huey.contrib.djhuey import db_periodic_task, db_task, on_startup

from taskruns.audit import Actor
from taskruns.audit.anchors import DUE_AFTER, anchor_changed, check_anchor_file, publish
from taskruns.models import Heartbeat
from taskruns.pages import mails
from taskruns.services import audit, batches, cancellations, credentials, invitations, mirror, stops, triggers
from taskruns.services.mails import send
from taskruns.services.people import password_reset, sessions, sign_in_limits, throttles
from taskruns.services.query_statistics import refresh_statistics
from taskruns.services.runs import retention

log = structlog.get_logger(__name__)

CLOCK = Actor.job("clock")
TICK = 5  # seconds; Huey's own schedule has a resolution of one minute
_first_start = threading.Lock()


@on_startup()
def start() -> None:
    """Start work at once, not at the next full minute. Huey calls this in each thread; only the first one acts."""
    if _first_start.acquire(blocking=False):
        check_anchor_file()
        every_minute.call_local()


@db_periodic_task(crontab(minute="*"))
def every_minute() -> None:
    Heartbeat.objects.update_or_create(name="worker", defaults={"seen_at": timezone.now()})
    sweep()
    look_after_stops()
    look_after_audit()
    mail_invitations()
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
    """End expired stops. Active stops cancel the runs that the refresh rounds did not cancel yet."""
    stops.expire()
    for batch in stops.hold_all():
        wake_batch(batch.pk)


@db_task(expires=2 * 60)
def look_after_audit() -> None:
    """Anchor changed chains, record suppressed attempts, resume stalled verifications."""
    anchor_changed(due_after=DUE_AFTER)
    publish()
    audit.record_suppressed()
    audit.record_counted()
    for verification_id in audit.stalled():
        run_verification(str(verification_id))


@db_periodic_task(crontab(minute="23"))
def every_hour() -> None:
    forget_old_runs()
    look_after_keys()
    look_after_throttles()
    look_after_statistics()
    forget_expired_sessions()


@db_task(expires=60 * 60)
def look_after_statistics() -> None:
    refresh_statistics()


@db_task(expires=60 * 60)
def look_after_keys() -> None:
    credentials.warn_of_expiring(by=CLOCK)
    credentials.forget_old_counts()


@db_task(expires=60 * 60)
def look_after_throttles() -> None:
    throttles.forget_expired()
    sign_in_limits.forget_expired()


@db_task(expires=60 * 60)
def forget_expired_sessions() -> None:
    """Delete a few chunks, then queue the rest, so that other jobs get their turn."""
    if sessions.forget_expired():
        forget_expired_sessions()


@db_task(expires=60 * 60)
def forget_old_runs() -> None:
    """Delete a few chunks, then queue the rest, so that other jobs get their turn."""
    batches.forget_drafts()
    if retention.forget_old_runs():
        forget_old_runs()


@db_task()
def run_verification(verification_id: str) -> None:
    audit.run_verification(uuid.UUID(verification_id))


@db_task(expires=2 * 60)
def mail_invitations() -> None:
    """The database says which are due. If the mail server refuses one, it is due again."""
    for invitation, token in invitations.to_mail():
        if not send(mails.invitation(invitation, token)):
            invitations.not_mailed(invitation)


@db_task(expires=10 * 60)
def mail_password_reset(email: str) -> None:
    """Look up the account here: the duration of the request must not reveal whether it exists."""
    if (link := password_reset.link_for(email)) is not None:
        send(mails.password_reset(link))


@db_task(expires=10 * 60)
def report_guesses(login: str) -> None:
    """Outside the request, for the same reason as `mail_password_reset`."""
    person = sign_in_limits.report_guesses(login)
    if person is not None and settings.MAILS:
        send(mails.guesses(person))


@db_task(expires=90)
def tick() -> None:
    """Wake the batches and credentials that are due. Claims make a second wake-up harmless."""
    for batch_id in batches.due(timezone.now()):
        work_batch(str(batch_id))
    for credential_id in mirror.due(timezone.now()):
        refresh_credential(str(credential_id))


@db_task(expires=60)
def work_batch(batch_id: str) -> None:
    """Work on one chunk, then queue the rest, so that other jobs get their turn. A tick replaces a lost message."""
    delay = batches.work(uuid.UUID(batch_id))
    if delay == 0:
        work_batch(batch_id)
    elif delay is not None and delay < TICK:
        work_batch.schedule((batch_id,), delay=delay)


@db_task(expires=60)
def refresh_credential(credential_id: str) -> None:
    """Read one round from Arize, then let an active emergency stop cancel the new runs."""
    mirror.refresh(uuid.UUID(credential_id))
    batch = stops.hold_after_round(uuid.UUID(credential_id))
    if batch is not None:
        wake_batch(batch.pk)


def wake(credential_id: uuid.UUID) -> None:
    """Refresh with this credential soon. If the queue is down, the next tick does it."""
    _enqueue(refresh_credential, credential_id)


def wake_batch(batch_id: uuid.UUID) -> None:
    """Start cancelling. If the queue is down, the next tick does it."""
    _enqueue(work_batch, batch_id)


def wake_verification(verification_id: uuid.UUID) -> None:
    """Start verifying. If the queue is down, `look_after_audit` does it within the next minutes."""
    _enqueue(run_verification, verification_id)


def wake_invitations() -> None:
    """Mail invitations now. If the queue is down, the next minute does it."""
    _enqueue(mail_invitations)


def wake_password_reset(email: str) -> None:
    """Without a queue nothing is mailed, and the person has to ask again."""
    _enqueue(mail_password_reset, email)


def wake_guess_report(login: str) -> None:
    _enqueue(report_guesses, login)


def _enqueue(job: Callable[..., object], *args: uuid.UUID | str) -> None:
    try:
        job(*map(str, args))
    except Exception:  # the error depends on the queue's backend, and must not undo what was saved
        log.warning("queue_unreachable", exc_info=True)
