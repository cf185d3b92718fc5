"""Whether a key works: its state, a test by a person, and what a rejection by Arize (401) means.

One 401 may be a fault of Arize. A second one, some seconds later, marks the key as failing. A failing key is not used,
but tried again every few minutes.
"""

import random
import uuid
from contextlib import suppress
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from enum import StrEnum
from typing import Any

import structlog
from django.db import transaction
from django.db.models import Exists, OuterRef, Q, QuerySet
from django.utils import timezone

from taskruns.arize.client import ArizeClient, Timeouts
from taskruns.arize.errors import ArizeError, BadRequest, Forbidden, NotFound, Unauthorized
from taskruns.arize.paging import Page
from taskruns.arize.wire import WireSpace, WireTask
from taskruns.audit import Actor, EventType, record
from taskruns.models import AuditEvent, Credential, Team
from taskruns.services import key_ring
from taskruns.services.remote_acts import SWEEPER, waiting_for_arize, writing_outcome

from .client import CannotConnect, NotDecryptable, connected
from .expiry import read_expiry

log = structlog.get_logger(__name__)

# A person waits for the answer to a test.
_TIMEOUTS = Timeouts(connect=4, read=6)
_TASKS_PER_PAGE = 100
_MOST_SPACES = 5  # whose tasks are listed one by one
# Each call of a test times out, so the process of a test that began earlier than this has died.
LONGEST_TEST = timedelta(minutes=5)
INTERRUPTED = "interrupted"
# After a 401, the key rests until the second look. A 401 that is not so much later belongs to the first one.
SECOND_LOOK = timedelta(seconds=10)
APART = timedelta(seconds=8)
# A failing key is tried again after a random time between these: keys that failed together do not return together.
TRIED_AGAIN = (timedelta(minutes=5), timedelta(minutes=15))
MOST_CALLS = 2  # of one attempt
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


@dataclass(frozen=True, slots=True)
class Seen:
    """What Arize showed the key. `ends`: its last day, if Arize states one. `facts`: what the audit log stores."""

    spaces: Page[WireSpace]
    tasks: Page[WireTask]
    ends: date | None
    facts: dict[str, Any]

    @property
    def is_empty(self) -> bool:
        """The key is valid, but it sees no space and no task."""
        return not (self.spaces.items or self.tasks.items)

    @property
    def counted(self) -> dict[str, Any]:
        """The facts, and how much it showed."""
        return self.facts | {"spaces": len(self.spaces.items), "tasks": len(self.tasks.items)}


@dataclass(frozen=True, slots=True)
class TestResult:
    """`seen` if the key works, otherwise `problem`, a sentence. `is_rejected`: Arize does not accept the key (401)."""

    __test__ = False  # for pytest, which collects names like this

    seen: Seen | None = None
    problem: str = ""
    is_rejected: bool = False

    @property
    def ok(self) -> bool:
        return self.seen is not None


def state_of(credential: Credential, now: datetime) -> KeyState:
    if credential.failing_since is not None:
        return KeyState.FAILING
    if credential.is_retried(now):
        return KeyState.WAITING
    return KeyState.NEW if credential.last_good_at is None else KeyState.WORKING


def test(credential: Credential, *, by: Actor) -> TestResult:
    """Ask Arize what the key sees: one page of spaces, one of tasks. Takes up to half a minute when Arize is slow.

    If the key works, failing and backoff end; if Arize rejects it, it is marked failing. Raises DatabaseError if the
    request could not be recorded (nothing was sent), ArizeIsSlow if too many requests wait for Arize (nothing was
    recorded or sent), and OutcomeNotWritten if the result could not be recorded (it was sent): the sweep then ends the
    test.
    """
    with waiting_for_arize():
        return _test(credential, by=by)


