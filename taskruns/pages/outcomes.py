"""What a cancel came to, in sentences: of the press itself, and of the run that it ended or did not end."""

from datetime import timedelta

from taskruns.models import Cancellation, Outcome, Run, Status
from taskruns.services.cancellations import CancelResult
from taskruns.services.cancellations.actions import JOINED, NOT_NEEDED, STOPPING

from .values import Moment

# Arize ends a run that had nothing to do, or bad credentials, within seconds and without counts.
ARIZE_ENDS_WITHIN = timedelta(seconds=10)
# Ends after which a run that is active goes on against Arize's word.
GOES_ON = (Outcome.CONFIRMED, Outcome.STILL_RUNNING)


def cause_of(run: Run, last: Cancellation | None) -> str:
    """Who cancelled a CANCELLED run, as far as anyone can know: Arize itself does not say."""
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


def _asked(last: Cancellation) -> str:
    """Whose press or hold ended the run, or may have; empty: none. Expects the batch to be loaded, if it is of one."""
    if last.outcome in {Outcome.OPEN, Outcome.CONFIRMED}:
        who = "a hold: emergency stop pulled by" if is_held(last) else "cancelled by"
        return f"{who} {last.person_label}"
    if last.outcome == Outcome.STILL_RUNNING:
        return f"asked for by {last.person_label}, Arize accepted it"
    if last.outcome == Outcome.UNKNOWN:
        what = "is being found out" if last.followed else "could not be found out"
        return f"asked for by {last.person_label}, whether that ended it {what}"
    return ""


def _ended_at_once(run: Run) -> bool:
    begun = run.run_started_at or run.created_at
    if begun is None or run.run_finished_at is None:
        return False
    untouched = not (run.num_successes or run.num_errors or run.num_skipped)
    return untouched and run.run_finished_at - begun <= ARIZE_ENDS_WITHIN


def last_note(run: Run, last: Cancellation | None) -> str:
    """What the latest cancellation still has to say about a run that goes on."""
    if last is None or not run.is_active:
        return ""
    return {
        Outcome.UNKNOWN: "A cancel was sent but its end is unknown. The panel keeps looking; you may try again.",
        Outcome.CONFIRMED: "Arize said that it was cancelled, but the run goes on. Look at it in Arize.",
        Outcome.STILL_RUNNING: "Arize accepted a cancel, but the run still goes on.",
        Outcome.REFUSED: "Arize refused the last cancel.",
        Outcome.NOT_SENT: "The last cancel could not be sent.",
    }.get(Outcome(last.outcome), "")


SENTENCES = {
    Outcome.CONFIRMED.value: "Cancelled: Arize confirmed it.",
    Outcome.FINISHED_FIRST.value: "The run had already finished: nothing was stopped.",
    Outcome.FAILED_FIRST.value: "The run had already failed: nothing was stopped.",
    Outcome.ALREADY_CANCELLED.value: "The run was cancelled already.",
    Outcome.REFUSED.value: "Arize refused to cancel this run.",
    Outcome.NOT_SENT.value: "Nothing was sent to Arize.",
    Outcome.UNKNOWN.value: (
        "The cancel was sent, but how it ended is not known. The panel keeps looking and will show it here; "
        "you may press Cancel again."
    ),
    JOINED: "A cancel of this run is already under way. Yours was noted and joins it.",
    NOT_NEEDED: "The run is not pending or running, so there is nothing to cancel: nothing was sent.",
    STOPPING: "Arize accepted the cancel. The run is stopping.",
}


def sentence_of(result: CancelResult) -> str:
    first = joined_sentence(result.holder, is_own=result.is_own) if result.holder is not None else ""
    return " ".join(part for part in (first, SENTENCES[result.outcome], result.explanation) if part)


def joined_sentence(holder: Cancellation, *, is_own: bool) -> str:
    """Who asked first, as the row of the run tells everybody in the team. Expects the batch to be loaded, if any."""
    at = Moment.of(holder.requested_at)
    when = f" at {at.text}" if at else ""
    if is_own:
        return f"You asked for it{when} already."
    if is_held(holder):
        return f"The emergency stop that {holder.person_label} pulled asked for it{when}."
    return f"{holder.person_label} asked for it{when}."


def is_held(last: Cancellation) -> bool:
    """Whether a hold asked for it. Expects the batch to be loaded, if it is of one."""
    return last.batch is not None and last.batch.stop_id is not None
