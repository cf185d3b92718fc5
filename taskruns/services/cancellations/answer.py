"""What Arize's answer to a cancel means. Asks Arize, writes nothing.

Source of the cases: the REST API v2 pages and what its clients do (a run that has ended answers 400; the detail text
is not relied on, the run is read again instead).
"""

from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from django.utils import timezone

from taskruns.arize.errors import ArizeError, BadRequest, Conflict, NotFound, RateLimited
from taskruns.arize.wire import RunStatus, WireRun
from taskruns.models import Outcome, Run
from taskruns.services.credentials.client import CannotConnect, connected
from taskruns.services.remote_acts import LOOK, NO_KEY, Failure, failure_of, in_words

GONE = "Arize no longer knows this run."
# What the run's status says after a cancel of ours; a status that is not here leaves the outcome open.
Meaning = dict[RunStatus, Outcome]
AFTER_OUR_CANCEL: Meaning = {
    RunStatus.CANCELLED: Outcome.CONFIRMED,
    RunStatus.COMPLETED: Outcome.FINISHED_FIRST,
    RunStatus.FAILED: Outcome.FAILED_FIRST,
}
_AFTER_A_REFUSAL = AFTER_OUR_CANCEL | {RunStatus.CANCELLED: Outcome.ALREADY_CANCELLED}


@dataclass(frozen=True, slots=True)
class Answer:
    """`outcome` OPEN: Arize accepted and the run goes on. `explanation` is for the page, `details` for the log.

    `error` is what the POST itself met, if no success. `calls` were made for it: whoever writes counts them, because
    asking may be done in a thread that has no database.
    """

    outcome: Outcome
    explanation: str = ""
    seen: WireRun | None = None
    # When the request began that brought `seen` or `gone`; of a cancel that was answered with an ended run: the answer.
    seen_since: datetime | None = None
    throttled: bool = False
    gone: bool = False
    details: dict[str, Any] = field(default_factory=dict)
    error: ArizeError | None = None
    calls: int = 0


def ask_arize(run: Run) -> Answer:
    """Send the cancel, once, and find out what came of it. Expects `run.task.credential` to be loaded."""
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
    if seen.status is RunStatus.UNKNOWN and not seen.raw_status:
        found = reread(run)
        # Arize did accept it: a run that is seen to be active is stopping.
        outcome = Outcome.OPEN if found.seen is not None and found.outcome is Outcome.UNKNOWN else found.outcome
        return replace(found, outcome=outcome, details=facts | found.details, calls=found.calls + 1)
    outcome = AFTER_OUR_CANCEL.get(seen.status, Outcome.OPEN)
    # An ended run stays ended: a list that was requested during the cancel, and shows the run before it, is older.
    since = started if outcome is Outcome.OPEN else timezone.now()
    return Answer(outcome, seen=seen, seen_since=since, details=facts, calls=1)


def reread(run: Run, meaning: Meaning = AFTER_OUR_CANCEL, *, is_late: bool = False) -> Answer:
    """One look at the run: its outcome, or UNKNOWN while it is active or cannot be read.

    `is_late`: some time after the POST, when a 404 means that the run is gone.
    """
    credential = run.task.credential
    started = timezone.now()
    try:
        if credential is None:
            return Answer(Outcome.UNKNOWN)
        with connected(credential, timeouts=LOOK, counted=False) as client:
            seen = client.get_run(run.arize_id)
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
        return Answer(Outcome.NOT_SENT, in_words(error))
    if isinstance(error, BadRequest | Conflict):
        found = reread(run, _AFTER_A_REFUSAL)
        if found.outcome is not Outcome.UNKNOWN:
            return found
        return replace(found, outcome=Outcome.REFUSED, explanation=in_words(error))
    is_limit, is_gone = isinstance(error, RateLimited), isinstance(error, NotFound)
    return Answer(Outcome.REFUSED, in_words(error), throttled=is_limit, gone=is_gone)
