"""The pages about people: the profile, roles and permissions, and the list for site admins and auditors."""

import re
from datetime import datetime
from typing import Any

import pytest
from allauth.socialaccount.models import SocialAccount
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from taskruns.models import (
    AuditEvent,
    BatchKind,
    BatchSource,
    BatchState,
    CancelBatch,
    EmergencyStop,
    SiteRole,
    Team,
    TeamRole,
    User,
)
from taskruns.pages.people import WORDS
from taskruns.permissions import SITE_ROLES, TEAM_ROLES, Action
from tests.clients import ClientOf, sign_in
from tests.factories import member, person
from tests.markup import without_bdi
from tests.stored import events

PROFILE = {"time_zone": "Asia/Tokyo", "theme": "dark", "shortcuts": ""}


def confirming(someone: User) -> dict[str, str]:
    """The question before an account is disabled, answered."""
    return {"confirmed": "1", "name": someone.email, "reason": "left the company"}


# --- Profile


def test_profile_is_saved_recorded_and_applied(vera: User, team: Team, client_of: ClientOf):
    client = client_of(vera)
    assert 'data-theme="' not in client.get("/runs/").content.decode()
    assert client.post("/accounts/profile/", PROFILE)["Location"] == "/accounts/profile/"
    page = client.get("/runs/").content.decode()
    assert '<html lang="en" data-theme="dark">' in page
    assert 'data-shortcuts="off"' in page
    row = AuditEvent.objects.get()
    assert (row.event, sorted(row.details["changed"])) == ("profile.change", ["shortcuts", "theme", "time_zone"])
    client.post("/accounts/profile/", PROFILE)
    assert AuditEvent.objects.count() == 1, "saving the same values is not a change"


def test_people_change_their_own_name(vera: User, client_of: ClientOf):
    client = client_of(vera)
    unchanged = {"time_zone": "UTC", "theme": "", "shortcuts": "on"}
    client.post("/accounts/profile/", unchanged | {"name": "Vera  \u202eLind"})
    client.post("/accounts/profile/", unchanged)
    vera.refresh_from_db()
    assert vera.name == "Vera   Lind", "a form without the field leaves the name as it is"
    row = AuditEvent.objects.get()
    assert (row.event, row.details["before"], row.details["after"]) == (
        "profile.change",
        {"name": ""},
        {"name": "Vera   Lind"},
    )
    assert client.post("/accounts/profile/", unchanged | {"name": "x" * 101}).status_code == 422


def test_a_name_from_single_sign_on_is_changed_there(vera: User, client_of: ClientOf):
    client = client_of(vera)
    User.objects.filter(pk=vera.pk).update(password="!", name="Vera Lind")
    SocialAccount.objects.create(user=vera, provider="oidc", uid="1")
    client = client_of(User.objects.get(pk=vera.pk))
    assert "Your name comes from single sign-on" in client.get("/accounts/profile/").content.decode()
    client.post("/accounts/profile/", {"name": "Vera L", "time_zone": "Asia/Tokyo", "theme": "", "shortcuts": "on"})
    vera.refresh_from_db()
    assert (vera.name, vera.time_zone) == ("Vera Lind", "Asia/Tokyo")


# --- Disabling an account


def test_disabling_asks_first_and_keeps_the_reason(adam: User, vera: User, client_of: ClientOf):
    client, url = client_of(adam), f"/people/{vera.pk}/disable/"
    for question in (client.get(url), client.post(url), client.post(url, confirming(vera) | {"confirmed": ""})):
        assert (question.status_code, "Disable <bdi>vera@example.com</bdi>?" in question.content.decode()) == (
            200,
            True,
        )
    assert User.objects.get(pk=vera.pk).is_active
    assert events() == []
    assert client.post(url, confirming(vera) | {"name": " VERA@example.com "})["Location"] == f"/people/{vera.pk}/"
    row = AuditEvent.objects.get()
    assert (row.event, row.reason) == ("person.disable", "left the company")
    assert "This account is already disabled" in client.get(url).content.decode()


