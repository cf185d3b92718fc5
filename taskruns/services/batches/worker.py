"""Works on a batch in short slices: commit the rows, send the cancels from a pool of threads, write the outcomes.

The database says what to do. One worker at a time holds a claim on the batch and renews it while it lives. If two
workers run anyway, each item is still opened once: opening is one transaction under the batch's lock.
"""

import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from datetime import datetime, timedelta

import structlog
from django.db.models import Q
from django.utils import timezone

from taskruns.arize.errors import RateLimited, Unauthorized
from taskruns.models import BatchState, CancelBatch, CancelItem, Credential, ItemState, Outcome
from taskruns.services import key_ring
from taskruns.services.cancellations import Answer, ask_arize, reread
from taskruns.services.credentials import mark_failing
from taskruns.services.credentials.client import count

from .dispatch import Opened, open_some
from .lifecycle import WORKER, actor_of, finish
from .pace import adjust
from .results import Answered, close_some, follow

log = structlog.get_logger(__name__)

THREADS = 32  # most of them wait for the moment to send
SLICE = 2.0  # seconds; then other jobs get their turn
TICK = 0.1  # seconds between checks for what may be sent and what was answered
CLAIM = timedelta(seconds=4)
RENEWED_EVERY = 1.0
# Seconds until the next slice if there is nothing to send now.
SOON, LATER = 1.0, 5.0
READING = timedelta(seconds=20)  # longer than a re-read can take


def due(now: datetime) -> list[uuid.UUID]:
    """The batches that need a worker now."""
    unfinished = CancelBatch.objects.filter(finished_at=None, due_at__lte=now).exclude(state=BatchState.DRAFT)
    return list(unfinished.filter(_unclaimed(now)).order_by("due_at").values_list("pk", flat=True))


