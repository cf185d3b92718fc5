"""add_channel and test_channel."""

import io
from collections.abc import Callable
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from taskruns.models import Channel, Rule, Team
from taskruns.models.channels import SUGGESTED
from taskruns.services.channels.addresses import destination_of
from tests.channels.receivers import Receiver, status
from tests.channels.scene import HOOK

pytestmark = pytest.mark.django_db


@pytest.fixture
def add(monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    def call(*arguments: str, address: str = HOOK) -> str:
        monkeypatch.setattr("sys.stdin", io.StringIO(f"{address}\n"))
        out = io.StringIO()
        call_command("add_channel", *arguments, stdout=out)
        return out.getvalue()

    return call


def test_a_signed_webhook_prints_its_secret_once(add: Callable[..., str], team: Team):
    said = add(team.slug, "On call", "--kind", "webhook", "--address-stdin")
    secrets = [word for word in said.split() if word.startswith("whsec_")]
    assert secrets == [destination_of(Channel.objects.get()).signing]
    assert "very-secret" not in said
    assert set(Rule.objects.get().events) == {event.value for event in SUGGESTED}


def test_another_kind_prints_no_secret(add: Callable[..., str], team: Team):
    assert "whsec_" not in add(team.slug, "Room", "--kind", "slack", "--address-stdin")


def test_events_filter_and_quiet_time_become_a_rule(add: Callable[..., str], team: Team):
    more = ("--events", "run.failed,stop.pull", "--filter", "status=failed&q=prod", "--quiet-minutes", "5")
    add(team.slug, "On call", "--kind", "webhook", "--address-stdin", *more)
    rule = Rule.objects.get()
    assert (rule.events, rule.query, rule.quiet_minutes) == (["run.failed", "stop.pull"], "status=failed&q=prod", 5)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (("--filter", "stauts=failed"), "no filter"),
        (("--events", "run.faild"), "no event"),
        (("--events", ""), "at least one event"),
        (("--quiet-minutes", "x"), "quiet-minutes"),
    ],
)
def test_a_mistyped_option_adds_nothing(more: tuple[str, ...], says: str, add: Callable[..., str], team: Team):
    with pytest.raises(CommandError, match=says) as found:
        add(team.slug, "On call", "--kind", "webhook", "--address-stdin", *more)
    assert found.value.returncode == 1
    assert not Channel.objects.exists()


def test_a_live_channel_of_that_name_is_an_error(add: Callable[..., str], team: Team):
    add(team.slug, "On call", "--kind", "webhook", "--address-stdin")
    with pytest.raises(CommandError, match="already has a channel") as found:
        add(team.slug, "on call", "--kind", "webhook", "--address-stdin")
    assert found.value.returncode == 1
    assert Channel.objects.count() == 1


def test_the_address_comes_from_stdin_only(add: Callable[..., str], team: Team):
    with pytest.raises(CommandError, match="stdin"):
        add(team.slug, "On call", "--kind", "webhook")


def test_test_channel_says_what_happened(add: Callable[..., str], team: Team, receiver: Receiver):
    add(team.slug, "On call", "--kind", "webhook", "--address-stdin", address=receiver.url)
    out = io.StringIO()
    call_command("test_channel", team.slug, "on call", stdout=out)
    assert "took the test message" in out.getvalue()
    assert receiver.received[0].json["type"] == "channel.test"
    receiver.answer = status(404)
    with pytest.raises(CommandError, match="status 404") as found:
        call_command("test_channel", team.slug, "On call")
    assert found.value.returncode == 1


@pytest.mark.parametrize(("slug", "name"), [("nowhere", "On call"), ("ops-north", "Other")])
def test_an_unknown_team_or_channel_is_a_sentence(slug: str, name: str, team: Team):
    with pytest.raises(CommandError) as found:
        call_command("test_channel", slug, name)
    assert found.value.returncode == 1


def test_a_resting_panel_tests_nothing(add: Callable[..., str], team: Team, receiver: Receiver, monkeypatch: Any):
    add(team.slug, "On call", "--kind", "webhook", "--address-stdin", address=receiver.url)
    monkeypatch.setattr("taskruns.services.channels.actions.is_resting", lambda: True)
    with pytest.raises(CommandError, match="restored"):
        call_command("test_channel", team.slug, "On call")
    assert receiver.received == []
