"""The cursor of a statement that failed must not be freed by another thread: on SQLite that can stop all writers."""

import gc
import sys
import threading
from collections.abc import Iterator

import pytest
from django.db import DatabaseError, InterfaceError, ProgrammingError, connection, transaction

from taskruns.models import Team
from taskruns.services.minor_writes import try_write
from tests.processes import wait_for


@pytest.fixture
def no_collection() -> Iterator[None]:
    """Except when the test asks for it."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()
    gc.collect()  # connections of other tests, too, which would keep the database open


@pytest.mark.django_db
def test_the_cursor_of_a_failed_statement_is_closed():
    cursor = connection.cursor()
    with pytest.raises(DatabaseError), transaction.atomic():
        cursor.execute("SELECT nonsense")
    with pytest.raises((ProgrammingError, InterfaceError, DatabaseError)):
        cursor.fetchone()


@pytest.mark.usefixtures("committed", "no_collection")
def test_a_collection_under_the_write_lock_waits_for_no_writer():
    """Another thread failed before, and waits for the lock now."""
    team = Team.objects.create(slug="ops-north", name="Ops North")
    outcome: list[str] = []

    def write() -> None:
        try:
            try_write(lambda: Team.objects.update(name="Left out"), what="name")
            with transaction.atomic():
                Team.objects.filter(pk=team.pk).update(name="Written")
            outcome.append("written")
        finally:
            connection.close()

    other = threading.Thread(target=write)
    with transaction.atomic():
        Team.objects.filter(pk=team.pk).update(name="Held")
        other.start()
        wait_for(lambda: _begins_again(other), "the second try")
        gc.collect()
    other.join(10)
    assert outcome == ["written"]
    team.refresh_from_db()
    assert team.name == "Written"


def _begins_again(thread: threading.Thread) -> bool:
    """Whether the thread waits for the lock, in the second of its two transactions."""
    frame = sys._current_frames().get(thread.ident or 0)
    names = set()
    while frame is not None:
        names.add(frame.f_code.co_name)
        frame = frame.f_back
    return "execute" in names and "try_write" not in names
