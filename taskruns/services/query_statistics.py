"""Updates the statistics of SQLite's query planner, which SQLite does not do by itself. PostgreSQL does.

The pages do not need them, but other queries on a large mirror get better plans.
"""

from typing import Any

from django.db import DEFAULT_DB_ALIAS, connections

# Rows read from each index, so that the write lock is held for milliseconds however large the tables are.
ROWS_READ = 1_000
# 0x02: only tables for which it helps. 0x10000: also tables that this connection has not queried.
_OPTIMIZE = 0x10002


def refresh_statistics(*, using: str = DEFAULT_DB_ALIAS, **_kwargs: Any) -> None:
    """Called by the worker, and as a receiver of `post_migrate`."""
    connection = connections[using]
    if connection.vendor == "sqlite":
        with connection.cursor() as cursor:
            cursor.execute(f"PRAGMA analysis_limit={ROWS_READ}")
            cursor.execute(f"PRAGMA optimize={_OPTIMIZE:#x}")
