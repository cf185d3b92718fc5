"""Limits on what one signed-in person can add to the database. No limit keeps anyone from stopping runs."""

import re
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest
import responses
import time_machine
from django.conf import settings
from django.test import Client
from django.utils import timezone

from taskruns import jobs
from taskruns.access import gate
from taskruns.audit import Actor, EventType
from taskruns.models import (
    AuditEvent,
    CancelBatch,
    CancelItem,
    Cancellation,
    Credential,
    EmergencyStop,
    Limit,
    PersonSession,
    PersonTally,
    Run,
    Status,
    Team,
    User,
)
from taskruns.services import audit
from taskruns.services.audit import tallies
from taskruns.services.batches.draft import MOST_DRAFTS
from taskruns.services.people import sessions
from tests.clients import ClientOf, click_cancel, sign_in
from tests.factories import PASSWORD, make_run
from tests.stored import events
from tests.threads import in_threads
from tests.wire import run_url, wire_run

AT = datetime.fromisoformat("2026-11-23T03:00:05+00:00")
SETTINGS = "/teams/ops-north/settings/"
PROFILE = "/accounts/profile/"
LIMIT = tallies.ROWS_A_MINUTE


@pytest.fixture
def clock() -> Iterator[Any]:
    with time_machine.travel(AT, tick=False) as clock:
        yield clock


