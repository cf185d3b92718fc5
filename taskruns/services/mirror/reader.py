"""The calls of one round. A small pool of threads calls Arize; only the round's own thread uses the database."""

import math
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from datetime import datetime
from functools import partial
from typing import TypeVar

import structlog
from django.utils import timezone

from taskruns.arize.client import ArizeClient
from taskruns.arize.errors import (
    ArizeError,
    BadRequest,
    Forbidden,
    ListRepeats,
    NoAnswer,
    NotFound,
    NotSent,
    RateLimited,
    ServerError,
    Unauthorized,
    UnexpectedAnswer,
    Unreadable,
)
from taskruns.arize.paging import Identified, Page, Progress, pages
from taskruns.models import Credential
from taskruns.services.cancellations import Followed
from taskruns.services.credentials.budget import Budget, Kind

T = TypeVar("T")
R = TypeVar("R")
Item = TypeVar("Item", bound=Identified)
log = structlog.get_logger(__name__)

THREADS = 8
# No call starts later than this (seconds) in a round. The lease is longer, so that the last calls can finish.
LONGEST_ROUND = 20.0
# After this many server errors in a row, a probe checks whether Arize works at all. Some broken tasks must not end a
# round.
MOST_SERVER_ERRORS = 3
_STOPS_THE_ROUND = (Unauthorized, RateLimited, NotSent)
_SERVER_ERRORS = (ServerError, NoAnswer, Unreadable, UnexpectedAnswer)
# Refusals about one task or run. A server that gives no other answer may not be Arize.
ITEM_ERRORS = (BadRequest, Forbidden, NotFound)


class _RoundOver(Exception):
    """No further call may start in this round."""


