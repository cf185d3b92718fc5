"""Sends a start to Arize and interprets the answer. Writes nothing to the database."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from django.utils import timezone

from taskruns.arize.errors import ArizeError, Conflict, NotFound, RateLimited
from taskruns.arize.triggers import EvaluationTrigger, ExperimentTrigger
from taskruns.arize.wire import WireRun
from taskruns.models import Run, Task, TriggerOutcome
from taskruns.services.credentials.client import CannotConnect, connected
from taskruns.services.remote_acts import NO_KEY, SHORT_TIMEOUTS, Failure, explain, failure_of
from taskruns.services.runs.observations import fits_an_index

NEWEST_RUNS = 20  # of the task, read after a lost answer
# Arize's clock and this machine's clock may differ by this much.
CLOCKS_DIFFER = timedelta(minutes=1)
_NAME_TAKEN = (
    "Arize reports a conflict (409). Most likely the dataset already has an experiment with this name. "
    "Choose another name."
)
_NO_TASK = "Arize no longer has this task, or this API key may not see it (404)."


@dataclass(frozen=True, slots=True)
class Answer:
    """`seen`: the new run, or after a lost answer the newest runs of the task. `seen_since`: when that request began.

    `explanation` is for the page, `details` for the audit log.
    """

    outcome: TriggerOutcome
    explanation: str = ""
    seen: tuple[WireRun, ...] = ()
    seen_since: datetime | None = None
    throttled: bool = False
    details: dict[str, Any] = field(default_factory=dict)


def ask_arize(task: Task, wanted: EvaluationTrigger | ExperimentTrigger) -> Answer:
    """Send the start once and find out its outcome. Expects `task.credential` to be loaded.

    It is sent even if the key is failing or backing off: only the mirror waits for that.
    """
    if task.credential is None:
        return Answer(TriggerOutcome.NOT_SENT, NO_KEY)
    started = timezone.now()
    try:
        with connected(task.credential) as client:
            seen, facts = client.trigger_run(task.arize_id, wanted), client.facts
    except CannotConnect as error:
        return Answer(TriggerOutcome.NOT_SENT, error.sentence)
    except ArizeError as error:
        return _of_error(task, error, started)
    if not fits_an_index(seen.id):
        return _read_newest(task, started, facts)
    return Answer(TriggerOutcome.DONE, seen=(seen,), seen_since=started, details=facts)


def _of_error(task: Task, error: ArizeError, started: datetime) -> Answer:
    failure = failure_of(error)
    if failure is Failure.LOST:
        return _read_newest(task, started, error.facts)
    outcome = TriggerOutcome.NOT_SENT if failure is Failure.NOT_SENT else TriggerOutcome.REFUSED
    sentence = {Conflict: _NAME_TAKEN, NotFound: _NO_TASK}.get(type(error), "")
    return Answer(outcome, explain(error, sentence), throttled=isinstance(error, RateLimited), details=error.facts)


def _read_newest(task: Task, asked_at: datetime, facts: dict[str, Any]) -> Answer:
    """Read the newest runs, so that a run that did start is on the board. Arize does not say which one is ours."""
    started = timezone.now()
    try:
        if task.credential is None:
            return Answer(TriggerOutcome.UNKNOWN, details=facts)
        with connected(task.credential, timeouts=SHORT_TIMEOUTS) as client:
            page = client.list_runs(task.arize_id, limit=NEWEST_RUNS)
    except (ArizeError, CannotConnect) as error:
        text = f"The newest runs of the task could not be read either: {error}"
        return Answer(TriggerOutcome.UNKNOWN, text, details=facts)
    new = _new_runs(task, page.items, asked_at)
    details = facts | {"new_runs": [run.id for run in new]}
    return Answer(TriggerOutcome.UNKNOWN, _about(len(new)), page.items, started, details=details)


def _new_runs(task: Task, runs: Iterable[WireRun], asked_at: datetime) -> list[WireRun]:
    """The runs that, as far as we know, did not exist before the start was sent."""
    young = [run for run in runs if run.created_at is None or run.created_at >= asked_at - CLOCKS_DIFFER]
    held = Run.objects.filter(team=task.team_id, endpoint=task.endpoint, first_seen_at__lt=asked_at)
    known = set(held.filter(arize_id__in=[run.id for run in young]).values_list("arize_id", flat=True))
    return [run for run in young if run.id not in known]


def _about(new: int) -> str:
    if not new:
        return "The task has no new run so far, but one may still appear."
    if new == 1:
        return "One new run of the task has appeared since. It may be yours."
    return f"{new} new runs of the task have appeared since. One of them may be yours."
