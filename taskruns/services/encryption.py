"""Rotates encryption keys: re-encrypts with the newest ring key what an older one encrypted.

Every encrypted column is registered here. Rows are processed in chunks, each in one transaction with its audit row. So
memory does not grow, locks are short, and an interrupted rotation can simply be started again.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from allauth.mfa.models import Authenticator
from django.conf import settings
from django.db import models, transaction
from django.views.decorators.debug import sensitive_variables

from taskruns.audit import Actor, EventType, record
from taskruns.encryption import Ciphertext, DecryptionFailed, Ring
from taskruns.models import ArizeHook, Channel, Credential

from . import key_ring
from .people import factors

CHUNK = 200  # rows in one transaction
Result = Literal["done", "unreadable"]


@dataclass(frozen=True, slots=True)
class EncryptedColumn:
    """`encrypted`: the rows with a secret. `behind`: of these, the rows not encrypted with the given newest ring key.
    `reencrypt`: encrypt one such row again and save it; the row is locked.
    """

    name: str
    encrypted: Callable[[], "models.QuerySet[Any]"]
    behind: Callable[[int], "models.QuerySet[Any]"]
    reencrypt: Callable[[Any, Ring], Result]


@dataclass(slots=True)
class Report:
    done: int = 0
    unreadable: int = 0


def _credentials() -> "models.QuerySet[Credential]":
    return Credential.objects.exclude(ciphertext="")


def _credentials_behind(newest: int) -> "models.QuerySet[Credential]":
    return _credentials().exclude(ring_number=newest)


@sensitive_variables()
def _reencrypt_row(row: Any, ring: Ring) -> Result:
    """Update only the two encrypted columns, so that concurrent changes of the row are kept."""
    owner = str(row.pk)
    try:
        encrypted = ring.encrypt(ring.decrypt(Ciphertext(row.ring_number, row.ciphertext), owner=owner), owner=owner)
    except DecryptionFailed:
        return "unreadable"
    rows = type(row)._default_manager.filter(pk=row.pk)
    rows.update(ring_number=encrypted.ring_number, ciphertext=encrypted.token)
    return "done"


def _channels() -> "models.QuerySet[Channel]":
    return Channel.objects.exclude(ciphertext="")


def _channels_behind(newest: int) -> "models.QuerySet[Channel]":
    return _channels().exclude(ring_number=newest)


def _hooks() -> "models.QuerySet[ArizeHook]":
    return ArizeHook.objects.exclude(ciphertext="")


def _hooks_behind(newest: int) -> "models.QuerySet[ArizeHook]":
    return _hooks().exclude(ring_number=newest)


# Where each kind of second factor stores its secret. Passkeys have none.
_KINDS = ((Authenticator.Type.TOTP, "secret"), (Authenticator.Type.RECOVERY_CODES, "seed"))


def _factors() -> "models.QuerySet[Authenticator]":
    kept = models.Q()
    for kind, name in _KINDS:
        kept |= models.Q(type=kind, data__has_key=name)
    rows: models.QuerySet[Authenticator] = Authenticator.objects.filter(kept)
    return rows


def _factors_behind(newest: int) -> "models.QuerySet[Authenticator]":
    behind = models.Q()
    for kind, name in _KINDS:
        kept = models.Q(type=kind, data__has_key=name)
        behind |= kept & ~models.Q((f"data__{name}__startswith", f"{newest}:"))
    rows: models.QuerySet[Authenticator] = Authenticator.objects.filter(behind).select_related("user")
    return rows


@sensitive_variables()
def _reencrypt_factor(row: Authenticator, _ring: Ring) -> Result:
    try:
        factors.reencrypt(row)
    except DecryptionFailed:
        return "unreadable"
    return "done"


COLUMNS: tuple[EncryptedColumn, ...] = (
    EncryptedColumn("API keys", _credentials, _credentials_behind, _reencrypt_row),
    EncryptedColumn("channels", _channels, _channels_behind, _reencrypt_row),
    EncryptedColumn("webhooks of Arize", _hooks, _hooks_behind, _reencrypt_row),
    EncryptedColumn("second factors", _factors, _factors_behind, _reencrypt_factor),
)


def reencrypt(*, by: Actor, progress: Callable[[str, Report, int], None] = lambda *_: None) -> dict[str, Report]:
    """Encrypt every registered column with the newest ring key. A second call finds nothing to do.

    `progress` is called after each chunk with the column, the report so far, and the number of rows to encrypt in all.
    """
    key_ring.check_newest()
    ring = Ring(settings.ENCRYPTION_KEYS)
    reports = {}
    for column in COLUMNS:
        report = reports[column.name] = Report()
        total = column.behind(ring.newest).count()
        last: Any = None
        while (last := _chunk(column, ring, report, after=last, by=by)) is not None:
            progress(column.name, report, total)
    return reports


@transaction.atomic
def _chunk(column: EncryptedColumn, ring: Ring, report: Report, *, after: Any, by: Actor) -> Any:
    """Process one chunk. Returns its last primary key, or None if there was no row left."""
    rows = column.behind(ring.newest).order_by("pk").select_for_update(of=("self",), no_key=True)
    chunk = list((rows if after is None else rows.filter(pk__gt=after))[:CHUNK])
    done = sum(column.reencrypt(row, ring) == "done" for row in chunk)
    report.done += done
    report.unreadable += len(chunk) - done
    if done:
        details = {"column": column.name, "rows": done, "ring_number": ring.newest}
        record(EventType.ENCRYPTION_REENCRYPT, "done", by=by, details=details)
    return chunk[-1].pk if chunk else None
