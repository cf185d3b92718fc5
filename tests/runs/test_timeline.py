"""The timeline on a run's page: events from Arize and actions of people, oldest first."""

from datetime import UTC, datetime, timedelta
from typing import Any

import responses
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from taskruns.models import AuditEvent, Run, Status, Task, User
from taskruns.pages.runs import timeline_of
from tests.clients import ClientOf, click_cancel
from tests.factories import make_run
from tests.runs.past import past
from tests.wire import run_url, wire_run

CREATED = datetime(2026, 11, 23, 3, 0, tzinfo=UTC)


def life(status: Status, **fields: Any) -> list[str]:
    run = Run(status=status, raw_status=status.value.upper(), first_seen_at=CREATED + timedelta(hours=1), **fields)
    return [entry.text for entry in timeline_of(run, [], cause="")]


TIMES: dict[str, Any] = {"created_at": CREATED, "run_started_at": CREATED, "run_finished_at": CREATED}


def test_the_steps_of_a_run_are_in_order():
    assert life(Status.COMPLETED, **TIMES) == ["Created in Arize", "Started", "Ended: COMPLETED"]
    assert life(Status.COMPLETED, num_errors=1, **TIMES)[-1] == "Ended: COMPLETED with errors"


def test_an_active_run_has_not_ended():
    assert life(Status.RUNNING, created_at=CREATED, run_started_at=CREATED) == ["Created in Arize", "Started"]
    assert life(Status.PENDING, created_at=CREATED) == ["Created in Arize"]


def test_missing_times_are_not_invented():
    assert life(Status.FAILED) == ["First seen here", "Ended: FAILED"]
    assert life(Status.UNKNOWN) == ["First seen here"]
    assert life(Status.FAILED, run_started_at=datetime(1, 1, 1, tzinfo=UTC)) == ["First seen here", "Ended: FAILED"]


def test_a_run_missing_from_arize_is_gone_and_not_ended():
    run = Run(status=Status.GONE, gone_since=CREATED, first_seen_at=CREATED - timedelta(days=1))
    last = timeline_of(run, [], cause="")[-1]
    assert last.at is not None
    assert (last.kind, last.text, last.at.iso) == (
        "gone",
        "Arize no longer knows this run",
        "2026-11-23T03:00:00.000Z",
    )


def test_actions_appear_in_order_of_time():
    minutes = [1, 3, 5]
    run = Run(
        status=Status.CANCELLED,
        first_seen_at=CREATED,
        created_at=CREATED,
        run_started_at=CREATED + timedelta(minutes=2),
        run_finished_at=CREATED + timedelta(minutes=4),
    )
    events = [
        AuditEvent(
            event="run.cancel",
            outcome="requested",
            actor_type="user",
            actor_label=f"p{minute}",
            at=CREATED + timedelta(minutes=minute),
        )
        for minute in minutes
    ]
    found = [entry.event.actor if entry.event else entry.kind for entry in timeline_of(run, events, cause="")]
    assert found == ["created", "p1", "started", "p3", "ended", "p5"]


def page(client: Client, run: Run) -> str:
    return str(client.get(f"/teams/ops-north/runs/{run.pk}/").content.decode())


def in_order(html: str, *texts: str) -> bool:
    places = [html.find(text) for text in texts]
    return -1 not in places and places == sorted(places)


def test_a_cancel_is_shown_from_its_reason_to_its_outcome(
    client: Client, run: Run, oli: User, client_of: ClientOf, arize: responses.RequestsMock
):
    assert "No actions on this run from this panel yet." in page(client, run)
    arize.post(run_url(run, "/cancel"), json=wire_run(run, "CANCELLED"))
    click_cancel(client_of(oli), run, reason="wrong model")
    html = page(client, run).split('id="run-history"')[1]
    asked, answered = "oli@example.com asked to cancel run", "Arize confirmed: run"
    assert in_order(html, "Created in Arize", "Started", asked, "“wrong model”", answered, "Ended: CANCELLED")
    assert in_order(html, "by VXNlcjoxOm5OYkM=", "run.cancel / requested", "run.cancel / confirmed")
    assert "cancelled by oli@example.com: wrong model" in html
    assert "No actions on this run" not in html


def test_the_page_shows_the_pace_the_strip_and_a_link_to_the_task(client: Client, run: Run, task: Task):
    past(task, 60, 60)
    Task.objects.update(usual_seconds=60)
    Run.objects.filter(pk=run.pk).update(longer_than_usual=True)
    html = page(client, run)
    assert f'href="/teams/ops-north/tasks/{task.pk}/"' in html
    assert "usually 60 s" in html
    assert "longer than usual" in html
    assert '<section id="task-strip"' in html
    assert "Last 3 runs" in html
    assert "The arrow marks this run." in html


def test_the_number_of_queries_does_not_depend_on_the_runs_of_the_task(client: Client, task: Task):
    run = make_run(task)
    counts = []
    for more in (0, 40):
        past(task, *[60] * more)
        page(client, run)
        with CaptureQueriesContext(connection) as queries:
            page(client, run)
        counts.append(len(queries))
    assert counts[0] == counts[1] <= 14
