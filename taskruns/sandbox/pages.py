"""Pages by limit and opaque cursor: keyset by creation, newest first, so that new objects shift nothing."""

import base64
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from taskruns.sandbox.messages import Parameters
from taskruns.sandbox.problems import Problem

MOST = 100
DEFAULT = 50

Item = TypeVar("Item")
# (created, in simulated milliseconds; the object's number)
Place = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Wanted:
    limit: int
    before: Place | None


@dataclass(frozen=True, slots=True)
class Page(Generic[Item]):
    items: Sequence[Item]
    next_cursor: str | None

    def pagination(self) -> dict[str, object]:
        """`next_cursor` is there only when there is more."""
        if self.next_cursor is None:
            return {"has_more": False}
        return {"has_more": True, "next_cursor": self.next_cursor}


def wanted(parameters: Parameters) -> Wanted:
    """Raises Problem 400 for a limit outside 1-100 or a cursor that this server cannot have given out."""
    cursor = parameters.one("cursor")
    return Wanted(limit=_limit(parameters.one("limit")), before=None if cursor is None else _place(cursor))


def cut(items: Sequence[Item], *, place: Callable[[Item], Place], to: Wanted) -> Page[Item]:
    """The wanted page of all `items`, whatever order they come in."""
    ordered = sorted(items, key=place, reverse=True)
    rest = [item for item in ordered if to.before is None or place(item) < to.before]
    shown = rest[: to.limit]
    return Page(shown, _cursor(place(shown[-1])) if len(rest) > to.limit else None)


def _limit(text: str | None) -> int:
    if text is None:
        return DEFAULT
    # Only plain ASCII digits: int() would take " 5 ", "1_0" and other scripts' digits.
    if text.isascii() and text.isdigit() and len(text) < 4 and 1 <= int(text) <= MOST:
        return int(text)
    raise Problem(400, f"limit must be an integer from 1 to {MOST}.")


def _cursor(place: Place) -> str:
    return base64.b64encode(json.dumps({"createdAt": place[0], "id": place[1]}).encode()).decode()


def _place(cursor: str) -> Place:
    try:
        document = json.loads(base64.b64decode(cursor, validate=True))
        created, number = document["createdAt"], document["id"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise Problem(400, "cursor is invalid.") from None
    if type(created) is int and type(number) is int:
        return (created, number)
    raise Problem(400, "cursor is invalid.")
