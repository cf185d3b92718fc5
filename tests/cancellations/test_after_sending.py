"""What people are told if something fails after Arize was asked: never that nothing was sent or changed."""

import json
import time
from collections.abc import Callable
from typing import Any

import pytest
import responses
from django.db import OperationalError
from django.test import Client
from django.utils import timezone

from taskruns.models import Cancellation, Delivery, Happening, Outcome, PersonSession, Run, Status, Task, Team, User
from taskruns.pages.channels.messages import who_and_why
from taskruns.services import cancellations
from taskruns.services.cancellations import actions
from tests.clients import ClientOf, click_cancel
from tests.factories import actor, make_run
from tests.stored import events
from tests.triggers.starting import NEW, send
from tests.wire import run_url, trigger_url, wire_run

PERHAPS = "Your action may or may not have taken effect."
UNTRUE = ("Nothing was changed", "othing was sent")


def fail(*_: Any, **__: Any) -> Any:
    raise OperationalError("the connection is lost")


def test_a_session_that_ends_while_arize_is_asked(
    run: Run, oli: User, client_of: ClientOf, arize: responses.RequestsMock
):
    client = client_of(oli)
    session = client.session
    session["seen_at"] = int(time.time()) - 120  # so that this request writes the session
    session.save()

    def answer(_request: Any) -> tuple[int, dict[str, str], str]:
        PersonSession.objects.all().delete()
        return 200, {}, json.dumps(wire_run(run, "CANCELLED"))

    arize.add_callback(responses.POST, run_url(run, "/cancel"), callback=answer)
    text = click_cancel(client, run, htmx=False).content.decode()
    assert events()[-1] == ("run.cancel", "confirmed")
    assert not [untrue for untrue in UNTRUE if untrue in text], text


def test_a_page_that_fails_after_a_cancel(
    run: Run, oli: User, client_of: ClientOf, arize: responses.RequestsMock, monkeypatch: pytest.MonkeyPatch
):
    arize.post(run_url(run, "/cancel"), json=wire_run(run, "CANCELLED"))
    monkeypatch.setattr("taskruns.views.runs._speak", fail)
    answer = click_cancel(client_of(oli), run)
    text = answer.content.decode()
    assert (answer.status_code, PERHAPS in text) == (503, True)


def test_a_page_that_fails_after_a_start(
    task: Task, oli: User, client_of: ClientOf, arize: responses.RequestsMock, monkeypatch: pytest.MonkeyPatch
):
    arize.post(trigger_url(task), status=201, json=NEW)
    monkeypatch.setattr("taskruns.views.triggers._answer", fail)
    answer = send(client_of(oli), task)
    text = answer.content.decode()
    assert (answer.status_code, PERHAPS in text) == (503, True)


def test_a_referer_that_cannot_be_read_is_none(run: Run, oli: User, client_of: ClientOf):
    client = client_of(oli)
    assert client.get(f"/teams/ops-north/runs/{run.pk}/", headers={"Referer": "http://["}).status_code == 200
    assert Client().post(f"/teams/ops-north/runs/{run.pk}/cancel/", headers={"Referer": "http://["}).status_code == 302


@pytest.mark.parametrize(
    ("first", "second", "who"),
    [
        (Outcome.REFUSED, None, ""),
        (Outcome.CONFIRMED, Outcome.ALREADY_CANCELLED, "oli@example.com"),
        (Outcome.REFUSED, Outcome.CONFIRMED, "mona@example.com"),
    ],
)
def test_a_message_names_who_stopped_the_run(first: Outcome, second: Outcome | None, who: str, team: Team, task: Task):
    run = make_run(task, status=Status.CANCELLED)
    for person, outcome in (("oli", first), ("mona", second)):
        if outcome is not None:
            Cancellation.objects.create(run=run, person_label=f"{person}@example.com", outcome=outcome)
    told = Delivery(team=team, run=run, event=Happening.RUN_CANCELLED, at=timezone.now(), data={})
    assert who_and_why(told)[0] == who


def test_a_cancel_that_waited_for_one_that_was_refused_is_sent(
    run: Run, oli: User, mona: User, arize: responses.RequestsMock, monkeypatch: pytest.MonkeyPatch
):
    """On PostgreSQL, it waits for the lock of the run until the other is closed."""
    Cancellation.objects.create(run=run, person_label="mona@example.com")
    arize.post(run_url(run, "/cancel"), json=wire_run(run, "CANCELLED"))
    lock: Callable[..., Any] = actions.locked_runs

    def closed_first(run_ids: Any) -> Any:
        Cancellation.objects.filter(person_label="mona@example.com").update(outcome=Outcome.REFUSED)
        return lock(run_ids)

    steps = []
    insert: Callable[..., Any] = actions.insert_first
    monkeypatch.setattr(
        actions, "insert_first", lambda *these, **those: steps.append("insert") or insert(*these, **those)
    )
    monkeypatch.setattr(actions, "locked_runs", lambda ids: steps.append("lock") or closed_first(ids))
    assert cancellations.cancel(run, by=actor(oli)).outcome is Outcome.CONFIRMED
    assert len(arize.calls) == 1
    assert steps == ["insert", "lock"] * 2, "never inserted under the lock: another cancel may wait the other way round"
