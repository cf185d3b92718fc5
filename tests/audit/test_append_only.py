"""The log cannot be changed: the database, the model and the queryset refuse it."""

import uuid
from collections.abc import Callable
from typing import Any

import pytest
from django.core.management import call_command
from django.db import DatabaseError, connection, models, transaction

from taskruns.audit import Actor, EventType, record
from taskruns.audit.append_only import make_append_only
from taskruns.models import AuditEvent, Team
from taskruns.models.audit import AppendOnly

from .chain_reader import TABLE, assert_whole, stored

IS_POSTGRESQL = connection.vendor == "postgresql"
VERA = Actor(type="user", id="7", label="vera@example.com", role="viewer")

CHANGES = {
    "update": f"UPDATE {TABLE} SET reason = 'another'",
    "update of one": f"UPDATE {TABLE} SET outcome = 'denied' WHERE seq = 2",
    "update of nothing": f"UPDATE {TABLE} SET reason = reason",
    "delete": f"DELETE FROM {TABLE}",
    "delete of the tail": f"DELETE FROM {TABLE} WHERE seq = 3",
}
SQLITE_CHANGES = {
    "update or replace": f"UPDATE OR REPLACE {TABLE} SET seq = 1 WHERE seq = 2",
    "replace by primary key": f"INSERT OR REPLACE INTO {TABLE} SELECT * FROM {TABLE} WHERE seq = 2",
    "upsert": f"""INSERT INTO {TABLE} SELECT * FROM {TABLE} WHERE seq = 2
                  ON CONFLICT (id) DO UPDATE SET reason = 'another'""",
}
POSTGRESQL_CHANGES = {
    "truncate": f"TRUNCATE {TABLE}",
    "truncate cascade": f"TRUNCATE {TABLE} RESTART IDENTITY CASCADE",
    "upsert": f"""INSERT INTO {TABLE} SELECT * FROM {TABLE} WHERE seq = 2
                  ON CONFLICT (id) DO UPDATE SET reason = 'another'""",
    "delete by a common table expression": f"""WITH gone AS (DELETE FROM {TABLE} RETURNING id) SELECT * FROM gone""",
}
STATEMENTS = CHANGES | (POSTGRESQL_CHANGES if IS_POSTGRESQL else SQLITE_CHANGES)


@pytest.fixture(autouse=True)
def _three_rows(db: None) -> None:
    with transaction.atomic():
        for number in range(3):
            record(EventType.TEAM_CREATE, "done", by=VERA, reason=f"reason {number}")


def execute(statement: str) -> None:
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(statement)


def triggers_in_place() -> set[str]:
    query = (
        "SELECT tgname FROM pg_trigger WHERE NOT tgisinternal AND tgrelid = %s::regclass"
        if IS_POSTGRESQL
        else "SELECT name FROM sqlite_master WHERE type = 'trigger' AND tbl_name = %s"
    )
    with connection.cursor() as cursor:
        cursor.execute(query, [TABLE])
        return {name for (name,) in cursor.fetchall()}


@pytest.mark.parametrize("statement", STATEMENTS.values(), ids=STATEMENTS)
def test_the_database_refuses_changes(statement: str):
    before = stored("site")
    with pytest.raises(DatabaseError, match="append-only"):
        execute(statement)
    assert stored("site") == before
    assert_whole("site", rows=3)


@pytest.mark.parametrize("column", ["id", "event_id", "chain_and_seq"])
def test_the_database_refuses_to_replace_a_row(column: str):
    """For each unique column by which SQLite's REPLACE would delete the old row."""
    row = AuditEvent.objects.get(seq=2)
    values = {field.attname: getattr(row, field.attname) for field in AuditEvent._meta.concrete_fields}
    values |= {"reason": "another"}
    if column != "id":
        values["id"] = 999
    if column != "event_id":
        values["event_id"] = uuid.uuid4()
    if column != "chain_and_seq":
        values["seq"] = 999
    with pytest.raises(DatabaseError), transaction.atomic():
        replace_into(values)
    assert_whole("site", rows=3)
    values |= {"id": 1000, "event_id": uuid.uuid4(), "seq": 1000}
    replace_into(values)
    assert AuditEvent.objects.filter(reason="another").count() == 1


def replace_into(values: dict[str, Any]) -> None:
    fields = {field.attname: field for field in AuditEvent._meta.concrete_fields}
    prepared = [fields[name].get_db_prep_save(value, connection) for name, value in values.items()]
    verb = "INSERT" if IS_POSTGRESQL else "INSERT OR REPLACE"
    with connection.cursor() as cursor:
        marks = ", ".join(["%s"] * len(values))
        cursor.execute(f"{verb} INTO {TABLE} ({', '.join(values)}) VALUES ({marks})", prepared)


