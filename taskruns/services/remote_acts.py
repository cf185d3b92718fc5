"""What every request to act at Arize has in common: a cancel, a start of a run, the test of a key.

1. A row is committed first, so that nothing reaches Arize without a record.
2. The request is sent once, outside any transaction.
3. The outcome and its audit row are one transaction. After a crash, the sweep writes the outcome.
"""

import threading
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from enum import Enum, auto
from typing import Protocol, Self, TypeVar

import structlog
from django.db import DatabaseError, IntegrityError, models, transaction
from django.utils import timezone

from taskruns.arize.client import Timeouts
from taskruns.arize.errors import ArizeError, NoAnswer, NotSent, ServerError, Unreadable
from taskruns.audit import Actor, EventType
from taskruns.models import Cancellation, Trigger
from taskruns.models.stamps import long_ago

from .user_errors import UserError

log = structlog.get_logger(__name__)
M = TypeVar("M", bound=models.Model)
R = TypeVar("R", Cancellation, Trigger)
# For one read after a lost answer: short, because a person is waiting.
SHORT_TIMEOUTS = Timeouts(connect=2.0, read=4.0)
CRASHED_AFTER = timedelta(seconds=60)
SWEEPER = Actor.job("sweep")
# Requests of one web process that wait for Arize at the same time: fewer than half of its threads, so that pages are
# served while Arize is silent.
MOST_WAITING = 3
_places = threading.BoundedSemaphore(MOST_WAITING)
NO_KEY = "No API key of this team can read this task, so nothing was sent. Add or replace an API key."


class ArizeIsSlow(UserError):
    """As many requests as may already wait for Arize. Nothing was sent."""

    retry_after = 10  # seconds

    def __init__(self) -> None:
        super().__init__(
            "Arize answers slowly, and other requests are already waiting for it. Nothing was sent. "
            "Try again in a few seconds."
        )


class AnyPlace(Protocol):
    def take(self) -> bool: ...


class Place:
    """A place among the requests of this process that wait for Arize. Never waits for a free one."""

    def __init__(self) -> None:
        self.is_taken = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.is_taken:
            _places.release()

    def take(self) -> bool:
        """False if none is free."""
        self.is_taken = self.is_taken or _places.acquire(blocking=False)
        return self.is_taken


@contextmanager
def waiting_for_arize() -> Iterator[None]:
    """Hold a place while calling Arize. Raises ArizeIsSlow."""
    with Place() as place:
        if not place.take():
            raise ArizeIsSlow
        yield


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


def mark_posted(requests: Iterable[R]) -> set[uuid.UUID]:
    """Note that these requests are sent now. Commits, and returns those that the caller alone may send.

    The others are already closed, or another worker sends them. All are of one model.
    """
    rows, now = list(requests), timezone.now()
    if not rows:
        return set()
    unsent = type(rows[0])._default_manager.filter(pk__in=[row.pk for row in rows], outcome="", posted_at=None)
    with transaction.atomic(durable=True):
        held = unsent.select_for_update(of=("self",), no_key=True).order_by("pk")
        mine = set(held.values_list("pk", flat=True))
        unsent.filter(pk__in=mine).update(posted_at=now)
    for row in rows:
        row.posted_at = now if row.pk in mine else row.posted_at
    return mine


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


@contextmanager
def after_sending(event: EventType) -> Iterator[None]:
    """From here on, a failing database no longer means that nothing was sent. Raises OutcomeNotWritten."""
    try:
        yield
    except DatabaseError as error:
        raise OutcomeNotWritten(event) from error


@contextmanager
def outcome_is_written(failed: str, *, key: uuid.UUID) -> Iterator[None]:
    """What is left to note about the key matters less: if the database fails, this is logged under `failed`."""
    try:
        yield
    except DatabaseError:
        log.exception(failed, key=str(key))


def sum_of_all(acts: Iterable[Callable[[], int]]) -> int:
    """The sum of what they return. One that cannot be written, for example into a damaged audit chain, stops none of
    the others: its error is raised at the end.
    """
    total, refused = 0, None
    for act in acts:
        try:
            total += act()
        except (OutcomeNotWritten, DatabaseError) as error:
            refused = error
    if refused is not None:
        raise refused
    return total


def crashed_before() -> models.Q:
    """Open rows so old that their process must have died before it wrote the outcome."""
    # Since it was sent, which may be long after the request. It may still be in progress on a machine whose clock is
    # a little ahead.
    crashed = long_ago("posted_at", timezone.now(), CRASHED_AFTER, skew=CRASHED_AFTER)
    return models.Q(crashed, outcome="")
