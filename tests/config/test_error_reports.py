"""If code fails while it holds a key, the error page shows no value of any variable, even with DEBUG."""

import logging
import time
from importlib import import_module
from typing import Any

import pytest
import responses
from django.db import DatabaseError, OperationalError
from django.test import RequestFactory
from django.urls import reverse
from django.views.debug import ExceptionReporter, SafeExceptionReporterFilter

from taskruns.access.recent_auth import SEEN_EVERY
from taskruns.models import Credential, Team, User
from taskruns.services import mirror
from tests.factories import CANARY
from tests.secret_search import Witness, found
from tests.wire import ENDPOINT

BROKEN = "broken on purpose"
FIELDS = {"name": "Canary", "endpoint": ENDPOINT, "key": CANARY}
PLACES = {
    "the form": "taskruns.forms.credentials.CredentialForm.clean_endpoint",
    "the field": "taskruns.forms.credentials.KeyField.clean",
    "the encryption": "cryptography.fernet.Fernet.encrypt",
    "the model": "taskruns.models.Credential.save",
    "the audit log": "taskruns.services.credentials.actions.record",
    "the endpoint's check": "taskruns.services.credentials.client.check_endpoint",
    "the connection": "taskruns.outbound.session._Adapter.send",
    "deep in the library": "urllib3.connectionpool.HTTPConnectionPool._make_request",
    "the last step": "taskruns.jobs.wake",
}


def fail(*_args: Any, **_kwargs: Any) -> None:
    raise RuntimeError(BROKEN)


@pytest.fixture
def witness(team: Team, mona: User) -> Witness:
    client = Witness()
    client.force_login(mona, backend="allauth.account.auth_backends.AuthenticationBackend")
    return client


@pytest.mark.parametrize("debug", [False, True], ids=["DEBUG off", "DEBUG on"])
@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
def test_an_error_page_shows_no_key(
    *,
    place: str,
    debug: bool,
    witness: Witness,
    settings: Any,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    request: pytest.FixtureRequest,
):
    if place != PLACES["deep in the library"]:
        arize = request.getfixturevalue("arize")
        arize.get(f"{ENDPOINT}/v2/spaces", json={"spaces": []})
        arize.get(f"{ENDPOINT}/v2/tasks", json={"tasks": []})
    settings.DEBUG = debug
    caplog.set_level(logging.DEBUG)
    monkeypatch.setattr(place, fail)
    answer = witness.post(reverse("credential-new", args=["ops-north"]), FIELDS)
    assert answer.status_code == 500
    assert (BROKEN in answer.content.decode()) == debug
    assert BROKEN in caplog.text
    assert not found(CANARY, [*witness.seen, caplog.text])
    for ring_key in settings.ENCRYPTION_KEYS.values():
        assert not found(ring_key, witness.seen)


