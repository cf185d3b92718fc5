"""Of the anchors older than 90 days, the last of each day stays. The database refuses to delete any other."""

import json
import logging
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import time_machine
from django.core.cache import cache
from django.core.management import call_command
from django.db import DatabaseError, connection, transaction

from taskruns import jobs
from taskruns.audit import Actor, EventType, record
from taskruns.audit.anchors import anchor_chain, publish
from taskruns.audit.append_only import missing_triggers
from taskruns.models import AnchorToPublish, AuditAnchor, Team
from taskruns.services.audit import thinning, verification
from taskruns.services.audit.rows import ANCHOR, stream_values
from tests.database_refusals import lift_triggers

from .exports import Auditor, exported
from .tampering import ANCHORS, IS_POSTGRESQL, delete, edit, found, recompute, set_head, sql, without_triggers
from .verifying import verify

VERA = Actor(type="user", id="7", label="vera@example.com", role="viewer")
# The triggers go by the database's clock, which tests cannot move.
TODAY = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
NOTE = (
    "note: of the anchors older than 90 days, the database keeps the last of each day: "
    "only an anchor file has the others"
)


def at(days: int, clock: str, team: Team | None, *, rows: int = 1) -> None:
    """Write rows that are `days` old, and anchor the last of them."""
    unanchored(days, clock, team, rows=rows)
    with time_machine.travel(moment(days, clock), tick=False):
        assert anchor_chain(f"team:{team.pk}" if team else "site")


def unanchored(days: int, clock: str, team: Team | None, *, rows: int) -> None:
    with time_machine.travel(moment(days, clock), tick=False):
        for _ in range(rows):
            with transaction.atomic():
                record(EventType.TEAM_CHANGE, "done", by=VERA, team=team)


def moment(days: int, clock: str) -> datetime:
    hours, minutes = map(int, clock.split(":"))
    return TODAY - timedelta(days=days) + timedelta(hours=hours, minutes=minutes)


@pytest.fixture
def chain(team: Team, db: None) -> str:
    for days, clock in ((100, "03:00"), (100, "03:05"), (100, "23:59"), (99, "00:01"), (99, "12:00"), (98, "12:00")):
        at(days, clock, team)
    for clock in ("08:00", "09:00"):
        at(89, clock, team)
    at(100, "03:00", None)
    at(100, "03:04", None)
    return f"team:{team.pk}"


KEPT, GONE = [3, 5, 6, 7, 8], [1, 2, 4]


def numbers(chain: str) -> list[int]:
    return list(AuditAnchor.objects.filter(chain=chain).order_by("seq").values_list("seq", flat=True))


def lines(chain: str) -> list[dict[str, Any]]:
    return list(stream_values(AuditAnchor.objects.filter(chain=chain), ANCHOR))


def refused(statement: str, *values: object) -> None:
    before = list(AuditAnchor.objects.order_by("pk").values_list("pk", flat=True))
    with pytest.raises(DatabaseError, match="append-only"), transaction.atomic():
        sql(statement, *values)
    assert list(AuditAnchor.objects.order_by("pk").values_list("pk", flat=True)) == before


def test_the_worker_keeps_the_last_anchor_of_each_old_day(chain: str, caplog: Any) -> None:
    caplog.set_level(logging.INFO)
    assert not jobs.do_chore("thin_anchors")
    assert (numbers(chain), numbers("site")) == (KEPT, [2])
    (line,) = [record.msg for record in caplog.records if "audit_anchors_thinned" in str(record.msg)]
    assert line["deleted"] == {chain: 3, "site": 1}
    caplog.clear()
    assert not jobs.do_chore("thin_anchors")
    assert "audit_anchors_thinned" not in caplog.text
    assert "thin_anchors" in jobs.HOURLY


def test_many_anchors_are_thinned_in_chunks(chain: str, monkeypatch: Any) -> None:
    monkeypatch.setattr(thinning, "CHUNK", 1)
    monkeypatch.setattr(thinning, "MOST", 2)
    assert jobs.do_chore("thin_anchors"), "there is more"
    assert len(numbers(chain)) + len(numbers("site")) == 8
    while jobs.do_chore("thin_anchors"):
        pass
    assert (numbers(chain), numbers("site")) == (KEPT, [2])


@pytest.mark.parametrize("seq", KEPT)
def test_the_database_refuses_to_delete_any_other_anchor(chain: str, seq: int) -> None:
    """The last of each day, the newest, and all that are younger than 90 days."""
    refused(f"DELETE FROM {ANCHORS} WHERE chain = %s AND seq = %s", chain, seq)


