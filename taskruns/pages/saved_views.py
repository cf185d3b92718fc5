"""The bar of saved views above the board, and the page that manages them."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any
from urllib.parse import parse_qsl
from uuid import UUID

from django.db.models import Exists, OuterRef, Q, QuerySet, UUIDField
from django.urls import reverse

from taskruns.models import Membership, SavedView, Team, User
from taskruns.models.prepared import Prepared, Slot
from taskruns.pages.values import Link, named
from taskruns.permissions import Access, TeamAccess
from taskruns.services.saved_views import may_change, may_delete, may_save, may_share, read, why_broken

# Explicitly asks for all runs: without any query the board opens with a default view.
ALL = "all=1"
# The built-in view, as the board filter writes it.
ATTENTION = "flag=attention&sort=attention"
# This many saved views fit beside the built-in ones. If there are more, a menu holds all but one.
_TABS = 2
_WORDS = {"q": "search", "credential": "key", "started_after": "started after", "started_before": "started before"}
_WORDS |= {"min_duration": "runs longer than (s)", "min_error_share": "errors at least (%)", "sort": "order"}
_WORDS |= {"flag": "only", "not_task": "not task"}


@dataclass(frozen=True, slots=True)
class Choice:
    """One filter that is set, as text."""

    name: str
    values: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ViewTab:
    """`is_default`: the person's board opens with it."""

    name: str
    url: str
    is_current: bool
    is_shared: bool
    is_default: bool


@dataclass(frozen=True, slots=True)
class ViewBar:
    """The views as tabs: all runs, those that need attention, and on a team's board its saved views.

    `query` is the filter that would be saved, without `?`; `may_save` is false for one that is a tab already.
    `exports`: the pages from which these runs can be downloaded, one per team.
    """

    all_url: str
    all_is_current: bool
    attention_url: str
    attention_is_current: bool
    exports: tuple[Link, ...]
    tabs: tuple[ViewTab, ...] = ()
    query: str = ""
    may_save: bool = False
    may_share: bool = False
    views_url: str = ""

    @property
    def shown_tabs(self) -> tuple[ViewTab, ...]:
        """Of many saved views only one: the current one, else the one that the board opens with, else the first."""
        if len(self.tabs) <= _TABS:
            return self.tabs
        return (max(self.tabs, key=lambda tab: (tab.is_current, tab.is_default)),)

    @property
    def menu_tabs(self) -> tuple[ViewTab, ...]:
        return tuple(tab for tab in self.tabs if tab not in self.shown_tabs)


@dataclass(frozen=True, slots=True)
class ViewRow:
    """One saved view, as a person may use it. `broken`: why its filter no longer works, if so.

    `owner`: empty for the person's own views.
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
    """The board with exactly this filter. Never without a query, which would open the default view."""
    return f"{reverse('board', args=[slug])}?{query or ALL}"


def choices_of(query: str) -> tuple[Choice, ...]:
    """A query string as text for people."""
    found: dict[str, list[str]] = {}
    for name, value in parse_qsl(query):
        found.setdefault(_WORDS.get(name, name.replace("_", " ")), []).append(value)
    return tuple(Choice(name, tuple(values)) for name, values in found.items())


def export_page_url(slug: str, query: str) -> str:
    return reverse("board-export-page", args=[slug]) + (f"?{query}" if query else "")


def visible(team: Team, person: User) -> QuerySet[SavedView]:
    """The person's own views and those shared with the team."""
    return _visible(team.pk, person.pk)


def _visible(team: UUID | Slot, person: UUID | Slot) -> QuerySet[SavedView]:
    views = SavedView.objects.filter(Q(owner=person) | Q(is_shared=True), team=team)
    return views.select_related("owner", "team")


@dataclass(frozen=True, slots=True)
class VisibleViews:
    """The views that a person sees on a team's board, in order, and the one that it opens with: their own default, else
    the team's.
    """

    team: Team
    views: tuple[SavedView, ...]
    opens_with: SavedView | None


