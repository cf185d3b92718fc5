"""How fast one key may cancel in batches, over all workers and batches: CANCELS_PER_SECOND, slower when Arize says so.

The database holds the next free place in time; a worker takes places under the row's lock and sends at each of them.
"""

import uuid
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.conf import settings
from django.utils import timezone

from taskruns.arize.errors import ArizeError, NoAnswer, NotSent, RateLimited, ServerError, Unreadable
from taskruns.models import CancelPace, Credential

# Places are given out this far ahead, and only when the next one is this near: a few sends share one transaction.
AHEAD = timedelta(seconds=0.5)
NEAR = timedelta(seconds=0.25)
# A worker that came late, between two slices of work or on a busy machine, makes up for this much and no more.
LATE = timedelta(seconds=0.2)
# A single 429 or 5xx among good answers is the item's own trouble; this many without a good one are the key's.
MANY = 3
LONG_WAIT = 5  # seconds; a longer Retry-After means the key, not the call
LONGEST_WAIT = 300  # seconds
_TROUBLE = (RateLimited, ServerError, NoAnswer, NotSent, Unreadable)


@dataclass(frozen=True, slots=True)
class Places:
    """Moments at which this worker may send; `taken` notes how many of them it used."""

    pace: CancelPace | None
    moments: list[datetime]

    def taken(self, number: int) -> None:
        if self.pace is None or not number:
            return
        free_at = self.moments[number - 1] + _step()
        CancelPace.objects.filter(pk=self.pace.pk).update(free_at=free_at)


def places(credential_id: uuid.UUID | None, *, most: int) -> Places:
    """The next free ones, at most `most`. Part of a transaction: the row stays locked until it commits."""
    now = timezone.now()
    if credential_id is None:  # no key, no call
        return Places(None, [now] * most)
    pace = _locked(credential_id)
    at = max(pace.free_at, now - LATE)
    key = pace.credential
    is_held = key.failing_since is not None or key.is_backing_off(now)
    is_paused = pace.paused_until is not None and pace.paused_until > now
    if is_held or is_paused or at > now + NEAR:
        return Places(pace, [])
    moments = [at + number * _step() for number in range(most)]
    return Places(pace, [moment for moment in moments if moment <= now + AHEAD])


def heed(credential: Credential, errors: list[ArizeError | None]) -> None:
    """Learn from answers to cancels, in the order in which they came; None is a success."""
    pace, _ = CancelPace.objects.get_or_create(credential=credential)
    refusals, pause, reason = pace.refusals, 0.0, ""
    for error in errors:
        if not isinstance(error, _TROUBLE):
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
    """Seconds: what Arize asked for, else doubled with each trouble in a row."""
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
