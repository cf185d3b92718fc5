"""The text of a token: `tr_`, 30 random letters and digits (178 bits), and 6 that check them.

Scanners for leaked secrets know it by its form, and a typing error is told apart from a wrong token.
"""

import hashlib
import re
import secrets
import string
import zlib

from django.views.decorators.debug import sensitive_variables

PREFIX = "tr_"
RANDOM = 30
CHECK = 6
HINT = 4
_DIGITS = string.digits + string.ascii_uppercase + string.ascii_lowercase
_FORM = re.compile(rf"{PREFIX}([0-9A-Za-z]{{{RANDOM}}})([0-9A-Za-z]{{{CHECK}}})", re.ASCII)


@sensitive_variables()
def new_secret() -> str:
    body = "".join(secrets.choice(_DIGITS) for _ in range(RANDOM))
    return f"{PREFIX}{body}{checksum(body)}"


@sensitive_variables()
def is_well_formed(secret: str) -> bool:
    """Whether it can be a token at all: its form and its checksum are right."""
    found = _FORM.fullmatch(secret)
    return found is not None and found[2] == checksum(found[1])


@sensitive_variables()
def digest_of(secret: str) -> str:
    """What is stored. The secret is random and long, so that a slow hash would add nothing."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


@sensitive_variables()
def checksum(body: str) -> str:
    """CRC-32 of the random part in base 62, with leading zeros."""
    number, digits = zlib.crc32(body.encode()), ""
    for _ in range(CHECK):
        number, digit = divmod(number, len(_DIGITS))
        digits = _DIGITS[digit] + digits
    return digits
