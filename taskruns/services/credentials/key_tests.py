"""Key tests: a person asks what a key sees, before or after it is saved. `sweep.py` ends those that a crash left."""

import uuid
from contextlib import suppress
from dataclasses import dataclass
from datetime import date
from typing import Any

from django.db import transaction
from django.utils import timezone

from taskruns.arize.client import ArizeClient
from taskruns.arize.errors import ArizeError, BadRequest, Forbidden, NotFound, Unauthorized
from taskruns.arize.paging import Page
from taskruns.arize.wire import WireSpace, WireTask
from taskruns.audit import Actor, EventType, record
from taskruns.models import Credential, Team
from taskruns.services import key_ring
from taskruns.services.remote_acts import waiting_for_arize, writing_outcome

from .client import CannotConnect, NotDecryptable, connected
from .expiry import read_expiry
from .health import A_PERSON_WAITS, HEALTHY, mark_failing

_TASKS_PER_PAGE = 100
_MOST_SPACES = 5  # whose tasks are listed one by one


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
    def details(self) -> dict[str, Any]:
        """For the audit row: the facts, and how many spaces and tasks the key sees."""
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
                record_test(candidate, "failed", operation=operation, by=by, details=details)
            return TestResult(problem=error.sentence, is_rejected=isinstance(error, Unauthorized))
        with writing_outcome(EventType.CREDENTIAL_TEST):
            record_test(candidate, "ok", operation=operation, by=by, details=seen.details)
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


@transaction.atomic(durable=True)
def _request(credential: Credential, *, by: Actor) -> uuid.UUID:
    operation = uuid.uuid4()
    record_test(credential, "requested", operation=operation, by=by)
    return operation


def _look(credential: Credential, *, counted: bool = True) -> Seen:
    """`counted=False`: the key is not saved, so there is nothing to count its calls for."""
    with connected(credential, timeouts=A_PERSON_WAITS, get_retries=1, counted=counted) as client:
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
    locked(credential.pk)
    is_new_end = ends is not None and ends != credential.expires_on
    changes = {"expires_on": ends, "expiry_told": None} if is_new_end else {}
    # Only if the key was not replaced during the test.
    same = Credential.objects.filter(pk=credential.pk, ciphertext=credential.ciphertext)
    is_written = same.update(last_good_at=now, next_refresh_at=now, **HEALTHY, **changes)
    Team.bump(credential.team_id)
    details = seen.details
    if is_written and is_new_end:
        details |= {"changed": ["expires_on"], "expires_on": str(ends)}
    record_test(credential, "ok", operation=operation, by=by, details=details)
    return TestResult(seen)


def _failed(
    credential: Credential, error: ArizeError | CannotConnect, *, operation: uuid.UUID, by: Actor
) -> TestResult:
    locked(credential.pk)
    is_ours = isinstance(error, NotDecryptable) and key_ring.problem()
    if isinstance(error, Unauthorized | CannotConnect) and not is_ours:
        mark_failing(credential, sentence=error.sentence, by=by)
    details = error.facts if isinstance(error, ArizeError) else {}
    record_test(credential, "failed", operation=operation, by=by, details=details)
    return TestResult(problem=error.sentence, is_rejected=isinstance(error, Unauthorized))


def locked(credential_id: uuid.UUID) -> Credential | None:
    """Lock the row until the transaction ends, so that the sweep sees a result that is just being recorded."""
    rows = Credential.objects.select_for_update(of=("self",), no_key=True).select_related("team")
    return rows.filter(pk=credential_id).first()


def record_test(
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
