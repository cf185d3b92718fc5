"""Exports hold a lease: one per person and two on the site, so that web threads stay free for other requests."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
import time_machine
from django.db import DatabaseError, connection
from django.test import Client
from django.utils import timezone

from taskruns.access import gate
from taskruns.audit import Actor
from taskruns.models import Lease, Limit, Membership, Run, SiteRole, Team, TeamRole, User
from taskruns.services import leases
from taskruns.services.leases import EXPORT, LIFETIME, Busy
from taskruns.services.people import accounts
from taskruns.views import downloads
from tests.clients import ClientOf
from tests.factories import member
from tests.stored import events

CSV = "/teams/ops-north/runs/export.csv"


@pytest.fixture(autouse=True)
def _connection_stays_open(monkeypatch: pytest.MonkeyPatch) -> None:
    """Closing a response ends its request, which would close the database connection of the test."""
    monkeypatch.setattr(connection, "close_if_unusable_or_obsolete", lambda: None)


@pytest.fixture
def endless(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file whose parts never end."""

    def parts(_chosen: object) -> Iterator[str]:
        while True:
            yield "x" * downloads.CHUNK

    monkeypatch.setattr("taskruns.views.board.export.csv_parts", parts)


def held() -> int:
    return Lease.objects.filter(person__isnull=False, until__gt=timezone.now()).count()


def test_second_export_of_a_person_is_refused_until_the_first_ends(
    run: Run, vera: User, client_of: ClientOf, endless: None
) -> None:
    client = client_of(vera)
    first = client.get(CSV)
    assert len(next(iter(first))) == downloads.CHUNK
    second = client.get(CSV)
    assert (second.status_code, second["Retry-After"]) == (429, "30")
    assert "Another export of yours is still running. Wait until it is finished" in second.content.decode()
    assert events() == [("run.export", "done")]
    first.close()
    third = client.get(CSV)
    assert third.status_code == 200
    third.close()
    assert held() == 0


