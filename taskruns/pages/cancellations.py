"""What pages say about a cancel: the answer to the person who asked, and what it means for the run."""

from datetime import datetime, timedelta
from typing import Protocol

from taskruns.models import Cancellation, Outcome, Run, Status
from taskruns.services.cancellations import CancelResult

from .outcomes import CANCEL_WORDS
from .values import Moment, who_of

# Arize ends a run that had nothing to do, or bad credentials, within seconds and without counts.
ARIZE_ENDS_WITHIN = timedelta(seconds=10)
QUEUED = "Cancel requested, being sent to Arize. The outcome will be shown here."


def sentence_of(result: CancelResult) -> str:
    if result.is_queued:
        return QUEUED
    first = joined_sentence(result.holder, is_own=result.is_own) if result.holder is not None else ""
    return " ".join(part for part in (first, CANCEL_WORDS[result.outcome].sentence, result.explanation) if part)


def joined_sentence(holder: Cancellation, *, is_own: bool) -> str:
    """Who asked first: the run's row shows it to the whole team too. Expects the person and the batch to be loaded."""
    at = Moment.of(holder.requested_at)
    when = f" at {at.text}" if at else ""
    if is_own:
        return f"You already asked to cancel this run{when}."
    if _is_held(holder):
        return f"The emergency stop of {who_of(holder)} already asked to cancel this run{when}."
    return f"{who_of(holder)} already asked to cancel this run{when}."


class EndedRun(Protocol):
    """The fields that `cause_of` reads, from a `Run` or from a row of an export."""

    @property
    def status(self) -> str: ...
    @property
    def failure_reason(self) -> str | None: ...
    @property
    def created_at(self) -> datetime | None: ...
    @property
    def run_started_at(self) -> datetime | None: ...
    @property
    def run_finished_at(self) -> datetime | None: ...
    @property
    def num_successes(self) -> int | None: ...
    @property
    def num_errors(self) -> int | None: ...
    @property
    def num_skipped(self) -> int | None: ...


def cause_of(run: EndedRun, last: Cancellation | None) -> str:
    """Who cancelled a CANCELLED run, as far as it can be known: Arize does not say."""
    if run.status != Status.CANCELLED:
        return run.failure_reason or "" if run.status == Status.FAILED else ""
    asked = _asked(last) if last is not None else ""
    if last is not None and asked:
        return f"{asked}: {last.reason}" if last.reason else asked
    if run.failure_reason:
        return f"cancelled by Arize: {run.failure_reason}"
    if _ended_at_once(run):
        return "cancelled by Arize within seconds, nothing was evaluated"
    return "cancelled by someone outside this team"


def last_note(run: Run, last: Cancellation | None) -> str:
    """A note on a run that is still active after its latest cancellation."""
    return CANCEL_WORDS[Outcome(last.outcome)].note if last is not None and run.is_active else ""


def is_alarming(run: Run, last: Cancellation | None) -> bool:
    """The run is active although Arize reported it as cancelled."""
    return last is not None and run.is_active and CANCEL_WORDS[Outcome(last.outcome)].is_alarm


def _asked(last: Cancellation) -> str:
    """Who or what cancelled the run, or may have; empty if this cancel did not. Expects the person and the batch."""
    return CANCEL_WORDS[Outcome(last.outcome)].cause.format(
        who=who_of(last),
        by="cancelled by the emergency stop of" if _is_held(last) else "cancelled by",
        can="not known yet" if last.followed else "unknown",
    )


def _is_held(last: Cancellation) -> bool:
    """Whether an emergency stop requested it."""
    return last.batch is not None and last.batch.stop_id is not None


def _ended_at_once(run: EndedRun) -> bool:
    begun = run.run_started_at or run.created_at
    if begun is None or run.run_finished_at is None:
        return False
    untouched = not (run.num_successes or run.num_errors or run.num_skipped)
    return untouched and run.run_finished_at - begun <= ARIZE_ENDS_WITHIN
