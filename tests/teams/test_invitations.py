"""Invitations to a team: the link, who may use it, and how often."""

import threading
from datetime import timedelta
from urllib.parse import urlsplit

import pytest
import time_machine
from django.db import connection
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from taskruns.audit import Actor
from taskruns.models import AuditEvent, Invitation, Membership, Team, TeamRole, User
from taskruns.pages.teams import link_of
from taskruns.services import invitations, members, teams
from taskruns.services.invitations import InvitationInvalid
from taskruns.services.people import accounts
from taskruns.services.user_errors import UserError
from tests.factories import PASSWORD, actor, member, person
from tests.stored import events
from tests.threads import in_threads

SHELL = Actor(type="command", label="tests")
VISITOR = Actor(type="anonymous", ip="192.0.2.7")
NEO = "neo@example.com"
ANSWER = {"name": "Neo", "password1": PASSWORD, "password2": PASSWORD}


@pytest.fixture
def link(team, mona):
    return urlsplit(link_of(invitations.invite(team, email=NEO, role=TeamRole.OPERATOR, by=actor(mona)))).path


def token_of(link):
    return link.removeprefix("/invitations/").rstrip("/")


def role_of(team, email):
    return Membership.objects.filter(team=team, user__email=email).values_list("role", flat=True).first()


# --- Inviting


def test_a_stranger_gets_a_link_of_this_site(team, mona):
    invited = invitations.invite(team, email=" NEO@example.com", role=TeamRole.VIEWER, by=actor(mona))
    row = AuditEvent.objects.get()
    assert link_of(invited).startswith("http://localhost:8000/invitations/")
    assert invitations.open_invitation(token_of(urlsplit(link_of(invited)).path)).email == NEO
    assert (row.event, row.target_label, row.details["role"]) == ("invitation.create", NEO, "viewer")
    assert token_of(urlsplit(link_of(invited)).path) not in str(AuditEvent.objects.values().get())


def test_a_known_person_is_added_at_once(team, mona, otto):
    assert link_of(invitations.invite(team, email="Otto@example.com", role=TeamRole.VIEWER, by=actor(mona))) == ""
    assert role_of(team, otto.email) == "viewer"
    assert events() == [("member.add", "done")]


def test_a_member_is_not_invited_again(team, mona, vera):
    with pytest.raises(UserError, match="is already a member of this team"):
        invitations.invite(team, email=vera.email, role=TeamRole.VIEWER, by=actor(mona))
    assert events() == []


def test_a_new_invitation_replaces_the_open_one_of_that_address_only(team, other_team, mona, link):
    elsewhere = link_of(invitations.invite(other_team, email=NEO, role=TeamRole.VIEWER, by=SHELL))
    again = link_of(invitations.invite(team, email=NEO, role=TeamRole.VIEWER, by=actor(mona)))
    with pytest.raises(InvitationInvalid):
        invitations.open_invitation(token_of(link))
    assert invitations.open_invitation(token_of(urlsplit(again).path)).role == "viewer"
    assert invitations.open_invitation(token_of(urlsplit(elsewhere).path)).team == other_team
    newest = AuditEvent.objects.filter(chain=f"team:{team.pk}").latest("seq")
    assert newest.details["replaces"] == 1


def test_adding_the_person_otherwise_uses_up_the_link(team, mona, link):
    newcomer = person(NEO)
    members.add(team, newcomer, role=TeamRole.VIEWER, by=SHELL)
    with pytest.raises(InvitationInvalid):
        invitations.open_invitation(token_of(link))


def test_an_invitation_needs_an_address(team, mona):
    with pytest.raises(UserError):
        invitations.invite(team, email="neo", role=TeamRole.VIEWER, by=actor(mona))
    assert not Invitation.objects.exists()


# --- Invalid links


@pytest.mark.parametrize("spoil", ["forged", "cut", "expired", "revoked", "used", "archived", "nothing"])
def test_every_invalid_link_gives_the_same_page(team, mona, link, spoil):
    good = Client().get(link)
    assert (good.status_code, bool(good.context.get("problem"))) == (200, False)
    found = invitations.open_invitation(token_of(link))
    url, at = link, timezone.now()
    if spoil == "forged":
        url = link.replace(link[-5:-1], "AAAA")
    if spoil == "cut":
        url = "/invitations/abc/"
    if spoil == "expired":
        at += timedelta(days=7, seconds=1)
    if spoil == "revoked":
        invitations.revoke_invitation(found, by=actor(mona))
    if spoil == "used":
        invitations.accept_with_new_account(found, name="", password=PASSWORD, by=VISITOR)
    if spoil == "archived":
        teams.archive(team, by=SHELL)
    if spoil == "nothing":
        Invitation.objects.all().delete()
    before = events()
    with time_machine.travel(at, tick=False):
        for response in (Client().get(url), Client().post(url, ANSWER)):
            assert response.status_code == 404
            assert response.context["problem"] == InvitationInvalid().sentence
            assert response.context.get("form") is None
    # For anonymous people: one row per event, address and minute.
    assert events()[len(before) :] == [("access.denied", "denied"), ("invitation.accept", "denied")]
    assert not AuditEvent.objects.filter(chain=f"team:{team.pk}", outcome="denied").exists()


