"""Payloads for Slack, Teams and PagerDuty, checked against what the vendors document.

Sources, read in December 2026:
- Slack: https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks (text; unfurl_links, unfurl_media)
- Teams: https://learn.microsoft.com/microsoftteams/platform/webhooks-and-connectors/how-to/connectors-using, and the
  schema https://raw.githubusercontent.com/microsoft/AdaptiveCards/main/schemas/1.6.0/adaptive-card.json
- PagerDuty: https://raw.githubusercontent.com/PagerDuty/api-schema/main/reference/events-v2/openapiv3.json
"""

import re
from datetime import datetime, timedelta
from typing import Any

import pytest
import time_machine
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from taskruns import jobs
from taskruns.models import Channel, Credential, Delivery, EmergencyStop, Run, Status, StopEnd, Task, Team
from taskruns.services import channels
from taskruns.services.credentials import mark_failing, note_recovered
from taskruns.services.runs.observations import record_observation
from tests.channels.receivers import Receiver, status
from tests.channels.scene import BY, add_channel
from tests.channels.worker import send_due, work_off
from tests.factories import make_run
from tests.runs.readings import reading
from tests.stored import dump

pytestmark = pytest.mark.django_db
HOSTILE = "**bold** <at>all</at> [x](http://evil.example) _it_ \x00\u202e"
ROUTING = "R0UT1NGKEY0123456789abcdefABCDEF"

