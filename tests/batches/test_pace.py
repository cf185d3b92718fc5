"""The speed of a batch: its rate limit across all workers, and its pauses when Arize fails."""

import random
from datetime import datetime, timedelta
from typing import Any

import pytest
import time_machine
from django.db import transaction
from django.utils import timezone

from taskruns.arize.errors import ArizeError, NoAnswer, RateLimited, ServerError, Unauthorized
from taskruns.models import CancelPace, Credential
from taskruns.services.batches import pace
from taskruns.services.batches.worker import TICK
from tests.factories import NOW

FAILED = ServerError(status=503)
SECOND = timedelta(seconds=1)


@pytest.fixture
def clock(settings: Any) -> Any:
    settings.CANCELS_PER_SECOND = 20
    with time_machine.travel(NOW, tick=False) as clock:
        yield clock


def slots(credential: Credential, *, most: int = 50, use: int | None = None) -> list[datetime]:
    """The moments that a worker gets now; it uses all of them, or `use`."""
    with transaction.atomic():
        found = pace.free_slots(credential.pk, most=most)
        number = len(found.moments) if use is None else use
        found.use(number)
    return found.moments[:number] if use is None else found.moments


def answer(credential: Credential, *errors: ArizeError | None, opened: datetime | None = None) -> CancelPace:
    opened = opened or timezone.now()
    pace.adjust(credential, [(opened, error) for error in errors])
    return CancelPace.objects.get()


def pause(row: CancelPace) -> float:
    """Seconds."""
    return 0.0 if row.paused_until is None else max(0.0, (row.paused_until - timezone.now()).total_seconds())


# --- The rate


def test_all_batches_share_the_rate_of_a_key(credential: Credential, clock: Any) -> None:
    CancelPace.objects.create(credential=credential, free_at=NOW)
    assert len(slots(credential, use=8)) == 11, "slots within the next 0.5 s"
    assert slots(credential) == [], "the next free slot is too far away"
    clock.shift(0.2)
    assert slots(credential, most=2)[0] == NOW + timedelta(seconds=0.4)
    clock.shift(3_600)
    assert [moment for moment in slots(credential) if moment < timezone.now() - pace.CATCH_UP] == []


@pytest.mark.parametrize("rate", [20, 50])
@pytest.mark.parametrize("seed", range(3))
def test_no_second_has_more_than_a_tenth_above_the_rate(
    seed: int, rate: int, credential: Credential, clock: Any, settings: Any
) -> None:
    """Two workers on a busy machine, with many slices: pauses between slices and stalls while cancels wait."""
    settings.CANCELS_PER_SECOND = rate
    chance = random.Random(seed)
    workers = [Simulated(credential, chance) for _ in range(2)]
    while (timezone.now() - NOW).total_seconds() < 30:
        for worker in workers:
            worker.tick()
        clock.shift(chance.choice([0.01, 0.02, 0.05]))
    sent = sorted(moment for worker in workers for moment in worker.sent)
    assert len(sent) > 30 * rate * 0.8
    most = max(sum(begin <= it < begin + SECOND for it in sent) for begin in sent)
    assert most <= rate * 1.1


class Simulated:
    """A worker as far as the rate is concerned: opens, waits, moves what is late, sends."""

    def __init__(self, credential: Credential, chance: random.Random) -> None:
        self.credential, self.chance = credential, chance
        self.opened: list[datetime] = []
        self.sent: list[datetime] = []
        self.stalled_until = NOW

    def tick(self) -> None:
        now = timezone.now()
        if now < self.stalled_until:
            return
        self.opened += slots(self.credential, most=32)
        late = [moment for moment in self.opened if moment < now - pace.LATE]
        if late:
            moved = pace.later_slots(self.credential.pk, len(late))
            self.opened = [moment for moment in self.opened if moment not in late] + moved
        due = [moment for moment in self.opened if moment <= now + timedelta(seconds=TICK)]
        self.sent += [max(moment, now) for moment in due]
        self.opened = [moment for moment in self.opened if moment not in due]
        stall = self.chance.choice([0.0] * 40 + [0.1, 0.3, 0.8])
        self.stalled_until = now + timedelta(seconds=TICK + stall)