def change_and_save() -> None:
    row = AuditEvent.objects.get(seq=1)
    row.reason = "another"
    row.save()


def save_as_if_new() -> None:
    row = AuditEvent.objects.get(seq=1)
    row.reason, row._state.adding = "another", True
    row.save()


def change_many() -> None:
    rows = list(AuditEvent.objects.all())
    AuditEvent.objects.bulk_update(rows, ["reason"])


def upsert_many() -> None:
    rows = list(AuditEvent.objects.all())
    AuditEvent.objects.bulk_create(rows, update_conflicts=True, unique_fields=["event_id"], update_fields=["reason"])


BY_MODEL: dict[str, Callable[[], object]] = {
    "save": change_and_save,
    "save with update_fields": lambda: AuditEvent.objects.get(seq=1).save(update_fields=["reason"]),
    "delete": lambda: AuditEvent.objects.get(seq=1).delete(),
    "queryset update": lambda: AuditEvent.objects.filter(seq=1).update(reason="another"),
    "queryset delete": lambda: AuditEvent.objects.filter(seq=1).delete(),
    "delete of all": lambda: AuditEvent.objects.all().delete(),
    "bulk_update": change_many,
    "bulk_create": lambda: AuditEvent.objects.bulk_create([AuditEvent(chain="site", seq=4)]),
    "bulk_create that updates": upsert_many,
    "bulk_create that ignores": lambda: AuditEvent.objects.bulk_create([], ignore_conflicts=True),
    "create": lambda: AuditEvent.objects.create(chain="site", seq=4),
    "update_or_create": lambda: AuditEvent.objects.update_or_create(seq=1, defaults={"reason": "another"}),
    "get_or_create": lambda: AuditEvent.objects.get_or_create(seq=4, chain="site"),
}


@pytest.mark.parametrize("change", BY_MODEL.values(), ids=BY_MODEL)
def test_model_and_queryset_refuse_changes(change: Callable[[], object]):
    before = stored("site")
    with pytest.raises(AppendOnly, match="append-only"):
        change()
    assert stored("site") == before


@pytest.mark.parametrize(
    "change",
    [
        save_as_if_new,
        lambda: models.QuerySet(AuditEvent).update(reason="another"),
        lambda: models.QuerySet(AuditEvent).filter(seq=3).delete(),
        lambda: AuditEvent._base_manager.filter(seq=3).update(reason="another"),
        lambda: AuditEvent.objects.filter(seq=3)._raw_delete(using="default"),
        lambda: models.Model.delete(AuditEvent.objects.get(seq=3)),
    ],
)
def test_bypassing_the_model_fails_in_the_database(change: Callable[[], object]):
    before = stored("site")
    with pytest.raises((AppendOnly, DatabaseError)), transaction.atomic():
        change()
    assert stored("site") == before


def test_the_same_statements_work_on_a_table_without_triggers():
    """The control: the triggers refuse, and the statements are valid."""
    Team.objects.create(slug="one", name="One")
    execute("UPDATE taskruns_team SET name = 'another'")
    assert Team.objects.filter(name="another").update(name="One") == 1
    execute("DELETE FROM taskruns_team")
    assert not Team.objects.exists()


def test_writing_works_after_a_refusal():
    with pytest.raises(DatabaseError):
        execute(f"DELETE FROM {TABLE}")
    record(EventType.TEAM_CREATE, "done", by=VERA)
    assert_whole("site", rows=4)


def test_making_it_append_only_twice_changes_nothing():
    before = triggers_in_place()
    assert before
    make_append_only(connection)
    make_append_only(connection)
    assert triggers_in_place() == before
    with pytest.raises(DatabaseError, match="append-only"):
        execute(f"DELETE FROM {TABLE}")


@pytest.mark.commits
def test_triggers_return_after_django_rebuilds_the_table(committed: None):
    """SQLite silently drops a table's triggers when a migration alters a field."""
    before = triggers_in_place()
    alter_reason(512, 513)
    assert triggers_in_place() == (before if IS_POSTGRESQL else set())
    alter_reason(513, 512)
    call_command("migrate", verbosity=0)
    assert triggers_in_place() == before
    with transaction.atomic():
        record(EventType.TEAM_CREATE, "done", by=VERA)
    assert_whole("site", rows=4)
    with pytest.raises(DatabaseError, match="append-only"):
        execute(f"UPDATE {TABLE} SET reason = 'another'")


def alter_reason(before: int, after: int) -> None:
    old, new = (models.CharField(max_length=length, blank=True) for length in (before, after))
    for field in (old, new):
        field.set_attributes_from_name("reason")
        field.model = AuditEvent
    with connection.schema_editor() as editor:
        editor.alter_field(AuditEvent, old, new, strict=True)
