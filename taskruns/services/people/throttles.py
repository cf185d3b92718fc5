"""The counts of allauth's rate limits, and the used challenges of passkeys. Both are entries of the cache."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

from django.core.cache import cache
from django.db import connection, transaction
from django.utils import timezone

from taskruns.allauth_compat import replace_count_lock
from taskruns.models import CacheEntry

# Longer than the lifetime of a challenge.
CHALLENGE_USED_FOR = 15 * 60  # seconds


def count_in_database() -> None:
    """Replace allauth's lock. Called once, when the app is ready."""
    replace_count_lock(one_at_a_time)


@contextmanager
def one_at_a_time(count: str) -> Iterator[bool]:
    """A lock around a change of the count with this name. Always yields True, which tells allauth to change it.

    With allauth's own lock, each waiting thread polls a row and sleeps in between, for up to a second: a few dozen
    attempts at once would block every thread of the web server. Here they wait in the database, for milliseconds.
    SQLite needs no lock, because each transaction starts as the only writer.
    """
    with transaction.atomic():
        if connection.vendor == "postgresql":
            number = int.from_bytes(hashlib.sha256(count.encode()).digest()[:8], signed=True)
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_advisory_xact_lock(%s)", [number])
        yield True


def use_up_challenge(challenge: str) -> bool:
    """Call it after a right answer to the challenge of a passkey. False if the challenge was used before.

    A stranger's challenge is in their own cookie, which they could send again. Only a right answer makes a row.
    """
    used = hashlib.sha256(challenge.encode()).hexdigest()
    return bool(cache.add(f"taskruns.passkey.used:{used}", True, timeout=CHALLENGE_USED_FOR))


def forget_expired() -> int:
    """Delete expired entries. Returns how many.

    The cache evicts nothing by itself, so it would grow forever.
    """
    return CacheEntry.objects.filter(expires__lte=timezone.now()).delete()[0]
