"""Takes Arize's webhook `online_task.run.failed`: a nudge to read a task now, never the truth itself.

Source of the signature: the official Python SDK 8.61.0, `WebhookAuthType`. HMAC: `X-Arize-Webhook-Signature` is
`v1=<hex HMAC-SHA256>` over `<timestamp>.<body>`, the timestamp in Unix seconds in `X-Arize-Webhook-Timestamp`. Bearer:
the token that the webhook was created with, in `Authorization`.
"""

import hashlib
import hmac
import json
import re
import secrets
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum, auto
from typing import Any

import structlog
from django.core.cache import cache
from django.db import transaction
from django.utils import timezone
from django.utils.crypto import constant_time_compare
from django.views.decorators.debug import sensitive_variables

from taskruns.audit import Actor, EventType, Target, record
from taskruns.encryption import DecryptionFailed
from taskruns.models import ArizeHook, HookAuth, Limit, SignInCount, Team
from taskruns.services import key_ring
from taskruns.services.rare_lines import Rarely
from taskruns.services.teams import lock_team
from taskruns.services.user_errors import UserError

log = structlog.get_logger(__name__)

EVENT = "online_task.run.failed"
WINDOW = 300  # seconds that a signature is valid, before and after
MOST = Limit("arize hook", 120, timedelta(minutes=1))  # accepted requests of one team
MOST_IDS = 200  # texts of a body that may be the id of a task
LONGEST_ID = 200
LONGEST_SECRET = 500
_SECRET = re.compile(r"[!-~]{16,500}")
_ID = re.compile(r"[!-~]{1,200}")
_complaints = Rarely()


class Taken(Enum):
    """What became of a request."""

    NUDGED = auto()
    SEEN = auto()  # its id was taken before
    OTHER = auto()  # another event, or no event
    UNKNOWN = auto()  # no such address
    REFUSED = auto()  # not proven to be Arize's, or too old
    TOO_MANY = auto()


@dataclass(frozen=True, slots=True)
class Incoming:
    """`headers`: case-insensitive."""

    headers: Mapping[str, str]
    body: bytes

    def header(self, name: str) -> str:
        return self.headers.get(f"X-Arize-Webhook-{name}", "")


@dataclass(frozen=True, slots=True)
class Nudge:
    """`ids`: texts of the body that may be the Arize id of the task."""

    taken: Taken
    team: Team | None = None
    ids: tuple[str, ...] = ()


def find_live(team: Team) -> ArizeHook | None:
    return ArizeHook.objects.filter(team=team, removed_at=None).first()


def make_address(team: Team, *, by: Actor) -> str:
    """A new address for Arize's webhook. Returns its token, which is not stored. Raises UserError."""
    token = secrets.token_urlsafe(32)
    with transaction.atomic():
        team = lock_team(team)
        if find_live(team) is not None:
            raise UserError("The team already has an address for Arize's webhook. Remove it first.")
        hook = ArizeHook.objects.create(
            team=team, digest=_digest(token), created_by=by.person, created_by_label=by.label
        )
        record(EventType.CHANNEL_ADD, "done", by=by, team=team, target=_target(hook), details={"kind": "arize"})
    return token


@sensitive_variables("secret")
def set_secret(hook: ArizeHook, *, auth: str, secret: str, by: Actor) -> None:
    """Store the secret that Arize showed, or the token that it was given. Raises UserError."""
    secret = secret.strip()
    if auth not in HookAuth.values:
        raise UserError("Choose how Arize proves its requests.", field="auth")
    if not _SECRET.fullmatch(secret):
        raise UserError(
            f"A secret has 16 to {LONGEST_SECRET} characters without blanks. Copy it from Arize again.", field="secret"
        )
    with transaction.atomic():
        row = ArizeHook.objects.select_for_update(of=("self",), no_key=True).filter(pk=hook.pk, removed_at=None).first()
        if row is None:
            raise UserError("This address was removed. Create a new one.")
        key_ring.check_newest()
        row.auth = HookAuth(auth)
        row.encrypt_secret(secret)
        row.save(update_fields=["auth", "ring_number", "ciphertext"])
        details = {"changed": ["secret"], "kind": "arize"}
        record(EventType.CHANNEL_CHANGE, "done", by=by, team=hook.team, target=_target(row), details=details)


