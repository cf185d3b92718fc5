"""`export_audit`: an outsider can check its output with only SHA-256 and JSON."""

import base64
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tracemalloc
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from django.conf import settings
from django.core.management import CommandError, call_command
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext

from taskruns.audit import Actor, EventType, record
from taskruns.models import AuditEvent, Run, Team, User
from tests.database_refusals import accept_inserts, refuse_inserts
from tests.factories import actor
from tests.paths import ROOT
from tests.stored import events

from .chain_reader import assert_linked, read_export, signed_text, stored

pytestmark = pytest.mark.usefixtures("any_details")


def exported(chain: str) -> list[dict[str, Any]]:
    out = io.StringIO()
    call_command("export_audit", chain, stdout=out)
    assert out.getvalue().endswith("\n")
    return [json.loads(line) for line in out.getvalue().splitlines()]


def bytes_of(*arguments: str) -> bytes:
    out = io.StringIO()
    call_command("export_audit", *arguments, stdout=out)
    return out.getvalue().encode()


def rows_of(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [line["event"] for line in lines if "event" in line]


@pytest.fixture
def history(team: Team, other_team: Team, run: Run, oli: User) -> None:
    """Rows of three chains, mixed."""
    for number in range(3):
        by = actor(oli)
        record(
            EventType.RUN_CANCEL,
            "requested",
            by=by,
            team=team,
            run=run,
            details={"n": number, "why": "東京 \N{ROCKET}"},
        )
        record(EventType.TEAM_CHANGE, "done", by=by, team=other_team)
        record(EventType.PERSON_CREATE, "done", by=by)


def test_the_manifest_comes_first_then_events_in_order(history: None, team: Team):
    before = datetime.now(tz=UTC)
    lines = exported("ops-north")
    assert [next(iter(line)) for line in lines] == ["manifest", *["event"] * 4, "anchor", "trailer"]
    manifest = lines[0]["manifest"]
    assert before <= datetime.fromisoformat(manifest.pop("exported_at")) <= datetime.now(tz=UTC)
    public = Ed25519PrivateKey.from_private_bytes(settings.AUDIT_SIGNING_KEY).public_key().public_bytes_raw()
    assert manifest.pop("exported_by")
    assert manifest == {
        "format": 2,
        "chain": f"team:{team.pk}",
        "first_seq": 1,
        "last_seq": 4,
        "filtered": False,
        "public_keys": {hashlib.sha256(public).hexdigest()[:16]: base64.b64encode(public).decode()},
    }


def test_every_hash_can_be_recomputed_from_stdout_alone(history: None):
    rows = rows_of(exported("ops-north"))
    assert_linked(rows)
    assert [row["details"].get("n") for row in rows] == [0, 1, 2, None]


def test_an_outsider_can_check_every_byte_and_signature(history: None, team: Team):
    """With only the public key, SHA-256 and JSON, and none of the panel's code."""
    found = read_export(bytes_of("ops-north"))
    assert_linked(found["events"])
    assert [anchor["seq"] for anchor in found["anchors"]] == [4]
    assert found["anchors"][0]["hash"] == found["events"][-1]["hash"]
    for kind, statement in (("taskruns-anchor-v1", found["anchors"][0]), ("taskruns-export-v2", found["trailer"])):
        raw = base64.b64decode(found["manifest"]["public_keys"][statement["key_id"]], validate=True)
        assert statement["key_id"] == hashlib.sha256(raw).hexdigest()[:16]
        signature = base64.b64decode(statement["signature"], validate=True)
        key = Ed25519PublicKey.from_public_bytes(raw)
        key.verify(signature, signed_text(kind, statement))
        with pytest.raises(InvalidSignature):
            key.verify(signature, signed_text(kind, statement | {"key_id": "0" * 16}))


def test_an_export_continues_an_earlier_one(history: None, team: Team):
    first = read_export(bytes_of("ops-north"))
    second = read_export(bytes_of("ops-north", "--after", "4"))
    assert (first["manifest"]["last_seq"], "prev_hash" in first["manifest"]) == (4, False)
    manifest = second["manifest"]
    assert (manifest["first_seq"], manifest["last_seq"]) == (5, 5)
    assert manifest["prev_hash"] == first["events"][-1]["hash"] == second["events"][0]["prev_hash"]
    assert [anchor["seq"] for anchor in second["anchors"]] == [5]
    assert_linked(first["events"] + second["events"])
    assert read_export(bytes_of("ops-north", "--after", "0"))["manifest"]["first_seq"] == 1


@pytest.mark.parametrize(
    ("after", "code", "sentence"),
    [
        ("5", 1, "This log has no entry 5. Give the number of the last entry of the earlier export."),
        ("-1", 2, "--after: must be the number of an entry. Add --help to see the usage."),
        ("x", 2, "--after: must be the number of an entry. Add --help to see the usage."),
        ("9" * 30, 2, "--after: must be the number of an entry. Add --help to see the usage."),
    ],
)
def test_an_after_that_is_no_entry_exports_nothing(history: None, team: Team, after: str, code: int, sentence: str):
    out = io.StringIO()
    bytes_of("ops-north")
    with pytest.raises(CommandError) as refused:
        call_command("export_audit", "ops-north", f"--after={after}", stdout=out)
    assert (str(refused.value), refused.value.returncode, out.getvalue()) == (sentence, code, "")
    assert len(stored(f"team:{team.pk}")) == 4, "the refused export left no row"


def test_an_export_that_cannot_be_anchored_fails(history: None, team: Team):
    refuse_inserts("taskruns_auditanchor")
    out = io.StringIO()
    with pytest.raises(CommandError) as refused, transaction.atomic():
        call_command("export_audit", "ops-north", stdout=out)
    assert (refused.value.returncode, out.getvalue()) == (2, "")
    accept_inserts("taskruns_auditanchor")
    assert len(stored(f"team:{team.pk}")) == 3
    assert read_export(bytes_of("ops-north"))["trailer"]["anchors"] == 1, "the control"


def test_the_bytes_do_not_depend_on_the_terminal(tmp_path: Path, migrated_file: Path):
    """In a Latin-1 terminal, for a team whose name Latin-1 cannot encode."""
    environ = os.environ | {
        "DATABASE_URL": f"sqlite:///{tmp_path}/panel.sqlite3",
        "DJANGO_SETTINGS_MODULE": "config.settings",
        "PYTHONIOENCODING": "latin-1",
    }

    def manage(*arguments: str) -> bytes:
        command = [sys.executable, "manage.py", *arguments]
        return subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, timeout=120, check=True).stdout

    shutil.copy(migrated_file, tmp_path / "panel.sqlite3")
    manage("create_team", "東京", "--slug", "tokyo")
    found = read_export(manage("export_audit", "tokyo"))
    assert found["events"][0]["team_label"] == "東京"