def test_a_link_is_valid_for_seven_days(team, mona):
    made = timezone.now()
    with time_machine.travel(made, tick=False):
        token = token_of(urlsplit(link_of(invitations.invite(team, email=NEO, role=TeamRole.VIEWER, by=SHELL))).path)
    with time_machine.travel(made + timedelta(days=7, seconds=-5), tick=False):
        assert invitations.open_invitation(token).email == NEO
    with time_machine.travel(made + timedelta(days=7, seconds=5), tick=False), pytest.raises(InvitationInvalid):
        invitations.open_invitation(token)


def test_revoking_twice_acts_once(team, mona, link):
    found = invitations.open_invitation(token_of(link))
    assert invitations.revoke_invitation(found, by=actor(mona))
    assert not invitations.revoke_invitation(found, by=actor(mona))
    assert events() == [("invitation.create", "done"), ("invitation.revoke", "done")]


# --- Accepting


def test_a_stranger_creates_an_account_and_is_signed_in(team, link):
    client = Client()
    page = client.get(link)
    # Keeps the token out of caches and other sites' logs. `no-referrer` would make browsers post with `Origin: null`.
    assert (page["Referrer-Policy"], "no-store" in page["Cache-Control"]) == ("same-origin", True)
    response = client.post(link, ANSWER)
    newcomer = User.objects.get(email=NEO)
    assert response["Location"] == "/teams/ops-north/runs/"
    assert client.session["_auth_user_id"] == str(newcomer.pk)
    assert [entry["method"] for entry in client.session["account_authentication_methods"]] == ["password"]
    assert (newcomer.name, role_of(team, NEO)) == ("Neo", "operator")
    assert events(chain="site", event="person.create") == [("person.create", "done")]
    accepted = AuditEvent.objects.get(event="invitation.accept")
    label = f"{NEO} (not verified, invited by mona@example.com)"
    assert (accepted.chain, accepted.actor_type, accepted.actor_label) == (f"team:{team.pk}", "user", label)
    assert PASSWORD not in str(list(AuditEvent.objects.values()))


def test_accepting_creates_a_new_session(team, link):
    client = Client()
    session = client.session
    session["theme"] = "dark"
    session.save()
    before = session.session_key
    client.cookies["taskruns-session"] = before
    client.post(link, ANSWER)
    assert client.session.session_key != before


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"password2": "another horse battery"}, "password2"),
        ({"password1": "short", "password2": "short"}, "password1"),
        ({"password1": "", "password2": ""}, "password1"),
        ({"password1": "x" * 1001, "password2": "x" * 1001}, "password1"),
        ({"name": "x" * 101}, "name"),
        ({"name": "a\0b"}, "name"),
    ],
)
def test_an_invalid_form_shows_no_password(team, link, change, field):
    response = Client().post(link, ANSWER | change)
    assert response.status_code == 422
    assert field in response.context["form"].errors
    assert "Neo" in response.content.decode() or field == "name"
    assert PASSWORD not in response.content.decode()
    assert not User.objects.filter(email=NEO).exists()
    assert Client().post(link, ANSWER).status_code == 302


def test_an_invitation_used_before_the_form_arrives_is_invalid(team, link, monkeypatch):
    find = invitations.open_invitation

    def too_late(token):
        found = find(token)
        Invitation.objects.update(accepted_at=timezone.now())
        return found

    monkeypatch.setattr("taskruns.services.invitations.open_invitation", too_late)
    response = Client().post(link, ANSWER)
    assert (response.status_code, response.context["problem"]) == (404, InvitationInvalid().sentence)
    assert not User.objects.filter(email=NEO).exists()


def test_a_known_person_signs_in_first_and_then_accepts(team, link, client_of):
    newcomer = person(NEO)
    asked = Client().get(link)
    assert asked.context["must_sign_in"]
    assert asked.context["login_url"].startswith("/accounts/login/?next=%2Finvitations%2F")
    assert Client().post(link, ANSWER).status_code == 422
    assert newcomer.check_password(PASSWORD)
    client = client_of(newcomer)
    assert client.get(link).context["can_accept"]
    assert role_of(team, NEO) is None
    assert client.post(link)["Location"] == "/teams/ops-north/runs/"
    assert role_of(team, NEO) == "operator"
    assert events(event="person.create") == []


def test_another_person_cannot_accept(team, link, otto, client_of):
    client = client_of(otto)
    assert "Sign out, then open the link again." in client.get(link).context["problem"]
    assert client.post(link, ANSWER).status_code == 422
    found = invitations.open_invitation(token_of(link))
    with pytest.raises(InvitationInvalid):
        invitations.accept_invitation(found, person=otto, by=actor(otto))
    assert role_of(team, otto.email) is None


def test_accepting_keeps_the_role_of_a_member(team, link):
    newcomer = member(team, NEO, TeamRole.MANAGER)
    found = invitations.open_invitation(token_of(link))
    invitations.accept_invitation(found, person=newcomer, by=actor(newcomer))
    assert role_of(team, NEO) == "manager"


