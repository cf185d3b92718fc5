"""What Arize's answer to a cancel means. Reads Arize, writes nothing.

Source of the cases: the REST API v2 pages and what its clients do (a run that has ended answers 400; the detail text
is not relied on, the run is read again instead).
"""

from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from django.utils import timezone

from taskruns.arize.client import ArizeClient, Timeouts
from taskruns.arize.errors import (
    ArizeError,
    BadRequest,
    Conflict,
    NoAnswer,
    NotFound,
    NotSent,
    RateLimited,
    ServerError,
    Unreadable,
)
from taskruns.arize.wire import RunStatus, WireRun
from taskruns.models import Outcome, Run
from taskruns.models.credentials import CannotConnect

# One look at the run after an answer that leaves it open: short, a person is waiting.
REREAD = Timeouts(connect=2.0, read=4.0)

AFTER_OUR_CANCEL = {
    RunStatus.CANCELLED: Outcome.CONFIRMED,
    RunStatus.COMPLETED: Outcome.FINISHED_FIRST,
    RunStatus.FAILED: Outcome.FAILED_FIRST,
}
_AFTER_A_REFUSAL = AFTER_OUR_CANCEL | {RunStatus.CANCELLED: Outcome.ALREADY_CANCELLED}
# The request may have arrived and been done.
_LOST = (NoAnswer, ServerError, Unreadable)


@dataclass(frozen=True, slots=True)
class Verdict:
    """`outcome` OPEN: Arize accepted and the run goes on. `explanation` is for the page, `details` for the log.

    `error` is what the POST itself met, if no success. `calls` were made for it: whoever writes counts them, because
    asking may be done in a thread that has no database.
    """

    outcome: Outcome
    explanation: str = ""
    seen: WireRun | None = None
    # When the request began that told `seen` or `gone`; of a cancel that was answered with the end: when it was.
    seen_since: datetime | None = None
    throttled: bool = False
    gone: bool = False
    details: dict[str, Any] = field(default_factory=dict)
    error: ArizeError | None = None
    calls: int = 0


def ask_arize(run: Run) -> Verdict:
    """Send the cancel, once, and find out what became of it. Expects `run.task.credential` to be loaded."""
    credential = run.task.credential
    if credential is None:
        text = "No key of this team reads this task any more, so nothing was sent. Add or replace a key."
        return Verdict(Outcome.NOT_SENT, text)
    started = timezone.now()
    try:
        with credential.connect(get_retries=0, pool_size=1) as client:
            seen, facts = client.cancel_run(run.arize_id), client.facts
    except CannotConnect as error:
        return Verdict(Outcome.NOT_SENT, error.sentence)
    except ArizeError as error:
        verdict = _of_error(run, error)
        details = error.facts | verdict.details
        calls = verdict.calls + 1
        return replace(verdict, seen_since=verdict.seen_since or started, details=details, error=error, calls=calls)
    if seen.status is RunStatus.UNKNOWN and not seen.raw_status:
        found = _reread(run, AFTER_OUR_CANCEL)
        # Arize did accept it: a run that is seen to go on is stopping.
        outcome = Outcome.OPEN if found.seen is not None and found.outcome is Outcome.UNKNOWN else found.outcome
        return replace(found, outcome=outcome, details=facts | found.details, calls=found.calls + 1)
    outcome = AFTER_OUR_CANCEL.get(seen.status, Outcome.OPEN)
    # An end stays: a list that was asked for while the cancel was on its way, and tells of the run before it, is older.
    since = started if outcome is Outcome.OPEN else timezone.now()
    return Verdict(outcome, seen=seen, seen_since=since, details=facts, calls=1)


def _of_error(run: Run, error: ArizeError) -> Verdict:
    if isinstance(error, NotSent):
        return Verdict(Outcome.NOT_SENT, error.sentence)
    if isinstance(error, _LOST):
        return _reread(run, AFTER_OUR_CANCEL)
    if isinstance(error, BadRequest | Conflict) and error.status is not None:
        found = _reread(run, _AFTER_A_REFUSAL)
        if found.outcome is not Outcome.UNKNOWN:
            return found
        return replace(found, outcome=Outcome.REFUSED, explanation=_problem(error))
    # A refusal of ours before sending (an id that cannot be put into an address) has no status.
    outcome = Outcome.REFUSED if error.status is not None else Outcome.NOT_SENT
    return Verdict(
        outcome,
        _problem(error),
        throttled=isinstance(error, RateLimited),
        gone=isinstance(error, NotFound),
    )


def _reread(run: Run, meaning: dict[RunStatus, Outcome]) -> Verdict:
    """One look at the run: its end, or UNKNOWN while it is active or cannot be read."""
    credential = run.task.credential
    started = timezone.now()
    try:
        if credential is None:
            return Verdict(Outcome.UNKNOWN)
        with credential.connect(timeouts=REREAD, get_retries=0, pool_size=1) as client:
            seen = _read(client, run)
    except (ArizeError, CannotConnect) as error:
        return Verdict(Outcome.UNKNOWN, f"Reading the run again failed: {error}", calls=1)
    outcome = meaning.get(seen.status, Outcome.UNKNOWN)
    return Verdict(outcome, seen=seen, seen_since=started, details={"reread": seen.status.value}, calls=1)


def _read(client: ArizeClient, run: Run) -> WireRun:
    return client.get_run(run.arize_id)


def _problem(error: ArizeError) -> str:
    """Our sentence, then Arize's own words (already cleaned, at most 300 characters)."""
    return f"{error.sentence} Arize says: {error.words}" if error.words else error.sentence
