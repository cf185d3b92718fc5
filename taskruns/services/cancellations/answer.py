"""Sends a cancel to Arize and interprets the answer. Writes nothing to the database.

The cases follow Arize's REST API v2 documentation and its clients. A run that has ended answers 400; the panel does not
rely on the error text, but reads the run again.
"""

from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from django.utils import timezone

from taskruns.arize.errors import ArizeError, BadRequest, Conflict, NotFound, RateLimited
from taskruns.arize.wire import RunStatus, WireRun
from taskruns.models import Outcome, Run
from taskruns.services.credentials.client import CannotConnect, connected
from taskruns.services.remote_acts import NO_KEY, SHORT_TIMEOUTS, Failure, explain, failure_of

GONE = "Arize no longer has this run."
# The outcome for each status of the run after our cancel. Any other status leaves the outcome open.
Meaning = dict[RunStatus, Outcome]
AFTER_OUR_CANCEL: Meaning = {
    RunStatus.CANCELLED: Outcome.CONFIRMED,
    RunStatus.COMPLETED: Outcome.FINISHED_FIRST,
    RunStatus.FAILED: Outcome.FAILED_FIRST,
}
_AFTER_A_REFUSAL = AFTER_OUR_CANCEL | {RunStatus.CANCELLED: Outcome.ALREADY_CANCELLED}


@dataclass(frozen=True, slots=True)
class Answer:
    """`outcome` OPEN: Arize accepted the cancel and the run is still active. `explanation` is for the page, `details`
    for the audit log.

    `error`: the error of the POST itself, if any. `calls`: how many calls were made. The writer counts them, because
    the thread that calls Arize may have no database connection.
    """

    outcome: Outcome
    explanation: str = ""
    seen: WireRun | None = None
    # When the request for `seen` or `gone` began. If the cancel's own answer shows an ended run: when it arrived.
    seen_since: datetime | None = None
    throttled: bool = False
    gone: bool = False
    details: dict[str, Any] = field(default_factory=dict)
    error: ArizeError | None = None
    calls: int = 0


def ask_arize(run: Run) -> Answer:
    """Send the cancel once and find out its outcome. Expects `run.task.credential` to be loaded."""
    credential = run.task.credential
    if credential is None:
        return Answer(Outcome.NOT_SENT, NO_KEY)
    started = timezone.now()
    try:
        with connected(credential, counted=False) as client:
            seen, facts = client.cancel_run(run.arize_id), client.facts
    except CannotConnect as error:
        return Answer(Outcome.NOT_SENT, error.sentence)
    except ArizeError as error:
        answer = _of_error(run, error)
        details = error.facts | answer.details
        calls = answer.calls + 1
        return replace(answer, seen_since=answer.seen_since or started, details=details, error=error, calls=calls)
    if _says_nothing(seen, run):
        found = reread(run)
        # Arize accepted the cancel, so a run that is still active is stopping.
        outcome = Outcome.OPEN if found.seen is not None and found.outcome is Outcome.UNKNOWN else found.outcome
        return replace(found, outcome=outcome, details=facts | found.details, calls=found.calls + 1)
    outcome = AFTER_OUR_CANCEL.get(seen.status, Outcome.OPEN)
    # An ended run stays ended. Dated at the answer, it cannot be undone by a list that was requested during the cancel.
    since = started if outcome is Outcome.OPEN else timezone.now()
    return Answer(outcome, seen=seen, seen_since=since, details=facts, calls=1)


def _says_nothing(seen: WireRun, run: Run) -> bool:
    """Without a status, or about another run, an answer only says that Arize accepted the cancel."""
    return seen.id != run.arize_id or (seen.status is RunStatus.UNKNOWN and not seen.raw_status)


def reread(run: Run, meaning: Meaning = AFTER_OUR_CANCEL, *, is_late: bool = False) -> Answer:
    """Read the run once. The outcome is UNKNOWN while it is active or cannot be read.

    `is_late`: the POST was some time ago, so that a 404 means that the run is gone.
    """
    credential = run.task.credential
    started = timezone.now()
    try:
        if credential is None:
            return Answer(Outcome.UNKNOWN)
        with connected(credential, timeouts=SHORT_TIMEOUTS, counted=False) as client:
            seen = client.get_run(run.arize_id).only_if(run.arize_id)
    except (ArizeError, CannotConnect) as error:
        if is_late and isinstance(error, NotFound):
            return Answer(Outcome.UNKNOWN, GONE, gone=True, seen_since=started, calls=1)
        return Answer(Outcome.UNKNOWN, f"Reading the run again failed: {error}", calls=1)
    outcome = meaning.get(seen.status, Outcome.UNKNOWN)
    return Answer(outcome, seen=seen, seen_since=started, details={"reread": seen.status.value}, calls=1)


def _of_error(run: Run, error: ArizeError) -> Answer:
    failure = failure_of(error)
    if failure is Failure.LOST:
        return reread(run)
    if failure is Failure.NOT_SENT:
        return Answer(Outcome.NOT_SENT, explain(error))
    if isinstance(error, BadRequest | Conflict):
        found = reread(run, _AFTER_A_REFUSAL)
        if found.outcome is not Outcome.UNKNOWN:
            return found
        return replace(found, outcome=Outcome.REFUSED, explanation=explain(error))
    if isinstance(error, NotFound):
        # Also the answer to a key that may read the run but not cancel it: only a second one means that it is gone.
        return replace(reread(run, {}, is_late=True), outcome=Outcome.REFUSED, explanation=explain(error))
    return Answer(Outcome.REFUSED, explain(error), throttled=isinstance(error, RateLimited))
