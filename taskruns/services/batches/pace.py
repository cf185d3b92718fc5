"""The rate limit of one key's batch cancels, across all workers: CANCELS_PER_SECOND, or slower if Arize asks for it.

A slot is a moment at which one cancel may be sent. The database stores the next free one; a worker reserves slots under
the row's lock.

Failures are counted by burst, not by answer: the cancels that were sent before a pause say nothing about the time after
it. After a pause one cancel is sent, a probe. If it fails, the next pause is longer; if it succeeds, the episode ends.
"""

import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.conf import settings
from django.db import transaction
from django.db.models import Q
from django.utils import timezone

from taskruns.arize.errors import ArizeError, NoAnswer, NotSent, RateLimited, ServerError, Unauthorized, Unreadable
from taskruns.models import CancelPace, Credential
from taskruns.models.stamps import SKEW, ahead, is_ahead, is_recent, recent
from taskruns.services.credentials.health import SECOND_LOOK

# Slots are given out this far ahead, and only if the next one is this near, so that a few sends share one transaction.
AHEAD = timedelta(seconds=0.5)
NEAR = timedelta(seconds=0.25)
# A worker that is late, between two slices or on a busy machine, catches up by at most this much. A cancel that is more
# than LATE behind its slot gets a new one. So in no second more than a tenth is sent beyond the rate.
CATCH_UP = timedelta(seconds=0.03)
LATE = timedelta(seconds=0.07)
# One 429 or 5xx between successes delays only that run. This many in a row pause the key.
MANY = 3
LONG_WAIT = 5  # seconds; a longer Retry-After pauses the whole key
LONGEST_WAIT = 300  # seconds, if Arize asks for it
LONGEST = timedelta(seconds=LONGEST_WAIT)
LONGEST_LIMIT = 30  # seconds, after 429s without Retry-After
LONGEST_PAUSE = 10  # seconds, after other failures: an emergency stop must continue soon after Arize recovers
PROBE = timedelta(seconds=45)  # longer than a POST with its re-read can take
_FAILURES = (RateLimited, ServerError, NoAnswer, NotSent, Unreadable, Unauthorized)


@dataclass(frozen=True, slots=True)
class Slots:
    """The moments at which this worker may send. `use` stores how many of them it uses."""

    pace: CancelPace | None
    moments: list[datetime]
    is_probe: bool = False

    def use(self, number: int) -> None:
        if self.pace is None or not number:
            return
        last = self.moments[number - 1]
        probe = {"probe_until": last + PROBE} if self.is_probe else {}
        CancelPace.objects.filter(pk=self.pace.pk).update(free_at=last + _step(), **probe)


def free_slots(credential_id: uuid.UUID | None, *, most: int) -> Slots:
    """The next free slots, at most `most`. The row stays locked until the caller's transaction commits."""
    now = timezone.now()
    if credential_id is None:  # without a key nothing is sent, so there is no limit
        return Slots(None, [now] * most)
    pace = _locked(credential_id)
    # A slot far ahead was reserved before the clock was set back.
    at = max(pace.free_at, now - CATCH_UP) if pace.free_at <= now + AHEAD + SKEW else now
    is_waiting = is_ahead(pace.paused_until, now, LONGEST) or is_ahead(pace.probe_until, now, PROBE + AHEAD)
    if is_held(pace.credential, now) or is_waiting or at > now + NEAR:
        return Slots(pace, [])
    is_probe = bool(pace.pauses) or pace.credential.rejected_at is not None
    moments = [at + number * _step() for number in range(1 if is_probe else most)]
    return Slots(pace, [moment for moment in moments if moment <= now + AHEAD], is_probe)


def is_paused(now: datetime, *, of: str = "") -> Q:
    """Keys whose cancels are paused; `of`: the path to the pace."""
    return ahead(f"{of}paused_until", now, LONGEST)


def later_slots(credential_id: uuid.UUID, number: int) -> list[datetime]:
    """New slots for cancels that missed theirs."""
    with transaction.atomic():
        pace = _locked(credential_id)
        now = timezone.now()
        at = max(pace.free_at, now) if pace.free_at <= now + AHEAD + SKEW else now
        CancelPace.objects.filter(pk=pace.pk).update(free_at=at + number * _step())
    return [at + place * _step() for place in range(number)]


