"""Messages on their way: to real receivers with all their faults."""

import json
import socket
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import time_machine
from django.utils import timezone
from standardwebhooks import Webhook, WebhookVerificationError

from taskruns import jobs
from taskruns.models import AuditEvent, Delivery, DeliveryState, Restore, Run, Team
from taskruns.outbound import Timeouts
from taskruns.services import backups, channels
from taskruns.services.channels import posting
from taskruns.services.channels.addresses import destination_of
from taskruns.services.channels.sending import CLAIM, rest_after
from taskruns.services.runs.observations import record_observation
from tests.channels.receivers import Receiver, cut, cut_body, hang, huge, status
from tests.channels.scene import BY, add_channel
from tests.channels.worker import send_due, work_off
from tests.factories import make_run
from tests.outbound.certificates import Authority
from tests.runs.readings import reading
from tests.stored import dump

pytestmark = pytest.mark.django_db


def fail(run: Run, **members: Any) -> None:
    """As the mirror reads it."""
    assert record_observation(run, reading(run, "FAILED", **members), timezone.now())


def only() -> Delivery:
    return Delivery.objects.get()


def test_a_failed_run_reaches_a_signed_webhook(team: Team, run: Run, receiver: Receiver):
    channel = add_channel(team, receiver.url)
    fail(run, failure_reason="model quota <exceeded>")
    work_off()
    (got,) = receiver.received
    body = Webhook(destination_of(channel).signing).verify(got.body, got.headers)
    assert body["type"] == "run.failed"
    data = body["data"]
    assert (data["team"], data["run_id"], data["panel_run_id"]) == (team.slug, run.arize_id, str(run.pk))
    assert data["task_name"] == run.task.name
    assert data["status"] == "failed"
    assert data["why"] == "model quota <exceeded>"
    assert data["url"] == f"http://localhost:8000/teams/{team.slug}/runs/{run.pk}/"
    assert got.headers["webhook-id"] == f"msg_{only().pk.hex}"
    assert (only().state, only().status) == (DeliveryState.SENT, 200)
    work_off()
    assert len(receiver.received) == 1


def test_another_secret_does_not_verify(team: Team, run: Run, receiver: Receiver):
    """The control of the test above."""
    add_channel(team, receiver.url)
    fail(run)
    work_off()
    with pytest.raises(WebhookVerificationError):
        Webhook("whsec_" + "A" * 44).verify(receiver.received[0].body, receiver.received[0].headers)


def test_slack_text_is_neither_markup_nor_a_call(team: Team, run: Run, receiver: Receiver):
    add_channel(team, receiver.url, kind="slack")
    hostile = "<!channel> *bold* @here [x](http://evil.example) & <http://evil.example|ok>"
    type(run.task).objects.filter(pk=run.task_id).update(name=hostile)
    fail(run)
    work_off()
    text = receiver.received[0].json["text"]
    assert "<!channel>" not in text
    assert "*bold*" not in text
    assert "@here" not in text
    assert "](http" not in text
    assert "&lt;!channel&gt;" in text.replace("\N{ZERO WIDTH SPACE}", "")
    assert f"<http://localhost:8000/teams/{team.slug}/runs/{run.pk}/|Open the run>" in text


def test_an_error_is_retried_and_counted_where_people_see_it(team: Team, run: Run, receiver: Receiver):
    channel = add_channel(team, receiver.url)
    receiver.answer = status(500, body=b"stack trace")
    fail(run)
    work_off()
    channel.refresh_from_db()
    assert (channel.failure, channel.failure_status, channel.failures) == ("status", 500, 1)
    assert channel.failing_since is not None
    assert (only().state, only().attempts, only().is_repeat) == (DeliveryState.FAILED, 1, False)
    send_due()
    assert len(receiver.received) == 1, "not before the rest is over"
    receiver.answer = status(200)
    with time_machine.travel(timezone.now() + timedelta(seconds=6)):
        send_due()
    first, second = receiver.received
    assert first.headers["webhook-id"] == second.headers["webhook-id"]
    channel.refresh_from_db()
    assert (only().state, channel.failing_since, channel.failures) == (DeliveryState.SENT, None, 0)


def test_a_redirect_is_not_followed(team: Team, run: Run, receiver: Receiver, receivers: Callable[..., Receiver]):
    elsewhere = receivers()
    receiver.answer = status(308, headers=(("Location", elsewhere.url),))
    add_channel(team, receiver.url)
    fail(run)
    work_off()
    assert (only().state, only().status) == (DeliveryState.FAILED, 308)
    assert elsewhere.received == []


