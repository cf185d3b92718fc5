"""Channels of the kind email, with a real mail server."""

from datetime import timedelta
from typing import Any

import pytest
import time_machine
from django.utils import timezone

from taskruns import jobs
from taskruns.models import Delivery, DeliveryState, Membership, Run, Task, Team, User
from taskruns.services.channels import notices, posting
from taskruns.services.runs.observations import record_observation
from tests.channels.receivers import MailBox
from tests.channels.scene import add_channel
from tests.channels.worker import send_due, work_off
from tests.factories import make_run
from tests.runs.readings import reading

pytestmark = pytest.mark.django_db


def fail(run: Run, **members: Any) -> None:
    record_observation(run, reading(run, "FAILED", **members), timezone.now())


def test_a_mail_says_what_where_and_why(team: Team, run: Run, mail_box: MailBox):
    add_channel(team, "ops@example.com, night@example.com", kind="email")
    fail(run, failure_reason="model\r\nBcc: evil@example.com\r\n\r\nquota")
    work_off()
    ((to, mail),) = mail_box.mails
    assert to == ["ops@example.com", "night@example.com"]
    assert mail["Subject"] == f"[Taskruns] Failed: {run.task.name}"
    assert mail["Bcc"] is None
    text = mail.get_content()
    for part in (team.name, run.task.space_name, run.arize_id, "UTC", "quota", f"/runs/{run.pk}/", "localhost:8000"):
        assert part in text


def test_a_hostile_name_adds_no_header(team: Team, run: Run, mail_box: MailBox):
    type(run.task).objects.filter(pk=run.task_id).update(name="x\r\nBcc: evil@example.com")
    add_channel(team, "ops@example.com", kind="email")
    fail(run)
    work_off()
    ((to, mail),) = mail_box.mails
    assert (to, mail["Bcc"]) == (["ops@example.com"], None)
    assert "evil@example.com" in mail["Subject"]


def test_an_encoded_name_is_not_decoded_in_the_subject(team: Team, run: Run, mail_box: MailBox):
    """It would bring back the characters that were cleaned away, such as U+202E, which turns text around."""
    type(run.task).objects.filter(pk=run.task_id).update(name="=?utf-8?b?4oCuZXZpbA==?=")
    add_channel(team, "ops@example.com", kind="email")
    fail(run)
    work_off()
    ((_, mail),) = mail_box.mails
    assert "\u202e" not in mail["Subject"]
    assert "4oCuZXZpbA" in mail["Subject"]


def test_leavers_get_no_mail(team: Team, run: Run, vera: User, oli: User, mail_box: MailBox):
    """Their right is asked again before each mail. Addresses without an account are not people of the panel."""
    add_channel(team, "vera@example.com OLI@example.com list@example.com", kind="email")
    Membership.objects.filter(user=oli).delete()
    fail(run)
    work_off()
    assert [to for to, _ in mail_box.mails] == [["vera@example.com", "list@example.com"]]


def test_a_channel_of_leavers_only_says_so(team: Team, run: Run, vera: User, mail_box: MailBox):
    channel = add_channel(team, "vera@example.com", kind="email")
    User.objects.filter(pk=vera.pk).update(is_active=False)
    fail(run)
    work_off()
    channel.refresh_from_db()
    assert (mail_box.mails, channel.failure) == ([], "nobody")


def test_a_mail_server_that_refuses_is_asked_again(team: Team, run: Run, mail_box: MailBox):
    add_channel(team, "ops@example.com", kind="email")
    mail_box.refuses.add("ops@example.com")
    fail(run)
    work_off()
    assert Delivery.objects.get().failure == "mail"
    mail_box.refuses.clear()
    with time_machine.travel(timezone.now() + timedelta(seconds=6)):
        send_due()
    assert Delivery.objects.get().state == DeliveryState.SENT
    assert len(mail_box.mails) == 1


def test_a_lost_answer_of_the_mail_server_makes_the_next_attempt_say_so(team: Team, run: Run, mail_box: MailBox):
    add_channel(team, "ops@example.com", kind="email")
    mail_box.is_cut = True
    fail(run)
    work_off()
    assert (Delivery.objects.get().failure, len(mail_box.mails)) == ("mail", 1)
    mail_box.is_cut = False
    with time_machine.travel(timezone.now() + timedelta(seconds=6)):
        send_due()
    (_, first), (_, second) = mail_box.mails
    assert "may be a repetition" not in first.get_content()
    assert "may be a repetition" in " ".join(second.get_content().split())


def test_a_leavers_notices_delay_nobody_elses(team: Team, task: Task, vera: User, oli: User, mail_box: MailBox):
    for number in range(5):
        run = make_run(task, arize_id=f"R{number}")
        notices.ask(run, vera if number < 4 else oli)
        fail(run)
    Membership.objects.filter(user=vera).delete()
    jobs.match_facts()
    jobs.send_messages(None)
    assert [to for to, _ in mail_box.mails] == [["oli@example.com"]]


def test_a_repeated_mail_has_the_same_id_and_says_so(team: Team, run: Run, mail_box: MailBox):
    add_channel(team, "ops@example.com", kind="email")
    fail(run)
    work_off()
    Delivery.objects.update(state=DeliveryState.SENDING, claimed_until=timezone.now() - timedelta(seconds=1))
    send_due()
    (_, first), (_, second) = mail_box.mails
    assert first["Message-ID"] == second["Message-ID"]
    assert "may be a repetition" not in first.get_content()
    assert "may be a repetition" in " ".join(second.get_content().split())


def test_without_a_mail_server_nothing_is_lost(team: Team, run: Run, mail_box: MailBox, settings: Any):
    add_channel(team, "ops@example.com", kind="email")
    settings.MAILS = False
    fail(run)
    work_off()
    assert Delivery.objects.get().failure == "no_mail"


def test_a_mail_server_that_is_slow_at_each_step_gets_one_deadline(
    team: Team, run: Run, mail_box: MailBox, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(posting, "LONGEST", 0.5)
    mail_box.lag = 0.3
    add_channel(team, ", ".join(f"person-{number}@example.com" for number in range(9)), kind="email")
    fail(run)
    work_off()
    sent = Delivery.objects.get()
    assert (sent.state, sent.failure, sent.is_repeat) == (DeliveryState.FAILED, "mail", True)
    assert not mail_box.mails
