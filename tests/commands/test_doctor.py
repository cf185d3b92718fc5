"""`doctor` names what is wrong, also when nothing works, within ten seconds and without a secret."""

import json
import os
import re
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from django.conf import settings
from django.db import connection
from django.db.migrations.recorder import MigrationRecorder
from django.utils import timezone

from config import doctor
from taskruns.models import AuditEvent, Credential, Move, Restore
from taskruns.outbound import Network, Proxy
from taskruns.services.doctor import database, files, reach
from taskruns.services.doctor.round import Check, Round
from tests import forked_command
from tests.database_refusals import lift_triggers, refuse_inserts
from tests.paths import ROOT

CANARY = "canary7QzN4vXw81LrT0pKe6Yb"
Checks = dict[str, dict[str, str]]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """A deployment with an empty DATA_DIR."""
    kept = {name: value for name, value in os.environ.items() if name != "DJANGO_SETTINGS_MODULE"}
    data = tmp_path / "data"
    data.mkdir(mode=0o700)
    return kept | {
        "DATA_DIR": str(data),
        "DATABASE_URL": f"sqlite:///{data}/taskruns.sqlite3",
        "QUEUE_URL": f"sqlite:///{data}/queue.sqlite3",
        "ARIZE_ENDPOINTS": "",
    }


def examined(environment: dict[str, str], **variables: str) -> tuple[int, Checks, str]:
    """Exit code, the checks by name, and the whole output."""
    ended = forked_command.run(["manage.py", "doctor", "--json"], env=environment | variables)
    assert ended.stderr == ""
    found = json.loads(ended.stdout)
    assert list(found) == ["checks"]
    for check in found["checks"]:
        assert list(check) == ["name", "state", "says", "do"]
        assert check["state"] == "ok" or (check["says"] and check["do"])
    return ended.returncode, {check["name"]: check for check in found["checks"]}, ended.stdout


@pytest.fixture
def silent() -> Iterator[int]:
    """The port of a server that takes connections and never answers."""
    with closing(socket.create_server(("127.0.0.1", 0), backlog=64)) as server:
        yield server.getsockname()[1]


@pytest.mark.slow
def test_a_working_deployment_has_no_database_faults(environment: dict[str, str], migrated_file: Path, tmp_path: Path):
    shutil.copy(migrated_file, tmp_path / "data" / "taskruns.sqlite3")
    code, checks, _ = examined(environment, AUDIT_ANCHOR_FILE=str(tmp_path / "anchors.jsonl"))
    states = {name: check["state"] for name, check in checks.items()}
    good = ("variables", "database", "migrations", "append-only triggers", "ring keys", "signing key", "clock")
    assert [name for name in (*good, "anchor file", "disk", "permissions", "queue") if states[name] != "ok"] == []
    assert (states["worker"], states["static files"], states["API keys"]) == ("fail", "fail", "warn")
    assert code == 1, "a check failed"
    assert not (tmp_path / "anchors.jsonl").exists(), "it only looks"


@pytest.mark.slow
def test_it_speaks_when_the_settings_are_wrong(environment: dict[str, str]):
    wrong = {"SITE_URL": f"http://{CANARY}.example", "DATABASE_URL": f"mysql://{CANARY}@h/x", "SECRET_KEY": CANARY[:9]}
    code, checks, output = examined(environment, **wrong, SECERT_KEY=CANARY, OIDC_CLIENTID=CANARY)
    assert code == 2
    assert {name for name, check in checks.items() if check["state"] == "fail"} == set(wrong)
    assert "SECERT_KEY is not a variable of the panel" in output
    assert "Did you mean SECRET_KEY?" in output
    assert "Did you mean OIDC_CLIENT_ID?" in output
    assert CANARY not in output
    assert CANARY[:9] not in output


@pytest.mark.slow
def test_an_unreadable_env_file_is_named(environment: dict[str, str], tmp_path: Path):
    (tmp_path / "env").write_bytes("SECRET_KEY=é".encode("utf-16"))
    code, checks, _ = examined(environment, ENV_FILE=str(tmp_path / "env"))
    assert (code, checks["env file"]["state"]) == (2, "fail")


