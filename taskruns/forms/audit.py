"""The audit log's filters."""

import uuid
from dataclasses import dataclass
from datetime import datetime
from typing import Self
from urllib.parse import urlencode

from django.http import QueryDict

from .query import BadFilter, key_id, moment, one, one_of


@dataclass(frozen=True, slots=True)
class AuditFilter:
    """The log's filters. `run`, `task`, `batch` and `request` are ids as stored in the log, `person` is a part of an
    email address, `actor` the id of one person.

    `before`: show only rows with a smaller primary key. Newest rows come first.
    """

    since: datetime | None = None
    until: datetime | None = None
    person: str = ""
    actor: str = ""
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
        texts = {name: one(query, name).strip() for name in ("person", "actor", "run", "task", "batch", "request", "q")}
        return cls(
            since=moment(query, "since"),
            until=moment(query, "until"),
            event=one_of(query, "event", events),
            outcome=one_of(query, "outcome", outcomes),
            key=key_id(query, "key"),
            before=_before(query),
            **texts,
        )

    @property
    def is_set(self) -> bool:
        return bool(self.chosen())

    def chosen(self) -> dict[str, str]:
        """The chosen filters, as in the query string."""
        moments = {
            name: at.replace(tzinfo=None).isoformat(timespec="seconds")
            for name, at in (("since", self.since), ("until", self.until))
            if at is not None
        }
        names = ("person", "actor", "event", "outcome", "run", "task", "key", "batch", "request", "q")
        return moments | {name: str(value) for name in names if (value := getattr(self, name))}

    def query(self, *, before: int | None = None) -> str:
        pairs = self.chosen() | ({} if before is None else {"before": str(before)})
        return f"?{urlencode(pairs)}" if pairs else ""


def _before(query: QueryDict) -> int | None:
    value = one(query, "before")
    if not value:
        return None
    if not (value.isascii() and value.isdigit()) or len(value) > 18:
        raise BadFilter("This page link is damaged. Start again from the newest entries.")
    return int(value)
