"""If the panel sends mail, an invitation's link goes by mail only; if not, the person's address stays unverified."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

import pytest
import time_machine
from django.core import mail
from django.test import Client
from django.utils import timezone

from taskruns import jobs
from taskruns.models import AuditEvent, EmailStatus, Invitation, Limit, Team, TeamRole, User
from taskruns.pages.teams import link_of
from taskruns.services import invitations
from tests.clients import ClientOf, sign_in
from tests.factories import PASSWORD, actor, person
from tests.queue_worker import work

pytestmark = pytest.mark.usefixtures("empty_queue")
CEO = "ceo@example.com"
ANSWER = {"name": "The Boss", "password1": PASSWORD, "password2": PASSWORD}


@pytest.fixture
def mails(settings: Any) -> None:
    settings.MAILS = True


def invite(client: Client) -> str:
    answer = client.post("/teams/ops-north/members/add/", {"email": CEO, "role": "operator"}, follow=True)
    assert answer.status_code == 200
    return str(answer.content.decode())


def mailed_link() -> str:
    (message,) = mail.outbox
    assert message.to == [CEO]
    (link,) = re.findall(r"https?://\S+", message.body)
    assert link.startswith("http://localhost:8000/invitations/")
    return urlsplit(link).path


def test_link_goes_by_mail_only(mails: None, team: Team, mona: User, client_of: ClientOf):
    client = client_of(mona)
    page = invite(client)
    assert "An invitation is being mailed to ceo@example.com." in page
    assert "being mailed</span>" in page
    work()
    link = mailed_link()
    later = client.get("/teams/ops-north/members/").content.decode()
    assert ">mailed <" in later
    for text in (page, later):
        assert link not in text
        assert "/invitations/" not in text.replace("/invitations/" + str(Invitation.objects.get().pk), "")
    stored = str(list(AuditEvent.objects.values())) + str(list(Invitation.objects.values()))
    assert link.split("/")[2] not in stored


def test_mailed_link_verifies_the_address(mails: None, team: Team, mona: User, client_of: ClientOf):
    invite(client_of(mona))
    work()
    visitor = Client()
    assert visitor.post(mailed_link(), ANSWER)["Location"] == "/teams/ops-north/runs/"
    boss = User.objects.get(email=CEO)
    assert boss.email_status == EmailStatus.VERIFIED
    assert AuditEvent.objects.latest("pk").actor_label == CEO


def test_link_shown_on_a_page_verifies_no_address(team: Team, mona: User, client_of: ClientOf):
    page = invite(client_of(mona))
    (link,) = set(re.findall(r"http://localhost:8000(/invitations/[^\"]+)", page))
    assert "not verified" in page
    visitor = Client()
    visitor.post(link, ANSWER)
    label = "ceo@example.com (not verified, invited by mona@example.com)"
    rows = AuditEvent.objects.filter(event__in=("invitation.accept", "auth.sign_in"), outcome="done")
    assert [row.actor_label for row in rows] == [label, label]
    members = client_of(mona).get("/teams/ops-north/members/").content.decode()
    assert "not verified, invited by mona@example.com" in members
    assert mail.outbox == []


def test_mailed_link_verifies_the_address_of_an_older_account(mails: None, team: Team, mona: User):
    invitations.invite(team, email=CEO, role=TeamRole.VIEWER, by=actor(mona))
    work_now()
    person(CEO, email_status=EmailStatus.INVITED, email_vouched_by="otto@example.com")
    visitor = Client()
    sign_in(visitor, CEO)
    assert visitor.post(mailed_link()).status_code == 302
    assert User.objects.get(email=CEO).email_status == EmailStatus.VERIFIED


def test_link_shown_before_mail_was_set_up_verifies_no_address(team: Team, mona: User, settings: Any):
    link = urlsplit(link_of(invitations.invite(team, email=CEO, role=TeamRole.VIEWER, by=actor(mona)))).path
    settings.MAILS = True
    work_now()
    assert mail.outbox == [], "it was shown, so it is not mailed later"
    Client().post(link, ANSWER)
    assert User.objects.get(email=CEO).label.endswith("(not verified, invited by mona@example.com)")


@contextmanager
def sending_raises(error: type[BaseException], monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    with monkeypatch.context() as broken:
        broken.setattr("django.core.mail.EmailMessage.send", fail)
        yield


def test_mail_that_fails_is_sent_again(
    mails: None, team: Team, mona: User, client_of: ClientOf, monkeypatch: pytest.MonkeyPatch
):
    with sending_raises(ConnectionRefusedError, monkeypatch):
        invite(client_of(mona))
        work()
    assert Invitation.objects.get().mailed_at is None
    work_now()
    work_now()
    assert mailed_link()


def test_mail_of_a_worker_that_died_is_sent_again(
    mails: None, team: Team, mona: User, client_of: ClientOf, monkeypatch: pytest.MonkeyPatch
):
    with sending_raises(SystemExit, monkeypatch):
        invite(client_of(mona))
        with pytest.raises(SystemExit):
            work_now()
    assert Invitation.objects.get().mailed_at is None, "the page must not say that it was mailed"
    work_now()
    assert mail.outbox == [], "another worker may be mailing it"
    with time_machine.travel(timezone.now() + invitations.CLAIM):
        work_now()
    assert mailed_link()
    assert Invitation.objects.get().mailed_at is not None


@pytest.mark.parametrize("change", ["revoked", "expired", "archived"])
def test_invalid_invitation_is_not_mailed(mails: None, team: Team, mona: User, change: str):
    invitations.invite(team, email=CEO, role=TeamRole.VIEWER, by=actor(mona))
    row = Invitation.objects.get()
    if change == "revoked":
        invitations.revoke_invitation(row, by=actor(mona))
    if change == "expired":
        Invitation.objects.update(expires_at=row.created_at)
    if change == "archived":
        Team.objects.update(archived_at=row.created_at)
    work_now()
    assert mail.outbox == []


def test_first_manager_of_a_team_is_mailed(mails: None, adam: User, client_of: ClientOf):
    client = client_of(adam)
    client.post("/teams/new/", {"name": "Ops West", "slug": "", "manager": CEO})
    work()
    assert mailed_link()


def work_now() -> None:
    """What the worker does each minute."""
    jobs.mail_invitations.call_local()


def test_one_person_invites_a_limited_number_a_day(
    mails: None, team: Team, mona: User, otto: User, client_of: ClientOf, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(invitations, "INVITED", Limit("invitations", 2, timedelta(days=1)))
    pages = [invite_with_status(client_of(mona), f"person{number}@example.com") for number in range(3)]
    assert [status for status, _ in pages] == [200, 200, 422]
    assert "You invited 2 people within a day" in pages[-1][1]
    work()
    assert len(mail.outbox) == 2
    assert Invitation.objects.count() == 2


def invite_with_status(client: Client, email: str) -> tuple[int, str]:
    answer = client.post("/teams/ops-north/members/add/", {"email": email, "role": "viewer"}, follow=True)
    return answer.status_code, answer.content.decode()
