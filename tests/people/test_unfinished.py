"""Acts that need a recent sign-in and had none: after the confirmation they are finished, and nothing typed is lost."""

import re
import time
from typing import Any

import pytest
import time_machine
from django.test import Client
from django.urls import reverse

from taskruns.access import unfinished
from taskruns.forms.channels import RuleForm
from taskruns.models import AuditEvent, Credential, Membership, Team, TeamRole, User
from taskruns.pages.unfinished import ACTS
from tests.clients import ClientOf
from tests.factories import PASSWORD, make_credential, member
from tests.stored import events
from tests.urlconf import views

KEY = "ak-never-kept-1Xy7Qz4Mn8Lk2Jh5"
FINISH = "/accounts/confirm/finish/"


def later(minutes: float) -> Any:
    return time_machine.travel(time.time() + 60 * minutes)


def confirm(client: Client) -> Any:
    return client.post("/accounts/confirm/password/", {"password": PASSWORD, "next": FINISH}, follow=True)


def fields_of(html: str) -> dict[str, str]:
    return dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', html.split('class="actions"')[1]))


def test_a_form_is_finished_with_one_click_after_the_confirmation(
    team: Team, mona: User, vera: User, client_of: ClientOf
) -> None:
    client, url = client_of(mona), reverse("member-role", args=[team.slug, vera.pk])
    with later(11):
        client.post(url, {"role": "operator"}, headers={"Referer": "http://testserver/teams/ops-north/members/"})
        assert Membership.objects.get(user=vera).role == TeamRole.VIEWER
        page = confirm(client)
        html = page.content.decode()
        assert page.status_code == 200
        for text in ("Change the role", "vera@example.com", "operator", "Nothing was changed yet."):
            assert text in html
        assert f'action="{url}"' in html
        assert 'href="/teams/ops-north/members/">Go back' in html
        assert Membership.objects.get(user=vera).role == TeamRole.VIEWER, "a GET changes nothing"
        assert client.post(url, fields_of(html)).status_code == 302
    assert Membership.objects.get(user=vera).role == TeamRole.OPERATOR
    assert client.get(FINISH)["Location"] == "/", "once"
    assert events()[0] == ("member.change_role", "denied")
    assert events()[-1] == ("member.change_role", "done")


def test_a_form_with_a_key_is_shown_again_with_all_but_the_key(team: Team, mona: User, client_of: ClientOf) -> None:
    client, url = client_of(mona), reverse("credential-new", args=[team.slug])
    typed = {"name": "Europe", "endpoint": "https://api.eu-west-1a.arize.com", "key": KEY, "expires_on": "2031-01-02"}
    with later(11):
        client.post(url, typed, headers={"Referer": f"http://testserver{url}"})
        assert KEY not in str(dict(client.session))
        page = confirm(client)
    html = page.content.decode()
    assert page.redirect_chain[-1] == (url, 302)
    assert "keys and codes were not kept" in html
    assert 'value="Europe"' in html
    assert '<option value="https://api.eu-west-1a.arize.com" selected>' in html
    assert 'value="2031-01-02"' in html
    assert KEY not in html
    assert 'value="Europe"' not in client.get(url).content.decode(), "once"
    assert not Credential.objects.exists()


def test_a_key_is_replaced_again_with_the_date_that_was_typed(team: Team, mona: User, client_of: ClientOf) -> None:
    client, key = client_of(mona), make_credential(team)
    url = reverse("credential-replace", args=[team.slug, key.pk])
    with later(11):
        client.post(url, {"key": KEY, "expires_on": "2031-01-02"}, headers={"Referer": f"http://testserver{url}"})
        html = confirm(client).content.decode()
    assert 'value="2031-01-02"' in html
    assert KEY not in html + str(dict(client.session))


def test_without_a_referrer_the_form_of_a_key_is_at_its_own_address(
    team: Team, mona: User, client_of: ClientOf
) -> None:
    client, url = client_of(mona), reverse("credential-new", args=[team.slug])
    with later(11):
        client.post(url, {"name": "Europe", "key": KEY})
        assert confirm(client).redirect_chain[-1] == (url, 302)


