"""Long tables and the statistics of the query planner: the pages must be fast without them.

A new or just restored database has none. PostgreSQL collects them later by itself; for SQLite the worker does it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.db import DEFAULT_DB_ALIAS, connection, connections, transaction

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


@contextmanager
def newest_by_index() -> Iterator[None]:
    """For reading the newest rows of a long table: PostgreSQL follows an index instead of sorting all matching rows.

    Without statistics it expects 0.5 % of the rows to match, so it prefers to read all of them and sort: 0.7 s instead
    of 1 ms with 1,000,000 rows. Or it reads all teams' rows with parallel workers. The settings end with the
    transaction, so they also work through a pooler.
    """
    if connection.vendor != "postgresql":
        yield
        return
    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute("SET LOCAL enable_bitmapscan = off; SET LOCAL max_parallel_workers_per_gather = 0")
        yield