def try_out(candidate: Credential, *, by: Actor) -> TestResult:
    """Test a key before it is saved. Writes nothing but the audit rows. Raises like `test`."""
    with waiting_for_arize():
        operation = _request(candidate, by=by)
        try:
            seen = _look(candidate, counted=False)
        except (ArizeError, CannotConnect) as error:
            details = error.facts if isinstance(error, ArizeError) else {}
            with writing_outcome(EventType.CREDENTIAL_TEST):
                _record(candidate, "failed", operation=operation, by=by, details=details)
            return TestResult(problem=error.sentence, is_rejected=isinstance(error, Unauthorized))
        with writing_outcome(EventType.CREDENTIAL_TEST):
            _record(candidate, "ok", operation=operation, by=by, details=seen.counted)
        return TestResult(seen)


def _test(credential: Credential, *, by: Actor) -> TestResult:
    operation = _request(credential, by=by)
    try:
        seen = _look(credential)
    except (ArizeError, CannotConnect) as error:
        with writing_outcome(EventType.CREDENTIAL_TEST):
            return _failed(credential, error, operation=operation, by=by)
    with writing_outcome(EventType.CREDENTIAL_TEST):
        return _worked(credential, seen, operation=operation, by=by)


def sweep(*, by: Actor = SWEEPER) -> int:
    """Record `failed` for each test that a crash left without a result. Returns how many. Safe to run concurrently.

    Arize is not asked again: that would be another test. A test that was only slow still records its own result, as a
    further row of its operation.
    """
    tests = AuditEvent.objects.filter(event=EventType.CREDENTIAL_TEST)
    requested = tests.filter(outcome="requested", at__lt=timezone.now() - LONGEST_TEST)
    ends = tests.filter(operation_id=OuterRef("operation_id")).exclude(outcome="requested")
    return sum(_end(test, by) for test in requested.exclude(Exists(ends)).order_by("id"))


def note_rejected(credential: Credential, *, sentence: str, by: Actor) -> bool:
    """Arize answered 401. True if this was the second look, so that the key is marked as failing now."""
    now = timezone.now()
    same = _unchanged(credential).filter(failing_since=None)
    # A time in the future was written before the clock was set back.
    if same.filter(Q(rejected_at=None) | Q(rejected_at__gt=now)).update(
        rejected_at=now, next_refresh_at=now + SECOND_LOOK
    ):
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


def mark_failing(credential: Credential, *, sentence: str, by: Actor) -> bool:
    """Do not use the key until it is tested or replaced, or until Arize accepts it again. True if it was not marked
    before.
    """
    with transaction.atomic():
        return _mark_failing(credential, sentence, by=by)


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
        with connected(credential, timeouts=_TIMEOUTS) as client:
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


@transaction.atomic(durable=True)
def _request(credential: Credential, *, by: Actor) -> uuid.UUID:
    operation = uuid.uuid4()
    _record(credential, "requested", operation=operation, by=by)
    return operation


def _look(credential: Credential, *, counted: bool = True) -> Seen:
    """`counted=False`: the key is not saved, so there is nothing to count its calls for."""
    with connected(credential, timeouts=_TIMEOUTS, get_retries=1, counted=counted) as client:
        try:
            spaces = client.list_spaces()
        except (Forbidden, NotFound):
            # This key may not list spaces, or the server is older: the tasks alone show what matters.
            spaces = Page(items=(), next_cursor=None)
        tasks, facts = _tasks(client, spaces), client.facts
        return Seen(spaces, tasks, read_expiry(client, [space.id for space in spaces.items]), facts)


def _tasks(client: ArizeClient, spaces: Page[WireSpace]) -> Page[WireTask]:
    """Of all spaces at once. For a key that may not list those, of each of the first few spaces."""
    try:
        return client.list_tasks(limit=_TASKS_PER_PAGE)
    except (BadRequest, Forbidden, NotFound) as error:
        refused = error
    pages: list[Page[WireTask]] = []
    for space in spaces.items[:_MOST_SPACES]:
        with suppress(BadRequest, Forbidden, NotFound):
            pages.append(client.list_tasks(space_id=space.id, limit=_TASKS_PER_PAGE))
    if not pages:
        raise refused
    is_cut = len(spaces.items) > _MOST_SPACES or any(page.next_cursor for page in pages)
    return Page(items=tuple(task for page in pages for task in page.items), next_cursor="more" if is_cut else None)


