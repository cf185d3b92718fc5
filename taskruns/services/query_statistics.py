"""Statistics for the query planner of SQLite, which takes none by itself. PostgreSQL does.

The pages do not depend on them; other queries of a large mirror get better plans.
"""

from typing import Any

from django.db import DEFAULT_DB_ALIAS, connections

# Rows read of each index. The write lock is held for milliseconds, however long the tables are.
ROWS_READ = 1_000
# 0x02: where it helps. 0x10000: also tables that this connection has not queried.
_OPTIMIZE = 0x10002


def refresh_statistics(*, using: str = DEFAULT_DB_ALIAS, **_kwargs: Any) -> None:
    """Also a signal receiver of `post_migrate`."""
    connection = connections[using]
    if connection.vendor == "sqlite":
        with connection.cursor() as cursor:
            cursor.execute(f"PRAGMA analysis_limit={ROWS_READ}")
            cursor.execute(f"PRAGMA optimize={_OPTIMIZE:#x}")
