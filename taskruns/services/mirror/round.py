"""One round of reading with one credential: the most important calls first, within the rate limit of its key."""

import uuid
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import structlog
from django.conf import settings
from django.utils import timezone

from taskruns.arize.client import Timeouts
from taskruns.arize.errors import ArizeError, RateLimited, Unauthorized
from taskruns.audit import Actor
from taskruns.models import Credential, Team
from taskruns.models.credentials import LONGEST_BACKOFF
from taskruns.services import key_ring
from taskruns.services.cancellations import follow
from taskruns.services.credentials import mark_failing, note_recovered, note_rejected, pauses, try_again
from taskruns.services.credentials.budget import Budget, Kind
from taskruns.services.credentials.client import CannotConnect, NotDecryptable, connected
from taskruns.services.credentials.health import CALLS_TO_TRY_AGAIN, SECOND_LOOK
from taskruns.services.remote_acts import SHORT_TIMEOUTS
from taskruns.services.runs import facts

from . import active_runs, active_unread, arize_users, first_contact, schedule, staleness, task_runs, tasks
from .reader import ITEM_ERRORS, THREADS, Reader

log = structlog.get_logger(__name__)

READER = Actor.job("mirror")
UNLIMITED = 1_000_000  # calls
SHORTEST_BACKOFF = timedelta(seconds=5)
USUAL_WAIT = 30  # seconds, after a 429 without Retry-After
LONG_TIMEOUTS = Timeouts(whole=16.0)  # those of any call in a round, without time for a retry


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
    if credential.failing_since is not None and not force:
        return _try_again(credential, began=began, by=by)
    budget = Budget(UNLIMITED if force else settings.ARIZE_CALLS_PER_MINUTE, credential.recent_calls, is_apart=force)
    old = staleness.reasons(credential.pk)
    try:
        with connected(credential, get_retries=2, pool_size=THREADS, may_retry=budget.take) as client:
            alive = partial(schedule.renew, credential, budget=budget)
            reader = Reader(
                credential, client, budget, heartbeat=alive, followed=follow(credential, by=by), is_patient=force
            )
            failure = _probe(reader) if credential.failures and not force else None
            report = _round(reader, failure, began=began, force=force, by=by)
    except CannotConnect as error:
        if isinstance(error, NotDecryptable) and (problem := key_ring.problem()):
            return _leave_to_others(credential, problem, began=began)
        mark_failing(credential, sentence=error.sentence, by=by)
        schedule.release(credential, began=began)
        return RoundReport(credential.name, 0, 0, 0, error.sentence, unauthorized=True)
    facts.update_active(credential.team_id)
    if staleness.reasons(credential.pk) != old:
        Team.bump(credential.team_id)
    _log(credential, report)
    return report


def _log(credential: Credential, report: RoundReport) -> None:
    """An open board makes a round every 5 seconds. Those that brought nothing new are for DEBUG only."""
    is_notable = report.changed or report.problem
    problem = {"problem": report.problem} if report.problem else {}
    line = log.info if is_notable else log.debug
    line("mirror_round", key=str(credential.pk), calls=report.calls, changed=report.changed, **problem)


def _try_again(credential: Credential, *, began: datetime, by: Actor) -> RoundReport:
    """See whether Arize accepts a failing key again. If so, the next round reads with it at once."""
    budget = Budget(settings.ARIZE_CALLS_PER_MINUTE, credential.recent_calls)
    if not all(budget.take() for _ in range(CALLS_TO_TRY_AGAIN)):
        schedule.release(credential, began=began)
        return RoundReport(credential.name, 0, 0, 0, credential.failing_reason, unauthorized=True)
    schedule.note_calls(credential, budget, ahead=False)
    try:
        problem = try_again(credential, by=by)
    except NotDecryptable as error:
        problem = error.sentence
    if problem:
        schedule.release(credential, began=began)
    else:
        schedule.release(credential, began=began, next_refresh_at=timezone.now())
    return RoundReport(credential.name, 1, 0, 0, problem, unauthorized=bool(problem))


def _leave_to_others(credential: Credential, problem: str, *, began: datetime) -> RoundReport:
    """This process lacks the ring key: another worker may have it, so nothing is written about the API key."""
    log.error("encryption_key_missing", key=str(credential.pk), ring_number=credential.ring_number, problem=problem)
    schedule.release(credential, began=began)
    return RoundReport(credential.name, 0, 0, 0, problem)


def _probe(reader: Reader) -> ArizeError | None:
    """After a failure, one short call first. Returns its error if Arize still fails: that is all of this round.

    Spaces and tasks take turns, because Arize may work for one of them only. Each has a short turn, so that silent keys
    do not hold up others that failed, and then a long one: an Arize that answers slowly works too.
    """
    if not reader.spend():
        return None
    failures = reader.credential.failures
    is_turn_of_spaces = failures % 2 == 1
    timeouts = SHORT_TIMEOUTS if failures % 4 in {1, 2} else LONG_TIMEOUTS
    with connected(reader.credential, timeouts=timeouts) as client:
        answer: object = reader.call_optional(
            lambda: client.list_spaces(limit=1) if is_turn_of_spaces else client.list_tasks(limit=1)
        )
    return answer if isinstance(answer, ArizeError) and not isinstance(answer, ITEM_ERRORS) else None


