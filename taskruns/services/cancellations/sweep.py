"""Finds the outcome of cancellations that have none: after a crash, after an `unknown`, or while the run is stopping.

Safe to run concurrently: each close is a conditional UPDATE on the state that was read.
"""

from collections.abc import Callable, Iterable
from datetime import timedelta
from itertools import groupby

import structlog
from django.db.models import Q, QuerySet
from django.utils import timezone

from taskruns.arize.client import ArizeClient
from taskruns.arize.errors import ArizeError, NoAnswer, NotFound, NotSent, RateLimited, Unauthorized
from taskruns.arize.wire import RunStatus
from taskruns.audit import Actor
from taskruns.models import CANCEL_FACTS, Cancellation, Credential, Outcome
from taskruns.services.credentials.client import CannotConnect, connected
from taskruns.services.remote_acts import SHORT_TIMEOUTS, SWEEPER, crashed_before

from .answer import AFTER_OUR_CANCEL, GONE, Answer
from .results import close

log = structlog.get_logger(__name__)

STOPPING_FOR = timedelta(seconds=300)
STOPPING = Q(outcome=Outcome.OPEN, stopping_since__isnull=False)
UNKNOWN = Q(outcome=Outcome.UNKNOWN)


def sweep(*, by: Actor = SWEEPER) -> int:
    """Close every cancellation whose outcome can be found now. Returns how many."""
    waiting = _waiting().filter(crashed_before() | STOPPING | UNKNOWN)
    by_key = groupby(waiting, key=lambda row: row.run.task.credential)
    return sum(_settle_of_key(key, list(group), by) for key, group in by_key)


def settle_stopping(
    credential: Credential, *, client: ArizeClient, may_call: Callable[[], bool], by: Actor = SWEEPER
) -> int:
    """The first step of each mirror round: read the runs of this key that are stopping or whose outcome is unknown.

    `may_call` decides before each call; if it refuses, the rest waits for the next round.
    """
    mine = _waiting().filter(STOPPING | UNKNOWN, run__task__credential=credential)
    return _read_each(client, list(mine), may_call, by)


def _waiting() -> QuerySet[Cancellation]:
    """Cancellations without a final outcome, ordered by key and age."""
    not_final = [outcome for outcome, facts in CANCEL_FACTS.items() if not facts.is_final]
    rows = Cancellation.objects.filter(followed=True, outcome__in=not_final)
    return rows.select_related("run__task__credential", "batch").order_by("run__task__credential_id", "requested_at")


def _settle_of_key(credential: Credential | None, rows: list[Cancellation], by: Actor) -> int:
    if credential is None:
        return _unread(rows, by)
    try:
        with connected(credential, timeouts=SHORT_TIMEOUTS) as client:
            return _read_each(client, rows, lambda: True, by)
    except CannotConnect:
        return _unread(rows, by)


def _read_each(client: ArizeClient, rows: list[Cancellation], may_call: Callable[[], bool], by: Actor) -> int:
    closed = 0
    for number, row in enumerate(rows):
        if not may_call():
            break
        started = timezone.now()
        try:
            seen = client.get_run(row.run.arize_id)
        except NotFound:
            closed += _close(row, Answer(Outcome.UNKNOWN, GONE, gone=True, seen_since=started), by)
        except (NotSent, NoAnswer, RateLimited, Unauthorized):
            # The other runs of this key would get the same answer.
            return closed + _unread(rows[number:], by)
        except ArizeError:
            closed += _unread([row], by)
        else:
            details = {"reread": seen.status.value}
            outcome = _outcome(row, seen.status)
            if outcome is not None:
                closed += _close(row, Answer(outcome, seen=seen, seen_since=started, details=details), by)
    return closed


def _outcome(row: Cancellation, status: RunStatus) -> Outcome | None:
    """The outcome that this status means, or None to keep waiting."""
    if status in AFTER_OUR_CANCEL:
        return AFTER_OUR_CANCEL[status]
    if row.outcome == Outcome.UNKNOWN:
        return None
    if row.stopping_since is None:
        return Outcome.UNKNOWN
    return Outcome.STILL_RUNNING if row.stopping_since < timezone.now() - STOPPING_FOR else None


def _unread(rows: Iterable[Cancellation], by: Actor) -> int:
    """The runs cannot be read now: close crashed and overdue cancellations as `unknown`, let the others wait."""
    text = "The run could not be read to find out the outcome of the cancel."
    now = timezone.now()
    return sum(
        _close(row, Answer(Outcome.UNKNOWN, text), by)
        for row in rows
        if row.outcome == Outcome.OPEN and (row.stopping_since is None or row.stopping_since < now - STOPPING_FOR)
    )


def _close(row: Cancellation, answer: Answer, by: Actor) -> int:
    closed = close(row, answer, by=by)
    log.info("cancellation_closed", operation=str(row.pk), outcome=answer.outcome.value, written=closed)
    return int(closed)