def remove(hook: ArizeHook, *, by: Actor) -> bool:
    """False if it was already removed."""
    with transaction.atomic():
        live = ArizeHook.objects.filter(pk=hook.pk, removed_at=None)
        if not live.update(removed_at=timezone.now(), ciphertext=""):
            return False
        record(EventType.CHANNEL_REMOVE, "done", by=by, team=hook.team, target=_target(hook), details={"kind": "arize"})
    return True


def take(token: str, incoming: Incoming) -> Nudge:
    """Check a request. Nothing of it is stored but a digest of its id, for as long as it could be repeated."""
    live = ArizeHook.objects.filter(removed_at=None, team__archived_at=None).select_related("team")
    hook = live.filter(digest=_digest(token)).first()
    if hook is None:
        return Nudge(Taken.UNKNOWN)
    if not _is_proven(hook, incoming):
        if _complaints.is_due():
            log.warning("arize_hook_refused", team=hook.team.slug, left_out=_complaints.left_out)
        return Nudge(Taken.REFUSED, hook.team)
    if incoming.header("Event") != EVENT:
        return Nudge(Taken.OTHER, hook.team)
    marks = _marks(hook, incoming)
    if not _are_new(marks):
        return Nudge(Taken.SEEN, hook.team)
    if not SignInCount.objects.try_count(MOST, str(hook.pk)):
        # Not taken, so that Arize may send it again.
        cache.delete_many(marks)
        return Nudge(Taken.TOO_MANY, hook.team)
    ArizeHook.objects.filter(pk=hook.pk).update(last_event_at=timezone.now())
    return Nudge(Taken.NUDGED, hook.team, tuple(_ids_in(incoming.body)))


@sensitive_variables()
def _is_proven(hook: ArizeHook, incoming: Incoming) -> bool:
    if not hook.ciphertext:
        return False
    try:
        secret = hook.decrypt_secret()
    except DecryptionFailed:
        return False
    stamp = incoming.header("Timestamp")
    if not _is_recent(stamp):
        return False
    if hook.auth == HookAuth.BEARER:
        kind, _, given = incoming.headers.get("Authorization", "").partition(" ")
        return kind.lower() == "bearer" and constant_time_compare(given.strip(), secret)
    signed = stamp.encode() + b"." + incoming.body
    wanted = f"v1={hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest()}"
    return constant_time_compare(incoming.header("Signature"), wanted)


def _is_recent(stamp: str) -> bool:
    return bool(re.fullmatch(r"\d{1,12}", stamp, re.ASCII)) and abs(time.time() - int(stamp)) <= WINDOW


def _marks(hook: ArizeHook, incoming: Incoming) -> list[str]:
    """What a repetition has in common with the first: its id, or its signature, because the id is not signed."""
    signed = [f"{incoming.header('Timestamp')}:{incoming.header('Signature')}"] if hook.auth == HookAuth.HMAC else []
    parts = [*signed, incoming.header("Id")]
    return [f"taskruns.arize_hook.{_digest(f'{hook.pk}:{part}')}" for part in parts]


def _are_new(marks: list[str]) -> bool:
    """Each once, for longer than a signature is valid."""
    return all(cache.add(mark, True, timeout=3 * WINDOW) for mark in marks)


def _ids_in(body: bytes) -> Iterator[str]:
    """The texts of the body. Which member names the task is not documented, so the mirror knows it by its id."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return
    found = 0
    waiting: list[Any] = [document]
    while waiting and found < MOST_IDS:
        value = waiting.pop()
        if isinstance(value, dict):
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value
        elif isinstance(value, str) and _ID.fullmatch(value):
            found += 1
            yield value


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def _target(hook: ArizeHook) -> Target:
    return Target("channel", str(hook.pk), "webhook of Arize")
