"""One round of reading with one credential: the most important calls first, within the rate limit of its key."""

import uuid
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import structlog
from django.conf import settings
from django.utils import timezone

from taskruns.arize.errors import ArizeError, RateLimited, Unauthorized
from taskruns.audit import Actor
from taskruns.models import Credential, Team
from taskruns.services import key_ring
from taskruns.services.cancellations import settle_stopping
from taskruns.services.credentials import mark_failing
from taskruns.services.credentials.client import CannotConnect, NotDecryptable, connected

from . import active_runs, arize_users, first_contact, schedule, staleness, task_runs, tasks
from .budget import Budget
from .reader import THREADS, Reader

log = structlog.get_logger(__name__)

READER = Actor.job("mirror")
UNLIMITED = 1_000_000  # calls
SHORTEST_BACKOFF = timedelta(seconds=5)
LONGEST_BACKOFF = timedelta(minutes=5)
USUAL_WAIT = 30  # seconds, after a 429 without Retry-After


@dataclass(frozen=True, slots=True)
class RoundReport:
    """What one round did. `problem` is a sentence if the key failed or Arize could not be read."""

    credential: str
    calls: int
    tasks: int
    changed: int
    problem: str = ""
    unauthorized: bool = False


def refresh(credential_id: uuid.UUID, *, force: bool = False, by: Actor = READER) -> RoundReport | None:
    """Update the mirror of what one key sees. None if the key is not due or another worker has claimed it.

    `force` (a person at a shell) ignores claims, pace, the rate limit and the length of a round. `by` is the actor in
    the audit log if Arize rejects the key or the outcome of a cancel becomes known.
    """
    began = timezone.now()
    credential = schedule.claim(credential_id, force=force)
    if credential is None:
        return None
    budget = Budget(UNLIMITED if force else settings.ARIZE_CALLS_PER_MINUTE, credential.recent_calls, is_apart=force)
    old = staleness.reasons(credential.pk)
    try:
        with connected(credential, get_retries=2, pool_size=THREADS, may_retry=budget.take) as client:
            alive = partial(schedule.renew, credential, budget=budget)
            reader = Reader(credential, client, budget, heartbeat=alive, is_patient=force)
            report = _round(reader, began=began, force=force, by=by)
    except CannotConnect as error:
        if isinstance(error, NotDecryptable) and (problem := key_ring.problem()):
            return _leave_to_others(credential, problem, began=began)
        _fail(credential, error.sentence, began=began, by=by)
        return RoundReport(credential.name, 0, 0, 0, error.sentence, unauthorized=True)
    if staleness.reasons(credential.pk) != old:
        Team.bump(credential.team_id)
    log.info("mirror_round", key=str(credential.pk), calls=report.calls, changed=report.changed)
    return report


def _leave_to_others(credential: Credential, problem: str, *, began: datetime) -> RoundReport:
    """This process lacks the ring key: another worker may have it, so nothing is written about the API key."""
    log.error("encryption_key_missing", key=str(credential.pk), ring_number=credential.ring_number, problem=problem)
    schedule.release(credential, began=began)
    return RoundReport(credential.name, 0, 0, 0, problem)


def _round(reader: Reader, *, began: datetime, force: bool, by: Actor) -> RoundReport:
    credential, client = reader.credential, reader.client
    trouble: ArizeError | None = None
    listed = changed = 0
    try:
        settle_stopping(credential, client=client, may_call=lambda: not reader.is_over and reader.spend(), by=by)
        changed += active_runs.read_active(reader, everything=force)
        changed += active_runs.read_confirmed(reader)
        is_full = force or tasks.is_due(credential)
        if is_full or reader.has_only_item_errors:
            listed, moved = tasks.read_tasks(reader)
            changed += moved
        changed += task_runs.read_moved(reader)
        changed += task_runs.read_new(reader)
        changed += active_runs.read_active_unread(reader)
        changed += task_runs.read_oldest(reader, everything=force)
        changed += active_runs.read_unknown(reader) if is_full else 0
        arize_users.read_names(reader)
    except ArizeError as error:
        trouble = error
    trouble = trouble or reader.stopped_by or reader.list_error or reader.only_error
    _finish(reader, trouble, began=began, by=by)
    sentence = trouble.sentence if trouble else ""
    return RoundReport(
        credential.name,
        client.calls,
        listed,
        changed,
        sentence,
        unauthorized=isinstance(trouble, Unauthorized),
    )


def _finish(reader: Reader, trouble: ArizeError | None, *, began: datetime, by: Actor) -> None:
    credential, now = reader.credential, timezone.now()
    schedule.note_calls(credential, reader.budget, ahead=False)
    changes: dict[str, Any] = {}
    if reader.answered_at is not None:
        changes["last_good_at"] = reader.answered_at
    if isinstance(trouble, Unauthorized):
        _fail(credential, trouble.sentence, began=began, by=by)
    elif trouble is not None:
        changes |= _backoff(credential, trouble, now)
    elif reader.answered_at is not None:
        # A failing key is read only with `force`. It has just worked again.
        changes |= {"failures": 0, "backoff_until": None, "backoff_reason": ""}
        changes |= {"failing_since": None, "failing_reason": ""}
    has_more = first_contact.settle(credential) or task_runs.is_backfilling(credential)
    schedule.release(credential, began=began, has_more=has_more, **changes)
    was_new = credential.last_good_at is None and reader.answered_at is not None
    was_in_trouble = credential.backoff_until is not None or credential.failing_since is not None
    if was_new or was_in_trouble or has_more or trouble is not None:
        Team.bump(credential.team_id)


def _backoff(credential: Credential, trouble: ArizeError, now: datetime) -> dict[str, Any]:
    failures = credential.failures + 1
    retry_after = trouble.retry_after
    if isinstance(trouble, RateLimited):
        pause = timedelta(seconds=USUAL_WAIT if retry_after is None else max(1, retry_after))
    else:
        pause = max(timedelta(seconds=retry_after or 0), SHORTEST_BACKOFF * 2 ** min(failures - 1, 10))
    pause = min(pause, LONGEST_BACKOFF)
    return {"failures": failures, "backoff_until": now + pause, "backoff_reason": trouble.sentence}


def _fail(credential: Credential, sentence: str, *, began: datetime, by: Actor) -> None:
    """Stop using a rejected key until someone tests or replaces it."""
    mark_failing(credential, sentence=sentence, by=by)
    schedule.release(credential, began=began)
