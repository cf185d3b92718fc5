"""A software passkey: gives the answers of a browser and its device, for http://localhost:8000."""

import hashlib
import json
import secrets
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from fido2 import cbor
from fido2.cose import ES256
from fido2.utils import websafe_encode

ORIGIN = "http://localhost:8000"
PRESENT_AND_VERIFIED, ATTESTED = 0x05, 0x40


class SoftPasskey:
    def __init__(self, *, origin: str = ORIGIN, rp_id: str = "localhost") -> None:
        self.origin, self.rp_id = origin, rp_id
        self.id = secrets.token_bytes(32)
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.user_handle = ""
        self.count = 0  # use count; 0 means that the device does not count

    @classmethod
    def example(cls) -> dict[str, Any]:
        """The stored data of some passkey, for tests that need any."""
        request = {"publicKey": {"challenge": "AAAA", "user": {"id": "AAAA"}}}
        credential: dict[str, Any] = json.loads(cls().create(json.dumps(request)))
        return credential

    def create(self, options: str) -> str:
        """The answer when adding a passkey."""
        request = json.loads(options)["publicKey"]
        self.user_handle = request["user"]["id"]
        public = cbor.encode(ES256.from_cryptography_key(self.key.public_key()))
        attested = bytes(16) + len(self.id).to_bytes(2, "big") + self.id + public
        data = self._data(ATTESTED) + attested
        attestation = cbor.encode({"fmt": "none", "attStmt": {}, "authData": data})
        client = self._client("webauthn.create", request["challenge"])
        return self._answer({"clientDataJSON": client, "attestationObject": attestation})

    def get(self, options: Any) -> str:
        """The answer when signing in or confirming with it."""
        request = (json.loads(options) if isinstance(options, str) else options)["publicKey"]
        client, data = self._client("webauthn.get", request["challenge"]), self._data(0)
        signature = self.key.sign(data + hashlib.sha256(client).digest(), ec.ECDSA(hashes.SHA256()))
        parts = {"clientDataJSON": client, "authenticatorData": data, "signature": signature}
        return self._answer(parts, userHandle=self.user_handle)

    def _data(self, flags: int) -> bytes:
        count = self.count.to_bytes(4, "big")
        return hashlib.sha256(self.rp_id.encode()).digest() + bytes([PRESENT_AND_VERIFIED | flags]) + count

    def _client(self, kind: str, challenge: str) -> bytes:
        return json.dumps({"type": kind, "challenge": challenge, "origin": self.origin, "crossOrigin": False}).encode()

    def _answer(self, parts: dict[str, bytes], **texts: str) -> str:
        response = {name: websafe_encode(value) for name, value in parts.items()} | texts
        own = websafe_encode(self.id)
        return json.dumps(
            {"id": own, "rawId": own, "type": "public-key", "response": response, "clientExtensionResults": {}}
        )
