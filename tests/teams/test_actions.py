"""Teams and memberships."""

import contextlib
import threading

import pytest
from django.db import connection

from taskruns.audit import Actor
from taskruns.models import AuditEvent, Credential, Invitation, Membership, Task, Team, TeamRole
from taskruns.services import members, teams
from taskruns.services.people import accounts
from taskruns.services.teams import TeamExists
from taskruns.services.user_errors import UserError
from tests.factories import actor, member, person
from tests.stored import events

SHELL = Actor(type="command", label="tests")


def role_of(team, user):
    return Membership.objects.filter(team=team, user=user).values_list("role", flat=True).first()


# --- Teams


def test_a_new_team_gets_a_slug_from_its_name(db):
    team = teams.create_team("  Ops & Nörth  ", by=SHELL)
    row = AuditEvent.objects.get()
    assert (team.name, team.slug) == ("Ops & Nörth", "ops-north")
    assert (row.chain, row.event, row.target_id, row.details) == (
        "site",
        "team.create",
        str(team.pk),
        {"slug": "ops-north"},
    )


@pytest.mark.parametrize(
    ("name", "slug"), [("Site", "site-2"), ("new", "new-2"), ("試験", "team"), ("x" * 100, "x" * 45)]
)
def test_every_name_gets_a_slug(db, name, slug):
    assert teams.create_team(name, by=SHELL).slug == slug


def test_a_taken_slug_gets_a_number(team):
    assert teams.create_team("Ops, North", by=SHELL).slug == "ops-north-2"
    assert teams.create_team("Ops: North", by=SHELL).slug == "ops-north-3"


@pytest.mark.parametrize("slug", [None, "ops-north"])
def test_the_same_team_again_says_so_and_writes_nothing(team, slug):
    with pytest.raises(TeamExists) as known:
        teams.create_team("Ops North", slug=slug, by=SHELL)
    assert known.value.team == team
    assert events() == []
    assert Team.objects.count() == 1


@pytest.mark.parametrize("slug", ["ops-north", "site", "new", "Ops", "a b", "-a", "a--b", "x" * 51, "ä", "a\n"])
def test_an_invalid_slug_is_refused(team, slug):
    with pytest.raises(UserError) as refused:
        teams.create_team("Another", slug=slug, by=SHELL)
    assert refused.value.field == "slug"
    assert Team.objects.count() == 1
    assert teams.create_team("Another", slug="a-b_c", by=SHELL).slug == "a-b_c"


@pytest.mark.parametrize("name", ["", " \n ", "x" * 101])
def test_an_invalid_name_is_refused(db, name):
    with pytest.raises(UserError) as refused:
        teams.create_team(name, by=SHELL)
    assert refused.value.field == "name"


def test_renaming_keeps_the_slug_and_says_what_changed(team, mona):
    assert teams.rename(team, name="Night\nshift", by=actor(mona))
    row = AuditEvent.objects.get()
    assert Team.objects.get().name == "Night shift"
    assert Team.objects.get().slug == "ops-north"
    assert row.chain == f"team:{team.pk}"
    assert row.details == {"changed": ["name"], "before": "Ops North", "after": "Night shift"}


def test_the_same_name_again_changes_nothing(team, mona):
    assert not teams.rename(team, name=" Ops North ", by=actor(mona))
    assert events() == []


def test_archiving_deletes_keys_and_revokes_invitations(team, credential, task, adam):
    Invitation.objects.create(team=team, email="x@example.com", role="viewer", expires_at="2999-01-01T00:00Z")
    assert teams.archive(team, by=actor(adam))
    credential.refresh_from_db()
    assert (credential.ciphertext, credential.revoked_at is None) == ("", False)
    assert Task.objects.get().credential is None
    assert Invitation.objects.get().revoked_at is not None
    assert not Credential.objects.live().exists()
    assert events(chain=f"team:{team.pk}") == [("credential.revoke", "done"), ("team.archive", "done")]


def test_archiving_twice_acts_once(team, adam):
    assert teams.archive(team, by=actor(adam))
    assert not teams.archive(team, by=actor(adam))
    assert events() == [("team.archive", "done")]


