"""Which token a request shows, and what it may do now."""

from datetime import timedelta
from typing import Any

import pytest
import time_machine
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from taskruns.models import Membership, Team, TeamRole, Token, TokenRole, User
from taskruns.models.prepared import ForAMinute
from taskruns.permissions import Action
from taskruns.services.tokens.access import Refusal, TokenAccess, TokenRefused, access_now
from taskruns.services.tokens.identify import identify, is_within
from taskruns.services.tokens.secret import new_secret
from tests.factories import make_token

pytestmark = pytest.mark.django_db
IP, CLIENT = "192.0.2.7", "arize-python/8.61"


def found(secret: str, *, ip: str = IP, client: str = CLIENT) -> TokenAccess:
    return identify(secret, ip=ip, client=client)


def refused(secret: str, *, ip: str = IP) -> Refusal:
    with pytest.raises(TokenRefused) as caught:
        found(secret, ip=ip)
    assert not secret or secret not in str(caught.value)
    return caught.value.why


def test_a_token_acts_under_its_own_name(team: Team, mona: User):
    token, secret = make_token(team, maker=mona)
    access = found(secret)
    assert (access.token, access.team, access.role) == (token, team, TokenRole.OPERATOR)
    actor = access.actor(ip=IP, user_agent=CLIENT, request_id="r-1")
    assert (actor.type, actor.id, actor.role) == ("token", str(token.pk), "operator")
    assert actor.label == "Airflow (made by mona@example.com)"
    assert (actor.ip, actor.user_agent, actor.request_id, actor.person) == (IP, CLIENT, "r-1", None)


def test_only_a_digest_is_stored(team: Team):
    token, secret = make_token(team)
    token.refresh_from_db()
    stored = "\n".join(str(getattr(token, field.attname)) for field in Token._meta.concrete_fields)
    assert secret not in stored
    assert secret[3:33] not in stored


@pytest.mark.parametrize(
    ("role", "may"),
    [
        (TokenRole.VIEWER, {Action.RUNS_VIEW}),
        (TokenRole.OPERATOR, {Action.RUNS_VIEW, Action.RUNS_CANCEL, Action.RUNS_TRIGGER}),
    ],
)
def test_a_token_may_what_its_role_may(team: Team, mona: User, role: TokenRole, may: set[Action]):
    _, secret = make_token(team, maker=mona, role=role)
    access = found(secret)
    assert {action for action in Action if access.may(action)} == may


def test_a_wrong_token_is_told_apart_from_a_typing_error(team: Team):
    _, secret = make_token(team)
    assert refused(new_secret()) is Refusal.UNKNOWN
    assert refused(secret[:-1] + ("a" if secret[-1] != "a" else "b")) is Refusal.MISTYPED
    assert refused("") is Refusal.MISTYPED
    assert refused("tr_\x00\ud800") is Refusal.MISTYPED


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"revoked_at": timezone.now()}, Refusal.REVOKED),
        ({"expires_at": timezone.now()}, Refusal.EXPIRED),
        ({"expired_at": timezone.now()}, Refusal.EXPIRED),
        ({"networks": ["198.51.100.0/24"]}, Refusal.NETWORK),
        ({"made_by_command": False}, Refusal.NO_MAKER),
    ],
)
def test_a_token_that_does_not_work_says_why(team: Team, change: dict[str, Any], why: Refusal):
    token, secret = make_token(team)
    assert found(secret)
    Token.objects.update(**change)
    with pytest.raises(TokenRefused) as caught:
        found(secret)
    assert (caught.value.why, caught.value.token) == (why, token)


def test_a_replaced_token_works_until_its_end(team: Team):
    _, secret = make_token(team, replaced_at=timezone.now(), expires_at=timezone.now() + timedelta(hours=1))
    assert found(secret)
    with time_machine.travel(timezone.now() + timedelta(hours=2)):
        assert refused(secret) is Refusal.EXPIRED


def test_the_tokens_of_an_archived_team_do_not_work(team: Team):
    _, secret = make_token(team)
    Team.objects.update(archived_at=timezone.now())
    assert refused(secret) is Refusal.ARCHIVED


# --- Its maker


def test_a_token_ends_with_its_makers_membership(team: Team, mona: User):
    _, secret = make_token(team, maker=mona)
    assert found(secret)
    Membership.objects.filter(user=mona).delete()
    assert refused(secret) is Refusal.NO_MAKER


def test_a_membership_in_another_team_does_not_help(team: Team, other_team: Team, otto: User):
    _, secret = make_token(team, maker=otto)
    assert refused(secret) is Refusal.NO_MAKER


def test_the_token_of_a_disabled_account_does_not_work(team: Team, mona: User):
    _, secret = make_token(team, maker=mona)
    User.objects.filter(pk=mona.pk).update(is_active=False)
    assert refused(secret) is Refusal.NO_MAKER


def test_a_deleted_account_widens_no_rights(team: Team, mona: User):
    _, secret = make_token(team, maker=mona)
    mona.delete()
    assert Token.objects.get().maker_id is None
    assert refused(secret) is Refusal.NO_MAKER


