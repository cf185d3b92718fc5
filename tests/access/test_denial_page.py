"""The page of a refused request says who may do it, from the table of rights, and what one's own role is."""

import pytest
from django.urls import reverse

from taskruns.access.gate import NOT_A_MEMBER
from taskruns.models import EmergencyStop, SiteRole, Team, TeamRole, User
from taskruns.pages.denials import why_denied
from taskruns.permissions import SITE_ROLES, TEAM_ROLES, Action, access_of, granted, roles_with
from tests.clients import ClientOf
from tests.factories import member

LOGGED = "This attempt was logged."


@pytest.mark.parametrize(
    ("who", "name", "text"),
    [
        (
            "mona",
            "team-archive",
            "Only site admins can create and archive teams. Your role here is manager.",
        ),
        (
            "vera",
            "stop",
            "Only operators and managers can pull the emergency stop. Your role here is viewer.",
        ),
        (
            "oli",
            "member-add",
            "Only managers and site admins can add and remove members and change their roles.",
        ),
        (
            "ada",
            "saved-views",
            f"{NOT_A_MEMBER} Your role here is auditor.",
        ),
    ],
)
def test_a_denial_names_the_roles_that_may(
    team: Team, cast: dict[str, User], client_of: ClientOf, who: str, name: str, text: str
):
    answer = client_of(cast[who]).post(reverse(name, args=[team.slug]))
    assert (answer.status_code, text in answer.content.decode()) == (403, True)
    asked = "a site admin" if name == "team-archive" else "a manager of this team"
    assert f"{LOGGED} If you need this, ask {asked}." in answer.content.decode()


def test_a_page_of_the_site_asks_for_a_site_role(vera: User, client_of: ClientOf):
    answer = client_of(vera).get("/people/")
    text = f"Only auditors and site admins can see all people in the panel. You have no site role. {LOGGED} If you need"
    assert (answer.status_code, text in answer.content.decode()) == (403, True)


def test_lifting_anothers_stop_names_who_may(team: Team, oli: User, client_of: ClientOf):
    EmergencyStop.objects.create(team=team, person=oli, person_label=oli.email, person_role="operator", reason="x")
    other = member(team, "second@example.com", TeamRole.OPERATOR)
    answer = client_of(other).post(reverse("stop-lift", args=[team.slug]))
    text = "Only managers can lift the emergency stop (the person who pulled it may too). Your role here is operator."
    assert (answer.status_code, text in answer.content.decode()) == (403, True)


@pytest.mark.parametrize("action", list(Action))
def test_the_named_roles_are_those_of_the_table(action: Action):
    def given(role: TeamRole | SiteRole) -> bool:
        return action in (TEAM_ROLES[role] if isinstance(role, TeamRole) else SITE_ROLES[role])

    assert set(roles_with(action)) == {role for role in (*TeamRole, *SiteRole) if given(role)}
    text = why_denied(action, granted(SiteRole.NONE, TeamRole.VIEWER), in_team=True)
    for role in (*TeamRole, SiteRole.AUDITOR, SiteRole.ADMIN):
        assert (f"{role.label.lower()}s" in text.partition(" can ")[0]) == given(role)


def test_both_roles_of_a_person_are_named(team: Team, oli: User):
    User.objects.filter(pk=oli.pk).update(site_role="auditor")
    text = why_denied(Action.CREDENTIALS_MANAGE, access_of(oli, team), in_team=True)
    assert "Your roles here are operator and auditor." in text
