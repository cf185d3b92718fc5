"""`verify_audit`: exit codes, output, the rows it writes, and what it does not change."""

import io
import json
import os
import shutil
import subprocess
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import OperationalError, connection, transaction

from taskruns.audit import Actor, EventType, record
from taskruns.audit.anchors import anchor_changed
from taskruns.audit.append_only import _SQLITE_REFUSES, APPEND_ONLY_TABLES, make_append_only
from taskruns.models import AuditAnchor, AuditChain, AuditEvent, AuditVerification, Team
from taskruns.services import audit
from taskruns.services.audit.rows import ANCHOR, stream_values
from tests import forked_command
from tests.audit.verifying import verify
from tests.database_refusals import accept_inserts, lift_triggers, refuse_inserts
from tests.stored import events

from .tampering import delete, edit, set_head, without_triggers

ALONE = "not checked against external anchors: a truncated or recomputed chain may go unnoticed"
VERA = Actor(type="user", id="7", label="vera@example.com", role="viewer")


@pytest.fixture
def chain(team: Team, other_team: Team) -> str:
    append(team, 5)
    append(other_team, 2)
    append(None, 3)
    return f"team:{team.pk}"


def append(team: Team | None, rows: int) -> None:
    for _ in range(rows):
        with transaction.atomic():
            record(EventType.TEAM_CHANGE, "done", by=VERA, team=team, reason="x" * 200)


def test_a_clean_log_is_exit_0_with_row_counts(chain: str, other_team: Team):
    code, lines = verify()
    assert code == 0
    assert set(lines[:3]) == {
        f"{chain}: 5 rows, 0 anchors checked",
        f"team:{other_team.pk}: 2 rows, 0 anchors checked",
        "site: 3 rows, 0 anchors checked",
    }
    assert lines[3:] == [ALONE, "clean"]


@pytest.mark.parametrize(("name", "rows"), [("ops-north", 5), ("site", 3)])
def test_one_chain_can_be_selected(chain: str, team: Team, name: str, rows: int):
    code, lines = verify("--chain", name)
    read = "site" if name == "site" else chain
    assert (code, lines) == (0, [f"{read}: {rows} rows, 0 anchors checked", ALONE, "clean"])
    assert AuditEvent.objects.get(event="audit.verify").chain == read


def test_a_fault_is_exit_1_with_kind_and_row(chain: str):
    edit(chain, 4, reason="another")
    code, lines = verify()
    assert code == 1
    assert [line for line in lines if " row " in line] == [
        f"{chain} row 4: edited: its hash does not match, or it is of another chain"
    ]
    assert lines[-1] == "1 faults"


def test_the_result_is_recorded_in_each_chain(chain: str, team: Team, other_team: Team):
    edit(chain, 4, reason="another")
    verify()
    assert events(event="audit.verify", chain=chain) == [("audit.verify", "failed")]
    assert events(event="audit.verify", outcome="ok") == [("audit.verify", "ok")] * 2
    row = AuditEvent.objects.get(event="audit.verify", chain=chain)
    assert (row.actor_type, row.team_id, row.seq) == ("command", team.pk, 6)
    assert row.details == {
        "chain": chain,
        "rows": 5,
        "anchors": 0,
        "compared": False,
        "faults": 1,
        "triggers_missing": 0,
    }


@pytest.mark.slow
def test_every_fault_is_printed_and_the_page_keeps_the_first(chain: str, team: Team):
    append(team, 115)
    with without_triggers(), connection.cursor() as cursor:
        cursor.execute("UPDATE taskruns_auditevent SET reason = 'another' WHERE chain = %s", [chain])
    code, lines = verify("--chain", "ops-north")
    assert code == 1
    reported = [int(line.split(" row ")[1].split(":")[0]) for line in lines if ": edited: " in line]
    assert reported == list(range(1, 121))
    assert lines[-1] == "120 faults"
    asked = AuditVerification.objects.get()
    assert (asked.fault_count, len(asked.faults)) == (120, 20)


def test_external_anchors_are_compared(chain: str, tmp_path: Path):
    anchor_changed()
    lines = [json.dumps(line) for line in stream_values(AuditAnchor.objects.filter(chain=chain), ANCHOR)]
    copy = tmp_path / "anchors.jsonl"
    copy.write_text("\n".join(lines) + "\n\n")
    assert verify("--chain", "ops-north", "--anchors", str(copy))[0] == 0
    delete(chain, "seq > 3")
    delete(chain, "seq > 3", table="taskruns_auditanchor")
    set_head(chain, 3)
    assert verify("--chain", "ops-north")[0] == 0
    code, said = verify("--chain", "ops-north", "--anchors", str(copy))
    assert code == 1
    assert f"{chain} row 5: anchor not met" in "\n".join(said)


