"""Making text fit for one line of the log: no forged lines, no NUL, no half characters, no overlong column."""

import re
from typing import Any

# Control characters, line and paragraph separators, and the marks that turn the direction of reading around.
_NOT_IN_A_LINE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]+")
_HALF = re.compile("[\ud800-\udfff]")
_LARGEST = 2**63 - 1


def clean_line(text: str, limit: int) -> str:
    """One line of at most `limit` characters."""
    one_line = _NOT_IN_A_LINE.sub(" ", _HALF.sub("\N{REPLACEMENT CHARACTER}", text))
    return one_line.strip()[:limit].rstrip()


def clean_details(value: Any) -> Any:
    """Strings, integers, booleans, null, lists and objects only: a float would not come back from PostgreSQL the same.

    Raises TypeError for anything else: details are written by our own code, so that is a defect.
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return max(-_LARGEST, min(_LARGEST, value))
    if isinstance(value, str):
        return clean_line(value, 512)
    if isinstance(value, list | tuple):
        return [clean_details(item) for item in value]
    if isinstance(value, dict):
        return {clean_line(str(key), 100): clean_details(item) for key, item in value.items()}
    message = f"audit details cannot hold a {type(value).__name__}"
    raise TypeError(message)
