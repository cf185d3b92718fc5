"""The key that signs anchors and exports of the log. Its private half is only in the environment."""

import base64
import hmac

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from django.conf import settings
from django.utils.crypto import salted_hmac

from taskruns.models import SigningKeyUse
from taskruns.verifier import canonical_bytes, keys_of


def public_keys() -> dict[str, bytes]:
    """Key id -> raw 32 bytes, for the current signing key and the older ones in AUDIT_PUBLIC_KEYS."""
    known = (_private().public_key().public_bytes_raw(), *settings.AUDIT_PUBLIC_KEYS)
    return keys_of(base64.b64encode(raw).decode() for raw in known)


def signing_key_id() -> str:
    raw = _private().public_key().public_bytes_raw()
    return next(iter(keys_of([base64.b64encode(raw).decode()])))


def sign(statement: dict[str, object], kind: str = "anchor") -> str:
    """Base64 of the Ed25519 signature over an anchor, or over the trailer of an `export`."""
    return base64.b64encode(_private().sign(canonical_bytes(kind, statement, "signature"))).decode()


def signing_key_problem() -> str:
    """A sentence that says what is wrong with AUDIT_SIGNING_KEY, or "".

    It is right if this process knows a key that signed the log before, or if no key has signed it yet.

    With an unrelated key, a process would sign anchors that no other process accepts.
    """
    used = {use.key_id for use in SigningKeyUse.objects.all() if hmac.compare_digest(use.mac, _mac(use.key_id))}
    if not used or used & public_keys().keys():
        return ""
    return (
        "AUDIT_SIGNING_KEY is not the key that signed this audit log so far, and AUDIT_PUBLIC_KEYS does not list that "
        "one. Set the original key, or add its public key, which the first line of every export names."
    )


def note_use() -> None:
    """Note that the signing key was used. Needs the caller's transaction."""
    name = signing_key_id()
    if not SigningKeyUse.objects.filter(key_id=name, mac=_mac(name)).exists():
        SigningKeyUse.objects.update_or_create(key_id=name, defaults={"mac": _mac(name)})


def _mac(key_id: str) -> str:
    return salted_hmac("taskruns.signing_key", key_id, algorithm="sha256").hexdigest()


def _private() -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(settings.AUDIT_SIGNING_KEY)