def test_exports_of_a_person_are_few_in_ten_minutes(
    run: Run, vera: User, client_of: ClientOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each leaves a row in the audit log, however short the file."""
    monkeypatch.setattr(gate, "EXPORTS", Limit("exports", 3, timedelta(minutes=10)))
    client, codes = client_of(vera), []
    for _ in range(4):
        answer = client.get(f"{CSV}?q=nothing")
        codes.append(answer.status_code)
        answer.close()
    assert codes == [200, 200, 200, 429]
    assert events() == [("run.export", "done")] * 3
    with time_machine.travel(timezone.now() + timedelta(minutes=11)):
        later = client.get(CSV)
        assert later.status_code == 200
        later.close()


def test_two_exports_run_at_once_on_the_site(
    run: Run, team: Team, vera: User, oli: User, mona: User, client_of: ClientOf, endless: None
) -> None:
    first, second = (client_of(person).get(CSV) for person in (vera, oli))
    third = client_of(mona).get(CSV)
    assert [answer.status_code for answer in (first, second, third)] == [200, 200, 429]
    assert "Too many exports are running at the moment" in third.content.decode()
    first.close()
    fourth = client_of(mona).get(CSV)
    assert fourth.status_code == 200
    for answer in (second, fourth):
        answer.close()
    assert held() == 0


def test_complete_download_frees_its_lease(run: Run, vera: User, client_of: ClientOf) -> None:
    for _ in range(3):
        answer = client_of(vera).get(CSV)
        assert answer.status_code == 200
        assert b"panel_id" in answer.getvalue()
        answer.close()
    assert held() == 0


def test_export_that_cannot_be_recorded_frees_its_lease(
    run: Run, vera: User, client_of: ClientOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_args: Any, **_kwargs: Any) -> None:
        raise DatabaseError

    monkeypatch.setattr("taskruns.views.board.export_runs", fail)
    assert client_of(vera).get(CSV).status_code == 503
    assert held() == 0


def test_refused_filter_takes_no_lease(run: Run, vera: User, client_of: ClientOf, endless: None) -> None:
    assert client_of(vera).get(f"{CSV}?status=nonsense").status_code == 400
    assert not Lease.objects.exists()


@pytest.mark.parametrize("years", [1, 7_000], ids=["a clock set back", "written by hand"])
def test_lease_of_the_far_future_blocks_nobody(years: int, team: Team, vera: User, mona: User, oli: User) -> None:
    for person in (vera, mona):
        leases.acquire(EXPORT, person)
    Lease.objects.update(until=timezone.now() + timedelta(days=365 * years))
    for person in (vera, oli):
        leases.acquire(EXPORT, person)
    with pytest.raises(Busy):
        leases.acquire(EXPORT, mona)


def test_places_written_by_hand_are_none(team: Team, vera: User, mona: User, oli: User) -> None:
    for place in (8, 9):
        Lease.objects.create(kind=EXPORT, place=place, until=timezone.now())
    for person in (vera, mona):
        leases.acquire(EXPORT, person)
    with pytest.raises(Busy):
        leases.acquire(EXPORT, oli)


def test_lease_of_a_killed_process_expires(team: Team, vera: User) -> None:
    with time_machine.travel("2026-11-23T03:00:00Z", tick=False) as clock:
        killed = leases.acquire(EXPORT, vera)
        with pytest.raises(Busy):
            leases.acquire(EXPORT, vera)
        clock.shift(LIFETIME + timedelta(seconds=1))
        again = leases.acquire(EXPORT, vera)
        assert not killed.extend(), "another request holds it now"
        killed.release()
        assert held() == 1
        clock.shift(timedelta(seconds=10))
        assert again.extend()
        again.release()
        assert held() == 0


def test_expired_lease_in_the_other_place_does_not_block_its_person(team: Team, vera: User, mona: User) -> None:
    with time_machine.travel("2026-11-23T03:00:00Z", tick=False) as clock:
        first = leases.acquire(EXPORT, mona)
        leases.acquire(EXPORT, vera)  # whose process is killed
        first.release()
        clock.shift(LIFETIME + timedelta(seconds=1))
        leases.acquire(EXPORT, vera)
        assert held() == 1


def test_lease_is_extended_at_most_every_five_seconds(team: Team, vera: User, django_assert_num_queries: Any) -> None:
    with time_machine.travel("2026-11-23T03:00:00Z", tick=False) as clock:
        lease = leases.acquire(EXPORT, vera)
        with django_assert_num_queries(0):
            assert lease.extend()
        clock.shift(timedelta(seconds=6))
        with django_assert_num_queries(1):
            assert lease.extend()
            assert lease.extend()


def test_client_that_reads_too_slowly_is_disconnected(
    run: Run, vera: User, client_of: ClientOf, endless: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloads, "LONGEST_DOWNLOAD", 0)
    answer = client_of(vera).get(CSV)
    with pytest.raises(downloads.DownloadEnded):
        next(iter(answer))
    answer.close()
    assert held() == 0


def test_download_that_lost_its_place_ends(run: Run, vera: User, client_of: ClientOf, endless: None) -> None:
    with time_machine.travel("2026-11-23T03:00:00Z", tick=False) as clock:
        answer = client_of(vera).get(CSV)
        pieces = iter(answer)
        assert len(next(pieces)) == downloads.CHUNK
        clock.shift(LIFETIME + timedelta(seconds=1))
        again = leases.acquire(EXPORT, vera)
        with pytest.raises(downloads.DownloadEnded):
            next(pieces)
        answer.close()
        assert again.extend(), "the end of the first left the second its place"


def test_concurrent_requests_of_one_person_get_one_lease(committed: None, team: Team) -> None:
    vera, nora = (member(team, f"{name}@example.com", TeamRole.VIEWER) for name in ("vera", "nora"))

    def take(person: User) -> bool:
        try:
            leases.acquire(EXPORT, person)
        except Busy:
            return False
        finally:
            connection.close()
        return True

    with ThreadPoolExecutor(8) as pool:
        taken = list(pool.map(take, [vera] * 8 + [nora] * 8))
    assert (sum(taken[:8]), sum(taken[8:])) == (1, 1)


def test_parts_are_sent_in_chunks_of_one_size() -> None:
    text = ["", "ä" * 50_000, "b", "c" * 10, "d" * 40_000]
    chunks = list(downloads._chunks(text))
    assert b"".join(chunks) == "".join(text).encode()
    assert {len(chunk) for chunk in chunks[:-1]} == {downloads.CHUNK}


def test_anonymous_request_takes_no_lease(run: Run) -> None:
    assert Client().get(CSV).status_code == 302
    assert not Lease.objects.exists()


def test_audit_exports_share_the_leases_with_other_exports(
    run: Run, mona: User, client_of: ClientOf, endless: None
) -> None:
    client = client_of(mona)
    first = client.get(CSV)
    for kind in ("jsonl", "csv"):
        refused = client.get(f"/teams/ops-north/audit/export.{kind}")
        assert (refused.status_code, refused["Retry-After"]) == (429, "30")
    assert events(event="audit.export") == []
    first.close()
    answer = client.get("/teams/ops-north/audit/export.jsonl")
    assert b'"trailer"' in answer.getvalue()
    answer.close()
    assert held() == 0


# --- Rights during a download


LOST: dict[str, Callable[[User], object]] = {
    "removed": lambda who: Membership.objects.filter(user=who).delete(),
    "disabled": lambda who: accounts.disable_person(who, by=Actor.command()),
    "team archived": lambda _who: Team.objects.update(archived_at=timezone.now()),
}


@pytest.mark.parametrize("lose", LOST.values(), ids=LOST)
def test_an_export_ends_when_its_reader_loses_the_right(
    lose: Callable[[User], object], run: Run, team: Team, vera: User, client_of: ClientOf, endless: None
) -> None:
    with time_machine.travel(timezone.now(), tick=False) as clock:
        answer = client_of(vera).get(CSV)
        chunks = iter(answer)
        next(chunks)
        clock.shift(leases.EXTENDED_EVERY + timedelta(seconds=1))
        assert len(next(chunks)) == downloads.CHUNK, "the control"
        lose(vera)
        clock.shift(leases.EXTENDED_EVERY + timedelta(seconds=1))
        with pytest.raises(downloads.DownloadEnded):
            next(chunks)
        answer.close()
    assert held() == 0


@pytest.mark.parametrize("url", ["/teams/ops-north/audit/export.csv", "/audit/export.jsonl"])
def test_an_export_of_the_log_ends_with_the_site_role(
    url: str, team: Team, ada: User, client_of: ClientOf, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.REQUIRE_MFA = False
    endless = dict.fromkeys(("csv", "jsonl"), ("text/plain", lambda _chosen: iter(lambda: "x" * downloads.CHUNK, "")))
    monkeypatch.setattr("taskruns.views.audit._KINDS", endless)
    with time_machine.travel(timezone.now(), tick=False) as clock:
        answer = client_of(ada).get(url)
        chunks = iter(answer)
        next(chunks)
        clock.shift(leases.EXTENDED_EVERY + timedelta(seconds=1))
        assert len(next(chunks)) == downloads.CHUNK, "the control"
        accounts.grant_site_role(ada, role=SiteRole.NONE, by=Actor.command())
        clock.shift(leases.EXTENDED_EVERY + timedelta(seconds=1))
        with pytest.raises(downloads.DownloadEnded):
            next(chunks)
        answer.close()
