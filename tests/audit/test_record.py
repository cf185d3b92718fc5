"""What `record()` writes, read back by an independent reader (`chain_reader.py`)."""

import json
import uuid
from datetime import UTC, datetime
from typing import Any

import pytest
from django.db import DatabaseError, connection, transaction

from taskruns.audit import Actor, EventType, Target, record
from taskruns.models import AuditChain, AuditEvent, Credential, Run, Task, Team, User
from tests.factories import actor

from .chain_reader import HASHED, ZEROS, assert_whole, stored, time_text

pytestmark = pytest.mark.usefixtures("any_details")

VERA = Actor(type="user", id="7", label="vera@example.com", role="viewer")


def chain_of(team: Team) -> str:
    return f"team:{team.pk}"


def test_a_row_has_exactly_the_documented_columns():
    names = {field.attname for field in AuditEvent._meta.concrete_fields}
    assert names == {"id", "hash", *HASHED}


def test_every_column_of_a_cancelled_run_is_written(team: Team, run: Run, oli: User):
    operation = uuid.uuid4()
    by = Actor(
        type="user",
        id=str(oli.pk),
        label=oli.email,
        role="operator",
        auth_method="password+totp",
        session_ref="0123456789abcdef",
        ip="192.0.2.7",
        user_agent="Firefox",
        request_id="req-1",
        person=oli,
    )
    before = datetime.now(tz=UTC)
    record(
        EventType.RUN_CANCEL,
        "requested",
        by=by,
        team=team,
        run=run,
        operation_id=operation,
        reason="wrong data",
        details={"status_before": "running"},
    )
    (row,) = assert_whole(chain_of(team), rows=1)
    at = datetime.fromisoformat(row.pop("at"))
    assert before <= at <= datetime.now(tz=UTC)
    assert uuid.UUID(row.pop("event_id")).version == 4
    assert len(row.pop("hash")) == 64
    assert row == {
        "schema": 1,
        "chain": f"team:{team.pk}",
        "seq": 1,
        "event": "run.cancel",
        "outcome": "requested",
        "actor_type": "user",
        "actor_id": str(oli.pk),
        "actor_label": "oli@example.com",
        "actor_role": "operator",
        "auth_method": "password+totp",
        "session_ref": "0123456789abcdef",
        "ip": "192.0.2.7",
        "user_agent": "Firefox",
        "request_id": "req-1",
        "operation_id": str(operation),
        "team_id": str(team.pk),
        "team_label": "Ops North",
        "target_type": "run",
        "target_id": str(run.pk),
        "target_label": run.task.name,
        "endpoint": run.endpoint,
        "task_id": run.task.arize_id,
        "run_id": run.arize_id,
        "credential_id": str(run.task.credential_id),
        "reason": "wrong data",
        "details": {"status_before": "running"},
        "prev_hash": ZEROS,
    }


def test_the_name_of_a_key_is_copied(team: Team, credential: Credential, mona: User):
    record(EventType.CREDENTIAL_ADD, "done", by=actor(mona), team=team, credential=credential)
    (row,) = assert_whole(chain_of(team), rows=1)
    assert (row["target_type"], row["target_id"], row["target_label"]) == (
        "credential",
        str(credential.pk),
        "Production",
    )
    assert (row["credential_id"], row["endpoint"]) == (str(credential.pk), credential.endpoint)


def test_a_row_outlives_its_target(team: Team, run: Run, oli: User):
    record(EventType.RUN_CANCEL, "requested", by=actor(oli), team=team, run=run)
    before = stored(chain_of(team))
    Run.objects.all().delete()
    Task.objects.all().delete()
    Credential.objects.all().delete()
    oli.delete()
    team_id = team.pk
    team.delete()
    assert stored(f"team:{team_id}") == before
    assert len(before) == 1


def test_a_row_without_a_team_is_in_the_sites_chain(db: None):
    record(EventType.PERSON_CREATE, "done", by=Actor(type="command"))
    (row,) = assert_whole("site", rows=1)
    assert row["team_id"] is row["operation_id"] is row["credential_id"] is None
    texts = ("actor_id", "actor_label", "actor_role", "auth_method", "session_ref", "ip", "user_agent", "request_id")
    texts += ("team_label", "target_type", "target_id", "target_label", "endpoint", "task_id", "run_id", "reason")
    assert {row[name] for name in texts} == {""}
    assert row["details"] == {}


def test_each_chain_has_its_own_numbers_and_links(team: Team, other_team: Team):
    for _ in range(3):
        record(EventType.TEAM_CHANGE, "done", by=VERA, team=team)
        record(EventType.TEAM_CHANGE, "done", by=VERA, team=other_team)
        record(EventType.TEAM_CREATE, "done", by=VERA)
    for chain in (chain_of(team), chain_of(other_team), "site"):
        rows = assert_whole(chain, rows=3)
        assert AuditChain.objects.get(chain=chain).hash == rows[-1]["hash"]


