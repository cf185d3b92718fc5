"""Text <-> ciphertext with a ring of numbered Fernet keys.

Fernet knows neither key numbers nor bound data, so the number is stored beside the ciphertext, and the payload names
the row it belongs to: ciphertext that is copied into another row cannot be decrypted there.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass

from cryptography.fernet import Fernet, InvalidToken
from django.views.decorators.debug import sensitive_variables


class DecryptionFailed(Exception):
    """A stored secret cannot be decrypted: wrong or missing ring key, damaged, or copied from another row."""

    sentence = (
        "The stored key cannot be opened with the ENCRYPTION_KEYS of this deployment. "
        "Replace the key, or ask who runs the panel to put the missing ring key back."
    )

    def __str__(self) -> str:
        return self.sentence


@dataclass(frozen=True, slots=True)
class Ciphertext:
    """What the database holds: the ring key's number, and Fernet's token."""

    ring_number: int
    token: str


class Ring:
    """Numbered keys, newest first. Encrypts with the newest, decrypts with the one that a row names."""

    def __init__(self, keys: Mapping[int, str]) -> None:
        self._keys = dict(keys)
        self.newest = next(iter(self._keys))

    def __repr__(self) -> str:
        return f"Ring(numbers={list(self._keys)})"

    @sensitive_variables()
    def encrypt(self, text: str, *, owner: str) -> Ciphertext:
        payload = json.dumps({"owner": owner, "secret": text}).encode()
        return Ciphertext(self.newest, Fernet(self._keys[self.newest]).encrypt(payload).decode())

    @sensitive_variables()
    def decrypt(self, ciphertext: Ciphertext, *, owner: str) -> str:
        """The secret of the row `owner`. Raises DecryptionFailed."""
        try:
            payload = json.loads(Fernet(self._keys[ciphertext.ring_number]).decrypt(ciphertext.token.encode()))
            if payload["owner"] == owner:
                return str(payload["secret"])
        except (KeyError, InvalidToken, ValueError, TypeError):
            raise DecryptionFailed from None
        raise DecryptionFailed
