"""Rotating the key ring: secrets encrypted with an old ring key are re-encrypted row by row. It can be repeated."""

import io
import os
import pty
import re
import tracemalloc
from typing import Any

import pytest
from allauth.mfa.totp.internal.auth import generate_totp_secret
from cryptography.fernet import Fernet
from django.core.management import CommandError, call_command
from django.db import DatabaseError

from taskruns.audit import Actor
from taskruns.encryption import DecryptionFailed
from taskruns.models import AuditEvent, Credential, Team, User
from taskruns.services import credentials, encryption
from taskruns.services.encryption import reencrypt
from taskruns.services.people import factors
from tests.clients import ClientOf
from tests.factories import CANARY, make_credential
from tests.stored import events

OLD, NEW = Fernet.generate_key().decode(), Fernet.generate_key().decode()
SHELL = Actor(type="command", label="tests")


@pytest.fixture
def keys(team: Team, other_team: Team, settings: Any) -> dict[str, Credential]:
    """Keys of two teams, encrypted with the old ring key."""
    settings.ENCRYPTION_KEYS = {1: OLD}
    return {
        "ak-first-0123456789abcdef": make_credential(team, key="ak-first-0123456789abcdef"),
        "ak-second-0123456789abcde": make_credential(team, name="Second", key="ak-second-0123456789abcde"),
        "ak-third-0123456789abcdef": make_credential(other_team, key="ak-third-0123456789abcdef"),
    }


def run_command() -> tuple[str, str]:
    out, err = io.StringIO(), io.StringIO()
    call_command("reencrypt_credentials", stdout=out, stderr=err)
    return out.getvalue(), err.getvalue()


def decryptable(keys: dict[str, Credential]) -> list[bool]:
    """For each row, whether it can be decrypted. A row that yields another row's key fails the test."""
    found = []
    for key, row in keys.items():
        row.refresh_from_db()
        try:
            found.append(row.decrypt_secret() == key)
        except DecryptionFailed:
            found.append(False)
    return found


def test_the_command_rotates_the_ring_in_three_steps(keys: dict[str, Credential], settings: Any):
    settings.ENCRYPTION_KEYS = {2: NEW, 1: OLD}
    assert all(decryptable(keys)), "decryptable before"
    settings.ENCRYPTION_KEYS = {2: NEW}
    assert not any(decryptable(keys)), "the control: the new key alone does not decrypt them yet"
    settings.ENCRYPTION_KEYS = {2: NEW, 1: OLD}
    out, _ = run_command()
    assert "API keys: 3 re-encrypted with ring key 2." in out
    assert "You can remove the other keys from ENCRYPTION_KEYS" in out
    settings.ENCRYPTION_KEYS = {1: OLD}
    assert not any(decryptable(keys)), "the old key alone fails after"
    settings.ENCRYPTION_KEYS = {2: NEW}
    assert all(decryptable(keys)), "the new key alone works"


def test_a_second_call_changes_nothing(keys: dict[str, Credential], settings: Any):
    settings.ENCRYPTION_KEYS = {2: NEW, 1: OLD}
    run_command()
    before = list(Credential.objects.order_by("pk").values())
    out, _ = run_command()
    assert "API keys: 0 re-encrypted" in out
    assert list(Credential.objects.order_by("pk").values()) == before
    assert events() == [("encryption.reencrypt", "done")]


def test_the_sites_log_records_it_without_a_secret(keys: dict[str, Credential], settings: Any):
    settings.ENCRYPTION_KEYS = {2: NEW, 1: OLD}
    run_command()
    row = AuditEvent.objects.get()
    assert (row.chain, row.actor_type, row.outcome) == ("site", "command", "done")
    assert row.details == {"column": "API keys", "rows": 3, "ring_number": 2}


def test_only_ciphertext_of_the_ring_changes(keys: dict[str, Credential], settings: Any):
    other = [field.name for field in Credential._meta.fields if field.name not in {"ring_number", "ciphertext"}]
    before = list(Credential.objects.order_by("pk").values(*other))
    settings.ENCRYPTION_KEYS = {2: NEW, 1: OLD}
    run_command()
    assert list(Credential.objects.order_by("pk").values(*other)) == before
    assert set(Credential.objects.values_list("ring_number", flat=True)) == {2}


def test_each_row_stays_bound_to_its_owner(keys: dict[str, Credential], settings: Any):
    """Re-encryption must not make ciphertext valid that was copied from another row."""
    first, second, third = keys.values()
    Credential.objects.filter(pk=second.pk).update(ciphertext=first.ciphertext)
    settings.ENCRYPTION_KEYS = {2: NEW, 1: OLD}
    with pytest.raises(CommandError, match="1 secret cannot be decrypted"):
        run_command()
    assert decryptable(keys) == [True, False, True]
    Credential.objects.filter(pk=third.pk).update(ciphertext=Credential.objects.get(pk=first.pk).ciphertext)
    assert decryptable(keys) == [True, False, False]


