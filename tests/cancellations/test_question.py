"""A click on Cancel that no dialog has confirmed: the panel asks, and neither writes nor sends anything."""

import re
from datetime import timedelta
from typing import Any

import pytest
import responses
from django.test import Client

from taskruns.models import AuditEvent, Cancellation, Limit, Outcome, Run, Team, User
from tests.clients import ClientOf, click_cancel
from tests.markup import without_bdi
from tests.stored import events
from tests.wire import run_url, wire_run

BOARD = "/teams/ops-north/runs/"
ORIGIN = "http://testserver"


@pytest.fixture
def client(oli: User, client_of: ClientOf) -> Client:
    return client_of(oli)


def ask(client: Client, run: Run, *, htmx: bool = False, referer: str = "", **form: str) -> Any:
    """Click a row's button without a script, or confirm in the dialog of a page from before an upgrade (htmx)."""
    headers = {"HX-Request": "true", "HX-Target": f"run-{run.pk}"} if htmx else {}
    return client.post(f"{BOARD}{run.pk}/cancel/", form, headers=headers | {"Referer": referer})


def text_of(page: Any) -> str:
    return " ".join(re.sub(r"<[^>]+>", " ", without_bdi(page.content.decode())).split())


def confirm_as_shown(client: Client, page: Any, **typed: str) -> Any:
    """Send the form of the question as a browser does."""
    form = re.search(r'<form method="post" action="([^"]+/cancel/)".*?</form>', page.content.decode(), re.DOTALL)
    assert form is not None, text_of(page)
    fields = re.findall(r'<input[^>]* name="(\w+)"[^>]* value="([^"]*)"', form[0])
    return client.post(form[1], {**dict(fields), **typed})


@pytest.mark.parametrize("form", [{}, {"confirmed": ""}, {"confirmed": "0"}, {"confirmed": "yes", "reason": "why"}])
def test_an_unconfirmed_cancel_writes_and_sends_nothing(
    form: dict[str, str], client: Client, run: Run, htmx: Any, arize: responses.RequestsMock
) -> None:
    before, version = Run.objects.values().get(pk=run.pk), Team.objects.get(pk=run.team_id).board_version
    page = ask(client, run, htmx=htmx, **form)
    assert page.status_code == 200
    assert "Cancel this run?" in text_of(page)
    assert Run.objects.values().get(pk=run.pk) == before
    assert Team.objects.get(pk=run.team_id).board_version == version
    assert not Cancellation.objects.exists()
    assert not AuditEvent.objects.exists()
    assert not arize.calls


def test_the_form_of_the_question_cancels(client: Client, run: Run, arize: responses.RequestsMock) -> None:
    arize.post(run_url(run, "/cancel"), json=wire_run(run, "CANCELLED"))
    answer = confirm_as_shown(client, ask(client, run, reason="wrong model"))
    assert (answer.status_code, answer["Location"]) == (302, f"{BOARD}{run.pk}/")
    assert Cancellation.objects.get().reason == "wrong model"
    assert events(event="run.cancel") == [("run.cancel", "requested"), ("run.cancel", "confirmed")]


def test_the_dialog_confirms(client: Client, run: Run) -> None:
    dialog = re.search(r'<dialog id="cancel-dialog".*?</dialog>', client.get(BOARD).content.decode(), re.DOTALL)
    assert dialog is not None
    assert '<input type="hidden" name="confirmed" value="1">' in dialog[0]


def test_no_button_of_a_row_or_run_confirms(client: Client, run: Run) -> None:
    for path in (BOARD, f"{BOARD}{run.pk}/"):
        page = client.get(path).content.decode()
        outside = re.sub(r"<dialog.*?</dialog>", "", page, flags=re.DOTALL)
        assert f'formaction="{BOARD}{run.pk}/cancel/"' in outside
        assert 'name="confirmed"' not in outside


def test_the_question_shows_the_run(client: Client, run: Run) -> None:
    Run.objects.update(num_successes=1_234, num_errors=5, num_skipped=6)
    run.refresh_from_db()
    text = text_of(ask(client, run))
    started = f"{run.run_started_at:%Y-%m-%d %H:%M:%S} UTC"
    for fact in (run.task.name, run.arize_id, "RUNNING", started, "1,234 succeeded, 5 errored, 6 skipped"):
        assert fact in text


