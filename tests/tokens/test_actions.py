"""Making, replacing and revoking tokens, and their end."""

from datetime import timedelta
from typing import Any

import pytest
import time_machine
from django.db import IntegrityError, transaction
from django.utils import timezone

from taskruns import jobs
from taskruns.audit import Actor
from taskruns.models import AuditEvent, Credential, Membership, Team, TeamRole, Token, TokenRole, User
from taskruns.services import credentials, teams
from taskruns.services.tokens import actions, clock
from taskruns.services.tokens.access import Refusal, TokenRefused
from taskruns.services.tokens.actions import Made, Wanted
from taskruns.services.tokens.identify import identify
from taskruns.services.user_errors import UserError
from tests.factories import actor, make_credential, make_token

pytestmark = pytest.mark.django_db
CLOCK = Actor.job("clock")


@pytest.fixture
def manager(mona: User) -> Actor:
    return actor(mona, "manager")


def make(team: Team, by: Actor, *, name: str = "Airflow", role: TokenRole = TokenRole.OPERATOR, **more: Any) -> Made:
    return actions.make(team, Wanted(name, role, **more), by=by)


def works(made: Made) -> bool:
    try:
        identify(made.secret, ip="192.0.2.7", client="x")
    except TokenRefused:
        return False
    return True


def refused(team: Team, by: Actor, **wanted: Any) -> UserError:
    before = Token.objects.count()
    with pytest.raises(UserError) as found:
        make(team, by, **wanted)
    assert Token.objects.count() == before
    return found.value


def last_row() -> AuditEvent:
    return AuditEvent.objects.order_by("-seq")[0]


def test_a_token_is_its_makers(team: Team, manager: Actor, credential: Credential):
    made = make(team, manager, credential=credential, networks=("192.0.2.0/24",))
    token = made.token
    assert (token.maker, token.made_by_command, token.credential) == (manager.person, False, credential)
    assert token.label == "Airflow (made by mona@example.com)"
    assert timedelta(days=89) < token.expires_at - timezone.now() <= timedelta(days=90)
    assert works(made)
    row = last_row()
    assert (row.event, row.actor_label, row.target_label) == ("token.create", "mona@example.com", "Airflow")
    assert row.details["networks"] == ["192.0.2.0/24"]
    assert row.details["credential"] == "Production"
    assert made.secret not in repr(made) + str(vars(row))


def test_a_command_makes_it_without_a_maker(team: Team):
    made = make(team, Actor.command())
    assert (made.token.maker, made.token.made_by_command) == (None, True)
    assert made.token.label.startswith("Airflow (made by command, ")
    assert works(made)


def test_a_command_makes_it_for_an_owner(team: Team, oli: User):
    made = actions.make(team, Wanted("Airflow", TokenRole.OPERATOR), owner=oli, by=Actor.command())
    assert made.token.label == "Airflow (made by oli@example.com)"
    assert works(made)
    Membership.objects.filter(user=oli).delete()
    assert not works(made)


@pytest.mark.parametrize("role", [TokenRole.VIEWER, TokenRole.OPERATOR])
def test_its_owner_must_have_its_role(team: Team, role: TokenRole, vera: User, otto: User):
    for owner, is_allowed in ((vera, role is TokenRole.VIEWER), (otto, False)):
        if is_allowed:
            assert actions.make(team, Wanted("For Vera", role), owner=owner, by=Actor.command())
            continue
        with pytest.raises(UserError, match=f"needs at least the role {role.value}"):
            actions.make(team, Wanted("Airflow", role), owner=owner, by=Actor.command())


@pytest.mark.parametrize(
    "name",
    [
        *("", "  ", "\r\n", "n" * 101, "tr_" + "a" * 36, "\u200b"),
        *("Airflow (made by oli@example.com)", "x \uff08MADE  by", "ma\u200bde by oli", "oli@example.com", " oli@x "),
    ],
)
def test_a_wrong_name_has_a_sentence(name: str, team: Team, manager: Actor):
    error = refused(team, manager, name=name)
    assert error.field == "name"
    assert "aaaa" not in error.sentence


def test_two_names_that_look_the_same_are_the_same(team: Team, manager: Actor):
    assert make(team, manager, name="Air\u200bflow\u200e").token.name == "Airflow"
    assert refused(team, manager, name="\u2060Airflow").field == "name"


@pytest.mark.parametrize("days", [0, -1, 366])
def test_it_ends_within_a_year(days: int, team: Team, manager: Actor):
    assert refused(team, manager, days=days).field == "days"
    assert make(team, manager, days=365)


def test_names_of_live_tokens_differ(team: Team, other_team: Team, manager: Actor):
    first = make(team, manager)
    assert "already has a token named AIRFLOW" in refused(team, manager, name="AIRFLOW").sentence
    assert make(other_team, Actor.command())
    actions.revoke(first.token, by=manager)
    assert make(team, manager)


def test_the_database_keeps_names_apart_too(team: Team):
    make_token(team)
    with pytest.raises(IntegrityError), transaction.atomic():
        make_token(team, name="AIRFLOW")
    make_token(team, name="AIRFLOW", replaced_at=timezone.now())