@pytest.mark.parametrize("table", APPEND_ONLY_TABLES)
def test_a_missing_trigger_is_a_fault_of_every_chain(chain: str, table: str):
    with connection.cursor() as cursor:
        lift_triggers(cursor, table)
    code, lines = verify()
    assert code == 1
    assert any(line.startswith(f"the trigger {table}_") for line in lines)
    assert events(event="audit.verify") == [("audit.verify", "failed")] * 3


EVENTS = "taskruns_auditevent"
_REFUSE = "FOR EACH STATEMENT EXECUTE FUNCTION taskruns_append_only()"
CHANGED_TRIGGERS = (
    {
        "of one column": f"BEFORE UPDATE OF id OR DELETE OR TRUNCATE ON {EVENTS} {_REFUSE}",
        "never": f"BEFORE UPDATE OR DELETE ON {EVENTS} FOR EACH STATEMENT WHEN (false) "
        "EXECUTE FUNCTION taskruns_append_only()",
        "too late": f"AFTER UPDATE OR DELETE OR TRUNCATE ON {EVENTS} {_REFUSE}",
        "without truncate": f"BEFORE UPDATE OR DELETE ON {EVENTS} {_REFUSE}",
    }
    if connection.vendor == "postgresql"
    else {
        "of one column": f"BEFORE UPDATE OF id ON {EVENTS} {_SQLITE_REFUSES}",
        "never": f"BEFORE UPDATE ON {EVENTS} WHEN 0 {_SQLITE_REFUSES}",
        "too late": f"AFTER UPDATE ON {EVENTS} {_SQLITE_REFUSES}",
        "of another table": f"BEFORE UPDATE ON taskruns_heartbeat {_SQLITE_REFUSES}",
    }
)


@pytest.mark.parametrize("when", CHANGED_TRIGGERS.values(), ids=CHANGED_TRIGGERS)
def test_a_changed_trigger_is_reported(chain: str, when: str):
    name = f"{EVENTS}_append_only" if connection.vendor == "postgresql" else f"{EVENTS}_no_update"
    with connection.cursor() as cursor:
        cursor.execute(f"DROP TRIGGER {name}" + (f" ON {EVENTS}" if connection.vendor == "postgresql" else ""))
        cursor.execute(f"CREATE TRIGGER {name} {when}")
    code, lines = verify()
    assert code == 1
    assert [line for line in lines if line.startswith(f"the trigger {name} ")]
    with connection.cursor() as cursor:
        table = "taskruns_heartbeat" if "heartbeat" in when else EVENTS
        cursor.execute(f"DROP TRIGGER {name}" + (f" ON {table}" if connection.vendor == "postgresql" else ""))
    make_append_only(connection)
    assert verify()[0] == 0


def only_postgresql(test: Any) -> Any:
    """On SQLite a trigger contains its function, and there is only one schema."""
    return test if connection.vendor == "postgresql" else None


REFUSES = "RAISE EXCEPTION 'the audit log is append-only'"


@only_postgresql
@pytest.mark.parametrize("body", ["RETURN NULL;", f"IF false THEN {REFUSES}; END IF; RETURN NULL;"])
def test_a_changed_trigger_function_is_reported(chain: str, body: str):
    function = (
        f"CREATE OR REPLACE FUNCTION taskruns_append_only() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body} END $$"
    )
    with connection.cursor() as cursor:
        cursor.execute(function)
    assert verify()[0] == 1
    make_append_only(connection)
    assert verify()[0] == 0


@only_postgresql
def test_a_trigger_in_another_schema_does_not_count(chain: str):
    schema = "elsewhere"
    with connection.cursor() as cursor:
        cursor.execute(f"CREATE SCHEMA {schema}")
        cursor.execute(f"CREATE TABLE {schema}.{EVENTS} (id int)")
        for table in (f"{schema}.{EVENTS}", EVENTS):
            cursor.execute(f"DROP TRIGGER IF EXISTS {EVENTS}_append_only ON {table}")
        when = f"BEFORE UPDATE OR DELETE OR TRUNCATE ON {schema}.{EVENTS} {_REFUSE}"
        cursor.execute(f"CREATE TRIGGER {EVENTS}_append_only {when}")
    assert verify()[0] == 1


FOREIGN = (
    [
        "CREATE FUNCTION eats() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$",
        "CREATE TRIGGER eats BEFORE INSERT ON {table} FOR EACH ROW WHEN (false) EXECUTE FUNCTION eats()",
        "CREATE RULE eats AS ON UPDATE TO {table} WHERE false DO ALSO NOTHING",
    ]
    if connection.vendor == "postgresql"
    else ["SELECT 1", "CREATE TRIGGER eats BEFORE INSERT ON {table} WHEN 0 BEGIN SELECT RAISE(IGNORE); END"]
)


