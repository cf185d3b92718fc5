"""Single JSON values as Arize may send them, read without ever raising: a value that is no good is None."""

import math
import re
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

MOST = 2**63 - 1  # what a 64-bit column can hold
DEEPEST = 64  # levels kept of raw JSON; databases and json.dumps give up on deep nesting, Arize sends about 5
_HUGE = 10**300  # beyond it a number is no float and its digits are nobody's id

_SURROGATE = re.compile("[\ud800-\udfff]")
_DIGITS = re.compile(r"[0-9]+")
_TIMESTAMP = re.compile(
    r"(?P<year>[0-9]{4})(?P<dash>-?)(?P<month>[0-9]{2})(?P=dash)(?P<day>[0-9]{2})"
    r"(?:[Tt ](?P<hour>[0-9]{2}):?(?P<minute>[0-9]{2})(?::?(?P<second>[0-9]{2})(?:[.,](?P<fraction>[0-9]*))?)?\s*"
    r"(?:[Zz]|(?P<sign>[+-])(?P<hours>[0-9]{2}):?(?P<minutes>[0-9]{2})?)?)?"
)


def read_text(raw: object) -> str | None:
    """Text that a database can store; numbers as text. Unbounded in length."""
    if isinstance(raw, str):
        return storable(raw)
    if isinstance(raw, int | float) and not isinstance(raw, bool) and -_HUGE < raw < _HUGE:
        return str(raw)
    return None


def read_count(raw: object) -> int | None:
    """A whole number as integer, integral float or digits, clamped to what 64 bits hold."""
    if isinstance(raw, str) and _DIGITS.fullmatch(raw.strip()):
        digits = raw.strip().lstrip("0") or "0"
        return MOST if len(digits) > len(str(MOST)) else min(int(digits), MOST)
    if isinstance(raw, float) and not raw.is_integer():
        return None
    if isinstance(raw, int | float) and not isinstance(raw, bool):
        return max(0, min(int(raw), MOST))
    return None


def read_timestamp(raw: object) -> datetime | None:
    """An ISO 8601 moment as UTC, in extended or basic form. What is left out on the right is zero, no offset is UTC,
    a leap second is the next second; digits beyond microseconds are cut. Else None.
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
    except (ValueError, OverflowError):  # 30 February, 25 o'clock; the year 0 or 10000 once turned to UTC
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
    """JSON as read, except for what no database stores: NUL, lone surrogates, NaN and infinities, abysses."""
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