@pytest.mark.parametrize("role", TeamRole)
def test_its_maker_needs_at_least_its_role(team: Team, mona: User, role: TeamRole):
    _, viewer = make_token(team, name="Reads", maker=mona, role=TokenRole.VIEWER)
    _, operator = make_token(team, name="Cancels", maker=mona)
    Membership.objects.filter(user=mona).update(role=role)
    assert found(viewer)
    if role is TeamRole.VIEWER:
        assert refused(operator) is Refusal.MAKER_ROLE
    else:
        assert found(operator)


def test_a_role_from_groups_counts_while_its_sign_in_is_recent(team: Team, mona: User, settings: Any):
    _, secret = make_token(team, maker=mona)
    Membership.objects.filter(user=mona).update(by_groups=True)
    assert refused(secret) is Refusal.NO_MAKER
    User.objects.filter(pk=mona.pk).update(sso_signed_in_at=timezone.now())
    assert found(secret)
    with time_machine.travel(timezone.now() + timedelta(days=settings.SESSION_MAX_DAYS, minutes=1)):
        assert refused(secret) is Refusal.NO_MAKER


def test_work_that_outlives_its_request_asks_again(team: Team, mona: User):
    token, _ = make_token(team, maker=mona)
    assert access_now(token.pk).may(Action.RUNS_CANCEL)
    Membership.objects.filter(user=mona).update(role=TeamRole.VIEWER)
    with pytest.raises(TokenRefused, match=Refusal.MAKER_ROLE):
        access_now(token.pk)


# --- Networks


@pytest.mark.parametrize(
    ("ip", "networks", "is_inside"),
    [
        ("192.0.2.7", [], True),
        ("192.0.2.7", ["192.0.2.0/24"], True),
        ("192.0.3.7", ["192.0.2.0/24"], False),
        ("192.0.2.7", ["2001:db8::/32", "192.0.2.7/32"], True),
        ("2001:db8::1", ["2001:db8::/32"], True),
        ("2001:db9::1", ["2001:db8::/32"], False),
        ("::ffff:192.0.2.7", ["192.0.2.0/24"], True),
        ("::ffff:192.0.3.7", ["192.0.2.0/24"], False),
        ("", ["0.0.0.0/0", "::/0"], False),
        ("", [], True),
        ("not an address", ["0.0.0.0/0"], False),
    ],
)
def test_networks_bound_where_it_works_from(*, ip: str, networks: list[str], is_inside: bool):
    assert is_within(ip, networks) is is_inside


def test_from_another_network_its_use_is_not_noted(team: Team):
    token, secret = make_token(team, networks=["198.51.100.0/24"])
    assert refused(secret) is Refusal.NETWORK
    assert found(secret, ip="198.51.100.9")
    token.refresh_from_db()
    assert token.last_used_ip == "198.51.100.9"


# --- Its last use


def test_its_last_use_is_noted_once_a_minute(team: Team):
    token, secret = make_token(team)
    start = timezone.now()
    with time_machine.travel(start, tick=False) as clock:
        found(secret)
        token.refresh_from_db()
        assert (token.last_used_at, token.last_used_ip, token.last_used_client) == (timezone.now(), IP, CLIENT)
        clock.shift(59)
        found(secret)
        token.refresh_from_db()
        assert token.last_used_at == start
        clock.shift(2)
        found(secret)
        token.refresh_from_db()
        assert token.last_used_at == timezone.now()


def test_another_address_is_noted_sooner_but_not_each_time(team: Team):
    token, secret = make_token(team)
    with time_machine.travel(timezone.now(), tick=False) as clock:
        found(secret)
        found(secret, ip="198.51.100.9")
        token.refresh_from_db()
        assert token.last_used_ip == IP
        clock.shift(11)
        found(secret, ip="198.51.100.9")
        token.refresh_from_db()
        assert token.last_used_ip == "198.51.100.9"


def test_a_clock_that_was_set_back_does_not_hide_later_uses(team: Team):
    token, secret = make_token(team, last_used_at=timezone.now() + timedelta(days=3))
    found(secret)
    token.refresh_from_db()
    assert token.last_used_at is not None
    assert token.last_used_at <= timezone.now()


def test_a_hostile_client_name_is_one_short_line(team: Team):
    token, secret = make_token(team)
    found(secret, client="a\r\nb\u2028" + "x" * 500)
    token.refresh_from_db()
    assert len(token.last_used_client) == 200
    assert token.last_used_client.splitlines() == [token.last_used_client]


def test_a_use_costs_one_query(team: Team, mona: User):
    _, secret = make_token(team, maker=mona)
    found(secret)
    with CaptureQueriesContext(connection) as known:
        found(secret)
    with CaptureQueriesContext(connection) as unknown:
        refused(new_secret())
    with CaptureQueriesContext(connection) as mistyped:
        refused("nonsense")
    assert [len(known), len(unknown), len(mistyped)] == [1, 1, 1]


def test_a_long_label_fits_everywhere(team: Team):
    token, _ = make_token(team, name="n" * 100, maker_label="m" * 254)
    assert len(token.label) == 254
    assert token.label.endswith("…)")


def test_a_locked_database_delays_one_request_only(team: Team, monkeypatch: pytest.MonkeyPatch):
    _, secret = make_token(team)
    attempts = []
    monkeypatch.setattr("taskruns.services.tokens.identify.try_write", lambda *_a, **_k: attempts.append(1))
    monkeypatch.setattr("taskruns.services.tokens.identify._not_written", ForAMinute[bool](most=10))
    for _ in range(3):
        assert found(secret)
    assert len(attempts) == 1
