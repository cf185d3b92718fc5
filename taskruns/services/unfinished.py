"""A database into which a restore or a move was interrupted. It may look whole, but no panel may work with it.

A restore on PostgreSQL takes several transactions, so it creates a table of its own first and drops it last. A move
notes in the target that it began, before it copies everything in one transaction.
"""

from pathlib import Path

from django.db import connection

from taskruns.models import Move

RESTORING = "taskruns_restoring"  # the table of a restore that has not ended
RESTORE_INTERRUPTED = (
    "A restore into this database was interrupted, or still works, so the database is incomplete. Run `manage.py "
    "restore` again: it starts over."
)
MOVE_INTERRUPTED = (
    "A move into this database was interrupted, or still works, so the database is incomplete. Run `manage.py move_to` "
    "again with the old DATABASE_URL: it starts over."
)
_MOVES = Move._meta.db_table
_LOOK = {
    "sqlite": (
        "SELECT 0, EXISTS (SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = %s)",
        [_MOVES],
    ),
    "postgresql": (
        "SELECT to_regclass(%s) IS NOT NULL, coalesce(has_table_privilege(to_regclass(%s), 'SELECT'), false)",
        [RESTORING, _MOVES],
    ),
}


def problem() -> str:
    """A sentence that says what to do, or "" if the database is whole. Raises DatabaseError.

    A file that is not there is not created. Nothing is asked of a role that may not read the table.
    """
    if connection.vendor == "sqlite" and not Path(str(connection.settings_dict["NAME"])).exists():
        return ""
    with connection.cursor() as cursor:
        cursor.execute(*_LOOK[connection.vendor])
        is_restoring, has_moves = cursor.fetchone()
    if is_restoring:
        return RESTORE_INTERRUPTED
    return MOVE_INTERRUPTED if has_moves and Move.objects.filter(finished_at=None).exists() else ""
