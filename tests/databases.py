"""The database of each test process: a copy of one that is migrated once per run, for all processes of pytest-xdist."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from django.conf import settings
from django.db import connection


def process_of(config: pytest.Config) -> str:
    """The name of this process of pytest-xdist. Empty if there is only one."""
    return str(getattr(config, "workerinput", {}).get("workerid", ""))


@contextmanager
def own_database(folder: Path, process: str) -> Iterator[None]:
    """Connect to a migrated database, dropped afterwards. A server must allow the role to create databases.

    `folder`: of all processes of the run.
    """
    if connection.vendor == "sqlite":
        connection.settings_dict["TEST"]["NAME"] = str(folder / "test.sqlite3")
    if not process:
        usual = connection.settings_dict["NAME"]
        _migrate()
        yield
        connection.creation.destroy_test_db(usual, verbosity=0)
        return
    with _shared(folder, process):
        connection.creation.clone_test_db(process, verbosity=0, autoclobber=True)
    migrated = connection.settings_dict["NAME"]
    _use(connection.creation.get_test_db_clone_settings(process)["NAME"])
    yield
    connection.creation.destroy_test_db(migrated, verbosity=0)
    _leave(folder, process)


def _migrate() -> None:
    connection.creation.create_test_db(verbosity=0, autoclobber=True, serialize=False)
    connection.close()  # a database with connections cannot be copied


def _use(name: str) -> None:
    connection.close()
    settings.DATABASES["default"]["NAME"] = connection.settings_dict["NAME"] = name


@contextmanager
def _shared(folder: Path, process: str) -> Iterator[None]:
    """With the migrated database, which the first process of the run makes."""
    with locked(folder):
        users = _users(folder)
        if any(users.iterdir()):
            _use(connection.creation._get_test_db_name())
        else:
            _migrate()
        (users / process).touch()
        yield


def _leave(folder: Path, process: str) -> None:
    """The last process of the run drops the migrated database."""
    with locked(folder):
        users = _users(folder)
        (users / process).unlink()
        if not any(users.iterdir()):
            connection.creation.destroy_test_db(verbosity=0)


def _users(folder: Path) -> Path:
    """A folder with one file for each process that uses the migrated database."""
    users = folder / "database-users"
    users.mkdir(exist_ok=True)
    return users


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """For one process of the run at a time."""
    with (folder / "database.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
