"""Read what the database holds."""

from collections.abc import Callable
from typing import Any

from django.db import connection

from taskruns.models import AuditEvent


def events(**wanted: Any) -> list[tuple[str, str]]:
    """Event and outcome of each audit row, oldest first."""
    rows = AuditEvent.objects.filter(**wanted).order_by("id")
    return [(row.event, row.outcome) for row in rows]


# Tables for internal counters: the sign-in throttle and the number of calls.
HOUSEKEEPING = {"cache", "django_migrations", "taskruns_keyusage", "taskruns_lease", "taskruns_signincount"}
Dump = dict[str, list[tuple[Any, ...]]]


def dump(*, without: Callable[[str], bool] = lambda _: False) -> Dump:
    """All rows of all tables."""
    with connection.cursor() as cursor:
        tables = [name for name in connection.introspection.table_names(cursor) if name not in HOUSEKEEPING]
        found: Dump = {}
        for table in tables:
            if not without(table):
                cursor.execute(f'SELECT * FROM "{table}"')
                found[table] = sorted(cursor.fetchall(), key=repr)
    assert found
    return found