def test_concurrent_accepts_make_one_membership(committed):
    team = Team.objects.create(slug="t", name="T")
    link = urlsplit(link_of(invitations.invite(team, email=NEO, role=TeamRole.VIEWER, by=SHELL))).path
    found = invitations.open_invitation(token_of(link))
    start, refused = threading.Barrier(4), []

    def accept():
        start.wait()
        try:
            invitations.accept_with_new_account(found, name="", password=PASSWORD, by=VISITOR)
        except UserError as error:
            refused.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=accept) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(refused) == 3
    assert User.objects.filter(email=NEO).count() == 1
    assert events() == [("invitation.create", "done"), ("person.create", "done"), ("invitation.accept", "done")]


# --- Pages of the inviter


def test_the_inviter_sees_the_link_once(team, mona, client_of):
    client = client_of(mona)
    response = client.post("/teams/ops-north/members/add/", {"email": NEO, "role": "operator"})
    page = response.context["page"]
    assert (response.status_code, page.link_email) == (200, NEO)
    assert page.link in response.content.decode()
    assert [row.email for row in page.invitations] == [NEO]
    later = client.get("/teams/ops-north/members/")
    assert "/invitations/" not in later.content.decode().replace("/teams/ops-north/invitations/", "")
    assert later.context["page"].link == ""


@pytest.mark.parametrize(
    "body",
    [
        {"email": "neo", "role": "viewer"},
        {"email": NEO, "role": "king"},
        {},
        {"email": "vera@example.com", "role": "viewer"},
    ],
)
def test_an_invalid_invitation_is_refused_on_the_form(team, mona, vera, client_of, body):
    response = client_of(mona).post("/teams/ops-north/members/add/", body)
    assert response.status_code == 422
    assert response.context["form"].errors
    assert not Invitation.objects.exists()


def test_the_inviter_revokes_a_link(team, other_team, mona, otto, link, client_of):
    found = Invitation.objects.get()
    foreign = reverse("invitation-revoke", args=["ops-south", found.pk])
    assert client_of(otto).post(foreign).status_code == 404
    assert Client().get(link).status_code == 200
    own = reverse("invitation-revoke", args=["ops-north", found.pk])
    assert client_of(mona).post(own)["Location"] == "/teams/ops-north/members/"
    assert Client().get(link).status_code == 404


def test_people_are_found_only_by_a_complete_address(db):
    with pytest.raises(UserError):
        accounts.find_person("neo")


@pytest.mark.parametrize("leaves", ["removed", "role", "disabled"])
def test_a_leavers_invitations_no_longer_work(leaves, link, team, mona):
    """Or they could come back by a link to a second address of theirs."""
    assert Client().get(link).status_code == 200
    member(team, "max@example.com", TeamRole.MANAGER)
    if leaves == "removed":
        Membership.objects.filter(team=team, user=mona).delete()
    elif leaves == "role":
        Membership.objects.filter(team=team, user=mona).update(role=TeamRole.OPERATOR)
    else:
        accounts.disable_person(mona, by=SHELL)
    assert Client().get(link).status_code == 404
    assert Client().post(link, ANSWER).status_code == 404
    assert not User.objects.filter(email=NEO).exists()
    invitation = Invitation.objects.get()
    with pytest.raises(InvitationInvalid):
        invitations.accept_invitation(invitation, person=person(NEO), by=VISITOR)
    assert role_of(team, NEO) is None


def test_an_invitation_by_a_command_works(team):
    link = urlsplit(link_of(invitations.invite(team, email=NEO, role=TeamRole.VIEWER, by=SHELL))).path
    assert Client().get(link).status_code == 200


# --- Locks


def revoke_it(found):
    invitations.revoke_invitation(found, by=SHELL)


def invite_again(found):
    invitations.invite(found.team, email=NEO, role=TeamRole.VIEWER, by=SHELL)


def archive_its_team(found):
    teams.archive(found.team, by=SHELL)


@pytest.mark.parametrize("act", [revoke_it, invite_again, archive_its_team])
def test_accepting_and_revoking_at_once_block_nobody(act, committed, monkeypatch):
    """Of two that lock the same rows in another order, PostgreSQL ends one with an error."""
    team = Team.objects.create(slug="t", name="T")
    link = urlsplit(link_of(invitations.invite(team, email=NEO, role=TeamRole.VIEWER, by=SHELL))).path
    found = invitations.open_invitation(token_of(link))
    real, began, done = accounts.validate_password, threading.Event(), threading.Event()

    def slowly(password, user):
        began.set()
        done.wait(2)
        real(password, user)

    monkeypatch.setattr(accounts, "validate_password", slowly)

    def both(number):
        if number:
            began.wait(10)
            act(found)
            done.set()
            return True
        try:
            invitations.accept_with_new_account(found, name="", password=PASSWORD, by=VISITOR)
        except InvitationInvalid:
            return False
        return True

    accepted, _ = in_threads(2, both)
    assert not accepted, "the other one is faster than the hash"
    assert not User.objects.exists()
    assert not Membership.objects.exists()