class Reader:
    """`stopped_by`: the error that ended the round early. `answered_at`: when Arize last answered with success (2xx).

    `newest`: the tasks whose newest runs were read in this round, each with what its list has shown. `followed`: the
    cancellations that readings settle. `unchecked`: runs by Arize id whose cancel was confirmed and needs a check.

    `heartbeat` is called in the round's own thread, before each call and after each answer. A patient reader has no
    time limit.
    """

    def __init__(
        self,
        credential: Credential,
        client: ArizeClient,
        budget: Budget,
        *,
        heartbeat: Callable[[], None],
        followed: Followed,
        is_patient: bool = False,
    ) -> None:
        self.credential = credential
        self.client = client
        self.budget = budget
        self.followed = followed
        self.newest: dict[uuid.UUID, Progress] = {}
        self.unchecked: dict[str, uuid.UUID] = {}
        self._heartbeat = heartbeat
        self.answered_at: datetime | None = None
        self.stopped_by: ArizeError | None = None
        # Why the tasks could not be listed. Runs of known tasks can still be read.
        self.list_error: ArizeError | None = None
        self._server_errors = 0  # in a row
        self._last_error: ArizeError | None = None
        self._ends = math.inf if is_patient else time.monotonic() + LONGEST_ROUND

    @property
    def is_over(self) -> bool:
        return self.stopped_by is not None or time.monotonic() > self._ends or not self.budget.left()

    @property
    def only_error(self) -> ArizeError | None:
        """The last error, if no call of this round succeeded."""
        return self._last_error if self.answered_at is None else None

    @property
    def has_only_item_errors(self) -> bool:
        """Every answer so far was a refusal about one item: perhaps a run is gone, perhaps the server is not Arize."""
        return isinstance(self.only_error, ITEM_ERRORS)

    def call(self, request: Callable[[], T]) -> T | ArizeError:
        """Make one call in this thread. Returns its error, if any."""
        answer = self._try(request)
        self._note(answer)
        return answer

    def call_optional(self, request: Callable[[], T]) -> T | ArizeError:
        """Make a call that the round can do without. Its refusals and server errors do not count against Arize."""
        answer = self._try(request)
        if not isinstance(answer, ArizeError) or isinstance(answer, _STOPS_THE_ROUND):
            self._note(answer)
        return answer

    def pages(self, fetch: Callable[[str | None], Page[Item]], kind: Kind) -> Iterator[Page[Item]]:
        """The pages of one list, each within the budget. Ends early when the round is over.

        Raises ArizeError: that of a call, or ListRepeats after the pages that came. The latter does not count against
        Arize, because every call was answered.
        """

        def paid(cursor: str | None) -> Page[Item]:
            if self.is_over or not self.spend(kind):
                raise _RoundOver
            answer = self.call(lambda: fetch(cursor))
            if isinstance(answer, ArizeError):
                raise answer
            return answer

        try:
            yield from pages(paid)
        except _RoundOver:
            return
        except ListRepeats:
            log.warning("arize_list_repeats", key=str(self.credential.pk))
            raise

    def each(self, items: Iterable[T], request: Callable[[T], R]) -> Iterator[tuple[T, datetime, R | ArizeError]]:
        """Call Arize for each item, several at once. Yields (item, when its call started, answer or error).

        When the round is over, no call is started; calls in progress still finish.
        """
        source = iter(items)
        in_flight: dict[Future[R | ArizeError], tuple[T, datetime]] = {}
        with ThreadPoolExecutor(THREADS) as pool:
            while (new := self._take(source, THREADS - len(in_flight))) or in_flight:
                if len(new) == 1 and not in_flight:  # needs no other thread
                    yield new[0], timezone.now(), self.call(partial(request, new[0]))
                    continue
                for item in new:
                    in_flight[pool.submit(self._try, partial(request, item))] = (item, timezone.now())
                done, _ = wait(in_flight, return_when=FIRST_COMPLETED)
                for future in done:
                    item, started = in_flight.pop(future)
                    answer = future.result()
                    self._note(answer)
                    yield item, started, answer

    def _take(self, source: Iterator[T], most: int) -> list[T]:
        taken: list[T] = []
        while len(taken) < most and not self.is_over:
            item = next(source, None)
            if item is None:
                break
            taken.append(item)
        return taken

    def _try(self, request: Callable[[], R]) -> R | ArizeError:
        try:
            return request()
        except ArizeError as error:
            return error

    def _note(self, answer: object) -> None:
        """Update the round's state with this answer, which may stop the round."""
        self._heartbeat()
        if not isinstance(answer, ArizeError):
            self.answered_at = timezone.now()
            self._server_errors = 0
            return
        self._last_error = answer
        if isinstance(answer, Forbidden | NotFound):
            self._server_errors = 0
            return
        self._server_errors += isinstance(answer, _SERVER_ERRORS)
        log.warning("arize_fault", key=str(self.credential.pk), kind=type(answer).__name__, status=answer.status)
        if isinstance(answer, _STOPS_THE_ROUND):
            self.stopped_by = self.stopped_by or answer
        elif self._server_errors >= MOST_SERVER_ERRORS and self.stopped_by is None:
            self.stopped_by = self._probe(answer)

    def _probe(self, error: ArizeError) -> ArizeError | None:
        """Check with an unrelated call whether Arize is down or only some tasks and runs are broken. None if it works.

        Without this, a few runs that always fail would keep all other runs of the key from being read.
        """
        if not self.spend():
            return error
        answer = self._try(lambda: self.client.list_spaces(limit=1))
        if isinstance(answer, ArizeError) and not isinstance(answer, Forbidden | NotFound):
            return answer if isinstance(answer, _STOPS_THE_ROUND) else error
        self._server_errors = 0
        return None

    def paid(self, items: Iterable[T], kind: Kind) -> Iterator[T]:
        """Yield the items and take one call from the budget for each, until none is left."""
        for item in items:
            if not self.spend(kind):
                return
            yield item

    def spend(self, kind: Kind = Kind.OTHER) -> bool:
        """Take one call from the budget, just before making it. False if none is left."""
        self._heartbeat()
        return self.budget.take(kind)
