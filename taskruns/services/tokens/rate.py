"""How many requests a token may make: one count for each token and minute, shared by all web processes."""

import math
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache

from django.conf import settings
from django.db import IntegrityError, transaction
from django.db.models import CharField, F
from django.utils import timezone

from taskruns.models import Limit, SignInCount, Token
from taskruns.models.prepared import PreparedUpdate, Slot, TimeSlot
from taskruns.models.stamps import ahead, over
from taskruns.services.minor_writes import soft_commit, soft_statement

WINDOW = timedelta(minutes=1)
SECONDS = int(WINDOW.total_seconds())


@dataclass(frozen=True, slots=True)
class Spent:
    """`used`: in this window, with this request. `seconds`: until the window ends, from 1."""

    limit: int
    used: int
    seconds: int

    @property
    def is_allowed(self) -> bool:
        return self.used <= self.limit

    @property
    def headers(self) -> dict[str, str]:
        """Source: draft-ietf-httpapi-ratelimit-headers, as most servers send them."""
        return {
            "RateLimit-Limit": str(self.limit),
            "RateLimit-Remaining": str(max(0, self.limit - self.used)),
            "RateLimit-Reset": str(self.seconds),
            "RateLimit-Policy": f"{self.limit};w={SECONDS}",
        }


def spend(token: Token) -> Spent:
    """Count one request of the token, also one beyond the limit."""
    limit = Limit("token requests", settings.TOKEN_REQUESTS_PER_MINUTE, WINDOW)
    now = timezone.now()
    used, ends_at = _count(limit.bucket(str(token.pk)), now)
    left = math.ceil((ends_at - now).total_seconds())
    return Spent(limit.attempts, used, min(SECONDS, max(1, left)))


def _count(bucket: str, now: datetime) -> tuple[int, datetime]:
    with soft_statement() as before:
        counted: list[tuple[int, datetime]] = _more().rows(before=before, bucket=bucket, now=now)
    return counted[0] if counted else _first(bucket, now)


def _first(bucket: str, now: datetime) -> tuple[int, datetime]:
    """Of parallel requests, one begins the window; the others count in it."""
    ends_at = now + WINDOW
    anew = {"ends_at": ends_at, "attempts": 1, "is_reported": False}
    with soft_commit():
        past = SignInCount.objects.filter(over("ends_at", now, WINDOW), bucket=bucket)
        if not past.update(**anew):
            try:
                with transaction.atomic():
                    SignInCount.objects.create(bucket=bucket, **anew)
            except IntegrityError:
                return _count(bucket, now)
    return 1, ends_at


@cache
def _more() -> PreparedUpdate:
    row = SignInCount.objects.filter(ahead("ends_at", TimeSlot(), WINDOW), bucket=Slot("bucket", CharField()))
    return PreparedUpdate(row, attempts=F("attempts") + 1, returning=("attempts", "ends_at"))
