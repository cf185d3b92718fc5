"""The pages about people: one's own profile, the table of rights, and everybody for those who look after them."""

import re
from datetime import datetime
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from taskruns.models import AuditEvent, SiteRole, Team, User
from taskruns.pages.people import WORDS
from taskruns.permissions import SITE_ROLES, TEAM_ROLES, Action
from tests.clients import ClientOf, sign_in
from tests.factories import person
from tests.stored import events

PROFILE = {"time_zone": "Asia/Tokyo", "theme": "dark", "shortcuts": ""}


# --- Profile


def test_a_profile_is_saved_recorded_and_felt(vera: User, team: Team, client_of: ClientOf):
    client = client_of(vera)
    assert 'data-theme="' not in client.get("/runs/").content.decode()
    assert client.post("/accounts/profile/", PROFILE)["Location"] == "/accounts/profile/"
    page = client.get("/runs/").content.decode()
    assert '<html lang="en" data-theme="dark">' in page
    assert 'data-shortcuts="off"' in page
    row = AuditEvent.objects.get()
    assert (row.event, sorted(row.details["changed"])) == ("profile.change", ["shortcuts", "theme", "time_zone"])
    client.post("/accounts/profile/", PROFILE)
    assert AuditEvent.objects.count() == 1, "what is so already is no change"


@pytest.mark.parametrize(("field", "value"), [("time_zone", "Mars/Base"), ("time_zone", ""), ("theme", "pink")])
def test_a_profile_that_cannot_be_is_refused(vera: User, client_of: ClientOf, field: str, value: str):
    answer = client_of(vera).post("/accounts/profile/", PROFILE | {field: value})
    assert answer.status_code == 422
    assert "errorlist" in answer.content.decode()
    vera.refresh_from_db()
    assert (vera.time_zone, vera.theme) == ("UTC", "")


# --- Rights


def test_the_page_of_rights_is_the_table_of_the_code(vera: User, client_of: ClientOf):
    page = client_of(vera).get("/rights/")
    shown = page.context["table"]
    assert list(WORDS) == [row.code for row in shown.rows]
    assert set(WORDS) == {action.value for action in Action}
    roles = [rights for role, rights in (TEAM_ROLES | SITE_ROLES).items() if role.value]
    for row in shown.rows:
        assert [may for _, may in row.cells] == [Action(row.code) in rights for rights in roles]
    text = page.content.decode()
    assert text.count('<span class="unseen">yes</span>') == sum(len(rights) for rights in roles)


# --- Everybody


def test_an_admin_sees_people_their_teams_roles_and_last_sign_in(
    cast: dict[str, User | None], adam: User, client_of: ClientOf
):
    sign_in(Client(), "vera@example.com")
    page = client_of(adam).get("/people/")
    rows = {row.email: row for row in page.context["rows"]}
    assert set(rows) == {f"{name}@example.com" for name in ("vera", "oli", "mona", "otto", "ada", "adam")}
    assert rows["vera@example.com"].teams == ("Ops North (viewer)",)
    assert datetime.fromisoformat(rows["vera@example.com"].signed_in.iso)
    assert rows["oli@example.com"].signed_in is None
    assert rows["adam@example.com"].site_role == "site admin"


def test_people_are_found_by_a_part_of_their_name_or_address(adam: User, vera: User, client_of: ClientOf):
    User.objects.filter(pk=vera.pk).update(name="Vera Ångström")
    client = client_of(adam)
    for text, found in (("VERA@", ["vera@example.com"]), ("ström", ["vera@example.com"]), ("%", []), ("nobody", [])):
        page = client.get("/people/", {"q": text})
        assert [row.email for row in page.context["rows"]] == found
    assert "Nobody" in page.content.decode()


def test_many_people_are_pages_and_no_more_queries(adam: User, client_of: ClientOf):
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


def test_an_auditor_reads_and_changes_nothing(ada: User, vera: User, client_of: ClientOf):
    client = client_of(ada)
    page = client.get(f"/people/{vera.pk}/")
    assert page.status_code == 200
    assert "Disable" not in page.content.decode()
    assert client.post(f"/people/{vera.pk}/disable/").status_code == 403
    assert events() == [("person.disable", "denied")]


def test_a_page_of_a_person_tells_how_they_sign_in(adam: User, vera: User, client_of: ClientOf):
    sign_in(Client(headers={"User-Agent": "<b>Browser</b>"}), vera.email)
    text = client_of(adam).get(f"/people/{vera.pk}/").content.decode()
    assert re.search(r"<dt>Sessions now</dt>\s*<dd>1</dd>", text)
    assert "password" in text
    assert "&lt;b&gt;Browser" in text


def test_an_admin_changes_a_role_disables_lets_in_again_and_ends_sessions(adam: User, vera: User, client_of: ClientOf):
    client = client_of(adam)
    client.post(f"/people/{vera.pk}/role/", {"role": "auditor"})
    theirs = client_of(vera)
    client.post(f"/people/{vera.pk}/sessions/end/")
    assert theirs.get("/runs/").status_code == 302
    client.post(f"/people/{vera.pk}/disable/")
    vera.refresh_from_db()
    assert (vera.site_role, vera.is_active) == (SiteRole.AUDITOR, False)
    assert "Let them in again" in client.get(f"/people/{vera.pk}/").content.decode()
    client.post(f"/people/{vera.pk}/enable/")
    client.post(f"/people/{vera.pk}/role/", {"role": "none"})
    vera.refresh_from_db()
    assert (vera.site_role, vera.is_active) == (SiteRole.NONE, True)
    names = ["person.grant", "auth.session_end", "person.disable", "person.enable", "person.grant"]
    assert [event for event, _ in events()] == names


@pytest.mark.parametrize("role", ["", "owner", "ADMIN", "x" * 500])
def test_an_empty_or_unknown_role_changes_nothing(adam: User, ada: User, client_of: ClientOf, role: str):
    answer = client_of(adam).post(f"/people/{ada.pk}/role/", {"role": role})
    assert (answer.status_code, "Choose one of the roles" in answer.content.decode()) == (422, True)
    ada.refresh_from_db()
    assert ada.site_role == SiteRole.AUDITOR


def test_nobody_takes_their_own_rights_away(adam: User, client_of: ClientOf):
    client = client_of(adam)
    assert "another site admin" in client.get(f"/people/{adam.pk}/").content.decode()
    for path, data in (("disable/", {}), ("role/", {"role": "none"})):
        answer = client.post(f"/people/{adam.pk}/{path}", data)
        assert (answer.status_code, "Another site admin has to" in answer.content.decode()) == (422, True)
    adam.refresh_from_db()
    assert (adam.site_role, adam.is_active) == (SiteRole.ADMIN, True)
    assert events() == []


def test_the_menu_leads_to_what_is_there_for_each(adam: User, vera: User, client_of: ClientOf):
    links: dict[str, set[Any]] = {}
    for name, somebody in (("adam", adam), ("vera", vera), ("nina", person("nina@example.com"))):
        if name == "nina":
            User.objects.filter(pk=somebody.pk).update(password="!")
            somebody.refresh_from_db()
        links[name] = set(re.findall(r'href="(/[^"]*)"', client_of(somebody).get("/runs/").content.decode()))
        for link in links[name]:
            if not link.startswith("/static/"):
                assert client_of(somebody).get(link).status_code in {200, 302}, link
    assert "/people/" in links["adam"] - links["vera"]
    assert {"/rights/", "/accounts/profile/", "/accounts/sessions/", "/accounts/factors/"} <= links["vera"]
    assert "/accounts/password/change/" in links["vera"] - links["nina"]
