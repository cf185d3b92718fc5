"""Cancels that must not reach Arize, and text that must not reach the log."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
import responses
from django.test import Client

from taskruns.audit import Actor
from taskruns.models import (
    AuditEvent,
    BatchSource,
    CancelBatch,
    Cancellation,
    Credential,
    EmergencyStop,
    Outcome,
    Run,
    Status,
    Team,
    User,
)
from taskruns.services import cancellations, credentials
from tests.clients import ClientOf, click_cancel
from tests.database_refusals import refuse_inserts
from tests.factories import actor, make_credential, make_run
from tests.stored import events
from tests.wire import run_url, wire_run


@pytest.fixture
def client(oli: User, client_of: ClientOf) -> Client:
    return client_of(oli)


@pytest.fixture
def post(arize: responses.RequestsMock, run: Run) -> responses.BaseResponse:
    """Arize would cancel: tests in which nothing is sent check `call_count`."""
    return arize.post(run_url(run, "/cancel"), json=wire_run(run, "CANCELLED"))


@pytest.fixture
def _nothing_is_sent(arize: responses.RequestsMock, post: responses.BaseResponse) -> Iterator[None]:
    yield
    assert len(arize.calls) == 0


def test_a_cancel_is_sent_if_nothing_prevents_it(client: Client, run: Run, post: Any) -> None:
    """The control of every test here."""
    assert click_cancel(client, run).status_code == 200
    assert post.call_count == 1


@pytest.mark.usefixtures("_nothing_is_sent")
@pytest.mark.parametrize("status", ["completed", "failed", "cancelled", "gone", "unknown"])
def test_nothing_is_sent_for_an_inactive_run(status: str, client: Client, run: Run, htmx: Any) -> None:
    Run.objects.update(status=status, rank=0)
    page = click_cancel(client, run, htmx=htmx, reason="too slow")
    if not htmx:
        page = client.get(page.url)
    assert page.status_code == 200
    assert "nothing was sent" in page.content.decode()
    row = AuditEvent.objects.get(event="run.cancel")
    assert (row.outcome, row.reason, row.actor_label) == ("not_needed", "too slow", "oli@example.com")
    assert row.operation_id is not None
    assert row.details == {"status_before": status}
    assert not Cancellation.objects.exists()


@pytest.mark.usefixtures("_nothing_is_sent")
def test_the_run_is_read_again_before_sending(run: Run, oli: User) -> None:
    stale = Run.objects.get(pk=run.pk)
    Run.objects.update(status=Status.COMPLETED, rank=0)
    assert cancellations.cancel(stale, by=actor(oli)).outcome == "not_needed"


@pytest.mark.usefixtures("_nothing_is_sent")
def test_the_message_names_the_person_whose_cancel_is_open(client: Client, run: Run, oli: User, mona: User) -> None:
    def message_for(person: User) -> str:
        Cancellation.objects.update(person=person, person_label=person.email)
        return click_cancel(client, run).content.decode()

    Cancellation.objects.create(run=run)
    assert "You already asked to cancel this run at 20" in message_for(oli)
    assert "mona@example.com already asked to cancel this run at 20" in message_for(mona)
    stop = EmergencyStop.objects.create(team=run.team, person=mona, person_label=mona.email, reason="why")
    batch = CancelBatch.objects.create(team=run.team, source=BatchSource.STOP, stop=stop)
    Cancellation.objects.update(batch=batch)
    assert "The emergency stop of mona@example.com already asked to cancel this run at 20" in message_for(mona)


@pytest.mark.usefixtures("_nothing_is_sent")
@pytest.mark.parametrize("is_stopping", [True, False])
def test_a_cancel_joins_the_open_one(is_stopping: Any, client: Client, run: Run, mona: User, htmx: Any) -> None:
    first = Cancellation.objects.create(run=run, person=mona, person_label=mona.email)
    if is_stopping:
        Cancellation.objects.update(stopping_since=first.requested_at)
    page = click_cancel(client, run, htmx=htmx, reason="me too")
    assert page.status_code == 409
    text = page.content.decode()
    assert "already in progress" in text
    assert f"mona@example.com already asked to cancel this run at {first.requested_at:%Y-%m-%d %H:%M:%S} UTC." in text
    row = AuditEvent.objects.get(event="run.cancel")
    assert (row.outcome, row.reason, row.actor_label) == ("joined", "me too", "oli@example.com")
    assert row.details["previous_operation"] == str(first.pk)
    assert row.operation_id not in {None, first.pk}
    assert Cancellation.objects.get().pk == first.pk


def test_a_cancel_does_not_join_an_ended_one(client: Client, run: Run, mona: User, post: Any) -> None:
    Cancellation.objects.create(run=run, person=mona, person_label=mona.email, outcome=Outcome.STILL_RUNNING)
    assert click_cancel(client, run).status_code == 200
    assert post.call_count == 1


@pytest.mark.usefixtures("_nothing_is_sent")
@pytest.mark.parametrize("table", ["taskruns_auditevent", "taskruns_cancellation"])
def test_nothing_is_sent_if_the_request_cannot_be_written(table: str, client: Client, run: Run, htmx: Any) -> None:
    refuse_inserts(table)
    page = click_cancel(client, run, htmx=htmx)
    assert page.status_code == 503
    assert "nothing was sent to Arize" in page.content.decode()
    assert not Cancellation.objects.exists()
    assert events(event="run.cancel") == []


@pytest.mark.usefixtures("_nothing_is_sent")
def test_nothing_is_sent_if_the_reason_is_too_long(client: Client, run: Run, htmx: Any) -> None:
    page = click_cancel(client, run, htmx=htmx, reason="x" * 513)
    assert page.status_code == 422
    assert "longer than 512 characters" in page.content.decode()
    assert events(event="run.cancel") == []
    assert not Cancellation.objects.exists()


def test_the_longest_reason_is_kept_complete(client: Client, run: Run, post: Any) -> None:
    assert click_cancel(client, run, reason="x" * 512).status_code == 200
    assert Cancellation.objects.get().reason == "x" * 512


def test_every_reason_field_takes_as_much_as_a_cancel(client: Client, run: Run) -> None:
    home = f"/teams/{run.team.slug}"
    batch = client.post(f"{home}/batches/", {"run": str(run.pk)}).url
    pages = {page: client.get(page) for page in (f"{home}/runs/", f"{home}/runs/{run.pk}/", f"{home}/stop/", batch)}
    pages["question"] = client.post(f"{home}/runs/{run.pk}/cancel/")
    for name, page in pages.items():
        fields = re.findall(r'<input[^>]* name="reason"[^>]*>', page.content.decode())
        assert fields, name
        assert all('maxlength="512"' in field for field in fields), name


def test_a_reason_stays_on_one_line(client: Client, run: Run, post: Any) -> None:
    click_cancel(client, run, reason='\x00wrong\r\nmodel\x1b[31m\u2028{"event": \u202e1}\u2029')
    requested = AuditEvent.objects.get(outcome="requested")
    assert requested.reason == 'wrong model [31m {"event":  1}'
    assert Cancellation.objects.get().reason == requested.reason


@pytest.mark.usefixtures("_nothing_is_sent")
def test_a_run_of_another_team_is_hidden(run: Run, otto: User, other_team: Team, client_of: ClientOf) -> None:
    stranger = client_of(otto)
    own = f"/teams/{other_team.slug}/runs/{run.pk}/cancel/"
    assert stranger.post(own, {"confirmed": "1"}).status_code == 404
    assert click_cancel(stranger, run).status_code == 404
    missing = stranger.post(f"/teams/{other_team.slug}/runs/{other_team.pk}/cancel/", {"confirmed": "1"})
    assert missing.status_code == 404
    assert events(chain="site") == [("access.denied", "denied")] * 2
    assert events(chain=f"team:{run.team_id}") == []


@pytest.mark.usefixtures("_nothing_is_sent")
@pytest.mark.parametrize("name", ["vera", "ada", "adam"])
def test_a_viewer_is_refused(name: str, cast: Any, run: Run, client_of: ClientOf) -> None:
    assert click_cancel(client_of(cast[name]), run).status_code == 403
    row = AuditEvent.objects.get(event="run.cancel")
    assert (row.outcome, row.actor_label, row.chain) == ("denied", cast[name].email, f"team:{run.team_id}")


@pytest.mark.usefixtures("_nothing_is_sent")
def test_a_get_and_a_post_without_a_token_send_nothing(oli: User, run: Run) -> None:
    strict = Client(enforce_csrf_checks=True)
    strict.force_login(oli, backend="allauth.account.auth_backends.AuthenticationBackend")
    assert click_cancel(strict, run).status_code == 403
    assert strict.get(f"/teams/ops-north/runs/{run.pk}/cancel/?confirmed=1").status_code == 302


def _revoke(credential: Credential, settings: Any) -> None:
    credentials.revoke(credential, by=Actor.command())


def _damage(credential: Credential, settings: Any) -> None:
    Credential.objects.update(ciphertext="no-token")


def _swap(credential: Credential, settings: Any) -> None:
    """Use another row's ciphertext."""
    other = make_credential(credential.team, name="Other")
    Credential.objects.filter(pk=credential.pk).update(ciphertext=other.ciphertext)


