"""Puts the copy of a backup into an empty database."""

import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

from django.conf import settings
from django.db import DatabaseError, connection, transaction
from django.db.backends.utils import CursorWrapper

from taskruns.services.unfinished import RESTORING

from .archive import Archive
from .snapshot import check_version, run_program

Progress = Callable[[int], None]
_LOCK = 0x7461736B72756E73  # of the database: a restore works in it
ENDS_WITHIN = 10  # seconds


class LoadFailed(Exception):
    """The copy is not a whole database. The text says so."""


def has_tables() -> bool:
    """Also false if there is no SQLite file yet, which is not created, or only what an interrupted restore left."""
    if connection.vendor == "sqlite" and not Path(str(connection.settings_dict["NAME"])).exists():
        return False
    names = connection.introspection.table_names()
    return bool(names) and RESTORING not in names


def loaded(archive: Archive, progress: Progress) -> AbstractContextManager[None]:
    """In the block, the database of this process is the restored one. Raises BadBackup, CannotDump, LoadFailed.

    If the block fails, nothing is left of it. If the process is killed, the next restore starts over.
    SQLite: a file beside the real one, which takes its place at the end.
    PostgreSQL: the database itself, in which no panel starts until the block has ended (`unfinished`).
    """
    return _postgresql(archive, progress) if connection.vendor == "postgresql" else _sqlite(archive, progress)


@contextmanager
def _sqlite(archive: Archive, progress: Progress) -> Iterator[None]:
    final = Path(str(connection.settings_dict["NAME"]))
    part = final.with_name(f"{final.name}.restoring")
    connection.close()
    _remove(part)
    try:
        archive.unpack(part, progress)
        _check(part)
        connection.settings_dict["NAME"] = str(part)
        try:
            yield
            with connection.cursor() as cursor:
                cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        finally:
            connection.close()
            connection.settings_dict["NAME"] = str(final)
        _remove(final)
        part.rename(final)
    finally:
        _remove(part)


def _remove(path: Path) -> None:
    """The file and what SQLite keeps beside it."""
    for end in ("", "-wal", "-shm", "-journal"):
        path.with_name(f"{path.name}{end}").unlink(missing_ok=True)


def _check(part: Path) -> None:
    try:
        with closing(sqlite3.connect(part)) as copy:
            (answer,) = copy.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.DatabaseError:
        answer = ""
    if answer != "ok":
        raise LoadFailed("The database in the backup is not whole. Use another copy.")


@contextmanager
def _postgresql(archive: Archive, progress: Progress) -> Iterator[None]:
    check_version("pg_restore")
    with connection.cursor() as cursor:
        _claim(cursor)
        if has_tables():  # since the command looked
            raise LoadFailed("The database is no longer empty, and a restore never replaces any table.")
        _empty(cursor)
        cursor.execute(f"CREATE TABLE {RESTORING} (backup text NOT NULL)")
        cursor.execute(f"INSERT INTO {RESTORING} VALUES (%s)", [archive.digest])  # noqa: S608 - our name
    try:
        _load(archive, progress)
        yield
    except BaseException:
        # If this fails too, or nothing is left of this process to do it, the table says that the rest is incomplete.
        with suppress(DatabaseError), connection.cursor() as cursor:
            _empty(cursor)
        raise
    with connection.cursor() as cursor:
        cursor.execute(f"DROP TABLE {RESTORING}")


def _claim(cursor: CursorWrapper) -> None:
    """For as long as this connection lives. Raises LoadFailed. Programs of a restore that was killed may still work."""
    cursor.execute("SELECT pg_try_advisory_lock(%s)", [_LOCK])
    if not cursor.fetchone()[0]:
        raise LoadFailed("Another restore into this database still works. Wait until it has ended.")
    cursor.execute(
        "SELECT pg_terminate_backend(pid, %s) FROM pg_stat_activity WHERE datname = current_database() "
        "AND usename = current_user AND application_name = 'pg_restore'",
        [1_000 * ENDS_WITHIN],
    )
    if not all(ended for (ended,) in cursor.fetchall()):
        raise LoadFailed("A program of an earlier restore still works in this database. Stop pg_restore first.")


def _empty(cursor: CursorWrapper) -> None:
    """Drop what a interrupted restore left, all of it or nothing. There was no table before that restore."""
    with transaction.atomic():
        for table in connection.introspection.table_names(cursor):
            cursor.execute(f"DROP TABLE {connection.ops.quote_name(table)} CASCADE")
        cursor.execute(
            "SELECT oid::regprocedure::text FROM pg_proc WHERE pronamespace = current_schema()::regnamespace "
            "AND proname LIKE 'taskruns\\_%'"
        )
        for (function,) in cursor.fetchall():
            cursor.execute(f"DROP FUNCTION {function} CASCADE")


def _load(archive: Archive, progress: Progress) -> None:
    """The rows as they were, in one transaction. Only the panel's account can enter DATA_DIR, where the dump lies."""
    folder = Path(settings.DATA_DIR) / f"restoring-{quote(str(connection.settings_dict['NAME']), safe='')}"
    shutil.rmtree(folder, ignore_errors=True)  # of a restore that was killed
    folder.mkdir(mode=0o700)
    try:
        dump = folder / "database"
        archive.unpack(dump, progress)
        run_program(
            *("pg_restore", "--no-owner", "--no-privileges", "--exit-on-error", "--single-transaction"),
            *("--no-password", f"--dbname={connection.settings_dict['NAME']}", str(dump)),
        )
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    with connection.cursor() as cursor:
        # Without statistics, the verification sorts the rest of a chain for each chunk.
        cursor.execute("ANALYZE")
