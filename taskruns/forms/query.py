"""Parse single values of a query string. Each function raises BadFilter for an invalid value."""

import re
import unicodedata
import uuid
from datetime import UTC, datetime

from django.http import QueryDict
from django.utils import timezone

LOCAL = "_local"  # at the end of a parameter: a time in the person's zone
LONGEST = 500  # characters
LONGEST_SEARCH = 200  # characters; when encoded, a longer text might not fit into a request line
MOST_VALUES = 20  # of one parameter that can be repeated
# Control characters, surrogates and line separators. Format characters are allowed: names with emoji contain them.
_UNSEARCHABLE = frozenset({"Cc", "Cs", "Zl", "Zp"})
_BLANK = re.compile("[\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000]")


class BadFilter(ValueError):
    """An invalid value; `str(error)` is a sentence for the person."""


def one(query: QueryDict, name: str) -> str:
    """The last value of a parameter, as Django reads it. A pasted no-break space counts as a space."""
    return _checked(name, query.get(name, ""))


def each(query: QueryDict, name: str) -> tuple[str, ...]:
    """All values of a parameter that can be repeated, sorted."""
    values = query.getlist(name)
    if len(values) > MOST_VALUES:
        raise BadFilter(f"The filter “{name}” is repeated more than {MOST_VALUES} times.")
    return tuple(sorted({value for value in (_checked(name, value) for value in values) if value}))


def _checked(name: str, value: str) -> str:
    value = _BLANK.sub(" ", value)
    # A pasted address is ASCII where it is long.
    longest = LONGEST_SEARCH if name == "q" and "://" not in value else LONGEST
    if len(value) > longest and name != "cursor":
        raise BadFilter(f"The filter “{name}” is longer than {longest} characters.")
    if any(unicodedata.category(each) in _UNSEARCHABLE for each in value):
        raise BadFilter(f"The filter “{name}” contains characters that cannot be searched for.")
    return value


def one_of(query: QueryDict, name: str, known: frozenset[str]) -> str:
    value = one(query, name)
    if value and value not in known:
        raise BadFilter(f"There is no {name} “{value[:50]}”.")
    return value


def number(query: QueryDict, name: str) -> int | None:
    value = one(query, name).strip()
    if not value:
        return None
    if not (value.isascii() and value.isdigit()) or len(value) > 9:
        raise BadFilter(f"The filter “{name}” must be a whole number, like 90.")
    return int(value)


def percent(query: QueryDict, name: str) -> int | None:
    value = number(query, name)
    if value is not None and value > 100:
        raise BadFilter(f"The filter “{name}” must be a percentage from 0 to 100, without the sign.")
    return value


def moment(query: QueryDict, name: str) -> datetime | None:
    """ISO 8601; UTC if it has no offset."""
    value = one(query, name).strip()
    if not value:
        return None
    try:
        # A `+` that was not encoded arrives as a space.
        found = datetime.fromisoformat(re.sub(r" (\d\d:?\d\d)$", r"+\1", value) if "T" in value else value)
        return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
    except (ValueError, OverflowError):
        raise BadFilter(f"The filter “{name}” must be a time like 2026-11-23T03:00, in UTC.") from None


def local_time(query: QueryDict, name: str) -> str:
    """The time of a form's field, which is in the person's zone, as ISO 8601 in UTC. Empty if the field is."""
    value = one(query, name).strip()
    if not value:
        return ""
    try:
        return timezone.make_aware(datetime.fromisoformat(value)).astimezone(UTC).isoformat()
    except (ValueError, OverflowError):
        raise BadFilter(f"The filter “{name.removesuffix(LOCAL)}” must be a time like 2026-11-23T03:00.") from None


def key_id(query: QueryDict, name: str) -> uuid.UUID | None:
    value = one(query, name).strip()
    try:
        return uuid.UUID(value) if value else None
    except ValueError:
        raise BadFilter(f"The filter “{name}” must be the ID of an API key.") from None