def _round(reader: Reader, failure: ArizeError | None, *, began: datetime, force: bool, by: Actor) -> RoundReport:
    credential, client = reader.credential, reader.client
    trouble: ArizeError | None = None
    listed = changed = 0
    try:
        if failure is not None:
            raise failure
        active_runs.note_unchecked(reader)
        changed += active_runs.read_active(reader, everything=force)
        reader.followed.look(client, may_call=lambda: not reader.is_over and reader.spend(Kind.LOOK))
        changed += active_runs.read_confirmed(reader)
        is_full = force or tasks.is_due(reader)
        if is_full or reader.has_only_item_errors:
            listed, moved = tasks.read_tasks(reader, everything=force)
            changed += moved
        if not task_runs.is_up_to_date(credential):
            changed += task_runs.read_moved(reader)
            changed += task_runs.read_new(reader)
            changed += active_unread.read_active_unread(reader)
        changed += task_runs.read_oldest(reader, everything=force)
        changed += task_runs.fill_gaps(reader)
        changed += active_runs.read_unknown(reader) if is_full else 0
        arize_users.read_names(reader)
    except ArizeError as error:
        trouble = error
    trouble = trouble or _trouble(reader)
    if reader.list_error is not None and trouble is None:
        tasks.note_list_failed(credential)
    _finish(reader, trouble, began=began, by=by)
    problem = trouble or reader.list_error
    sentence = problem.sentence if problem else ""
    return RoundReport(
        credential.name,
        client.calls,
        listed,
        changed,
        sentence,
        unauthorized=isinstance(trouble, Unauthorized),
    )


def _trouble(reader: Reader) -> ArizeError | None:
    """Why the key pauses. Not because of the list of tasks alone: the runs of known tasks can be read without it."""
    if reader.stopped_by is None and reader.list_error is not None and not reader.newest:
        return reader.list_error
    return reader.stopped_by or reader.only_error


def _finish(reader: Reader, trouble: ArizeError | None, *, began: datetime, by: Actor) -> None:
    credential, now = reader.credential, timezone.now()
    changes: dict[str, Any] = {}
    longest = schedule.longest_pause(credential) if trouble is not None else None
    if reader.answered_at is not None:
        changes["last_good_at"] = reader.answered_at
    if isinstance(trouble, Unauthorized):
        changes |= _fail(reader, trouble.sentence, by=by)
    elif trouble is not None:
        changes |= _backoff(credential, trouble, now, longest)
    elif reader.answered_at is not None:
        changes |= {"failures": 0, "backoff_until": None, "backoff_since": None, "backoff_reason": ""}
        changes |= {"backoff_is_limit": False, "rejected_at": None}
        if credential.failing_since is not None:
            note_recovered(credential, by=by)  # a failing key is read only with `force`
    has_more = first_contact.settle(credential)
    schedule.release(credential, began=began, budget=reader.budget, has_more=has_more, **changes)
    if trouble is not None:
        _shorten_again(credential, longest)
    was_new = credential.last_good_at is None and reader.answered_at is not None
    was_in_trouble = credential.backoff_until is not None or credential.failing_since is not None
    if was_new or was_in_trouble or has_more or trouble is not None:
        Team.bump(credential.team_id)


def _backoff(credential: Credential, trouble: ArizeError, now: datetime, longest: timedelta | None) -> dict[str, Any]:
    """One round is one failure, however many of its calls failed. A shorter pause never replaces a longer one."""
    failures = credential.failures + 1
    is_limit = isinstance(trouble, RateLimited)
    until = now + min(_pause(trouble, failures, longest), LONGEST_BACKOFF)
    changes = {"failures": failures, "backoff_since": credential.backoff_since or now}
    if credential.backoff_until is not None and until < credential.backoff_until <= now + LONGEST_BACKOFF:
        return changes
    return changes | {"backoff_until": until, "backoff_reason": trouble.sentence, "backoff_is_limit": is_limit}


def _shorten_again(credential: Credential, before: timedelta | None) -> None:
    """A board may have been opened, or a stop pulled, just before the pause was stored."""
    longest = schedule.longest_pause(credential)
    if longest is not None and longest != before:
        pauses.shorten([credential.team_id], longest)


def _pause(trouble: ArizeError, failures: int, longest: timedelta | None) -> timedelta:
    """As long as Arize asks for, otherwise doubled with each failure, up to `longest` while someone waits.

    A Retry-After of a 5xx is a guess. It does not hold up an emergency stop.
    """
    retry_after = trouble.retry_after
    if isinstance(trouble, RateLimited):
        return timedelta(seconds=USUAL_WAIT if retry_after is None else max(1, retry_after))
    asked = timedelta(seconds=retry_after or 0)
    pause: timedelta = SHORTEST_BACKOFF * 2 ** min(failures - 1, 10)
    if longest is not None and pause >= longest:
        pause = pauses.spread(longest)
    if longest == pauses.STOP_PAUSE:
        return min(max(asked, pause), longest)
    return max(asked, pause)


def _fail(reader: Reader, sentence: str, *, by: Actor) -> dict[str, Any]:
    """The changes after a 401: a second look in some seconds, unless this was it."""
    if note_rejected(reader.credential, sentence=sentence, by=by, accepted_at=reader.answered_at):
        return {}
    return {"next_refresh_at": timezone.now() + SECOND_LOOK}
