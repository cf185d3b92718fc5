"""Text <-> ciphertext with a ring of numbered Fernet keys.

Fernet knows neither key numbers nor bound data, so the number is stored beside the ciphertext, and the payload names
the row it belongs to: ciphertext copied into another row does not open there.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass

from cryptography.fernet import Fernet, InvalidToken
from django.views.decorators.debug import sensitive_variables


class SealBroken(Exception):
    """A stored secret cannot be opened: wrong or missing ring key, damaged, or copied from another row."""

    sentence = (
        "The stored key cannot be opened with the ENCRYPTION_KEYS of this deployment. "
        "Replace the key, or ask who runs the panel to put the missing ring key back."
    )

    def __str__(self) -> str:
        return self.sentence


@dataclass(frozen=True, slots=True)
class Sealed:
    """What the database holds: the ring key's number and the ciphertext."""

    ring_number: int
    ciphertext: str


class Ring:
    """Numbered keys, newest first. Writes with the newest, reads with the one a row names."""

    def __init__(self, keys: Mapping[int, str]) -> None:
        self._keys = dict(keys)
        self.newest = next(iter(self._keys))

    def __repr__(self) -> str:
        return f"Ring(numbers={list(self._keys)})"

    @sensitive_variables()
    def seal(self, text: str, *, owner: str) -> Sealed:
        payload = json.dumps({"owner": owner, "secret": text}).encode()
        return Sealed(self.newest, Fernet(self._keys[self.newest]).encrypt(payload).decode())

    @sensitive_variables()
    def open(self, sealed: Sealed, *, owner: str) -> str:
        """The secret of the row `owner`. Raises SealBroken."""
        try:
            payload = json.loads(Fernet(self._keys[sealed.ring_number]).decrypt(sealed.ciphertext.encode()))
            if payload["owner"] == owner:
                return str(payload["secret"])
        except (KeyError, InvalidToken, ValueError, TypeError):
            raise SealBroken from None
        raise SealBroken
