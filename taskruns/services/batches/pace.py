"""The rate limit of one key's batch cancels, across all workers: CANCELS_PER_SECOND, or slower if Arize asks for it.

A slot is a moment at which one cancel may be sent. The database stores the next free one; a worker reserves slots under
the row's lock.
"""

import uuid
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.conf import settings
from django.utils import timezone

from taskruns.arize.errors import ArizeError, NoAnswer, NotSent, RateLimited, ServerError, Unreadable
from taskruns.models import CancelPace, Credential

# Slots are given out this far ahead, and only if the next one is this near, so that a few sends share one transaction.
AHEAD = timedelta(seconds=0.5)
NEAR = timedelta(seconds=0.25)
# A worker that is late, between two slices or on a busy machine, catches up by at most this much.
LATE = timedelta(seconds=0.2)
# One 429 or 5xx between successes delays only that run. This many in a row pause the key.
MANY = 3
LONG_WAIT = 5  # seconds; a longer Retry-After pauses the whole key
LONGEST_WAIT = 300  # seconds
_FAILURES = (RateLimited, ServerError, NoAnswer, NotSent, Unreadable)


@dataclass(frozen=True, slots=True)
class Slots:
    """The moments at which this worker may send. `use` stores how many of them it uses."""

    pace: CancelPace | None
    moments: list[datetime]

    def use(self, number: int) -> None:
        if self.pace is None or not number:
            return
        free_at = self.moments[number - 1] + _step()
        CancelPace.objects.filter(pk=self.pace.pk).update(free_at=free_at)


def free_slots(credential_id: uuid.UUID | None, *, most: int) -> Slots:
    """The next free slots, at most `most`. The row stays locked until the caller's transaction commits."""
    now = timezone.now()
    if credential_id is None:  # without a key nothing is sent, so there is no limit
        return Slots(None, [now] * most)
    pace = _locked(credential_id)
    at = max(pace.free_at, now - LATE)
    key = pace.credential
    is_held = key.failing_since is not None or key.is_backing_off(now)
    is_paused = pace.paused_until is not None and pace.paused_until > now
    if is_held or is_paused or at > now + NEAR:
        return Slots(pace, [])
    moments = [at + number * _step() for number in range(most)]
    return Slots(pace, [moment for moment in moments if moment <= now + AHEAD])


def adjust(credential: Credential, errors: list[ArizeError | None]) -> None:
    """Pause the key if the answers to its cancels ask for it. `errors` in order of arrival; None is a success."""
    pace, _ = CancelPace.objects.get_or_create(credential=credential)
    refusals, pause, reason = pace.refusals, 0.0, ""
    for error in errors:
        if not isinstance(error, _FAILURES):
            refusals = 0
            continue
        refusals += 1
        wait = wait_after(error, refusals)
        if refusals >= MANY or (isinstance(error, RateLimited) and wait > LONG_WAIT):
            pause, reason = max(pause, wait), error.sentence
    if pause:
        until = timezone.now() + timedelta(seconds=pause)
        CancelPace.objects.filter(pk=pace.pk).update(paused_until=until, pause_reason=reason, refusals=refusals)
    elif refusals != pace.refusals:
        CancelPace.objects.filter(pk=pace.pk).update(refusals=refusals)


def wait_after(error: ArizeError | None, refusals: int = 1) -> float:
    """Seconds to wait: as long as Arize asked for, otherwise doubled with each failure in a row."""
    if isinstance(error, RateLimited) and error.retry_after is not None:
        return min(max(1, error.retry_after), LONGEST_WAIT)
    return min(2.0 ** max(0, refusals - MANY), LONGEST_WAIT)


def _locked(credential_id: uuid.UUID) -> CancelPace:
    rows = CancelPace.objects.select_for_update(of=("self",)).select_related("credential")
    found = rows.filter(credential=credential_id).first()
    if found is None:
        CancelPace.objects.get_or_create(credential_id=credential_id)
        found = rows.get(credential=credential_id)
    return found


def _step() -> timedelta:
    return timedelta(seconds=1 / settings.CANCELS_PER_SECOND)
