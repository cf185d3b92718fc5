"""Works on a batch in short slices: commit the rows, send the requests from a pool of threads, write the outcomes.

The database says what to do. One worker at a time holds a claim on the batch and renews it while it lives. If two
workers run anyway, each item is still opened once: opening is one transaction under the batch's lock.
"""

import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import islice
from typing import Any

import structlog
from django.db.models import Q
from django.utils import timezone

from taskruns.arize.errors import RateLimited, Unauthorized
from taskruns.models import BatchKind, BatchState, CancelBatch, CancelItem, ItemState, Run
from taskruns.models.restores import is_resting
from taskruns.models.stamps import over
from taskruns.services import key_ring
from taskruns.services.credentials import note_accepted
from taskruns.services.credentials.client import count
from taskruns.services.credentials.health import note_rejected
from taskruns.services.remote_acts import mark_posted, outcome_is_written

from .actions import WORKER, actor_of, finish
from .dispatch import KINDS, may_try, open_some
from .kind import Answered, Opened
from .pace import LATE, adjust, held_keys, later_slots, waiting_keys

log = structlog.get_logger(__name__)

SLICE = 2.0  # seconds; then other jobs get their turn
FURTHEST = timedelta(minutes=1)  # no slot is further ahead
TICK = 0.1  # seconds between checks for what may be sent and what was answered
CLAIM = timedelta(seconds=4)
RENEWED_EVERY = 1.0
# Seconds until the next slice if there is nothing to send now.
SOON, LATER = 1.0, 5.0
LONGEST_DELAY = timedelta(seconds=LATER)
READING = timedelta(seconds=20)  # longer than a re-read can take
# A live worker sends what it has opened within half a second. After this, it has died.
UNSENT = timedelta(seconds=5)
# An answer of either kind.
_Answer = Any


def due(now: datetime) -> list[uuid.UUID]:
    """The batches that need a worker now. None while the panel rests after a restore."""
    if is_resting():
        return []
    unfinished = CancelBatch.objects.filter(over("due_at", now, LONGEST_DELAY), finished_at=None)
    unfinished = unfinished.exclude(state=BatchState.DRAFT)
    return list(unfinished.filter(_unclaimed(now)).order_by("due_at").values_list("pk", flat=True))


def work(batch_id: uuid.UUID) -> float | None:
    """Run one slice. Returns the seconds until the next one, or None if the batch is finished or claimed."""
    if is_resting():
        return None
    if problem := key_ring.problem():
        # Its requests would end as not sent. Another worker may have the ring key.
        log.error("encryption_key_missing", batch=str(batch_id), problem=problem)
        return LATER
    batch = _claim(batch_id)
    if batch is None:
        return None
    delay = LATER
    try:
        delay = _Slice(batch).run()
    finally:
        _release(batch, delay)
    return None if finish(batch) else delay


def _unclaimed(now: datetime) -> Q:
    return over("claimed_until", now, CLAIM)


def _claim(batch_id: uuid.UUID) -> CancelBatch | None:
    now = timezone.now()
    free = CancelBatch.objects.filter(_unclaimed(now), pk=batch_id, finished_at=None)
    if not free.exclude(state=BatchState.DRAFT).update(claimed_until=now + CLAIM):
        return None
    return CancelBatch.objects.select_related("team", "person").get(pk=batch_id)


def _release(batch: CancelBatch, delay: float) -> None:
    mine = CancelBatch.objects.filter(pk=batch.pk, claimed_until=batch.claimed_until)
    mine.update(claimed_until=None, due_at=timezone.now() + timedelta(seconds=delay))


