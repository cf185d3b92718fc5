"""Checks that this process has the ring keys that encrypt the stored secrets.

A secret that a process cannot decrypt because of its own ENCRYPTION_KEYS is a fault of the process, not of the API key.
The process logs it, reports it at /readyz and refuses to start, but does not mark the API key as failing.
"""

from typing import Any

from allauth.mfa.models import Authenticator
from django.conf import settings
from django.db import connection, models
from django.views.decorators.debug import sensitive_variables

from taskruns.encryption import Ciphertext, DecryptionFailed, Ring
from taskruns.models import ArizeHook, Channel, Credential, RingKeyCheck
from taskruns.services.user_errors import UserError

_TEXT = "taskruns ring key"
# The members of a second factor's data that hold its secret, as "<ring number>:<token>".
_FACTOR_SECRETS = ("secret", "seed")


class WrongKeyRing(UserError):
    """This process must not encrypt: the other processes could not decrypt the result."""


def problem() -> str:
    """A sentence that names the variable, or "" if this process can decrypt what is stored."""
    checks = {check.number: check for check in RingKeyCheck.objects.all()}
    for number in sorted(checks.keys() | _numbers_in_use()):
        if number not in settings.ENCRYPTION_KEYS:
            if _is_in_use(number):
                return (
                    f"ENCRYPTION_KEYS has no key {number}, which encrypts stored secrets. "
                    "This process cannot use them. Add that key, then restart this process."
                )
        elif number in checks and not _is_same(checks[number]):
            return _differing_key(number)
    return ""


def check_newest() -> None:
    """Call before encrypting with the newest key: the other processes must have the same key for its number.

    Raises WrongKeyRing.
    """
    number = next(iter(settings.ENCRYPTION_KEYS))
    check, _ = RingKeyCheck.objects.get_or_create(number=number, defaults={"token": _token(number)})
    if not _is_same(check):
        raise WrongKeyRing(_differing_key(number))


def _differing_key(number: int) -> str:
    return (
        f"Key {number} in ENCRYPTION_KEYS differs from the key {number} that encrypts stored secrets. "
        "This process cannot use them. Set the original key, then restart this process."
    )


def create_missing_checks(**_kwargs: Any) -> None:
    """After a migration: create the missing checks, for numbers whose secrets this process can decrypt."""
    if RingKeyCheck._meta.db_table not in connection.introspection.table_names():
        return  # migrated back to an older release
    known = set(RingKeyCheck.objects.values_list("number", flat=True))
    for number in settings.ENCRYPTION_KEYS.keys() - known:
        if _decrypts_one(number):
            RingKeyCheck.objects.get_or_create(number=number, defaults={"token": _token(number)})


def _credentials(number: int) -> "models.QuerySet[Credential]":
    return Credential.objects.exclude(ciphertext="").filter(ring_number=number)


def _channels(number: int) -> "models.QuerySet[Channel]":
    return Channel.objects.exclude(ciphertext="").filter(ring_number=number)


def _hooks(number: int) -> "models.QuerySet[ArizeHook]":
    return ArizeHook.objects.exclude(ciphertext="").filter(ring_number=number)


def _numbers_in_use() -> set[int]:
    stored: tuple[models.QuerySet[Any], ...] = (
        Credential.objects.exclude(ciphertext=""),
        *(rows.exclude(ciphertext="") for rows in (Channel.objects.all(), ArizeHook.objects.all())),
    )
    return {number for rows in stored for number in rows.values_list("ring_number", flat=True).distinct()}


def _factors(number: int) -> "models.QuerySet[Authenticator]":
    mine = models.Q()
    for name in _FACTOR_SECRETS:
        mine |= models.Q((f"data__{name}__startswith", f"{number}:"))
    rows: models.QuerySet[Authenticator] = Authenticator.objects.filter(mine)
    return rows


def _is_in_use(number: int) -> bool:
    return any(rows.exists() for rows in (_credentials(number), _channels(number), _hooks(number), _factors(number)))


@sensitive_variables()
def _decrypts_one(number: int) -> bool:
    """Whether this process can decrypt a stored secret that uses this number."""
    ring = Ring(settings.ENCRYPTION_KEYS)
    try:
        if (row := _credentials(number).first()) is not None:
            row.decrypt_secret()
            return True
        for other in (_channels(number).first(), _hooks(number).first()):
            if other is not None:
                other.decrypt_secret()
                return True
        if (factor := _factors(number).first()) is not None:
            stored = next(factor.data[name] for name in _FACTOR_SECRETS if name in factor.data)
            ring.decrypt(Ciphertext(number, stored.partition(":")[2]), owner=f"factor of {factor.user_id}")
            return True
    except DecryptionFailed:
        return False
    return False


@sensitive_variables()
def _token(number: int) -> str:
    return Ring({number: settings.ENCRYPTION_KEYS[number]}).encrypt(_TEXT, owner=_owner(number)).token


@sensitive_variables()
def _is_same(check: RingKeyCheck) -> bool:
    ring = Ring({check.number: settings.ENCRYPTION_KEYS[check.number]})
    try:
        return ring.decrypt(Ciphertext(check.number, check.token), owner=_owner(check.number)) == _TEXT
    except DecryptionFailed:
        return False


def _owner(number: int) -> str:
    return f"ring key {number}"