def _forbid(credential: Credential, settings: Any) -> None:
    settings.ARIZE_ENDPOINTS = ()


def _break_line(credential: Credential, settings: Any) -> None:
    credential.encrypt_secret("ak-with-a\nline-break")
    credential.save()


@pytest.mark.usefixtures("_nothing_is_sent")
@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (_revoke, "No API key of this team can read this task"),
        (_damage, "cannot be decrypted"),
        (_swap, "cannot be decrypted"),
        (_forbid, "This address is not allowed."),
        (_break_line, "Nothing was sent."),
    ],
)
def test_an_unusable_key_is_explained(
    spoil: Any, words: str, settings: Any, client: Client, run: Run, credential: Credential, htmx: Any
) -> None:
    spoil(credential, settings)
    page = click_cancel(client, run, htmx=htmx)
    assert page.status_code == 502
    assert words in page.content.decode().replace("&#x27;", "'")
    assert events(event="run.cancel") == [("run.cancel", "requested"), ("run.cancel", "not_sent")]
    assert Cancellation.objects.get().outcome == "not_sent"


@pytest.mark.usefixtures("_nothing_is_sent")
def test_an_id_that_cannot_be_in_a_path_is_explained(client: Client, run: Run) -> None:
    Run.objects.update(arize_id="..")
    assert click_cancel(client, run).status_code == 502
    assert Cancellation.objects.get().outcome == "not_sent"