def test_an_expired_name_is_free_at_once(team: Team, manager: Actor):
    old, _ = make_token(team, expires_at=timezone.now() - timedelta(seconds=1))
    assert make(team, manager)
    old.refresh_from_db()
    assert old.expired_at is not None
    rows = AuditEvent.objects.order_by("seq").values_list("event", "actor_type")
    assert list(rows) == [("token.expire", "job"), ("token.create", "user")]


def test_only_a_live_key_of_the_team_can_be_chosen(team: Team, other_team: Team, manager: Actor):
    foreign, revoked = make_credential(other_team), make_credential(team, revoked_at=timezone.now())
    for key in (foreign, revoked):
        assert refused(team, manager, credential=key).field == "credential"


@pytest.mark.parametrize(
    ("typed", "stored"),
    [
        (["192.0.2.7"], ["192.0.2.7/32"]),
        ([" 192.0.2.0/24 ", "", "192.0.2.0/24"], ["192.0.2.0/24"]),
        (["2001:DB8::/32", "2001:db8::1"], ["2001:db8::/32", "2001:db8::1/128"]),
        (["192.0.2.0/255.255.255.0"], ["192.0.2.0/24"]),
        (["0.0.0.0/0"], ["0.0.0.0/0"]),
    ],
)
def test_networks_are_stored_in_one_form(typed: list[str], stored: list[str], team: Team, manager: Actor):
    assert make(team, manager, networks=tuple(typed)).token.networks == stored


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("192.0.2.300", "is neither an address nor a network. Write"),
        ("example.com", "is neither an address nor a network. Write"),
        ("192.0.2.7/24", "Write 192.0.2.0/24 for the whole network, or 192.0.2.7 for the one address"),
        ("2001:db8::1/32", "Write 2001:db8::/32 for the whole network"),
        ("fe80::1%eth0", "names an interface of one machine"),
        ("::ffff:192.0.2.7", "Write it as IPv4"),
        ("x" * 5_000, "x…”"),
    ],
)
def test_a_wrong_network_has_a_sentence(typed: str, words: str, team: Team, manager: Actor):
    error = refused(team, manager, networks=(typed,))
    assert error.field == "networks"
    assert words in error.sentence
    assert len(error.sentence) < 300


def test_too_many_networks_are_refused(team: Team, manager: Actor):
    many = tuple(f"192.0.2.{number}" for number in range(51))
    assert "at most 50" in refused(team, manager, networks=many).sentence


