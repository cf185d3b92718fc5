"""What an Arize id says in clear: most are Base64 of `TaskRun:4512:aB3d`, so their beginnings and ends look alike."""

import base64
import binascii
import re

_CLEAR = re.compile(r"(\w+):(\d+)(?::[!-~]*)?", re.ASCII)
_LONGEST = 200  # characters; a longer text is no id of this form


def decoded(arize_id: str) -> str:
    """`TaskRun:4512:aB3d`, or empty if the id is not of this form."""
    if len(arize_id) > _LONGEST:
        return ""
    unpadded = arize_id.rstrip("=")
    try:
        clear = base64.b64decode(unpadded + "=" * (-len(unpadded) % 4), altchars=b"-_", validate=True).decode("ascii")
    except (ValueError, binascii.Error):
        return ""
    return clear if _CLEAR.fullmatch(clear) else ""


def number_of(arize_id: str) -> str:
    """`4512`, or empty."""
    found = _CLEAR.fullmatch(decoded(arize_id))
    return found[2] if found else ""
