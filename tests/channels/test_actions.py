"""What people do with channels: every wrong input gets a sentence, and nothing is lost."""

import uuid
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from taskruns.encryption import DecryptionFailed
from taskruns.models import AuditEvent, Channel, Delivery, LogPosition, Rule, Team, User
from taskruns.services import channels, encryption, teams
from taskruns.services.channels import actions
from taskruns.services.channels.actions import Wanted, canonical
from taskruns.services.channels.addresses import destination_of
from taskruns.services.user_errors import UserError
from tests.channels.scene import BY, HOOK, add_channel
from tests.factories import actor

pytestmark = pytest.mark.django_db


def refused(team: Team, address: str, kind: str = "webhook", name: str = "On call", **wanted: Any) -> UserError:
    with pytest.raises(UserError) as found:
        add_channel(team, address, kind=kind, name=name, **wanted)
    assert not Channel.objects.exists()
    assert not AuditEvent.objects.exists()
    if len(address) > 12:
        assert address not in found.value.sentence
    return found.value


@pytest.mark.parametrize(
    ("address", "kind", "field", "says"),
    [
        ("nonsense", "webhook", "address", "not a web address"),
        ("", "webhook", "address", "not a web address"),
        ("http://alerts.example.com/hook", "webhook", "address", "https"),
        ("ftp://alerts.example.com/hook", "webhook", "address", "not a web address"),
        ("https://user:pw@alerts.example.com/hook", "webhook", "address", "not a web address"),
        ("https://alerts.example.com@evil.example/hook", "slack", "address", "not a web address"),
        ("https://alerts.example.com/a b", "webhook", "address", "not a web address"),
        ("https://alerts.example.com/hook#part", "webhook", "address", "not a web address"),
        ("https://al$erts.example.com/hook", "webhook", "address", "not a web address"),
        ("https://alerts.example.com/\\evil", "webhook", "address", "not a web address"),
        ("https://alerts.example.com/\x00", "webhook", "address", "not a web address"),
        ("https://alerts.example.com:99999/", "webhook", "address", "not a web address"),
        ("https://localhost/hook", "webhook", "address", "private"),
        ("https://127.0.0.1/hook", "webhook", "address", "private"),
        ("https://2130706433/hook", "webhook", "address", "private"),
        ("https://[::1]/hook", "webhook", "address", "private"),
        ("https://[::ffff:169.254.169.254]/", "webhook", "address", "private"),
        ("https://169.254.169.254/latest", "slack", "address", "private"),
        ("https://10.1.2.3/hook", "webhook", "address", "private"),
        ("https://alerts.example.com/" + "x" * 10_000, "webhook", "address", "too long"),
        ("https://hooks.slack.com/services/T0/B0/x", "webhook", "kind", "Slack"),
        ("https://hooks.slack.com/", "slack", "address", "not complete"),
        ("ops@example.com", "slack", "address", "email address"),
        ("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "webhook", "address", "signing secret"),
        (HOOK, "telegram", "kind", "no such kind"),
        (HOOK, "pagerduty", "address", "not an integration key"),
        ("R" * 31, "pagerduty", "address", "not an integration key"),
        (f"{'R' * 32} https://evil.example/v2/enqueue", "pagerduty", "address", "only the address"),
        ("https://events.pagerduty.com/v2/enqueue", "webhook", "kind", "choose the kind “PagerDuty”"),
        ("https://prod-1.westeurope.logic.azure.com/workflows/x", "slack", "kind", "Microsoft Teams"),
        ("ops@example.com", "email", "kind", "EMAIL_URL"),
    ],
)
def test_a_wrong_address_gets_a_sentence(address: str, kind: str, field: str, says: str, team: Team):
    error = refused(team, address, kind)
    assert says in error.sentence
    assert error.field == field


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("https://alerts.example.com", "web address"),
        ("ops@", "not an email address"),
        ("ops@example.com, nonsense", "not an email address"),
        (" , ", "at least one"),
        (", ".join(f"p{number}@example.com" for number in range(21)), "too many"),
        ("x" * 10_000, "not an email address"),
        ("ops@example.com\nBcc: evil@example.com", "not an email address"),
    ],
)
def test_a_wrong_mail_address_gets_a_sentence(address: str, says: str, team: Team, settings: Any):
    settings.MAILS = True
    assert says in refused(team, address, "email").sentence


