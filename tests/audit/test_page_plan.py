"""The audit page is fast without the query planner's statistics, which a new database does not have."""

import re
import uuid

import pytest
from django.db import connection
from django.http import QueryDict
from django.test.utils import CaptureQueriesContext

from taskruns.forms import AuditFilter
from taskruns.models import AuditEvent, Team
from taskruns.pages.audit.page import EVENTS, OUTCOMES, page
from tests.bench.audit import PAGES, query_for
from tests.bench.audit_rows import fill

from .planner_statistics import IS_SQLITE, drop_statistics

PLAN = ["SEARCH U0 USING INDEX audit_by_operation (operation_id=? AND rowid<?)"]
FILTERS = {
    **PAGES,
    "everything": "?event=run.cancel&outcome=confirmed&actor={person}&q=evaluation",
    "a run and an event": "?run={run}&event=run.cancel",
    "all times": "?since=2020-01-01&until=2099-01-01",
    "an event in an hour": "?event=run.cancel&since=2026-01-01T01:00&until=2026-01-01T02:00",
}


@pytest.fixture(scope="module")
def team(file_db: None) -> Team:
    return Team.objects.create(slug="ops-north", name="Ops North")


@pytest.fixture(scope="module")
def filled(team: Team) -> Team:
    fill(f"team:{team.pk}", rows=300)
    return team


@pytest.fixture
def log(filled: Team, db: None) -> Team:
    drop_statistics()
    return filled


def look_ups(team: Team | None, query: str) -> list[str]:
    """The page's queries that look up older rows of an operation."""
    wanted = parsed(query)
    with CaptureQueriesContext(connection) as queries:
        page(team, wanted)
    return [captured["sql"] for captured in queries if "EXISTS" in captured["sql"]]


def parsed(query: str) -> AuditFilter:
    return AuditFilter.parse(QueryDict(query.removeprefix("?")), events=EVENTS, outcomes=OUTCOMES)


def plan_of(look_up: str) -> list[str]:
    with connection.cursor() as cursor:
        cursor.execute(f"EXPLAIN QUERY PLAN {look_up}")
        return [step for *_, step in cursor.fetchall() if re.match("SEARCH|SCAN", step)]


@pytest.mark.parametrize("of_all", [False, True], ids=["a team", "all teams"])
@pytest.mark.parametrize("name", sorted(FILTERS.keys() - {"an absent event"}))
def test_operations_are_looked_up_by_their_index(name: str, of_all: bool, log: Team):  # noqa: FBT001
    """The page's rows are found by their few keys, or by the chain and a range of keys."""
    (look_up,) = look_ups(None if of_all else log, query_for(log, FILTERS[name]))
    outer, _, inner = look_up.partition("EXISTS")
    assert not re.search(r'AND U0."(chain|event|actor_id|run_id|request_id|at)" [=<>]', inner), "no other index"
    assert not re.search(r'AND "taskruns_auditevent"."(event|actor_id|run_id|request_id|at)" [=<>]', outer)
    if IS_SQLITE:
        first, *rest = plan_of(look_up)
        assert re.search(r"audit_by_chain \(chain=\? AND id[<>=]|INTEGER PRIMARY KEY \(rowid[<>=]", first)
        assert rest == PLAN


def test_a_small_team_is_not_searched_among_all_teams(log: Team, other_team: Team):
    """Its newest row is newer than those of a large team: that is where all teams' rows of the event are."""
    fill(f"team:{other_team.pk}", rows=1_100)
    fill(f"team:{log.pk}", rows=2)
    (look_up,) = look_ups(log, FILTERS["one event"])
    assert not IS_SQLITE or "audit_by_chain (chain=? AND id>? AND id<?)" in plan_of(look_up)[0]


def test_the_control_a_plain_look_up_takes_the_wrong_index(log: Team):
    """If a later SQLite chooses the right index, the expressions can be removed."""
    plain = AuditEvent.objects.filter(chain="x", operation_id=uuid.UUID(int=1), pk__lt=5)
    assert re.search(r'"chain" = ', str(plain.query))
    assert not IS_SQLITE or "audit_by_operation" not in plain.explain()


@pytest.mark.parametrize("of_all", [False, True], ids=["a team", "all teams"])
@pytest.mark.parametrize("name", sorted(FILTERS))
def test_postgresql_reads_newest_rows_by_an_index(name: str, of_all: bool, log: Team):  # noqa: FBT001
    """With this setting, PostgreSQL does not read and sort all rows of an event or a team (see the control in
    test_planner_statistics.py)."""
    with CaptureQueriesContext(connection) as queries:
        page(None if of_all else log, parsed(query_for(log, FILTERS[name])))
    sent = [query["sql"] for query in queries]
    begins = [at for at, sql in enumerate(sent) if sql.startswith("SET LOCAL enable_bitmapscan")]
    assert len(begins) == (0 if IS_SQLITE else 1)
    limited = [at for at, sql in enumerate(sent) if "taskruns_auditevent" in sql and "LIMIT" in sql]
    assert limited
    if begins:
        end = next(at for at, sql in enumerate(sent) if at > begins[0] and sql.startswith("RELEASE SAVEPOINT"))
        assert begins[0] < min(limited) <= max(limited) < end