def test_a_team_has_a_limited_number_of_tokens(team: Team, manager: Actor, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(actions, "MOST_TOKENS", 1)
    make(team, manager)
    assert "already has 1 tokens" in refused(team, manager, name="Second").sentence


# --- Replacing


def replace(made: Made, by: Actor, *, hours: int = 24, credential: Credential | None = None) -> Made:
    overlap = timedelta(hours=hours)
    return actions.replace(made.token, days=90, overlap=overlap, credential=credential, by=by)


def test_both_tokens_work_during_the_overlap(team: Team, manager: Actor):
    old = make(team, manager, networks=("192.0.2.0/24",))
    new = replace(old, manager)
    assert (new.token.name, new.token.role, new.token.networks) == ("Airflow", "operator", ["192.0.2.0/24"])
    assert new.token.replaces == old.token
    assert works(old)
    assert works(new)
    row = last_row()
    assert (row.event, row.target_id, row.details["replaces"]) == ("token.create", str(new.token.pk), str(old.token.pk))
    with time_machine.travel(timezone.now() + timedelta(hours=25)):
        assert not works(old)
        assert works(new)


def test_without_an_overlap_the_old_one_stops_now(team: Team, manager: Actor):
    old = make(team, manager)
    assert works(replace(old, manager, hours=0))
    assert not works(old)


def test_an_overlap_does_not_prolong_a_token(team: Team, manager: Actor):
    token, _ = make_token(team, expires_at=timezone.now() + timedelta(hours=1))
    ends = token.expires_at
    replace(Made(token, ""), manager)
    token.refresh_from_db()
    assert token.expires_at == ends


def test_whoever_replaces_a_token_is_its_maker(team: Team, manager: Actor, oli: User):
    token, _ = make_token(team, maker=oli)
    Membership.objects.filter(user=oli).delete()
    assert works(replace(Made(token, ""), manager))


def test_a_replaced_or_ended_token_cannot_be_replaced(team: Team, manager: Actor):
    old = make(team, manager)
    new = replace(old, manager)
    with pytest.raises(UserError, match="already been replaced"):
        replace(old, manager)
    actions.revoke(new.token, by=manager)
    with pytest.raises(UserError, match="has ended"):
        replace(new, manager)


@pytest.mark.parametrize("hours", [-1, 24 * 31])
def test_an_overlap_has_bounds(hours: int, team: Team, manager: Actor):
    with pytest.raises(UserError, match="at most 30"):
        replace(make(team, manager), manager, hours=hours)


# --- Its end


def test_a_revoked_token_stops_at_once(team: Team, manager: Actor):
    made = make(team, manager)
    assert actions.revoke(made.token, by=manager)
    assert not works(made)
    assert (last_row().event, last_row().target_label) == ("token.revoke", "Airflow")
    assert not actions.revoke(made.token, by=manager)
    assert AuditEvent.objects.filter(event="token.revoke").count() == 1


def test_archiving_a_team_revokes_its_tokens(team: Team, manager: Actor):
    made = make(team, manager)
    teams.archive(team, reason="merged", by=manager)
    with pytest.raises(TokenRefused, match=Refusal.REVOKED):
        identify(made.secret, ip="", client="")
    row = AuditEvent.objects.get(event="token.revoke")
    assert (row.details, row.reason) == ({"role": "operator", "why": "team archived"}, "merged")


def test_revoking_a_key_leaves_its_tokens(team: Team, manager: Actor, credential: Credential):
    """They must not fall back to another key."""
    made = make(team, manager, credential=credential)
    credentials.revoke(credential, by=manager)
    assert Token.objects.get(pk=made.token.pk).credential == credential


def test_the_clock_records_each_end_once(team: Team):
    token, _ = make_token(team, expires_at=timezone.now() - timedelta(seconds=1))
    make_token(team, name="Later")
    assert (clock.expire(by=CLOCK), clock.expire(by=CLOCK)) == (1, 0)
    row = AuditEvent.objects.get()
    assert (row.event, row.outcome, row.actor_type, row.target_id) == ("token.expire", "done", "job", str(token.pk))
    token.refresh_from_db()
    assert token.expired_at is not None


def test_warnings_come_7_days_and_1_day_before(team: Team, caplog: pytest.LogCaptureFixture):
    start = timezone.now()
    token, secret = make_token(team, expires_at=start + timedelta(days=8))
    told = []
    with time_machine.travel(start, tick=False) as watch:
        for _ in range(9):
            told.append(clock.warn_of_expiring())
            told.append(clock.warn_of_expiring())
            watch.shift(timedelta(days=1))
    assert told == [0, 0, 1, 0, *[0] * 10, 1, 0, 0, 0]
    assert caplog.text.count("token_expiring") == 2
    assert str(token.pk) in caplog.text
    assert secret not in caplog.text


def test_no_warning_for_a_token_that_is_meant_to_end(team: Team):
    soon = timezone.now() + timedelta(hours=3)
    make_token(team, name="Replaced", expires_at=soon, replaced_at=timezone.now())
    make_token(team, name="Revoked", expires_at=soon, revoked_at=timezone.now())
    assert clock.warn_of_expiring() == 0


def test_a_new_token_of_a_day_is_warned_about_once(team: Team):
    make_token(team, expires_at=timezone.now() + timedelta(hours=20))
    assert (clock.warn_of_expiring(), clock.warn_of_expiring()) == (1, 0)


def test_it_is_noticed_that_a_maker_left_and_came_back(team: Team, mona: User, caplog: pytest.LogCaptureFixture):
    token, _ = make_token(team, maker=mona)
    make_token(team, name="Of a command")
    assert clock.notice_makers() == 0
    version = Team.objects.get().board_version
    Membership.objects.filter(user=mona).delete()
    assert (clock.notice_makers(), clock.notice_makers()) == (1, 0)
    token.refresh_from_db()
    assert token.maker_told_at is not None
    assert Team.objects.get().board_version > version
    assert caplog.text.count("token_stopped") == 1
    Membership.objects.create(team=team, user=mona, role=TeamRole.OPERATOR)
    assert (clock.notice_makers(), clock.notice_makers()) == (1, 0)
    token.refresh_from_db()
    assert token.maker_told_at is None


def test_a_role_from_groups_is_announced_before_it_ends(
    team: Team, mona: User, settings: Any, caplog: pytest.LogCaptureFixture
):
    token, _ = make_token(team, maker=mona)
    start = timezone.now()
    Membership.objects.filter(user=mona).update(by_groups=True)
    User.objects.filter(pk=mona.pk).update(sso_signed_in_at=start)
    lines = []
    with time_machine.travel(start, tick=False) as watch:
        for hours in (0, 24 * (settings.SESSION_MAX_DAYS - 1) + 1, 1, 24, 1):
            watch.shift(timedelta(hours=hours))
            changed = clock.notice_makers()
            lines.append((changed, caplog.text.count("token_stops_soon"), caplog.text.count("token_stopped")))
        assert lines == [(0, 0, 0), (1, 1, 0), (0, 1, 0), (1, 1, 1), (0, 1, 1)]
        User.objects.filter(pk=mona.pk).update(sso_signed_in_at=timezone.now())
        assert clock.notice_makers() == 1
    token.refresh_from_db()
    assert token.maker_told_at is None


def test_the_clock_looks_every_minute(team: Team):
    make_token(team, expires_at=timezone.now() - timedelta(seconds=1))
    assert jobs.MINUTELY["look_after_tokens"] is jobs.look_after_tokens
    jobs.look_after_tokens()
    assert AuditEvent.objects.get().event == "token.expire"
