"""What Arize says of a key: a test by a person, and the mirror's note that Arize rejects it."""

import uuid
from contextlib import suppress
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from enum import StrEnum
from typing import Any

import structlog
from django.db import transaction
from django.db.models import Exists, OuterRef
from django.utils import timezone

from taskruns.arize.client import ArizeClient, Timeouts
from taskruns.arize.errors import ArizeError, BadRequest, Forbidden, NotFound, Unauthorized
from taskruns.arize.paging import Page
from taskruns.arize.wire import WireSpace, WireTask
from taskruns.audit import Actor, EventType, record
from taskruns.models import AuditEvent, Credential, Team
from taskruns.services.remote_acts import SWEEPER, writing_outcome

from .client import CannotConnect, connected
from .expiry import read_end

log = structlog.get_logger(__name__)

# A person waits for the answer to a test.
_TIMEOUTS = Timeouts(connect=4, read=6)
_TASKS_ASKED_FOR = 100
_SPACES_ASKED = 5
HEALTHY: dict[str, Any] = {
    "failing_since": None,
    "failing_reason": "",
    "backoff_until": None,
    "backoff_reason": "",
    "failures": 0,
    "users_refused_at": None,
}


# Each call of a test has a time-out: one that began longer ago has no process any more.
LONGEST_TEST = timedelta(minutes=5)
INTERRUPTED = "interrupted"


class KeyState(StrEnum):
    """How a key does. `waiting`: left alone until `backoff_until`; `new`: not used yet."""

    FAILING = "failing"
    WAITING = "waiting"
    NEW = "new"
    WORKING = "working"


def state_of(credential: Credential, now: datetime) -> KeyState:
    if credential.failing_since is not None:
        return KeyState.FAILING
    if credential.is_backing_off(now):
        return KeyState.WAITING
    return KeyState.NEW if credential.last_good_at is None else KeyState.WORKING


@dataclass(frozen=True, slots=True)
class Seen:
    """What Arize showed the key. `ends`: its last day as far as Arize states it; `facts`: what the log keeps of it."""

    spaces: Page[WireSpace]
    tasks: Page[WireTask]
    ends: date | None
    facts: dict[str, Any]

    @property
    def is_nothing(self) -> bool:
        """The key is valid, but it sees no space and no task."""
        return not (self.spaces.items or self.tasks.items)


@dataclass(frozen=True, slots=True)
class TestResult:
    """`seen` when the key works, else `problem`: a sentence."""

    __test__ = False  # not a test of pytest's

    seen: Seen | None = None
    problem: str = ""

    @property
    def ok(self) -> bool:
        return self.seen is not None


def test(credential: Credential, *, by: Actor) -> TestResult:
    """Ask Arize what the key sees: one page of spaces, one of tasks. Takes up to half a minute when Arize is slow.

    A good answer ends failing and backoff; a key that Arize rejects is marked failing. Raises DatabaseError when
    nothing was sent because the log takes no row, OutcomeNotWritten when it was sent: the sweep then ends the test.
    """
    operation = _request(credential, by=by)
    try:
        seen = _look(credential)
    except (ArizeError, CannotConnect) as error:
        with writing_outcome(EventType.CREDENTIAL_TEST):
            return _failed(credential, error, operation=operation, by=by)
    with writing_outcome(EventType.CREDENTIAL_TEST):
        return _worked(credential, seen, operation=operation, by=by)


def sweep(*, by: Actor = SWEEPER) -> int:
    """Record `failed` for each test that a crash left without an end. Returns how many; safe to run twice at once.

    Arize is not asked again: that would be another test. A test that was only very slow records what it found as a
    further row of its operation.
    """
    tests = AuditEvent.objects.filter(event=EventType.CREDENTIAL_TEST)
    requested = tests.filter(outcome="requested", at__lt=timezone.now() - LONGEST_TEST)
    ends = tests.filter(operation_id=OuterRef("operation_id")).exclude(outcome="requested")
    return sum(_end(test, by) for test in requested.exclude(Exists(ends)).order_by("id"))


def mark_failing(credential: Credential, *, sentence: str, by: Actor) -> bool:
    """The mirror met a rejection: leave the key alone until it is tested or replaced. True for the first one only."""
    with transaction.atomic():
        return _mark_failing(credential, sentence, by=by)


