"""Second factors: adding, removing, and what they are encrypted with. Their rows are django-allauth's.

A secret is bound to its person: `bound_to(person)` must be around whatever reads or writes one, and a ciphertext that
was copied from somebody else's row does not open.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from allauth.mfa.models import Authenticator
from django.conf import settings
from django.db import transaction
from django.db.models import QuerySet
from django.views.decorators.debug import sensitive_variables

from taskruns.allauth_compat import TOTP, RecoveryCodes, WebAuthn
from taskruns.audit import Actor, EventType, Target, clean_line, record
from taskruns.encryption import Ciphertext, DecryptionFailed, Ring
from taskruns.models import User
from taskruns.services import key_ring
from taskruns.services.user_errors import UserError

from . import sessions

SECOND = (Authenticator.Type.TOTP, Authenticator.Type.WEBAUTHN)
# What the log and the pages call them.
WORDS = {"totp": "authenticator app", "webauthn": "passkey", "recovery_codes": "recovery codes"}
LONGEST_NAME = 60
FACTOR_NEEDED = "Your role needs a second factor, and this is your only one. Add another one before you remove it."
_SECRETS = ("secret", "seed")  # where a row keeps its secret, by kind
_COUNT = "count"  # where a passkey's row keeps how often its device says that it was used
_owner: ContextVar[str] = ContextVar("owner of the factor at hand", default="")


@contextmanager
def bound_to(person: User) -> Iterator[None]:
    token = _owner.set(f"factor of {person.pk}")
    try:
        yield
    finally:
        _owner.reset(token)


@sensitive_variables()
def encrypt(text: str) -> str:
    key_ring.confirm()
    encrypted = Ring(settings.ENCRYPTION_KEYS).encrypt(text, owner=_bound())
    return f"{encrypted.ring_number}:{encrypted.token}"


@sensitive_variables()
def decrypt(stored: str) -> str:
    """Raises DecryptionFailed."""
    number, _, ciphertext = stored.partition(":")
    if not number.isdigit():
        raise DecryptionFailed
    return Ring(settings.ENCRYPTION_KEYS).decrypt(Ciphertext(int(number), ciphertext), owner=_bound())


def _bound() -> str:
    if not (owner := _owner.get()):
        message = "a factor's secret was touched outside of bound_to()"
        raise RuntimeError(message)
    return owner


def of(person: User) -> "QuerySet[Authenticator]":
    rows: QuerySet[Authenticator] = Authenticator.objects.filter(user=person).order_by("created_at", "pk")
    return rows


def has_second(person: User) -> bool:
    return of(person).filter(type__in=SECOND).exists()


@sensitive_variables("secret")
def add_totp(person: User, *, secret: str, by: Actor) -> list[str]:
    """Returns fresh recovery codes if the person had none; they are shown once."""
    with transaction.atomic(), bound_to(_locked(person)):
        TOTP.activate(person, secret)
        return _added(person, {"factor": WORDS["totp"]}, by=by)


def add_passkey(person: User, *, name: str, credential: dict[str, Any], by: Actor) -> list[str]:
    """`credential` is the browser's answer, already checked. Returns fresh recovery codes as `add_totp` does."""
    cleaned = clean_line(name, LONGEST_NAME) or "Passkey"
    with transaction.atomic(), bound_to(_locked(person)):
        WebAuthn.add(person, cleaned, credential)
        return _added(person, {"factor": WORDS["webauthn"], "name": cleaned}, by=by)


def count_use(passkey: Authenticator, count: int) -> bool:
    """False if the passkey's own count of uses has not gone up: somebody else may have a copy of it.

    WebAuthn Level 2, 7.2, step 21: a device that does not count says 0 each time.
    """
    with transaction.atomic():
        row = Authenticator.objects.select_for_update(of=("self",), no_key=True).get(pk=passkey.pk)
        before = int(row.data.get(_COUNT, row.wrap().authenticator_data.counter))
        if count == before == 0:
            return True
        if count <= before:
            return False
        row.data[_COUNT] = count
        row.save(update_fields=["data"])
    return True


def remove(factor: Authenticator, person: User, *, must_keep_one: bool, session_key: str, by: Actor) -> None:
    """With the last second factor the recovery codes go too. Every session but `session_key` ends: one of them may
    have shown just this factor. Raises UserError: their role needs it.
    """
    with transaction.atomic():
        _locked(person)
        rest = of(person).filter(type__in=SECOND).exclude(pk=factor.pk)
        if not rest.exists() and must_keep_one:
            raise UserError(FACTOR_NEEDED)
        details: dict[str, Any] = {"factor": WORDS[factor.type], "name": factor.data.get("name", "")}
        factor.delete()
        if not rest.exists():
            of(person).delete()
        details["sessions_ended"] = sessions.delete(person, keep=session_key)
        record(EventType.AUTH_MFA_REMOVE, "done", by=by, target=_target(person), details=details)


def renew_recovery_codes(person: User, *, by: Actor) -> list[str]:
    """Fresh ones; the old ones stop working. Shown once."""
    with transaction.atomic(), bound_to(_locked(person)):
        of(person).filter(type=Authenticator.Type.RECOVERY_CODES).delete()
        codes = RecoveryCodes.activate(person).get_unused_codes()
        details = {"factor": WORDS["recovery_codes"]}
        record(EventType.AUTH_MFA_ADD, "done", by=by, target=_target(person), details=details)
    return list(codes)


def codes_left(person: User) -> int:
    """Recovery codes that still work. Raises DecryptionFailed."""
    row = of(person).filter(type=Authenticator.Type.RECOVERY_CODES).first()
    with bound_to(person):
        return len(row.wrap().get_unused_codes()) if row else 0


def drop(person: User) -> int:
    """All of them, as a part of an act that has a row of its own: in its transaction. How many second ones."""
    dropped = of(person).filter(type__in=SECOND).count()
    of(person).delete()
    return dropped


def reencrypt(factor: Authenticator) -> bool:
    """Encrypt its secret with the newest ring key. False if it is already, or has none. Raises DecryptionFailed."""
    newest = Ring(settings.ENCRYPTION_KEYS).newest
    stored = [name for name in _SECRETS if name in factor.data and not factor.data[name].startswith(f"{newest}:")]
    with bound_to(factor.user):
        for name in stored:
            factor.data[name] = encrypt(decrypt(factor.data[name]))
    if stored:
        factor.save(update_fields=["data"])
    return bool(stored)


def _added(person: User, details: dict[str, Any], *, by: Actor) -> list[str]:
    had_codes = of(person).filter(type=Authenticator.Type.RECOVERY_CODES).exists()
    codes = [] if had_codes else list(RecoveryCodes.activate(person).get_unused_codes())
    made = {"recovery_codes": bool(codes)}
    record(EventType.AUTH_MFA_ADD, "done", by=by, target=_target(person), details=details | made)
    return codes


def _locked(person: User) -> User:
    return User.objects.select_for_update(no_key=True).get(pk=person.pk)


def _target(person: User) -> Target:
    return Target("person", str(person.pk), person.email)
