"""Prepared queries live as long as the process: none holds a time or a setting of the moment when it was built."""

import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
import time_machine
from django.db import connection
from django.db.models import DateTimeField
from django.test.utils import CaptureQueriesContext

from taskruns.audit.record import _head
from taskruns.models import Run, Task, Team, prepared, restores, session_store, teams
from taskruns.models.prepared import Prepared, PreparedNumbers, PreparedShared, Slot, TimeSlot, update_row
from taskruns.pages import saved_views
from taskruns.pages.board import chart, choices, counts, rows
from taskruns.services import members
from taskruns.services.cancellations import actions, results
from taskruns.services.cancellations.sweep import _waiting_of_key
from taskruns.services.channels import sending
from taskruns.services.credentials import budget, client
from taskruns.services.gateway import acts, keys
from taskruns.services.mirror import active_runs, arize_users, first_contact, schedule, staleness, task_runs, tasks
from taskruns.services.runs import ends, facts, people, search
from taskruns.services.stops.hold import _of_key
from taskruns.services.tokens import identify, rate
from tests.factories import NOW
from tests.paths import ROOT

# Each function that builds a prepared query, with each choice of its arguments.
BUILT: list[tuple[Any, dict[str, Any]]] = [
    (prepared._row_update, {"model": Task, "required": ("credential",), "changed": ("runs_read_at", "gap_cursor")}),
    (teams._bump, {}),
    (_head, {}),
    *((members._team, {"has_clock": choice}) for choice in (False, True)),
    *((members._own_teams, {"has_clock": choice}) for choice in (False, True)),
    *((staleness._of_one_team, {"keys": keys}) for keys in (staleness._usable_keys, staleness._live_keys)),
    (staleness._active, {}),
    (schedule._watched_at, {}),
    (schedule._stops, {}),
    *((schedule._claim, {"force": choice}) for choice in (False, True)),
    (schedule._claimed, {}),
    (schedule._claim_and_calls, {}),
    *((active_runs._active, {"only_due": due, "is_patient": due}) for due in (False, True)),
    (active_runs._lately_confirmed, {}),
    (first_contact._unread, {}),
    (first_contact._unfinished, {}),
    (task_runs._to_read, {}),
    *((task_runs._moved, {"is_patient": choice}) for choice in (False, True)),
    *((task_runs._with_gap, {"is_patient": choice}) for choice in (False, True)),
    (task_runs._oldest, {"distance": task_runs.SEARCHED_EVERY}),
    *((tasks._stamp, {"repeats": choice}) for choice in (False, True)),
    (arize_users._waiting, {}),
    (facts._active, {}),
    *((facts._cancelled, {"number": number}) for number in (1, 3)),
    *((results._locked, {"number": number}) for number in (1, 3)),
    (actions._open_ones, {}),
    (actions._previous, {}),
    (ends._rules, {}),
    (sending._by_id, {}),
    *((sending._next, {"to_people": choice}) for choice in (False, True)),
    (chart._of_one_team, {}),
    (choices._of_one_team, {}),
    (counts._counted, {}),
    (rows._of_page, {}),
    (rows._shown, {}),
    (saved_views._with_own_default, {}),
    (rate._more, {}),
    (acts._run, {}),
    (acts._task, {}),
    (keys._own, {}),
    (keys._of_team, {}),
    (budget._locked_calls, {}),
    (restores._latest, {}),
    (session_store._unexpired_row, {}),
    *((search._existing, {"most_runs": most, "most_tasks": 4}) for most in (3, None)),
    (search._first_runs, {"most": 3}),
    (search._one_unfilled, {}),
    (people._like_in_arize, {}),
    (people._like_in_panel, {}),
    (people._like_tokens, {}),
    *((people._cancelled_by_so_many, {"users": number, "tokens": 2 - number}) for number in (0, 2)),
    *((people._in_panel_of_so_many, {"users": number, "tokens": 2 - number}) for number in (0, 2)),
    (_waiting_of_key, {}),
    (_of_key, {}),
    (client._more, {}),
    (identify._by_digest, {}),
]


def name_of(build: Any) -> str:
    return f"{build.__module__}.{build.__name__}"


def parameters(build: Callable[[], Any], settings: Any, *, later: bool) -> list[object]:
    settings.SESSION_MAX_DAYS = 3 if later else 7
    with time_machine.travel(NOW + timedelta(days=later), tick=False):
        built = build()
    return [built._sql, *(it.value if isinstance(it, Slot) else it for it in built._parameters)]