@transaction.atomic(durable=True)
def _request(credential: Credential, *, by: Actor) -> uuid.UUID:
    operation = uuid.uuid4()
    _record(credential, "requested", operation=operation, by=by)
    return operation


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


def _look(credential: Credential) -> Seen:
    with connected(credential, timeouts=_TIMEOUTS, get_retries=1) as client:
        try:
            spaces = client.list_spaces()
        except (Forbidden, NotFound):
            # A key, or a server, without the list of spaces: the tasks alone show what matters.
            spaces = Page(items=(), next_cursor=None)
        tasks, facts = _tasks(client, spaces), client.facts
        return Seen(spaces, tasks, read_end(client, [space.id for space in spaces.items]), facts)


def _tasks(client: ArizeClient, spaces: Page[WireSpace]) -> Page[WireTask]:
    """Of all spaces at once, or, for a key that may not ask so, of those that it may ask for one by one."""
    try:
        return client.list_tasks(limit=_TASKS_ASKED_FOR)
    except (BadRequest, Forbidden, NotFound) as error:
        refused = error
    pages: list[Page[WireTask]] = []
    for space in spaces.items[:_SPACES_ASKED]:
        with suppress(BadRequest, Forbidden, NotFound):
            pages.append(client.list_tasks(space_id=space.id, limit=_TASKS_ASKED_FOR))
    if not pages:
        raise refused
    is_cut = len(spaces.items) > _SPACES_ASKED or any(page.next_cursor for page in pages)
    return Page(items=tuple(task for page in pages for task in page.items), next_cursor="more" if is_cut else None)


def _worked(credential: Credential, seen: Seen, *, operation: uuid.UUID, by: Actor) -> TestResult:
    """The end of the key that Arize states replaces the one that was typed."""
    now, ends = timezone.now(), seen.ends
    _locked(credential.pk)
    is_new_end = ends is not None and ends != credential.expires_on
    changes = {"expires_on": ends, "expiry_told": None} if is_new_end else {}
    # Only if it is still the key that was tested.
    Credential.objects.filter(pk=credential.pk, ciphertext=credential.ciphertext).update(
        last_good_at=now, next_refresh_at=now, **HEALTHY, **changes
    )
    Team.bump(credential.team_id)
    details = seen.facts | {"spaces": len(seen.spaces.items), "tasks": len(seen.tasks.items)}
    if is_new_end:
        details |= {"changed": ["expires_on"], "expires_on": str(ends)}
    _record(credential, "ok", operation=operation, by=by, details=details)
    return TestResult(seen)


def _failed(
    credential: Credential, error: ArizeError | CannotConnect, *, operation: uuid.UUID, by: Actor
) -> TestResult:
    _locked(credential.pk)
    if isinstance(error, Unauthorized | CannotConnect):
        _mark_failing(credential, error.sentence, by=by)
    details = error.facts if isinstance(error, ArizeError) else {}
    _record(credential, "failed", operation=operation, by=by, details=details)
    return TestResult(problem=error.sentence)


def _locked(credential_id: uuid.UUID) -> Credential | None:
    """Locked until the transaction ends: a test and the sweep that ends it wait for each other."""
    rows = Credential.objects.select_for_update(of=("self",), no_key=True).select_related("team")
    return rows.filter(pk=credential_id).first()


@transaction.atomic(durable=True)
def _end(requested: AuditEvent, by: Actor) -> bool:
    operation, key_id = requested.operation_id, requested.credential_id
    credential = None if key_id is None else _locked(key_id)
    if operation is None or credential is None:
        return False  # not a row of ours: somebody has changed it in the database
    if AuditEvent.objects.filter(operation_id=operation).exclude(pk=requested.pk).exists():
        return False  # it got its end since it was found
    _record(credential, "failed", operation=operation, by=by, details={"why": INTERRUPTED})
    log.info("key_test_ended", operation=str(operation), key=str(credential.pk))
    return True


def _mark_failing(credential: Credential, sentence: str, *, by: Actor) -> bool:
    """Conditional on the ciphertext too: a rejection says nothing of the key that took its place meanwhile."""
    rows = Credential.objects.filter(
        pk=credential.pk, failing_since=None, revoked_at=None, ciphertext=credential.ciphertext
    )
    if not rows.update(failing_since=timezone.now(), failing_reason=sentence):
        return False
    Team.bump(credential.team_id)
    record(EventType.CREDENTIAL_FAILING, "done", by=by, team=credential.team, credential=credential)
    return True