def is_held(key: Credential, now: datetime) -> bool:
    """Whether no batch may use the key: it is failing, was just rejected, or Arize asked for a pause (429).

    After a 5xx, the mirror reads less often, but a batch sends its own probes.
    """
    is_limited = key.backoff_is_limit and key.is_backing_off(now)
    is_rejected = is_recent(key.rejected_at, now, SECOND_LOOK)
    return key.failing_since is not None or is_limited or is_rejected


def held_keys(prefix: str, now: datetime) -> Q:
    """The same as a condition on a credential that `prefix` leads to."""
    is_failing = Q(**{f"{prefix}__failing_since__isnull": False})
    is_limited = Credential.backing_off(now, of=f"{prefix}__") & Q(**{f"{prefix}__backoff_is_limit": True})
    is_rejected = recent(f"{prefix}__rejected_at", now, SECOND_LOOK)
    return is_failing | is_limited | is_rejected


def waiting_keys(prefix: str, now: datetime) -> Q:
    """Keys that are paused, or whose probe has no answer yet."""
    pace = f"{prefix}__cancel_pace"
    return is_paused(now, of=f"{pace}__") | ahead(f"{pace}__probe_until", now, PROBE + AHEAD)


def adjust(credential: Credential, answers: Iterable[tuple[datetime, ArizeError | None]]) -> None:
    """Pause the key if the answers to its cancels ask for it. `answers`: when each cancel was opened, and its error."""
    with transaction.atomic():
        pace = _locked(credential.pk)
        for opened_at, error in answers:
            _learn(pace, opened_at, error)
        pace.save(update_fields=["refusals", "pauses", "paused_at", "paused_until", "pause_reason", "probe_until"])


def wait_after(error: ArizeError | None, pauses: int = 0) -> float:
    """Seconds to wait: as long as Arize asked for, otherwise doubled with each pause of this episode."""
    if isinstance(error, Unauthorized):
        return SECOND_LOOK.total_seconds()
    if isinstance(error, RateLimited) and error.retry_after is not None:
        return min(max(1, error.retry_after), LONGEST_WAIT)
    return min(2.0 ** min(pauses, 10), LONGEST_LIMIT if isinstance(error, RateLimited) else LONGEST_PAUSE)


def _learn(pace: CancelPace, opened_at: datetime, error: ArizeError | None) -> None:
    now = timezone.now()
    is_of_earlier_burst = pace.paused_at is not None and opened_at < pace.paused_at <= now + SKEW
    if not is_of_earlier_burst:
        pace.probe_until = None
    if error is None or not isinstance(error, _FAILURES):
        if not is_of_earlier_burst:
            pace.refusals = pace.pauses = 0
        return
    wait = wait_after(error, pace.pauses)
    is_long = isinstance(error, RateLimited) and wait > LONG_WAIT
    if is_of_earlier_burst:
        if is_long:
            _pause(pace, error, wait)
        return
    pace.refusals += 1
    if pace.pauses or is_long or pace.refusals >= MANY or isinstance(error, Unauthorized):
        pace.pauses, pace.paused_at = pace.pauses + 1, timezone.now()
        _pause(pace, error, wait)


def _pause(pace: CancelPace, error: ArizeError, wait: float) -> None:
    """A shorter pause never replaces a longer one."""
    now = timezone.now()
    until = now + timedelta(seconds=wait)
    if pace.paused_until is None or pace.paused_until < until or not is_ahead(pace.paused_until, now, LONGEST):
        pace.paused_until, pace.pause_reason = until, error.sentence


def _locked(credential_id: uuid.UUID) -> CancelPace:
    rows = CancelPace.objects.select_for_update(of=("self",), no_key=True).select_related("credential")
    found = rows.filter(credential=credential_id).first()
    if found is None:
        CancelPace.objects.get_or_create(credential_id=credential_id)
        found = rows.get(credential=credential_id)
    return found


def _step() -> timedelta:
    return timedelta(seconds=1 / settings.CANCELS_PER_SECOND)
