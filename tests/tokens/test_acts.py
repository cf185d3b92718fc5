"""What a token cancels and starts is its own act, at that moment and later in the worker."""

import uuid
from datetime import UTC, datetime
from typing import Any

import pytest
import responses

from taskruns.arize.triggers import EvaluationTrigger
from taskruns.audit import Actor
from taskruns.models import AuditEvent, Cancellation, Membership, Outcome, Run, Team, Trigger, User
from taskruns.services import cancellations, remote_acts, triggers
from taskruns.services.tokens.access import actor_of
from tests.factories import make_token
from tests.threads import NoPlace
from tests.wire import run_url, trigger_url, wire_run

pytestmark = pytest.mark.django_db


@pytest.fixture
def script(team: Team, mona: User) -> Actor:
    token, _ = make_token(team, maker=mona)
    return actor_of(token, ip="192.0.2.7", user_agent="ax/0.39", request_id="r-1")


@pytest.fixture
def post(arize: responses.RequestsMock, run: Run) -> responses.BaseResponse:
    return arize.post(run_url(run, "/cancel"), json=wire_run(run, "CANCELLED"))


def test_a_cancel_has_the_tokens_name_on_every_row(script: Actor, run: Run, post: Any):
    assert cancellations.cancel(run, by=script, reason="nightly").outcome is Outcome.CONFIRMED
    row = Cancellation.objects.get()
    assert (row.token, row.person, row.person_label) == (script.token, None, "Airflow (made by mona@example.com)")
    for event in AuditEvent.objects.all():
        assert (event.actor_type, event.actor_id, event.actor_role) == ("token", script.id, "operator")
        assert (event.actor_label, event.ip, event.auth_method) == (script.label, "192.0.2.7", "token")
    assert post.call_count == 1


def test_its_second_cancel_knows_that_the_first_is_its_own(script: Actor, team: Team, run: Run):
    Cancellation.objects.create(run=run, token=script.token, person_label=script.label)
    again = cancellations.cancel(run, by=script)
    assert (again.outcome, again.is_own) == (Outcome.JOINED, True)
    other, _ = make_token(team, name="Other")
    assert not cancellations.cancel(run, by=actor_of(other)).is_own


@pytest.mark.parametrize("is_member", [True, False])
def test_the_worker_asks_its_rights_again(
    is_member: Any, script: Actor, run: Run, mona: User, post: Any, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(remote_acts, "_places", NoPlace())
    assert cancellations.cancel(run, by=script).is_queued
    if not is_member:
        Membership.objects.filter(user=mona).delete()
    assert cancellations.send_unsent() == is_member
    assert post.call_count == is_member
    row = Cancellation.objects.get()
    assert row.outcome == ("confirmed" if is_member else "not_sent")
    last = AuditEvent.objects.order_by("-seq")[0]
    assert (last.outcome, last.actor_type, last.actor_id) == (row.outcome, "token", script.id)


def test_a_start_has_the_tokens_name_and_others_cannot_see_it(
    script: Actor, team: Team, run: Run, arize: responses.RequestsMock
):
    arize.post(trigger_url(run.task), json=wire_run(run, "PENDING", id="new-run"), status=201)
    window = datetime(2026, 11, 22, tzinfo=UTC), datetime(2026, 11, 23, tzinfo=UTC)
    operation, wanted = uuid.uuid4(), EvaluationTrigger(window)
    assert triggers.trigger(run.task, operation=operation, wanted=wanted, by=script).run is not None
    row = Trigger.objects.get()
    assert (row.token, row.person, row.person_label) == (script.token, None, script.label)
    other, _ = make_token(team, name="Other")
    assert triggers.earlier(run.task, operation=operation, by=script) is not None
    assert triggers.earlier(run.task, operation=operation, by=actor_of(other)) is None
