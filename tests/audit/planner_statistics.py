"""The statistics of SQLite's query planner."""

from django.db import connection

IS_SQLITE = connection.vendor == "sqlite"  # PostgreSQL collects statistics by itself


def drop_statistics() -> None:
    if IS_SQLITE:
        with connection.cursor() as cursor:
            cursor.execute("DROP TABLE IF EXISTS sqlite_stat1")
    assert not statistics()


def statistics() -> list[str]:
    """The tables for which SQLite has statistics."""
    if not _has_table():
        return []
    with connection.cursor() as cursor:
        cursor.execute("SELECT DISTINCT tbl FROM sqlite_stat1")
        return [name for (name,) in cursor.fetchall()]


def _has_table() -> bool:
    if not IS_SQLITE:
        return False
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM sqlite_master WHERE name = 'sqlite_stat1'")
        return cursor.fetchone() == (1,)
