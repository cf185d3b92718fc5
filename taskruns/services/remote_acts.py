"""What every act at Arize has in common, whoever asks for it: a cancel, a start of a run, a test of a key.

1. A row of the act is committed, so that nothing reaches Arize which the panel does not know of.
2. Arize is asked once, outside any transaction.
3. The outcome and its audit row are one transaction. What a crash left without an outcome is for the sweep.
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
# One look at Arize after an answer that got lost: short, because a person is waiting.
LOOK = Timeouts(connect=2.0, read=4.0)
CRASHED_AFTER = timedelta(seconds=60)
SWEEPER = Actor.job("sweep")
NO_KEY = "No key of this team reads this task any more, so nothing was sent. Add or replace a key."


class OutcomeNotWritten(Exception):
    """Arize was asked, but what came of it could not be written. `event` says what was asked for."""

    def __init__(self, event: EventType) -> None:
        super().__init__(event)
        self.event = event


class Failure(Enum):
    """What a POST that failed means for the act."""

    NOT_SENT = auto()
    REFUSED = auto()
    LOST = auto()  # the request may have arrived, and Arize may have acted on it


def insert_first(row: M, *, rivals: models.QuerySet[M]) -> M | None:
    """Save the new row of an act; None when the database refuses it because of one of its rivals.

    Part of a transaction. Waits while another one is just inserting its own.
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
    # The client's own refusal (an id that does not fit into an address) has no status.
    return Failure.NOT_SENT if isinstance(error, NotSent) or error.status is None else Failure.REFUSED


def in_words(error: ArizeError, sentence: str = "") -> str:
    """The error's sentence, or a better one of the act's, then Arize's own words (cleaned, at most 300 characters)."""
    sentence = sentence or error.sentence
    return f"{sentence} Arize says: {error.arize_message}" if error.arize_message else sentence


@contextmanager
def writing_outcome(event: EventType) -> Iterator[None]:
    """One durable transaction for the outcome of an act and its audit row. Raises OutcomeNotWritten."""
    try:
        with transaction.atomic(durable=True):
            yield
    except DatabaseError as error:
        raise OutcomeNotWritten(event) from error


def crashed_before() -> models.Q:
    """Rows requested so long ago that whoever should have written their outcome must have died."""
    return models.Q(outcome="", requested_at__lt=timezone.now() - CRASHED_AFTER)
