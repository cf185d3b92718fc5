"""Second factors: adds, removes and encrypts them. Their rows belong to django-allauth.

A secret is bound to its person: code that reads or writes one must run within `bound_to(person)`. A ciphertext copied
from another person's row cannot be decrypted.
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
# Their names in the audit log and on pages.
LABELS = {"totp": "authenticator app", "webauthn": "passkey", "recovery_codes": "recovery codes"}
LONGEST_NAME = 60
FACTOR_NEEDED = "Your role needs a second factor, and this is your only one. Add another one before you remove it."
_SECRETS = ("secret", "seed")  # the members of `data` that hold a secret, by kind
_COUNT = "count"  # the member that holds the last use count a passkey reported
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
    key_ring.check_newest()
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
        message = "a factor's secret was used outside bound_to()"
        raise RuntimeError(message)
    return owner


def of(person: User) -> "QuerySet[Authenticator]":
    rows: QuerySet[Authenticator] = Authenticator.objects.filter(user=person).order_by("created_at", "pk")
    return rows


def has_second(person: User) -> bool:
    return of(person).filter(type__in=SECOND).exists()


@sensitive_variables("secret")
def add_totp(person: User, *, secret: str, by: Actor) -> list[str]:
    """Returns new recovery codes if the person had none; they are shown only once."""
    with transaction.atomic(), bound_to(_locked(person)):
        TOTP.activate(person, secret)
        return _added(person, {"factor": LABELS["totp"]}, by=by)


def add_passkey(person: User, *, name: str, credential: dict[str, Any], by: Actor) -> list[str]:
    """`credential` is the browser's response, already verified. Returns new recovery codes like `add_totp`."""
    cleaned = clean_line(name, LONGEST_NAME) or "Passkey"
    with transaction.atomic(), bound_to(_locked(person)):
        WebAuthn.add(person, cleaned, credential)
        return _added(person, {"factor": LABELS["webauthn"], "name": cleaned}, by=by)


def count_use(passkey: Authenticator, count: int) -> bool:
    """Store the passkey's use count. False if it has not increased: the passkey may have been cloned.

    WebAuthn Level 2, 7.2, step 21: a device that does not count always reports 0.
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


def remove(factor: Authenticator, person: User, *, must_keep_one: bool, session_key: str, by: Actor) -> bool:
    """Remove a factor, and the recovery codes with the last second factor. All sessions but `session_key` end, because
    they may have used this factor. False if it is gone. Raises UserError if the person's role requires it.
    """
    with transaction.atomic():
        _locked(person)
        if not of(person).filter(pk=factor.pk).exists():  # removed by another request
            return False
        rest = of(person).filter(type__in=SECOND).exclude(pk=factor.pk)
        if not rest.exists() and must_keep_one:
            raise UserError(FACTOR_NEEDED)
        details: dict[str, Any] = {"factor": LABELS[factor.type], "name": factor.data.get("name", "")}
        factor.delete()
        if not rest.exists():
            of(person).delete()
        details["sessions_ended"] = sessions.delete(person, keep=session_key)
        record(EventType.AUTH_MFA_REMOVE, "done", by=by, target=_target(person), details=details)
    return True


def renew_recovery_codes(person: User, *, by: Actor) -> list[str]:
    """Create new recovery codes; the old ones stop working. They are shown only once."""
    with transaction.atomic(), bound_to(_locked(person)):
        of(person).filter(type=Authenticator.Type.RECOVERY_CODES).delete()
        codes = RecoveryCodes.activate(person).get_unused_codes()
        details = {"factor": LABELS["recovery_codes"]}
        record(EventType.AUTH_MFA_ADD, "done", by=by, target=_target(person), details=details)
    return list(codes)


def codes_left(person: User) -> int:
    """The number of unused recovery codes. Raises DecryptionFailed."""
    row = of(person).filter(type=Authenticator.Type.RECOVERY_CODES).first()
    with bound_to(person):
        return len(row.wrap().get_unused_codes()) if row else 0


def drop(person: User) -> int:
    """Delete all factors. The caller's transaction records it. Returns how many second factors there were."""
    dropped = of(person).filter(type__in=SECOND).count()
    of(person).delete()
    return dropped


def reencrypt(factor: Authenticator) -> bool:
    """Encrypt the secret with the newest ring key. False if it already is, or has none. Raises DecryptionFailed."""
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
    details |= {"recovery_codes": bool(codes)}
    record(EventType.AUTH_MFA_ADD, "done", by=by, target=_target(person), details=details)
    return codes


def _locked(person: User) -> User:
    return User.objects.select_for_update(no_key=True).get(pk=person.pk)


def _target(person: User) -> Target:
    return Target("person", str(person.pk), person.email)
