"""A process with the wrong key ring says what it lacks, and does not mark the API keys."""

import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.fernet import Fernet
from django.core.exceptions import ImproperlyConfigured
from django.core.management import CommandError, call_command
from django.db import DatabaseError
from django.test import Client
from django.utils import timezone

from taskruns.models import ArizeHook, AuditEvent, CancelBatch, Credential, Heartbeat, RingKeyCheck, Run, Team, User
from taskruns.services import batches, channels, key_ring, mirror, readiness, unfinished
from taskruns.services.channels import hooks
from taskruns.services.encryption import reencrypt
from taskruns.services.people import factors
from tests import forked_command
from tests.clients import ClientOf
from tests.factories import CANARY, actor, make_credential
from tests.paths import ROOT
from tests.wire import ENDPOINT

OLD, NEW, OTHER = (Fernet.generate_key().decode() for _ in range(3))
ADD = ("add_credential", "ops", "A", "--endpoint", ENDPOINT, "--key-stdin")
MISSING = "ENCRYPTION_KEYS has no key 2"
ANOTHER = "Key 2 in ENCRYPTION_KEYS differs from the key 2"
WRONG = [pytest.param({1: OLD}, MISSING, id="missing"), pytest.param({2: OTHER, 1: OLD}, ANOTHER, id="another key")]


@pytest.fixture
def key(team: Team, settings: Any) -> Credential:
    """An API key, encrypted at the first use of ring key 2."""
    settings.ENCRYPTION_KEYS = {2: NEW, 1: OLD}
    key_ring.check_newest()
    return make_credential(team, name="Second", key=CANARY)


@pytest.mark.parametrize(("ring", "sentence"), WRONG)
def test_round_with_a_wrong_ring_writes_nothing_about_the_api_key(
    key: Credential, settings: Any, ring: dict[int, str], sentence: str
) -> None:
    before = Credential.objects.filter(pk=key.pk).values().get()
    rows = AuditEvent.objects.count()
    settings.ENCRYPTION_KEYS = ring
    report = mirror.refresh(key.pk)
    assert report is not None
    assert report.problem.startswith(sentence)
    after = Credential.objects.filter(pk=key.pk).values().get()
    assert {name for name in before if before[name] != after[name]} <= {"next_refresh_at"}
    assert AuditEvent.objects.count() == rows
    settings.ENCRYPTION_KEYS = {2: NEW, 1: OLD}
    assert key.decrypt_secret() == CANARY


@pytest.mark.parametrize(("ring", "sentence"), WRONG)
def test_key_test_with_a_wrong_ring_does_not_mark_the_api_key(
    key: Credential, mona: User, client_of: ClientOf, settings: Any, ring: dict[int, str], sentence: str
) -> None:
    settings.ENCRYPTION_KEYS = ring
    client_of(mona).post(f"/teams/ops-north/credentials/{key.pk}/test/")
    key.refresh_from_db()
    assert key.failing_since is None
    assert list(AuditEvent.objects.filter(event="credential.test").values_list("outcome", flat=True)) == [
        "requested",
        "failed",
    ]


@pytest.mark.parametrize(("ring", "sentence"), WRONG)
def test_batch_waits_for_a_worker_with_the_right_ring(
    key: Credential, run: Run, settings: Any, monkeypatch: pytest.MonkeyPatch, ring: dict[int, str], sentence: str
) -> None:
    def claim(_batch_id: object) -> None:
        pytest.fail("a worker with a wrong ring claimed the batch")

    settings.ENCRYPTION_KEYS = ring
    monkeypatch.setattr("taskruns.services.batches.worker._claim", claim)
    assert batches.work(CancelBatch().pk)


@pytest.mark.parametrize(("ring", "sentence"), WRONG)
def test_readyz_fails_until_the_ring_is_right(
    key: Credential, settings: Any, caplog: pytest.LogCaptureFixture, ring: dict[int, str], sentence: str
) -> None:
    Heartbeat.objects.create(name="worker", seen_at=timezone.now())
    assert Client().get("/readyz").status_code == 200
    settings.ENCRYPTION_KEYS = ring
    answer = Client().get("/readyz")
    assert (answer.status_code, answer.content) == (503, b"not ready\n")
    assert sentence in caplog.text
    assert ring[1] not in caplog.text
    settings.ENCRYPTION_KEYS = {2: NEW, 1: OLD}
    assert Client().get("/readyz").status_code == 200