@pytest.mark.parametrize("table", [*APPEND_ONLY_TABLES, "taskruns_auditchain", "taskruns_anchortopublish"])
@pytest.mark.parametrize("statement", FOREIGN[1:])
def test_a_trigger_that_is_not_the_panels_is_noted(chain: str, statement: str, table: str):
    note = "note: the trigger or rule eats on the log's tables is not the panel's: it may keep rows out of the log"
    assert note not in verify()[1], "the control"
    with connection.cursor() as cursor:
        cursor.execute(FOREIGN[0])
        cursor.execute(statement.format(table=table))
    assert note in verify()[1]


def test_a_trigger_without_effect_counts_as_missing(chain: str):
    table = "taskruns_auditevent"
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute(f"ALTER TABLE {table} DISABLE TRIGGER {table}_append_only")
            name = f"{table}_append_only"
        else:
            name = f"{table}_no_update"
            cursor.execute(f"DROP TRIGGER {name}")
            cursor.execute(f"CREATE TRIGGER {name} BEFORE UPDATE ON {table} BEGIN SELECT 1; END")
    code, lines = verify()
    assert code == 1
    assert [line for line in lines if line.startswith(f"the trigger {name} ")]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--chain", "nowhere"], "There is no team nowhere. Check the slug in the team's URL."),
        (
            ["--anchors", "/nowhere/at/all"],
            "The anchor file cannot be read: No such file or directory. Check its path and permissions.",
        ),
        (["--anchors", __file__], "The anchor file contains no anchors. Check its path."),
        (["--anchors", "{tmp}/strange"], "The anchor file contains no anchors. Check its path."),
    ],
)
def test_what_could_not_run_is_exit_2_with_a_message(chain: str, arguments: list[str], sentence: str, tmp_path: Path):
    strange = {"chain": "site", "seq": "1", "hash": "", "signed_at": "", "key_id": "", "signature": ""}
    (tmp_path / "strange").write_text(json.dumps(strange))
    with pytest.raises(CommandError) as refused:
        verify(*[part.format(tmp=tmp_path) for part in arguments])
    assert (str(refused.value), refused.value.returncode) == (sentence, 2)
    assert not events(event="audit.verify")


def test_a_clean_verification_must_be_recorded(chain: str):
    refuse_inserts("taskruns_auditevent")
    with pytest.raises(CommandError) as refused, transaction.atomic():
        verify()
    assert refused.value.returncode == 2
    accept_inserts("taskruns_auditevent")
    assert verify()[0] == 0


def test_faults_are_printed_even_if_the_log_is_not_writable(chain: str):
    edit(chain, 4, reason="another")
    refuse_inserts("taskruns_auditevent")
    code, lines = verify("--chain", "ops-north")
    assert code == 1
    assert f"{chain} row 4: edited" in "\n".join(lines)
    assert f"{chain}: no row can be added to this chain" in lines


def test_an_unwritable_chain_is_recorded_in_the_sites(chain: str, team: Team):
    """The head was set back, so the next number is already taken."""
    set_head(chain, 3)
    code, lines = verify("--chain", "ops-north")
    assert code == 1
    assert f"{chain} row 4: inserted" in "\n".join(lines)
    row = AuditEvent.objects.get(event="audit.verify")
    assert (row.chain, row.outcome, row.details["chain"]) == ("site", "failed", chain)


def test_a_chain_of_a_deleted_team_is_recorded_in_the_sites(chain: str, team: Team):
    Team.objects.filter(pk=team.pk).delete()
    code, lines = verify()
    assert (code, f"{chain}: 5 rows, 0 anchors checked" in lines) == (0, True)
    assert chain in {row.details["chain"] for row in AuditEvent.objects.filter(event="audit.verify", chain="site")}


def test_verification_progress_is_shown_only_at_a_terminal(chain: str, monkeypatch: pytest.MonkeyPatch):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr("taskruns.services.audit.verification.REPORT_EVERY", 2)
    for stream, reported in ((Terminal(), True), (io.StringIO(), False)):
        call_command("verify_audit", stdout=io.StringIO(), stderr=stream)
        assert ("rows, 0 faults" in stream.getvalue()) is reported


def test_export_progress_is_shown_only_at_a_terminal(chain: str, team: Team, monkeypatch: pytest.MonkeyPatch):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr("taskruns.management.commands.export_audit.REPORT_EVERY", 2)
    for stream, reported in ((Terminal(), True), (io.StringIO(), False)):
        lines = io.StringIO()
        call_command("export_audit", team.slug, stdout=lines, stderr=stream)
        assert (" of " in stream.getvalue()) is reported
        assert all(line.startswith("{") for line in lines.getvalue().splitlines())


