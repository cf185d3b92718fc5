"""Encrypt and decrypt text with a ring of numbered Fernet keys.

Fernet has neither key numbers nor associated data. So the number is stored next to the ciphertext, and the payload
names the row it belongs to: ciphertext copied into another row cannot be decrypted there.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass

from cryptography.fernet import Fernet, InvalidToken
from django.views.decorators.debug import sensitive_variables


class DecryptionFailed(Exception):
    """A stored secret cannot be decrypted: the ring key is missing or wrong, or the ciphertext is damaged or copied."""

    sentence = (
        "The stored API key cannot be decrypted with this deployment's ENCRYPTION_KEYS. The panel cannot use it. "
        "Replace the API key, or ask your administrator to restore the missing encryption key."
    )

    def __str__(self) -> str:
        return self.sentence


@dataclass(frozen=True, slots=True)
class Ciphertext:
    """What the database stores: the number of the ring key, and the Fernet token."""

    ring_number: int
    token: str


class Ring:
    """Numbered keys, newest first. Encrypts with the newest, decrypts with the one that the row names."""

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
