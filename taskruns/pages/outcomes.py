"""The texts for each outcome of a cancel and of a start.

What an outcome means, without texts, is in `models/outcomes.py`.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from taskruns.models import Outcome, TriggerOutcome


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """`sentence`: the answer to the request, with its `tone` (success, info, warning, error) and HTTP `status`.

    `log`: the sentence for its audit row, with {who}, {run} and {target}; `log_tone`: the tone of that row.
    """

    sentence: str
    tone: str = "info"
    status: int = 200
    log: str
    log_tone: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelWords(Words):
    """`in_batch`: beside a run of a batch. `explained`, `next`: on the help page, what happened and what to do.

    `note`: beside a run that is still active after this cancel; `is_alarm`: Arize had reported otherwise.
    `cause`: why a run is cancelled, if this cancel may have done it. {who} asked, {by} what means, and {can}: for an
    unknown outcome, whether it may still become known.
    """

    in_batch: str
    explained: str
    next: str = ""
    note: str = ""
    is_alarm: bool = False
    cause: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TriggerWords(Words):
    """`in_batch`: beside a run that a batch was to start again."""

    in_batch: str = ""


CANCEL_WORDS: Mapping[Outcome, CancelWords] = {
    Outcome.OPEN: CancelWords(
        sentence="Arize accepted the cancel. The run is stopping.",
        tone="success",
        log="",
        in_batch="",
        explained="Arize accepted the cancel. The run is still active.",
        next="Wait. The panel keeps checking and shows the outcome beside the run.",
        cause="{by} {who}",
    ),
    Outcome.CONFIRMED: CancelWords(
        sentence="Cancelled. Arize confirmed it.",
        tone="success",
        log="Arize confirmed: run {run} of task {target} is cancelled",
        log_tone="success",
        in_batch="cancelled, Arize confirmed it",
        explained="Arize confirmed your cancel.",
        note="Arize reported the run as cancelled, but it is still active. Check it in Arize.",
        is_alarm=True,
        cause="{by} {who}",
    ),
    Outcome.FINISHED_FIRST: CancelWords(
        sentence="The run had already finished: nothing was stopped.",
        log="Run {run} of task {target} had already finished",
        in_batch="had already finished",
        explained="The run had completed before the cancel reached it.",
    ),
    Outcome.FAILED_FIRST: CancelWords(
        sentence="The run had already failed: nothing was stopped.",
        log="Run {run} of task {target} had already failed",
        in_batch="had already failed",
        explained="The run had failed before the cancel reached it.",
    ),
    Outcome.ALREADY_CANCELLED: CancelWords(
        sentence="The run was already cancelled.",
        log="Run {run} of task {target} was already cancelled",
        in_batch="already cancelled",
        explained="Another cancel stopped the run, here or in Arize. Yours did not.",
    ),
    Outcome.STILL_RUNNING: CancelWords(
        sentence="Arize accepted the cancel, but the run is still active.",
        tone="warning",
        log="Arize accepted the cancel, but run {run} of task {target} still runs",
        log_tone="error",
        in_batch="still running although Arize accepted the cancel",
        explained="Five minutes after Arize accepted the cancel, the run is still active.",
        next="Check the run in Arize. You can cancel again.",
        note="Arize accepted a cancel, but the run is still active.",
        is_alarm=True,
        cause="requested by {who}, accepted by Arize",
    ),
    Outcome.REFUSED: CancelWords(
        sentence="Arize refused to cancel this run.",
        tone="error",
        status=409,
        log="Arize refused to cancel run {run} of task {target}",
        log_tone="warning",
        in_batch="refused by Arize",
        explained="Arize refused: the key may not cancel there, the run does not exist, or the rate limit was reached.",
        next="The message gives the reason. A manager can test or replace the key.",
        note="Arize refused the last cancel.",
    ),
    Outcome.NOT_SENT: CancelWords(
        sentence="Nothing was sent to Arize.",
        tone="error",
        status=502,
        log="The cancel of run {run} of task {target} could not be sent",
        log_tone="warning",
        in_batch="not sent",
        explained="Nothing was sent: no connection to Arize, no working key, or the panel was interrupted first.",
        next="Cancel again once the board no longer shows a connection problem.",
        note="The last cancel could not be sent.",
    ),
    Outcome.UNKNOWN: CancelWords(
        sentence="The cancel was sent, but its outcome is unknown. The panel keeps checking and will show it here. "
        "You can cancel again.",
        tone="warning",
        status=502,
        log="The cancel of run {run} of task {target} was sent, its outcome is unknown",
        log_tone="warning",
        in_batch="sent, outcome unknown",
        explained="The cancel was sent, but Arize's answer was lost. It is unknown whether it worked.",
        next="The panel checks every minute and records the outcome once it is known. You can cancel again.",
        note="A cancel was sent, but its outcome is unknown. The panel keeps checking. You can cancel again.",
        cause="requested by {who}, outcome {can}",
    ),
    Outcome.JOINED: CancelWords(
        sentence="A cancel of this run is already in progress. Yours was recorded and joined to it.",
        status=409,
        log="{who} also asked to cancel run {run} of task {target}: a cancel was already in progress",
        in_batch="",
        explained="A cancel of this run was already in progress. Only one cancel was sent.",
    ),
    Outcome.NOT_NEEDED: CancelWords(
        sentence="The run is not pending or running. There is nothing to cancel, so nothing was sent.",
        log="{who} asked to cancel run {run} of task {target}, which was not pending or running: nothing was sent",
        in_batch="had ended before its turn, nothing sent",
        explained="The run was not pending or running when you clicked Cancel. Nothing was sent.",
    ),
}


TRIGGER_WORDS: Mapping[TriggerOutcome, TriggerWords] = {
    TriggerOutcome.OPEN: TriggerWords(
        sentence="The form was sent, and Arize has not answered yet. It is sent only once.",
        status=409,
        log="",
    ),
    TriggerOutcome.DONE: TriggerWords(
        in_batch="started",
        sentence="Arize started the run.",
        tone="success",
        log="{who} started run {run} of task {target}",
    ),
    TriggerOutcome.REFUSED: TriggerWords(
        in_batch="refused by Arize",
        sentence="Arize refused to start a run.",
        tone="error",
        status=409,
        log="Arize refused to start a run of task {target}",
        log_tone="warning",
    ),
    TriggerOutcome.NOT_SENT: TriggerWords(
        in_batch="not sent",
        sentence="No run was started.",
        tone="error",
        status=502,
        log="The start of a run of task {target} could not be sent",
        log_tone="warning",
    ),
    TriggerOutcome.UNKNOWN: TriggerWords(
        in_batch="sent, outcome unknown",
        sentence="The start was sent, but it is unknown whether a run began. "
        "Check the task's runs before you send the form again: that would start another run.",
        tone="warning",
        status=502,
        log="The start of a run of task {target} was sent, it is unknown whether a run began",
        log_tone="warning",
    ),
    TriggerOutcome.USED: TriggerWords(
        sentence="This form was already sent with other values, so nothing was sent now. "
        "Send it again to start another run.",
        tone="warning",
        status=409,
        log="",
    ),
    TriggerOutcome.HELD: TriggerWords(
        sentence="An emergency stop holds this task, so no run was started.",
        tone="warning",
        status=409,
        log="",
    ),
}