def test_rows_added_during_verification_are_not_faults(chain: str, team: Team, monkeypatch: pytest.MonkeyPatch):
    """Rows added before, between and after the steps of a verification."""
    monkeypatch.setattr("taskruns.services.audit.rows.CHUNK", 2)
    monkeypatch.setattr("taskruns.services.audit.verification.REPORT_EVERY", 1)
    added = []

    def add_rows(report: audit.Report) -> None:
        if len(added) < 7:
            append(team, 1)
            added.append(anchor_changed())

    report = audit.verify(by=VERA, chain=chain, progress=add_rows, found=print)
    assert (report.fault_count, len(added)) == (0, 7)
    assert 5 < report.rows <= 12


def test_many_rows_added_during_verification_do_not_lack_anchors(
    chain: str, team: Team, monkeypatch: pytest.MonkeyPatch
):
    """The anchors of these rows were made after the verification began, so it does not read them."""
    monkeypatch.setattr("taskruns.services.audit.verification.MAX_UNANCHORED", 5)
    monkeypatch.setattr("taskruns.services.audit.verification.REPORT_EVERY", 1)
    monkeypatch.setattr("taskruns.services.audit.rows.CHUNK", 2)
    anchor_changed()
    added = []

    def add_rows(report: audit.Report) -> None:
        if not added:
            append(team, 8)
            added.append(anchor_changed())

    faults: list[str] = []
    report = audit.verify(by=VERA, chain=chain, progress=add_rows, found=faults.append)
    assert (report.rows, faults) == (13, [])
    delete(chain, "seq > 1", table="taskruns_auditanchor")
    assert audit.verify(by=VERA, chain=chain, progress=add_rows, found=faults.append).fault_count, "the control"
    assert "5 rows from here on have no anchor" in faults[0]


@pytest.mark.slow
def test_exit_codes_and_output_as_a_process(tmp_path: Path, migrated_file: Path):
    """Exit codes in a shell: first without migrations, then clean."""
    environ = os.environ | {
        "DATABASE_URL": f"sqlite:///{tmp_path}/panel.sqlite3",
        "DJANGO_SETTINGS_MODULE": "config.settings",
    }

    def manage(*arguments: str) -> subprocess.CompletedProcess[str]:
        return forked_command.run(["manage.py", *arguments], env=environ)

    early = manage("verify_audit")
    assert (early.returncode, early.stdout) == (2, "")
    assert early.stderr.count("\n") == 1
    shutil.copy(migrated_file, tmp_path / "panel.sqlite3")
    assert manage("create_team", "Ops North").returncode == 0
    done = manage("verify_audit")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"site: 1 rows, 0 anchors checked\n{ALONE}\nclean\n", "")


@pytest.mark.slow
@pytest.mark.parametrize("key", ["", "abc", "AAAA"])
def test_without_a_good_signing_key_it_could_not_run(key: str, tmp_path: Path):
    environ = os.environ | {
        "AUDIT_SIGNING_KEY": key,
        "DATABASE_URL": f"sqlite:///{tmp_path}/panel.sqlite3",
        "DJANGO_SETTINGS_MODULE": "config.settings",
    }
    for command in ("verify_audit", "migrate"):
        done = forked_command.run(["manage.py", command], env=environ)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith("Cannot start: AUDIT_SIGNING_KEY")
        assert done.stderr.count("\n") == 1


@pytest.mark.slow
def test_memory_does_not_grow_with_the_chain(team: Team, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("taskruns.services.audit.rows.CHUNK", 100)
    append(team, 400)
    peak()
    short = peak()
    append(team, 1_200)
    assert peak() < short * 1.3
    assert AuditChain.objects.get(chain=f"team:{team.pk}").seq > 1_600


def peak() -> int:
    tracemalloc.start()
    try:
        assert verify("--chain", "ops-north")[0] == 0
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_the_site_audit_page_shows_what_the_command_found(chain: str, team: Team):
    edit(chain, 4, reason="another")
    verify("--chain", "ops-north")
    asked = AuditVerification.objects.get()
    assert (asked.result, asked.rows, asked.fault_count) == ("faults", 5, 1)
    assert asked.faults[0].startswith(f"{chain} row 4: edited")
    verify("--chain", "site")
    assert audit.latest_failed() == asked, "one clean chain says nothing about the others"


def test_a_database_that_fails_midway_is_exit_2(chain: str, monkeypatch: Any):
    def fail(*_: Any, **__: Any) -> None:
        raise OperationalError

    monkeypatch.setattr("taskruns.services.audit.verification.stream_values", fail)
    with pytest.raises(CommandError) as refused:
        verify()
    assert refused.value.returncode == 2
