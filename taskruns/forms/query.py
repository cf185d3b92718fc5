"""Parse single values of a query string. Each function raises BadFilter for an invalid value."""

import re
import unicodedata
import uuid
from datetime import UTC, datetime

from django.http import QueryDict

LONGEST = 500  # characters
LONGEST_SEARCH = 200  # characters; when encoded, a longer text might not fit into a request line
# Control characters, surrogates and line separators. Format characters are allowed: names with emoji contain them.
_UNSEARCHABLE = frozenset({"Cc", "Cs", "Zl", "Zp"})
_BLANK = re.compile("[\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000]")


class BadFilter(ValueError):
    """An invalid value; `str(error)` is a sentence for the person."""


def one(query: QueryDict, name: str) -> str:
    """The last value of a parameter, as Django reads it. A pasted no-break space counts as a space."""
    value = _BLANK.sub(" ", query.get(name, ""))
    longest = LONGEST_SEARCH if name == "q" else LONGEST
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


def key_id(query: QueryDict, name: str) -> uuid.UUID | None:
    value = one(query, name).strip()
    try:
        return uuid.UUID(value) if value else None
    except ValueError:
        raise BadFilter(f"The filter “{name}” must be the ID of an API key.") from None