class _Slice:
    """Only the thread that created it uses the database; the pool calls Arize. A lane is the runs of one key.

    `opened`: committed, and waiting for their moment to be sent.
    """

    def __init__(self, batch: CancelBatch) -> None:
        self.batch = batch
        self.kind = KINDS[batch.kind]
        self.pool = ThreadPoolExecutor(self.kind.most_in_flight)
        self.opened: list[Opened[Any]] = []
        self.in_flight: dict[Future[_Answer], Opened[Any]] = {}
        self._renewed = time.monotonic()
        self._ends = time.monotonic() + SLICE

    def run(self) -> float:
        self.kind.follow(self.batch)
        self._queue_unsent()
        lanes = self._lanes()
        with self.pool:
            try:
                while time.monotonic() < self._ends and self._tick(lanes):
                    pass
            finally:
                self._drain()
        self.kind.follow(self.batch)
        return self._delay()

    def _tick(self, lanes: list[uuid.UUID | None]) -> bool:
        """False if there is nothing to do now."""
        began = time.monotonic()
        for lane in lanes:
            self._open(lane)
        self._send_due()
        self._read_lost()
        if not self.in_flight and not self.opened and not self._has_more(lanes):
            return False
        wait(self.in_flight, timeout=TICK)
        self._collect()
        _rest(began)
        self._renew()
        return True

    def _lanes(self) -> list[uuid.UUID | None]:
        """The keys of the queued runs, except keys that may not be used now."""
        now = timezone.now()
        waiting = CancelItem.objects.filter(may_try(now), batch=self.batch, state=ItemState.QUEUED)
        held = held_keys("run__task__credential", now)
        keys = waiting.exclude(held).order_by("run__task__credential").values_list("run__task__credential", flat=True)
        return list(keys.distinct())

    def _has_more(self, lanes: list[uuid.UUID | None]) -> bool:
        now = timezone.now()
        of_lanes = Q(run__task__credential__in=[lane for lane in lanes if lane is not None])
        of_lanes |= Q(run__task__credential=None) if None in lanes else Q()
        waiting = CancelItem.objects.filter(of_lanes, may_try(now), batch=self.batch, state=ItemState.QUEUED)
        is_working = CancelBatch.objects.filter(pk=self.batch.pk, state=BatchState.WORKING).exists()
        return bool(lanes) and is_working and waiting.exclude(waiting_keys("run__task__credential", now)).exists()

    def _free(self) -> int:
        return self.kind.most_in_flight - len(self.in_flight) - len(self.opened)

    def _open(self, lane: uuid.UUID | None) -> None:
        free = self._free()
        self.opened += open_some(self.batch.pk, lane, most=free) if free > 0 else []

    def _send_due(self) -> None:
        """Note which requests are sent in this tick, in one transaction, then send them, each at its moment."""
        self._move_late()
        until = timezone.now() + timedelta(seconds=TICK)
        due = [it for it in self.opened if it.moment <= until]
        if not due:
            return
        self.opened = [it for it in self.opened if it.moment > until]
        mine = mark_posted(it.attempt for it in due)
        for it in due:
            if it.attempt.pk in mine:
                self._submit(it, self._send_at)

    def _move_late(self) -> None:
        """Give requests that missed their moment new ones: sent now, they would exceed the rate. Also if the clock was
        set back: nobody would reach their moment for as long as the jump.
        """
        now = timezone.now()
        late = [it for it in self.opened if it.moment < now - LATE or it.moment > now + FURTHEST]
        self.opened = [replace(it, moment=now) if it in late and it.key is None else it for it in self.opened]
        for key in {it.key for it in late if it.key is not None}:
            mine = [it for it in late if it.key == key]
            moved = [replace(it, moment=at) for it, at in zip(mine, later_slots(key, len(mine)), strict=True)]
            self.opened = [it for it in self.opened if it not in mine] + moved

    def _queue_unsent(self) -> None:
        """Queue again what a killed worker opened but did not send."""
        attempt, opened_before = BatchKind(self.batch.kind).attempt, timezone.now() - UNSENT
        sent = CancelItem.objects.filter(batch=self.batch, state=ItemState.SENT, joined=False)
        sent = sent.exclude(**{attempt: None})
        unsent = sent.filter(**{f"{attempt}__outcome": "", f"{attempt}__posted_at": None})
        items = unsent.filter(**{f"{attempt}__requested_at__lt": opened_before})
        self.kind.close_unsent(items, actor_of(self.batch))

    def _read_lost(self) -> None:
        """Re-read the runs of items that were sent and whose answer was lost, before anything else is sent for them."""
        for item, attempt, run in self._lost(max(0, self._free())):
            opened = Opened(item, attempt, run, actor_of(self.batch), timezone.now(), is_reread=True)
            self._submit(opened, self.kind.reread)

    def _lost(self, most: int) -> Iterator[tuple[CancelItem, Any, Run]]:
        now = timezone.now()
        sent = CancelItem.objects.filter(may_try(now), batch=self.batch, state=ItemState.SENT, joined=False)
        for item, attempt, run in islice(self.kind.lost(sent), most):
            mine = CancelItem.objects.filter(pk=item.pk, state=ItemState.SENT, next_try_at=item.next_try_at)
            if mine.update(next_try_at=now + READING):
                yield item, attempt, run

    def _send_at(self, opened: Opened[Any]) -> _Answer:
        wait_for = (opened.moment - timezone.now()).total_seconds()
        time.sleep(min(TICK, max(0.0, wait_for)))  # a tick at most, even if the clock is set back now
        return self.kind.ask(opened)

    def _submit(self, opened: Opened[Any], ask: Callable[[Opened[Any]], _Answer]) -> None:
        self.in_flight[self.pool.submit(ask, opened)] = opened

    def _collect(self) -> None:
        """Write the answers that have arrived, then update what is known about the keys."""
        done = [(self.in_flight.pop(future), future.result()) for future in list(self.in_flight) if future.done()]
        if not done:
            return
        self.kind.close([Answered(opened.item, opened.attempt, opened.by, answer) for opened, answer in done])
        by_key: dict[uuid.UUID, list[tuple[Opened[Any], _Answer]]] = {}
        for opened, answer in done:
            if opened.key is not None:
                by_key.setdefault(opened.key, []).append((opened, answer))
        for of_key in by_key.values():
            _learn(of_key)

    def _drain(self) -> None:
        while self.in_flight or self.opened:
            began = time.monotonic()
            self._send_due()
            wait(self.in_flight, timeout=TICK if self.opened else 1.0)
            self._collect()
            if self.opened:
                _rest(began)
            self._renew()

    def _renew(self) -> None:
        if time.monotonic() - self._renewed < RENEWED_EVERY:
            return
        self._renewed = time.monotonic()
        until = timezone.now() + CLAIM
        mine = CancelBatch.objects.filter(pk=self.batch.pk, claimed_until=self.batch.claimed_until)
        if mine.update(claimed_until=until):
            self.batch.claimed_until = until

    def _delay(self) -> float:
        """Seconds until the next slice is worth starting."""
        if self._has_more(self._lanes()):
            return 0.0
        items = CancelItem.objects.filter(batch=self.batch, joined=False)
        soon = items.filter(may_try(timezone.now() + timedelta(seconds=LATER)))
        unread = Q(state=ItemState.SENT, cancellation__stopping_since=None)
        return SOON if soon.filter(Q(state=ItemState.QUEUED) | unread).exists() else LATER


def _rest(began: float) -> None:
    """Until the next tick."""
    time.sleep(max(0.0, began + TICK - time.monotonic()))


def _learn(answers: Sequence[tuple[Opened[Any], _Answer]]) -> None:
    """Update the key from the answers to its requests: its pace, its count of calls, and whether Arize rejects it."""
    key = answers[0][0].run.task.credential
    assert key is not None  # noqa: S101 - `Opened.key` is set
    sent = [(opened.attempt.requested_at, answer.error) for opened, answer in answers if _was_sent(opened, answer)]
    errors = [error for _, error in sent]
    if sent:
        adjust(key, sent)
    limited = sum(isinstance(error, RateLimited) for error in errors)
    count(key, calls=sum(answer.calls for _, answer in answers), limited=limited)
    rejected = next((error for error in errors if isinstance(error, Unauthorized)), None)
    if rejected is not None:
        with outcome_is_written("rejection_not_noted", key=key.pk):
            note_rejected(key, sentence=rejected.sentence, by=WORKER)
    elif None in errors:
        note_accepted(key)


def _was_sent(opened: Opened[Any], answer: _Answer) -> bool:
    """Only the answer to a POST says how Arize takes requests now."""
    return not opened.is_reread and answer.calls > 0
