"""Every event has words, a severity, a link, and its row in the documentation."""

import re

import pytest
from django.utils import timezone

from taskruns.models import ChannelKind, Delivery, Happening, Run, Team
from taskruns.models.channels import OF_READINGS, OF_THE_LOG, OF_TIME, SUGGESTED, SUMMARY
from taskruns.outbound import Failure
from taskruns.pages.channels import kinds
from taskruns.pages.channels.kinds import webhook_body, word
from taskruns.pages.channels.messages import WORDS, message_of
from taskruns.pages.channels.troubles import trouble_of
from taskruns.services.channels.matching import about
from taskruns.services.channels.sending import Trouble
from tests.factories import make_channel
from tests.paths import ROOT

DOCUMENT = (ROOT / "docs/channels.md").read_text(encoding="utf-8")


def test_the_documentation_lists_each_event_with_its_severity():
    rows = re.findall(r"^\| `([\w.]+)` \| .+ \| (\w+) \| (yes)? ?\|$", DOCUMENT, re.MULTILINE)
    listed = {event: (severity, bool(suggested)) for event, severity, suggested in rows}
    assert listed == {it.value: (WORDS[it.value].severity.value, it in SUGGESTED) for it in Happening}


def test_the_documentation_lists_each_kind():
    section = DOCUMENT.split("\n## Kinds\n")[1].split("\n## ")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)) == set(ChannelKind.values)


def test_each_event_comes_from_a_reading_from_the_log_or_with_time():
    assert set(Happening) == OF_READINGS | set(OF_THE_LOG) | OF_TIME


@pytest.mark.django_db
@pytest.mark.parametrize("kind", ChannelKind)
@pytest.mark.parametrize("event", [*Happening.values, "channel.test", "run.ended", SUMMARY])
def test_each_event_has_a_message_of_each_kind(event: str, kind: ChannelKind, team: Team, run: Run):
    channel = make_channel(team)
    channel.kind = kind
    outcome = {"run.cancel": "refused", "run.cancel_many": "finished"}.get(event, "done")
    data = about(run) | {"outcome": outcome, "who": "oli@example.com", "target": "Production"}
    data |= (
        {"number": 41, "by_event": {"run.failed": 40, "stop.pull": 1}, "named": [about(run)]}
        if event == SUMMARY
        else {}
    )
    delivery = Delivery(team=team, channel=channel, event=event, run=run, at=timezone.now(), data=data)
    message = message_of(delivery)
    assert message.title[:1].isupper() or message.title.startswith("oli@")
    assert not re.search(r"[{}]", message.title)
    assert message.link.url.startswith("http://localhost:8000/teams/")
    assert word(delivery)
    assert webhook_body(delivery)["type"] == event


def test_each_trouble_has_a_sentence():
    troubles = [*(it.value for it in Trouble), *(it.name.lower() for it in Failure)]
    sentences = {trouble_of(trouble, 503) for trouble in troubles}
    assert "It could not be sent." not in sentences
    assert len(sentences) == len(troubles)
    assert trouble_of("", None) == ""
    assert trouble_of("nonsense", None) == "It could not be sent."


@pytest.mark.parametrize(
    ("text", "breaks"), [("2026-12-01 08:23:02 UTC", 0), (":fire:", 2), ("a:23:", 2), ("1:234", 1), ("evil:80", 1)]
)
def test_a_time_can_be_copied_from_a_chat_and_no_emoji_is_made(text: str, breaks: int):
    assert kinds._plain(text).count(kinds._BREAK) == breaks
