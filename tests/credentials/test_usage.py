"""The usage of a key: calls and 429s per hour, each counted once, shown on the keys page."""

import re
from datetime import timedelta
from typing import Any

import pytest
import responses
import time_machine
from django.db import DatabaseError, connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from taskruns.arize.errors import RateLimited
from taskruns.models import BatchSource, Credential, KeyUsage, Run, Team, User
from taskruns.services import batches, cancellations, credentials, mirror
from taskruns.services.credentials.client import connected, count
from tests.clients import ClientOf
from tests.factories import actor, make_credential
from tests.wire import ENDPOINT, run_url, wire_run

NOTHING: dict[str, Any] = {"pagination": {"has_more": False}}


def lists(arize: responses.RequestsMock, **answer: Any) -> None:
    for name in ("spaces", "tasks"):
        arize.get(f"{ENDPOINT}/v2/{name}", **({"json": NOTHING | {name: []}} | answer))


def counts() -> list[tuple[int, int]]:
    return list(KeyUsage.objects.order_by("hour").values_list("calls", "limited"))


def test_a_round_counts_its_calls_in_one_write(credential: Credential, arize: responses.RequestsMock):
    lists(arize)
    with CaptureQueriesContext(connection) as queries:
        report = mirror.refresh(credential.pk)
    assert report is not None
    assert counts() == [(len(arize.calls), 0)]
    assert report.calls == len(arize.calls) > 0
    with CaptureQueriesContext(connection) as queries:
        mirror.refresh(credential.pk, force=True)
    writes = [query["sql"] for query in queries if re.match(r"(INSERT|UPDATE)\b.*keyusage", query["sql"])]
    assert len(writes) == 1
    assert counts() == [(len(arize.calls), 0)]


def test_429_is_counted_separately(credential: Credential, arize: responses.RequestsMock):
    lists(arize, status=429, json={})
    mirror.refresh(credential.pk)
    assert counts() == [(1, 1)]


def test_tests_and_cancels_count_too(credential: Credential, run: Run, oli: User, arize: responses.RequestsMock):
    lists(arize)
    credentials.test(credential, by=actor(oli))
    made = len(arize.calls)
    arize.post(run_url(run, "/cancel"), json=wire_run(run, "CANCELLED"))
    assert cancellations.cancel(run, by=actor(oli)).outcome == "confirmed"
    assert counts() == [(made + 1, 0)]


def test_a_batch_counts_the_calls_of_its_threads_once(team: Team, run: Run, oli: User, arize: responses.RequestsMock):
    arize.post(run_url(run, "/cancel"), status=429, json={"title": "No"})
    batch = batches.create_batch(team, run_ids=[run.pk], reason="", by=actor(oli), source=BatchSource.SELECTION)
    batches.work(batch.pk)
    assert len(arize.calls) == 1
    assert counts() == [(1, 1)]


def test_each_hour_has_its_own_count(credential: Credential, arize: responses.RequestsMock):
    lists(arize)
    for moment in ("2026-11-23T03:59:59Z", "2026-11-23T04:00:00Z"):
        with time_machine.travel(moment, tick=False):
            mirror.refresh(credential.pk, force=True)
    assert len(counts()) == 2


def test_a_count_that_cannot_be_written_undoes_nothing(
    credential: Credential, run: Run, oli: User, arize: responses.RequestsMock, monkeypatch: pytest.MonkeyPatch
):
    def refuse(*_args: Any, **_kwargs: Any) -> None:
        raise DatabaseError

    monkeypatch.setattr("taskruns.services.credentials.client._add", refuse)
    arize.post(run_url(run, "/cancel"), json=wire_run(run, "CANCELLED"))
    assert cancellations.cancel(run, by=actor(oli)).outcome == "confirmed"
    assert counts() == []


def test_a_thread_without_a_database_passes_its_count_to_the_owner(
    credential: Credential, arize: responses.RequestsMock
):
    lists(arize)
    with connected(credential, counted=False) as client:
        client.list_spaces()
    assert counts() == []
    count(credential, calls=client.calls, limited=client.limited)
    assert counts() == [(1, 0)]


def test_a_failed_call_is_counted_too(credential: Credential, arize: responses.RequestsMock):
    lists(arize, status=429, json={})
    with pytest.raises(RateLimited), connected(credential) as client:
        client.list_spaces()
    assert counts() == [(1, 1)]


def test_counts_that_no_page_shows_are_deleted(team: Team, credential: Credential):
    now = timezone.now()
    gone = make_credential(team, name="Gone", revoked_at=now)
    for key, age in ((credential, timedelta(days=9)), (credential, timedelta(days=7)), (gone, timedelta(hours=1))):
        KeyUsage.objects.create(credential=key, hour=now - age, calls=1)
    assert credentials.forget_old_counts() == 2
    assert KeyUsage.objects.get().credential == credential


def test_the_keys_page_shows_numbers_and_a_chart_with_its_text(
    credential: Credential, team: Team, mona: User, client_of: ClientOf
):
    other = make_credential(team, name="Idle")
    with time_machine.travel("2026-11-23T03:30:00Z", tick=False):
        hour = timezone.now().replace(minute=0)
        for back, calls, limited in ((0, 30, 0), (1, 1_200, 4), (23, 70, 0), (24, 5_000, 9)):
            start = hour - timedelta(hours=back)
            KeyUsage.objects.create(credential=credential, hour=start, calls=calls, limited=limited)
        with CaptureQueriesContext(connection) as queries:
            page = client_of(mona).get("/teams/ops-north/credentials/").content.decode()
    text = " ".join(re.sub(r"<[^>]+>", " ", page).split())
    assert "1,300 in 24 h, 30 this hour; 4 answered 429" in text
    assert "Last 24 hours: 1,300 calls, 4 of them answered 429. Most in one hour: 1,200, from 02:00." in page
    assert "No calls in the last 24 hours." in page
    assert page.count('class="usage-bars"') == 2
    assert page.count('role="img"') == 2
    assert len([1 for query in queries if "keyusage" in query["sql"]]) == 1
    drawn = usage_path(page)
    assert drawn.count("M") == 3, "one bar for each hour with calls"
    assert other.name in page


def usage_path(page: str) -> str:
    found = re.search(r'class="usage-calls" d="([^"]+)"', page)
    assert found
    return found[1]


def test_health_has_a_start_time_and_a_reason(credential: Credential, mona: User, client_of: ClientOf):
    at = timezone.datetime(2026, 11, 23, 2, 0, tzinfo=timezone.get_default_timezone())
    Credential.objects.update(failing_since=at, failing_reason="Arize says no.", last_good_at=at - timedelta(minutes=5))
    page = client_of(mona).get("/teams/ops-north/credentials/").content.decode()
    text = " ".join(re.sub(r"<[^>]+>", " ", page).split())
    assert "Arize says no. Failing since 2026-11-23 02:00:00 UTC" in text
    assert "2026-11-23 01:55:00 UTC" in text
