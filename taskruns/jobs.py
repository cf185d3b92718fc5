"""The jobs of the worker. The database says what to do; `taskruns/worker/` looks there every second.

Messages of the queue only make it look at once, except for mails and verifications. A lost message, a killed worker or
a second worker therefore does no harm.
"""

import math
import threading
import time
import uuid
from collections.abc import Callable
from functools import partial
from typing import Any

import structlog
from django.conf import settings
from huey.contrib.djhuey import db_task, signal
from huey.signals import SIGNAL_ERROR

from taskruns.audit import Actor
from taskruns.audit.anchors import DUE_AFTER, anchor_changed, publish
from taskruns.models.restores import is_resting
from taskruns.pages import mails
from taskruns.pages.channels import kinds
from taskruns.services import (
    audit,
    batches,
    cancellations,
    channels,
    credentials,
    invitations,
    mirror,
    stops,
    triggers,
)
from taskruns.services.channels.posting import deliver
from taskruns.services.mails import send
from taskruns.services.people import password_reset, sessions, sign_in_limits, throttles
from taskruns.services.query_statistics import refresh_statistics
from taskruns.services.rare_lines import Rarely
from taskruns.services.remote_acts import sum_of_all
from taskruns.services.runs import facts, retention
from taskruns.services.tokens import clock as tokens

log = structlog.get_logger(__name__)

CLOCK = Actor.job("clock")
# Set in the worker process only: setting this event makes the clock look at once.
clock: threading.Event | None = None
_complaints = Rarely()
QUEUE_RESTS = 10.0  # seconds


# Every minute and every hour. Each job runs alone; if it returns true, there is more to do, and it runs again after the
# others had their turn.


def look_after_stops() -> None:
    """End expired stops. Active stops cancel the runs that the refresh rounds did not cancel yet."""
    sum_of_all((stops.expire, partial(stops.hold_all, lambda batch: wake_batch(batch.pk))))


def look_after_tokens() -> None:
    """Record the end of tokens, and notice those that expire soon or stopped because of their maker."""
    sum_of_all((partial(tokens.expire, by=CLOCK), tokens.notice_makers, tokens.warn_of_expiring))


def sweep() -> None:
    sum_of_all((triggers.sweep, cancellations.sweep, batches.follow_unknown, credentials.sweep))


def look_after_run_facts() -> None:
    """Rounds update the facts too, but the clock also runs while no key can read."""
    facts.update_all()


def look_after_audit() -> None:
    """Anchor changed chains, record suppressed attempts, resume stalled verifications."""
    sum_of_all((partial(anchor_changed, due_after=DUE_AFTER), publish, audit.record_suppressed, audit.record_counted))


def resume_verifications() -> None:
    for verification_id in audit.stalled():
        audit.run_verification(verification_id)


def send_invitations() -> None:
    """The database says which are due. If the mail server refuses one, it is due again.

    A restored panel that may be a drill mails nobody.
    """
    if is_resting():
        return
    for invitation, token in invitations.to_mail():
        invitations.note_mailed(invitation, is_sent=send(mails.invitation(invitation, token)))


def look_after_channels() -> None:
    channels.give_up_old()
    channels.notice_site_events()


def look_after_worker() -> None:
    """For the web processes: if the worker is missing while a board is open, mail the site admins from here."""
    if channels.notice_missing_worker():
        send_messages(None)


def look_after_statistics() -> None:
    refresh_statistics()


def look_after_keys() -> None:
    credentials.warn_of_expiring(by=CLOCK)
    credentials.forget_old_counts()


def look_after_throttles() -> None:
    throttles.forget_expired()
    sign_in_limits.forget_expired()


def forget_expired_sessions() -> bool:
    return sessions.forget_expired()


def fill_in_run_facts() -> bool:
    """After an upgrade."""
    return facts.fill_in()


def forget_old_runs() -> bool:
    batches.forget_drafts()
    return retention.forget_old_runs()


def forget_past_work() -> bool:
    """Batches, emergency stops and verifications that nobody looks at any more. The audit log keeps what they did."""
    has_more = [batches.forget_finished(), stops.forget_ended(), audit.forget_old()]
    return any(has_more)


def forget_old_messages() -> bool:
    has_more = [channels.forget_old(), channels.forget_old_episodes()]
    return any(has_more)


def thin_anchors() -> bool:
    """Of the anchors of the audit log that are older than 90 days, the last of each day stays."""
    return audit.thin_anchors()


MINUTELY: dict[str, Callable[[], object]] = {
    job.__name__: job
    for job in (
        *(look_after_stops, look_after_run_facts, sweep, look_after_tokens),
        *(look_after_audit, resume_verifications, send_invitations, look_after_channels),
    )
}
HOURLY: dict[str, Callable[[], object]] = {
    job.__name__: job
    for job in (
        *(forget_old_runs, forget_past_work, look_after_keys, look_after_throttles),
        *(look_after_statistics, forget_expired_sessions, fill_in_run_facts, thin_anchors, forget_old_messages),
    )
}


