"""Sends a start to Arize and interprets the answer. Does not use the database: a thread of a batch may have none."""

from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from django.utils import timezone

from taskruns.arize.errors import ArizeError, Conflict, NotFound, RateLimited
from taskruns.arize.triggers import Wanted
from taskruns.arize.wire import WireRun
from taskruns.models import Task, TriggerOutcome
from taskruns.services.credentials.client import CannotConnect, connected
from taskruns.services.remote_acts import NO_KEY, SHORT_TIMEOUTS, Failure, explain, failure_of
from taskruns.services.runs.observations import fits_an_index

NEWEST_RUNS = 20  # of the task, read after a lost answer
_NAME_TAKEN = (
    "Arize reports a conflict (409). Most likely the dataset already has an experiment with this name. "
    "Choose another name."
)
_NO_TASK = "Arize no longer has this task, or this API key may not see it (404)."


@dataclass(frozen=True, slots=True)
class Answer:
    """`seen`: the new run, or after a lost answer the newest runs of the task. `seen_since`: when that request began.

    `explanation` is for the page, `details` for the audit log. `lost_at`: when a start was sent whose answer was lost,
    if the newest runs could be read. `error`: the error of the POST itself. `calls`: how many calls were made; the
    caller counts them.
    """

    outcome: TriggerOutcome
    explanation: str = ""
    seen: tuple[WireRun, ...] = ()
    seen_since: datetime | None = None
    throttled: bool = False
    details: dict[str, Any] = field(default_factory=dict)
    lost_at: datetime | None = None
    error: ArizeError | None = None
    calls: int = 0


def ask_arize(task: Task, wanted: Wanted) -> Answer:
    """Send the start once and find out its outcome. Expects `task.credential` to be loaded.

    It is sent even if the key is failing or backing off: only the mirror waits for that.
    """
    if task.credential is None:
        return Answer(TriggerOutcome.NOT_SENT, NO_KEY)
    started = timezone.now()
    try:
        with connected(task.credential, counted=False) as client:
            seen, facts = client.trigger_run(task.arize_id, wanted), client.facts
    except CannotConnect as error:
        return Answer(TriggerOutcome.NOT_SENT, error.sentence)
    except ArizeError as error:
        return _of_error(task, error, started)
    if not fits_an_index(seen.id):
        return _read_newest(task, started, facts)
    return Answer(TriggerOutcome.DONE, seen=(seen,), seen_since=started, details=facts, calls=1)


def _of_error(task: Task, error: ArizeError, started: datetime) -> Answer:
    failure = failure_of(error)
    if failure is Failure.LOST:
        return _read_newest(task, started, error.facts, error)
    outcome = TriggerOutcome.NOT_SENT if failure is Failure.NOT_SENT else TriggerOutcome.REFUSED
    sentence = {Conflict: _NAME_TAKEN, NotFound: _NO_TASK}.get(type(error), "")
    is_limit = isinstance(error, RateLimited)
    return Answer(outcome, explain(error, sentence), throttled=is_limit, details=error.facts, error=error, calls=1)


def _read_newest(task: Task, sent_at: datetime, facts: dict[str, Any], error: ArizeError | None = None) -> Answer:
    """Read the newest runs, so that a run that did start is on the board. Arize does not say which one is ours."""
    started = timezone.now()
    lost = Answer(TriggerOutcome.UNKNOWN, details=facts, error=error, calls=2)
    try:
        if task.credential is None:
            return replace(lost, calls=1)
        with connected(task.credential, timeouts=SHORT_TIMEOUTS, counted=False) as client:
            page = client.list_runs(task.arize_id, limit=NEWEST_RUNS)
    except (ArizeError, CannotConnect) as failed:
        return replace(lost, explanation=f"The newest runs of the task could not be read either: {failed}")
    return replace(lost, seen=page.items, seen_since=started, lost_at=sent_at)
