"""Counts of tries and codes that were used: rows of the cache's table, which nothing else would tidy away."""

from django.conf import settings
from django.db import connection
from django.utils import timezone


def forget_over() -> int:
    """Delete the counts whose time is over. How many there were.

    The cache itself does so only when it is full, and then drops counts that still hold: so it must never be full.
    """
    table = connection.ops.quote_name(str(settings.CACHES["default"]["LOCATION"]))
    now = connection.ops.adapt_datetimefield_value(timezone.now().replace(microsecond=0))
    with connection.cursor() as cursor:
        cursor.execute(f"DELETE FROM {table} WHERE expires < %s", [now])  # noqa: S608 - the settings' own name
        return int(cursor.rowcount)
