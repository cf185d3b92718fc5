"""The bar of saved views above the board, and the page on which they are changed."""

from dataclasses import dataclass
from urllib.parse import parse_qsl

from django.urls import reverse

# An explicit question for everything: without any question at all the board opens with a default view.
ALL = "all=1"
_WORDS = {"q": "search", "credential": "key", "started_after": "started after", "started_before": "started before"}
_WORDS |= {"min_duration": "takes at least (s)", "sort": "order"}


@dataclass(frozen=True, slots=True)
class Choice:
    """One filter that is set, in words."""

    name: str
    values: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ViewTab:
    """`is_default`: the board opens with it for this person."""

    name: str
    url: str
    is_current: bool
    is_shared: bool
    is_default: bool


@dataclass(frozen=True, slots=True)
class ViewBar:
    """`query` is the filter that would be saved, without `?`."""

    all_url: str
    all_is_current: bool
    tabs: tuple[ViewTab, ...]
    query: str
    may_save: bool
    may_share: bool
    views_url: str
    export_url: str


@dataclass(frozen=True, slots=True)
class ViewRow:
    """One saved view as one person may use it. `broken` is why its filter cannot be used any more, if so.

    `owner` is empty for one's own.
    """

    id: str
    name: str
    url: str
    owner: str
    choices: tuple[Choice, ...]
    broken: str
    is_shared: bool
    is_own_default: bool
    is_team_default: bool
    may_change: bool
    may_delete: bool


@dataclass(frozen=True, slots=True)
class ViewsPage:
    team: str
    slug: str
    board_url: str
    rows: tuple[ViewRow, ...]
    may_save: bool
    may_share: bool


def board_url(slug: str, query: str) -> str:
    """The board with exactly this filter: never without a question, which would ask for a default view."""
    return f"{reverse('board', args=[slug])}?{query or ALL}"


def choices_of(query: str) -> tuple[Choice, ...]:
    """A query string as people read it."""
    found: dict[str, list[str]] = {}
    for name, value in parse_qsl(query):
        found.setdefault(_WORDS.get(name, name.replace("_", " ")), []).append(value)
    return tuple(Choice(name, tuple(values)) for name, values in found.items())


def export_page_url(slug: str, query: str) -> str:
    return reverse("board-export-page", args=[slug]) + (f"?{query}" if query else "")
