"""A process with another signing key: it anchors nothing, is not ready, and refuses to start."""

import os
from io import StringIO
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from django.core.exceptions import ImproperlyConfigured
from django.core.management import CommandError, call_command
from django.test import Client
from django.utils import timezone

from taskruns.audit import Actor, EventType, record
from taskruns.audit.anchors import anchor_changed
from taskruns.audit.signing_keys import signing_key_problem
from taskruns.models import AuditAnchor, AuditChain, AuditEvent, AuditVerification, Heartbeat, SigningKeyUse, Team
from taskruns.services import readiness
from taskruns.services.user_errors import UserError

from .exports import exported, parsed

SENTENCE = "AUDIT_SIGNING_KEY is not the key that signed this audit log"


@pytest.fixture
def anchored(team: Team) -> Team:
    Heartbeat.objects.create(name="worker", seen_at=timezone.now())
    record(EventType.TEAM_CHANGE, "done", by=Actor.job("tests"), team=team)
    assert anchor_changed() == 1
    record(EventType.TEAM_CHANGE, "done", by=Actor.job("tests"), team=team)
    return team


@pytest.fixture
def other_key(anchored: Team, settings: Any) -> bytes:
    """Replaces the key after the first anchor. Returns the raw public key of the old one."""
    old = Ed25519PrivateKey.from_private_bytes(settings.AUDIT_SIGNING_KEY).public_key().public_bytes_raw()
    settings.AUDIT_SIGNING_KEY = os.urandom(32)
    return old


def test_other_key_anchors_nothing(other_key: bytes, caplog: pytest.LogCaptureFixture) -> None:
    assert anchor_changed() == 0
    assert AuditAnchor.objects.count() == 1
    assert SENTENCE in caplog.text


def test_other_key_is_not_ready_and_refuses_to_start(other_key: bytes, settings: Any) -> None:
    assert Client().get("/readyz").status_code == 503
    with pytest.raises(ImproperlyConfigured, match=SENTENCE):
        readiness.refuse_start()
    settings.AUDIT_PUBLIC_KEYS = (other_key,)
    assert Client().get("/readyz").status_code == 200
    readiness.refuse_start()


def test_other_key_exports_nothing(other_key: bytes, anchored: Team) -> None:
    rows = AuditEvent.objects.count()
    with pytest.raises(CommandError, match=SENTENCE) as refused:
        call_command("export_audit", anchored.slug, stdout=StringIO())
    assert refused.value.returncode == 2
    assert AuditEvent.objects.count() == rows


def test_no_export_without_an_anchor_of_its_row(other_key: bytes, anchored: Team, settings: Any) -> None:
    """A web process that runs since before the key was used. The thousandth row is anchored when it is written."""
    rows = AuditEvent.objects.count()
    with pytest.raises(UserError, match=SENTENCE):
        exported(anchored)
    assert AuditEvent.objects.count() == rows
    settings.AUDIT_PUBLIC_KEYS = (other_key,)
    AuditChain.objects.filter(chain=f"team:{anchored.pk}").update(seq=999)
    assert parsed(exported(anchored))[0]["manifest"]["last_seq"] == 1000


def test_other_key_verifies_nothing(other_key: bytes, anchored: Team, settings: Any) -> None:
    rows = AuditEvent.objects.count()
    with pytest.raises(CommandError, match=SENTENCE) as refused:
        call_command("verify_audit", stdout=StringIO())
    assert refused.value.returncode == 2
    assert (AuditEvent.objects.count(), AuditVerification.objects.count()) == (rows, 0)
    settings.AUDIT_PUBLIC_KEYS = (other_key,)
    call_command("verify_audit", stdout=StringIO())
    assert AuditEvent.objects.count() > rows, "the control"


def test_rotation_that_lists_the_old_key_goes_on(other_key: bytes, settings: Any) -> None:
    settings.AUDIT_PUBLIC_KEYS = (other_key,)
    assert anchor_changed() == 1


def test_rows_written_by_hand_do_not_count(anchored: Team, settings: Any) -> None:
    SigningKeyUse.objects.update(mac="0" * 64)
    SigningKeyUse.objects.create(key_id="0" * 16, mac="0" * 64)
    settings.AUDIT_SIGNING_KEY = os.urandom(32)
    assert signing_key_problem() == ""


def test_new_panel_has_no_key_to_continue(db: None, settings: Any) -> None:
    settings.AUDIT_SIGNING_KEY = os.urandom(32)
    assert signing_key_problem() == ""