@pytest.mark.parametrize(
    ("data", "error"),
    [
        ({"name": "oli@example.com"}, "This is not the email of the account. Nothing was changed."),
        ({"name": ""}, "This is not the email of the account. Nothing was changed."),
        ({"reason": " "}, "Enter a reason. Nothing was changed."),
        ({"reason": "x" * 513}, "at most 512 characters"),
    ],
)
def test_a_wrong_name_or_no_reason_disables_nobody(
    adam: User, vera: User, oli: User, client_of: ClientOf, data: dict[str, str], error: str
):
    answer = client_of(adam).post(f"/people/{vera.pk}/disable/", confirming(vera) | data)
    assert (answer.status_code, error in answer.content.decode()) == (422, True)
    assert User.objects.get(pk=vera.pk).is_active
    assert events() == []


def test_the_question_names_what_stops(team: Team, adam: User, mona: User, client_of: ClientOf):
    def asked() -> str:
        return without_bdi(client_of(adam).get(f"/people/{mona.pk}/disable/").content.decode())

    assert "Ops North has no other manager." in asked()
    member(team, "second@example.com", TeamRole.MANAGER)
    assert "Ops North has no other manager." not in asked()
    EmergencyStop.objects.create(team=team, person=mona, person_label=mona.email, person_role="manager", reason="x")
    working = {"team": team, "person": mona, "source": BatchSource.SELECTION, "state": BatchState.WORKING}
    for kind in BatchKind:
        CancelBatch.objects.create(kind=kind, **working)
    sign_in(Client(), mona.email)
    for text in (
        "The emergency stop of Ops North pauses: new runs are no longer cancelled.",
        "1 bulk cancel is stopped. Runs not cancelled yet keep running.",
        "1 bulk start is stopped. The remaining runs are not started.",
        "1 session ends immediately.",
    ):
        assert text in asked()


@pytest.mark.parametrize(("field", "value"), [("time_zone", "Mars/Base"), ("time_zone", ""), ("theme", "pink")])
def test_invalid_profile_is_rejected(vera: User, client_of: ClientOf, field: str, value: str):
    answer = client_of(vera).post("/accounts/profile/", PROFILE | {field: value})
    assert answer.status_code == 422
    assert "errorlist" in answer.content.decode()
    vera.refresh_from_db()
    assert (vera.time_zone, vera.theme) == ("UTC", "")


# --- Roles and permissions


def test_rights_page_matches_the_code(vera: User, client_of: ClientOf):
    page = client_of(vera).get("/rights/")
    shown = page.context["table"]
    assert list(WORDS) == [row.code for row in shown.rows]
    assert set(WORDS) == {action.value for action in Action}
    roles = [rights for role, rights in (TEAM_ROLES | SITE_ROLES).items() if role.value]
    for row in shown.rows:
        assert [may for _, may in row.cells] == [Action(row.code) in rights for rights in roles]
    text = page.content.decode()
    assert text.count('<span class="unseen">yes</span>') == sum(len(rights) for rights in roles)


# --- All people


def test_admin_sees_all_people(cast: dict[str, User | None], adam: User, client_of: ClientOf):
    sign_in(Client(), "vera@example.com")
    page = client_of(adam).get("/people/")
    rows = {row.email: row for row in page.context["rows"]}
    assert set(rows) == {f"{name}@example.com" for name in ("vera", "oli", "mona", "otto", "ada", "adam")}
    assert rows["vera@example.com"].teams == ("Ops North (viewer)",)
    assert datetime.fromisoformat(rows["vera@example.com"].signed_in.iso)
    assert rows["oli@example.com"].signed_in is None
    assert rows["adam@example.com"].site_role == "site admin"


def test_people_are_found_by_name_or_email(adam: User, vera: User, client_of: ClientOf):
    User.objects.filter(pk=vera.pk).update(name="Vera Ångström")
    client = client_of(adam)
    for text, found in (("VERA@", ["vera@example.com"]), ("ström", ["vera@example.com"]), ("%", []), ("nobody", [])):
        page = client.get("/people/", {"q": text})
        assert [row.email for row in page.context["rows"]] == found
    assert "No people found" in page.content.decode()


