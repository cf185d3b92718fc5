"""The site audit page: log of the site and all teams, verification, banner, and recording who reads it."""

import re
import uuid
from datetime import timedelta
from typing import Any

import pytest
import time_machine
from django.db import IntegrityError, connection, transaction
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from huey.contrib.djhuey import HUEY

from taskruns import jobs
from taskruns.audit import Actor, EventType, record
from taskruns.models import AuditEvent, AuditReading, AuditVerification, Run, Team, User
from taskruns.services import audit
from tests.clients import ClientOf
from tests.factories import actor
from tests.markup import without_bdi
from tests.queue_worker import work
from tests.stored import events
from tests.threads import in_threads

from .tampering import edit

pytestmark = pytest.mark.usefixtures("empty_queue")

URL, VERIFY = "/audit/", "/audit/verify/"
BANNER = "The last verification of the audit log found"


@pytest.fixture
def history(team: Team, other_team: Team, run: Run, oli: User, otto: User) -> None:
    record(EventType.RUN_CANCEL, "requested", by=actor(oli), team=team, run=run, reason="of the north")
    record(EventType.TEAM_CHANGE, "done", by=actor(otto, "manager"), team=other_team, reason="of the south")
    record(EventType.PERSON_CREATE, "done", by=Actor.command(), reason="of the site")


def text_of(answer: Any) -> str:
    assert answer.status_code == 200
    return without_bdi(answer.content.decode())


@pytest.mark.parametrize("who", ["ada", "adam"])
def test_auditors_and_site_admins_see_the_site_and_all_teams(
    history: None, cast: dict[str, User], run: Run, who: str, client_of: ClientOf
):
    text = text_of(client_of(cast[who]).get(URL))
    places = [text.index(f"of the {where}") for where in ("site", "south", "north")]
    assert places == sorted(places)
    assert f'href="/teams/ops-north/runs/{run.pk}/"' in text
    assert '<a href="/teams/ops-south/audit/">Ops South</a>' in text
    assert f'href="/audit/?run={run.arize_id}"' in text


@pytest.mark.parametrize("who", ["vera", "oli", "mona", "otto"])
def test_others_get_403(history: None, cast: dict[str, User], who: str, client_of: ClientOf):
    answer = client_of(cast[who]).get(URL)
    assert answer.status_code == 403
    assert "“of the site”" not in without_bdi(answer.content.decode())


def test_the_link_is_shown_only_to_those_who_may_use_it(team: Team, ada: User, mona: User, client_of: ClientOf):
    assert 'href="/audit/"' in text_of(client_of(ada).get("/runs/"))
    assert 'href="/audit/"' not in text_of(client_of(mona).get("/runs/"))


def readings() -> list[tuple[str, str]]:
    return list(AuditEvent.objects.filter(event="audit.read").order_by("pk").values_list("actor_label", "chain"))


def test_reading_is_recorded_once_per_person_chain_and_hour(team: Team, ada: User, mona: User, client_of: ClientOf):
    north, start = f"team:{team.pk}", timezone.now()
    with time_machine.travel(start, tick=False) as clock:
        for _ in range(3):
            for path in ("/teams/ops-north/audit/", "/teams/ops-north/audit/?event=run.cancel"):
                client_of(ada).get(path)
        assert readings() == [("ada@example.com", north)]
        client_of(ada).get(URL)
        client_of(mona).get("/teams/ops-north/audit/")
        expected = [("ada@example.com", north), ("ada@example.com", "site"), ("mona@example.com", north)]
        assert readings() == expected
        clock.shift(timedelta(minutes=59, seconds=59))
        client_of(ada).get(URL)
        assert readings() == expected
        clock.shift(timedelta(seconds=1))
        client_of(ada).get(URL)
        client_of(ada).get(URL)
        assert readings() == [*expected, ("ada@example.com", "site")]


def test_a_reading_noted_in_the_future_hides_no_other(history: None, ada: User, client_of: ClientOf):
    AuditReading.objects.create(actor_id=str(ada.pk), chain="site", recorded_at=timezone.now() + timedelta(days=999))
    client_of(ada).get(URL)
    client_of(ada).get(URL)
    assert readings() == [("ada@example.com", "site")]


def test_a_bad_filter_is_not_recorded_as_reading(team: Team, mona: User, client_of: ClientOf):
    assert client_of(mona).get("/teams/ops-north/audit/?event=nothing").status_code == 400
    assert readings() == []
    client_of(mona).get("/teams/ops-north/audit/")
    assert len(readings()) == 1


@pytest.mark.commits
def test_pages_opened_at_once_are_one_reading(committed: None):
    by = Actor(type="user", id="7", label="ada@example.com")
    in_threads(6, lambda _: audit.record_reading(None, by=by))
    assert readings() == [("ada@example.com", "site")]
    AuditReading.objects.update(recorded_at=timezone.now() - timedelta(hours=2))
    in_threads(6, lambda _: audit.record_reading(None, by=by))
    assert len(readings()) == 2


def test_the_number_of_queries_stays_the_same(history: None, run: Run, oli: User, ada: User, client_of: ClientOf):
    client = client_of(ada)

    def queries() -> int:
        with CaptureQueriesContext(connection) as captured:
            text_of(client.get(URL))
        return len(captured)

    for number in range(60):
        record(EventType.RUN_CANCEL, "requested", by=actor(oli), team=run.team, run=run, operation_id=uuid.uuid4())
        if not number:
            queries()
            few = queries()
    assert queries() == few


