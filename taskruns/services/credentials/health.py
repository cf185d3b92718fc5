"""What Arize says of a key: a test by a person, and the mirror's note that Arize rejects it."""

from contextlib import suppress
from dataclasses import dataclass
from datetime import date, datetime
from enum import StrEnum
from typing import Any

from django.db import DatabaseError, transaction
from django.utils import timezone

from taskruns.arize.client import ArizeClient, Timeouts
from taskruns.arize.errors import ArizeError, BadRequest, Forbidden, NotFound, Unauthorized
from taskruns.arize.paging import Page
from taskruns.arize.wire import WireSpace, WireTask
from taskruns.audit import Actor, EventType, clean_line, record
from taskruns.models import Credential, Team
from taskruns.services.remote_acts import OutcomeNotWritten

from .client import CannotConnect, connected
from .expiry import read_end

# A person waits for the answer to a test.
_TIMEOUTS = Timeouts(connect=4, read=6)
_TASKS_ASKED_FOR = 100
_SPACES_ASKED = 5
_SPACES_NAMED = 5
CANCEL_UNTRIED = "Whether it may cancel cannot be tried without cancelling a run."
HEALTHY: dict[str, Any] = {
    "failing_since": None,
    "failing_reason": "",
    "backoff_until": None,
    "backoff_reason": "",
    "failures": 0,
    "users_refused_at": None,
}


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
class TestResult:
    """What a key can see, in a sentence, or the sentence why not. `sees_nothing`: valid, but no space and no task."""

    __test__ = False  # not a test of pytest's

    ok: bool
    sentence: str
    sees_nothing: bool = False


def test(credential: Credential, *, by: Actor) -> TestResult:
    """Ask Arize what the key sees: one page of spaces, one of tasks. Takes up to half a minute when Arize is slow.

    A good answer ends failing and backoff; a key that Arize rejects is marked failing. Raises DatabaseError when
    nothing was sent because the log takes no row, OutcomeNotWritten when it takes none any more.
    """
    _rehearse(credential, by)
    try:
        return _test(credential, by=by)
    except DatabaseError as error:
        raise OutcomeNotWritten(EventType.CREDENTIAL_TEST) from error


@transaction.atomic
def _rehearse(credential: Credential, by: Actor) -> None:
    """Write the row of this test, and take it back: a test has no row that says it was asked for."""
    record(EventType.CREDENTIAL_TEST, "failed", by=by, team=credential.team, credential=credential)
    transaction.set_rollback(True)


def _test(credential: Credential, *, by: Actor) -> TestResult:
    try:
        spaces, tasks, ends, facts = _look(credential)
    except CannotConnect as error:
        return _failed(credential, error.sentence, by=by, details={}, rejected=True)
    except ArizeError as error:
        facts = {
            "http_status": error.status,
            "arize_request_id": error.request_id,
            "milliseconds": error.milliseconds,
        }
        return _failed(credential, error.sentence, by=by, details=facts, rejected=isinstance(error, Unauthorized))
    return _worked(credential, spaces, tasks, facts, ends=ends, by=by)


def mark_failing(credential: Credential, *, sentence: str, by: Actor) -> bool:
    """The mirror met a rejection: leave the key alone until it is tested or replaced. True for the first one only."""
    with transaction.atomic():
        return _mark_failing(credential, sentence, by=by)


def _look(credential: Credential) -> tuple[Page[WireSpace], Page[WireTask], date | None, dict[str, Any]]:
    """Spaces, tasks, when Arize says that the key ends, and what the log keeps of the answer about the tasks."""
    with connected(credential, timeouts=_TIMEOUTS, get_retries=1) as client:
        try:
            spaces = client.list_spaces()
        except (Forbidden, NotFound):
            # A key, or a server, without the list of spaces: the tasks alone tell what matters.
            spaces = Page(items=(), next_cursor=None)
        tasks, facts = _tasks(client, spaces), client.facts
        return spaces, tasks, read_end(client, [space.id for space in spaces.items]), facts


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


def _worked(
    credential: Credential,
    spaces: Page[WireSpace],
    tasks: Page[WireTask],
    facts: dict[str, Any],
    *,
    ends: date | None,
    by: Actor,
) -> TestResult:
    """What Arize says of the key's end stands above what was typed."""
    now = timezone.now()
    is_new_end = ends is not None and ends != credential.expires_on
    changes = {"expires_on": ends, "expiry_told": None} if is_new_end else {}
    with transaction.atomic():
        # Only if it is still the key that was tested.
        Credential.objects.filter(pk=credential.pk, ciphertext=credential.ciphertext).update(
            last_good_at=now, next_refresh_at=now, **HEALTHY, **changes
        )
        Team.bump(credential.team_id)
        details = facts | {"spaces": len(spaces.items), "tasks": len(tasks.items)}
        if is_new_end:
            details |= {"changed": ["expires_on"], "expires_on": str(ends)}
        record(EventType.CREDENTIAL_TEST, "ok", by=by, team=credential.team, credential=credential, details=details)
    sentence = _what_it_sees(spaces, tasks) + (f" Arize says that it expires on {ends}." if ends else "")
    return TestResult(ok=True, sentence=sentence, sees_nothing=not (spaces.items or tasks.items))


def _failed(credential: Credential, sentence: str, *, by: Actor, details: dict[str, Any], rejected: bool) -> TestResult:
    with transaction.atomic():
        if rejected:
            _mark_failing(credential, sentence, by=by)
        record(EventType.CREDENTIAL_TEST, "failed", by=by, team=credential.team, credential=credential, details=details)
    return TestResult(ok=False, sentence=sentence)


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


def _what_it_sees(spaces: Page[WireSpace], tasks: Page[WireTask]) -> str:
    names = [clean_line(space.name or space.id, 60) for space in spaces.items]
    named = ", ".join(names[:_SPACES_NAMED]) + (", …" if len(names) > _SPACES_NAMED else "")
    if not names and not tasks.items:
        return f"Arize accepts the key, but it sees no space and no task: give it a role in a space. {CANCEL_UNTRIED}"
    in_spaces = _count(len(names), "space", more=bool(spaces.next_cursor)) + (f" ({named})" if named else "")
    number = _count(len(tasks.items), "task", more=bool(tasks.next_cursor))
    return f"The key works. It sees {in_spaces} and {number}. {CANCEL_UNTRIED}"


def _count(number: int, noun: str, *, more: bool) -> str:
    return f"{number}{' or more' if more else ''} {noun}{'' if number == 1 and not more else 's'}"