@pytest.mark.django_db
@pytest.mark.parametrize(("build", "chosen"), BUILT, ids=[name_of(it) for it, _ in BUILT])
def test_no_prepared_query_depends_on_when_it_was_built(build: Any, chosen: dict[str, Any], settings: Any):
    def anew() -> Any:
        return build.__wrapped__(**chosen)

    assert parameters(anew, settings, later=False) == parameters(anew, settings, later=True)


@pytest.mark.django_db
def test_a_time_in_the_query_is_detected(settings: Any):
    def build() -> Prepared[Team]:
        return Prepared(Team.objects.filter(watched_at__gt=members.timezone.now()))

    assert parameters(build, settings, later=False) != parameters(build, settings, later=True)
    built = Prepared(Team.objects.filter(watched_at__gt=Slot("now", DateTimeField())))
    assert parameters(lambda: built, settings, later=False)[1:] == ["now"]


def test_every_prepared_query_is_tested():
    built: set[str] = set()
    for path in (ROOT / "taskruns").rglob("*.py"):
        text = path.read_text()
        here = re.findall(r"^@cache\ndef (\w+)\([^)]*\) -> Prepared(?:Update|Shared)?\b", text, re.MULTILINE)
        assert len(here) == len(re.findall(r"(?<!class )\bPrepared(?:Update|Shared)?\(", text)), path
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        built |= {f"{module}.{name}" for name in here}
    assert built == {name_of(build) for build, _ in BUILT}


def test_a_moment_stands_for_times_around_it(team: Team):
    now = TimeSlot()
    lately = Team.objects.filter(watched_at__gt=now - timedelta(seconds=15), watched_at__lte=now + timedelta(seconds=5))
    watched = Prepared(lately)
    for seconds, is_found in ((-6, False), (-5, True), (0, True), (14, True), (15, False)):
        Team.objects.update(watched_at=NOW)
        assert watched.exists(now=NOW + timedelta(seconds=seconds)) == is_found
        assert watched.rows(now=NOW + timedelta(seconds=seconds)) == [team] * is_found


def test_rows_may_be_values_and_few(team: Team):
    Team.objects.create(slug="another", name="Another")
    slugs = Prepared(Team.objects.order_by("slug").values_list("slug", flat=True))
    assert slugs.rows() == sorted(["another", team.slug])
    assert slugs.rows(most=1) == ["another"]
    assert slugs.rows(most=0) == []


def test_equal_rows_are_one_object_until_one_changes(team: Team, run: Run):
    shared = PreparedShared(Run.objects.select_related("team").order_by("pk"), most=2)
    (first,) = shared.rows()
    assert shared.rows()[0] is first
    Run.objects.update(num_errors=7)
    (changed,) = shared.rows()
    assert (first.num_errors, changed.num_errors) == (run.num_errors, 7)
    Team.objects.update(name="Renamed")
    assert shared.rows()[0].team.name == "Renamed"


def test_no_more_rows_are_kept_than_said(team: Team):
    for number in range(5):
        Team.objects.create(slug=f"team-{number}", name="Another")
    shared = PreparedShared(Team.objects.order_by("slug"), most=2)
    assert shared.rows() == list(Team.objects.order_by("slug"))
    assert len(shared.rows(most=2)) == len(shared._known) == 2


@pytest.mark.usefixtures("committed")
def test_numbers_are_counted_along_indexes_and_other_queries_are_planned_freely():
    """SQLite plans them so by itself."""
    numbers = PreparedNumbers([Team.objects.values("pk")[:1]])
    with CaptureQueriesContext(connection) as captured:
        assert numbers.rows() == (0,)
    sql = captured[0]["sql"]
    if connection.vendor == "sqlite":
        assert sql.startswith("SELECT")
        return
    assert sql.startswith("SET LOCAL enable_bitmapscan = off; SET LOCAL enable_seqscan = off; SELECT")
    with connection.cursor() as cursor:
        cursor.execute("SELECT current_setting('enable_bitmapscan'), current_setting('enable_seqscan')")
        assert cursor.fetchone() == ("on", "on")


def test_a_row_is_updated_only_if_it_is_as_expected(team: Team):
    assert update_row(Team, team.pk, only_if={"slug": "other"}, name="Changed", watched_at=NOW) == 0
    assert update_row(Team, team.pk, only_if={"slug": team.slug}, name="Changed", watched_at=NOW) == 1
    assert update_row(Team, team.pk, watched_at=None) == 1
    team.refresh_from_db()
    assert (team.name, team.watched_at) == ("Changed", None)