def test_verify_now_is_a_job_and_the_page_shows_its_result(history: None, ada: User, client_of: ClientOf):
    client = client_of(ada)
    assert "Not verified yet" in text_of(client.get(URL))
    answer = client.post(VERIFY)
    assert (answer.status_code, answer["Location"]) == (302, URL)
    text = text_of(client.get(URL))
    assert "Running since" in text
    assert "started by ada@example.com" in text
    assert 'hx-get="/audit/verification/"' in text
    assert "Verify now" not in text
    assert not events(event="audit.verify")
    work()
    fragment = text_of(client.get("/audit/verification/"))
    assert "Verified: 4 entries, no tampering found" in fragment
    assert "hx-get" not in fragment
    assert "Verify now" in fragment
    rows = AuditEvent.objects.filter(event="audit.verify")
    assert {(row.outcome, row.actor_type, row.actor_label, row.actor_role) for row in rows} == {
        ("ok", "user", "ada@example.com", "auditor")
    }
    assert rows.count() == 3


def test_verify_now_joins_a_running_verification(history: None, ada: User, adam: User, client_of: ClientOf):
    client_of(ada).post(VERIFY)
    client_of(adam).post(VERIFY)
    assert AuditVerification.objects.get().asked_by == "ada@example.com"
    work()
    client_of(adam).post(VERIFY)
    assert AuditVerification.objects.count() == 2


PAGES = ["/runs/", "/teams/ops-north/runs/", "/teams/ops-north/credentials/", URL]


@pytest.mark.slow
def test_faults_are_on_every_page_of_auditors_until_clean_again(
    history: None, team: Team, cast: dict[str, User], client_of: ClientOf
):
    def banners(who: str) -> list[bool]:
        return [BANNER in client_of(cast[who]).get(path).content.decode() for path in PAGES]

    reason = AuditEvent.objects.get(reason="of the north").reason
    assert banners("ada") == [False] * 4
    edit(f"team:{team.pk}", 1, reason="another")
    client_of(cast["ada"]).post(VERIFY)
    work()
    assert banners("ada") == banners("adam") == [True] * 4
    assert banners("mona") == banners("vera") == banners("oli") == [False] * 4
    text = text_of(client_of(cast["ada"]).get(URL))
    assert "the log may have been tampered with" in text
    assert f"<code>team:{team.pk} row 1: edited" in text
    client_of(cast["ada"]).post(VERIFY)
    assert banners("adam") == [True] * 4, "while a new one runs, the last result counts"
    edit(f"team:{team.pk}", 1, reason=reason)
    work()
    assert banners("ada") == banners("adam") == [False] * 4


def test_a_verification_of_a_killed_worker_is_resumed(history: None, ada: User, client_of: ClientOf):
    client_of(ada).post(VERIFY)
    HUEY.storage.flush_all()
    now = timezone.now()
    AuditVerification.objects.update(seen_at=now, rows=2)
    jobs.resume_verifications()
    work()
    assert AuditVerification.objects.get().result == "running", "its worker reported progress a moment ago"
    with time_machine.travel(now + timedelta(seconds=61)):
        jobs.resume_verifications()
        jobs.resume_verifications()
        work()
    assert AuditVerification.objects.get().result == "clean"
    assert events(event="audit.verify", chain="site") == [("audit.verify", "ok")], "two workers, one verification"


def test_a_lost_queue_message_is_replaced(history: None, ada: User, client_of: ClientOf):
    client_of(ada).post(VERIFY)
    HUEY.storage.flush_all()
    with time_machine.travel(timezone.now() + timedelta(seconds=61)):
        jobs.resume_verifications()
        work()
    assert AuditVerification.objects.get().result == "clean"


def test_a_failed_verification_clears_no_faults(
    history: None, team: Team, ada: User, client_of: ClientOf, monkeypatch: pytest.MonkeyPatch
):
    edit(f"team:{team.pk}", 1, reason="another")
    client_of(ada).post(VERIFY)
    work()

    def fail(*_: Any, **__: Any) -> None:
        raise IntegrityError

    monkeypatch.setattr("taskruns.services.audit.verification.stream_values", fail)
    client_of(ada).post(VERIFY)
    work()
    text = text_of(client_of(ada).get(URL))
    assert "The last verification did not finish" in text
    assert BANNER in text
    assert AuditVerification.objects.filter(result="running").count() == 0


def test_a_verification_that_never_ends_is_given_up(history: None, ada: User, client_of: ClientOf):
    client_of(ada).post(VERIFY)
    with time_machine.travel(timezone.now() + timedelta(hours=7)):
        assert audit.stalled() == []
    assert AuditVerification.objects.get().result == "broken off"


@pytest.mark.parametrize("column", ["started_at", "seen_at"])
def test_a_verification_from_the_future_blocks_no_other(column: str, history: None, ada: User, client_of: ClientOf):
    """Left by a clock that was set back, or written by hand."""
    asker = {"type": "user", "id": "1", "label": "ada@example.com"}
    AuditVerification.objects.create(asker=asker, **{column: timezone.now() + timedelta(days=999)})
    jobs.resume_verifications()
    work()
    assert not AuditVerification.objects.filter(result="running").exists()


def test_progress_is_shown(history: None, ada: User, client_of: ClientOf):
    client_of(ada).post(VERIFY)
    AuditVerification.objects.update(rows=1, rows_expected=3)
    assert re.search(r'<progress max="100" value="33"', text_of(client_of(ada).get("/audit/verification/")))


def test_denials_of_outsiders_are_in_the_sites_log(history: None, otto: User, ada: User, client_of: ClientOf):
    with transaction.atomic():
        client_of(otto).get("/teams/ops-north/runs/")
    text = text_of(client_of(ada).get(URL, {"outcome": "denied"}))
    assert "otto@example.com was refused access: /teams/ops-north/runs/" in text
