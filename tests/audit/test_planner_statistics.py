"""The panel has SQLite take statistics of a large log without anyone's ANALYZE."""

import pytest
from django.core.management import call_command
from django.db import connection

from taskruns.models import AuditEvent, Team
from taskruns.services.query_statistics import newest_by_index
from tests.bench.audit_rows import fill
from tests.queue_worker import every_hour, work

from .planner_statistics import IS_SQLITE, drop_statistics, statistics


@pytest.fixture(autouse=True)
def _log(team: Team) -> None:
    """In a transaction of the test's own: SQLite remembers what it has read of its statistics."""
    fill(f"team:{team.pk}", rows=300)
    drop_statistics()


def assert_taken() -> None:
    assert ("taskruns_auditevent" in statistics()) is IS_SQLITE


def test_migrate_takes_statistics_of_a_few_rows():
    call_command("migrate", interactive=False, verbosity=0)
    assert_taken()
    if IS_SQLITE:
        with connection.cursor() as cursor:
            cursor.execute("PRAGMA analysis_limit")
            assert cursor.fetchone() == (1_000,)


def test_the_jobs_of_the_hour_take_statistics(empty_queue: None):
    every_hour()
    work()
    assert_taken()


def test_the_control_postgresql_would_sort_all_rows_of_an_event():
    """If a later PostgreSQL does not, `newest_by_index` can be removed.

    Without statistics, it guesses from the size of the table: of a small one it expects a single row.
    """
    if not IS_SQLITE:
        fill(f"team:{Team.objects.get().pk}", rows=12_000)
    rows = AuditEvent.objects.filter(event="run.cancel", pk__lt=10**9).order_by("-pk").values_list("pk")[:1_000]
    assert IS_SQLITE or "Bitmap" in rows.explain()
    with newest_by_index():
        assert "Bitmap" not in rows.explain()
