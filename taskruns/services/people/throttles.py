"""Counts of attempts and used codes: entries of the cache, which nothing else would delete."""

from django.utils import timezone

from taskruns.models import CacheEntry


def forget_expired() -> int:
    """Delete expired entries. Returns how many.

    The cache never evicts an entry before its time, so it only grows without this.
    """
    return CacheEntry.objects.filter(expires__lte=timezone.now()).delete()[0]
