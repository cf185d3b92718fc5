"""The possible outcomes of a cancel and of a start of a run, without their wording.

A new outcome needs one member and its facts here, and its words in `pages/outcomes.py`. The audit catalogue, the column
choices (by a migration), the help page and the batch pages follow from these.
"""

from dataclasses import dataclass
from enum import StrEnum

from django.db import models


class Outcome(models.TextChoices):
    """The outcome of a cancel. OPEN: none yet. The last two sent nothing and have no Cancellation."""

    OPEN = "", "open"
    CONFIRMED = "confirmed"
    FINISHED_FIRST = "finished_first"
    FAILED_FIRST = "failed_first"
    ALREADY_CANCELLED = "already_cancelled"
    STILL_RUNNING = "still_running"
    REFUSED = "refused"
    NOT_SENT = "not_sent"
    UNKNOWN = "unknown"
    JOINED = "joined"
    NOT_NEEDED = "not_needed"

    @property
    def code(self) -> str:
        """The outcome as pages and the audit log name it. An open one is `stopping`: Arize accepted the cancel."""
        return self.value or "stopping"


class Effect(StrEnum):
    """What an outcome says about the run."""

    OPEN = "not known yet"
    STOPPED = "cancelled"
    ENDED = "had ended by itself"
    NOT_STOPPED = "may still be active"


@dataclass(frozen=True, slots=True)
class CancelFacts:
    """`is_final`: no later outcome replaces it. `has_row`: a Cancellation can have it; the audit log has all but OPEN.

    `credit`: if a cancelled run has several cancels, the one with the highest credit most likely ended it; 0 did not.
    """

    effect: Effect
    is_final: bool = True
    has_row: bool = True
    credit: int = 0


CANCEL_FACTS = {
    Outcome.OPEN: CancelFacts(Effect.OPEN, is_final=False, credit=3),
    Outcome.CONFIRMED: CancelFacts(Effect.STOPPED, credit=4),
    Outcome.FINISHED_FIRST: CancelFacts(Effect.ENDED),
    Outcome.FAILED_FIRST: CancelFacts(Effect.ENDED),
    Outcome.ALREADY_CANCELLED: CancelFacts(Effect.STOPPED),
    Outcome.STILL_RUNNING: CancelFacts(Effect.NOT_STOPPED, credit=2),
    Outcome.REFUSED: CancelFacts(Effect.NOT_STOPPED),
    Outcome.NOT_SENT: CancelFacts(Effect.NOT_STOPPED),
    Outcome.UNKNOWN: CancelFacts(Effect.NOT_STOPPED, is_final=False, credit=1),
    Outcome.JOINED: CancelFacts(Effect.OPEN, has_row=False),
    Outcome.NOT_NEEDED: CancelFacts(Effect.ENDED, has_row=False),
}


class TriggerOutcome(models.TextChoices):
    """The outcome of a start. OPEN: Arize has not answered yet. The last two sent nothing and have no Trigger."""

    OPEN = "", "open"
    DONE = "done"
    REFUSED = "refused"
    NOT_SENT = "not_sent"
    UNKNOWN = "unknown"
    USED = "used"  # the form was submitted before, with other values
    HELD = "held"  # by an emergency stop; the audit log records it as not_sent

    @property
    def code(self) -> str:
        return self.value or "under_way"


@dataclass(frozen=True, slots=True)
class TriggerFacts:
    """`is_final`: no later outcome replaces it. `has_row`: a Trigger can have it, and the audit log names it."""

    is_final: bool = True
    has_row: bool = True


TRIGGER_FACTS = {
    TriggerOutcome.OPEN: TriggerFacts(is_final=False),
    TriggerOutcome.DONE: TriggerFacts(),
    TriggerOutcome.REFUSED: TriggerFacts(),
    TriggerOutcome.NOT_SENT: TriggerFacts(),
    TriggerOutcome.UNKNOWN: TriggerFacts(is_final=False),
    TriggerOutcome.USED: TriggerFacts(has_row=False),
    TriggerOutcome.HELD: TriggerFacts(has_row=False),
}
