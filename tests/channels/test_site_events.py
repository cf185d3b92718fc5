"""Problems of the whole panel: site admins get a mail, once."""

import runpy
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import time_machine
from django.core.cache import cache
from django.utils import timezone

from config import worker_watch
from taskruns import jobs
from taskruns.audit import anchors
from taskruns.models import AuditVerification, Delivery, Episode, Heartbeat, SiteRole, Team, User
from taskruns.services import heartbeats
from taskruns.services.channels import site_events
from tests.channels.receivers import MailBox
from tests.factories import person
from tests.paths import ROOT

pytestmark = pytest.mark.django_db
Result = AuditVerification.Result


@pytest.fixture
def admin() -> User:
    return person("sam@example.com", site_role=SiteRole.ADMIN)


@pytest.fixture
def others() -> None:
    person("ada@example.com", site_role=SiteRole.AUDITOR)
    person("gone@example.com", site_role=SiteRole.ADMIN, is_active=False)
    person("mona@example.com")


def verified(result: Result, *, faults: int = 0) -> None:
    now = timezone.now()
    AuditVerification.objects.create(asked_by="x", result=result, started_at=now, finished_at=now, fault_count=faults)


def look() -> None:
    """What the worker does each minute, and its messages."""
    jobs.look_after_channels()
    jobs.send_messages(None)


def seen(name: str, ago: timedelta) -> None:
    Heartbeat.objects.update_or_create(pk=name, defaults={"seen_at": heartbeats.database_now() - ago})


@pytest.fixture
def open_board(team: Team) -> Team:
    Team.objects.filter(pk=team.pk).update(watched_at=timezone.now())
    return team


def test_only_active_site_admins_are_told_of_faults(admin: User, others: None, mail_box: MailBox):
    verified(Result.FAULTS, faults=7)
    look()
    ((to, mail),) = mail_box.mails
    assert to == [admin.email]
    assert mail["Subject"] == "[Taskruns] The audit log was changed: faults found"
    text = mail.get_content()
    for part in ("Faults:     7", "UTC", "http://localhost:8000/audit/", "All site admins get it."):
        assert part in text


def test_faults_are_told_once_until_they_are_over(admin: User, mail_box: MailBox):
    for result in (Result.FAULTS, Result.FAULTS, Result.CLEAN, Result.FAULTS):
        verified(result)
        look()
        look()
    assert len(mail_box.mails) == 2


def test_an_interrupted_verification_is_no_fault(admin: User, mail_box: MailBox):
    verified(Result.BROKEN_OFF)
    look()
    assert not mail_box.mails


def test_unwritten_anchors_are_told_once(admin: User, mail_box: MailBox, settings: Any, tmp_path: Path):
    cache.clear()
    settings.AUDIT_ANCHOR_FILE = str(tmp_path / "missing" / "anchors")
    anchors.publish()
    look()
    anchors.publish()
    look()
    ((_, mail),) = mail_box.mails
    assert mail["Subject"] == "[Taskruns] Anchors of the audit log cannot be written to their file"
    assert "AUDIT_ANCHOR_FILE" in mail.get_content()
    settings.AUDIT_ANCHOR_FILE = str(tmp_path / "anchors")
    anchors.publish()
    look()
    assert not Episode.objects.filter(event="anchors.not_written", ended_at=None).exists()


@pytest.mark.usefixtures("open_board")
def test_a_missing_worker_is_noticed_and_told_by_the_web(admin: User, mail_box: MailBox):
    seen(heartbeats.WORKER, site_events.MISSING_AFTER + timedelta(seconds=5))
    for _ in range(3):
        worker_watch.look()
    ((to, mail),) = mail_box.mails
    assert (to, mail["Subject"]) == ([admin.email], "[Taskruns] The worker of the panel is not running")


@pytest.mark.usefixtures("open_board")
def test_a_worker_that_comes_back_ends_the_episode(admin: User, mail_box: MailBox):
    seen(heartbeats.WORKER, timedelta(minutes=10))
    worker_watch.look()
    seen(heartbeats.WORKER, timedelta(0))
    look()
    assert Episode.objects.get().ended_at is not None
    seen(heartbeats.WORKER, timedelta(minutes=4))
    worker_watch.look()
    assert len(mail_box.mails) == 2


def test_without_an_open_board_nobody_looks_for_the_worker(team: Team, admin: User, mail_box: MailBox):
    Team.objects.filter(pk=team.pk).update(watched_at=timezone.now() - timedelta(hours=1))
    seen(heartbeats.WORKER, timedelta(hours=1))
    worker_watch.look()
    assert not Episode.objects.exists()


@pytest.mark.usefixtures("open_board")
@pytest.mark.parametrize("ago", [None, timedelta(minutes=2)], ids=["never seen", "seen lately"])
def test_a_worker_is_not_missing(ago: timedelta | None, admin: User, mail_box: MailBox):
    if ago is not None:
        seen(heartbeats.WORKER, ago)
    worker_watch.look()
    assert not mail_box.mails


def test_a_former_site_admin_gets_no_mail(admin: User, mail_box: MailBox):
    verified(Result.FAULTS)
    jobs.look_after_channels()
    User.objects.update(site_role=SiteRole.AUDITOR)
    jobs.send_messages(None)
    assert not mail_box.mails
    assert Delivery.objects.get().failure == "nobody"


def test_without_mail_only_the_log_is_told(admin: User, caplog: pytest.LogCaptureFixture):
    verified(Result.FAULTS)
    jobs.look_after_channels()
    assert "site_event" in caplog.text
    assert "audit.faults" in caplog.text
    assert not Delivery.objects.exists()
    assert Episode.objects.get().team is None


def test_two_processes_tell_it_once(admin: User, mail_box: MailBox, monkeypatch: pytest.MonkeyPatch):
    verified(Result.FAULTS)
    look()
    # The other process looked before the episode was there.
    find = Episode.objects.filter
    monkeypatch.setattr(
        Episode.objects, "filter", lambda **by: Episode.objects.none() if "ended_at" in by else find(**by)
    )
    look()
    assert len(mail_box.mails) == 1


def test_a_mail_that_failed_is_sent_again_by_the_web(admin: User, open_board: Team, mail_box: MailBox, settings: Any):
    seen(heartbeats.WORKER, timedelta(minutes=10))
    port, settings.EMAIL_PORT = settings.EMAIL_PORT, 1
    worker_watch.look()
    settings.EMAIL_PORT = port
    with time_machine.travel(timezone.now() + timedelta(seconds=10)):
        Team.objects.filter(pk=open_board.pk).update(watched_at=timezone.now())
        worker_watch.look()
    assert len(mail_box.mails) == 1


def test_each_web_process_watches_the_worker():
    loaded = runpy.run_path(str(ROOT / "gunicorn.conf.py"))
    assert loaded["post_worker_init"] is worker_watch.start
