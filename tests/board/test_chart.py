"""Runs per hour of a team's last 24 hours, by outcome."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import time_machine
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from taskruns.models import Run, Status, Task, Team, User
from taskruns.pages.board.chart import HEIGHT, OUTCOMES, Chart, runs_per_hour, series_of
from tests.clients import ClientOf
from tests.factories import make_run

NOW = datetime(2026, 11, 23, 3, 20, tzinfo=UTC)
URL = "/teams/ops-north/runs/chart/"


@pytest.fixture(autouse=True)
def clock() -> Iterator[Any]:
    with time_machine.travel(NOW, tick=False) as clock:
        yield clock


def at(hour: int, minute: int = 0, *, day: int = 23) -> dict[str, Any]:
    return {"created_at": datetime(2026, 11, day, hour, minute, tzinfo=UTC)}


def found(chart: Chart) -> dict[str, dict[str, int]]:
    words = [series.word for series in chart.series]
    return {hour.label: dict(zip(words, hour.counts, strict=True)) for hour in chart.hours if hour.total}


def test_runs_are_counted_by_hour_of_creation_and_by_outcome(task: Task, team: Team):
    make_run(task, status=Status.COMPLETED, **at(1, 0))
    make_run(task, status=Status.COMPLETED, **at(1, 59))
    make_run(task, status=Status.FAILED, **at(2, 0))
    make_run(task, status=Status.RUNNING, **at(3, 19))
    chart = runs_per_hour(team)
    assert found(chart) == {
        "01:00": {"completed": 2, "failed": 0, "still active": 0},
        "02:00": {"completed": 0, "failed": 1, "still active": 0},
        "03:00": {"completed": 0, "failed": 0, "still active": 1},
    }
    summary = "Last 24 hours: 2 completed, 1 failed, 1 still active. Most in one hour: 2, from 01:00."
    assert chart.summary == summary
    assert chart.hours[0].label == "04:00"
    assert chart.labels == ("04:00", "07:00", "10:00", "13:00", "16:00", "19:00", "22:00", "01:00")


def test_only_the_last_24_hours_of_this_team_are_counted(task: Task, team: Team, other_team: Team):
    make_run(task, status=Status.COMPLETED, **at(3, 59, day=22))
    make_run(task, status=Status.COMPLETED, **at(4, 0, day=22))
    other = Task.objects.create(team=other_team, endpoint=task.endpoint, arize_id="other")
    make_run(other, status=Status.COMPLETED, **at(3))
    assert found(runs_per_hour(team)) == {"04:00": {"completed": 1}}


def test_a_run_slightly_in_the_future_counts_now(task: Task, team: Team):
    """Arize's clock may be ahead of ours."""
    make_run(task, **at(4, 5))
    assert found(runs_per_hour(team)) == {"03:00": {"still active": 1}}


def test_every_status_belongs_to_one_outcome(task: Task, team: Team):
    assert sorted(status for _, statuses in OUTCOMES.values() for status in statuses) == sorted(Status)
    for status in Status:
        make_run(task, status=status, **at(2))
    (counts,) = found(runs_per_hour(team)).values()
    assert counts == {"completed": 1, "failed": 1, "cancelled": 1, "still active": 2, "unknown or gone": 2}


@pytest.mark.parametrize(
    ("zone", "labels"), [("Asia/Kolkata", ["07:00", "08:00"]), ("America/New_York", ["20:00", "21:00"])]
)
def test_hours_are_those_of_the_persons_time_zone(zone: str, labels: list[str], task: Task, team: Team):
    """In India, 02:20 UTC is in the hour from 07:00 (01:30 UTC), half an hour off UTC's."""
    make_run(task, status=Status.COMPLETED, **at(1, 45 if zone == "Asia/Kolkata" else 5))
    make_run(task, status=Status.COMPLETED, **at(2, 40))
    with timezone.override(ZoneInfo(zone)):
        chart = runs_per_hour(team)
    assert (list(found(chart)), chart.zone) == (labels, zone)


def test_the_day_the_clocks_go_back_has_24_real_hours(task: Task, team: Team, clock: Any):
    clock.move_to(datetime(2026, 10, 25, 12, 30, tzinfo=UTC))
    for hour in (0, 1):
        make_run(task, status=Status.COMPLETED, created_at=datetime(2026, 10, 25, hour, 10, tzinfo=UTC))
    with timezone.override(ZoneInfo("Europe/Berlin")):
        hours = runs_per_hour(team).hours
    assert len({hour.start.iso for hour in hours if hour.start}) == 24
    assert [(hour.label, hour.total) for hour in hours if hour.total] == [("02:00", 1), ("02:00", 1)]


