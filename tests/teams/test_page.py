"""Home, the choice of teams, members, settings. access/test_matrix.py tests the rights of each url."""

import pytest
from django.urls import reverse

from taskruns.audit import Actor
from taskruns.models import (
    AuditEvent,
    BatchKind,
    BatchSource,
    BatchState,
    CancelBatch,
    EmergencyStop,
    Membership,
    Status,
    Team,
    TeamRole,
)
from taskruns.services import members, teams
from tests.factories import make_credential, make_run, member, person
from tests.stored import events

SHELL = Actor(type="command", label="tests")
# The question before a team is archived, answered.
CONFIRMED = {"confirmed": "1", "name": "Ops North", "reason": "merged into another team"}


def messages_of(response):
    return [str(message) for message in response.context["messages"]]


def role_of(team, user):
    return Membership.objects.filter(team=team, user=user).values_list("role", flat=True).first()


# --- Home and the choice of teams


def test_home_redirects_to_the_last_team(team, other_team, oli, client_of):
    members.add(other_team, oli, role=TeamRole.VIEWER, by=SHELL)
    assert client_of(oli).get("/")["Location"] == "/runs/"
    members.remember(oli, other_team)
    assert client_of(oli).get("/")["Location"] == "/teams/ops-south/runs/"
    members.remove(other_team, oli, by=SHELL)
    assert client_of(oli).get("/")["Location"] == "/teams/ops-north/runs/"


def test_home_forgets_an_archived_team(team, oli, ada, client_of):
    for reader in (oli, ada):
        members.remember(reader, team)
        assert client_of(reader).get("/")["Location"] == "/teams/ops-north/runs/"
    teams.archive(team, by=SHELL)
    for reader in (oli, ada):
        assert client_of(reader).get("/")["Location"] == "/runs/"


def test_remembering_the_same_team_writes_nothing(team, oli, django_assert_num_queries):
    members.remember(oli, team)
    oli.refresh_from_db()
    with django_assert_num_queries(0):
        members.remember(oli, team)


def test_the_choice_shows_ones_teams_with_role_and_active_runs(team, other_team, task, oli, client_of):
    make_run(task)
    make_run(task, status=Status.COMPLETED)
    cards = client_of(oli).get("/runs/").context["cards"]
    assert [(card.name, card.role, card.active) for card in cards] == [("Ops North", "operator", 1)]


def test_auditors_and_site_admins_choose_among_all_teams(team, other_team, ada, adam, client_of):
    for reader, role in ((ada, "auditor"), (adam, "site admin")):
        cards = client_of(reader).get("/runs/").context["cards"]
        assert [(card.name, card.role) for card in cards] == [("Ops North", role), ("Ops South", role)]


def test_a_person_without_a_team_gets_an_explanation(db, client_of):
    response = client_of(person("lonely@example.com")).get("/runs/")
    assert response.context["cards"] == ()
    assert response.status_code == 200


# --- Pages


def test_a_manager_changes_a_role_on_the_page(team, mona, vera, client_of):
    client = client_of(mona)
    url = reverse("member-role", args=[team.slug, vera.pk])
    response = client.post(url, {"role": "operator"}, follow=True)
    assert response.redirect_chain == [("/teams/ops-north/members/", 302)]
    assert messages_of(response) == ["vera@example.com is now operator."]
    assert role_of(team, vera) == "operator"
    row = AuditEvent.objects.get()
    assert (row.actor_label, row.actor_role) == ("mona@example.com", "manager")


def test_an_unknown_role_is_explained(team, mona, vera, client_of):
    response = client_of(mona).post(reverse("member-role", args=[team.slug, vera.pk]), {"role": "king"})
    assert (response.status_code, messages_of(response)) == (422, ["Choose one of the roles."])
    assert role_of(team, vera) == "viewer"


def test_the_page_explains_why_the_last_manager_must_stay(team, mona, client_of):
    client = client_of(mona)
    for name, body in (("member-remove", {}), ("member-role", {"role": "viewer"})):
        response = client.post(reverse(name, args=[team.slug, mona.pk]), body)
        assert (response.status_code, messages_of(response)) == (422, [members.LAST_MANAGER])
    assert role_of(team, mona) == "manager"


def test_a_manager_who_leaves_is_redirected_to_the_choice_of_teams(team, mona, client_of):
    member(team, "second@example.com", TeamRole.MANAGER)
    response = client_of(mona).post(reverse("member-remove", args=[team.slug, mona.pk]))
    assert response["Location"] == "/runs/"
    assert role_of(team, mona) is None


def test_a_person_of_another_team_is_unknown_and_the_attempt_is_recorded(team, mona, vera, otto, client_of):
    client = client_of(mona)
    foreign = client.post(reverse("member-remove", args=[team.slug, otto.pk]))
    missing = client.post(reverse("member-remove", args=[team.slug, team.pk]))
    own = client.post(reverse("member-remove", args=[team.slug, vera.pk]))
    assert (foreign.status_code, missing.status_code, own.status_code) == (404, 404, 302)
    assert events(chain="site") == [("access.denied", "denied")]
    assert Membership.objects.filter(user=otto).exists()


