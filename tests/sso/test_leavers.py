"""People who left the provider cannot sign in another way, and lose the roles from its groups."""

import re
from datetime import timedelta
from io import StringIO
from typing import Any

import pytest
import time_machine
from django.core import mail
from django.core.management import call_command
from django.test import Client
from django.utils import timezone

from taskruns.models import (
    AuditEvent,
    BatchSource,
    EmergencyStop,
    Membership,
    SavedView,
    SiteRole,
    Task,
    Team,
    TeamRole,
    User,
)
from taskruns.permissions import access_of, must_have_second_factor
from taskruns.services import batches, members
from taskruns.services.people import accounts, password_reset
from taskruns.services.user_errors import UserError
from tests.clients import ClientOf, sign_in
from tests.factories import PASSWORD, actor, make_run, person
from tests.markup import without_bdi
from tests.queue_worker import work
from tests.stage import Stage, a_stop
from tests.wire import ENDPOINT

from .browser import Idp

pytestmark = pytest.mark.usefixtures("empty_queue")
BOARD = "/teams/ops-north/runs/"
WEEK_OVER = timedelta(days=7, seconds=5)


def by_groups(team: Team, user: User, role: str, *, ago: timedelta | None) -> User:
    Membership.objects.update_or_create(team=team, user=user, defaults={"role": role, "by_groups": True})
    User.objects.filter(pk=user.pk).update(sso_signed_in_at=None if ago is None else timezone.now() - ago)
    user.refresh_from_db()
    return user


# --- Roles from groups


@pytest.mark.parametrize(
    ("ago", "counts"), [(timedelta(days=6, hours=23), True), (WEEK_OVER, False), (None, False)], ids=str
)
def test_group_role_counts_while_the_last_sso_is_recent(
    team: Team, vera: User, client_of: ClientOf, ago: timedelta | None, *, counts: bool
):
    by_groups(team, vera, TeamRole.MANAGER, ago=ago)
    client = client_of(vera)
    assert client.get(BOARD).status_code == (200 if counts else 404)
    assert (access_of(vera, team).team_role == TeamRole.MANAGER) is counts
    assert must_have_second_factor(vera) is counts
    assert (members.home_of(vera) == team) is counts
    assert bool(members.teams_of(vera)) is counts
    run = make_run(Task.objects.create(team=team, endpoint=ENDPOINT, arize_id="task", name="Relevance"))
    for path in ("/runs/", "/runs/table/"):
        shown = client.get(path).content.decode()
        assert [text in shown for text in ("Ops North", str(run.pk))] == [counts] * 2


def test_role_given_by_a_person_does_not_lapse(team: Team, vera: User, client_of: ClientOf):
    assert client_of(vera).get(BOARD).status_code == 200


@pytest.mark.parametrize("days", [1, 30])
def test_group_roles_last_as_long_as_sessions(team: Team, vera: User, settings: Any, days: int):
    settings.SESSION_MAX_DAYS = days
    by_groups(team, vera, TeamRole.VIEWER, ago=timedelta(days=days, seconds=5))
    assert access_of(vera, team).team_role is None
    by_groups(team, vera, TeamRole.VIEWER, ago=timedelta(days=days) - timedelta(seconds=60))
    assert access_of(vera, team).team_role == TeamRole.VIEWER


def test_password_sign_in_does_not_renew_group_roles(team: Team, vera: User):
    by_groups(team, vera, TeamRole.OPERATOR, ago=WEEK_OVER)
    client = Client()
    assert sign_in(client, vera.email)["Location"] == "/"
    assert client.get(BOARD).status_code == 404


def test_sso_renews_group_roles(idp: Idp, linked: User, team: Team):
    by_groups(team, linked, TeamRole.OPERATOR, ago=WEEK_OVER)
    idp.configure(claims={"groups": ["ops"]})
    client = Client()
    idp.sign_in(client)
    assert client.get(BOARD).status_code == 200
    with time_machine.travel(timezone.now() + WEEK_OVER):
        assert access_of(linked, team).team_role is None


