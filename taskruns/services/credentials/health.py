"""Whether a key works: its state, and what a rejection by Arize (401) means.

One 401 may be a fault of Arize. A second one, some seconds later, marks the key as failing, unless Arize accepted the
key in between. A failing key is not used, but tried again every few minutes.
"""

import random
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

import structlog
from django.db import transaction
from django.db.models import F, Q, QuerySet
from django.utils import timezone

from taskruns.arize.client import ArizeClient, Timeouts
from taskruns.arize.errors import ArizeError, Forbidden, NotFound
from taskruns.audit import Actor, EventType, record
from taskruns.models import Credential, Team

from .client import CannotConnect, NotDecryptable, connected

log = structlog.get_logger(__name__)

A_PERSON_WAITS = Timeouts(connect=4, read=6)  # for the answer
# After a first 401, the key rests for SECOND_LOOK, then it is tried once more. A 401 within APART of the first one
# belongs to it.
SECOND_LOOK = timedelta(seconds=10)
APART = timedelta(seconds=8)
# A failing key is tried again after a random time between these: keys that failed together do not return together.
TRIED_AGAIN = (timedelta(minutes=5), timedelta(minutes=15))
CALLS_TO_TRY_AGAIN = 2  # at most
# The columns of a key that has just worked.
HEALTHY: dict[str, Any] = {
    "failing_since": None,
    "failing_reason": "",
    "rejected_at": None,
    "retry_at": None,
    "backoff_until": None,
    "backoff_since": None,
    "backoff_reason": "",
    "backoff_is_limit": False,
    "failures": 0,
    "users_refused_at": None,
}


class KeyState(StrEnum):
    """`waiting`: after a failure, not used until `backoff_until`, or tried again now. `new`: not used yet."""

    FAILING = "failing"
    WAITING = "waiting"
    NEW = "new"
    WORKING = "working"


def state_of(credential: Credential, now: datetime) -> KeyState:
    if credential.failing_since is not None:
        return KeyState.FAILING
    if credential.is_retried(now):
        return KeyState.WAITING
    return KeyState.NEW if credential.last_good_at is None else KeyState.WORKING


def note_rejected(credential: Credential, *, sentence: str, by: Actor, accepted_at: datetime | None = None) -> bool:
    """Arize answered 401. True if this was the second look, so that the key is marked as failing now.

    `accepted_at`: when Arize last accepted the key in this round, which `last_good_at` does not tell yet.
    """
    now = timezone.now()
    same = _unchanged(credential).filter(failing_since=None)
    # A time in the future was written before the clock was set back.
    is_first = Q(rejected_at=None) | Q(rejected_at__gt=now)
    is_first |= Q(rejected_at__lt=F("last_good_at"), last_good_at__lte=now)
    if accepted_at is not None:
        is_first |= Q(rejected_at__lt=accepted_at)
    if same.filter(is_first).update(rejected_at=now, next_refresh_at=now + SECOND_LOOK):
        log.warning("key_rejected_once", key=str(credential.pk))
        return False
    if not same.filter(rejected_at__lte=now - APART).exists():
        return False
    return mark_failing(credential, sentence=sentence, by=by)


def note_accepted(credential: Credential) -> None:
    """Arize accepted the key: an earlier 401 was a fault of Arize. Expects `rejected_at` as loaded before the call."""
    if credential.rejected_at is not None:
        same = _unchanged(credential).filter(failing_since=None, rejected_at=credential.rejected_at)
        same.update(rejected_at=None)


@transaction.atomic
def mark_failing(credential: Credential, *, sentence: str, by: Actor) -> bool:
    """Do not use the key until it is tested or replaced, or until Arize accepts it again. True if it was not marked
    before.

    Only while the ciphertext is the same: the rejection says nothing about a key that has replaced this one.
    """
    failing = {"failing_since": timezone.now(), "failing_reason": sentence, "rejected_at": None}
    if not _unchanged(credential).filter(failing_since=None).update(**failing, retry_at=_next_try()):
        return False
    Team.bump(credential.team_id)
    record(EventType.CREDENTIAL_FAILING, "done", by=by, team=credential.team, credential=credential)
    return True


def note_recovered(credential: Credential, *, by: Actor) -> bool:
    """Arize accepts a failing key again: use it. True if it was still marked as failing."""
    now = timezone.now()
    with transaction.atomic():
        failing = _unchanged(credential).filter(failing_since__isnull=False)
        if not failing.update(last_good_at=now, recovered_at=now, next_refresh_at=now, **HEALTHY):
            return False
        Team.bump(credential.team_id)
        record(EventType.CREDENTIAL_RECOVERED, "done", by=by, team=credential.team, credential=credential)
    log.info("key_recovered", key=str(credential.pk))
    return True


def try_again(credential: Credential, *, by: Actor) -> str:
    """Use a failing key for one or two small calls. Returns why it still fails; empty if it has recovered.

    Raises NotDecryptable.
    """
    Credential.objects.filter(pk=credential.pk).update(retry_at=_next_try())
    try:
        with connected(credential, timeouts=A_PERSON_WAITS) as client:
            _small_call(client)
    except NotDecryptable:
        raise
    except (ArizeError, CannotConnect) as error:
        return error.sentence
    note_recovered(credential, by=by)
    return ""


def _small_call(client: ArizeClient) -> None:
    """Raises ArizeError. A key that may not list spaces may list tasks."""
    try:
        client.list_spaces(limit=1)
    except (Forbidden, NotFound):
        client.list_tasks(limit=1)


def _next_try() -> datetime:
    shortest, longest = TRIED_AGAIN
    return timezone.now() + shortest + random.random() * (longest - shortest)  # noqa: S311 - no secret


def _unchanged(credential: Credential) -> QuerySet[Credential]:
    return Credential.objects.filter(pk=credential.pk, revoked_at=None, ciphertext=credential.ciphertext)
