"""The board's filters, its orders, and the cursor of a page.

To add a filter: a field here, in `parse`, and in the tables of parameters. For the rest, see CONTRIBUTING.md, "How to
add".
"""

import base64
import binascii
import json
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from functools import lru_cache
from typing import Self
from urllib.parse import urlencode

from django.http import QueryDict

from taskruns.arize.wire import TaskType
from taskruns.models import Status

from .query import BadFilter, each, key_id, moment, number, one, one_of, percent

_TYPES = frozenset(kind.value for kind in TaskType)
_LARGEST = 2**63  # the integers of a database column are smaller


class Sort(StrEnum):
    """What rows are sorted by. In the query string, `-` means largest first. Default: active first, then newest."""

    ACTIVE = ""
    CREATED = "created"
    STARTED = "started"
    DURATION = "duration"
    ERRORS = "errors"
    ATTENTION = "attention"

    @property
    def is_largest_first(self) -> bool:
        """Whether the order without `-` shows the largest first. `attention` counts from the worst run on."""
        return self in {Sort.ACTIVE, Sort.ATTENTION}


class Flag(StrEnum):
    """Facts about a run that can be filtered by. A run passes if it has one of the chosen flags."""

    WITH_ERRORS = "with_errors"
    LONGER_THAN_USUAL = "longer_than_usual"
    PENDING_LONG = "pending_long"
    CANCEL_OPEN = "cancel_open"
    ATTENTION = "attention"


@dataclass(frozen=True, slots=True)
class Cursor:
    """The row after which a page begins, or before which it ends if `backwards`.

    `value`: what the row is sorted by, as an integer (microseconds since 1970, microseconds, or a count). `rank`: 1 for
    the rows that come first in the default order (active) and in that of attention (they need it), else 0. `at`: "now"
    for all pages sorted or filtered by duration, in microseconds since 1970, else 0.
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


# In the order of the query string. The name of a parameter that can be repeated, and its field.
_MANY = {"not_task": "not_tasks", "flag": "flags"}
_SINGLE = (
    *("task", "type", "credential", "space", "q", "started_by", "cancelled_by"),
    *("min_duration", "min_error_share"),
)
_TIMES = (
    *("created_after", "created_before", "started_after", "started_before"),
    *("ended_after", "ended_before"),
)
PARAMETERS = frozenset({"status", "sort", "cursor", *_MANY, *_SINGLE, *_TIMES})


@dataclass(frozen=True, slots=True)
class BoardFilter:
    """`task`, `not_tasks` and `space` are Arize ids. `q`: any text that a person has about a run; see
    `services/runs/search.py`.

    `started_by`, `cancelled_by`: the name, the e-mail address or the Arize id of a person, or the name of a token.
    `min_duration` is in seconds; active runs count with their duration so far. `min_error_share` is the percentage of
    errors among succeeded and errored items.
    """

    statuses: tuple[Status, ...] = ()
    flags: tuple[Flag, ...] = ()
    task: str = ""
    not_tasks: tuple[str, ...] = ()
    type: str = ""
    credential: uuid.UUID | None = None
    space: str = ""
    q: str = ""
    started_by: str = ""
    cancelled_by: str = ""
    created_after: datetime | None = None
    created_before: datetime | None = None
    started_after: datetime | None = None
    started_before: datetime | None = None
    ended_after: datetime | None = None
    ended_before: datetime | None = None
    min_duration: int | None = None
    min_error_share: int | None = None
    sort: Sort = Sort.ACTIVE
    descending: bool = True
    cursor: Cursor | None = None

    @classmethod
    def parse(cls, query: QueryDict) -> Self:
        """Unknown parameters are ignored. Where a mistyped filter could do harm, see `refuse_unknown`."""
        cursor = one(query, "cursor")
        sort, descending = _sort(query)
        return cls(
            statuses=_statuses(query.getlist("status")),
            flags=_flags(query.getlist("flag")),
            task=one(query, "task"),
            not_tasks=each(query, "not_task"),
            type=one_of(query, "type", _TYPES),
            credential=key_id(query, "credential"),
            space=one(query, "space"),
            q=one(query, "q").strip(),
            started_by=one(query, "started_by").strip(),
            cancelled_by=one(query, "cancelled_by").strip(),
            **{name: moment(query, name) for name in _TIMES},
            min_duration=number(query, "min_duration"),
            min_error_share=percent(query, "min_error_share"),
            sort=sort,
            descending=descending,
            cursor=Cursor.parse(cursor) if cursor else None,
        )

    @property
    def is_set(self) -> bool:
        """Whether a filter is set that may hide runs."""
        return bool(self.unsorted().query())

    def unsorted(self) -> Self:
        """The same filter in the default order, from the first page."""
        return replace(self, sort=Sort.ACTIVE, descending=True, cursor=None)

    def sorted_by(self, sort: Sort, *, descending: bool) -> Self:
        return replace(self, sort=sort, descending=descending, cursor=None)

    @property
    def sort_text(self) -> str:
        """The value of `sort` in the query string."""
        return f"{'' if self.descending == self.sort.is_largest_first else '-'}{self.sort.value}"

    @lru_cache(maxsize=2_048)  # noqa: B019 - a page needs the same ones many times; a filter is small
    def query(self, *, cursor: Cursor | None = None) -> str:
        """The canonical query string of these filters, with `?` unless empty."""
        pairs = [("status", status.value) for status in self.statuses]
        pairs += [(name, str(value)) for name in _SINGLE if (value := getattr(self, name)) not in {"", None}]
        pairs += [(name, value) for name, field in _MANY.items() for value in getattr(self, field)]
        pairs += [
            (name, at.isoformat().replace("+00:00", "Z")) for name in _TIMES if (at := getattr(self, name)) is not None
        ]
        if self.sort:
            pairs.append(("sort", self.sort_text))
        if cursor is not None:
            pairs.append(("cursor", cursor.text()))
        return f"?{urlencode(pairs)}" if pairs else ""


def refuse_unknown(query: QueryDict, *, besides: Iterable[str] = ()) -> None:
    """Raise BadFilter for a parameter that is not a filter: a mistyped filter must not match more runs than meant."""
    for name in sorted(query.keys() - PARAMETERS - set(besides)):
        raise BadFilter(f"There is no filter “{name[:50]}”. Nothing was done. Check the spelling of the filter.")


def _sort(query: QueryDict) -> tuple[Sort, bool]:
    """`attention` is worst first. In front of it, `-` means worst last."""
    value = one(query, "sort")
    if not value:
        return Sort.ACTIVE, True
    name = value.removeprefix("-")
    if not name or name not in set(Sort):
        known = ", ".join(sort.value for sort in Sort if sort)
        raise BadFilter(
            f"There is no sort order “{value[:50]}”. Use one of: {known}. Put - in front for the reverse order: "
            "largest or newest first, for attention worst last."
        )
    return Sort(name), value.startswith("-") != Sort(name).is_largest_first


def _statuses(values: list[str]) -> tuple[Status, ...]:
    return tuple(Status(value) for value in _chosen("status", values, Status.values))


def _flags(values: list[str]) -> tuple[Flag, ...]:
    return tuple(Flag(value) for value in _chosen("flag", values, [flag.value for flag in Flag]))


def _chosen(name: str, values: Iterable[str], known: Sequence[str]) -> list[str]:
    chosen = sorted({value for value in values if value})
    for value in chosen:
        if value not in known:
            raise BadFilter(f"There is no {name} “{value[:50]}”. Use one of: {', '.join(known)}.")
    return chosen
