"""When a key expires: read from Arize if the key may, and reported once each 14, 7 and 1 days before."""

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
import responses
import time_machine
from django.urls import reverse
from django.utils import timezone

from taskruns import jobs
from taskruns.arize.client import ArizeClient
from taskruns.arize.wire import WireApiKey
from taskruns.audit import Actor
from taskruns.models import AuditEvent, Credential, Team, User
from taskruns.pages.credentials import result_message
from taskruns.sandbox.server import running
from taskruns.services import credentials
from tests.clients import ClientOf
from tests.factories import CANARY, make_credential
from tests.queue_worker import work
from tests.sandbox.frozen import KEYS
from tests.sandbox.frozen import settings as sandbox_settings
from tests.stored import events
from tests.wire import ENDPOINT

pytestmark = pytest.mark.usefixtures("empty_queue")

CLOCK = Actor.job("clock")
SHELL = Actor(type="command", label="tests")
TODAY = date(2026, 11, 23)
KEY_LIST = f"{ENDPOINT}/v2/api-keys"
SHORT = f"{CANARY[:6]}...{CANARY[-3:]}"


@pytest.fixture(autouse=True)
def clock() -> Iterator[Any]:
    with time_machine.travel("2026-11-23T03:00:00Z", tick=False) as clock:
        yield clock


# --- Recognising a listed key


@pytest.mark.parametrize(
    ("redacted", "same"),
    [
        (SHORT, True),
        (SHORT.replace("...", "\N{HORIZONTAL ELLIPSIS}"), True),
        (SHORT.replace("...", "********"), True),
        (SHORT.replace("...", "\N{BULLET}\N{BULLET}\N{BULLET}"), True),
        ("ak-oth...6Yb", False),
        (f"{CANARY[:6]}...xyz", False),
        (f"{CANARY[:6]}...", False),
        ("ak...Yb", False),
        ("...", False),
        ("", False),
        (CANARY, False),
        (f"{CANARY[:20]}...{CANARY[-20:]}", False),
        ("ak-can...x...6Yb", False),
    ],
)
def test_a_listed_key_is_recognised_by_its_redacted_form(*, redacted: str, same: bool):
    assert WireApiKey.from_json({"id": "k1", "redacted_key": redacted}).may_be(CANARY) is same


# --- Reading it from Arize


def add_lists(arize: responses.RequestsMock) -> None:
    spaces = [{"id": f"S{number}", "name": f"Space {number}"} for number in range(5)]
    arize.get(f"{ENDPOINT}/v2/spaces", json={"spaces": spaces, "pagination": {}})
    arize.get(f"{ENDPOINT}/v2/tasks", json={"tasks": [{"id": "t"}], "pagination": {}})


def listed(**members: Any) -> dict[str, Any]:
    return {"id": "k1", "redacted_key": SHORT, "expires_at": "2026-12-24T10:00:00.000Z"} | members


def test_a_test_reads_and_stores_the_expiry_date(arize: responses.RequestsMock, credential: Credential):
    add_lists(arize)
    others = [listed(id="k0", redacted_key="ak-oth...xyz", expires_at="2026-11-24T00:00:00Z"), {"no": "id"}, None]
    arize.get(KEY_LIST, json={"api_keys": [*others, listed()], "pagination": {"has_more": False}})
    result = credentials.test(credential, by=SHELL)
    credential.refresh_from_db()
    assert result_message(credential, result).text.endswith("Arize says that it expires on 2026-12-24.")
    assert (credential.expires_on, credential.decrypt_secret()) == (date(2026, 12, 24), CANARY)
    details = AuditEvent.objects.get(outcome="ok").details
    assert (details["changed"], details["expires_on"]) == (["expires_on"], "2026-12-24")
    assert credentials.test(credential, by=SHELL).ok
    assert "changed" not in AuditEvent.objects.latest("pk").details


def test_a_service_key_is_searched_in_its_spaces(arize: responses.RequestsMock, credential: Credential):
    add_lists(arize)
    for space, keys in (("", []), ("S0", []), ("S1", [listed()])):
        match = [responses.matchers.query_param_matcher({"limit": "100"} | ({"space_id": space} if space else {}))]
        arize.get(KEY_LIST, json={"api_keys": keys, "pagination": {}}, match=match)
    assert "2026-12-24" in result_message(credential, credentials.test(credential, by=SHELL)).text


@pytest.mark.parametrize(
    "answer",
    [
        {"status": 401},
        {"status": 403},
        {"status": 404},
        {"status": 500},
        {"body": "<html>"},
        {"json": {"keys": []}},
        {"json": {"api_keys": None}},
        {"json": {"api_keys": [listed(expires_at=None)]}},
        {"json": {"api_keys": [listed(expires_at="never")]}},
        {"json": {"api_keys": [listed(), listed(id="k2", expires_at="2027-01-01T00:00:00Z")]}},
        {"json": {"api_keys": [listed(redacted_key=None)]}},
    ],
    ids=str,
)
def test_a_typed_date_stays_if_arize_sends_none(answer: dict[str, Any], arize: responses.RequestsMock, team: Team):
    credential = make_credential(team, expires_on=date(2027, 2, 1))
    add_lists(arize)
    arize.get(KEY_LIST, **answer)
    result = credentials.test(credential, by=SHELL)
    credential.refresh_from_db()
    assert (result.ok, "expires" in result_message(credential, result).text) == (True, False)
    assert (credential.expires_on, credential.failing_since) == (date(2027, 2, 1), None)