@pytest.mark.parametrize("status", ["completed", "failed", "cancelled", "gone", "unknown"])
def test_a_run_that_has_ended_offers_no_button(status: str, client: Client, run: Run, htmx: Any) -> None:
    Run.objects.update(status=status, rank=0)
    page = ask(client, run, htmx=htmx)
    assert page.status_code == 200
    assert "There is nothing to cancel" in text_of(page)
    assert "nothing was sent to Arize" in text_of(page)
    assert f'action="{BOARD}{run.pk}/cancel/"' not in page.content.decode()
    assert not AuditEvent.objects.exists()


def test_a_run_that_is_stopping_names_who_asked(client: Client, run: Run, mona: User) -> None:
    Cancellation.objects.create(run=run, person=mona, person_label=mona.email, outcome=Outcome.OPEN)
    page = ask(client, run)
    assert "requested by mona@example.com" in text_of(page)
    assert f'action="{BOARD}{run.pk}/cancel/"' not in page.content.decode()


@pytest.mark.parametrize("confirmed", ["", "1"])
def test_a_reason_that_is_too_long_is_kept_in_its_field(confirmed: str, client: Client, run: Run) -> None:
    long = "x" * 513
    page = ask(client, run, reason=long, confirmed=confirmed)
    assert page.status_code == 422
    assert "longer than 512 characters" in text_of(page)
    assert f'value="{long}"' in page.content.decode()
    assert not AuditEvent.objects.exists()


@pytest.mark.parametrize(
    ("referer", "back"),
    [
        (f"{ORIGIN}{BOARD}?status=running&q=x", f"{BOARD}?status=running&amp;q=x"),
        (f"{ORIGIN}/runs/", "/runs/"),
        (f"{ORIGIN}{BOARD}{{run}}/", f"{BOARD}{{run}}/"),
        (f"{ORIGIN}{BOARD}{{run}}/cancel/", f"{BOARD}{{run}}/"),
        (f"{ORIGIN}//evil.example/", f"{BOARD}{{run}}/"),
        ("https://evil.example/teams/ops-north/runs/", f"{BOARD}{{run}}/"),
        ("", f"{BOARD}{{run}}/"),
    ],
)
def test_keeping_the_run_leads_back(referer: str, back: str, client: Client, run: Run) -> None:
    page = ask(client, run, referer=referer.format(run=run.pk)).content.decode()
    kept = re.search(r'href="([^"]*)">Keep it running<', page)
    assert kept is not None
    assert kept[1] == back.format(run=run.pk)


def test_htmx_shows_the_question_in_place_of_the_page(client: Client, run: Run) -> None:
    page = ask(client, run, htmx=True)
    assert (page["HX-Retarget"], page["HX-Reswap"]) == ("#main", "innerHTML")
    assert "HX-Request" in page["Vary"]
    assert "<html" not in page.content.decode()
    assert "HX-Redirect" not in page
    assert "HX-Retarget" not in ask(client, run)


def test_a_get_leads_to_the_run(client: Client, vera: User, run: Run, client_of: ClientOf) -> None:
    """After signing in again, or with Enter in the address bar."""
    for person in (client, client_of(vera)):
        answer = person.get(f"{BOARD}{run.pk}/cancel/?confirmed=1")
        assert (answer.status_code, answer["Location"]) == (302, f"{BOARD}{run.pk}/")
    assert not AuditEvent.objects.exists()


@pytest.mark.parametrize("confirmed", ["", "1"])
def test_the_right_is_checked_before_the_question(
    confirmed: str, run: Run, vera: User, otto: User, client_of: ClientOf
) -> None:
    assert ask(client_of(vera), run, confirmed=confirmed).status_code == 403
    assert ask(client_of(otto), run, confirmed=confirmed).status_code == 404
    assert events(chain=f"team:{run.team_id}") == [("run.cancel", "denied")]
    assert events(chain="site") == [("access.denied", "denied")]


def test_the_token_is_checked_before_the_question(oli: User, run: Run) -> None:
    strict = Client(enforce_csrf_checks=True)
    strict.force_login(oli, backend="allauth.account.auth_backends.AuthenticationBackend")
    assert ask(strict, run).status_code == 403


def test_asking_is_no_needless_cancel(client: Client, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A question leaves no row, so the limit on cancels that stop nothing does not count it."""
    Run.objects.update(status="completed", rank=0)
    monkeypatch.setattr("taskruns.access.gate.NEEDLESS_CANCELS", Limit("needless", 2, timedelta(minutes=10)))
    assert [ask(client, run).status_code for _ in range(3)] == [200] * 3
    assert [click_cancel(client, run, htmx=False).status_code for _ in range(3)] == [302, 302, 429]