def do_chore(name: str) -> bool:
    """Run a job of every minute or hour. True if it must run again."""
    return bool((MINUTELY | HOURLY)[name]())


# When the database says so


def read_round(credential_id: uuid.UUID) -> None:
    """Read one round from Arize, then let an active emergency stop cancel the new runs."""
    mirror.refresh(credential_id)
    batch = stops.hold_after_round(credential_id)
    if batch is not None:
        wake_batch(batch.pk)


def send_cancels() -> None:
    """Send the cancels that no web request could send."""
    cancellations.send_unsent()


def match_facts() -> bool:
    """Make messages of what has happened. True if there is more."""
    has_more = channels.match()
    _poke()  # so that they are sent at once
    return has_more


def notice_time() -> None:
    """Make messages of what only time brings."""
    channels.notice_time()


def send_messages(channel_id: uuid.UUID | None) -> bool:
    """Send the messages of one channel, or (None) those to people. True if there are more."""
    return channels.send(channel_id, kinds.word, deliver)


def send_message(delivery_id: uuid.UUID) -> None:
    """Send this claimed message now, in this process. For a command, which waits for the result."""
    channels.send_claimed(delivery_id, kinds.word, deliver)


def work_slice(batch_id: uuid.UUID) -> bool:
    """Work on one slice of the batch. True if the next one is due at once."""
    return batches.work(batch_id) == 0


# Messages


@signal(SIGNAL_ERROR)
def log_error(_signal: str, task: Any, error: BaseException) -> None:
    """Huey's own line has only the ID of the message, and is dropped (`config/logs.py`)."""
    log.error("job_failed", job=task.name, exc_info=error)


@db_task(expires=60)
def refresh_credential(credential_id: str) -> None:
    """Without a clock, as in tests, the round is read here."""
    if not _poke():
        read_round(uuid.UUID(credential_id))


@db_task(expires=60)
def work_batch(batch_id: str) -> None:
    """Without a clock, as in tests, the batch is worked on here."""
    while not _poke() and work_slice(uuid.UUID(batch_id)):
        pass


@db_task(expires=60)
def send_requested() -> None:
    """Without a clock, as in tests, the cancels are sent here."""
    if not _poke():
        send_cancels()


@db_task()
def run_verification(verification_id: str) -> None:
    audit.run_verification(uuid.UUID(verification_id))


@db_task(expires=2 * 60)
def mail_invitations() -> None:
    send_invitations()


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


def wake(credential_id: uuid.UUID) -> None:
    """Refresh with this credential soon. If the queue is down, the clock does it within a second or two."""
    _enqueue(refresh_credential, credential_id)


def wake_cancels() -> None:
    """Send requested cancels now. If the queue is down, the clock does it within a second or two."""
    _enqueue(send_requested)


def wake_batch(batch_id: uuid.UUID) -> None:
    """Start cancelling. If the queue is down, the clock does it within a second or two."""
    if not _poke():
        _enqueue(work_batch, batch_id)


def wake_verification(verification_id: uuid.UUID) -> None:
    """Start verifying. If the queue is down, `resume_verifications` does it within the next minutes."""
    _enqueue(run_verification, verification_id)


def wake_invitations() -> None:
    """Mail invitations now. If the queue is down, the next minute does it."""
    _enqueue(mail_invitations)


def wake_password_reset(email: str) -> None:
    """Without a queue nothing is mailed, and the person has to ask again."""
    _enqueue(mail_password_reset, email, is_only_way=True)


def wake_guess_report(login: str) -> None:
    _enqueue(report_guesses, login, is_only_way=True)


def _poke() -> bool:
    """Make this process's clock look at once. False if it has none."""
    here = clock
    if here is not None:
        here.set()
    return here is not None


class _Rest:
    """A pause after an error: a silent queue would hold a web thread for seconds with each job."""

    def __init__(self) -> None:
        self._until = -math.inf

    def begin(self) -> None:
        self._until = time.monotonic() + QUEUE_RESTS

    def lasts(self) -> bool:
        return time.monotonic() < self._until


_queue_rest = _Rest()


def _enqueue(job: Callable[..., object], *args: uuid.UUID | str, is_only_way: bool = False) -> None:
    """While the queue rests, only what nothing else would do. The clock does the rest anyway."""
    if _queue_rest.lasts() and not is_only_way:
        return
    try:
        job(*map(str, args))
    except Exception as error:  # noqa: BLE001 - depends on the queue's backend, and must not undo what was saved
        _queue_rest.begin()
        if _complaints.is_due():
            log.warning("queue_unreachable", error=str(error), left_out=_complaints.left_out)
