"""Single values from Arize's JSON and headers. The readers never raise: an unusable value becomes None."""

import math
import re
import unicodedata
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta, timezone
from itertools import groupby
from operator import itemgetter
from typing import Any

MOST = 2**63 - 1  # what a 64-bit column can hold
DEEPEST = 64  # levels of raw JSON to keep; databases and json.dumps fail on deep nesting, Arize sends about 5
LONGEST_TEXT = 10_000  # characters that `one_line` reads
KEY_PIECE = 8  # consecutive characters of a key that must never be shown
REQUEST_ID_CHARACTERS = 200
_HUGE = 10**300  # a larger number does not fit a float and is not a real id

_SURROGATE = re.compile("[\ud800-\udfff]")
# In JSON: any character of a key but the quote and the backslash, which must stay escaped.
_ESCAPED = re.compile(rb"(?<!\\)\\u00(?!22|5c|5C)([2-7][0-9a-fA-F])")
_DIGITS = re.compile(r"[0-9]+")
_TIMESTAMP = re.compile(
    r"(?P<year>[0-9]{4})(?P<dash>-?)(?P<month>[0-9]{2})(?P=dash)(?P<day>[0-9]{2})"
    r"(?:[Tt ](?P<hour>[0-9]{2}):?(?P<minute>[0-9]{2})(?::?(?P<second>[0-9]{2})(?:[.,](?P<fraction>[0-9]*))?)?\s*"
    r"(?:[Zz]|(?P<sign>[+-])(?P<hours>[0-9]{2}):?(?P<minutes>[0-9]{2})?)?)?"
)


def read_text(raw: object) -> str | None:
    """Text that a database can store; numbers become text. No length limit."""
    if isinstance(raw, str):
        return storable(raw)
    if isinstance(raw, int | float) and not isinstance(raw, bool) and -_HUGE < raw < _HUGE:
        return str(raw)
    return None


def read_count(raw: object) -> int | None:
    """A whole number sent as integer, integral float or digits, clamped to 0 to 2**63 - 1."""
    if isinstance(raw, str) and _DIGITS.fullmatch(raw.strip()):
        digits = raw.strip().lstrip("0") or "0"
        return MOST if len(digits) > len(str(MOST)) else min(int(digits), MOST)
    if isinstance(raw, float) and not raw.is_integer():
        return None
    if isinstance(raw, int | float) and not isinstance(raw, bool):
        return max(0, min(int(raw), MOST))
    return None


def read_timestamp(raw: object) -> datetime | None:
    """An ISO 8601 time in extended or basic form, as UTC; None if it is anything else.

    Missing parts on the right are zero, a missing offset means UTC, a leap second becomes the next second, and digits
    beyond microseconds are dropped.
    """
    parts = _TIMESTAMP.fullmatch(raw.strip()) if isinstance(raw, str) else None
    if parts is None:
        return None
    year, month, day, hour, minute, second = (
        int(parts[name] or 0) for name in ("year", "month", "day", "hour", "minute", "second")
    )
    leap, microsecond = second == 60, int((parts["fraction"] or "")[:6].ljust(6, "0"))
    try:
        moment = datetime(year, month, day, hour, minute, second - leap, microsecond, tzinfo=_offset(parts))
        return (moment + timedelta(seconds=leap)).astimezone(UTC)
    except (ValueError, OverflowError):  # 30 February, hour 25, or a year outside 1 to 9999 after conversion to UTC
        return None


def _offset(parts: re.Match[str]) -> timezone:
    if parts["sign"] is None:
        return UTC
    hours, minutes = int(parts["hours"]), int(parts["minutes"] or 0)
    if minutes > 59:
        raise ValueError
    offset = timedelta(hours=hours, minutes=minutes)
    return timezone(-offset if parts["sign"] == "-" else offset)


def read_texts(raw: object) -> tuple[str, ...]:
    values = raw if isinstance(raw, list) else []
    return tuple(text for text in map(read_text, values) if text)


def read_number(raw: object) -> float | None:
    if isinstance(raw, bool) or not isinstance(raw, int | float) or not -_HUGE < raw < _HUGE:
        return None
    return float(raw)


def read_boolean(raw: object) -> bool | None:
    return raw if isinstance(raw, bool) else None


def keep(value: Any, *, depth: int = 0) -> Any:
    """JSON as read, without what a database cannot store: NUL, lone surrogates, NaN, infinities, deep nesting."""
    if isinstance(value, str):
        return storable(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict | list) and depth >= DEEPEST:
        return None
    if isinstance(value, dict):
        return {storable(name): keep(member, depth=depth + 1) for name, member in value.items()}
    if isinstance(value, list):
        return [keep(member, depth=depth + 1) for member in value]
    return value


def storable(text: str) -> str:
    return _SURROGATE.sub("\ufffd", text.replace("\0", ""))


def read_request_id(headers: Mapping[str, str], *, secret: str) -> str | None:
    """The request id from the header, for answers whose body has none."""
    return one_line(headers.get("x-request-id"), REQUEST_ID_CHARACTERS, secret) or None


def one_line(value: object, characters: int, secret: str) -> str:
    """Arize's text for display: one printable line of at most `characters`, with the key redacted.

    Anything but text gives an empty string. Stricter than `audit.clean_line`: it also drops invisible characters,
    because one inside a key would hide the key from the search below.
    """
    if not isinstance(value, str):
        return ""
    printable = "".join(" " if _is_control(character) else character for character in value[:LONGEST_TEXT])
    line = _redacted(secret, " ".join(printable.split()))  # before truncating, which could leave half a key
    return line if len(line) <= characters else line[: characters - 1] + "…"


def without_key(body: bytes, secret: str) -> bytes:
    """The body with every piece of the key replaced by `[key]`, also if JSON escapes hide it."""
    if b"\\u00" in body and (plain := _ESCAPED.sub(_unescaped, body)) != (hidden := _without(plain, secret)):
        return hidden
    return _without(body, secret)


def _without(body: bytes, secret: str) -> bytes:
    if not _may_hold(body, secret):
        return body
    return _redacted(secret, body.decode("latin-1")).encode("latin-1")


def _unescaped(found: re.Match[bytes]) -> bytes:
    return bytes([int(found[1], 16)])


def _may_hold(body: bytes, secret: str) -> bool:
    """A cheap check before the exact one, because every body passes here: each piece of the key contains at least one
    of these few short parts.
    """
    width = min(KEY_PIECE, len(secret))
    part = (width + 1) // 2
    starts = range(0, len(secret) - part + 1, width - part + 1)
    return any(secret[start : start + part].encode("latin-1", "replace") in body for start in starts)


def _redacted(secret: str, line: str) -> str:
    """Replace every piece of the key with `[key]`: servers may echo a shortened one."""
    width = min(KEY_PIECE, len(secret))
    pieces = {secret[start : start + width] for start in range(len(secret) - width + 1)}
    hidden = bytearray(len(line))
    for start in range(len(line) - width + 1 if secret else 0):
        if line[start : start + width] in pieces:
            hidden[start : start + width] = b"\x01" * width
    stretches = groupby(zip(line, hidden, strict=True), key=itemgetter(1))
    return "".join("[key]" if is_key else "".join(map(itemgetter(0), stretch)) for is_key, stretch in stretches)


def _is_control(character: str) -> bool:
    """Control, format (bidirectional marks too), surrogate, private, unassigned; line and paragraph separators."""
    category = unicodedata.category(character)
    return category.startswith("C") or category in {"Zl", "Zp"}