def test_confirming_with_sso_renews_group_roles(idp: Idp, linked: User, team: Team, client_of: ClientOf):
    by_groups(team, linked, TeamRole.OPERATOR, ago=WEEK_OVER)
    idp.configure(claims={"groups": ["ops"]})
    client = client_of(linked)
    assert client.get(BOARD).status_code == 404
    idp.sign_in(client, "/accounts/confirm/sso/")
    assert client.get(BOARD).status_code == 200


@pytest.mark.parametrize(("ago", "posts"), [(timedelta(0), 1), (WEEK_OVER, 0)], ids=["in force", "lapsed"])
def test_batches_and_stops_send_nothing_without_the_group_role(stage: Stage, ago: timedelta, posts: int):
    oli = by_groups(stage.team, stage.people["oli"], TeamRole.OPERATOR, ago=timedelta(0))
    a_stop(stage)
    assert EmergencyStop.objects.with_owner().get().owner_role == "operator"
    batch = batches.draft_of(stage.team, run_ids=[stage.run.pk], source=BatchSource.SELECTION)
    assert batch is not None
    batches.confirm(batch, reason="", by=actor(oli))
    by_groups(stage.team, oli, TeamRole.OPERATOR, ago=ago)
    batches.work(batch.pk)
    assert stage.posts_to_arize == posts
    assert EmergencyStop.objects.with_owner().get().owner_role == ("operator" if posts else None)


def test_lapsed_manager_does_not_count_as_the_last_manager(team: Team, mona: User, vera: User):
    by_groups(team, vera, TeamRole.MANAGER, ago=WEEK_OVER)
    with pytest.raises(UserError, match="needs a manager"):
        members.remove(team, mona, by=actor(mona))


def test_pages_show_which_roles_are_paused(team: Team, mona: User, vera: User, adam: User, client_of: ClientOf):
    paused = "paused until the next single sign-on"
    by_groups(team, vera, TeamRole.VIEWER, ago=timedelta(0))
    pages = [(client_of(mona), "/teams/ops-north/members/"), (client_of(adam), f"/people/{vera.pk}/")]
    for client, page in pages:
        assert paused not in client.get(page).content.decode()
    by_groups(team, vera, TeamRole.VIEWER, ago=WEEK_OVER)
    for client, page in pages:
        assert paused in client.get(page).content.decode()


def test_lapsed_member_cannot_save_views(team: Team, vera: User, client_of: ClientOf):
    by_groups(team, vera, TeamRole.VIEWER, ago=WEEK_OVER)
    client_of(vera).post("/teams/ops-north/views/", {"name": "Mine", "query": ""})
    assert not SavedView.objects.exists()


# --- No other way to sign in


def test_no_reset_is_mailed_to_an_account_without_password(vera: User, settings: Any):
    settings.MAILS = True
    assert password_reset.link_for(vera.email) is not None, "the control"
    User.objects.filter(pk=vera.pk).update(password="!")
    assert password_reset.link_for(vera.email) is None
    Client().post("/accounts/password/reset/", {"email": vera.email})
    work()
    assert mail.outbox == []


@pytest.fixture
def sso_only(idp: Idp, settings: Any) -> Idp:
    settings.SSO_ONLY = True
    settings.MAILS = True
    return idp


def test_sso_only_refuses_every_password(sso_only: Idp, vera: User, adam: User):
    for email in (vera.email, adam.email):
        client = Client()
        answer = sign_in(client, email)
        wrong = sign_in(Client(), email, "wrong password 12")
        assert (answer.status_code, wrong.status_code) == (200, 200)
        assert "not correct" in answer.content.decode(), "the right password is answered like a wrong one"
        assert client.get("/runs/").status_code == 302
    assert AuditEvent.objects.filter(outcome="failed").first().details == {"why": "single sign-on only"}