def test_a_closed_port_received_nothing(
    client: Client, task: Any, credential: Credential, settings: Any, free_port: int
) -> None:
    endpoint = f"http://127.0.0.1:{free_port}"
    settings.ARIZE_ENDPOINTS = (endpoint,)
    Credential.objects.update(endpoint=endpoint)
    page = click_cancel(client, make_run(task))
    assert page.status_code == 502
    assert events() == [("run.cancel", "requested"), ("run.cancel", "not_sent")]


@pytest.mark.parametrize("state", [{"failing_since": "2026-11-23T00:00Z"}, {"backoff_until": "2999-01-01T00:00Z"}])
def test_a_single_cancel_is_sent_despite_failures_or_backoff(
    state: dict[str, str], client: Client, run: Run, post: Any
) -> None:
    Credential.objects.update(**state)
    assert click_cancel(client, run).status_code == 200
    assert post.call_count == 1


def test_a_persons_second_cancel_of_a_run_is_recorded(client: Client, run: Run, arize: Any) -> None:
    post = arize.post(run_url(run, "/cancel"), json=wire_run(run, "RUNNING"))
    assert [click_cancel(client, run).status_code for _ in range(3)] == [200, 409, 409]
    assert post.call_count == 1
    assert [outcome for _, outcome in events()] == ["requested", "joined", "joined"]
