"""Two site admins act on each other at the same time: one of them stays."""

from typing import Any

import pytest
from django.test import Client

from taskruns.audit import Actor
from taskruns.models import AuditEvent, SiteRole, User
from taskruns.services.people import accounts
from taskruns.services.user_errors import UserError
from tests.clients import sign_in
from tests.factories import actor, person
from tests.threads import in_threads

SHELL = Actor.command()


def demote(who: User, by: Actor) -> bool:
    return accounts.grant_site_role(who, role=SiteRole.NONE, by=by)


def disable(who: User, by: Actor) -> bool:
    return accounts.disable_person(who, by=by)


def admins() -> int:
    return User.objects.filter(site_role="admin", is_active=True).count()


@pytest.mark.parametrize("acts", [(demote, demote), (disable, disable), (demote, disable)])
def test_one_of_two_admins_who_act_on_each_other_stays(committed: None, acts: Any):
    pair = [person(f"{name}@example.com", site_role="admin") for name in ("adam", "bea")]

    def act(number: int) -> str:
        try:
            acts[number](pair[1 - number], actor(pair[number]))
        except UserError as refused:
            return refused.sentence
        return ""

    assert sorted(in_threads(2, act)) == ["", accounts.NO_LONGER_ADMIN]
    assert admins() == 1
    assert AuditEvent.objects.count() == 1


def test_the_page_explains_that_the_right_is_gone(adam: User, monkeypatch: pytest.MonkeyPatch, settings: Any):
    """Both requests have passed the gate."""
    settings.REQUIRE_MFA = False
    bea = person("bea@example.com", site_role="admin")
    client, real = Client(), accounts.grant_site_role
    sign_in(client, adam.email)

    def late(who: User, *, role: SiteRole, by: Actor) -> bool:
        real(adam, role=SiteRole.NONE, by=actor(bea))
        return real(who, role=role, by=by)

    monkeypatch.setattr(accounts, "grant_site_role", late)
    answer = client.post(f"/people/{bea.pk}/role/", {"role": "none"})
    assert (answer.status_code, accounts.NO_LONGER_ADMIN in answer.content.decode()) == (422, True)
    assert admins() == 1


def test_a_command_may_demote_the_last_admin(adam: User):
    assert demote(adam, SHELL)
    assert admins() == 0