def test_what_waits_belongs_to_one_person_and_expires(
    team: Team, mona: User, adam: User, vera: User, client_of: ClientOf
) -> None:
    client, url = client_of(mona), reverse("member-remove", args=[team.slug, vera.pk])
    with later(11):
        client.post(url)
        assert client.get(FINISH)["Location"] == f"/accounts/confirm/?next={FINISH.replace('/', '%2F')}"
        client.force_login(adam, backend="allauth.account.auth_backends.AuthenticationBackend")
        assert client.get(FINISH)["Location"] == "/"
    client = client_of(mona)
    with later(11):
        client.post(url)
    with later(22):
        assert confirm(client).redirect_chain[-1][0] != FINISH
    assert Membership.objects.filter(user=vera).exists()


def test_nothing_waits_for_people_without_the_right(team: Team, vera: User, otto: User, client_of: ClientOf) -> None:
    url = reverse("member-remove", args=[team.slug, vera.pk])
    for person, status in ((vera, 403), (otto, 404)):
        client = client_of(person)
        with later(11):
            assert client.post(url).status_code == status
        assert "unfinished" not in client.session


def test_an_id_of_another_team_reveals_no_name(
    team: Team, other_team: Team, mona: User, otto: User, client_of: ClientOf
) -> None:
    client = client_of(mona)
    with later(11):
        client.post(reverse("member-remove", args=[team.slug, otto.pk]))
        html = confirm(client).content.decode()
        assert "Remove from the team" in html
        assert "otto@example.com" not in html
        assert client.post(reverse("member-remove", args=[team.slug, otto.pk])).status_code == 404


def test_a_very_long_field_is_not_kept(team: Team, mona: User, client_of: ClientOf) -> None:
    client, url = client_of(mona), reverse("team-settings", args=[team.slug])
    with later(11):
        client.post(url, {"name": "x" * (unfinished.LONGEST + 1)})
        assert "xxx" not in str(dict(client.session))
        assert confirm(client).redirect_chain[-1] == (url, 302)


def test_a_hostile_field_is_shown_as_text(team: Team, mona: User, client_of: ClientOf) -> None:
    client = client_of(mona)
    with later(11):
        client.post(reverse("team-settings", args=[team.slug]), {"name": '"><script>alert(1)</script>'})
        html = confirm(client).content.decode()
    assert "<script>alert" not in html
    assert fields_of(html)["name"] == "&quot;&gt;&lt;script&gt;alert(1)&lt;/script&gt;"


def test_a_second_factor_that_is_missing_is_no_error_page(
    team: Team, vera: User, client_of: ClientOf, settings: Any
) -> None:
    client = client_of(vera)
    settings.REQUIRE_MFA = True
    Membership.objects.filter(user=vera).update(role=TeamRole.MANAGER)
    answer = client.post(reverse("member-add", args=[team.slug]), {"email": "x@example.com", "role": "viewer"})
    text = answer.content.decode()
    assert (answer.status_code, "Second factor required" in text, "Error 403" in text) == (403, True, False)
    assert AuditEvent.objects.get().details["why"] == "no second factor"


SENSITIVE = sorted(name for view, name in views() if getattr(view, "needs_recent_auth", False))


def test_every_act_that_needs_a_recent_sign_in_has_a_name() -> None:
    assert len(SENSITIVE) > 15
    assert set(SENSITIVE) - {"audit-export", "site-audit-export"} == set(ACTS)


@pytest.mark.parametrize("name", SENSITIVE)
def test_no_view_lets_a_secret_wait(name: str) -> None:
    (view,) = (view for view, its in views() if its == name)
    kept = set(getattr(view, "keeps", ()))
    of_channels = {"kind", "is_on", "auth", *RuleForm.KEPT}
    known = {"name", "slug", "manager", "email", "role", "endpoint", "expires_on", "confirmed", "reason"}
    of_tokens = {"credential", "networks", "days", "hours"}
    assert kept <= known | of_channels | of_tokens


def test_a_member_is_added_after_the_confirmation(team: Team, mona: User, client_of: ClientOf) -> None:
    client, url = client_of(mona), reverse("member-add", args=[team.slug])
    member(team, "zoe@example.com", TeamRole.VIEWER)
    Membership.objects.filter(user__email="zoe@example.com").delete()
    with later(11):
        client.post(url, {"email": "zoe@example.com", "role": "viewer"})
        client.post(url, fields_of(confirm(client).content.decode()))
    assert Membership.objects.filter(user__email="zoe@example.com", team=team).exists()