def visible_views(team: Team, person: User) -> VisibleViews:
    """One query."""
    views = _by_name(team, person)
    own = next((view for view, is_own in views if is_own), None)
    of_team = next((view for view, _ in views if view.is_team_default), None)
    return VisibleViews(team, tuple(view for view, _ in views), own or of_team)


def view_bar(visible: VisibleViews, access: Access, query: str) -> ViewBar:
    """The bar above a board with the filter `query`, which must be canonical."""
    query = query.removeprefix("?")
    team = visible.team
    tabs = tuple(_tab(view, query, is_default=view == visible.opens_with) for view in visible.views)
    is_tab = query in {"", ATTENTION} or any(tab.is_current for tab in tabs)
    return ViewBar(
        all_url=board_url(team.slug, ""),
        all_is_current=not query,
        attention_url=board_url(team.slug, ATTENTION),
        attention_is_current=query == ATTENTION,
        exports=(Link("CSV of these runs", export_page_url(team.slug, query)),),
        tabs=tabs,
        query=query,
        may_save=may_save(access) and not is_tab,
        may_share=may_share(access),
        views_url=reverse("saved-views", args=[team.slug]),
    )


def _tab(view: SavedView, query: str, *, is_default: bool) -> ViewTab:
    return ViewTab(
        name=view.name,
        url=board_url(view.team.slug, view.query),
        is_current=bool(query) and read(view.query)[0] == query,
        is_shared=view.is_shared,
        is_default=is_default,
    )


def all_teams_bar(accesses: Sequence[TeamAccess], query: str) -> ViewBar:
    """The bar above the board of all teams. An export is one team's, because that team's log records it."""
    query, url = query.removeprefix("?"), reverse("teams")
    return ViewBar(
        all_url=f"{url}?{ALL}",
        all_is_current=not query,
        attention_url=f"{url}?{ATTENTION}",
        attention_is_current=query == ATTENTION,
        exports=tuple(
            Link(f"CSV of these runs of {it.team.name}", export_page_url(it.team.slug, query)) for it in accesses
        ),
    )


def views_page(team: Team, person: User, access: Access) -> ViewsPage:
    return ViewsPage(
        team=team.name,
        slug=team.slug,
        board_url=board_url(team.slug, ""),
        rows=tuple(_row(view, person, access, is_own_default=is_own) for view, is_own in _by_name(team, person)),
        may_save=may_save(access),
        may_share=may_share(access),
    )


def _row(view: SavedView, person: User, access: Access, *, is_own_default: bool) -> ViewRow:
    return ViewRow(
        id=str(view.pk),
        name=view.name,
        url=board_url(view.team.slug, view.query),
        owner="" if view.owner_id == person.pk else named(view.owner.name, view.owner.email),
        choices=choices_of(view.query),
        broken=why_broken(view),
        is_shared=view.is_shared,
        is_own_default=is_own_default,
        is_team_default=view.is_team_default,
        may_change=may_change(view, person, access),
        may_delete=may_delete(view, person, access),
    )


@cache
def _with_own_default() -> Prepared[SavedView]:
    """Each view with whether it is the person's own default."""
    team, person = Slot("team", UUIDField()), Slot("person", UUIDField())
    chosen = Membership.objects.filter(user=person, default_view=OuterRef("pk"))
    return Prepared(_visible(team, person).annotate(is_own_default=Exists(chosen)))


def _by_name(team: Team, person: User) -> list[tuple[SavedView, bool]]:
    """The person's private views first, each with whether it is the person's own default."""
    views: list[Any] = _with_own_default().rows(team=team.pk, person=person.pk)
    pairs = [(view, bool(view.is_own_default)) for view in views]
    return sorted(pairs, key=lambda pair: (pair[0].is_shared, pair[0].name.casefold()))