@pytest.mark.parametrize("seq", GONE)
def test_the_database_allows_the_deletion_of_these_only(chain: str, seq: int) -> None:
    sql(f"DELETE FROM {ANCHORS} WHERE chain = %s AND seq = %s", chain, seq)
    assert seq not in numbers(chain)


def test_values_of_another_type_allow_no_deletion(chain: str) -> None:
    columns = "hash, key_id, signature"
    copy = (
        f"INSERT INTO {ANCHORS} (chain, seq, signed_at, {columns}) SELECT chain, {{}}, {{}}, {columns} FROM {ANCHORS}"
    )
    as_text = copy.format("'later'", "signed_at")
    if IS_POSTGRESQL:
        with pytest.raises(DatabaseError), transaction.atomic():  # its columns hold values of their type only
            sql(f"{as_text} WHERE chain = %s AND seq = 3", chain)
        return
    sql(f"{as_text} WHERE chain = %s AND seq = 3", chain)
    refused(f"DELETE FROM {ANCHORS} WHERE chain = %s AND seq = 3", chain)
    for seq in (11, 12):
        sql(f"{copy.format(seq, 1)} WHERE chain = %s AND seq = 3", chain)
    refused(f"DELETE FROM {ANCHORS} WHERE chain = %s AND seq = 11", chain)


def test_one_anchor_too_many_refuses_the_whole_statement(chain: str) -> None:
    refused(f"DELETE FROM {ANCHORS}")
    refused(f"DELETE FROM {ANCHORS} WHERE chain = %s AND seq IN (1, 2, 3)", chain)
    refused(f"DELETE FROM {ANCHORS} WHERE chain = %s AND seq IN (4, 5)", chain)


def test_anchors_still_refuse_changes_and_events_deletion(chain: str) -> None:
    refused(f"UPDATE {ANCHORS} SET signed_at = signed_at WHERE seq = 1")
    refused("DELETE FROM taskruns_auditevent WHERE seq = 1")
    if IS_POSTGRESQL:
        refused(f"UPDATE {ANCHORS} SET seq = 1 WHERE false")
        refused(f"TRUNCATE {ANCHORS}")


def test_an_anchor_of_another_chain_does_not_count(chain: str, team: Team) -> None:
    at(95, "10:00", team)
    at(95, "11:00", None)
    refused(f"DELETE FROM {ANCHORS} WHERE chain = %s AND seq = 9", chain)


def test_a_table_of_the_same_name_does_not_deceive_the_trigger(chain: str) -> None:
    """On PostgreSQL a temporary table hides the real one, and functions may be defined in another schema."""
    schema = "public" if IS_POSTGRESQL else "main"
    sql(f"CREATE TEMPORARY TABLE {ANCHORS} AS SELECT * FROM {schema}.{ANCHORS}")
    try:
        sql(f"UPDATE {ANCHORS} SET seq = seq + 1000, id = id + 1000")
        assert numbers(chain)[0] > 1000, "the control: it hides the real one"
        with pytest.raises(DatabaseError, match="append-only"), transaction.atomic():
            sql(f"DELETE FROM {schema}.{ANCHORS} WHERE chain = %s AND seq = 3", chain)
    finally:
        sql(f"DROP TABLE {'pg_temp' if IS_POSTGRESQL else 'temp'}.{ANCHORS}")
    assert 3 in numbers(chain)


def plant(chain: str, seq: int, signed_at: datetime) -> None:
    anchor = AuditAnchor(chain=chain, seq=seq, hash="0" * 64, key_id="0" * 16, signature="AAAA", signed_at=signed_at)
    anchor.save(force_insert=True)


def test_planted_anchors_stay_and_take_no_place(chain: str) -> None:
    """A planted anchor is evidence, and the last one of the panel's own must stay with it."""
    plant(chain, 2, TODAY - timedelta(days=100) + timedelta(hours=4))
    plant(chain, 900, TODAY - timedelta(days=98) + timedelta(hours=13))
    jobs.thin_anchors()
    assert numbers(chain) == [2, *KEPT, 900]


def test_anchors_that_wait_for_the_file_stay(chain: str, anchor_file: Path) -> None:
    waiting = AuditAnchor.objects.get(chain=chain, seq=1)
    AnchorToPublish.objects.create(anchor=waiting)
    jobs.thin_anchors()
    assert numbers(chain) == [1, *KEPT]
    publish()
    assert json.loads(anchor_file.read_text())["seq"] == 1
    jobs.thin_anchors()
    assert numbers(chain) == KEPT