def test_the_sandbox_lists_a_key_as_arize_does():
    with running(sandbox_settings()) as server:
        found = {}
        for key in KEYS:
            with ArizeClient(server.url, key) as client:
                (only,) = client.list_api_keys().items
                found[key] = only
                assert client.may_be_own_key(only)
                assert not any(client.may_be_own_key(other) for name, other in found.items() if name != key)
    assert [one.expires_at is not None for one in found.values()] == [False, True, False]


# --- Reporting it


def ends_in(days: int, team: Team, **fields: Any) -> Credential:
    return make_credential(team, name=f"Ends in {days}", expires_on=TODAY + timedelta(days=days), **fields)


@pytest.mark.parametrize(
    ("days", "threshold"), [(15, None), (14, 14), (8, 14), (7, 7), (2, 7), (1, 1), (0, 1), (-3, 1)]
)
def test_the_nearest_threshold_is_reported(days: int, threshold: int | None, team: Team):
    key = ends_in(days, team)
    assert credentials.warn_of_expiring(by=CLOCK) == (threshold is not None)
    key.refresh_from_db()
    assert key.expiry_told == threshold
    if threshold is not None:
        row = AuditEvent.objects.get()
        assert (row.event, row.actor_label, row.credential_id) == ("credential.expiring", "clock", key.pk)
        assert row.details == {"expires_on": str(key.expires_on), "days_left": days}


def test_each_threshold_is_reported_once_by_the_hourly_job(team: Team, clock: Any):
    ends_in(15, team)
    told_on = []
    for hour in range(0, 24 * 17, 6):
        clock.move_to(datetime(2026, 11, 23, 3, 23, tzinfo=UTC) + timedelta(hours=hour))
        before = AuditEvent.objects.count()
        jobs.look_after_keys()
        work()
        if AuditEvent.objects.count() > before:
            told_on.append(timezone.localdate())
    assert told_on == [date(2026, 11, 24), date(2026, 12, 1), date(2026, 12, 7)]
    assert events() == [("credential.expiring", "done")] * 3


def test_a_new_date_starts_over_and_other_keys_are_left_alone(team: Team, other_team: Team):
    key = ends_in(1, team)
    gone = ends_in(2, team)
    credentials.revoke(gone, by=SHELL)
    Team.objects.filter(pk=other_team.pk).update(archived_at=timezone.now())
    ends_in(3, other_team)
    assert credentials.warn_of_expiring(by=CLOCK) == 1
    assert credentials.replace(key, key="ak-next-0123456789abcdef", expires_on=TODAY + timedelta(days=10), by=SHELL)
    assert credentials.warn_of_expiring(by=CLOCK) == 1
    key.refresh_from_db()
    assert key.expiry_told == 14


def test_without_an_audit_row_nothing_is_reported(team: Team, monkeypatch: pytest.MonkeyPatch):
    from django.db import DatabaseError

    def refuse(*_args: Any, **_kwargs: Any) -> None:
        raise DatabaseError

    key = ends_in(1, team)
    with monkeypatch.context() as patch:
        patch.setattr("taskruns.services.credentials.expiry.record", refuse)
        with pytest.raises(DatabaseError):
            credentials.warn_of_expiring(by=CLOCK)
    key.refresh_from_db()
    assert key.expiry_told is None
    assert credentials.warn_of_expiring(by=CLOCK) == 1


def test_the_board_and_the_keys_page_warn_in_time(team: Team, mona: User, client_of: ClientOf):
    far, near, past = ends_in(15, team), ends_in(14, team), ends_in(-1, team)
    board = client_of(mona).get(reverse("board", args=["ops-north"])).content.decode()
    assert f"Key “{near.name}” expires on 2026-12-07: replace it before Arize rejects it." in board
    assert f"Key “{past.name}” expired on 2026-11-22: replace it." in board
    assert f"Key “{far.name}” expires" not in board
    keys = client_of(mona).get(reverse("credentials", args=["ops-north"])).content.decode()
    assert "expires in 14 days" in keys
    assert "expires in 15 days" not in keys
    assert "2026-12-08" in keys


def test_a_polling_board_shows_the_warning(team: Team, mona: User, client_of: ClientOf):
    ends_in(7, team)
    before = Team.objects.get(pk=team.pk).board_version
    credentials.warn_of_expiring(by=CLOCK)
    assert Team.objects.get(pk=team.pk).board_version == before + 1
    credentials.warn_of_expiring(by=CLOCK)
    assert Team.objects.get(pk=team.pk).board_version == before + 1