def test_nothing_changes_in_an_archived_team(team, mona, vera, adam):
    teams.archive(team, by=actor(adam))
    for act in (
        lambda: teams.rename(team, name="New", by=actor(adam)),
        lambda: members.add(team, person("new@example.com"), role=TeamRole.VIEWER, by=actor(adam)),
        lambda: members.change_role(team, vera, role=TeamRole.OPERATOR, by=actor(adam)),
        lambda: members.remove(team, vera, by=actor(adam)),
    ):
        with pytest.raises(UserError, match="archived"):
            act()
    assert events() == [("team.archive", "done")]
    assert role_of(team, vera) == "viewer"


# --- Members


def test_a_member_is_added_once(team, otto, mona):
    assert members.add(team, otto, role=TeamRole.VIEWER, by=actor(mona))
    assert not members.add(team, otto, role=TeamRole.VIEWER, by=actor(mona))
    row = AuditEvent.objects.get()
    assert (row.event, row.target_label, row.details) == (
        "member.add",
        "otto@example.com",
        {"role": "viewer", "invitations_revoked": 0},
    )
    assert role_of(team, otto) == "viewer"


def test_adding_never_changes_a_role(team, vera, mona):
    with pytest.raises(UserError, match="as viewer"):
        members.add(team, vera, role=TeamRole.MANAGER, by=actor(mona))
    assert role_of(team, vera) == "viewer"


def test_a_disabled_person_is_not_added(team, otto, mona):
    accounts.disable_person(otto, by=SHELL)
    with pytest.raises(UserError, match="disabled"):
        members.add(team, otto, role=TeamRole.VIEWER, by=actor(mona))


def test_a_role_change_records_both_roles(team, vera, mona):
    assert members.change_role(team, vera, role=TeamRole.OPERATOR, by=actor(mona))
    assert not members.change_role(team, vera, role=TeamRole.OPERATOR, by=actor(mona))
    assert AuditEvent.objects.get().details == {"before": "viewer", "after": "operator"}


def test_the_last_manager_cannot_leave(team, mona, otto):
    for act in (
        lambda: members.remove(team, mona, by=actor(mona)),
        lambda: members.change_role(team, mona, role=TeamRole.VIEWER, by=actor(mona)),
    ):
        with pytest.raises(UserError, match="needs a manager"):
            act()
    assert events() == []
    members.add(team, otto, role=TeamRole.MANAGER, by=actor(mona))
    members.remove(team, mona, by=actor(mona))
    assert role_of(team, mona) is None


def test_a_disabled_manager_does_not_count(team, mona):
    gone = member(team, "gone@example.com", TeamRole.MANAGER)
    accounts.disable_person(gone, by=SHELL)
    with pytest.raises(UserError, match="needs a manager"):
        members.remove(team, mona, by=actor(mona))
    members.remove(team, gone, by=actor(mona))
    assert role_of(team, mona) == "manager"


def test_two_managers_cannot_remove_each_other_at_once(committed, monkeypatch):
    team = Team.objects.create(slug="t", name="T")
    both = [member(team, f"{name}@example.com", TeamRole.MANAGER) for name in ("a", "b")]
    looked, refused = threading.Barrier(2), []
    look = members._keep_a_manager

    def look_and_wait_for_the_other(*args):
        """Without the lock, both threads would get here and see two managers. With it, the second one waits outside."""
        look(*args)
        with contextlib.suppress(threading.BrokenBarrierError):
            looked.wait(timeout=1)

    monkeypatch.setattr(members, "_keep_a_manager", look_and_wait_for_the_other)

    def remove(gone, by):
        try:
            members.remove(team, gone, by=actor(by))
        except UserError as error:
            refused.append(error.sentence)
        finally:
            connection.close()

    threads = [threading.Thread(target=remove, args=pair) for pair in (both, both[::-1])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Membership.objects.filter(team=team, role="manager").count() == 1
    assert refused == [members.LAST_MANAGER]
    assert events() == [("member.remove", "done")]