@pytest.mark.slow
def test_with_everything_hanging_each_dead_part_is_named(environment: dict[str, str], silent: int):
    hung = f"127.0.0.1:{silent}"
    forked_command.run(["-c", "pass"], env=environment)  # starts the server of the tests
    began = time.monotonic()
    code, checks, output = examined(
        environment,
        DATABASE_URL=f"postgres://me:{CANARY}@{hung}/x",
        QUEUE_URL=f"redis://:{CANARY}@{hung}/0",
        OIDC_ISSUER=f"http://{hung}",
        OIDC_CLIENT_ID="panel",
        OIDC_CLIENT_SECRET=CANARY,
        ARIZE_ENDPOINTS=f"http://{hung}",
        EGRESS_PROXY=f"http://me:{CANARY}@{hung}",
        EMAIL_URL=f"smtp://me:{CANARY}@{hung}",
    )
    assert time.monotonic() - began < 10
    dead = {"database", "queue", "proxy", "single sign-on", "mail", f"Arize {hung}"}
    assert {name for name in dead if checks[name]["state"] == "fail"} == dead
    assert (code, CANARY in output) == (1, False)


@pytest.mark.slow
def test_no_secret_is_in_the_output(environment: dict[str, str], migrated_file: Path, tmp_path: Path):
    """Also not in the form for people."""
    shutil.copy(migrated_file, tmp_path / "data" / "taskruns.sqlite3")
    ended = forked_command.run(["manage.py", "doctor"], env=environment)
    assert re.search(r"^\d+ checks: \d+ failed, \d+ warnings$", ended.stdout, re.MULTILINE)
    secrets = [environment[name] for name in ("SECRET_KEY", "AUDIT_SIGNING_KEY", "ENCRYPTION_KEYS")]
    secrets += [part.partition(":")[2] for part in environment["ENCRYPTION_KEYS"].split(",")]
    assert not [secret for secret in secrets if secret in ended.stdout + ended.stderr]
    refused = forked_command.run(["manage.py", "doctor", "--frequently"], env=environment)
    assert (refused.returncode, refused.stdout, refused.stderr.count("\n")) == (2, "", 1)


def test_every_documented_variable_is_known():
    text = (ROOT / "docs" / "operations.md").read_text()
    table = text.split("\n## Environment variables\n")[1].split("\n## ")[0]
    first = [line.partition(" | ")[0] for line in table.splitlines() if line.startswith("|")]
    names = {name for cell in first for name in re.findall(r"`([A-Z][A-Z_]{3,})`", cell)}
    assert len(names) > 25
    assert not names - doctor.KNOWN


def test_a_slow_start_leaves_less_time_for_the_checks(monkeypatch: pytest.MonkeyPatch):
    for started, most in ((0.0, 4.5), (6.0, 3.0), (60.0, doctor.AT_LEAST)):
        monkeypatch.setattr(doctor, "_BEGAN", time.monotonic() - started)
        assert most - 0.5 < doctor._time_left() <= most


def test_parts_that_hang_or_break_do_not_hide_others():
    def hangs(_round: Round) -> Iterator[Check]:
        yield Check("hangs", "ok", "before")
        released.acquire()

    def breaks(round_: Round) -> Iterator[Check]:
        round_.start("later", lambda _: [Check("later", "ok", "started by another part")], do="")
        raise ValueError(CANARY)

    released = threading.Semaphore(0)
    round_ = Round(within=0.3)
    round_.start("hangs", hangs, do="Look at it.")
    round_.start("breaks", breaks, do="Look at that.")
    found = round_.found()
    released.release()
    assert found == [
        Check("hangs", "ok", "before"),
        Check("hangs", "fail", "It did not answer within 0.3 seconds.", "Look at it."),
        Check("breaks", "fail", "The check stopped with an error (ValueError).", "Look at that."),
        Check("later", "ok", "started by another part"),
    ]


def a_proxy(port: int) -> Proxy:
    return Proxy(f"http://127.0.0.1:{port}", f"Basic {CANARY}")


@pytest.mark.parametrize(
    ("answer", "state", "says"),
    [
        (b"HTTP/1.1 200 Connection established\r\n\r\n", "ok", "It opens tunnels."),
        (b"HTTP/1.1 407 Who are you\r\n\r\n", "fail", "It refuses the user name or password."),
        (b"HTTP/1.1 403 No\r\n\r\n", "warn", "It refuses a tunnel to api.arize.com:443 with status 403."),
        (b"220 mail.example.com ESMTP\r\n", "fail", "Its answer is not that of an HTTP proxy."),
        (b"", "fail", "Its answer is not that of an HTTP proxy."),
    ],
)
def test_a_proxy_is_asked_for_a_tunnel(answer: bytes, state: str, says: str, server: Any, monkeypatch: Any):
    monkeypatch.setattr(settings, "ARIZE_ENDPOINTS", ())

    def serve(connection: Any, _head: bytes) -> str:
        connection.sendall(answer)
        return "close"

    started = server(serve)
    check = reach._proxy(a_proxy(started.port))
    assert (check.state, check.says) == (state, says)
    assert CANARY not in check.says + check.do
    assert f"Proxy-Authorization: Basic {CANARY}".encode() in started.requests[0]


