"""What every act at Arize has in common: a committed row first, one call outside any transaction, then the outcome."""

from collections.abc import Iterator
from contextlib import contextmanager

from django.db import DatabaseError, transaction

from taskruns.audit import EventType


class OutcomeNotWritten(Exception):
    """Arize was asked, but what came of it could not be written. `event` says what was asked for."""

    def __init__(self, event: EventType) -> None:
        super().__init__(event)
        self.event = event


@contextmanager
def writing_outcome(event: EventType) -> Iterator[None]:
    """One durable transaction for the outcome of an act and its audit row. Raises OutcomeNotWritten."""
    try:
        with transaction.atomic(durable=True):
            yield
    except DatabaseError as error:
        raise OutcomeNotWritten(event) from error
