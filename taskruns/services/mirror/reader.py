"""Calls of one round over a small pool of threads: they talk to Arize, the round's own thread to the database."""

import math
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from datetime import datetime
from typing import TypeVar

import structlog
from django.utils import timezone

from taskruns.arize.client import ArizeClient
from taskruns.arize.errors import (
    ArizeError,
    BadRequest,
    Forbidden,
    NoAnswer,
    NotFound,
    NotSent,
    RateLimited,
    ServerError,
    Unauthorized,
    UnexpectedAnswer,
    Unreadable,
)
from taskruns.arize.paging import Identified, Page, pages
from taskruns.models import Credential

from .budget import Budget, Kind

T = TypeVar("T")
R = TypeVar("R")
Item = TypeVar("Item", bound=Identified)
log = structlog.get_logger(__name__)

THREADS = 8
# No call begins later than this in a round; the lease leaves room for the last ones to end.
LONGEST_ROUND = 20.0
# So many faults of Arize's own without a good answer between them, and it is asked whether it works at all. Broken
# tasks among healthy ones do not end a round.
MOST_FAULTS = 3
_STOPS_THE_ROUND = (Unauthorized, RateLimited, NotSent)
_FAULTS = (ServerError, NoAnswer, Unreadable, UnexpectedAnswer)
# Arize's word on one task or run. A server that says nothing else is not known to be Arize.
_OF_ONE_ITEM = (BadRequest, Forbidden, NotFound)


class _RoundOver(Exception):
    """No further call may begin in this round."""


class Reader:
    """`trouble` is the fault that ended the round early, `answered_at` when Arize last gave a good answer (2xx).

    `heartbeat` is called in the round's own thread with each answer; a patient reader takes the time that it needs.
    """

    def __init__(
        self,
        credential: Credential,
        client: ArizeClient,
        budget: Budget,
        *,
        heartbeat: Callable[[], None],
        is_patient: bool = False,
    ) -> None:
        self.credential = credential
        self.client = client
        self.budget = budget
        self._heartbeat = heartbeat
        self.answered_at: datetime | None = None
        self.trouble: ArizeError | None = None
        self.unlisted: ArizeError | None = (
            None  # why the tasks could not be listed; their runs can be read all the same
        )
        self._faults = 0
        self._last_refusal: ArizeError | None = None
        self._ends = math.inf if is_patient else time.monotonic() + LONGEST_ROUND

    @property
    def is_over(self) -> bool:
        return self.trouble is not None or time.monotonic() > self._ends or not self.budget.left()

    @property
    def silence(self) -> ArizeError | None:
        """The last refusal or fault, if Arize gave no good answer at all."""
        return self._last_refusal if self.answered_at is None else None

    @property
    def is_in_doubt(self) -> bool:
        """Nothing but refusals of single items so far: a run that is gone, or a server that is not Arize."""
        return isinstance(self.silence, _OF_ONE_ITEM)

    def call(self, question: Callable[[], T]) -> T | ArizeError:
        """Ask once in this thread. A fault that concerns this question only is returned."""
        answer = self._ask(question)
        self._weigh(answer)
        return answer

    def aside(self, question: Callable[[], T]) -> T | ArizeError:
        """Ask what the round can do without: a refusal or a fault there says nothing of the rest."""
        answer = self._ask(question)
        if not isinstance(answer, ArizeError) or isinstance(answer, _STOPS_THE_ROUND):
            self._weigh(answer)
        return answer

    def pages(self, fetch: Callable[[str | None], Page[Item]]) -> Iterator[Page[Item]]:
        """Page after page of one list, each paid for; ends early when the round is over. Raises a page's ArizeError."""

        def paid(cursor: str | None) -> Page[Item]:
            if self.is_over or not self.spend():
                raise _RoundOver
            answer = self.call(lambda: fetch(cursor))
            if isinstance(answer, ArizeError):
                raise answer
            return answer

        try:
            yield from pages(paid)
        except _RoundOver:
            return

    def each(self, items: Iterable[T], question: Callable[[T], R]) -> Iterator[tuple[T, datetime, R | ArizeError]]:
        """Ask for each item, some at once; gives (item, when its question began, answer or fault) as they come.

        Stops asking when the round is over; calls in progress still end.
        """
        source = iter(items)
        in_flight: dict[Future[R | ArizeError], tuple[T, datetime]] = {}
        with ThreadPoolExecutor(THREADS) as pool:
            while True:
                self._fill(pool, source, question, in_flight)
                if not in_flight:
                    return
                done, _ = wait(in_flight, return_when=FIRST_COMPLETED)
                for future in done:
                    item, started = in_flight.pop(future)
                    answer = future.result()
                    self._weigh(answer)
                    yield item, started, answer

    def _fill(
        self,
        pool: ThreadPoolExecutor,
        source: Iterator[T],
        question: Callable[[T], R],
        in_flight: dict[Future[R | ArizeError], tuple[T, datetime]],
    ) -> None:
        while len(in_flight) < THREADS and not self.is_over:
            item = next(source, None)
            if item is None:
                return
            asked = pool.submit(self._ask, lambda item=item: question(item))
            in_flight[asked] = (item, timezone.now())

    def _ask(self, question: Callable[[], R]) -> R | ArizeError:
        try:
            return question()
        except ArizeError as error:
            return error

    def _weigh(self, answer: object) -> None:
        self._heartbeat()
        if not isinstance(answer, ArizeError):
            self.answered_at = timezone.now()
            self._faults = 0
            return
        self._last_refusal = answer
        if isinstance(answer, Forbidden | NotFound):
            self._faults = 0
            return
        self._faults += isinstance(answer, _FAULTS)
        log.warning("arize_fault", key=str(self.credential.pk), kind=type(answer).__name__, status=answer.status)
        if isinstance(answer, _STOPS_THE_ROUND):
            self.trouble = self.trouble or answer
        elif self._faults >= MOST_FAULTS and self.trouble is None:
            self.trouble = self._probe(answer)

    def _probe(self, fault: ArizeError) -> ArizeError | None:
        """Are these tasks and runs broken, or is Arize? A question that concerns none of them tells: None if it works.

        Without it a few runs that always fail would keep all others of the key from being read.
        """
        if not self.spend():
            return fault
        answer = self._ask(lambda: self.client.list_spaces(limit=1))
        if isinstance(answer, ArizeError) and not isinstance(answer, Forbidden | NotFound):
            return answer if isinstance(answer, _STOPS_THE_ROUND) else fault
        self._faults = 0
        return None

    def paid(self, items: Iterable[T], kind: Kind = Kind.OTHER) -> Iterator[T]:
        """The items, each with a call taken from the budget, until there is none left."""
        for item in items:
            if not self.spend(kind):
                return
            yield item

    def spend(self, kind: Kind = Kind.OTHER) -> bool:
        """Take a call from the budget just before it is made."""
        self._heartbeat()
        return self.budget.take(kind)
