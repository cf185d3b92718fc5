"""/metrics: who may read it, what it says, and that its cost does not grow with the number of runs."""

from datetime import timedelta
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.db import DatabaseError, connection, transaction
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from huey.contrib.djhuey import HUEY
from prometheus_client.parser import text_string_to_metric_families

from config import environment
from taskruns import __version__
from taskruns.audit import EventType, record
from taskruns.models import (
    BatchSource,
    BatchState,
    CancelBatch,
    CancelItem,
    Cancellation,
    Credential,
    EmergencyStop,
    Heartbeat,
    KeyUsage,
    Run,
    Status,
    Task,
    Team,
    User,
)
from taskruns.pages import metrics
from tests.clients import ClientOf
from tests.factories import CANARY, actor, make_credential, make_run
from tests.secret_search import pieces
from tests.stored import events

TOKEN = "a-token-of-prometheus-0123"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


@pytest.fixture(autouse=True)
def _token(settings: Any) -> None:
    settings.METRICS_TOKEN = TOKEN


def read(client: Client) -> Samples:
    """Name without `taskruns_`, and labels -> value."""
    answer = client.get("/metrics", headers=BEARER)
    assert answer.status_code == 200
    families = list(text_string_to_metric_families(answer.content.decode()))
    assert len({family.name for family in families}) == len(families)
    assert all(family.documentation and family.type in {"gauge", "counter"} for family in families)
    return {
        (sample.name.removeprefix("taskruns_"), tuple(sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


def labels(**given: str) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(given.items()))


# --- Who may read it


def test_without_a_token_there_is_no_such_page(client: Client, db: None, settings: Any):
    settings.METRICS_TOKEN = ""
    answer = client.get("/metrics", headers={"Authorization": "Bearer "})
    unknown = client.get("/metrical")
    assert answer.status_code == unknown.status_code == 404


@pytest.mark.parametrize(
    "sent",
    [None, "", TOKEN, "Bearer", "Bearer ", f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}", f"Basic {TOKEN}", "Bearer ü"],
)
def test_only_the_token_opens_it(sent: str | None, client: Client, db: None):
    answer = client.get("/metrics", headers={} if sent is None else {"Authorization": sent})
    assert (answer.status_code, answer.content) == (401, b"unauthorized\n")
    assert answer["WWW-Authenticate"] == "Bearer"
    assert not answer.cookies


def test_a_session_opens_nothing(adam: User, client_of: ClientOf):
    assert client_of(adam).get("/metrics").status_code == 401


def test_it_needs_no_host_name_and_sets_no_cookie(client: Client, db: None):
    answer = client.get("/metrics", headers=BEARER | {"Host": "10.1.2.3:8000"})
    assert answer.status_code == 200
    assert not answer.cookies
    assert answer["Content-Type"].startswith("text/plain; version=")
    assert "no-store" in answer["Cache-Control"]
    assert client.post("/metrics", headers=BEARER).status_code == 405


def test_an_unreachable_database_is_a_503(client: Client, db: None, monkeypatch: Any):
    def down(*_: Any) -> None:
        raise DatabaseError("s3kr3t")

    monkeypatch.setattr("taskruns.services.heartbeats.database_now", down)
    answer = client.get("/metrics", headers=BEARER)
    assert answer.status_code == 503
    assert b"s3kr3t" not in answer.content


@pytest.mark.parametrize("value", ["s3kr3t", "s3kr3t with blanks 0123456789", "a" * 40, "s3kr3t-" + "x" * 200])
def test_a_weak_token_stops_the_start(value: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("METRICS_TOKEN", value)
    with pytest.raises(ImproperlyConfigured, match=r"^METRICS_TOKEN is too weak: [^\n]*\.$") as refused:
        environment.metrics_token()
    assert "s3kr3t" not in str(refused.value)
    monkeypatch.setenv("METRICS_TOKEN", TOKEN)
    assert environment.metrics_token() == TOKEN
    monkeypatch.setenv("METRICS_TOKEN", "")
    assert environment.metrics_token() == ""


# --- What it says


def test_an_empty_panel_has_figures(client: Client, db: None):
    found = read(client)
    build = {name: dict(given) for name, given in found if name == "build_info"}["build_info"]
    assert (build["version"], build["database"]) == (__version__, connection.vendor)
    assert found["sessions", ()] == found["emergency_stops_holding", ()] == 0
    assert ("queue_jobs", ()) not in found, "no worker has seen the queue"


def test_runs_are_counted_by_team_and_status(client: Client, run: Run, other_team: Team):
    make_run(run.task, status=Status.PENDING)
    make_run(run.task, status=Status.FAILED)
    yesterday = timezone.now() - timedelta(hours=25)
    make_run(run.task, status=Status.FAILED, created_at=yesterday)
    make_run(run.task, status=Status.COMPLETED, created_at=yesterday, run_finished_at=timezone.now())
    make_run(run.task, status=Status.UNKNOWN)
    make_run(run.task, status=Status.UNKNOWN, created_at=yesterday)
    found = read(client)
    of_runs = {(name, *dict(given).values()): value for (name, given), value in found.items() if "runs_" in name}
    counts = {(name, team, status): value for (name, status, team), value in of_runs.items()}
    assert counts["runs_active", "ops-north", "running"] == counts["runs_active", "ops-north", "pending"] == 1
    for status in ("failed", "completed", "unknown"):
        assert counts["runs_ended_24h", "ops-north", status] == 1, status
    assert counts["runs_active", "ops-south", "running"] == counts["runs_ended_24h", "ops-south", "failed"] == 0
    assert {status for name, _, status in counts if name == "runs_ended_24h"} == {
        *("completed", "failed", "cancelled", "unknown", "gone"),
    }
    Team.objects.filter(pk=other_team.pk).update(archived_at=timezone.now())
    assert not [given for name, given in read(client) if ("team", "ops-south") in given]


def test_keys_have_ages_calls_and_faults(client: Client, run: Run, credential: Credential):
    now = timezone.now()
    Run.objects.update(observed_at=now - timedelta(seconds=90))
    Task.objects.update(searched_at=now - timedelta(seconds=40))
    Credential.objects.update(
        tasks_listed_from=now - timedelta(seconds=30), next_refresh_at=now - timedelta(seconds=20), tasks_read_at=now
    )
    KeyUsage.objects.create(credential=credential, hour=now - timedelta(hours=2), calls=40, limited=3)
    KeyUsage.objects.create(credential=credential, hour=now - timedelta(hours=30), calls=1_000, limited=9)
    found, key = read(client), labels(team="ops-north", key=str(credential.pk))
    assert found["key_failing", key] == 0
    assert 90 <= found["key_oldest_reading_seconds", key] < 100
    assert 40 <= found["key_oldest_search_seconds", key] < 50
    assert 20 <= found["oldest_due_reading_seconds", ()] < 30
    assert (found["key_calls_24h", key], found["key_limited_calls_24h", key]) == (40, 3)
    Credential.objects.update(failing_since=now)
    found = read(client)
    assert found["key_failing", key] == 1
    assert ("key_oldest_reading_seconds", key) not in found


def test_cancels_batches_and_stops_are_counted(client: Client, run: Run, oli: User, team: Team):
    for outcome in ("requested", "confirmed", "requested", "unknown", "requested", "confirmed"):
        record_cancel(run, oli, outcome)
    Cancellation.objects.create(
        run=run, person_label="oli", posted_at=None, requested_at=timezone.now() - timedelta(seconds=50)
    )
    batch = CancelBatch.objects.create(team=team, source=BatchSource.SELECTION, state=BatchState.WORKING)
    draft = CancelBatch.objects.create(team=team, source=BatchSource.SELECTION)
    for of in (batch, draft):
        CancelItem.objects.create(batch=of, run=run)
    EmergencyStop.objects.create(team=team, person_label="oli", person_role="operator", reason="why")
    found = read(client)
    assert found["cancels_1h", labels(outcome="confirmed")] == 2
    assert found["cancels_1h", labels(outcome="unknown")] == 1
    assert found["cancels_1h", labels(outcome="not_sent")] == 0
    assert ("cancels_1h", labels(outcome="requested")) not in found
    assert 50 <= found["oldest_unsent_cancel_seconds", ()] < 60
    assert found["batch_items", labels(state="queued")] == 1
    assert found["emergency_stops_holding", ()] == 1
    assert found["audit_rows_total", labels(log="ops-north")] == 6
    assert found["audit_unanchored_rows", labels(log="ops-north")] == 6


def record_cancel(run: Run, person: User, outcome: str) -> None:
    with transaction.atomic():
        record(EventType.RUN_CANCEL, outcome, by=actor(person), team=run.team, run=run)


def test_heartbeats_and_queue_are_shown(client: Client, db: None, monkeypatch: Any):
    Heartbeat.objects.create(name="worker", seen_at=timezone.now() - timedelta(seconds=30))
    Heartbeat.objects.create(name="queue", seen_at=timezone.now() - timedelta(seconds=20))
    monkeypatch.setattr(HUEY.storage, "queue_size", lambda: 7)
    found = read(client)
    assert 30 <= found["heartbeat_age_seconds", labels(name="worker")] < 40
    assert found["queue_jobs", ()] == 7

    def down() -> None:
        raise ConnectionError

    monkeypatch.setattr(HUEY.storage, "queue_size", down)
    assert ("queue_jobs", ()) not in read(client)


def test_no_name_or_secret_is_shown(client: Client, run: Run, credential: Credential, mona: User):
    Task.objects.update(name="A secret project")
    make_credential(run.team, name="Key of a customer", key=CANARY)
    text = client.get("/metrics", headers=BEARER).content.decode()
    for hidden in ("secret project", "customer", "Production", mona.email, run.arize_id, *pieces(CANARY)):
        assert hidden not in text
    assert events() == []


def test_the_number_of_queries_does_not_depend_on_the_data(client: Client, run: Run, other_team: Team):
    with CaptureQueriesContext(
        connection,
    ) as few:
        metrics.text()
    for number in range(20):
        make_run(run.task, status=Status.FAILED)
        make_credential(run.team, name=f"Key {number}")
    with CaptureQueriesContext(connection) as many:
        metrics.text()
    assert len(few) == len(many) <= 20


def test_counts_are_capped(client: Client, run: Run, monkeypatch: Any):
    monkeypatch.setattr(metrics, "MOST", 5)
    for _ in range(8):
        make_run(run.task, status=Status.RUNNING)
    assert read(client)["runs_active", labels(team="ops-north", status="running")] == 5