@pytest.fixture
def without_the_right_to_delete(chain: str) -> Iterator[None]:
    """On PostgreSQL the panel's role may be another than the owner of the tables."""
    if not IS_POSTGRESQL:
        yield
        return
    with connection.cursor() as cursor:
        cursor.execute("SELECT rolsuper FROM pg_roles WHERE rolname = current_user")
        (is_superuser,) = cursor.fetchone()
        if is_superuser:  # whom no revocation concerns
            cursor.execute("CREATE ROLE app_in_test")
            cursor.execute("GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO app_in_test")
            cursor.execute("GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO app_in_test")
            cursor.execute(f"REVOKE DELETE ON {ANCHORS} FROM app_in_test")
            cursor.execute("SET LOCAL ROLE app_in_test")
        else:
            cursor.execute(f"REVOKE DELETE ON {ANCHORS} FROM CURRENT_USER")
        yield
        cursor.execute("RESET ROLE")


def warnings(caplog: Any) -> list[str]:
    said = [record.msg for record in caplog.records if isinstance(record.msg, dict)]
    return [line["problem"] for line in said if line["event"] == "audit_anchors_not_thinned"]


def test_a_role_that_may_not_delete_says_so_once_a_day(
    chain: str, without_the_right_to_delete: None, caplog: Any, monkeypatch: Any
) -> None:
    cache.clear()
    if not IS_POSTGRESQL:
        monkeypatch.setattr(thinning, "why_not_thinned", lambda: "it may not delete")
    for _ in range(3):
        assert not jobs.do_chore("thin_anchors")
    assert len(warnings(caplog)) == 1
    assert "may not delete" in warnings(caplog)[0]
    assert len(numbers(chain)) == 8
    with time_machine.travel(datetime.now(UTC) + timedelta(days=1, minutes=1)):
        jobs.do_chore("thin_anchors")
    assert len(warnings(caplog)) == 2


_WHEN = f"BEFORE UPDATE OR DELETE OR TRUNCATE ON {ANCHORS} FOR EACH STATEMENT EXECUTE FUNCTION taskruns_append_only()"
_REFUSES = "BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END"
OLD_TRIGGERS = (
    [
        f"DROP TRIGGER {ANCHORS}_thinning ON {ANCHORS}",
        f"CREATE OR REPLACE TRIGGER {ANCHORS}_append_only {_WHEN}",
    ]
    if IS_POSTGRESQL
    else [
        f"DROP TRIGGER {ANCHORS}_no_delete",
        f"CREATE TRIGGER {ANCHORS}_no_delete BEFORE DELETE ON {ANCHORS} {_REFUSES}",
    ]
)


def test_migrate_replaces_the_triggers_of_an_earlier_release(chain: str, caplog: Any) -> None:
    cache.clear()
    for statement in OLD_TRIGGERS:
        sql(statement)
    refused(f"DELETE FROM {ANCHORS} WHERE chain = %s AND seq = 1", chain)
    assert not jobs.do_chore("thin_anchors")
    assert "Run manage.py migrate" in warnings(caplog)[0]
    assert missing_triggers(connection), "verification reports it"
    call_command("migrate", verbosity=0)
    assert not missing_triggers(connection)
    jobs.thin_anchors()
    assert numbers(chain) == KEPT


def test_nothing_is_thinned_without_triggers(chain: str) -> None:
    with connection.cursor() as cursor:
        lift_triggers(cursor, ANCHORS)
    assert not jobs.do_chore("thin_anchors")
    assert len(numbers(chain)) == 8


def test_a_thinned_log_is_clean_and_says_how_many_anchors_are_left(chain: str, tmp_path: Path, team: Team) -> None:
    copy = tmp_path / "anchors.jsonl"
    copy.write_text("".join(json.dumps(line) + "\n" for line in lines(chain)))
    assert f"{chain}: 8 rows, 8 anchors checked" in verify("--chain", team.slug)[1]
    jobs.thin_anchors()
    code, said = verify("--chain", team.slug)
    assert code == 0
    assert f"{chain}: 9 rows, 5 anchors checked" in said
    assert NOTE in said
    code, said = verify("--chain", team.slug, "--anchors", str(copy))
    assert code == 0, "the file still names the anchors that the database no longer has"
    assert f"{chain}: 10 rows, 8 anchors checked" in said


