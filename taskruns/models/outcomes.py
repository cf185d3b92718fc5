"""What a cancel and a start of a run can come to: the tables of outcomes, without words.

A new outcome is one member with its row here and one row of words in `pages/outcomes.py`; the log's catalogue, the
columns' choices, the help page and the pages of batches follow from these two (the choices by a migration).
"""

from dataclasses import dataclass
from enum import StrEnum

from django.db import models


class Outcome(models.TextChoices):
    """What a cancel came to. OPEN: it has no outcome yet. The last two sent nothing: they have no row of their own."""

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
        """As people and programs read it: of an open one Arize has accepted the cancel."""
        return self.value or "stopping"


class Effect(StrEnum):
    """What an outcome says of the run."""

    OPEN = "not known yet"
    STOPPED = "cancelled"
    ENDED = "had ended by itself"
    NOT_STOPPED = "may still be active"


@dataclass(frozen=True, slots=True)
class CancelFacts:
    """`is_final`: no later truth takes its place. `has_row`: a Cancellation can hold it; the log names all but OPEN.

    `credit`: of several cancels of a cancelled run, the one with the highest most likely ended it; 0: it did not.
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
    """What a start came to. OPEN: Arize has not answered yet. The last two sent nothing: they have no row."""

    OPEN = "", "open"
    DONE = "done"
    REFUSED = "refused"
    NOT_SENT = "not_sent"
    UNKNOWN = "unknown"
    USED = "used"  # the form was sent before, and asks for something else now
    HELD = "held"  # by an emergency stop; the log has it as not_sent

    @property
    def code(self) -> str:
        return self.value or "under_way"


@dataclass(frozen=True, slots=True)
class TriggerFacts:
    """`has_row`: a Trigger can hold it, and the log names it. `is_final`: no later truth takes its place."""

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