@pytest.mark.parametrize("column", ["reason", "actor_label", "at", "prev_hash", "seq", "details"])
def test_an_edited_export_is_detected(history: None, column: str):
    """The control of the test above: the same check fails if one value changes."""
    rows = rows_of(exported("ops-north"))
    rows[1][column] = rows[0][column] if rows[1][column] != rows[0][column] else "another"
    with pytest.raises(AssertionError):
        assert_linked(rows)


def test_the_export_equals_the_database(history: None, team: Team):
    assert rows_of(exported("ops-north")) == stored(f"team:{team.pk}")


def test_the_last_row_records_the_export_itself(history: None, team: Team):
    last = rows_of(exported("ops-north"))[-1]
    assert (last["event"], last["outcome"], last["actor_type"]) == ("audit.export", "done", "command")
    assert last["actor_label"] == Actor.command().label
    again = rows_of(exported("ops-north"))
    assert [row["event"] for row in again[-2:]] == ["audit.export", "audit.export"]
    assert events(chain=f"team:{team.pk}", event="audit.export") == [("audit.export", "done")] * 2


def test_only_the_requested_chain_is_exported_and_gets_a_row(history: None, other_team: Team):
    lines = exported("site")
    assert lines[0]["manifest"]["chain"] == "site"
    assert {row["chain"] for row in rows_of(lines)} == {"site"}
    assert_linked(rows_of(lines))
    assert not events(chain=f"team:{other_team.pk}", event="audit.export")


def test_an_empty_chain_has_only_its_export(team: Team):
    lines = exported("ops-north")
    assert lines[0]["manifest"]["last_seq"] == 1
    assert [row["event"] for row in rows_of(lines)] == ["audit.export"]
    assert_linked(rows_of(lines))


def test_the_log_of_an_archived_team_can_be_exported(history: None, team: Team):
    Team.objects.filter(pk=team.pk).update(archived_at=datetime.now(tz=UTC))
    assert len(rows_of(exported("ops-north"))) == 4


def test_line_breaks_in_texts_do_not_break_lines(team: Team, oli: User):
    record(EventType.TEAM_CHANGE, "done", by=actor(oli), team=team, reason='"}\n{"event": {}}\u2028\u0085', details={})
    assert_linked(rows_of(exported("ops-north")))


def test_an_unknown_team_is_an_error_in_one_line(db: None):
    with pytest.raises(CommandError) as refused:
        call_command("export_audit", "nowhere", stdout=io.StringIO())
    assert str(refused.value) == "There is no team nowhere. Check the slug in the team's URL."
    assert refused.value.returncode == 1
    assert not AuditEvent.objects.exists()


def test_a_long_log_needs_no_more_queries(history: None, team: Team, oli: User):
    queries_of_an_export()  # which anchors the other chains too
    short = queries_of_an_export()
    for _ in range(200):
        record(EventType.TEAM_CHANGE, "done", by=actor(oli), team=team)
    assert queries_of_an_export() == short


def queries_of_an_export() -> int:
    with CaptureQueriesContext(connection) as queries:
        exported("ops-north")
    return len(queries)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_log(team: Team, oli: User, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("taskruns.services.audit.rows.CHUNK", 100)
    grow(team, oli, rows=500)
    exported("ops-north")  # warm up imports and caches
    short = peak_of_an_export()
    grow(team, oli, rows=1_000)
    assert peak_of_an_export() < short * 1.3
    assert len(stored(f"team:{team.pk}")) > 1_500


def grow(team: Team, oli: User, *, rows: int) -> None:
    for _ in range(rows):
        record(EventType.TEAM_CHANGE, "done", by=actor(oli), team=team, reason="x" * 500)


def peak_of_an_export() -> int:
    class Nowhere(io.TextIOBase):
        def write(self, text: str) -> int:
            return len(text)

    tracemalloc.start()
    try:
        call_command("export_audit", "ops-north", stdout=Nowhere())
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