@pytest.mark.parametrize(("ring", "sentence"), WRONG)
def test_commands_cannot_run_with_a_wrong_ring(
    key: Credential, team: Team, settings: Any, monkeypatch: pytest.MonkeyPatch, ring: dict[int, str], sentence: str
) -> None:
    settings.ENCRYPTION_KEYS = ring
    monkeypatch.setattr("sys.stdin", io.StringIO("ak-new-0123456789abcdef\n"))
    add = ("add_credential", team.slug, "Third", f"--endpoint={ENDPOINT}", "--key-stdin")
    for command in (("refresh",), ("refresh", team.slug), add):
        with pytest.raises(CommandError, match=sentence) as refused:
            call_command(*command)
        assert refused.value.returncode == 2
    assert Credential.objects.count() == 1


@pytest.mark.parametrize(("ring", "sentence"), WRONG)
def test_start_is_refused_with_a_wrong_ring(
    key: Credential, settings: Any, ring: dict[int, str], sentence: str
) -> None:
    readiness.refuse_start()
    settings.ENCRYPTION_KEYS = ring
    with pytest.raises(ImproperlyConfigured, match=sentence):
        readiness.refuse_start()


def test_start_does_not_need_the_database(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def down() -> str:
        raise DatabaseError

    monkeypatch.setattr(unfinished, "problem", down)
    readiness.refuse_start()
    assert "key_ring_not_checked" in caplog.text


def test_page_refuses_to_encrypt_with_a_differing_ring_key(
    key: Credential, mona: User, client_of: ClientOf, settings: Any
) -> None:
    settings.ENCRYPTION_KEYS = {2: OTHER, 1: OLD}
    form = {"name": "Third", "endpoint": ENDPOINT, "key": "ak-new-0123456789abcdef", "expires_on": ""}
    answer = client_of(mona).post("/teams/ops-north/credentials/new/", form)
    assert answer.status_code == 422
    assert ANOTHER in answer.content.decode()
    assert Credential.objects.count() == 1
    before = key.ciphertext
    answer = client_of(mona).post(f"/teams/ops-north/credentials/{key.pk}/replace/", form)
    assert answer.status_code == 422
    assert ANOTHER in answer.content.decode()
    key.refresh_from_db()
    assert key.ciphertext == before


def test_wrong_ring_encrypts_no_second_factor_and_rotates_nothing(
    key: Credential, team: Team, mona: User, settings: Any
) -> None:
    settings.ENCRYPTION_KEYS = {1: OLD, 2: NEW}
    older = make_credential(team, name="First", key=CANARY)
    settings.ENCRYPTION_KEYS = {2: OTHER, 1: OLD}
    with factors.bound_to(mona), pytest.raises(key_ring.WrongKeyRing, match=ANOTHER):
        factors.encrypt("a secret")
    with pytest.raises(key_ring.WrongKeyRing, match=ANOTHER):
        reencrypt(by=actor(mona))
    older.refresh_from_db()
    assert older.ring_number == 1


def test_rotation_in_two_steps_never_stops_a_process(key: Credential, team: Team, settings: Any) -> None:
    """First every process gets {1, 2}, then {2, 1}; after re-encryption key 1 is not needed."""
    settings.ENCRYPTION_KEYS = {1: OLD}
    RingKeyCheck.objects.all().delete()
    Credential.objects.all().delete()
    key_ring.check_newest()
    first = make_credential(team, key=CANARY)
    for ring in ({1: OLD}, {1: OLD, 2: NEW}, {2: NEW, 1: OLD}):
        settings.ENCRYPTION_KEYS = ring
        assert key_ring.problem() == ""
        assert first.decrypt_secret() == CANARY
    call_command("reencrypt_credentials", stdout=io.StringIO())
    settings.ENCRYPTION_KEYS = {1: OLD, 2: NEW}  # a process that is one step behind
    assert key_ring.problem() == ""
    settings.ENCRYPTION_KEYS = {2: NEW}
    assert key_ring.problem() == ""
    settings.ENCRYPTION_KEYS = {1: OLD}
    assert key_ring.problem().startswith(MISSING)


def test_ring_key_of_a_second_factor_is_needed_too(db: None, mona: User, settings: Any) -> None:
    settings.ENCRYPTION_KEYS = {2: NEW, 1: OLD}
    factors.add_totp(mona, secret="JBSWY3DPEHPK3PXP", by=actor(mona))
    settings.ENCRYPTION_KEYS = {1: OLD}
    assert key_ring.problem().startswith(MISSING)


def a_channel(team: Team, person: User) -> None:
    wanted = channels.Wanted(("run.failed",))
    address = "https://alerts.example.com/hook"
    channels.add(team, name="On call", kind="webhook", address=address, wanted=wanted, by=actor(person))


def a_hook(team: Team, person: User) -> None:
    hooks.make_address(team, by=actor(person))
    hook = ArizeHook.objects.get()
    hooks.set_secret(hook, auth="hmac", secret="secret-of-a-webhook-1", by=actor(person))


@pytest.mark.parametrize("encrypt", [a_channel, a_hook], ids=["channel", "webhook of Arize"])
def test_ring_key_of_a_channel_or_webhook_is_needed_too(
    encrypt: Callable[[Team, User], None], team: Team, mona: User, settings: Any
) -> None:
    settings.ENCRYPTION_KEYS = {2: NEW, 1: OLD}
    encrypt(team, mona)
    settings.ENCRYPTION_KEYS = {1: OLD}
    assert key_ring.problem().startswith(MISSING)


def test_migration_creates_the_checks_of_an_older_database(key: Credential, settings: Any) -> None:
    RingKeyCheck.objects.all().delete()
    key_ring.create_missing_checks()
    assert set(RingKeyCheck.objects.values_list("number", flat=True)) == {2}
    RingKeyCheck.objects.all().delete()
    settings.ENCRYPTION_KEYS = {2: OTHER}
    key_ring.create_missing_checks()
    assert not RingKeyCheck.objects.exists()


def test_api_key_of_a_lost_ring_key_can_be_replaced(
    key: Credential, team: Team, mona: User, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.ENCRYPTION_KEYS = {3: OTHER}
    monkeypatch.setattr("sys.stdin", io.StringIO("ak-new-0123456789abcdef\n"))
    options = (f"--endpoint={ENDPOINT}", "--key-stdin", "--replace")
    call_command("add_credential", team.slug, key.name, *options, stdout=io.StringIO())
    assert key_ring.problem() == ""


def test_damaged_ciphertext_marks_the_api_key(key: Credential) -> None:
    """The key ring is right, so the fault is in the row."""
    Credential.objects.update(ciphertext="gAAAAAB" + "x" * 93)
    mirror.refresh(key.pk)
    key.refresh_from_db()
    assert key.failing_since is not None


@pytest.mark.slow
def test_web_and_worker_exit_with_one_sentence(tmp_path: Path) -> None:
    environment = os.environ | {"DATABASE_URL": f"sqlite:///{tmp_path}/own.sqlite3", "QUEUE_URL": ""}
    environment |= {"DATA_DIR": str(tmp_path), "ENCRYPTION_KEYS": f"2:{NEW},1:{OLD}", "BIND": "127.0.0.1:0"}
    environment.pop("DJANGO_SETTINGS_MODULE")
    # If two workers fail at the same moment, gunicorn stumbles over the second one and logs a traceback of its own.
    environment |= {"WEB_WORKERS": "1"}

    for command in (("migrate", "-v0"), ("create_team", "Ops"), ADD):
        done = forked_command.run(["manage.py", *command], env=environment, given=f"{CANARY}\n")
        assert done.returncode == 0
    for start in (("-m", "gunicorn", "config.wsgi"), ("manage.py", "run_huey")):
        refused = subprocess.run(
            [sys.executable, *start],
            cwd=ROOT,
            env=environment | {"ENCRYPTION_KEYS": f"1:{OLD}"},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert refused.returncode != 0
        assert f"Cannot start: {MISSING}" in refused.stderr
        assert "Traceback" not in refused.stderr
