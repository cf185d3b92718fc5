"""How many requests a token may make: one count for each token and minute, shared by all web processes."""

import math
from dataclasses import dataclass
from datetime import timedelta

from django.conf import settings
from django.utils import timezone

from taskruns.models import Limit, SignInCount, Token
from taskruns.services.lock_wait import soft_commit

WINDOW = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class Spent:
    """`seconds`: until the window ends and all requests are allowed again, from 1."""

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
            "RateLimit-Policy": f"{self.limit};w={int(WINDOW.total_seconds())}",
        }


def spend(token: Token) -> Spent:
    """Count one request of the token, also one beyond the limit."""
    limit = Limit("token requests", settings.TOKEN_REQUESTS_PER_MINUTE, WINDOW)
    now = timezone.now()
    with soft_commit():
        used, ends_at = SignInCount.objects.count_one(limit, str(token.pk))
    return Spent(limit.attempts, used, _seconds(ends_at - now))


def _seconds(left: timedelta) -> int:
    return min(int(WINDOW.total_seconds()), max(1, math.ceil(left.total_seconds())))