def test_an_error_page_shows_only_a_reference(witness: Witness, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("taskruns.pages.board.board", fail)
    answer = witness.get("/teams/ops-north/runs/")
    page = answer.content.decode()
    assert answer.status_code == 500
    assert "the error was logged" in page
    assert not [
        word for word in ("Traceback", "RuntimeError", BROKEN, "SELECT", "taskruns/") if word in page.split("<main")[1]
    ]


def report(error: RuntimeError, *, careful: bool) -> str:
    """Django's error report, with the panel's filter or Django's own."""
    posted = RequestFactory().post("/", {"key": CANARY})
    reporter = ExceptionReporter(posted, type(error), error, error.__traceback__)
    if not careful:
        reporter.filter = SafeExceptionReporterFilter()
    return reporter.get_traceback_html() + reporter.get_traceback_text()


def test_the_key_is_shown_without_the_filter(credential: Credential, settings: Any, monkeypatch: pytest.MonkeyPatch):
    """The control: with Django's own filter and DEBUG, the same report contains the key."""
    settings.DEBUG = True
    monkeypatch.setattr("cryptography.fernet.Fernet.encrypt", fail)
    with pytest.raises(RuntimeError) as broken:
        credential.encrypt_secret(CANARY)
    error = broken.value
    careful, careless = report(error, careful=True), report(error, careful=False)
    assert BROKEN in careful
    assert not found(CANARY, [careful])
    assert found(CANARY, [careless])


def test_the_workers_errors_show_no_key(
    credential: Credential, arize: responses.RequestsMock, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("taskruns.outbound.session._Adapter.send", fail)
    with pytest.raises(RuntimeError) as broken:
        mirror.refresh(credential.pk)
    assert BROKEN in report(broken.value, careful=True)
    assert not found(CANARY, [report(broken.value, careful=True), str(broken.getrepr(showlocals=False))])


def test_the_debug_page_hides_settings_with_passwords(settings: Any):
    settings.HUEY = {"dsn": "postgres://user:s3kr3t-pass@host/queue"}
    error = RuntimeError(BROKEN)
    assert "s3kr3t-pass" not in report(error, careful=True)
    assert "s3kr3t-pass" in report(error, careful=False)


def test_a_failing_database_is_a_503_without_sql(
    witness: Witness, credential: Credential, monkeypatch: pytest.MonkeyPatch
):
    def refuse(*_args: Any, **_kwargs: Any) -> None:
        raise DatabaseError('INSERT INTO "taskruns_auditevent" failed: disk full')

    monkeypatch.setattr("taskruns.services.credentials.actions.record", refuse)
    answer = witness.post(reverse("credential-revoke", args=["ops-north", credential.pk]))
    assert answer.status_code == 503
    assert "could not write to its database. Nothing was changed" in answer.content.decode()
    assert "INSERT" not in answer.content.decode()
    credential.refresh_from_db()
    assert credential.revoked_at is None
    assert credential.decrypt_secret() == CANARY
    assert not found(CANARY, witness.seen)


def test_a_database_that_fails_before_any_view_is_a_503_without_sql(witness: Witness, monkeypatch: pytest.MonkeyPatch):
    def refuse(*_args: Any, **_kwargs: Any) -> None:
        raise DatabaseError('SELECT "session_data" failed: the server is gone')

    monkeypatch.setattr("taskruns.models.session_store.SessionStore.load", refuse)
    witness.raise_request_exception = False
    answer = witness.get("/runs/")
    assert answer.status_code == 503
    assert "cannot use its database right now" in answer.content.decode()
    assert "SELECT" not in answer.content.decode()


def refuse(*_args: Any, **_kwargs: Any) -> None:
    raise DatabaseError("the server is gone")


def revoked_with(witness: Witness, credential: Credential, monkeypatch: pytest.MonkeyPatch, broken: str) -> str:
    """The page that answers the revocation of a key."""
    monkeypatch.setattr(broken, refuse)
    witness.raise_request_exception = False
    answer = witness.post(reverse("credential-revoke", args=["ops-north", credential.pk]))
    assert answer.status_code == 503
    return answer.content.decode()


@pytest.mark.commits
@pytest.mark.usefixtures("committed")
def test_after_a_commit_the_page_says_that_the_action_may_have_taken_effect(
    witness: Witness, credential: Credential, monkeypatch: pytest.MonkeyPatch
):
    page = revoked_with(witness, credential, monkeypatch, "django.contrib.messages.success")
    assert "may or may not have taken effect" in page
    assert Credential.objects.filter(pk=credential.pk).exclude(revoked_at=None).exists()
    witness.get("/runs/")
    page = revoked_with(witness, credential, monkeypatch, "taskruns.views.credentials.owned")
    assert "Nothing was changed" in page, "a new request has done nothing yet"


def test_a_lost_commit_may_have_counted(witness: Witness, credential: Credential, monkeypatch: pytest.MonkeyPatch):
    def lose(*_args: Any, **_kwargs: Any) -> None:
        raise OperationalError("server closed the connection unexpectedly")

    monkeypatch.setattr(import_module("taskruns.audit.record"), "_note_head", lose)  # not the function of that name
    answer = witness.post(reverse("credential-revoke", args=["ops-north", credential.pk]))
    assert answer.status_code == 503
    assert "may or may not have taken effect" in answer.content.decode()


def test_a_session_that_cannot_be_saved_after_the_view_does_not_undo_it(
    witness: Witness, credential: Credential, monkeypatch: pytest.MonkeyPatch
):
    session = witness.session
    session["seen_at"] = int(time.time()) - SEEN_EVERY  # so that this request notes the time
    session.save()
    page = revoked_with(witness, credential, monkeypatch, "taskruns.models.session_store.SessionStore.save")
    assert "may or may not have taken effect" in page
    assert Credential.objects.filter(pk=credential.pk).exclude(revoked_at=None).exists()


def test_an_address_that_only_receives_forms_says_so(witness: Witness, credential: Credential):
    """After signing in again, or in an address that was kept."""
    answer = witness.get(reverse("credential-test", args=["ops-north", credential.pk]))
    assert (answer.status_code, answer["Allow"]) == (405, "POST")
    assert "only receives forms" in answer.content.decode()
    assert "<header" in answer.content.decode()
