"""The rights of each role, written out a second time."""

import runpy
from importlib import import_module

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.http import HttpRequest, HttpResponse
from django.urls import include, path
from django.utils import timezone

from taskruns.access.gate import check_declared, requires, signed_in
from taskruns.models import Membership, SiteRole, Team, TeamRole, TokenRole, User
from taskruns.permissions import SITE_ROLES, TEAM_ROLES, TOKEN_ROLES, Action, access_of
from taskruns.views import teams
from tests.factories import person
from tests.paths import ROOT

URLS = str(ROOT / "taskruns" / "urls.py")
ROLES = ("viewer", "operator", "manager", "auditor", "admin")
# Action -> roles.
TABLE = {
    "runs.view": ("viewer", "operator", "manager", "auditor", "admin"),
    "runs.cancel": ("operator", "manager"),
    "runs.cancel_many": ("operator", "manager"),
    "runs.trigger": ("operator", "manager"),
    "runs.note": ("operator", "manager"),
    "stop.pull": ("operator", "manager"),
    "views.share": ("operator", "manager"),
    "stop.lift": ("manager",),
    "credentials.view": ("manager", "auditor", "admin"),
    "audit.view": ("manager", "auditor", "admin"),
    "audit.export": ("manager", "auditor", "admin"),
    "credentials.manage": ("manager",),
    "channels.manage": ("manager",),
    "channels.mute": ("operator", "manager"),
    "tokens.manage": ("manager",),
    "team.settings": ("manager",),
    "members.manage": ("manager", "admin"),
    "teams.manage": ("admin",),
    "people.view": ("auditor", "admin"),
    "people.manage": ("admin",),
    "site.log": ("auditor", "admin"),
}


@pytest.mark.parametrize("action", Action, ids=str)
def test_each_action_belongs_to_exactly_these_roles(action: Action):
    given = {role.value: rights for role, rights in (TEAM_ROLES | SITE_ROLES).items() if role.value}
    assert set(given) == set(ROLES)
    assert {role for role, rights in given.items() if action in rights} == set(TABLE[action.value])


def test_table_has_every_action():
    assert set(TABLE) == {action.value for action in Action}


@pytest.mark.parametrize("role", TokenRole)
def test_a_token_may_less_than_a_person_of_its_role(role: TokenRole):
    allowed = {"viewer": {"runs.view"}, "operator": {"runs.view", "runs.cancel", "runs.trigger"}}
    assert {action.value for action in TOKEN_ROLES[role]} == allowed[role.value]
    assert TOKEN_ROLES[role] <= TEAM_ROLES[TeamRole(role.value)]


def test_no_site_role_has_no_rights():
    assert SITE_ROLES[next(role for role in SITE_ROLES if not role.value)] == frozenset()


@pytest.mark.parametrize("role", TeamRole)
def test_member_has_no_rights_in_another_team(team: Team, other_team: Team, role: TeamRole):
    someone = person("someone@example.com")
    Membership.objects.create(team=team, user=someone, role=role)
    here, there, nowhere = (access_of(someone, where) for where in (team, other_team, None))
    assert (here.is_insider, here.actions, here.role) == (True, TEAM_ROLES[role], role.value)
    for elsewhere in (there, nowhere):
        assert (elsewhere.is_insider, elsewhere.actions, elsewhere.role) == (False, frozenset(), "")


@pytest.mark.parametrize("role", ["auditor", "admin"])
def test_site_role_applies_in_every_team_but_cannot_cancel(team: Team, role: str):
    someone = person("someone@example.com", site_role=role)
    access = access_of(someone, team)
    assert (access.is_insider, access.role) == (True, role)
    assert access.may(Action.RUNS_VIEW)
    assert not access.may(Action.RUNS_CANCEL)


def test_site_role_and_membership_add_up(team: Team, adam: User):
    Membership.objects.create(team=team, user=adam, role=TeamRole.OPERATOR)
    access = access_of(adam, team)
    assert access.may(Action.RUNS_CANCEL)
    assert access.may(Action.TEAMS_MANAGE)
    assert not access.may(Action.CREDENTIALS_MANAGE)
    assert access.role == "operator+admin"


def test_anonymous_and_disabled_people_have_no_rights(team: Team, mona: User, adam: User):
    assert access_of(mona, team).may(Action.CREDENTIALS_MANAGE)
    assert access_of(adam, team).may(Action.TEAMS_MANAGE)
    User.objects.all().update(is_active=False)
    for someone in (None, mona, adam):
        access = access_of(someone, team)
        assert (access.is_insider, access.actions) == (False, frozenset())


def test_archived_team_has_only_site_roles(team: Team, mona: User, ada: User):
    team.archived_at = timezone.now()
    team.save()
    assert not access_of(mona, team).is_insider
    assert access_of(ada, team).may(Action.AUDIT_VIEW)


def test_rights_are_read_from_the_database_every_time(team: Team, oli: User, mona: User, ada: User):
    """Also for a person who was loaded before: a job may hold the object for minutes."""
    assert access_of(oli, team).may(Action.RUNS_CANCEL)
    Membership.objects.filter(user=oli).update(role=TeamRole.VIEWER)
    assert not access_of(oli, team).may(Action.RUNS_CANCEL)
    Membership.objects.filter(user=oli).delete()
    assert not access_of(oli, team).is_insider
    assert access_of(ada, team).may(Action.AUDIT_VIEW)
    User.objects.filter(pk=ada.pk).update(site_role=SiteRole.NONE)
    assert not access_of(ada, team).is_insider
    assert access_of(mona, team).is_insider
    User.objects.filter(pk=mona.pk).update(is_active=False)
    assert not access_of(mona, team).is_insider


def bare(request: HttpRequest) -> HttpResponse:
    return HttpResponse()


def test_undeclared_view_stops_the_start():
    check_declared([path("a/", requires(Action.RUNS_VIEW)(bare)), path("b/", signed_in(bare))])
    with pytest.raises(ImproperlyConfigured, match="declares no access"):
        check_declared([path("a/", requires(Action.RUNS_VIEW)(bare)), path("b/", bare)])
    with pytest.raises(ImproperlyConfigured, match="declares no access"):
        check_declared([path("a/", include([path("b/", bare)]))])


def test_every_start_checks_the_urls(monkeypatch: pytest.MonkeyPatch):
    import_module("taskruns.urls")
    monkeypatch.setattr("django.urls.register_converter", lambda *_: None)  # it is registered now
    assert runpy.run_path(URLS)["urlpatterns"], "the control"
    monkeypatch.delattr(teams.home, "declared_access")
    with pytest.raises(ImproperlyConfigured, match="declares no access"):
        runpy.run_path(URLS)
