"""Anchors: when they are made, how they are checked, and the copy outside the database."""

import base64
import json
import logging
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import time_machine
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.db import DatabaseError, connection, transaction

from config import environment
from taskruns import jobs
from taskruns.audit import Actor, EventType, record
from taskruns.audit.anchors import ANCHOR_EVERY, anchor_chain, anchor_changed
from taskruns.models import AuditAnchor, AuditChain, Team
from taskruns.models.audit import AppendOnly
from taskruns.services import audit
from tests.threads import in_threads

from .tampering import ANCHORS, delete, found, set_head, sql

VERA = Actor(type="user", id="7", label="vera@example.com", role="viewer")


def append(team: Team | None = None) -> None:
    with transaction.atomic():
        record(EventType.TEAM_CHANGE, "done", by=VERA, team=team)


def anchored() -> list[tuple[str, int]]:
    return list(AuditAnchor.objects.order_by("pk").values_list("chain", "seq"))


def test_an_independent_reader_can_check_the_signature(db: None):
    append()
    anchor_changed()
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT chain, seq, hash, signed_at, key_id, signature FROM {ANCHORS}")
        chain, seq, row_hash, signed_at, key, signature = cursor.fetchone()
    at = datetime.fromisoformat(signed_at) if isinstance(signed_at, str) else signed_at
    at_text = at.replace(tzinfo=at.tzinfo or UTC).astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    statement = {"chain": chain, "seq": seq, "hash": row_hash, "signed_at": at_text, "key_id": key}
    text = json.dumps(statement, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    raw = Ed25519PrivateKey.from_private_bytes(settings.AUDIT_SIGNING_KEY).public_key().public_bytes_raw()
    public = Ed25519PublicKey.from_public_bytes(raw)
    public.verify(base64.b64decode(signature), b"taskruns-anchor-v1\n" + text.encode())
    with pytest.raises(InvalidSignature):  # the control: one character more
        public.verify(base64.b64decode(signature), b"taskruns-anchor-v1\n" + text.encode() + b" ")


def test_only_changed_chains_are_anchored(team: Team, other_team: Team):
    assert anchor_changed() == 0
    append()
    append(team)
    assert anchor_changed() == 2
    assert sorted(anchored()) == [("site", 1), (f"team:{team.pk}", 1)]
    assert anchor_changed() == 0
    append(team)
    append(team)
    assert anchor_changed() == 1
    assert anchored()[-1] == (f"team:{team.pk}", 3)


def test_the_worker_anchors_changed_chains_every_minute(team: Team):
    chain = f"team:{team.pk}"
    with time_machine.travel("2026-11-23T03:00:30Z", tick=False) as clock:
        append(team)
        for minute in range(1, 12):
            clock.move_to(datetime(2026, 11, 23, 3, minute, tzinfo=UTC))
            jobs.look_after_audit()
            append(team)
    assert anchored() == [(chain, 5), (chain, 9)], "no row waits five minutes, and not every minute has an anchor"
    assert jobs.MINUTELY["look_after_audit"] is jobs.look_after_audit


def test_every_thousandth_row_is_anchored_at_once(team: Team):
    chain = f"team:{team.pk}"
    append(team)
    AuditChain.objects.filter(chain=chain).update(seq=ANCHOR_EVERY - 2)
    append(team)
    assert anchored() == []
    append(team)
    assert anchored() == [(chain, ANCHOR_EVERY)]
    append(team)
    assert anchored() == [(chain, ANCHOR_EVERY)]


def test_each_export_is_anchored_first(team: Team):
    append(team)
    audit.export(team, by=VERA, kind="jsonl")
    assert anchored() == [(f"team:{team.pk}", 2)]


@pytest.mark.commits
def test_concurrent_workers_make_one_anchor(committed: None):
    append()
    made: list[int] = []
    in_threads(6, lambda _: made.append(anchor_changed()))
    assert sum(made) == 1
    assert anchored() == [("site", 1)]


def other_key() -> tuple[bytes, bytes]:
    key = Ed25519PrivateKey.generate()
    return key.private_bytes_raw(), key.public_key().public_bytes_raw()


def test_old_anchors_hold_while_the_old_public_key_is_known(db: None, settings: Any):
    old = Ed25519PrivateKey.from_private_bytes(settings.AUDIT_SIGNING_KEY).public_key().public_bytes_raw()
    append()
    anchor_changed()
    settings.AUDIT_SIGNING_KEY, _ = other_key()
    settings.AUDIT_PUBLIC_KEYS = (other_key()[1], old)
    append()
    anchor_changed()
    assert found("site") == []
    settings.AUDIT_PUBLIC_KEYS = ()
    assert found("site") == [("bad anchor signature", 1)]
    assert len(set(AuditAnchor.objects.values_list("key_id", flat=True))) == 2


def test_an_export_names_old_and_new_keys(db: None, settings: Any):
    _, public = other_key()
    settings.AUDIT_PUBLIC_KEYS = (public,)
    manifest = audit.export(None, by=VERA, kind="jsonl").manifest
    assert base64.b64encode(public).decode() in manifest["public_keys"].values()
    assert len(manifest["public_keys"]) == 2


def test_each_anchor_is_a_line_in_the_file_and_the_log(
    db: None, anchor_file: Path, commits: Any, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.INFO)
    anchor_file.write_text('{"chain": "another panel"}\n')
    for _ in range(2):
        append()
        with commits():
            anchor_changed()
    first, *lines = [json.loads(line) for line in anchor_file.read_text().splitlines()]
    assert first == {"chain": "another panel"}
    stored = AuditAnchor.objects.order_by("seq").values_list("chain", "seq", "hash", "key_id", "signature")
    assert [tuple(line[name] for name in ("chain", "seq", "hash", "key_id", "signature")) for line in lines] == list(
        stored
    )
    assert caplog.text.count("audit_anchor") == 2
    assert str(lines[0]["signature"]) in caplog.text
    assert found("site", outside=lines) == []


def test_a_rolled_back_anchor_is_not_published(db: None, anchor_file: Path, commits: Any):
    append()
    with commits(), transaction.atomic():
        assert anchor_chain("site")
        transaction.set_rollback(True)
    assert not anchor_file.exists()
    with commits():
        anchor_changed()
    assert anchor_file.read_text().count("\n") == 1


@pytest.mark.parametrize("trouble", ["directory", "gone"])
def test_an_unwritable_file_is_logged_and_does_no_harm(
    db: None, anchor_file: Path, commits: Any, trouble: str, settings: Any, caplog: pytest.LogCaptureFixture
):
    if trouble == "directory":
        anchor_file.mkdir()
    else:
        settings.AUDIT_ANCHOR_FILE = str(anchor_file.parent / "gone" / "anchors.jsonl")
    append()
    with commits():
        assert anchor_changed() == 1
    assert "audit_anchor_file_not_written" in caplog.text
    assert anchored() == [("site", 1)]


@pytest.mark.commits
def test_lines_of_many_writers_stay_whole(committed: None, anchor_file: Path):
    teams = [Team.objects.create(slug=f"t{number}", name=f"T{number}") for number in range(4)]

    def write(number: int) -> None:
        for _ in range(10):
            append(teams[number])
            anchor_chain(f"team:{teams[number].pk}")

    in_threads(4, write)
    lines = [json.loads(line) for line in anchor_file.read_text().splitlines()]
    assert len(lines) == len({(line["chain"], line["seq"]) for line in lines}) == 40


def test_the_path_of_the_file_is_checked_at_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AUDIT_ANCHOR_FILE", str(tmp_path / "gone" / "anchors.jsonl"))
    with pytest.raises(ImproperlyConfigured, match="AUDIT_ANCHOR_FILE"):
        environment.anchor_file()
    monkeypatch.setenv("AUDIT_ANCHOR_FILE", str(tmp_path / "anchors.jsonl"))
    assert environment.anchor_file() == str(tmp_path / "anchors.jsonl")
    monkeypatch.delenv("AUDIT_ANCHOR_FILE")
    assert environment.anchor_file() == ""


@pytest.mark.parametrize("value", ["abc", "AAAA", f"{base64.b64encode(b'x' * 32).decode()},?"])
def test_invalid_public_keys_stop_the_start(value: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AUDIT_PUBLIC_KEYS", value)
    with pytest.raises(ImproperlyConfigured, match="AUDIT_PUBLIC_KEYS"):
        environment.public_keys()
    good = base64.b64encode(b"x" * 32).decode()
    monkeypatch.setenv("AUDIT_PUBLIC_KEYS", f" {good} ,{good}")
    assert environment.public_keys() == (b"x" * 32, b"x" * 32)


@pytest.fixture
def an_anchor(db: None) -> AuditAnchor:
    append()
    anchor_changed()
    return AuditAnchor.objects.get()


@pytest.mark.parametrize(
    "statement",
    [
        f"UPDATE {ANCHORS} SET seq = 2",
        f"DELETE FROM {ANCHORS}",
        f"TRUNCATE {ANCHORS}"
        if connection.vendor == "postgresql"
        else f"REPLACE INTO {ANCHORS} SELECT * FROM {ANCHORS}",
    ],
)
def test_the_database_refuses_to_change_an_anchor(an_anchor: AuditAnchor, statement: str):
    with pytest.raises(DatabaseError, match="append-only"), transaction.atomic():
        sql(statement)
    assert AuditAnchor.objects.get().signature == an_anchor.signature


def test_model_and_queryset_refuse_to_change_an_anchor(an_anchor: AuditAnchor):
    for change in (
        an_anchor.save,
        an_anchor.delete,
        lambda: AuditAnchor.objects.update(seq=2),
        AuditAnchor.objects.all().delete,
    ):
        with pytest.raises(AppendOnly):
            change()


def test_a_rewritten_tail_does_not_replace_the_old_anchor(db: None):
    """The number was already signed for another row: that anchor stays and reveals the change."""
    append()
    append()
    anchor_changed()
    delete("site", "seq = 2")
    set_head("site", 1)
    with time_machine.travel(datetime.now(tz=UTC) + timedelta(hours=1)):
        append()
    assert anchor_changed() == 0
    assert found("site") == [("anchor not met", 2)]
