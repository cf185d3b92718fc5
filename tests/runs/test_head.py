"""The head of a run's page: its short id, its pace, who started and cancelled it, and the notification at its end."""

import uuid
from datetime import timedelta

import pytest
from django.test import Client
from django.utils import timezone

from taskruns.models import ArizeUser, Cancellation, Outcome, Run, Status, Task, Trigger, User
from taskruns.pages.runs import pace_bar
from tests.clients import ClientOf
from tests.factories import NOW, make_run
from tests.markup import without_bdi


def page(client: Client, run: Run) -> str:
    return without_bdi(client.get(f"/teams/{run.team.slug}/runs/{run.pk}/").content.decode())


def figure(html: str, label: str) -> str:
    return html.split(f"<dt>{label}</dt>")[1].split("</dd>", maxsplit=1)[0]


def test_the_head_shows_a_short_id_and_copies_the_whole(client: Client, task: Task) -> None:
    html = page(client, make_run(task, arize_id="VGFza1J1bjo5OTpxUndY"))
    assert 'Run <code title="VGFza1J1bjo5OTpxUndY">99</code>' in html
    assert 'data-copy="VGFza1J1bjo5OTpxUndY"' in html.split('id="run-figures"')[0]


def took(seconds: int, usual: int | None, **fields: object) -> Run:
    started = NOW - timedelta(seconds=seconds)
    return Run(task=Task(usual_seconds=usual), status=Status.RUNNING, run_started_at=started, **fields)


def test_the_pace_is_compared_with_the_usual_duration() -> None:
    bar = pace_bar(took(150, 300), NOW)
    assert bar is not None
    assert (bar.text, bar.path, bar.usual_path) == ("2 min 30 s so far, usually 5 min", "M0 0h50.0v8H0z", "M99.5 0v8")
    longer = pace_bar(took(600, 300, longer_than_usual=True), NOW)
    assert longer is not None
    assert (longer.path, longer.usual_path, longer.is_longer) == ("M0 0h100.0v8H0z", "M50.0 0v8", True)


def test_an_ended_run_keeps_its_pace() -> None:
    run = took(600, 300, run_finished_at=NOW - timedelta(seconds=300))
    run.status = Status.COMPLETED
    bar = pace_bar(run, NOW)
    assert bar is not None
    assert bar.text == "5 min in all, usually 5 min"


@pytest.mark.parametrize(
    "run", [took(150, None), Run(task=Task(usual_seconds=300), status=Status.PENDING), took(-150, 0)]
)
def test_no_pace_is_invented(run: Run) -> None:
    assert pace_bar(run, NOW) is None


def test_a_start_from_here_names_its_person_before_the_address(client: Client, run: Run, oli: User) -> None:
    User.objects.filter(pk=oli.pk).update(name="Oli Olsen")
    Run.objects.update(created_by_user_id="VXNlcjox")
    Trigger.objects.create(
        pk=uuid.uuid4(), task=run.task, run=run, person=oli, person_label="oli@example.com", parameters={}
    )
    started = figure(page(client, run), "Started by")
    assert started.index("Oli Olsen") < started.index("oli@example.com")
    assert "VXNlcjox" not in started, "the owner of the API key"


def test_another_start_names_the_user_of_arize(client: Client, run: Run) -> None:
    assert "Started by" not in page(client, run)
    Run.objects.update(created_by_user_id="VXNlcjox")
    assert "VXNlcjox" in figure(page(client, run), "Started by")
    ArizeUser.objects.create(
        team=run.team, endpoint=run.endpoint, arize_id="VXNlcjox", name="Ann", email="ann@example.com", known=True
    )
    started = figure(page(client, run), "Started by")
    assert started.index("Ann") < started.index("VXNlcjox")


@pytest.mark.parametrize(
    ("outcome", "label"), [(Outcome.CONFIRMED, "Cancelled by"), (Outcome.UNKNOWN, "Cancel requested by")]
)
def test_a_cancelled_run_names_who_cancelled_it(
    outcome: Outcome, label: str, client: Client, task: Task, oli: User
) -> None:
    User.objects.filter(pk=oli.pk).update(name="Oli Olsen")
    run = make_run(task, status=Status.CANCELLED)
    assert "Cancelled by" not in page(client, run)
    Cancellation.objects.create(run=run, person=oli, person_label="oli@example.com", outcome=outcome)
    shown = figure(page(client, run), label)
    assert shown.index("Oli Olsen") < shown.index("oli@example.com")


def test_the_notification_is_offered_while_the_run_may_end(client: Client, run: Run) -> None:
    html = page(client, run)
    offer = html.split("data-notify=")[1].split("</p>")[0]
    assert offer.startswith(f'"/teams/ops-north/runs/{run.pk}/" hidden>'), "hidden without a script"
    assert "Notify me when this run ends" in offer
    assert "data-notify" not in html.split('<article id="run-page"')[1], "a swap would reset it"
    assert "taskruns/notify.js" in html
    Run.objects.update(status=Status.COMPLETED, rank=0, run_finished_at=timezone.now())
    assert "data-notify=" not in page(client, run)


def test_the_failing_key_is_linked_or_names_who_can_replace_it(
    run: Run, vera: User, mona: User, ada: User, client_of: ClientOf
) -> None:
    key = run.task.credential
    assert key is not None
    key.failing_since, key.failing_reason = timezone.now(), "Arize rejects the key."
    key.save()
    link = f'<a href="/teams/ops-north/credentials/#credential-{key.pk}">Open API key</a>'
    named = "mona@example.com can replace it."
    for person, expected in ((vera, (False, True)), (mona, (True, False)), (ada, (True, True))):
        for path in (f"runs/{run.pk}/", f"tasks/{run.task_id}/", "runs/"):
            html = client_of(person).get(f"/teams/ops-north/{path}").content.decode()
            assert "Arize rejects the key." in html
            assert (link in html, named in html) == expected, (person.email, path)
    User.objects.filter(pk=mona.pk).update(name="Mona Meyer")
    assert "Mona Meyer (mona@example.com) can replace it." in page(client_of(vera), run)
    mona.memberships.all().delete()
    assert "no manager who can replace it. Ask a site admin." in page(client_of(vera), run)