def test_a_silent_proxy_is_named(silent: int, monkeypatch: Any):
    monkeypatch.setattr(reach, "SECONDS", 0.2)
    assert reach._proxy(a_proxy(silent)).says == "It does not answer."


@pytest.mark.parametrize(("days", "state"), [(1, "ok"), (-1, "fail")])
def test_certificates_that_expired_are_named(days: int, state: str, tmp_path: Path, monkeypatch: Any):
    assert list(files._authorities()) == [], "none is set"
    bundle = tmp_path / "authorities.pem"
    bundle.write_bytes(a_certificate(days=3) + a_certificate(days=days))
    monkeypatch.setattr(settings, "NETWORK", Network(ca_bundle=str(bundle)))
    (check,) = files._authorities()
    assert (check.name, check.state) == ("CA bundle", state)
    assert ("1 of 2 certificates" in check.says) is (state == "fail")


def a_certificate(*, days: int) -> bytes:
    """Valid for ten days until that many days from now."""
    key, until = ec.generate_private_key(ec.SECP256R1()), timezone.now() + timezone.timedelta(days=days)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "An authority")])
    made = x509.CertificateBuilder().subject_name(name).issuer_name(name).serial_number(1).public_key(key.public_key())
    made = made.not_valid_before(until - timezone.timedelta(days=10)).not_valid_after(until)
    return made.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


# The checks of the database


def states(found: Any) -> dict[str, str]:
    return {check.name: check.state for check in found}


def test_the_state_of_each_api_key_is_named(credential: Credential):
    name = "API key ops-north / Production"
    assert states(database._api_keys()) == {name: "ok"}
    Credential.objects.update(expires_on=timezone.localdate() + timezone.timedelta(days=3))
    assert states(database._api_keys()) == {name: "warn"}
    Credential.objects.update(failing_since=timezone.now())
    assert states(database._api_keys()) == {name: "fail"}
    Credential.objects.update(revoked_at=timezone.now())
    assert states(database._api_keys()) == {"API keys": "warn"}


def test_a_wrong_ring_key_is_named(credential: Credential, settings: Any):
    assert states(database._secrets()) == {"ring keys": "ok", "signing key": "ok"}
    settings.ENCRYPTION_KEYS = {1: settings.ENCRYPTION_KEYS[1]}
    assert states(database._secrets())["ring keys"] == "fail"


def test_a_missing_trigger_and_a_foreign_one_are_named(db: None):
    assert states(database._triggers()) == {"append-only triggers": "ok"}
    refuse_inserts(AuditEvent._meta.db_table)
    assert states(database._triggers()) == {"append-only triggers": "warn"}
    with connection.cursor() as cursor:
        lift_triggers(cursor, AuditEvent._meta.db_table)
    assert states(database._triggers()) == {"append-only triggers": "fail"}


def test_a_missing_column_is_named(db: None):
    assert states(database._migrations()) == {"migrations": "ok"}
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE taskruns_heartbeat RENAME COLUMN seen_at TO seen")
    (check,) = database._migrations()
    assert (check.state, "taskruns_heartbeat.seen_at" in check.says) == ("fail", True)


def test_a_database_of_a_newer_release_is_named(db: None):
    MigrationRecorder(connection).record_applied("taskruns", "9999_later")
    (check,) = database._migrations()
    assert (check.state, "9999_later" in check.says) == ("fail", True)


def test_a_resting_panel_is_named(db: None):
    assert states(database._restored()) == {}
    Restore.objects.create(restored_by="root", backup="ab" * 32, backup_made_at=timezone.now())
    assert states(database._restored()) == {"restore": "warn"}


def test_a_broken_move_is_named(db: None):
    assert states(database._whole()) == {}
    Move.objects.create(source="sqlite")
    assert states(database._whole()) == {"completeness": "fail"}
    Move.objects.update(finished_at=timezone.now())
    assert states(database._whole()) == {}


def test_the_grants_of_the_role_are_named(db: None):
    """The role of the tests owns the tables. SQLite has no roles."""
    assert states(database._grants()) == ({"grants": "warn"} if connection.vendor == "postgresql" else {})


def test_an_anchor_file_that_cannot_be_written_is_named(db: None, tmp_path: Path, settings: Any):
    assert states(database._anchors()) == {"anchor file": "warn"}
    settings.AUDIT_ANCHOR_FILE = str(tmp_path / "none" / "anchors.jsonl")
    assert states(database._anchors()) == {"anchor file": "fail"}
    settings.AUDIT_ANCHOR_FILE = str(tmp_path / "anchors.jsonl")
    assert states(database._anchors()) == {"anchor file": "ok"}
