"""Add, replace and revoke API keys. Once saved, a key is never shown again.

Rows are locked in the same order everywhere: the team's keys by id, the team, its audit chain.
"""

import copy
import re
from collections.abc import Iterable, Iterator
from datetime import date

from django.conf import settings
from django.db import transaction
from django.utils import timezone
from django.views.decorators.debug import sensitive_variables

from taskruns.arize.endpoints import EndpointRefused, check_endpoint
from taskruns.audit import Actor, EventType, clean_line, record
from taskruns.encryption import DecryptionFailed
from taskruns.models import Credential, Task, Team
from taskruns.services import key_ring
from taskruns.services.user_errors import UserError

from .health import HEALTHY

LONGEST_NAME = 100
_KEY = re.compile(r"[\x21-\x7e]{1,4096}")
# Pasted from an env file or a program: Arize would reject it each time.
_MORE_THAN_A_KEY = re.compile(r"""["'`]|[A-Z_]*KEY[A-Z_]*[=:].""", re.IGNORECASE)


@sensitive_variables("key")
def draft(team: Team, *, name: str, endpoint: str, key: str, expires_on: date | None) -> Credential:
    """A key that could be saved but is not, for a test before. Raises UserError."""
    credential = Credential(team=team, name=_clean_name(name), endpoint=_checked_endpoint(endpoint))
    key, credential.expires_on = _checked_key(key), _checked_expiry(expires_on)
    _refuse_taken(team, credential.name)
    _refuse_same_key(credential, key)
    key_ring.check_newest()
    credential.encrypt_secret(key)
    return credential


@sensitive_variables("key")
def replacement(credential: Credential, *, key: str, expires_on: date | None) -> Credential:
    """The credential as it would be with this key, not saved, for a test before. Raises UserError."""
    changed = copy.copy(credential)
    key, changed.expires_on = _checked_key(key), _checked_expiry(expires_on)
    _refuse_same_key(credential, key)
    key_ring.check_newest()
    changed.encrypt_secret(key)
    return changed


@sensitive_variables("key")
def add(
    team: Team, *, name: str, endpoint: str, key: str, expires_on: date | None, by: Actor, is_tested: bool = False
) -> Credential:
    """Save a key. The mirror starts to read with it at once. `is_tested`: it has just worked. Raises UserError."""
    credential = draft(team, name=name, endpoint=endpoint, key=key, expires_on=expires_on)
    credential.created_by, credential.last_good_at = by.person, timezone.now() if is_tested else None
    with transaction.atomic():
        key_ring.check_newest()
        _lock_team(team)
        _refuse_taken(team, credential.name)
        credential.save(force_insert=True)
        Team.bump(team.pk)
        details = {"last4": credential.last4, "expires_on": _iso(credential.expires_on)}
        record(EventType.CREDENTIAL_ADD, "done", by=by, team=team, credential=credential, details=details)
    return credential


@sensitive_variables("key")
def replace(
    credential: Credential,
    *,
    key: str,
    expires_on: date | None,
    by: Actor,
    endpoint: str | None = None,
    is_tested: bool = False,
) -> bool:
    """Replace the key, and the endpoint if one is given. The old key is deleted. `is_tested`: the new one has just
    worked.

    False if key, endpoint and expiry are unchanged. Raises UserError.
    """
    key, expires_on = _checked_key(key), _checked_expiry(expires_on)
    with transaction.atomic():
        row = _locked(credential)
        endpoint = row.endpoint if endpoint is None else _checked_endpoint(endpoint)
        same = {
            "key": _decrypted(row) == key,
            "endpoint": row.endpoint == endpoint,
            "expires_on": row.expires_on == expires_on,
        }
        changed = [name for name, is_same in same.items() if not is_same]
        if not changed:
            return False
        row.endpoint, row.expires_on, row.expiry_told = endpoint, expires_on, None
        _refuse_same_key(row, key)
        row.last_good_at = timezone.now() if is_tested else row.last_good_at
        key_ring.check_newest()
        row.encrypt_secret(key)
        _save_replaced(row, moved="endpoint" in changed)
        details = {"changed": changed, "last4": row.last4, "expires_on": _iso(expires_on)}
        record(EventType.CREDENTIAL_REPLACE, "done", by=by, team=row.team, credential=row, details=details)
    credential.refresh_from_db()
    return True


def revoke(credential: Credential, *, by: Actor) -> bool:
    """Delete the key and release its tasks, so that another key of the team takes them over in its next round.

    False if it was already revoked. This does not revoke the key in Arize; people do that there.
    """
    with transaction.atomic():
        keys = {row.pk: row for row in _live_keys(credential.team)}
        row = keys.pop(credential.pk, None)
        if row is None:
            return False
        now = timezone.now()
        Credential.objects.filter(pk=row.pk).update(revoked_at=now, ciphertext="", claimed_until=None)
        freed = Task.objects.filter(credential=row).update(credential=None)
        Credential.objects.filter(pk__in=keys).update(tasks_read_at=None, next_refresh_at=now)
        Team.bump(row.team_id)
        details = {"tasks_set_free": freed}
        record(EventType.CREDENTIAL_REVOKE, "done", by=by, team=row.team, credential=row, details=details)
    credential.refresh_from_db()
    return True


