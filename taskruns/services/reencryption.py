"""Turning the ring: what an older ring key encrypted is encrypted again with the newest one.

Every encrypted column is registered here. Rows are taken in portions, each one transaction with its audit row, so
that memory does not grow, nobody waits long, and a broken-off run is simply run again.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from allauth.mfa.models import Authenticator
from django.conf import settings
from django.db import models, transaction
from django.views.decorators.debug import sensitive_variables

from taskruns.audit import Actor, EventType, record
from taskruns.encryption import Ring, SealBroken, Sealed
from taskruns.models import Credential

from .people import factors

PORTION = 200  # rows a transaction
Result = Literal["done", "unreadable"]


@dataclass(frozen=True, slots=True)
class EncryptedColumn:
    """`sealed`: the rows that hold a secret; `behind`: given the newest ring number, those of them that another one
    wrote; `reseal` encrypts one such row, which is locked, again, and saves it.
    """

    name: str
    sealed: Callable[[], "models.QuerySet[Any]"]
    behind: Callable[[int], "models.QuerySet[Any]"]
    reseal: Callable[[Any, Ring], Result]


@dataclass(slots=True)
class Report:
    done: int = 0
    unreadable: int = 0


def _credentials() -> "models.QuerySet[Credential]":
    return Credential.objects.exclude(ciphertext="")


def _credentials_behind(newest: int) -> "models.QuerySet[Credential]":
    return _credentials().exclude(ring_number=newest)


@sensitive_variables()
def _reseal_credential(row: Credential, ring: Ring) -> Result:
    """Only what the ring wrote changes: whoever else writes to the row meanwhile loses nothing."""
    owner = str(row.pk)
    try:
        sealed = ring.seal(ring.open(Sealed(row.ring_number, row.ciphertext), owner=owner), owner=owner)
    except SealBroken:
        return "unreadable"
    Credential.objects.filter(pk=row.pk).update(ring_number=sealed.ring_number, ciphertext=sealed.ciphertext)
    return "done"


# Where each kind of second factor keeps its secret; passkeys hold none.
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
def _reseal_factor(row: Authenticator, _ring: Ring) -> Result:
    try:
        factors.reseal(row)
    except SealBroken:
        return "unreadable"
    return "done"


COLUMNS: tuple[EncryptedColumn, ...] = (
    EncryptedColumn("API keys", _credentials, _credentials_behind, _reseal_credential),
    EncryptedColumn("second factors", _factors, _factors_behind, _reseal_factor),
)


def reencrypt(*, by: Actor, tell: Callable[[str, Report, int], None] = lambda *_: None) -> dict[str, Report]:
    """Bring every encrypted column to the newest ring key. A second call finds nothing to do.

    `tell` hears (column, report so far, rows of the column that were behind at the beginning) after each portion.
    """
    ring = Ring(settings.ENCRYPTION_KEYS)
    reports = {}
    for column in COLUMNS:
        report = reports[column.name] = Report()
        total = column.behind(ring.newest).count()
        last: Any = None
        while (last := _portion(column, ring, report, after=last, by=by)) is not None:
            tell(column.name, report, total)
    return reports


@transaction.atomic
def _portion(column: EncryptedColumn, ring: Ring, report: Report, *, after: Any, by: Actor) -> Any:
    """The last primary key that was looked at; None when there is no further row."""
    rows = column.behind(ring.newest).order_by("pk").select_for_update(of=("self",), no_key=True)
    portion = list((rows if after is None else rows.filter(pk__gt=after))[:PORTION])
    done = sum(column.reseal(row, ring) == "done" for row in portion)
    report.done += done
    report.unreadable += len(portion) - done
    if done:
        details = {"column": column.name, "rows": done, "ring_number": ring.newest}
        record(EventType.ENCRYPTION_REENCRYPT, "done", by=by, details=details)
    return portion[-1].pk if portion else None