@pytest.fixture
def few_acts(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ACTS", "NEEDLESS_CANCELS", "LOOKUPS"):
        monkeypatch.setattr(gate, name, Limit(name, 3, timedelta(minutes=10)))


# --- Refused attempts


def test_only_the_first_denials_of_a_minute_are_rows(
    team: Team, vera: User, mona: User, client_of: ClientOf, clock: Any
):
    client = client_of(vera)
    answers = {client.post(SETTINGS).status_code for _ in range(LIMIT + 7)}
    assert answers == {403}
    assert len(events(outcome="denied")) == LIMIT
    assert audit.record_counted() == 0, "the minute is not over"
    clock.shift(timedelta(minutes=2))
    jobs.look_after_audit()
    jobs.look_after_audit()
    counted = AuditEvent.objects.get(details__has_key="left_out")
    assert (counted.team_id, counted.actor_type, counted.actor_id) == (team.pk, "user", str(vera.pk))
    assert counted.details == {"left_out": 7, "minute": "2026-11-23T03:00Z"}
    assert not PersonTally.objects.exists()
    text = client_of(mona).get("/teams/ops-north/audit/").content.decode()
    assert "7 more refused attempts of vera@example.com in the same minute" in text


@pytest.mark.parametrize("actor_id", ["x", "refused:x", "5b0c7a52-7d0c-4b3f-9a51-0c1f0a1f4e11"])
def test_a_tally_of_nobody_is_recorded_as_anonymous(actor_id: str, db: None, vera: User):
    minute = timezone.now() - timedelta(minutes=5)
    PersonTally.objects.create(actor_id=actor_id, chain="site", minute=minute, attempts=LIMIT + 3)
    PersonTally.objects.create(actor_id=str(vera.pk), chain="site", minute=minute, attempts=LIMIT + 1)
    assert tallies.record_counted() == 2
    assert not PersonTally.objects.exists()
    rows = AuditEvent.objects.filter(chain="site", outcome="denied").order_by("seq")
    assert [(row.actor_type, row.actor_label) for row in rows] == [("anonymous", ""), ("user", "vera@example.com")]


def test_denials_of_one_person_hide_nobody_elses(
    team: Team, other_team: Team, vera: User, oli: User, client_of: ClientOf, clock: Any
):
    for _ in range(LIMIT + 1):
        client_of(vera).post(SETTINGS)
    client_of(oli).post(SETTINGS)
    client_of(vera).get("/teams/ops-south/runs/")
    assert len(events(actor_label=oli.email)) == 1
    assert len(events(chain="site", actor_label=vera.email)) == 1, "the site's log counts on its own"


def test_confirmations_that_are_too_many_do_not_flood_the_log(mona: User, client_of: ClientOf, clock: Any):
    client = client_of(mona)
    for _ in range(LIMIT + 5):
        client.post("/accounts/confirm/password/", {"password": "wrong password 123"})
    assert len(events(event="auth.sign_in")) == LIMIT


def test_forged_forms_of_a_member_do_not_flood_the_log(team: Team, vera: User, clock: Any):
    client = Client(enforce_csrf_checks=True)
    client.force_login(vera, backend=settings.AUTHENTICATION_BACKENDS[0])
    for _ in range(LIMIT + 5):
        assert client.post(SETTINGS).status_code == 403
    assert len(events(outcome="denied")) == LIMIT


@pytest.mark.commits
def test_parallel_denials_are_all_counted(committed: None, team: Team, vera: User):
    by = Actor(type="user", id=str(vera.pk), label=vera.email, person=vera)

    def one(_: int) -> None:
        for _ in range(LIMIT):
            audit.record_denial(EventType.ACCESS_DENIED, audit.Attempt("x", "/x/", "GET"), by=by, team=team)

    with time_machine.travel(AT, tick=False):
        in_threads(4, one)
    assert PersonTally.objects.get().attempts == 4 * LIMIT
    assert AuditEvent.objects.count() == LIMIT
    in_threads(3, lambda _: audit.record_counted())
    assert AuditEvent.objects.latest("pk").details["left_out"] == 3 * LIMIT
    assert AuditEvent.objects.count() == LIMIT + 1


# --- Acts


def test_acts_beyond_the_limit_change_nothing(vera: User, client_of: ClientOf, few_acts: None):
    client = client_of(vera)
    themes = ["dark", "light", "dark", "light"]
    answers = [client.post(PROFILE, {"time_zone": "UTC", "theme": theme}) for theme in themes]
    assert [answer.status_code for answer in answers] == [302, 302, 302, 429]
    assert answers[-1]["Retry-After"] == "600"
    assert "Cancelling runs still works." in answers[-1].content.decode()
    vera.refresh_from_db()
    assert vera.theme == "dark"
    assert events() == [("profile.change", "done")] * 3
    assert client.get(PROFILE).status_code == 200, "reading is no act"


def test_acts_are_possible_again_after_the_window(vera: User, client_of: ClientOf, few_acts: None):
    client = client_of(vera)
    form = {"time_zone": "UTC", "theme": "dark"}
    assert [client.post(PROFILE, form).status_code for _ in range(4)][-1] == 429
    with time_machine.travel(timezone.now() + timedelta(minutes=11)):
        assert client.post(PROFILE, form).status_code == 302


def test_htmx_gets_the_refusal_as_a_message(vera: User, client_of: ClientOf, few_acts: None):
    client = client_of(vera)
    htmx = {"HX-Request": "true"}
    answer = [client.post(PROFILE, {"time_zone": "UTC"}, headers=htmx) for _ in range(4)][-1]
    assert (answer.status_code, answer["HX-Reswap"]) == (429, "none")


def test_whoever_did_too_much_can_still_stop_runs(run: Run, oli: User, client_of: ClientOf, arize: Any, few_acts: None):
    client = client_of(oli)
    assert [client.post(PROFILE, {"time_zone": "UTC"}).status_code for _ in range(4)][-1] == 429
    arize.post(run_url(run, "/cancel"), json=wire_run(run, "CANCELLED"))
    assert click_cancel(client, run).status_code == 200
    run.refresh_from_db()
    assert run.status == "cancelled"
    batch = client.post("/teams/ops-north/batches/", {"run": [str(make_run(task=run.task).pk)]})
    assert client.post(f"{batch['Location']}confirm/", {"reason": "too slow"}).status_code == 302
    assert client.post("/teams/ops-north/stop/", {"reason": "fire", "confirmed": "1"}).status_code != 429
    assert client.post("/accounts/sessions/end-others/").status_code == 302
    assert client.post("/accounts/logout/").status_code == 302


def test_cancels_that_stop_nothing_count_as_acts(run: Run, oli: User, client_of: ClientOf, arize: Any, few_acts: None):
    """Each click leaves a row, even though the run has already ended."""
    client, ended = client_of(oli), make_run(task=run.task, status=Status.COMPLETED)
    answers = [click_cancel(client, ended, htmx=False).status_code for _ in range(5)]
    assert answers == [302] * 3 + [429] * 2
    assert events(event="run.cancel") == [("run.cancel", "not_needed")] * 3
    arize.post(run_url(run, "/cancel"), json=wire_run(run, "CANCELLED"))
    assert click_cancel(client, run).status_code == 200, "this one stops a run"


def test_a_second_cancel_of_one_run_counts_as_an_act(run: Run, oli: User, client_of: ClientOf, few_acts: None):
    Cancellation.objects.create(run=run, person=oli, person_label=oli.email)
    answers = [click_cancel(client_of(oli), run, htmx=False).status_code for _ in range(5)]
    assert answers == [409] * 3 + [429] * 2


def test_lifting_a_stop_counts_as_an_act_and_pulling_does_not(
    team: Team, run: Run, oli: User, client_of: ClientOf, few_acts: None
):
    client, codes = client_of(oli), []
    for _ in range(4):
        client.post("/teams/ops-north/stop/", {"confirmed": "1", "reason": "fire"})
        codes.append(client.post("/teams/ops-north/stop/lift/", {"confirmed": "1"}).status_code)
    assert codes == [302, 302, 302, 429]
    assert EmergencyStop.objects.filter(ended_at=None).count() == 1, "the last one was pulled and holds"


# --- Drafts and sessions


def test_a_person_keeps_only_their_newest_drafts(run: Run, oli: User, mona: User, client_of: ClientOf):
    others = client_of(mona).post("/teams/ops-north/batches/", {"run": [str(run.pk)]})["Location"]
    made = [
        client_of(oli).post("/teams/ops-north/batches/", {"status": "running", "match": "all"})["Location"]
        for _ in range(MOST_DRAFTS + 3)
    ]
    assert CancelBatch.objects.filter(drafted_by=oli).count() == MOST_DRAFTS
    assert CancelItem.objects.count() == MOST_DRAFTS + 1
    assert [client_of(oli).get(path).status_code for path in made] == [404] * 3 + [200] * MOST_DRAFTS
    assert client_of(mona).get(others).status_code == 200, "nobody deletes another person's draft"


def test_a_confirmed_batch_is_never_deleted_as_a_draft(run: Run, oli: User, client_of: ClientOf):
    client = client_of(oli)
    path = client.post("/teams/ops-north/batches/", {"run": [str(run.pk)]})["Location"]
    client.post(f"{path}confirm/", {"reason": "too slow"})
    for _ in range(MOST_DRAFTS + 1):
        client.post("/teams/ops-north/batches/", {"run": [str(run.pk)]})
    assert client.get(path).status_code == 200


def test_a_person_has_a_limited_number_of_sessions(vera: User, mona: User, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sessions, "MOST_LIVE", 3)
    others, browsers = Client(), []
    sign_in(others, mona.email)
    for number in range(5):
        with time_machine.travel(timezone.now() + timedelta(minutes=number)):
            browsers.append(Client())
            sign_in(browsers[-1], vera.email, PASSWORD)
    with time_machine.travel(timezone.now() + timedelta(minutes=6)):
        assert PersonSession.objects.filter(user=vera).count() == 3
        assert [browser.get("/").status_code for browser in browsers] == [302] * 5
        assert ["login" in browser.get(PROFILE).headers.get("Location", "") for browser in browsers] == [
            True,
            True,
            False,
            False,
            False,
        ]
        assert others.get(PROFILE).status_code == 200
    assert events(event="auth.session_end", details__why="too many") == [("auth.session_end", "done")] * 2


def test_one_person_leaves_lookups_to_the_others(
    few_acts: None, credential: Credential, vera: User, oli: User, client_of: ClientOf, arize: responses.RequestsMock
) -> None:
    asked = arize.get(re.compile(".*"), status=404)

    def look(client: Client, name: str) -> int:
        return client.get(f"/teams/ops-north/runs/by-arize-id/{name}/").status_code

    viewer, operator = client_of(vera), client_of(oli)
    assert [look(viewer, f"R{number}") for number in range(5)] == [404, 404, 404, 503, 503]
    assert asked.call_count == 3
    assert look(viewer, "R0") == 404, "a remembered miss costs nothing"
    assert look(operator, "S0") == 404
