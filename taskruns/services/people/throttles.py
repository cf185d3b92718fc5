"""Counts of attempts and used codes: entries of the cache, which nothing else would delete."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

from django.core.cache import cache
from django.db import connection, transaction
from django.utils import timezone

from taskruns.allauth_compat import replace_count_lock
from taskruns.models import CacheEntry

# Longer than any challenge can be answered.
CHALLENGE_USED_FOR = 15 * 60  # seconds


def count_in_database() -> None:
    """Called once, when the app is ready."""
    replace_count_lock(one_at_a_time)


@contextmanager
def one_at_a_time(count: str) -> Iterator[bool]:
    """Around a change of the count with this name. True: the count may be changed.

    allauth's own lock is a row that others poll for, asleep for up to a second: a few dozen attempts at once would put
    every thread of the web server to sleep. Here they queue in the database, for milliseconds. SQLite has one writer at
    a time anyway, and each transaction begins as one.
    """
    with transaction.atomic():
        if connection.vendor == "postgresql":
            number = int.from_bytes(hashlib.sha256(count.encode()).digest()[:8], signed=True)
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_advisory_xact_lock(%s)", [number])
        yield True


def use_up_challenge(challenge: str) -> bool:
    """False if a passkey's right answer to this challenge was used before.

    Strangers keep the challenge in their own cookie, which they can send again. Only a right answer makes this row.
    """
    used = hashlib.sha256(challenge.encode()).hexdigest()
    return bool(cache.add(f"taskruns.passkey.used:{used}", True, timeout=CHALLENGE_USED_FOR))


def forget_expired() -> int:
    """Delete expired entries. Returns how many.

    The cache never evicts an entry before its time, so it only grows without this.
    """
    return CacheEntry.objects.filter(expires__lte=timezone.now()).delete()[0]