@pytest.mark.parametrize(
    "details",
    [
        {"text": 'grüße, 東京, \N{ROCKET}, e\u0301, \N{ZERO WIDTH JOINER}, </script>, "quoted", back\\slash'},
        {"largest": 2**63 - 1, "smallest": -(2**63) + 1, "beyond_a_double": 2**53 + 1, "zero": 0},
        {"yes": True, "no": False, "nothing": None, "empty": "", "none": [], "nobody": {}},
        {"z": {"y": [{"x": [1, "two", None, True]}, []]}, "a": {"B": 1, "b": 2, "é": 3, "_": 4}},
        {"changed": ("key", "endpoint")},
        {"\N{PILE OF POO}": "\N{REGIONAL INDICATOR SYMBOL LETTER D}", "1": 1, "10": 2, "2": 3},
    ],
)
def test_details_are_read_back_as_hashed(db: None, details: dict[str, Any]):
    record(EventType.RUN_EXPORT, "done", by=VERA, details=details)
    (row,) = assert_whole("site", rows=1)
    assert row["details"] == json.loads(json.dumps(details))


def test_integers_beyond_64_bits_are_clamped(db: None):
    record(EventType.RUN_EXPORT, "done", by=VERA, details={"high": 10**30, "low": -(10**30)})
    (row,) = assert_whole("site", rows=1)
    assert row["details"] == {"high": 2**63 - 1, "low": -(2**63 - 1)}


@pytest.mark.parametrize(
    "at",
    [
        datetime(2026, 11, 23, 3, 0, tzinfo=UTC),
        datetime(2026, 11, 23, 3, 0, 0, 1, tzinfo=UTC),
        datetime(2026, 11, 23, 3, 0, 0, 120000, tzinfo=UTC),
        datetime(2026, 11, 23, 3, 0, 0, 999999, tzinfo=UTC),
    ],
)
def test_times_keep_their_microseconds(db: None, at: datetime, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("django.utils.timezone.now", lambda: at)
    record(EventType.RUN_EXPORT, "done", by=VERA)
    (row,) = assert_whole("site", rows=1)
    assert row["at"] == f"2026-11-23T03:00:00.{at.microsecond:06}Z"


def test_the_model_reads_back_what_sql_reads(team: Team, run: Run, oli: User):
    written = record(EventType.RUN_CANCEL, "requested", by=actor(oli), team=team, run=run, details={"n": [1, None]})
    read = AuditEvent.objects.get(pk=written.pk)
    (row,) = stored(chain_of(team))
    for name in HASHED:
        value = getattr(read, name)
        value = time_text(value) if isinstance(value, datetime) else value
        assert (str(value) if isinstance(value, uuid.UUID) else value) == row[name]


def test_an_outcome_outside_the_catalogue_is_refused(db: None):
    with pytest.raises(ValueError, match="confirmed"):
        record(EventType.TEAM_CREATE, "confirmed", by=VERA)
    assert not AuditEvent.objects.exists()
    record(EventType.TEAM_CREATE, "done", by=VERA)
    assert AuditEvent.objects.count() == 1


@pytest.mark.parametrize("value", [1.0, 1e16, float("nan"), b"bytes", datetime(2026, 1, 1, tzinfo=UTC), {1, 2}])
def test_floats_and_other_foreign_values_are_refused_in_details(db: None, value: Any):
    for details in ({"x": value}, {"x": {"y": [value]}}):
        with pytest.raises(TypeError):
            record(EventType.RUN_EXPORT, "done", by=VERA, details=details)
    assert not AuditEvent.objects.exists()


def test_a_target_of_any_kind_keeps_its_name(db: None):
    record(EventType.MEMBER_ADD, "done", by=VERA, target=Target("member", "42", "oli@example.com"))
    (row,) = assert_whole("site", rows=1)
    assert (row["target_type"], row["target_id"], row["target_label"]) == ("member", "42", "oli@example.com")


SWALLOW = (
    [
        "CREATE FUNCTION eats() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$",
        "CREATE TRIGGER eats BEFORE UPDATE ON taskruns_auditchain FOR EACH ROW EXECUTE FUNCTION eats()",
    ]
    if connection.vendor == "postgresql"
    else ["CREATE TRIGGER eats BEFORE UPDATE ON taskruns_auditchain BEGIN SELECT RAISE(IGNORE); END"]
)


def test_a_trigger_that_keeps_the_head_is_an_error(db: None, oli: User):
    """Otherwise a second trigger that deletes the row would leave a log in which nothing seems to be missing."""
    with connection.cursor() as cursor:
        for statement in SWALLOW:
            cursor.execute(statement)
    with pytest.raises(DatabaseError), transaction.atomic():
        record(EventType.PERSON_CREATE, "done", by=actor(oli))
    assert not AuditEvent.objects.exists()
