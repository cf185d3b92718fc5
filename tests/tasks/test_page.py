"""The page of a task: its details from Arize, and its latest runs as a strip and as a live list."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from taskruns.models import Credential, Run, Status, Task, Team, User
from taskruns.pages import tasks
from tests.clients import ClientOf
from tests.factories import make_run
from tests.markup import without_bdi
from tests.runs.past import past
from tests.wire import ENDPOINT


def url(task: Task) -> str:
    return f"/teams/{task.team.slug}/tasks/{task.pk}/"


def page(client: Client, task: Task, *, htmx: bool = False) -> str:
    answer = client.get(url(task), headers={"HX-Request": "true"} if htmx else {})
    assert answer.status_code == 200
    return str(answer.content.decode())


def test_the_page_shows_what_is_known_of_a_task(client: Client, task: Task):
    last = datetime(2026, 11, 23, 2, 0, tzinfo=UTC)
    Task.objects.update(is_continuous=True, last_run_at=last, usual_seconds=300, as_read='{"shiny": "kept"}')
    html = page(client, task)
    for text in ("Answer relevance evaluation", task.arize_id, "template evaluation", "support-bot", "Production"):
        assert text in html
    for text in ("Continuous: it runs by itself", "2026-11-23T02:00:00.000Z", "<dd>5 min</dd>", "shiny"):
        assert text in html
    assert f'data-copy="{task.arize_id}"' in html
    assert "/teams/ops-north/runs/?task=T25saW5lVGFzazo0NTpxUndY" in html


@pytest.mark.parametrize(
    ("is_continuous", "words"),
    [(True, "Continuous: "), (False, "Not continuous: "), (None, "<dd>Not reported by Arize</dd>")],
)
def test_the_schedule_is_described_in_words(is_continuous: Any, words: str, client: Client, task: Task):
    Task.objects.update(is_continuous=is_continuous)
    assert words in page(client, task)


def test_what_is_unknown_is_shown_as_unknown(client: Client, team: Team):
    bare = Task.objects.create(team=team, endpoint=ENDPOINT, arize_id="")
    html = page(client, bare)
    for text in ("A task without a name", "not reported by Arize", "Not reported by Arize", "not known yet"):
        assert text in html
    for text in (
        "none: no API key of the team reads this task",
        "No runs of this task have been read yet",
        "No runs yet",
    ):
        assert text in html
    assert "have not been listed yet" in html
    assert "on the board" not in html
    assert '<svg class="strip-marks"' not in html


def test_an_unknown_type_is_shown_as_arize_writes_it(client: Client, task: Task):
    Task.objects.update(type="unknown", as_read='{"type": "DREAM_INTERPRETATION"}')
    assert "DREAM_INTERPRETATION" in page(client, task)


def test_its_runs_are_listed_and_counted_with_active_ones_first(client: Client, task: Task):
    past(task, 60, 120, num_successes=7)
    past(task, 30, status=Status.FAILED)
    active = make_run(task, created_at=timezone.now() - timedelta(days=3))
    html = page(client, task)
    listed = [part.split('"', 1)[0] for part in html.split('<li id="run-')[1:]]
    assert len(listed) == 4
    assert listed[0] == str(active.pk)
    assert all(f'href="/teams/ops-north/runs/{pk}/"' in html for pk in listed)
    assert "of 4 known here" in html
    assert "COMPLETED</span> 2" in html
    assert "7 succeeded, 0 errored, 0 skipped" in html


def test_only_the_newest_runs_are_listed_and_counted(client: Client, task: Task, monkeypatch: Any):
    monkeypatch.setattr(tasks, "LISTED", 3)
    monkeypatch.setattr(tasks, "COUNTED", 4)
    newest = past(task, 1, 2, 3, 4, 5)
    html = page(client, task)
    assert [str(run.pk) in html for run in newest] == [True, True, True, False, False]
    assert "of the last 4 runs" in html
    assert "COMPLETED</span> 4" in html


def test_a_run_without_times_has_a_row(client: Client, task: Task):
    nothing = {"run_started_at": None, "run_finished_at": None, "raw_status": ""}
    runs = [make_run(task, status=status, arize_id=f"bare-{status.value}", **nothing) for status in Status]
    Run.objects.update(created_at=None)
    html = without_bdi(page(client, task))
    for run in runs:
        assert f'<li id="run-{run.pk}" data-run-id="{run.arize_id}" data-status="{run.status}"' in html
        assert f'<code title="{run.arize_id}">{run.arize_id[-8:]}</code></a>' in html


def test_a_run_that_takes_longer_than_usual_is_marked(client: Client, task: Task):
    past(task, 60, longer_than_usual=False)
    assert "longer than usual" not in page(client, task)
    past(task, 200, longer_than_usual=True)
    assert "longer than usual" in page(client, task)


def test_the_page_polls_faster_while_a_run_is_active(client: Client, task: Task):
    past(task, 60)
    assert 'hx-trigger="every 30s, refresh"' in page(client, task)
    make_run(task)
    assert 'hx-trigger="every 5s, refresh"' in page(client, task)


def test_htmx_gets_the_fragment_that_the_page_holds(client: Client, run: Run):
    fragment = page(client, run.task, htmx=True)
    assert fragment.lstrip().startswith('<article id="task-page"')
    assert "<html" not in fragment
    assert '<article id="task-page"' in page(client, run.task)


def test_viewing_a_task_counts_as_attention_for_the_team(client: Client, task: Task, team: Team):
    page(client, task)
    team.refresh_from_db()
    assert team.watched_at is not None


def test_people_with_the_right_are_offered_to_start_a_run(oli: User, vera: User, task: Task, client_of: ClientOf):
    assert f'href="/teams/ops-north/tasks/{task.pk}/trigger/">Start a run' in page(client_of(oli), task)
    assert "Start a run" not in page(client_of(vera), task)


def test_the_page_says_why_it_may_be_old(client: Client, task: Task):
    assert "notice-" not in page(client, task)
    Credential.objects.update(failing_since=timezone.now(), failing_reason="Not accepted.")
    assert "Key “Production”: Not accepted." in page(client, task)


def test_the_number_of_queries_does_not_depend_on_the_runs(client: Client, task: Task):
    counts = []
    for more in (1, 1, 80):
        past(task, *[60] * more)
        page(client, task)
        with CaptureQueriesContext(connection) as queries:
            page(client, task)
        counts.append(len(queries))
    assert counts[0] == counts[1] == counts[2] <= 12


HOSTILE = "\"><script>alert(1)</script><b x='"


def test_hostile_names_are_escaped(client: Client, task: Task):
    Task.objects.update(name=HOSTILE, space_name=HOSTILE, arize_id=HOSTILE, type="unknown")
    Task.objects.update(as_read='{"type": "<script>alert(2)</script>"}')
    run = make_run(task, arize_id=HOSTILE, status=Status.UNKNOWN, raw_status=HOSTILE, created_by_user_id=HOSTILE)
    for where in (url(task), f"{url(task)}strip/", f"/teams/ops-north/runs/{run.pk}/", "/teams/ops-north/runs/chart/"):
        html = client.get(where, headers={"HX-Request": "true"}).content.decode()
        assert "<script" not in html
        assert "<b x" not in html
    assert "&lt;script&gt;" in page(client, task)


@pytest.mark.parametrize("part", ["", "strip/"])
def test_the_task_of_another_team_is_not_found(part: str, task: Task, otto: User, vera: User, client_of: ClientOf):
    foreign, missing = (f"/teams/ops-south/tasks/{pk}/{part}" for pk in (task.pk, task.team_id))
    assert [client_of(otto).get(where).status_code for where in (foreign, missing, url(task) + part)] == [404, 404, 404]
    assert client_of(vera).get(url(task) + part, headers={"HX-Request": "true"}).status_code == 200
