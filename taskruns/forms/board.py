"""The board's filters, its orders, and the cursor of a page.

To add a filter: a field here, in `parse` and in `query`; the rest is in CONTRIBUTING.md, "How to add".
"""

import base64
import binascii
import json
import uuid
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Self
from urllib.parse import urlencode

from django.http import QueryDict

from taskruns.arize.wire import TaskType
from taskruns.models import Status

from .query import BadFilter, key_id, moment, number, one, one_of

_TYPES = frozenset(kind.value for kind in TaskType)
_LARGEST = 2**63  # the integers of a database column are smaller


class Sort(StrEnum):
    """What rows are sorted by. In the query string, `-` means largest first. Default: active first, then newest."""

    ACTIVE = ""
    CREATED = "created"
    STARTED = "started"
    DURATION = "duration"
    ERRORS = "errors"


@dataclass(frozen=True, slots=True)
class Cursor:
    """The row after which a page begins, or before which it ends if `backwards`.

    `value`: what the row is sorted by, as an integer (microseconds since 1970, microseconds, or a count). `rank`: 1 for
    active rows in the default order, else 0. `at`: "now" for all pages sorted or filtered by duration, in microseconds
    since 1970, else 0.
    """

    rank: int
    value: int
    id: uuid.UUID
    backwards: bool = False
    at: int = 0

    def text(self) -> str:
        parts = [self.rank, self.value, self.id.hex, int(self.backwards), self.at]
        return base64.urlsafe_b64encode(json.dumps(parts, separators=(",", ":")).encode()).decode().rstrip("=")

    @classmethod
    def parse(cls, text: str) -> Self:
        try:
            rank, value, id_, backwards, at = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
            whole = all(type(part) is int for part in (rank, value, backwards, at))
            if whole and rank in {0, 1} and backwards in {0, 1} and abs(value) < _LARGEST and 0 <= at < _LARGEST:
                return cls(rank, value, uuid.UUID(id_), bool(backwards), at)
        except (ValueError, TypeError, AttributeError, OverflowError, RecursionError, binascii.Error):
            pass  # the message is the same for every kind of damage
        raise BadFilter("This page link is damaged. Start again from the first page.")


@dataclass(frozen=True, slots=True)
class BoardFilter:
    """`task` and `space` are Arize ids; `q` part of a task's name or the start of a run or experiment id.

    `min_duration` is in seconds; active runs count with their duration so far.
    """

    statuses: tuple[Status, ...] = ()
    task: str = ""
    type: str = ""
    credential: uuid.UUID | None = None
    space: str = ""
    q: str = ""
    started_after: datetime | None = None
    started_before: datetime | None = None
    min_duration: int | None = None
    sort: Sort = Sort.ACTIVE
    descending: bool = True
    cursor: Cursor | None = None

    @classmethod
    def parse(cls, query: QueryDict) -> Self:
        cursor = one(query, "cursor")
        sort, descending = _sort(query)
        return cls(
            statuses=_statuses(query.getlist("status")),
            task=one(query, "task"),
            type=one_of(query, "type", _TYPES),
            credential=key_id(query, "credential"),
            space=one(query, "space"),
            q=one(query, "q").strip(),
            started_after=moment(query, "started_after"),
            started_before=moment(query, "started_before"),
            min_duration=number(query, "min_duration"),
            sort=sort,
            descending=descending,
            cursor=Cursor.parse(cursor) if cursor else None,
        )

    @property
    def is_set(self) -> bool:
        """Whether a filter is set that may hide runs."""
        return bool(replace(self, sort=Sort.ACTIVE, descending=True, cursor=None).query())

    def sorted_by(self, sort: Sort, *, descending: bool) -> Self:
        return replace(self, sort=sort, descending=descending, cursor=None)

    def query(self, *, cursor: Cursor | None = None) -> str:
        """The canonical query string of these filters, with `?` unless empty."""
        pairs = [("status", status.value) for status in self.statuses]
        pairs += [
            (name, str(value))
            for name in ("task", "type", "credential", "space", "q", "min_duration")
            if (value := getattr(self, name)) not in {"", None}
        ]
        pairs += [
            (name, at.isoformat().replace("+00:00", "Z"))
            for name, at in (("started_after", self.started_after), ("started_before", self.started_before))
            if at is not None
        ]
        if self.sort:
            pairs.append(("sort", f"{'-' if self.descending else ''}{self.sort.value}"))
        if cursor is not None:
            pairs.append(("cursor", cursor.text()))
        return f"?{urlencode(pairs)}" if pairs else ""


def _sort(query: QueryDict) -> tuple[Sort, bool]:
    value = one(query, "sort")
    if not value:
        return Sort.ACTIVE, True
    name = value.removeprefix("-")
    if not name or name not in set(Sort):
        known = ", ".join(sort.value for sort in Sort if sort)
        raise BadFilter(
            f"There is no sort order “{value[:50]}”. Use one of: {known}. Put - in front for largest first."
        )
    return Sort(name), value.startswith("-")


def _statuses(values: list[str]) -> tuple[Status, ...]:
    chosen = []
    for value in dict.fromkeys(value for value in values if value):
        if value not in Status.values:
            words = ", ".join(Status.values)
            raise BadFilter(f"There is no status “{value[:50]}”. Use one of: {words}.")
        chosen.append(Status(value))
    return tuple(sorted(chosen))