def work(batch_id: uuid.UUID) -> float | None:
    """Run one slice. Returns the seconds until the next one, or None if the batch is finished or claimed."""
    if problem := key_ring.problem():
        # Its cancels would end as not sent. Another worker may have the ring key.
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
    return Q(claimed_until=None) | Q(claimed_until__lte=now)


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
    """Only the thread that created it uses the database; the pool calls Arize. A lane is the runs of one key."""

    def __init__(self, batch: CancelBatch) -> None:
        self.batch = batch
        self.pool = ThreadPoolExecutor(THREADS)
        self.in_flight: dict[Future[Answer], Opened] = {}
        self._renewed = time.monotonic()
        self._ends = time.monotonic() + SLICE

    def run(self) -> float:
        follow(self.batch)
        lanes = self._lanes()
        with self.pool:
            try:
                while time.monotonic() < self._ends and self._tick(lanes):
                    pass
            finally:
                self._drain()
        follow(self.batch)
        return self._delay()

    def _tick(self, lanes: list[uuid.UUID | None]) -> bool:
        """False if there is nothing to do now."""
        began = time.monotonic()
        for lane in lanes:
            self._send(lane)
        self._read_lost()
        if not self.in_flight and not self._has_more(lanes):
            return False
        wait(self.in_flight, timeout=TICK)
        self._collect()
        time.sleep(max(0.0, began + TICK - time.monotonic()))
        self._renew()
        return True

    def _lanes(self) -> list[uuid.UUID | None]:
        """The keys of the queued runs, except keys that are failing or backing off."""
        now = timezone.now()
        waiting = CancelItem.objects.filter(batch=self.batch, state=ItemState.QUEUED, next_try_at__lte=now)
        held = Q(run__task__credential__failing_since__isnull=False) | Q(run__task__credential__backoff_until__gt=now)
        keys = waiting.exclude(held).order_by("run__task__credential").values_list("run__task__credential", flat=True)
        return list(keys.distinct())

    def _has_more(self, lanes: list[uuid.UUID | None]) -> bool:
        now = timezone.now()
        paused = Q(run__task__credential__cancel_pace__paused_until__gt=now)
        of_lanes = Q(run__task__credential__in=[lane for lane in lanes if lane is not None])
        of_lanes |= Q(run__task__credential=None) if None in lanes else Q()
        waiting = CancelItem.objects.filter(of_lanes, batch=self.batch, state=ItemState.QUEUED, next_try_at__lte=now)
        is_working = CancelBatch.objects.filter(pk=self.batch.pk, state=BatchState.WORKING).exists()
        return bool(lanes) and is_working and waiting.exclude(paused).exists()

    def _send(self, lane: uuid.UUID | None) -> None:
        free = THREADS - len(self.in_flight)
        for opened in open_some(self.batch.pk, lane, most=free) if free else []:
            self._submit(opened, _send_at)

    def _read_lost(self) -> None:
        """Re-read the runs of items that were sent and whose answer was lost, before anything else is sent for them."""
        for item in self._lost(THREADS - len(self.in_flight)):
            cancellation = item.cancellation
            if cancellation is None:
                continue
            opened = Opened(item, cancellation, actor_of(self.batch), timezone.now())
            self._submit(opened, _reread)

    def _lost(self, most: int) -> Iterator[CancelItem]:
        now = timezone.now()
        sent = CancelItem.objects.filter(batch=self.batch, state=ItemState.SENT, joined=False, next_try_at__lte=now)
        is_lost = Q(cancellation__outcome=Outcome.OPEN, cancellation__stopping_since=None)
        lost = sent.filter(is_lost | Q(cancellation__outcome=Outcome.UNKNOWN))
        loaded = ("cancellation__run__task__credential", "cancellation__run__team", "cancellation__batch")
        for item in lost.select_related(*loaded)[:most]:
            mine = CancelItem.objects.filter(pk=item.pk, state=ItemState.SENT, next_try_at=item.next_try_at)
            if mine.update(next_try_at=now + READING):
                yield item

    def _submit(self, opened: Opened, ask: Callable[[Opened], Answer]) -> None:
        self.in_flight[self.pool.submit(ask, opened)] = opened

    def _collect(self) -> None:
        """Write the answers that have arrived, then update what is known about the keys."""
        done = [(self.in_flight.pop(future), future.result()) for future in list(self.in_flight) if future.done()]
        if not done:
            return
        close_some([Answered(opened.item, opened.cancellation, opened.by, answer) for opened, answer in done])
        by_key: dict[uuid.UUID, tuple[Credential, list[Answer]]] = {}
        for opened, answer in done:
            key = opened.run.task.credential
            if key is not None:
                by_key.setdefault(key.pk, (key, []))[1].append(answer)
        for key, answers in by_key.values():
            _learn(key, answers)

    def _drain(self) -> None:
        while self.in_flight:
            wait(self.in_flight, timeout=1.0)
            self._collect()
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
        soon = items.filter(next_try_at__lte=timezone.now() + timedelta(seconds=LATER))
        unread = Q(state=ItemState.SENT, cancellation__stopping_since=None)
        return SOON if soon.filter(Q(state=ItemState.QUEUED) | unread).exists() else LATER


def _send_at(opened: Opened) -> Answer:
    time.sleep(max(0.0, (opened.moment - timezone.now()).total_seconds()))
    return ask_arize(opened.run)


def _reread(opened: Opened) -> Answer:
    return reread(opened.run, is_late=True)


def _learn(key: Credential, answers: Sequence[Answer]) -> None:
    """Update the key from these answers: its pace, its count of calls, and whether Arize rejects it."""
    errors = [answer.error for answer in answers]
    adjust(key, errors)
    limited = sum(isinstance(error, RateLimited) for error in errors)
    count(key, calls=sum(answer.calls for answer in answers), limited=limited)
    rejected = next((error for error in errors if isinstance(error, Unauthorized)), None)
    if rejected is not None:
        mark_failing(key, sentence=rejected.sentence, by=WORKER)
