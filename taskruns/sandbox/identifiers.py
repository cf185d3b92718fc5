"""Arize's identifiers: standard base64, padded, of `Type:number:suffix`."""

import base64
import binascii
import hashlib
import re

_ALPHABET = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
_DECODED = re.compile(r"[A-Za-z]+:[0-9]{1,18}:[A-Za-z0-9_-]+")


class MalformedIdentifier(ValueError):
    """The text is no base64 of `Type:number:suffix`."""


def identifier(*, kind: str, number: int, seed: int = 0) -> str:
    """The id of object `number`; the suffix, as with Arize, tells nothing but differs from world to world."""
    digest = hashlib.sha256(f"{seed}:{kind}:{number}".encode()).digest()
    suffix = "".join(_ALPHABET[byte % len(_ALPHABET)] for byte in digest[:4])
    return base64.b64encode(f"{kind}:{number}:{suffix}".encode()).decode()


def demand_wellformed(text: str) -> None:
    """Raises MalformedIdentifier. Strict as Arize is: no missing padding, no stray characters."""
    try:
        decoded = base64.b64decode(text, validate=True)
        if base64.b64encode(decoded).decode() == text and _DECODED.fullmatch(decoded.decode("ascii")):
            return
    except (binascii.Error, ValueError):
        pass  # told below, with every other malformed one
    raise MalformedIdentifier
