"""The audit page is quick without statistics of the query planner, which a new database does not have."""

import re
from collections.abc import Iterator

import pytest
from django.apps import apps
from django.db import connection
from django.db.models.signals import post_migrate
from django.http import QueryDict
from django.test.utils import CaptureQueriesContext

from taskruns import jobs
from taskruns.forms import AuditFilter
from taskruns.models import AuditEvent, Team
from taskruns.pages.audit.page import EVENTS, OUTCOMES, page
from tests.bench.audit import PAGES
from tests.bench.audit_rows import fill
from tests.queue_worker import work

pytestmark = pytest.mark.skipif(connection.vendor != "sqlite", reason="PostgreSQL takes statistics by itself")

FILTERS = {
    **PAGES,
    "everything": "?event=run.cancel&outcome=confirmed&actor=00000000-0000-0000-0000-000000000007&q=evaluation",
    "a run and an event": "?run=VGFza1J1bjo00000002&event=run.cancel",
    "an event in an hour": "?event=run.cancel&since=2026-01-01T01:00&until=2026-01-01T02:00",
}


@pytest.fixture
def log(team: Team) -> Team:
    fill(f"team:{team.pk}", rows=300)
    drop_statistics()
    return team


def drop_statistics() -> None:
    with connection.cursor() as cursor:
        cursor.execute("DROP TABLE IF EXISTS sqlite_stat1")
    assert not statistics()


def statistics() -> list[str]:
    """The tables that have some."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT name FROM sqlite_master WHERE name = 'sqlite_stat1'")
        if not cursor.fetchall():
            return []
        cursor.execute("SELECT DISTINCT tbl FROM sqlite_stat1")
        return [name for (name,) in cursor.fetchall()]


def inner_plans(team: Team | None, query: str) -> Iterator[str]:
    """How the older rows of an operation are looked up."""
    wanted = AuditFilter.parse(QueryDict(query.removeprefix("?")), events=EVENTS, outcomes=OUTCOMES)
    with CaptureQueriesContext(connection) as queries:
        page(team, wanted)
    for captured in queries:
        if "EXISTS" in captured["sql"]:
            with connection.cursor() as cursor:
                cursor.execute(f"EXPLAIN QUERY PLAN {captured['sql']}")
                yield from (step for *_, step in cursor.fetchall() if re.match("(SEARCH|SCAN) U0", step))


@pytest.mark.parametrize("of_all", [False, True], ids=["a team", "all teams"])
@pytest.mark.parametrize("name", FILTERS.keys() - {"an event that is not there"})
def test_operations_are_looked_up_by_their_index(name: str, of_all: bool, log: Team):  # noqa: FBT001
    plans = list(inner_plans(None if of_all else log, FILTERS[name]))
    assert plans == ["SEARCH U0 USING INDEX audit_by_operation (operation_id=? AND rowid<?)"]


def test_the_control_the_plain_look_up_takes_the_wrong_index(log: Team):
    """If SQLite learns better, the expressions can go."""
    plain = AuditEvent.objects.filter(chain="x", operation_id="0" * 32, pk__lt=5)
    assert "audit_by_operation" not in plain.explain()


def test_migrate_takes_statistics_of_a_few_rows(log: Team):
    post_migrate.send(apps.get_app_config("taskruns"), using="default", verbosity=0, interactive=False)
    assert "taskruns_auditevent" in statistics()
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA analysis_limit")
        assert cursor.fetchone() == (1_000,)


def test_the_jobs_of_the_hour_take_statistics(log: Team, empty_queue: None):
    jobs.every_hour.call_local()
    work()
    assert "taskruns_auditevent" in statistics()
