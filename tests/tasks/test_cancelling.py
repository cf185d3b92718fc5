"""Cancelling from the page of a task: the rows of active runs hold what the rows of the board hold."""

import re

import responses
from django.test import Client

from taskruns.models import Cancellation, Outcome, Run, Status, Task, User
from tests.clients import ClientOf
from tests.factories import make_run
from tests.markup import without_bdi
from tests.wire import run_url, wire_run


def url(task: Task) -> str:
    return f"/teams/{task.team.slug}/tasks/{task.pk}/"


def row_of(html: str, run: Run) -> str:
    (row,) = re.findall(rf'<li id="run-{run.pk}".*?</li>', html, re.DOTALL)
    return str(row)


def page(client: Client, task: Task) -> str:
    return str(client.get(url(task)).content.decode())


def test_an_active_run_has_a_button_that_needs_no_script(run: Run, oli: User, client_of: ClientOf) -> None:
    ended = make_run(run.task, status=Status.COMPLETED)
    html = page(client_of(oli), run.task)
    row = row_of(html, run)
    assert f'data-run-id="{run.arize_id}" data-status="running"' in row
    assert f'formaction="/teams/ops-north/runs/{run.pk}/cancel/" data-cancel>' in row
    assert "data-cancel-target" in row
    assert "data-task" in row
    assert "Cancel" not in row_of(html, ended)
    assert '<form id="task-run-form" method="post"' in html
    assert 'id="cancel-dialog"' in html


def test_a_viewer_has_no_button(run: Run, vera: User, client_of: ClientOf) -> None:
    html = page(client_of(vera), run.task)
    assert "data-cancel>" not in html
    assert "formaction" not in html


def test_a_first_click_without_a_script_asks_and_leads_back(run: Run, oli: User, client_of: ClientOf) -> None:
    client, here = client_of(oli), f"http://testserver{url(run.task)}"
    html = client.post(f"/teams/ops-north/runs/{run.pk}/cancel/", headers={"Referer": here}).content.decode()
    assert "Cancel this run?" in html
    assert f'href="{url(run.task)}">Keep it running' in html
    assert not Cancellation.objects.exists()


def test_a_confirmed_cancel_answers_with_the_row_of_this_page(
    run: Run, oli: User, client_of: ClientOf, arize: responses.RequestsMock
) -> None:
    arize.post(run_url(run, "/cancel"), json=wire_run(run, "CANCELLED"))
    headers = {
        "HX-Request": "true",
        "HX-Target": f"run-{run.pk}",
        "HX-Current-URL": f"http://testserver{url(run.task)}",
    }
    values = {"confirmed": "1", "reason": "too slow"}
    answer = client_of(oli).post(f"/teams/ops-north/runs/{run.pk}/cancel/", values, headers=headers)
    html = answer.content.decode()
    assert answer.status_code == 200
    assert html.lstrip().startswith(f'<li id="run-{run.pk}"')
    assert "cancelled by oli@example.com: too slow" in html
    assert "Cancelled. Arize confirmed it." in html
    assert Cancellation.objects.get().outcome == Outcome.CONFIRMED


def test_a_run_that_is_stopping_says_so(run: Run, oli: User, client_of: ClientOf) -> None:
    Cancellation.objects.create(run=run, person_label="mona@example.com")
    row = row_of(without_bdi(page(client_of(oli), run.task)), run)
    assert "stopping, requested by mona@example.com" in row
    assert "data-cancel>" not in row
