"""What every request to act at Arize has in common: a cancel, a start of a run, the test of a key.

1. A row is committed first, so that nothing reaches Arize without a record.
2. The request is sent once, outside any transaction.
3. The outcome and its audit row are one transaction. After a crash, the sweep writes the outcome.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from enum import Enum, auto
from typing import TypeVar

from django.db import DatabaseError, IntegrityError, models, transaction
from django.utils import timezone

from taskruns.arize.client import Timeouts
from taskruns.arize.errors import ArizeError, NoAnswer, NotSent, ServerError, Unreadable
from taskruns.audit import Actor, EventType

M = TypeVar("M", bound=models.Model)
# For one read after a lost answer: short, because a person is waiting.
SHORT_TIMEOUTS = Timeouts(connect=2.0, read=4.0)
CRASHED_AFTER = timedelta(seconds=60)
SWEEPER = Actor.job("sweep")
NO_KEY = "No API key of this team can read this task, so nothing was sent. Add or replace an API key."


class OutcomeNotWritten(Exception):
    """The request was sent to Arize, but its outcome could not be written. `event`: what was requested."""

    def __init__(self, event: EventType) -> None:
        super().__init__(event)
        self.event = event


class Failure(Enum):
    """What a failed POST means."""

    NOT_SENT = auto()
    REFUSED = auto()
    LOST = auto()  # Arize may have received the request and acted on it


def insert_first(row: M, *, rivals: models.QuerySet[M]) -> M | None:
    """Insert the row. None if one of its `rivals` violates a constraint with it.

    Needs the caller's transaction. Waits while another transaction is inserting a rival.
    """
    try:
        with transaction.atomic():
            row.save(force_insert=True)
    except IntegrityError:
        if not rivals.exists():
            raise
        return None
    return row


def failure_of(error: ArizeError) -> Failure:
    if isinstance(error, NoAnswer | ServerError | Unreadable):
        return Failure.LOST
    # Without a status, our own client refused: an id does not fit into a URL.
    return Failure.NOT_SENT if isinstance(error, NotSent) or error.status is None else Failure.REFUSED


def explain(error: ArizeError, sentence: str = "") -> str:
    """`sentence`, or else the error's own, followed by Arize's message (cleaned, at most 300 characters)."""
    sentence = sentence or error.sentence
    return f"{sentence} Arize says: {error.arize_message}" if error.arize_message else sentence


@contextmanager
def writing_outcome(event: EventType) -> Iterator[None]:
    """One durable transaction for an outcome and its audit row. Raises OutcomeNotWritten."""
    try:
        with transaction.atomic(durable=True):
            yield
    except DatabaseError as error:
        raise OutcomeNotWritten(event) from error


def crashed_before() -> models.Q:
    """Open rows so old that their process must have died before it wrote the outcome."""
    return models.Q(outcome="", requested_at__lt=timezone.now() - CRASHED_AFTER)