def test_sso_only_hides_the_other_ways_to_sign_in(sso_only: Idp, vera: User, client_of: ClientOf):
    anonymous, client = Client(), client_of(vera)
    for path in ("/accounts/password/reset/", "/accounts/password/reset/key/abc-def/", "/accounts/login/passkey/"):
        assert anonymous.get(path).status_code == 404
        assert anonymous.post(path, {"email": vera.email}).status_code == 404
    assert password_reset.link_for(vera.email) is None, "nor for a job that was queued before"
    assert client.get("/accounts/password/change/")["Location"] == "/accounts/profile/"
    page = anonymous.get("/accounts/login/").content.decode()
    assert "/accounts/sso/" in page
    assert 'type="password"' not in page
    assert "passkey" not in page.partition("<main")[2]
    profile = client.get("/accounts/profile/").content.decode()
    assert "/accounts/password/change/" not in profile
    assert "/accounts/sso/disconnect/" not in profile


def test_sso_only_refuses_to_confirm_by_password(sso_only: Idp, mona: User, client_of: ClientOf):
    client = client_of(mona)
    answer = client.post("/accounts/confirm/password/", {"password": PASSWORD})
    assert answer.status_code == 403
    page = client.get("/accounts/confirm/?next=/", follow=True)
    assert (page.status_code, "/accounts/confirm/password/" in page.content.decode()) == (403, False)


def test_sso_only_cannot_be_disconnected(sso_only: Idp, linked: User):
    client = Client()
    sso_only.sign_in(client)
    client.post("/accounts/sso/disconnect/")
    assert "Everyone here signs in with single sign-on" in client.get("/accounts/profile/").content.decode()
    another = Client()
    assert sso_only.sign_in(another).status_code == 302, "still connected"


def test_sso_only_still_signs_in_with_sso(sso_only: Idp, linked: User):
    client = Client()
    sso_only.configure(userinfo={"email": "vera.new@example.com"})
    sso_only.sign_in(client)
    assert client.get(BOARD).status_code == 200
    linked.refresh_from_db()
    assert linked.email == "vera.new@example.com", "nobody types an address, so it follows the provider"


def test_sso_only_invitation_sets_no_password(sso_only: Idp, team: Team, mona: User, client_of: ClientOf):
    client_of(mona).post("/teams/ops-north/members/add/", {"email": "nina@example.com", "role": "operator"})
    work()
    link = "/" + mail.outbox[0].body.split("http://localhost:8000/")[1].split()[0]
    visitor = Client()
    page = without_bdi(visitor.get(link).content.decode())
    assert "Sign in with single sign-on as nina@example.com" in page
    visitor.post(link, {"name": "Nina", "password1": PASSWORD, "password2": PASSWORD})
    assert not User.objects.filter(email="nina@example.com").exists()
    sso_only.sign_in(visitor, next=link)
    assert visitor.post(link)["Location"] == BOARD
    assert visitor.get(BOARD).status_code == 200


def test_reset_command_says_where_and_until_when_the_password_works(
    sso_only: Idp, adam: User, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("sys.stdin", StringIO("a new battery staple\n"))
    said = StringIO()
    call_command("reset_sign_in", adam.email, "--password-stdin", stdout=said)
    assert re.search(r"works until \d\d:\d\d UTC, at http://localhost:8000/accounts/login/\?password", said.getvalue())


def test_reset_command_lets_a_site_admin_in_for_an_hour(sso_only: Idp, adam: User, vera: User):
    new, now = "a new battery staple", timezone.now()
    by = actor(person("root@example.com", site_role=SiteRole.ADMIN))
    for user in (adam, vera):
        assert accounts.reset_sign_in(user, password=new, by=by)
        assert not accounts.reset_sign_in(user, password=new, by=by), "the same again changes nothing"
    assert 'type="password"' in Client().get("/accounts/login/?password").content.decode()
    client = Client()
    assert sign_in(client, adam.email, new)["Location"] == "/"
    assert client.get("/people/").status_code == 200
    assert sign_in(Client(), vera.email, new).status_code == 200, "only site admins"
    with time_machine.travel(now + timedelta(hours=1, seconds=5)):
        assert sign_in(Client(), adam.email, new).status_code == 200
        assert accounts.reset_sign_in(adam, password=new, by=by), "asked again, it works for another hour"
        assert sign_in(Client(), adam.email, new).status_code == 302