@pytest.mark.parametrize("answer", [cut_body, huge], ids=["cut body", "huge body"])
def test_the_body_of_an_answer_does_not_matter(answer: Any, team: Team, run: Run, receiver: Receiver):
    receiver.answer = answer
    add_channel(team, receiver.url)
    fail(run)
    began = time.monotonic()
    work_off()
    assert only().state == DeliveryState.SENT
    assert time.monotonic() - began < 5


def test_a_lost_answer_makes_the_next_attempt_say_so(team: Team, run: Run, receiver: Receiver):
    receiver.answer = cut
    add_channel(team, receiver.url, kind="slack")
    fail(run)
    work_off()
    assert (only().failure, only().is_repeat) == ("no_answer", True)
    assert "repetition" not in receiver.received[0].json["text"]
    receiver.answer = status(200)
    with time_machine.travel(timezone.now() + timedelta(seconds=6)):
        send_due()
    assert "may be a repetition" in receiver.received[-1].json["text"]


@pytest.mark.slow
def test_a_hanging_receiver_costs_one_attempt_and_delays_no_other(
    team: Team, run: Run, receiver: Receiver, receivers: Callable[..., Receiver], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(posting, "TIMEOUTS", Timeouts(connect=0.5, read=0.5, whole=0.5))
    silent = receivers(hang)
    slow = add_channel(team, silent.url, name="Silent")
    add_channel(team, receiver.url, name="Fast")
    for _ in range(3):
        channels.send_test(slow, by=BY)
    fail(run)
    work_off()
    assert len(receiver.received) == 1
    assert len(silent.received) == 1, "the others wait with it"
    assert Delivery.objects.get(state=DeliveryState.FAILED).failure == "no_answer"


def test_the_whole_attempt_has_ten_seconds():
    assert posting.TIMEOUTS.call == 10


def test_an_untrusted_certificate_gets_nothing(
    team: Team, run: Run, receivers: Callable[..., Receiver], tmp_path: Path
):
    receiver = receivers(tls=Authority(tmp_path).server("127.0.0.1"))
    add_channel(team, receiver.url.replace("http://", "https://"))
    fail(run)
    work_off()
    assert only().failure == "untrusted_certificate"
    assert receiver.received == []


def test_a_host_that_became_private_gets_nothing(team: Team, run: Run, receiver: Receiver, settings: Any):
    add_channel(team, receiver.url)
    settings.NOTIFY_HOSTS = ()
    fail(run)
    work_off()
    assert only().failure == "not_allowed"
    assert receiver.received == []


def test_a_public_name_with_a_private_address_gets_nothing(
    team: Team, run: Run, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
):
    """The name was checked when it was saved. Where it leads is checked when it is called."""
    add_channel(team, "https://alerts.example.com/hook")
    resolved = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", receiver.port))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_args, **_options: resolved)
    fail(run)
    work_off()
    assert only().failure == "private_address"
    assert receiver.received == []


def test_a_killed_workers_message_is_sent_again_and_says_so(team: Team, run: Run, receiver: Receiver):
    add_channel(team, receiver.url, kind="slack")
    fail(run)
    jobs.match_facts()
    claimed = timezone.now() + CLAIM
    Delivery.objects.update(state=DeliveryState.SENDING, claimed_until=claimed, attempts=1)
    send_due()
    assert receiver.received == [], "its worker may still live"
    with time_machine.travel(claimed + timedelta(seconds=1)):
        send_due()
    assert "may be a repetition" in receiver.received[0].json["text"]
    assert only().state == DeliveryState.SENT


def test_a_message_that_a_wrong_clock_dated_ahead_is_sent_now(team: Team, run: Run, receiver: Receiver):
    add_channel(team, receiver.url)
    fail(run)
    jobs.match_facts()
    Delivery.objects.update(next_try_at=timezone.now() + timedelta(minutes=40))
    send_due()
    assert only().state == DeliveryState.SENT


def test_a_days_failures_are_given_up_and_recorded(team: Team, run: Run, receiver: Receiver):
    channel = add_channel(team, receiver.url)
    receiver.answer = status(503)
    fail(run)
    work_off()
    assert channels.give_up_old() == 0
    with time_machine.travel(timezone.now() + timedelta(hours=25)):
        assert channels.give_up_old() == 1
        send_due()
    assert only().state == DeliveryState.GIVEN_UP
    assert len(receiver.received) == 1
    row = AuditEvent.objects.get(event="notify.given_up")
    assert (row.target_id, row.details) == (str(channel.pk), {"messages": 1, "why": "status", "http_status": 503})


def test_backoff_is_five_seconds_at_first_and_an_hour_at_last():
    assert [rest_after(n).total_seconds() for n in (1, 2, 3, 10, 11, 1_000)] == [5, 10, 20, 2560, 3600, 3600]


def test_nothing_is_matched_or_sent_while_the_panel_rests(team: Team, run: Run, receiver: Receiver):
    channel = add_channel(team, receiver.url)
    channels.send_test(channel, by=BY)
    fail(run)
    resting = Restore.objects.create(restored_by="root", backup="0" * 64, backup_made_at=timezone.now())
    work_off()
    assert (receiver.received, Delivery.objects.count()) == ([], 1)
    Restore.objects.filter(pk=resting.pk).update(adopted_at=timezone.now())
    work_off()
    assert len(receiver.received) == 2, "the control"


def test_what_a_backup_had_not_sent_says_that_it_may_be_a_repetition(team: Team, run: Run, receiver: Receiver):
    """The panel whose backup it is may have sent it since."""
    add_channel(team, receiver.url, kind="slack")
    fail(run)
    jobs.match_facts()
    Restore.objects.create(restored_by="root", backup="0" * 64, backup_made_at=timezone.now())
    assert backups.adopt(by=BY)
    send_due()
    assert "may be a repetition" in receiver.received[0].json["text"]


def test_what_happened_before_an_adoption_says_that_it_may_be_a_repetition(team: Team, run: Run, receiver: Receiver):
    """The panel whose backup it is worked on and told it, after the backup was made."""
    add_channel(team, receiver.url, kind="slack")
    fail(run, run_finished_at=timezone.now().isoformat())
    Restore.objects.create(restored_by="root", backup="0" * 64, backup_made_at=timezone.now())
    assert backups.adopt(by=BY)
    work_off()
    later = make_run(run.task)
    fail(later, run_finished_at=timezone.now().isoformat())
    work_off()
    first, second = (got.json["text"] for got in receiver.received)
    assert "may be a repetition" in first
    assert "may be a repetition" not in second


@pytest.mark.parametrize(("asked", "rests"), [("120", 120), ("1", 5), ("90000", 3600), ("soon", 5)])
def test_a_receiver_that_asks_to_wait_is_left_alone_for_so_long(
    asked: str, rests: int, team: Team, run: Run, receiver: Receiver
):
    channel = add_channel(team, receiver.url)
    receiver.answer = status(429, (("Retry-After", asked),))
    fail(run)
    before = timezone.now()
    work_off()
    channel.refresh_from_db()
    assert channel.rests_until is not None
    assert only().next_try_at == channel.rests_until
    assert timedelta(0) <= channel.rests_until - before - timedelta(seconds=rests) < timedelta(seconds=10)


def test_an_answers_body_and_the_address_are_stored_nowhere(team: Team, run: Run, receiver: Receiver):
    add_channel(team, receiver.url)
    receiver.answer = status(500, body=b"the-body-of-the-answer")
    fail(run)
    work_off()
    stored = repr(dump())
    assert "the-body-of-the-answer" not in stored
    assert "secret-path" not in stored
    assert run.arize_id in stored, "the control"


def test_a_muted_channel_drops_what_waits(team: Team, run: Run, receiver: Receiver):
    channel = add_channel(team, receiver.url)
    fail(run)
    jobs.match_facts()
    channels.mute(channel, until=timezone.now() + timedelta(hours=1), by=BY)
    work_off()
    channel.refresh_from_db()
    assert (receiver.received, channel.missed, Delivery.objects.count()) == ([], 1, 0)


def test_old_deliveries_are_forgotten(team: Team, run: Run, receiver: Receiver):
    add_channel(team, receiver.url)
    fail(run)
    work_off()
    assert not channels.forget_old()
    assert Delivery.objects.count() == 1
    Delivery.objects.update(created_at=timezone.now() - timedelta(days=31))
    channels.forget_old()
    assert Delivery.objects.count() == 0


def test_payloads_are_json_without_secrets(team: Team, run: Run, receiver: Receiver):
    channel = add_channel(team, receiver.url)
    signing = destination_of(channel).signing
    fail(run)
    work_off()
    assert signing not in receiver.received[0].body.decode()
    json.loads(receiver.received[0].body)


def test_a_run_that_ended_before_the_channel_was_made_is_not_told(team: Team, run: Run, receiver: Receiver):
    fail(run)
    add_channel(team, receiver.url)
    work_off()
    assert Delivery.objects.count() == 0
    assert receiver.received == []
