"""Deleting old anchors, as far as the database's triggers allow it. `services.audit.thinning` chooses them."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from django.db import connection

from taskruns.models import AuditAnchor

from .append_only import KEPT_WHOLE, missing_triggers

_TABLE = AuditAnchor._meta.db_table
# The triggers and this process may read the clock a moment apart.
_MARGIN = timedelta(minutes=1)


def thinned_before() -> datetime:
    """Anchors signed before this time, by the database's clock, may be thinned."""
    query = "SELECT strftime('%Y-%m-%dT%H:%M:%f+00:00', 'now')"
    with connection.cursor() as cursor:
        cursor.execute("SELECT statement_timestamp()" if connection.vendor == "postgresql" else query)
        (now,) = cursor.fetchone()
    at = datetime.fromisoformat(now) if isinstance(now, str) else now
    return at.astimezone(UTC) - KEPT_WHOLE - _MARGIN


def why_not_thinned() -> str:
    """Why this process must not delete anchors, as a sentence, or ""."""
    if missing := [name for name in missing_triggers(connection) if name.startswith(_TABLE)]:
        return f"The trigger {missing[0]} is missing or of another release. Run manage.py migrate."
    if connection.vendor != "postgresql":
        return ""
    with connection.cursor() as cursor:
        cursor.execute("SELECT has_table_privilege(to_regclass(quote_ident(%s)), 'DELETE')", [_TABLE])
        (may_delete,) = cursor.fetchone()
    return "" if may_delete else f"The panel's role may not delete rows of {_TABLE}, so the database keeps all of them."


def delete_anchors(keys: Sequence[int]) -> int:
    """Delete the anchors with these primary keys. Returns how many. DatabaseError if the triggers refuse one."""
    with connection.cursor() as cursor:
        marks = ", ".join(["%s"] * len(keys))
        cursor.execute(f"DELETE FROM {_TABLE} WHERE id IN ({marks})", keys)  # noqa: S608 - our name
        return int(cursor.rowcount)
