"""What the gateway offers, as a table of paths below `/v2/`. Anything else is refused."""

import re
from dataclasses import dataclass
from enum import Enum, auto

from django.http import HttpRequest

PREFIX = "/v2/"
_LISTS = ("spaces", "organizations", "projects", "datasets", "experiments", "tasks", "users")
_ID = "{id}"
# An id that a server or proxy on the way could take for something else.
_NOT_AN_ID = frozenset({".", ".."})
_ENCODED_SEPARATOR = re.compile(r"%2f|%5c|%00", re.IGNORECASE)


class Kind(Enum):
    READ = auto()
    CANCEL = auto()
    TRIGGER = auto()


@dataclass(frozen=True, slots=True)
class Operation:
    """`path`: the segments below `/v2/`, decoded."""

    kind: Kind
    path: tuple[str, ...]

    @property
    def id(self) -> str:
        return self.path[1]


class NotOffered(Exception):
    """The gateway has no such operation."""


class Malformed(Exception):
    """An id in the path can be none of Arize's."""


_TABLE: dict[tuple[str, tuple[str, ...]], Kind] = {
    **{("GET", (name,)): Kind.READ for name in _LISTS},
    **{("GET", (name, _ID)): Kind.READ for name in (*_LISTS, "task-runs")},
    ("GET", ("tasks", _ID, "runs")): Kind.READ,
    ("POST", ("task-runs", _ID, "cancel")): Kind.CANCEL,
    ("POST", ("tasks", _ID, "trigger")): Kind.TRIGGER,
}


def operation_of(request: HttpRequest) -> Operation:
    """Raises NotOffered or Malformed."""
    path = tuple(request.path_info.removeprefix(PREFIX).split("/"))
    shape = tuple(_ID if place == 1 and part else part for place, part in enumerate(path))
    # Gunicorn passes the path as it was sent, too: decoded, `a%2Fcancel` would look like two segments.
    sent = str(request.META.get("RAW_URI", "")).partition("?")[0]
    if _ENCODED_SEPARATOR.search(sent):
        raise Malformed
    kind = _TABLE.get((request.method or "", shape))
    if kind is None or not request.path_info.startswith(PREFIX):
        raise NotOffered
    if len(path) > 1 and (path[1] in _NOT_AN_ID or "\0" in path[1] or "\\" in path[1]):
        raise Malformed
    return Operation(kind, path)