def test_a_site_admin_creates_a_team_with_its_first_manager(otto, adam, client_of):
    body = {"name": "Night Shift", "slug": "", "manager": "OTTO@example.com"}
    response = client_of(adam).post("/teams/new/", body)
    made = Team.objects.get(slug="night-shift")
    assert response["Location"] == "/teams/night-shift/members/"
    assert role_of(made, otto) == "manager"
    assert events(chain="site") == [("team.create", "done")]
    assert events(chain=f"team:{made.pk}") == [("member.add", "done")]


def test_an_unknown_first_manager_gets_a_link(adam, client_of):
    body = {"name": "Night Shift", "slug": "night", "manager": "new@example.com"}
    response = client_of(adam).post("/teams/new/", body)
    page = response.context["page"]
    assert (response.status_code, page.slug, page.link_email) == (200, "night", "new@example.com")
    assert page.link.startswith("http://localhost:8000/invitations/")


@pytest.mark.parametrize(
    "body",
    [
        {"name": "", "slug": ""},
        {"name": "x" * 101},
        {"name": "a\0b"},
        {"name": "Ops North"},
        {"name": "Else", "slug": "ops-north"},
        {"name": "Else", "slug": "SITE"},
        {"name": "Else", "manager": "nobody"},
        {},
    ],
)
def test_an_invalid_team_is_refused_on_the_form(team, adam, client_of, body):
    response = client_of(adam).post("/teams/new/", body)
    assert response.status_code == 422
    assert response.context["form"].errors
    assert Team.objects.count() == 1
    assert events() == []


def test_a_manager_renames_the_team(team, mona, client_of):
    client = client_of(mona)
    assert client.post("/teams/ops-north/settings/", {"name": "Night"}).status_code == 302
    assert Team.objects.get().name == "Night"
    refused = client.post("/teams/ops-north/settings/", {"name": ""})
    assert (refused.status_code, Team.objects.get().name) == (422, "Night")


def test_a_site_admin_archives_after_a_confirmation(team, mona, adam, client_of):
    client = client_of(adam)
    url = reverse("team-archive", args=[team.slug])
    for question in (client.get(url), client.post(url), client.post(url, CONFIRMED | {"confirmed": "no"})):
        assert (question.status_code, "Archive <bdi>Ops North</bdi>?" in question.content.decode()) == (200, True)
    assert Team.objects.active().exists()
    assert events() == []
    assert client.post(url, CONFIRMED | {"name": "ops north"})["Location"] == "/runs/"
    assert not Team.objects.active().exists()
    assert AuditEvent.objects.get(event="team.archive").reason == "merged into another team"
    assert client_of(mona).get("/teams/ops-north/runs/").status_code == 404


@pytest.mark.parametrize(
    ("data", "error"),
    [
        ({"name": "ops-north"}, "This is not the name of the team. Nothing was changed. Type it as shown above."),
        ({"name": ""}, "This is not the name of the team. Nothing was changed. Type it as shown above."),
        ({"reason": ""}, "Enter a reason. Nothing was changed."),
    ],
)
def test_a_wrong_name_or_no_reason_archives_nothing(team, adam, client_of, data, error):
    response = client_of(adam).post(reverse("team-archive", args=[team.slug]), CONFIRMED | data)
    assert (response.status_code, error in response.content.decode()) == (422, True)
    assert Team.objects.active().exists()
    assert events() == []


def test_the_question_counts_what_the_team_has(team, task, mona, adam, client_of):
    make_run(task)
    make_run(task, status=Status.COMPLETED)
    for kind in BatchKind:
        CancelBatch.objects.create(team=team, source=BatchSource.SELECTION, state=BatchState.WORKING, kind=kind)
    EmergencyStop.objects.create(team=team, person=mona, person_label=mona.email, person_role="manager", reason="x")
    text = client_of(adam).get(reverse("team-archive", args=[team.slug])).content.decode()
    for consequence in (
        "1 active run keeps running in Arize, out of reach of this panel.",
        "1 bulk cancel is stopped. Runs not cancelled yet keep running.",
        "1 bulk start is stopped. The remaining runs are not started.",
        "The emergency stop no longer cancels new runs.",
        "1 API key is destroyed here, but not revoked in Arize.",
        "1 member loses access immediately.",
    ):
        assert consequence in text


def test_members_are_in_order_and_marked(team, mona, oli, vera, adam, client_of):
    make_credential(team)
    mine = client_of(mona).get("/teams/ops-north/members/").context["page"].members
    assert [(row.email, row.role, row.is_self) for row in mine] == [
        ("mona@example.com", "manager", True),
        ("oli@example.com", "operator", False),
        ("vera@example.com", "viewer", False),
    ]
    assert not any(row.is_self for row in client_of(adam).get("/teams/ops-north/members/").context["page"].members)
