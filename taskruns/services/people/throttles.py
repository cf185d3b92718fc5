"""Deletes expired rows of the cache table: counts of sign-in attempts, and codes that were used."""

from django.conf import settings
from django.db import connection
from django.utils import timezone


def forget_expired() -> int:
    """Delete expired rows. Returns how many.

    Django deletes them only when the cache is full, and then also drops counts that are still valid. So the cache must
    never be full.
    """
    table = connection.ops.quote_name(str(settings.CACHES["default"]["LOCATION"]))
    now = connection.ops.adapt_datetimefield_value(timezone.now().replace(microsecond=0))
    with connection.cursor() as cursor:
        cursor.execute(f"DELETE FROM {table} WHERE expires < %s", [now])  # noqa: S608 - the settings' own name
        return int(cursor.rowcount)
