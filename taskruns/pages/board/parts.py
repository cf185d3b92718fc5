"""What the board shows around its rows: filters, orders, pages, and why there is nothing to see."""

from dataclasses import dataclass

from taskruns.pages.board.rows import RunRow
from taskruns.pages.credentials import FirstContact
from taskruns.pages.values import Link, Message, Moment


@dataclass(frozen=True, slots=True)
class EmptyBoard:
    """Why there is nothing to see, and the next step. `kind`: no_key, key_failing, filtered, no_runs."""

    kind: str
    title: str
    text: str
    next_step: Link | None = None


@dataclass(frozen=True, slots=True)
class Choice:
    value: str
    word: str
    chosen: bool


@dataclass(frozen=True, slots=True)
class BoardFilters:
    """What is chosen now, to fill the filter form again. Times as the form's own fields spell them, in UTC."""

    statuses: tuple[Choice, ...]
    tasks: tuple[Choice, ...]
    types: tuple[Choice, ...]
    credentials: tuple[Choice, ...]
    spaces: tuple[Choice, ...]
    q: str
    started_after: str
    started_before: str
    min_duration: str
    sorts: tuple[Choice, ...]
    is_set: bool
    more_is_set: bool  # one of those that are folded away


@dataclass(frozen=True, slots=True)
class SortLink:
    """A column's heading. `direction` is ascending, descending, or empty when the rows are in another order."""

    url: str
    direction: str


@dataclass(frozen=True, slots=True)
class Sorts:
    created: SortLink
    started: SortLink
    duration: SortLink
    errors: SortLink


@dataclass(frozen=True, slots=True)
class ManyBar:
    """Cancelling many from here: `matching` active runs pass the filter, whose fields are `fields`; 0 without one."""

    url: str
    matching: int
    fields: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Board:
    """The board of one team, or (`slug` is empty) of all of a person's. `warnings` say why something may be old;
    `etag` names exactly what is shown; `walked`: only so many rows were looked at for the filter; `shown` is false for
    somebody without a team.
    """

    shown: bool
    team: str
    slug: str
    url: str
    table_url: str
    rows: tuple[RunRow, ...]
    sorts: Sorts
    active: int
    filters: BoardFilters
    empty: EmptyBoard | None
    warnings: tuple[Message, ...]
    first_contacts: tuple[FirstContact, ...]
    as_of: Moment | None
    walked: bool
    first_url: str
    previous_url: str
    next_url: str
    etag: str
    many: ManyBar | None = None