def test_undecryptable_secrets_are_counted_and_kept_and_exit_1(keys: dict[str, Credential], settings: Any):
    lost = next(iter(keys.values()))
    Credential.objects.filter(pk=lost.pk).update(ring_number=9)
    settings.ENCRYPTION_KEYS = {2: NEW, 1: OLD}
    with pytest.raises(CommandError, match="Add the missing ring key"):
        run_command()
    lost.refresh_from_db()
    assert lost.ring_number == 9
    assert decryptable(keys) == [False, True, True]
    settings.ENCRYPTION_KEYS = {2: NEW, 1: OLD, 9: OLD}
    run_command()
    assert all(decryptable(keys))


def test_revoked_keys_have_nothing_to_encrypt(keys: dict[str, Credential], settings: Any):
    for row in keys.values():
        credentials.revoke(row, by=SHELL)
    settings.ENCRYPTION_KEYS = {2: NEW}
    assert "API keys: 0 re-encrypted" in run_command()[0]


def test_nothing_is_changed_without_an_audit_row(
    keys: dict[str, Credential], settings: Any, monkeypatch: pytest.MonkeyPatch
):
    """A chunk that cannot be recorded is not changed; earlier chunks stay done."""
    monkeypatch.setattr(encryption, "CHUNK", 2)
    settings.ENCRYPTION_KEYS = {2: NEW, 1: OLD}
    left = [2]

    def refuse_later(*args: Any, **kwargs: Any) -> None:
        left[0] -= 1
        if not left[0]:
            raise DatabaseError

    with monkeypatch.context() as patch:
        patch.setattr(encryption, "record", refuse_later)
        with pytest.raises(CommandError, match="database cannot be used"):
            run_command()
    assert sorted(Credential.objects.values_list("ring_number", flat=True)) == [1, 2, 2]
    assert "API keys: 1 re-encrypted" in run_command()[0]
    assert all(decryptable(keys))


def test_progress_is_reported_after_each_chunk(
    keys: dict[str, Credential], settings: Any, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(encryption, "CHUNK", 2)
    settings.ENCRYPTION_KEYS = {2: NEW, 1: OLD}
    reported: list[tuple[str, int, int]] = []
    reencrypt(by=SHELL, progress=lambda name, report, total: reported.append((name, report.done, total)))
    assert reported == [("API keys", 2, 3), ("API keys", 3, 3)]


def test_progress_is_shown_only_at_a_terminal(keys: dict[str, Credential], settings: Any):
    settings.ENCRYPTION_KEYS = {2: NEW, 1: OLD}
    assert run_command()[1] == ""
    settings.ENCRYPTION_KEYS = {3: Fernet.generate_key().decode(), 2: NEW}
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "w") as terminal:
        call_command("reencrypt_credentials", stdout=io.StringIO(), stderr=terminal)
    shown = os.read(ours, 1000).decode()
    os.close(ours)
    assert "API keys: 3 of 3" in shown


def test_the_site_audit_page_shows_the_progress(
    keys: dict[str, Credential], settings: Any, ada: User, client_of: ClientOf, monkeypatch: pytest.MonkeyPatch
):
    factors.add_totp(ada, secret=generate_totp_secret(), by=SHELL)
    client = client_of(ada)
    page = client.get("/audit/").content.decode()
    assert "All secrets use the current encryption key (1)." in page
    settings.ENCRYPTION_KEYS = {2: NEW, 1: OLD}
    monkeypatch.setattr(encryption, "CHUNK", 2)
    seen = []

    def read_page(name: str, *_: Any) -> None:
        seen.append(client.get("/audit/encryption/", headers={"HX-Request": "true"}).content.decode())

    read_page("")
    reencrypt(by=SHELL, progress=read_page)
    reported = [re.findall(r">((?:API keys|Second factors): \d of \d)<", fragment) for fragment in seen]
    assert reported == [
        ["API keys: 0 of 3", "Second factors: 0 of 2"],  # the app and its recovery codes
        ["API keys: 2 of 3", "Second factors: 0 of 2"],
        ["Second factors: 0 of 2"],
        [],
    ]
    assert ["data-poll" in fragment for fragment in seen] == [True, True, True, False]
    assert "current encryption key (2)." in seen[-1]


def test_memory_does_not_grow_with_the_number_of_keys(team: Team, settings: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(encryption, "CHUNK", 20)
    settings.ENCRYPTION_KEYS = {1: OLD}
    wide = {"team": team, "endpoint": "https://api.arize.com", "spaces": ["x" * 30_000]}
    rows = [Credential(name=f"Key {number}", **wide) for number in range(300)]
    for row in rows:
        row.encrypt_secret(CANARY)
    Credential.objects.bulk_create(rows)
    del rows, row
    settings.ENCRYPTION_KEYS = {2: NEW, 1: OLD}
    tracemalloc.start()
    report = reencrypt(by=SHELL)["API keys"]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert report.done == 300
    assert peak < 4_000_000, "all rows together take more than 9 MB"