# Object -> member -> (is required, check).
Members = dict[str, tuple[bool, Any]]
TEXT, ANY = str, object
CARD: Members = {
    "$schema": (False, TEXT),
    "type": (True, {"AdaptiveCard"}),
    "version": (True, re.compile(r"1\.[0-6]")),
    "fallbackText": (False, TEXT),
    "body": (False, list),
    "actions": (False, list),
}
RICH_TEXT: Members = {"type": (True, {"RichTextBlock"}), "inlines": (True, list)}
TEXT_RUN: Members = {
    "type": (True, {"TextRun"}),
    "text": (True, TEXT),
    "color": (False, {"Default", "Dark", "Light", "Accent", "Good", "Warning", "Attention"}),
    "weight": (False, {"Default", "Lighter", "Bolder"}),
    "size": (False, {"Default", "Small", "Medium", "Large", "ExtraLarge"}),
    "isSubtle": (False, bool),
}
OPEN_URL: Members = {
    "type": (True, {"Action.OpenUrl"}),
    "title": (False, TEXT),
    "url": (True, re.compile("https?://.+")),
}
INCIDENT: Members = {
    "routing_key": (True, re.compile("[A-Za-z0-9]{32}")),
    "event_action": (True, {"trigger", "acknowledge", "resolve"}),
    "dedup_key": (False, re.compile(".{1,255}")),
    "payload": (False, dict),
    "links": (False, list),
    "images": (False, list),
    "client": (False, TEXT),
    "client_url": (False, TEXT),
}
PAYLOAD: Members = {
    "summary": (True, re.compile("(?s).{1,1024}")),
    "source": (True, TEXT),
    "severity": (True, {"critical", "error", "warning", "info"}),
    "timestamp": (False, re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")),
    "component": (False, TEXT),
    "group": (False, TEXT),
    "class": (False, TEXT),
    "custom_details": (False, dict),
}
LINK: Members = {"href": (True, TEXT), "text": (False, TEXT)}


def faults(found: dict[str, Any], members: Members) -> list[str]:
    missing = [name for name, (is_required, _) in members.items() if is_required and name not in found]
    unknown = sorted(found.keys() - members.keys())
    wrong = [name for name, value in found.items() if name in members and not fits(value, members[name][1])]
    return missing + unknown + wrong


def fits(value: Any, check: Any) -> bool:
    if isinstance(check, set):
        return value in check
    if isinstance(check, re.Pattern):
        return isinstance(value, str) and check.fullmatch(value) is not None
    return isinstance(value, check)


def read(run: Run, now: str, **members: Any) -> None:
    record_observation(run, reading(run, now, **members), timezone.now())


def test_a_wrong_payload_is_detected():
    """The control of the tests below."""
    assert faults({"type": "TextRun", "text": 1, "bold": True}, TEXT_RUN) == ["bold", "text"]
    assert faults({}, LINK) == ["href"]


def test_slack_gets_text_only(team: Team, run: Run, receiver: Receiver):
    add_channel(team, receiver.url, kind="slack")
    read(run, "FAILED")
    work_off()
    body = receiver.received[0].json
    assert set(body) == {"text", "unfurl_links", "unfurl_media"}
    assert 0 < len(body["text"]) < 4_000


def test_a_chat_gets_no_more_than_discord_takes(team: Team, run: Run, receiver: Receiver):
    Task.objects.filter(pk=run.task_id).update(name="<&" * 300)
    add_channel(team, receiver.url, kind="slack")
    read(run, "FAILED", failure_reason="&`" * 50_000)
    work_off()
    text = receiver.received[0].json["text"]
    assert len(text) <= 2_000
    assert run.arize_id in text, "the control"


def test_a_chat_links_no_host_that_arize_names(team: Team, run: Run, receiver: Receiver):
    Task.objects.filter(pk=run.task_id).update(name="www.evil.example evil.example/x v1.2")
    add_channel(team, receiver.url, kind="slack")
    read(run, "FAILED")
    work_off()
    text = receiver.received[0].json["text"]
    assert "evil.example" not in text
    assert "www.evil" not in text
    assert "v1.2" in text, "no host"


def test_a_webhook_gets_only_the_start_of_a_long_reason(team: Team, run: Run, receiver: Receiver):
    add_channel(team, receiver.url)
    read(run, "FAILED", failure_reason="a\u2028b" + "x" * 100_000)
    work_off()
    why = receiver.received[0].json["data"]["why"]
    assert (len(why), why[:4]) == (300, "a bx")


def test_teams_gets_an_adaptive_card_without_markdown(team: Team, run: Run, receiver: Receiver):
    Task.objects.filter(pk=run.task_id).update(name=HOSTILE.replace("\x00", ""))
    add_channel(team, receiver.url, kind="teams")
    read(run, "FAILED", failure_reason=HOSTILE)
    work_off()
    body = receiver.received[0].json
    assert body["type"] == "message"
    (attachment,) = body["attachments"]
    assert attachment["contentType"] == "application/vnd.microsoft.card.adaptive"
    card = attachment["content"]
    assert faults(card, CARD) == []
    for block in card["body"]:
        assert faults(block, RICH_TEXT) == []
        assert [faults(run, TEXT_RUN) for run in block["inlines"]] == [[]] * len(block["inlines"])
    assert [faults(action, OPEN_URL) for action in card["actions"]] == [[]]
    assert "bold" not in card["fallbackText"], "which may be read as markdown"
    assert "**bold**" in str(card), "shown as it is, because no TextBlock interprets it"
    assert "'TextBlock'" not in str(card)
    assert "\u202e" not in str(card), "nothing turns the text around"
    assert len(receiver.received[0].body) < 28_000, "the limit of Teams"


def incident(receiver: Receiver, at: int = -1) -> dict[str, Any]:
    body: dict[str, Any] = receiver.received[at].json
    assert faults(body, INCIDENT) == []
    if body["event_action"] == "trigger":
        assert faults(body["payload"], PAYLOAD) == []
        assert [faults(link, LINK) for link in body["links"]] == [[]]
    return body


def pager(team: Team, receiver: Receiver, *events: str, **wanted: Any) -> Channel:
    return add_channel(team, f"{ROUTING} {receiver.url}", kind="pagerduty", events=events, **wanted)


def test_pagerduty_gets_an_incident_and_its_end(team: Team, task: Task, receiver: Receiver):
    pager(team, receiver, "run.running_longer_than")
    began = timezone.now() - timedelta(minutes=61)
    run = make_run(task, run_started_at=began, observed_at=timezone.now())
    channels.notice_time()
    work_off()
    opened = incident(receiver)
    assert (opened["event_action"], opened["routing_key"]) == ("trigger", ROUTING)
    assert opened["payload"]["severity"] == "warning"
    channels.notice_time()
    work_off()
    assert len(receiver.received) == 1, "the run is still active"
    with time_machine.travel(timezone.now() + timedelta(seconds=1)):
        read(run, "COMPLETED")
    channels.notice_time()
    work_off()
    closed = incident(receiver)
    assert closed == {"event_action": "resolve", "dedup_key": opened["dedup_key"], "routing_key": ROUTING}
    channels.notice_time()
    work_off()
    assert len(receiver.received) == 2


def test_an_incident_ends_only_after_it_was_opened(team: Team, task: Task, receiver: Receiver):
    pager(team, receiver, "run.running_longer_than")
    receiver.answer = status(500)
    run = make_run(task, run_started_at=timezone.now() - timedelta(minutes=61), observed_at=timezone.now())
    channels.notice_time()
    work_off()
    Run.objects.filter(pk=run.pk).update(status=Status.COMPLETED, rank=0, ended_at=timezone.now())
    channels.notice_time()
    assert Delivery.objects.count() == 1
    receiver.answer = status(202)
    with time_machine.travel(timezone.now() + timedelta(seconds=6)):
        send_due()
        channels.notice_time()
        send_due()
    actions = [got.json["event_action"] for got in receiver.received]
    assert actions == ["trigger", "trigger", "resolve"]
    assert len({got.json["dedup_key"] for got in receiver.received}) == 1


def test_a_key_that_works_again_ends_its_incident(team: Team, credential: Credential, receiver: Receiver):
    pager(team, receiver, "credential.failing")
    mark_failing(credential, sentence="No.", by=BY)
    work_off()
    assert incident(receiver)["payload"]["severity"] == "critical"
    channels.notice_time()
    work_off()
    assert len(receiver.received) == 1
    credential.refresh_from_db()
    note_recovered(credential, by=BY)
    channels.notice_time()
    work_off()
    assert incident(receiver)["event_action"] == "resolve"


def test_open_incidents_of_runs_cost_one_query(team: Team, task: Task, receiver: Receiver):
    channel = pager(team, receiver, "run.running_longer_than")
    costs = []
    for number in range(1, 4):
        run = make_run(task, status=Status.RUNNING)
        data = {"subject": str(run.pk)}
        opened = Delivery(team=team, channel=channel, recipient=f"rule:{number}", fact="x:trigger", data=data)
        opened.event, opened.run, opened.at, opened.state = "run.running_longer_than", run, timezone.now(), "sent"
        opened.is_open = True
        opened.save(force_insert=True)
        with CaptureQueriesContext(connection) as asked:
            channels.notice_time()
        costs.append(len(asked))
    assert len(set(costs)) == 1
    Run.objects.update(status=Status.COMPLETED, rank=0, ended_at=timezone.now())
    channels.notice_time()
    assert Delivery.objects.filter(fact="x:resolve").count() == 3


def test_a_late_end_does_not_close_an_incident_that_began_anew(team: Team, credential: Credential, receiver: Receiver):
    pager(team, receiver, "credential.failing")
    mark_failing(credential, sentence="No.", by=BY)
    work_off()
    receiver.answer = status(503)
    credential.refresh_from_db()
    note_recovered(credential, by=BY)
    channels.notice_time()
    work_off()
    assert incident(receiver)["event_action"] == "resolve", "the control: it was tried"
    receiver.answer = status(200)
    Channel.objects.update(rests_until=None)
    credential.refresh_from_db()
    mark_failing(credential, sentence="No.", by=BY)
    work_off()
    assert incident(receiver)["event_action"] == "trigger"
    with time_machine.travel(timezone.now() + timedelta(minutes=1)):
        channels.notice_time()
        work_off()
    assert incident(receiver)["event_action"] == "trigger", "nothing came after it"


def test_a_muted_channel_still_ends_its_incidents(team: Team, receiver: Receiver):
    channel = pager(team, receiver, "stop.expiring")
    stop = EmergencyStop.objects.create(team=team, person_label="oli", expires_at=timezone.now() + timedelta(minutes=9))
    channels.notice_time()
    work_off()
    channels.mute(channel, until=timezone.now() + timedelta(hours=1), by=BY)
    EmergencyStop.objects.filter(pk=stop.pk).update(end=StopEnd.LIFTED)
    channels.notice_time()
    work_off()
    assert [got.json["event_action"] for got in receiver.received] == ["trigger", "resolve"]


def test_a_test_incident_is_closed_at_once(team: Team, receiver: Receiver):
    channels.send_test(pager(team, receiver, "run.failed"), by=BY)
    send_due()
    channels.notice_time()
    send_due()
    opened, closed = (incident(receiver, at) for at in (0, 1))
    assert (opened["event_action"], closed["event_action"]) == ("trigger", "resolve")
    assert opened["dedup_key"] == closed["dedup_key"]


def test_the_routing_key_is_in_no_stored_row(team: Team, run: Run, receiver: Receiver):
    channel = pager(team, receiver, "run.failed")
    read(run, "FAILED")
    work_off()
    assert incident(receiver)["routing_key"] == ROUTING
    assert ROUTING not in repr(dump())
    assert channel.hint == ROUTING[-4:]


def test_summed_up_incidents_are_not_ended_one_by_one(team: Team, task: Task, receiver: Receiver):
    pager(team, receiver, "run.running_longer_than", quiet_minutes=10)
    began = timezone.now() - timedelta(minutes=61)
    for number in range(3):
        make_run(task, arize_id=f"R{number}", run_started_at=began, observed_at=timezone.now())
    channels.notice_time()
    work_off()
    with time_machine.travel(timezone.now() + timedelta(minutes=11)):
        jobs.match_facts()
        send_due()
        Run.objects.update(status=Status.COMPLETED, rank=0, ended_at=timezone.now())
        channels.notice_time()
        send_due()
    assert [got.json["event_action"] for got in receiver.received] == ["trigger", "trigger", "resolve"]
    assert datetime.fromisoformat(receiver.received[0].json["payload"]["timestamp"])
