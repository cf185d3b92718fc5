"""How each outcome of a cancel and of a start is worded, wherever it is shown: one row of words for each.

What an outcome means without words stands in `models/outcomes.py`.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from taskruns.models import Outcome, TriggerOutcome


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """`sentence`: the answer to whoever asked, with its `tone` (success, info, warning, error) and HTTP `status`.

    `log`: its row of the audit log, of {who}, {run} and {target}; `log_tone`: of that row.
    """

    sentence: str
    tone: str = "info"
    status: int = 200
    log: str
    log_tone: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelWords(Words):
    """`in_batch`: beside a run of a batch. `explained`, `next`: on the help page, what happened and what to do.

    `note`: beside a run that is active in spite of it; `is_alarm`: it is so against Arize's word.
    `cause`: why a run is cancelled, if this cancel may have done it: of {who} asked, {by} which means, and for an
    unknown outcome whether it {can} still be found out.
    """

    in_batch: str
    explained: str
    next: str = ""
    note: str = ""
    is_alarm: bool = False
    cause: str = ""


CANCEL_WORDS: Mapping[Outcome, CancelWords] = {
    Outcome.OPEN: CancelWords(
        sentence="Arize accepted the cancel. The run is stopping.",
        tone="success",
        log="",
        in_batch="",
        explained="Arize accepted the cancel, and the run still goes on.",
        next="Wait: the panel keeps reading, and tells the end when there is one.",
        cause="{by} {who}",
    ),
    Outcome.CONFIRMED: CancelWords(
        sentence="Cancelled. Arize confirmed it.",
        tone="success",
        log="Arize confirmed: run {run} of task {target} is cancelled",
        log_tone="success",
        in_batch="cancelled, Arize confirmed it",
        explained="Arize confirmed your cancel.",
        note="Arize said that it was cancelled, but the run goes on. Look at it in Arize.",
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
        sentence="The run was cancelled already.",
        log="Run {run} of task {target} was cancelled already",
        in_batch="cancelled already",
        explained="Somebody or something else had cancelled it before.",
    ),
    Outcome.STILL_RUNNING: CancelWords(
        sentence="Arize accepted the cancel, but the run still goes on.",
        tone="warning",
        log="Arize accepted the cancel, but run {run} of task {target} still runs",
        log_tone="error",
        in_batch="still running although Arize accepted the cancel",
        explained="Arize accepted the cancel five minutes ago, and the run still goes on.",
        next="Look at the run in Arize; you may press again.",
        note="Arize accepted a cancel, but the run still goes on.",
        is_alarm=True,
        cause="asked for by {who}, Arize accepted it",
    ),
    Outcome.REFUSED: CancelWords(
        sentence="Arize refused to cancel this run.",
        tone="error",
        status=409,
        log="Arize refused to cancel run {run} of task {target}",
        log_tone="warning",
        in_batch="refused by Arize",
        explained="Arize said no: the key may not cancel there, the run is not known, or there were too many calls.",
        next="The message names the reason; a manager can test or replace the key.",
        note="Arize refused the last cancel.",
    ),
    Outcome.NOT_SENT: CancelWords(
        sentence="Nothing was sent to Arize.",
        tone="error",
        status=502,
        log="The cancel of run {run} of task {target} could not be sent",
        log_tone="warning",
        in_batch="not sent",
        explained="Nothing reached Arize: no connection, or no key that works.",
        next="Press again when the board no longer says that Arize cannot be reached.",
        note="The last cancel could not be sent.",
    ),
    Outcome.UNKNOWN: CancelWords(
        sentence="The cancel was sent, but how it ended is not known. The panel keeps looking and will show it here; "
        "you may press Cancel again.",
        tone="warning",
        status=502,
        log="The cancel of run {run} of task {target} was sent, its end is unknown",
        log_tone="warning",
        in_batch="sent, end not known",
        explained="The cancel was sent and the answer was lost, so nobody can say yet whether it worked.",
        next="The panel looks each minute and writes the truth when Arize tells it. You may press again at any time.",
        note="A cancel was sent but its end is unknown. The panel keeps looking; you may try again.",
        cause="asked for by {who}, whether that ended it {can}",
    ),
    Outcome.JOINED: CancelWords(
        sentence="A cancel of this run is already under way. Yours was noted and joins it.",
        status=409,
        log="{who} asked too: a cancel of run {run} of task {target} was already under way",
        in_batch="",
        explained="A cancel of this run was already under way: one cancel was sent, not two.",
    ),
    Outcome.NOT_NEEDED: CancelWords(
        sentence="The run is not pending or running, so there is nothing to cancel: nothing was sent.",
        log="{who} asked to cancel run {run} of task {target}, which had ended: nothing was sent",
        in_batch="had ended before its turn, nothing sent",
        explained="The run had ended when you pressed: nothing was sent.",
    ),
}


TRIGGER_WORDS: Mapping[TriggerOutcome, Words] = {
    TriggerOutcome.OPEN: Words(
        sentence="This form is on its way, and Arize has not answered yet. It is sent only once.",
        status=409,
        log="",
    ),
    TriggerOutcome.DONE: Words(
        sentence="Arize started the run.",
        tone="success",
        log="{who} started run {run} of task {target}",
    ),
    TriggerOutcome.REFUSED: Words(
        sentence="Arize refused to start a run.",
        tone="error",
        status=409,
        log="Arize refused to start a run of task {target}",
        log_tone="warning",
    ),
    TriggerOutcome.NOT_SENT: Words(
        sentence="No run was started.",
        tone="error",
        status=502,
        log="The start of a run of task {target} could not be sent",
        log_tone="warning",
    ),
    TriggerOutcome.UNKNOWN: Words(
        sentence="The start was sent, but whether a run began is not known. "
        "Look at the runs of the task before you send it again: that would start another one.",
        tone="warning",
        status=502,
        log="The start of a run of task {target} was sent, whether a run began is not known",
        log_tone="warning",
    ),
    TriggerOutcome.USED: Words(
        sentence="This form was sent before, with other values, so nothing was sent now. "
        "Send it again to start another run.",
        tone="warning",
        status=409,
        log="",
    ),
    TriggerOutcome.HELD: Words(
        sentence="An emergency stop holds this task, so no run was started.",
        tone="warning",
        status=409,
        log="",
    ),
}