# --- Pauses


def test_a_single_failure_delays_the_item_and_three_pause_the_key(credential: Credential, clock: Any) -> None:
    slow = RateLimited(retry_after=2)
    assert pause(answer(credential, slow, None, slow, slow, None)) == 0
    assert pause(answer(credential, slow, slow)) == 0
    assert pause(answer(credential, slow)) == 2


def test_a_long_retry_after_pauses_the_key_at_once(credential: Credential, clock: Any) -> None:
    assert pause(answer(credential, RateLimited(retry_after=30))) == 30
    assert slots(credential) == []


@pytest.mark.parametrize("failed", [FAILED, NoAnswer(), RateLimited()])
def test_one_burst_is_one_pause(failed: ArizeError, credential: Credential, clock: Any) -> None:
    """However many answers it has, and however late they arrive."""
    opened = timezone.now()
    clock.shift(0.5)
    assert pause(answer(credential, *[failed] * 30, opened=opened)) == 1
    clock.shift(0.5)
    assert pause(answer(credential, *[failed] * 30, opened=opened)) == 0.5
    clock.shift(5)
    assert pause(answer(credential, failed, opened=opened)) == 0
    assert CancelPace.objects.get().pauses == 1


def test_after_a_pause_one_probe_is_sent(credential: Credential, clock: Any) -> None:
    answer(credential, FAILED, FAILED, FAILED)
    clock.shift(1.1)
    assert len(slots(credential)) == 1
    assert slots(credential) == [], "until the probe is answered"
    row = answer(credential, None)
    assert (row.pauses, row.refusals, row.probe_until) == (0, 0, None)
    clock.shift(0.1)
    assert len(slots(credential)) > 5


def test_a_lost_probe_does_not_stop_the_key_for_ever(credential: Credential, clock: Any) -> None:
    answer(credential, FAILED, FAILED, FAILED)
    clock.shift(1.1)
    assert len(slots(credential)) == 1
    clock.shift(46)
    assert len(slots(credential)) == 1


def test_pauses_of_an_outage_grow_to_ten_seconds(credential: Credential, clock: Any) -> None:
    assert pause(answer(credential, FAILED, FAILED, FAILED)) == 1
    pauses = []
    for _ in range(6):
        clock.shift(pause(CancelPace.objects.get()) + 0.01)
        slots(credential)
        pauses.append(pause(answer(credential, FAILED)))
    assert pauses == [2, 4, 8, 10, 10, 10]
    clock.shift(10.01)
    slots(credential)
    answer(credential, None)
    assert pause(answer(credential, FAILED, FAILED, FAILED)) == 1, "a success ends the episode"


def test_a_shorter_pause_never_replaces_a_longer_one(credential: Credential, clock: Any) -> None:
    opened = timezone.now()
    clock.shift(0.1)
    answer(credential, RateLimited(retry_after=60), opened=opened)
    clock.shift(0.1)
    assert pause(answer(credential, *[FAILED] * 5)) == pytest.approx(59.9)
    assert pause(answer(credential, RateLimited(retry_after=120), opened=opened)) == 120
    assert pause(answer(credential, RateLimited(retry_after=7), opened=opened)) == 120


def test_a_rejection_is_looked_at_again_with_one_cancel(credential: Credential, clock: Any) -> None:
    assert pause(answer(credential, Unauthorized(status=401))) == 10
    clock.shift(10.1)
    assert len(slots(credential)) == 1


def test_after_a_rejection_elsewhere_one_cancel_is_sent(credential: Credential, clock: Any) -> None:
    Credential.objects.update(rejected_at=timezone.now())
    assert slots(credential) == []
    clock.shift(10.1)
    assert len(slots(credential)) == 1