def test_many_people_are_paged_with_few_queries(adam: User, client_of: ClientOf):
    client = client_of(adam)
    with CaptureQueriesContext(connection) as few:
        client.get("/people/")
    User.objects.bulk_create(User(email=f"p{number:03}@example.com") for number in range(120))
    seen: list[str] = []
    url = "/people/"
    while url:
        with CaptureQueriesContext(connection) as queries:
            page = client.get(url)
        assert len(queries) <= len(few) + 1
        seen += [row.email for row in page.context["rows"]]
        url = f"/people/?{page.context['further']}" if page.context["further"] else ""
    assert seen == sorted(seen)
    assert len(seen) == 121


def test_auditor_cannot_change_people(ada: User, vera: User, client_of: ClientOf):
    client = client_of(ada)
    page = client.get(f"/people/{vera.pk}/")
    assert page.status_code == 200
    assert "Disable" not in page.content.decode()
    assert client.post(f"/people/{vera.pk}/disable/").status_code == 403
    assert events() == [("person.disable", "denied")]


def test_person_page_shows_their_sign_ins(adam: User, vera: User, client_of: ClientOf):
    sign_in(Client(headers={"User-Agent": "<b>Browser</b>"}), vera.email)
    text = client_of(adam).get(f"/people/{vera.pk}/").content.decode()
    assert re.search(r"<dt>Active sessions</dt>\s*<dd>1</dd>", text)
    assert "password" in text
    assert "&lt;b&gt;Browser" in text


def test_admin_manages_an_account(adam: User, vera: User, client_of: ClientOf):
    client = client_of(adam)
    client.post(f"/people/{vera.pk}/role/", {"role": "auditor"})
    theirs = client_of(vera)
    client.post(f"/people/{vera.pk}/sessions/end/")
    assert theirs.get("/runs/").status_code == 302
    client.post(f"/people/{vera.pk}/disable/", confirming(vera))
    vera.refresh_from_db()
    assert (vera.site_role, vera.is_active) == (SiteRole.AUDITOR, False)
    assert "Enable account" in client.get(f"/people/{vera.pk}/").content.decode()
    client.post(f"/people/{vera.pk}/enable/")
    client.post(f"/people/{vera.pk}/role/", {"role": "none"})
    vera.refresh_from_db()
    assert (vera.site_role, vera.is_active) == (SiteRole.NONE, True)
    names = ["person.grant", "auth.session_end", "person.disable", "person.enable", "person.grant"]
    assert [event for event, _ in events()] == names


@pytest.mark.parametrize("role", ["", "owner", "ADMIN", "x" * 500])
def test_empty_or_unknown_role_changes_nothing(adam: User, ada: User, client_of: ClientOf, role: str):
    answer = client_of(adam).post(f"/people/{ada.pk}/role/", {"role": role})
    assert (answer.status_code, "Choose one of the roles" in answer.content.decode()) == (422, True)
    ada.refresh_from_db()
    assert ada.site_role == SiteRole.AUDITOR


def test_people_cannot_change_their_own_rights(adam: User, client_of: ClientOf):
    client = client_of(adam)
    assert "Only another site admin" in client.get(f"/people/{adam.pk}/").content.decode()
    for path, data in (("disable/", confirming(adam)), ("role/", {"role": "none"})):
        answer = client.post(f"/people/{adam.pk}/{path}", data)
        assert (answer.status_code, "Another site admin has to" in answer.content.decode()) == (422, True)
    adam.refresh_from_db()
    assert (adam.site_role, adam.is_active) == (SiteRole.ADMIN, True)
    assert events() == []


def test_menu_links_work_for_each_person(adam: User, vera: User, client_of: ClientOf):
    links: dict[str, set[Any]] = {}
    for name, someone in (("adam", adam), ("vera", vera), ("nina", person("nina@example.com"))):
        if name == "nina":
            User.objects.filter(pk=someone.pk).update(password="!")
            someone.refresh_from_db()
        links[name] = set(re.findall(r'href="(/[^"]*)"', client_of(someone).get("/runs/").content.decode()))
        for link in links[name]:
            if not link.startswith("/static/"):
                assert client_of(someone).get(link).status_code in {200, 302}, link
    assert "/people/" in links["adam"] - links["vera"]
    assert {"/rights/", "/accounts/profile/", "/accounts/sessions/", "/accounts/factors/"} <= links["vera"]
    assert "/accounts/password/change/" in links["vera"] - links["nina"]
