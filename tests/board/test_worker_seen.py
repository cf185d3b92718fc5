"""The board says when the worker was not seen or the queue does not answer, and waits for neither."""

import re
import sqlite3
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

import psycopg
import pytest
import time_machine
from django.db import connection
from django.test import Client

from taskruns.models import Credential, Heartbeat, Run, Team, User
from taskruns.services import minor_writes
from taskruns.services.rare_lines import Rarely
from tests.batches.worker_stack import database_url
from tests.clients import ClientOf

NOW = datetime.fromisoformat("2026-11-23T03:00:00+00:00")
TABLE = "/teams/ops-north/runs/table/"


@pytest.fixture
def clock() -> Iterator[Any]:
    with time_machine.travel(NOW, tick=False) as clock:
        yield clock


@pytest.fixture
def client(clock: Any, oli: User, credential: Credential, client_of: ClientOf) -> Client:
    Credential.objects.update(last_good_at=NOW, first_contact_done_at=NOW)
    return client_of(oli)


def poll(client: Client, etag: str = "") -> Any:
    return client.get(TABLE, headers={"HX-Request": "true"} | ({"If-None-Match": etag} if etag else {}))


def seen(*names: str) -> None:
    for name in names:
        Heartbeat.objects.update_or_create(name=name, defaults={"seen_at": datetime.now(tz=NOW.tzinfo)})


def test_an_open_board_says_within_half_a_minute_that_the_worker_is_away(client: Client, clock: Any) -> None:
    seen("worker", "queue")
    etag = poll(client)["ETag"]
    clock.shift(20)
    assert poll(client, etag).status_code == 304
    clock.shift(5)
    for seconds, words in ((25, "for 20 s"), (45, "for 40 s"), (60, "for 1 min"), (200, "for 3 min")):
        clock.move_to(NOW + timedelta(seconds=seconds))
        answer = poll(client, etag)
        assert f"worker has not been seen {words}, so nothing is read" in answer.content.decode()
        etag = answer["ETag"]
        clock.shift(4)
        assert poll(client, etag).status_code == 304, "the text changes rarely"
    seen("worker", "queue")
    answer = poll(client, etag)
    assert answer.status_code == 200
    assert "has not been seen" not in answer.content.decode()


def test_an_open_board_says_that_only_the_queue_is_away(client: Client, clock: Any) -> None:
    seen("worker", "queue")
    etag = poll(client)["ETag"]
    clock.shift(30)
    seen("worker")
    text = poll(client, etag).content.decode()
    assert "queue has not answered for 30 s. Runs are still read" in text
    assert "nothing is read" not in text


def test_a_heartbeat_in_the_future_is_not_believed(client: Client, clock: Any) -> None:
    clock.shift(3_600)
    seen("worker", "queue")
    clock.move_to(NOW)
    assert "worker has not been seen for 1 h" in poll(client).content.decode()


def test_a_panel_whose_worker_never_ran_says_nothing_of_it(client: Client) -> None:
    assert "has not been seen" not in poll(client).content.decode()


@pytest.mark.parametrize(("arize", "said_in_all"), [("read", 13), ("silent", 2)])
def test_an_unchanged_answer_never_hides_what_the_board_says_of_the_worker(
    arize: str, said_in_all: int, client: Client, clock: Any
) -> None:
    """The worker dies and comes back while Arize is silent, or while another process reads (`refresh`)."""
    Heartbeat.objects.all().delete()
    if arize == "silent":
        Credential.objects.update(last_good_at=NOW - timedelta(minutes=30))
    etag, said, heard = "", "", set()
    for seconds in range(0, 900, 10):
        clock.move_to(NOW + timedelta(seconds=seconds))
        if arize == "read":
            Credential.objects.update(last_good_at=NOW + timedelta(seconds=seconds))
        if seconds in range(100, 200) or seconds in range(800, 900):
            seen("worker", "queue")
        answer = poll(client, etag)
        now = sentences(poll(client))
        if answer.status_code == 304:
            assert now == said, f"after {seconds} s"
        etag, said = answer["ETag"], now
        heard |= set(now)
    assert len(heard) == said_in_all, "the control"


def sentences(answer: Any) -> list[str]:
    text = " ".join(re.sub(r"<[^>]+>", " ", answer.content.decode()).split())
    return re.findall(r"[^.]*(?:worker|unusually long)[^.]*\.", text)


def test_an_open_board_that_is_late_learns_of_the_first_heartbeat(client: Client, clock: Any) -> None:
    Credential.objects.update(last_good_at=NOW - timedelta(minutes=30))
    first = poll(client)
    assert "worker is not running" in first.content.decode()
    clock.shift(5)
    assert poll(client, first["ETag"]).status_code == 304
    seen("worker", "queue")
    clock.shift(5)
    answer = poll(client, first["ETag"])
    assert answer.status_code == 200
    assert "unusually long" in answer.content.decode()


@contextmanager
def foreign_writer() -> Iterator[None]:
    """Another program that has locked the database, or on PostgreSQL the rows that a board writes."""
    if connection.vendor == "sqlite":
        foreign: Any = sqlite3.connect(connection.settings_dict["NAME"], isolation_level=None)
        foreign.execute("BEGIN IMMEDIATE")
    else:
        foreign = psycopg.connect(database_url())
        foreign.execute("SELECT 1 FROM taskruns_team, taskruns_user FOR UPDATE")
    try:
        yield
    finally:
        foreign.rollback()
        foreign.close()


@pytest.mark.commits
def test_a_board_does_not_wait_for_a_foreign_writer(
    committed: None, run: Run, oli: User, client_of: ClientOf, caplog: Any, monkeypatch: Any
) -> None:
    monkeypatch.setattr(minor_writes, "_complaints", defaultdict(Rarely))
    client = client_of(oli)
    etag = poll(client)["ETag"]
    Team.objects.update(watched_at=None)
    with foreign_writer():
        for sent, status in (("", 200), (etag, 304)):
            began = time.monotonic()
            assert poll(client, sent).status_code == status
            assert time.monotonic() - began < 5, "not the 30 s of other writes"
        began = time.monotonic()
        assert client.get("/teams/ops-north/runs/").status_code == 200
        assert time.monotonic() - began < 5, "the page also remembers the team"
    assert caplog.text.count("'what': 'attention'") == 1, "one line a minute"
    assert Team.objects.get(pk=run.team_id).watched_at is None
    poll(client)
    assert Team.objects.get(pk=run.team_id).watched_at is not None, "the control"
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA busy_timeout" if connection.vendor == "sqlite" else "SHOW lock_timeout")
        assert cursor.fetchone()[0] in {30_000, "0"}, "other writes wait as before"
