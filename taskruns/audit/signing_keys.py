"""The key that signs anchors and exports of the log. Its private half is only in the environment."""

import base64

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from django.conf import settings

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


def _private() -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(settings.AUDIT_SIGNING_KEY)