@sensitive_variables("key")
def is_same_key(credential: Credential, *, key: str, endpoint: str) -> bool:
    """Whether the credential already has this key and endpoint. Raises UserError."""
    return credential.endpoint == _checked_endpoint(endpoint) and _decrypted(credential) == _checked_key(key)


def find_live(team: Team, name: str) -> Credential | None:
    """The team's key with this name, ignoring case, unless it is revoked."""
    return next(_called(name, Credential.objects.live().filter(team=team)), None)


def was_revoked(team: Team, name: str) -> bool:
    """Whether the team had a key with this name, ignoring case, which is revoked now."""
    return any(_called(name, Credential.objects.filter(team=team).exclude(revoked_at=None)))


def _called(name: str, among: Iterable[Credential]) -> Iterator[Credential]:
    wanted = clean_line(name, LONGEST_NAME).casefold()
    return (credential for credential in among if credential.name.casefold() == wanted)


def _save_replaced(row: Credential, *, moved: bool) -> None:
    """Save the new key with its health reset. If the endpoint changed, release the tasks of the old one."""
    for name, value in HEALTHY.items():
        setattr(row, name, value)
    row.claimed_until = row.tasks_read_at = row.first_contact_done_at = None
    row.tasks_listed_from = row.spaces_listed_from = None
    row.listing_at = {}
    row.next_refresh_at = timezone.now()
    if moved:
        row.spaces = []
        Task.objects.filter(credential=row).update(credential=None)
    row.save()
    Team.bump(row.team_id)


def _locked(credential: Credential) -> Credential:
    # of, no_key: rows that only refer to the key (tasks) do not wait for this lock.
    rows = Credential.objects.live().select_for_update(of=("self",), no_key=True).select_related("team")
    row = rows.filter(pk=credential.pk).first()
    if row is None:
        raise UserError("This API key was revoked. Add a new one.")
    return row


def _live_keys(team: Team) -> list[Credential]:
    rows = Credential.objects.filter(team=team, revoked_at=None).select_for_update(of=("self",), no_key=True)
    return list(rows.select_related("team").order_by("pk"))


def _lock_team(team: Team) -> None:
    if not Team.objects.active().select_for_update(no_key=True).filter(pk=team.pk).exists():
        raise UserError("This team is archived. API keys can no longer be added.")


def _refuse_taken(team: Team, name: str) -> None:
    if find_live(team, name) is not None:
        sentence = f"The team already has an API key named {name}. Replace it, or choose another name."
        raise UserError(sentence, field="name")


@sensitive_variables()
def _refuse_same_key(credential: Credential, key: str) -> None:
    """A second copy of a key reads everything twice, within one rate limit."""
    others = Credential.objects.live().filter(team=credential.team, endpoint=credential.endpoint)
    for other in others.exclude(pk=credential.pk):
        if _decrypted(other) == key:
            sentence = f"The team already has this key as “{other.name}”. Nothing was saved. Enter another key."
            raise UserError(sentence, field="key")


@sensitive_variables()
def _decrypted(credential: Credential) -> str | None:
    """The stored key, or None if it cannot be decrypted. None differs from every key."""
    try:
        return credential.decrypt_secret()
    except DecryptionFailed:
        return None


def _clean_name(name: str) -> str:
    cleaned = clean_line(name, LONGEST_NAME + 1)
    if not cleaned:
        raise UserError("Enter a name for the API key.", field="name")
    if len(cleaned) > LONGEST_NAME:
        raise UserError(f"The name is too long. The limit is {LONGEST_NAME} characters.", field="name")
    return cleaned


def _checked_endpoint(endpoint: str) -> str:
    try:
        return check_endpoint(endpoint, extra=settings.ARIZE_ENDPOINTS)
    except EndpointRefused as error:
        raise UserError(str(error), field="endpoint") from None


@sensitive_variables("key", "stripped")
def _checked_key(key: str) -> str:
    stripped = key.strip()
    if not _KEY.fullmatch(stripped):
        raise UserError(
            "This is not an API key. A key has at most 4,096 characters and no spaces. Copy it from Arize again.",
            field="key",
        )
    if _MORE_THAN_A_KEY.match(stripped):
        raise UserError(
            "This is more than an API key. Enter the key alone, without quotation marks and without a name before it.",
            field="key",
        )
    return stripped


def _checked_expiry(expires_on: date | None) -> date | None:
    if expires_on is not None and expires_on < timezone.localdate():
        raise UserError("This date is in the past. Enter a future date, or leave it empty.", field="expires_on")
    return expires_on


def _iso(day: date | None) -> str | None:
    return day.isoformat() if day else None
