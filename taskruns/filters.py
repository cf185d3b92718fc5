"""What a query string may ask of a list, read once and typed. Unknown parameters are ignored, unknown values are a
`BadFilter` with a sentence.

To add a filter to the board: a field here, its reading in `parse`, its condition in `services/board.py`.
"""

import base64
import binascii
import json
import re
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Self
from urllib.parse import urlencode

from django.http import QueryDict

from taskruns.models import Status

LONGEST = 500  # characters
LONGEST_SEARCH = 200  # any characters: more would not fit into a request line once they are encoded
_BLANK = re.compile("[\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000]")


class BadFilter(ValueError):
    """A value that means nothing here; `str(error)` is a sentence for the person."""


@dataclass(frozen=True, slots=True)
class Cursor:
    """The last row of a page: the next page begins after it."""

    rank: int
    sorted_at: datetime
    id: uuid.UUID

    def text(self) -> str:
        parts = [self.rank, self.sorted_at.astimezone(UTC).isoformat(), str(self.id)]
        return base64.urlsafe_b64encode(json.dumps(parts).encode()).decode().rstrip("=")

    @classmethod
    def parse(cls, text: str) -> Self:
        try:
            rank, at, id_ = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
            moment = datetime.fromisoformat(at).astimezone(UTC)
            if rank in (0, 1):
                return cls(int(rank), moment, uuid.UUID(id_))
        except (ValueError, TypeError, AttributeError, OverflowError, RecursionError, binascii.Error):
            pass  # said below, in one sentence for all damage
        raise BadFilter("This page link is damaged. Start again from the first page.")


@dataclass(frozen=True, slots=True)
class BoardFilter:
    """The board's filters: `task` is an Arize id; `q` part of a task's name or the start of a run or experiment id."""

    statuses: tuple[Status, ...] = ()
    task: str = ""
    q: str = ""
    cursor: Cursor | None = None

    @classmethod
    def parse(cls, query: QueryDict) -> Self:
        cursor = _one(query, "cursor")
        return cls(
            statuses=_statuses(query.getlist("status")),
            task=_one(query, "task"),
            q=_one(query, "q").strip(),
            cursor=Cursor.parse(cursor) if cursor else None,
        )

    @property
    def is_set(self) -> bool:
        return bool(self.statuses or self.task or self.q)

    def query(self, *, cursor: Cursor | None = None) -> str:
        """The query string of these filters, in one spelling; `?` included unless empty."""
        pairs = [("status", status.value) for status in self.statuses]
        pairs += [(name, value) for name, value in (("task", self.task), ("q", self.q)) if value]
        if cursor is not None:
            pairs.append(("cursor", cursor.text()))
        return f"?{urlencode(pairs)}" if pairs else ""


@dataclass(frozen=True, slots=True)
class AuditFilter:
    """The log's filters. `since` and `until` are moments; run, task, batch and request are ids as the log holds them.

    `before` is the place that the page ends under; newest rows come first.
    """

    since: datetime | None = None
    until: datetime | None = None
    person: str = ""
    event: str = ""
    outcome: str = ""
    run: str = ""
    task: str = ""
    key: uuid.UUID | None = None
    batch: str = ""
    request: str = ""
    q: str = ""
    before: int | None = None

    @classmethod
    def parse(cls, query: QueryDict, *, events: frozenset[str], outcomes: frozenset[str]) -> Self:
        texts = {name: _one(query, name).strip() for name in ("person", "run", "task", "batch", "request", "q")}
        return cls(
            since=_moment(query, "since"),
            until=_moment(query, "until"),
            event=_of(query, "event", events),
            outcome=_of(query, "outcome", outcomes),
            key=_uuid(query, "key"),
            before=_number(query, "before"),
            **texts,
        )

    @property
    def is_set(self) -> bool:
        return bool(self.chosen())

    def chosen(self) -> dict[str, str]:
        """What is chosen now, as the query string spells it."""
        moments = {
            name: at.strftime("%Y-%m-%dT%H:%M:%S")
            for name, at in (("since", self.since), ("until", self.until))
            if at is not None
        }
        names = ("person", "event", "outcome", "run", "task", "key", "batch", "request", "q")
        return moments | {name: str(value) for name in names if (value := getattr(self, name))}

    def query(self, *, before: int | None = None) -> str:
        pairs = self.chosen() | ({} if before is None else {"before": str(before)})
        return f"?{urlencode(pairs)}" if pairs else ""


def _one(query: QueryDict, name: str) -> str:
    """The last value of a parameter, as Django reads it; a pasted no-break space is a blank."""
    value = _BLANK.sub(" ", query.get(name, ""))
    longest = LONGEST_SEARCH if name == "q" else LONGEST
    if len(value) > longest and name != "cursor":
        raise BadFilter(f"The filter “{name}” is longer than {longest} characters.")
    if "\x00" in value or not value.isprintable():
        raise BadFilter(f"The filter “{name}” holds characters that cannot be searched for.")
    return value


def _of(query: QueryDict, name: str, known: frozenset[str]) -> str:
    value = _one(query, name)
    if value and value not in known:
        raise BadFilter(f"There is no {name} “{value[:50]}”.")
    return value


def _number(query: QueryDict, name: str) -> int | None:
    value = _one(query, name)
    if not value:
        return None
    if not (value.isascii() and value.isdigit()) or len(value) > 18:
        raise BadFilter("This page link is damaged. Start again from the newest entries.")
    return int(value)


def _statuses(values: list[str]) -> tuple[Status, ...]:
    chosen = []
    for value in dict.fromkeys(value for value in values if value):
        if value not in Status.values:
            words = ", ".join(Status.values)
            raise BadFilter(f"There is no status “{value[:50]}”. Known are: {words}.")
        chosen.append(Status(value))
    return tuple(sorted(chosen))


def _moment(query: QueryDict, name: str) -> datetime | None:
    """ISO 8601; without an offset it is UTC."""
    value = _one(query, name).strip()
    if not value:
        return None
    try:
        moment = datetime.fromisoformat(value)
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):
        raise BadFilter(f"The filter “{name}” must be a time like 2026-11-23T03:00, in UTC.") from None


def _uuid(query: QueryDict, name: str) -> uuid.UUID | None:
    value = _one(query, name).strip()
    try:
        return uuid.UUID(value) if value else None
    except ValueError:
        raise BadFilter(f"The filter “{name}” must be the id of a key.") from None
