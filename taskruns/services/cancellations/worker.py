"""Sends the cancels that were requested while too many web requests waited for Arize.

The database says which: open, not sent, and no part of a batch. Whoever marks one as sent (`mark_posted`) sends it, so
a second worker or a second wake-up sends nothing twice.
"""

import threading
import uuid
from collections import Counter
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass

import structlog
from django.db import DatabaseError, close_old_connections
from django.db.models import QuerySet
from django.utils import timezone

from taskruns.audit import Actor
from taskruns.models import Cancellation, Outcome
from taskruns.permissions import Action, access_of
from taskruns.services import key_ring
from taskruns.services.remote_acts import OutcomeNotWritten, mark_posted
from taskruns.services.tokens.access import TokenRefused, access_now

from .answer import Answer, ask_arize
from .results import close, learn_of_key
from .sweep import SEND_WITHIN

log = structlog.get_logger(__name__)

THREADS = 32
OF_ONE_KEY = 8  # a silent Arize must not hold up the cancels of other keys
TICK = 0.2  # seconds between checks for new ones
NO_RIGHT = "{who} no longer has permission to cancel runs in this team."
_sending = threading.Lock()


def has_unsent() -> bool:
    return _unsent().exists()


def send_unsent() -> int:
    """Send every unsent cancel, also those requested while this works. Returns how many. Only one thread of a process
    sends.
    """
    if not has_unsent():
        return 0
    if problem := key_ring.problem():
        # Its cancels would end as not sent. Another worker may have the ring key.
        log.error("encryption_key_missing", problem=problem)
        return 0
    sent = 0
    # Check again after the lock is free: one may have been requested just before.
    while has_unsent() and _sending.acquire(blocking=False):
        try:
            with ThreadPoolExecutor(THREADS) as pool:
                sent += _Sender(pool).run()
        finally:
            _sending.release()
    return sent


def _unsent() -> QuerySet[Cancellation]:
    since = timezone.now() - SEND_WITHIN
    return Cancellation.objects.filter(posted_at=None, outcome=Outcome.OPEN, batch=None, requested_at__gte=since)


@dataclass(frozen=True, slots=True)
class _Sent:
    row: Cancellation
    by: Actor

    @property
    def key(self) -> uuid.UUID | None:
        return self.row.run.task.credential_id


class _Sender:
    """Only the thread that created it uses the database; the pool calls Arize."""

    def __init__(self, pool: ThreadPoolExecutor) -> None:
        self.pool = pool
        self.in_flight: dict[Future[Answer], _Sent] = {}

    def run(self) -> int:
        try:
            return self._send_all()
        finally:
            if self.in_flight:  # only after an error: these were sent
                self._record_rest()

    def _record_rest(self) -> None:
        close_old_connections()  # the error may have been a lost connection
        for future, it in self.in_flight.items():
            answer = future.result()
            try:
                _record(it, answer)
            except DatabaseError:
                log.exception("outcome_not_written", operation=str(it.row.pk))

    def _send_all(self) -> int:
        sent = 0
        while True:
            sent += self._send()
            if not self.in_flight:
                return sent
            done, _ = wait(self.in_flight, timeout=TICK, return_when=FIRST_COMPLETED)
            for future in done:
                _record(self.in_flight.pop(future), future.result())

    def _send(self) -> int:
        allowed = [it for row in self._next() if (it := _allowed_or_closed(row)) is not None]
        mine = mark_posted([it.row for it in allowed]) if allowed else set()
        for it in allowed:
            if it.row.pk in mine:
                self.in_flight[self.pool.submit(ask_arize, it.row.run)] = it
        return len(mine)

    def _next(self) -> list[Cancellation]:
        """The oldest ones for which a thread is free."""
        if len(self.in_flight) >= THREADS:
            return []
        busy = Counter(it.key for it in self.in_flight.values())
        found: list[Cancellation] = []
        unsent = _unsent().select_related("person", "run__team", "run__task__credential").order_by("requested_at")
        # Keys with few in flight come first: those of a silent Arize must not hold up the others.
        for row in sorted(unsent, key=lambda row: busy[row.run.task.credential_id]):
            key = row.run.task.credential_id
            if len(self.in_flight) + len(found) < THREADS and busy[key] < OF_ONE_KEY:
                busy[key] += 1
                found.append(row)
        return found


def _allowed_or_closed(row: Cancellation) -> _Sent | None:
    """The cancellation and its requester in their role of now. None, and closed, if they may no longer cancel runs."""
    by, may_cancel = _token_of(row, row.token_id) if row.token_id else _person_of(row)
    if may_cancel:
        return _Sent(row, by)
    close(row, Answer(Outcome.NOT_SENT, NO_RIGHT.format(who=row.person_label)), by=by)
    return None


def _person_of(row: Cancellation) -> tuple[Actor, bool]:
    access = access_of(row.person, row.run.team)
    by = Actor.absent(row.person, actor_id=str(row.person_id), label=row.person_label, role=access.role)
    return by, access.may(Action.RUNS_CANCEL)


def _token_of(row: Cancellation, token_id: uuid.UUID) -> tuple[Actor, bool]:
    try:
        access = access_now(token_id)
    except TokenRefused:
        return Actor(type="token", id=str(token_id), label=row.person_label, request_id=str(uuid.uuid4())), False
    return access.actor(request_id=str(uuid.uuid4())), access.may(Action.RUNS_CANCEL)


def _record(sent: _Sent, answer: Answer) -> None:
    try:
        close(sent.row, answer, by=sent.by)
    except OutcomeNotWritten:
        log.exception("outcome_not_written", operation=str(sent.row.pk))  # the sweep finds it
    learn_of_key(sent.row.run, answer)