def _worked(credential: Credential, seen: Seen, *, operation: uuid.UUID, by: Actor) -> TestResult:
    """An expiry date from Arize replaces the one that a person typed."""
    now, ends = timezone.now(), seen.ends
    _locked(credential.pk)
    is_new_end = ends is not None and ends != credential.expires_on
    changes = {"expires_on": ends, "expiry_told": None} if is_new_end else {}
    # Only if the key was not replaced during the test.
    Credential.objects.filter(pk=credential.pk, ciphertext=credential.ciphertext).update(
        last_good_at=now, next_refresh_at=now, **HEALTHY, **changes
    )
    Team.bump(credential.team_id)
    details = seen.counted
    if is_new_end:
        details |= {"changed": ["expires_on"], "expires_on": str(ends)}
    _record(credential, "ok", operation=operation, by=by, details=details)
    return TestResult(seen)


def _failed(
    credential: Credential, error: ArizeError | CannotConnect, *, operation: uuid.UUID, by: Actor
) -> TestResult:
    _locked(credential.pk)
    is_ours = isinstance(error, NotDecryptable) and key_ring.problem()
    if isinstance(error, Unauthorized | CannotConnect) and not is_ours:
        _mark_failing(credential, error.sentence, by=by)
    details = error.facts if isinstance(error, ArizeError) else {}
    _record(credential, "failed", operation=operation, by=by, details=details)
    return TestResult(problem=error.sentence)


@transaction.atomic(durable=True)
def _end(requested: AuditEvent, by: Actor) -> bool:
    operation, key_id = requested.operation_id, requested.credential_id
    if operation is None or key_id is None:
        return False  # someone changed the row in the database
    credential = _locked(key_id) or _never_saved(requested)
    if credential is None:
        return False  # the same
    if AuditEvent.objects.filter(operation_id=operation).exclude(pk=requested.pk).exists():
        return False  # the test recorded its result after the query
    _record(credential, "failed", operation=operation, by=by, details={"why": INTERRUPTED})
    log.info("key_test_ended", operation=str(operation), key=str(credential.pk))
    return True


def _never_saved(requested: AuditEvent) -> Credential | None:
    """The key of a test before saving, with its team locked instead of a row of its own."""
    if requested.team_id is None:
        return None
    team = Team.objects.select_for_update(no_key=True).filter(pk=requested.team_id).first()
    if team is None:
        return None
    return Credential(pk=requested.credential_id, team=team, name=requested.target_label, endpoint=requested.endpoint)


def _mark_failing(credential: Credential, sentence: str, *, by: Actor) -> bool:
    """Only while the ciphertext is the same: the rejection says nothing about a key that has replaced this one."""
    failing = {"failing_since": timezone.now(), "failing_reason": sentence, "rejected_at": None}
    if not _unchanged(credential).filter(failing_since=None).update(**failing, retry_at=_next_try()):
        return False
    Team.bump(credential.team_id)
    record(EventType.CREDENTIAL_FAILING, "done", by=by, team=credential.team, credential=credential)
    return True


def _unchanged(credential: Credential) -> QuerySet[Credential]:
    return Credential.objects.filter(pk=credential.pk, revoked_at=None, ciphertext=credential.ciphertext)


def _locked(credential_id: uuid.UUID) -> Credential | None:
    """Lock the row until the transaction ends: a test and the sweep must not both record a result."""
    rows = Credential.objects.select_for_update(of=("self",), no_key=True).select_related("team")
    return rows.filter(pk=credential_id).first()


def _record(
    credential: Credential, outcome: str, *, operation: uuid.UUID, by: Actor, details: dict[str, Any] | None = None
) -> None:
    record(
        EventType.CREDENTIAL_TEST,
        outcome,
        by=by,
        team=credential.team,
        credential=credential,
        operation_id=operation,
        details=details,
    )