@pytest.mark.parametrize("name", ["", " ", "x" * 101, HOOK, "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "x" * 10_000])
def test_a_wrong_name_gets_a_sentence(name: str, team: Team):
    assert refused(team, HOOK, name=name).field == "name"


@pytest.mark.parametrize(
    ("wanted", "field"),
    [
        ({"events": ()}, "events"),
        ({"events": ("run.faild",)}, "events"),
        ({"query": "stauts=failed"}, "query"),
        ({"query": "status=faild"}, "query"),
        ({"query": "status="}, "query"),
        ({"query": "failed"}, "query"),
        ({"query": "q=" + "x" * 10_000}, "query"),
        ({"quiet_minutes": -1}, "quiet_minutes"),
        ({"quiet_minutes": 100_000}, "quiet_minutes"),
        ({"min_error_share": 101}, "min_error_share"),
    ],
)
def test_a_wrong_rule_gets_a_sentence(wanted: dict[str, Any], field: str, team: Team):
    assert refused(team, HOOK, **wanted).field == field


@pytest.mark.parametrize("wanted", [{"query": HOOK}, {"query": f"status=failed&{HOOK}"}, {"events": (HOOK,)}])
def test_an_address_in_another_field_is_not_repeated(wanted: dict[str, Any], team: Team):
    sentence = refused(team, HOOK, **wanted).sentence
    assert "very-secret" not in sentence
    assert "its own field" in sentence


def test_a_filter_is_stored_in_canonical_form():
    assert canonical("?q=prod&status=failed&sort=-created") == "status=failed&q=prod"
    assert canonical("") == ""


def test_an_address_is_stored_encrypted_and_bound_to_its_row(team: Team):
    first, second = add_channel(team, HOOK), add_channel(team, HOOK, name="Second")
    assert destination_of(first).url == HOOK
    assert "secret" not in first.ciphertext
    assert first.hint == HOOK[-4:]
    second.ciphertext = first.ciphertext
    with pytest.raises(DecryptionFailed):
        second.decrypt_secret()


def test_a_name_is_taken_once(team: Team, other_team: Team):
    add_channel(team, HOOK)
    add_channel(other_team, HOOK)
    with pytest.raises(UserError, match="already has a channel"):
        add_channel(team, HOOK, name="ON CALL")


def test_a_removed_channel_keeps_no_secret_and_frees_its_name(team: Team):
    channel = add_channel(team, HOOK)
    assert channels.remove(channel, by=BY)
    assert not channels.remove(channel, by=BY)
    channel.refresh_from_db()
    assert (channel.ciphertext, channel.hint, channel.rules.count()) == ("", "", 0)
    add_channel(team, HOOK)
    with pytest.raises(UserError, match="removed"):
        channels.send_test(channel, by=BY)


def test_a_removed_channel_leaves_nothing_to_send(team: Team):
    channel = add_channel(team, HOOK)
    sending = channels.send_test(channel, by=BY, is_claimed=True)
    channels.send_test(channel, by=BY)
    channels.remove(channel, by=BY)
    assert not Delivery.objects.exists()
    assert sending.state == "sending", "the control"


def test_the_channels_of_a_team_are_limited(team: Team, other_team: Team, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(actions, "MOST_CHANNELS", 2)
    first = add_channel(team, HOOK)
    add_channel(team, HOOK, name="Second")
    with pytest.raises(UserError, match="already has 2 channels"):
        add_channel(team, HOOK, name="Third")
    add_channel(other_team, HOOK)
    channels.remove(first, by=BY)
    add_channel(team, HOOK, name="Third")


def test_the_rules_of_a_team_are_limited(team: Team, other_team: Team, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(actions, "MOST_RULES", 3)
    first = add_channel(team, HOOK)
    add_channel(team, HOOK, name="Second")
    rule = channels.save_rule(first, Wanted(("run.failed",)), by=BY)
    for one_more in (
        lambda: channels.save_rule(first, Wanted(("run.failed",)), by=BY),
        lambda: add_channel(team, HOOK, name="Third"),
    ):
        with pytest.raises(UserError, match="already have 3 rules"):
            one_more()
    channels.save_rule(first, Wanted(("run.cancelled",)), rule=rule, by=BY)
    add_channel(other_team, HOOK)


def test_a_rule_that_was_removed_cannot_be_changed_or_removed_again(team: Team):
    channel = add_channel(team, HOOK)
    rule = channel.rules.get()
    channels.remove_rule(rule, by=BY)
    rule = Rule(pk=rule.pk or uuid.uuid4(), channel=channel)
    recorded = AuditEvent.objects.count()
    with pytest.raises(UserError, match="was removed"):
        channels.save_rule(channel, Wanted(("run.failed",)), rule=rule, by=BY)
    channels.remove_rule(rule, by=BY)
    assert (Rule.objects.count(), AuditEvent.objects.count()) == (0, recorded)


def test_tests_are_limited(team: Team, mona: User):
    channel = add_channel(team, HOOK)
    by = actor(mona, "manager")
    for _ in range(actions.TESTS.attempts):
        channels.send_test(channel, by=by)
    with pytest.raises(UserError, match="too many tests"):
        channels.send_test(channel, by=by)
    assert Delivery.objects.count() == actions.TESTS.attempts
    assert AuditEvent.objects.filter(event="channel.test").count() == actions.TESTS.attempts


def test_a_new_address_keeps_the_signing_secret(team: Team):
    channel = add_channel(team, HOOK)
    signing = destination_of(channel).signing
    assert channels.change(channel, name="On call", is_on=True, address=f"{HOOK}/new", by=BY)
    assert destination_of(channel).signing == signing
    assert destination_of(channel).url == f"{HOOK}/new"
    assert not channels.change(channel, name="On call", is_on=True, address=f"{HOOK}/new", by=BY)


def test_a_mute_needs_a_time_in_the_next_days(team: Team):
    channel = add_channel(team, HOOK)
    for until in (timezone.now() - timedelta(hours=1), timezone.now() + timedelta(days=31)):
        with pytest.raises(UserError, match="Nothing was muted"):
            channels.mute(channel, until=until, by=BY)
    channels.mute(channel, until=timezone.now() + timedelta(hours=8), by=BY)
    assert channel.is_muted(timezone.now())
    assert channels.unmute(channel, by=BY)
    assert not channels.unmute(channel, by=BY)
    assert not channel.is_muted(timezone.now())


def test_what_a_silent_channel_missed_is_counted_until_it_sends_again(team: Team):
    """Muted and turned off overlap, in both orders."""
    until = timezone.now() + timedelta(hours=1)

    def turn(*, on: bool) -> None:
        assert channels.change(channel, name="On call", is_on=on, address="", by=BY)

    def missed() -> int:
        return Channel.objects.get().missed

    channel = add_channel(team, HOOK)
    channels.mute(channel, until=until, by=BY)
    Channel.objects.update(missed=3)
    turn(on=False)
    assert missed() == 3
    turn(on=True)
    assert missed() == 3, "still muted"
    channels.unmute(channel, by=BY)
    assert missed() == 0
    turn(on=False)
    Channel.objects.update(missed=2)
    channels.mute(channel, until=until, by=BY)
    channels.unmute(channel, by=BY)
    assert missed() == 2, "still off"
    turn(on=True)
    assert missed() == 0


def test_each_act_is_recorded_without_the_address(team: Team):
    channel = add_channel(team, HOOK)
    channels.change(channel, name="Night", is_on=False, address="", by=BY)
    channels.save_rule(channel, Wanted(("stop.pull",)), by=BY)
    channels.remove_rule(channel.rules.last(), by=BY)
    channels.mute(channel, until=timezone.now() + timedelta(hours=1), by=BY)
    channels.send_test(channel, by=BY)
    channels.remove(channel, by=BY)
    rows = list(AuditEvent.objects.order_by("seq"))
    acts = ("add", "change", "change", "change", "mute", "test", "remove")
    assert [row.event for row in rows] == [f"channel.{act}" for act in acts]
    assert {row.target_id for row in rows} == {str(channel.pk)}
    assert "secret" not in repr([row.details for row in rows])


def test_an_archived_team_keeps_no_address(team: Team):
    channel = add_channel(team, HOOK)
    channels.send_test(channel, by=BY)
    teams.archive(team, by=BY)
    channel.refresh_from_db()
    assert (channel.ciphertext, channel.deliveries.count()) == ("", 0)
    assert LogPosition.objects.count() == 1
    assert not channels.match()


def test_addresses_are_encrypted_again_with_the_newest_key(team: Team, settings: Any):
    newest, older = settings.ENCRYPTION_KEYS.items()
    settings.ENCRYPTION_KEYS = dict([older])
    channel = add_channel(team, HOOK)
    settings.ENCRYPTION_KEYS = dict([newest, older])
    assert encryption.reencrypt(by=BY)["channels"].done == 1
    settings.ENCRYPTION_KEYS = dict([newest])
    channel.refresh_from_db()
    assert destination_of(channel).url == HOOK
