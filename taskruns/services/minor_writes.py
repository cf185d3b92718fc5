"""Writes that matter less than others: some give up soon if another writer holds the lock, some do not wait for the
disk.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import structlog
from django.db import DatabaseError, connection, transaction

from .rare_lines import Rarely

log = structlog.get_logger(__name__)
T = TypeVar("T")
_complaints: defaultdict[str, Rarely] = defaultdict(Rarely)
LONGEST_WAIT = 250  # milliseconds
_SOFT = "SET LOCAL synchronous_commit = off"


def try_write(write: Callable[[], T], *, what: str) -> T | None:
    """Run `write` in a transaction that waits for locks only briefly. None if it failed, which is logged once a minute.

    For writes that nobody misses. SQLite has one lock for all writers, so even a backup tool can hold it for long.
    """
    try:
        with _short_lock_wait(), transaction.atomic():
            _limit_postgresql()
            return write()
    except DatabaseError as error:
        if (complaints := _complaints[what]).is_due():
            log.warning("not_written", what=what, error=str(error).strip(), left_out=complaints.left_out)
        return None


@contextmanager
def soft_commit() -> Iterator[None]:
    """A transaction whose commit does not wait for the disk: for counts that a power cut may lose.

    Within another transaction, that one's commit decides.
    """
    if connection.in_atomic_block:
        with transaction.atomic():
            yield
        return
    with _relaxed_sqlite(), transaction.atomic():
        if connection.vendor == "postgresql":
            _execute(_SOFT)
        yield


@contextmanager
def soft_statement() -> Iterator[Sequence[str]]:
    """Like `soft_commit`, for one prepared update that is a transaction of its own: one message instead of four. Yields
    what to pass to it as `before`.
    """
    with _relaxed_sqlite():
        alone = connection.vendor == "postgresql" and not connection.in_atomic_block
        yield (_SOFT,) if alone else ()


@contextmanager
def _relaxed_sqlite() -> Iterator[None]:
    """SQLite does not wait for the disk. The next durable commit of any connection also writes this one, because all
    share one log file.
    """
    if connection.vendor != "sqlite" or connection.in_atomic_block:
        yield
        return
    connection.ensure_connection()
    execute = connection.connection.execute
    usual = execute("PRAGMA synchronous").fetchone()[0]
    execute("PRAGMA synchronous = NORMAL")
    try:
        yield
    finally:
        execute(f"PRAGMA synchronous = {usual}")


@contextmanager
def _short_lock_wait() -> Iterator[None]:
    """SQLite: the time limit belongs to the connection, so the usual one returns afterwards."""
    if connection.vendor != "sqlite":
        yield
        return
    connection.ensure_connection()
    execute = connection.connection.execute
    usual = execute("PRAGMA busy_timeout").fetchone()[0]
    execute(f"PRAGMA busy_timeout = {LONGEST_WAIT}")
    try:
        yield
    finally:
        execute(f"PRAGMA busy_timeout = {usual}")


def _limit_postgresql() -> None:
    """PostgreSQL: the time limit ends with the outermost transaction."""
    if connection.vendor == "postgresql":
        _execute(f"SET LOCAL lock_timeout = {LONGEST_WAIT}")


def _execute(sql: str) -> None:
    """Not one of the queries that tests count. Raises DatabaseError."""
    with connection.wrap_database_errors:
        connection.connection.execute(sql)
