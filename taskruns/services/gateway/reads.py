"""Passes a script's GET on to Arize with the team's key."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from django.utils import timezone

from taskruns.arize.client import RawAnswer, Timeouts
from taskruns.arize.errors import ArizeError, NoAnswer, RateLimited
from taskruns.models import Credential
from taskruns.models.credentials import LONGEST_BACKOFF
from taskruns.services.credentials.budget import reserve_for_script
from taskruns.services.credentials.client import kept

from . import passing, places

# The script waits, and so does its web thread.
TIMEOUTS = Timeouts(connect=4.0, read=12.0, whole=15.0)
TOO_SOON = 2  # seconds until a place is probably free


class NoRoom(Exception):
    """Nothing was sent. `is_share`: the calls of scripts are used up, else too many scripts wait. In seconds."""

    def __init__(self, retry_after: int, *, is_share: bool) -> None:
        self.retry_after, self.is_share = retry_after, is_share
        super().__init__()


@dataclass(frozen=True, slots=True)
class Forwarded:
    """`started`: when the request to Arize began."""

    answer: RawAnswer
    started: datetime


def read(key: Credential, path: Sequence[str], query: str) -> Forwarded:
    """Arize's answer, and the runs and tasks in it are recorded afterwards.

    Raises NoRoom, CannotConnect, and ArizeError if there is no usable answer.
    """
    with places.of_scripts.place(is_read=True) as is_taken:
        if not is_taken:
            raise NoRoom(TOO_SOON, is_share=False)
        _respect_pause(key)
        forwarded = forward(key, path, query)
    passing.note(key, path, forwarded.answer, forwarded.started)
    return forwarded


def forward(key: Credential, path: Sequence[str], query: str = "") -> Forwarded:
    """For callers that hold a place. Raises like `read`."""
    client = kept(key, timeouts=TIMEOUTS, pool_size=places.PLACES)
    spend(key)
    started = timezone.now()
    try:
        answer = client.forward(path, query)
    except ArizeError as error:
        if error.status is not None or isinstance(error, NoAnswer):
            passing.counts.add(key, is_limited=False)
        raise
    passing.counts.add(key, is_limited=answer.status == 429)
    return Forwarded(answer, started)


def spend(key: Credential) -> None:
    """Take one call of the scripts' share. Raises NoRoom."""
    if wait := reserve_for_script(key):
        raise NoRoom(wait, is_share=True)


def _respect_pause(key: Credential) -> None:
    """Arize asked for a pause with a 429. Cancels are still sent. Raises RateLimited."""
    now = timezone.now()
    if key.backoff_is_limit and key.is_backing_off(now) and key.backoff_until is not None:
        left = min(key.backoff_until - now, LONGEST_BACKOFF)
        raise RateLimited(retry_after=max(1, round(left.total_seconds())))
