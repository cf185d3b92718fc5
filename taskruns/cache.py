"""A cache in the database that stores JSON.

Django's own database cache stores pickles: anyone who can write a row could run code in the panel.
"""

import json
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import structlog
from django.core.cache.backends.base import DEFAULT_TIMEOUT, BaseCache
from django.db import IntegrityError, transaction
from django.utils import timezone

from taskruns.models import CacheEntry

log = structlog.get_logger(__name__)
_NEVER = datetime(9999, 1, 1, tzinfo=UTC)


class JsonDatabaseCache(BaseCache):
    """Rows of `CacheEntry`, shared by all processes. A stored value that is not JSON counts as absent.

    No entry is evicted before it expires: the counts of the sign-in throttle must stay. The worker deletes expired
    entries. Raises DatabaseError, and TypeError for a new value that JSON cannot hold.
    """

    def __init__(self, _location: str, params: dict[str, Any]) -> None:
        super().__init__(params)

    def get(self, key: str, default: Any = None, version: int | None = None) -> Any:
        return self.get_many([key], version).get(key, default)

    def get_many(self, keys: Iterable[str], version: int | None = None) -> dict[str, Any]:
        names = {self.make_and_validate_key(key, version=version): key for key in keys}
        rows = CacheEntry.objects.filter(cache_key__in=names, expires__gt=timezone.now())
        found = {}
        for name, value in rows.values_list("cache_key", "value"):
            try:
                found[names[name]] = json.loads(value)
            except (ValueError, RecursionError):
                log.warning("cache_value_unreadable")
        return found

    def add(self, key: str, value: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None) -> bool:
        """True for exactly one of several concurrent callers, because the key is the table's primary key."""
        entry = self._entry(key, value, timeout, version)
        CacheEntry.objects.filter(cache_key=entry.cache_key, expires__lte=timezone.now()).delete()
        try:
            with transaction.atomic():
                entry.save(force_insert=True)
        except IntegrityError:
            return False
        return True

    def set(self, key: str, value: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None) -> None:
        entry = self._entry(key, value, timeout, version)
        CacheEntry.objects.bulk_create(
            [entry], update_conflicts=True, unique_fields=["cache_key"], update_fields=["value", "expires"]
        )

    def touch(self, key: str, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None) -> bool:
        name = self.make_and_validate_key(key, version=version)
        live = CacheEntry.objects.filter(cache_key=name, expires__gt=timezone.now())
        return bool(live.update(expires=self._expires(timeout)))

    def delete(self, key: str, version: int | None = None) -> bool:
        name = self.make_and_validate_key(key, version=version)
        return bool(CacheEntry.objects.filter(cache_key=name).delete()[0])

    def clear(self) -> None:
        CacheEntry.objects.all().delete()

    def _entry(self, key: str, value: Any, timeout: Any, version: int | None) -> CacheEntry:
        name = self.make_and_validate_key(key, version=version)
        return CacheEntry(cache_key=name, value=json.dumps(value), expires=self._expires(timeout))

    def _expires(self, timeout: Any) -> datetime:
        stamp = self.get_backend_timeout(timeout)
        return _NEVER if stamp is None else datetime.fromtimestamp(stamp, tz=UTC)