def test_a_single_run_is_visible_and_nothing_leaves_the_drawing():
    counts = {(NOW, Status.COMPLETED): 1_000_000, (NOW, Status.FAILED): 1, (NOW, Status.GONE): 1}
    completed, failed, gone = series_of([NOW], counts)
    tops = [float(one.path.split(" ")[1].split("v")[0]) for one in (completed, failed, gone)]
    height = float(gone.path.split("v-")[1].split("h")[0])
    assert tops[0] == HEIGHT + 1
    assert tops[1] - tops[2] > 1.5
    assert 0.5 < tops[2] - height < tops[2]


def test_a_day_without_runs_says_so(client: Client, task: Task):
    make_run(task, **at(1, day=20))
    html = client.get(URL).content.decode()
    assert "No runs in the last 24 hours." in html
    assert "chart-bars" not in html


def test_the_chart_is_one_query_for_any_number_of_runs(task: Task, team: Team):
    for minute in range(50):
        make_run(task, status=Status.COMPLETED, **at(2, minute))
        if minute in {0, 49}:
            team.board_version = minute  # a changed board
            with CaptureQueriesContext(connection) as queries:
                runs_per_hour(team)
                runs_per_hour(team)
            assert len(queries) == 1


def test_the_query_seeks_to_the_last_day_in_the_boards_index(task: Task, team: Team):
    make_run(task, **at(2))
    with CaptureQueriesContext(connection) as queries:
        runs_per_hour(team)
    if connection.vendor == "sqlite":
        with connection.cursor() as cursor:
            cursor.execute(f"EXPLAIN QUERY PLAN {queries[0]['sql']}")
            plan = " ".join(str(row) for row in cursor.fetchall())
        assert "COVERING INDEX run_board_by_status (team_id=? AND status=? AND rank=? AND sorted_at>?)" in plan


def test_the_numbers_are_also_a_table_and_each_hour_has_a_tooltip(client: Client, task: Task):
    make_run(task, status=Status.COMPLETED, **at(2))
    html = client.get(URL, headers={"HX-Request": "true"}).content.decode()
    assert html.lstrip().startswith('<section id="board-chart"')
    assert html.count('<th scope="row">') == 24
    assert '<th scope="col">completed</th>' in html
    assert "<title>02:00: 1 completed</title>" in html
    assert "<title>01:00: no runs</title>" in html


def test_the_chart_opened_directly_is_a_page(client: Client, run: Run):
    answer = client.get(URL)
    assert "<html" in answer.content.decode()
    assert '<section id="board-chart"' in answer.content.decode()
    assert "ETag" not in answer
    assert "HX-Request" in answer["Vary"]


def poll(client: Client, etag: str = "") -> Any:
    return client.get(URL, headers={"HX-Request": "true"} | ({"If-None-Match": etag} if etag else {}))


def test_an_unchanged_chart_is_a_304_until_the_hour_ends(client: Client, run: Run, clock: Any):
    first = poll(client)
    assert f'data-etag="{first["ETag"].strip(chr(34))}"' in first.content.decode()
    clock.move_to(NOW + timedelta(minutes=39))
    again = poll(client, first["ETag"])
    assert (again.status_code, again.content) == (304, b"")
    clock.move_to(NOW + timedelta(minutes=40))
    assert poll(client, first["ETag"]).status_code == 200


def test_a_change_or_another_time_zone_redraws_the_chart(client: Client, run: Run, vera: User):
    first = poll(client)
    Team.bump(run.team_id)
    second = poll(client, first["ETag"])
    assert second.status_code == 200
    User.objects.filter(pk=vera.pk).update(time_zone="Asia/Tokyo")
    assert poll(client, second["ETag"]).status_code == 200


def test_outsiders_get_no_chart(run: Run, otto: User, vera: User, client_of: ClientOf):
    assert client_of(otto).get(URL).status_code == 404
    assert client_of(vera).get(URL).status_code == 200


@pytest.mark.parametrize("headers", [{}, {"HX-Request": "true"}])
def test_a_person_without_a_team_gets_an_empty_chart(headers: dict[str, str], ada: User, client_of: ClientOf):
    assert client_of(ada).get("/runs/chart/?status=failed", headers=headers).status_code == 200


def test_each_bar_leads_to_its_runs(task: Task, team: Team, vera: User, client_of: ClientOf):
    """Also to those that wait to be started, and to one that started in the next hour."""
    make_run(task, status=Status.PENDING, run_started_at=None, **at(2, 58))
    started = datetime(2026, 11, 23, 3, 2, tzinfo=UTC)
    make_run(task, status=Status.COMPLETED, **at(2, 58) | {"run_started_at": started})
    (hour,) = [hour for hour in runs_per_hour(team).hours if hour.total]
    page = client_of(vera).get(hour.url).content.decode()
    assert (hour.total, page.count("data-run-id=")) == (2, 2)
    assert 'name="created_after" value="2026-11-23T02:00:00+00:00"' in page, "kept when another filter is set"