def test_a_young_log_says_nothing_of_thinning(team: Team) -> None:
    at(80, "10:00", team)
    assert NOTE not in verify()[1]


def test_damage_of_a_thinned_log_is_found(chain: str) -> None:
    outside = lines(chain)
    jobs.thin_anchors()
    assert (found(chain), found(chain, outside=outside)) == ([], [])
    edit(chain, 2, reason="another")
    recompute(chain)
    assert [place for kind, place in found(chain) if kind == "anchor not met"] == KEPT
    assert [place for kind, place in found(chain, outside=outside) if kind == "anchor not met"] == list(range(2, 9))


def test_a_cut_tail_of_a_thinned_log_is_found(chain: str) -> None:
    outside = lines(chain)
    jobs.thin_anchors()
    delete(chain, "seq > 3")
    assert ("anchor not met", 8) in found(chain)
    delete(chain, "seq > 3", table=ANCHORS)
    set_head(chain, 3)
    assert found(chain) == [], "only the file tells"
    assert [place for _, place in found(chain, outside=outside)] == [4, 5, 6, 7, 8]


@pytest.fixture
def busy(team: Team, monkeypatch: Any) -> str:
    """Days with more rows than may be without an anchor."""
    monkeypatch.setattr(verification, "MAX_UNANCHORED", 5)
    at(100, "23:50", team)
    for hour in range(8):
        at(99, f"{hour + 1:02}:00", team, rows=4)
    at(98, "01:00", team, rows=4)
    for hour in range(3):
        at(80, f"{hour + 1:02}:00", team, rows=4)
    return f"team:{team.pk}"


def test_a_busy_day_with_one_anchor_left_is_no_fault(busy: str) -> None:
    assert found(busy) == []
    jobs.thin_anchors()
    assert numbers(busy) == [1, 33, 37, 41, 45, 49]
    assert found(busy) == []


def test_a_deleted_last_anchor_of_a_busy_day_is_a_fault(busy: str) -> None:
    jobs.thin_anchors()
    delete(busy, "seq = 33", table=ANCHORS)
    assert found(busy) == [("anchor not met", 2)]


def test_a_panel_stopped_over_midnight_before_a_busy_day_is_no_fault(team: Team, monkeypatch: Any) -> None:
    monkeypatch.setattr(verification, "MAX_UNANCHORED", 5)
    chain = f"team:{team.pk}"
    at(100, "12:00", team)
    unanchored(100, "23:44", team, rows=2)  # stopped before the next anchor, and started in the morning
    for hour in range(8, 12):
        at(99, f"{hour:02}:00", team, rows=4)
    at(1, "12:00", team)
    assert found(chain) == []
    jobs.thin_anchors()
    assert numbers(chain) == [1, 19, 20]
    assert found(chain) == []
    delete(chain, "seq = 19", table=ANCHORS)
    assert found(chain) == [("anchor not met", 2)], "the control: the next anchor is too young to follow thinned ones"


def test_missing_anchors_of_young_rows_are_a_fault(busy: str) -> None:
    jobs.thin_anchors()
    delete(busy, "seq IN (41, 45)", table=ANCHORS)
    assert found(busy) == [("anchor not met", 38)]


def test_exports_before_and_after_thinning_prove_themselves(chain: str, team: Team, auditor: Auditor) -> None:
    outside = "".join(json.dumps(line) + "\n" for line in lines(chain)).encode()
    first = exported(team)
    jobs.thin_anchors()
    second, whole = exported(team, after=9), exported(team)
    for files in ((first,), (first, second), (whole,)):
        for anchors in (None, outside):
            code, said = auditor(*files, anchors=anchors)
            assert code == 0, said


def test_an_export_cut_after_thinning_is_found_with_the_old_file(chain: str, team: Team, auditor: Auditor) -> None:
    outside = "".join(json.dumps(line) + "\n" for line in lines(chain)).encode()
    jobs.thin_anchors()
    with without_triggers():
        sql("DELETE FROM taskruns_auditevent WHERE chain = %s AND seq > 3", chain)
        sql(f"DELETE FROM {ANCHORS} WHERE chain = %s AND seq > 3", chain)
    set_head(chain, 3)
    cut = exported(team)
    assert auditor(cut)[0] == 0
    code, said = auditor(cut, anchors=outside)
    assert code == 1
    assert "anchor not met" in said
