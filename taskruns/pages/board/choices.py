"""The choices of the board's filter form and bulk cancel bar, and the texts of an empty board."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from urllib.parse import parse_qsl

from django.urls import reverse

from taskruns.forms import BoardFilter, Sort
from taskruns.models import Credential, Status, Task
from taskruns.models.tasks import STILL_LISTED
from taskruns.pages.values import Link, shortened, told_apart
from taskruns.permissions import Action, TeamAccess


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
    """The current filter, to fill the form. Times have the format of the form's fields, in UTC."""

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
    more_is_set: bool  # one of those under "More filters"


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
class BatchBar:
    """Bulk cancel on the board: `matching` active runs match the filter with these `fields`; 0 without a filter."""

    url: str
    matching: int
    fields: tuple[tuple[str, str], ...]


# A longer list does not help; the search finds the others.
MOST_TASKS = 1_000
_SORTS = (
    ("-created", "Created, newest first"),
    ("created", "Created, oldest first"),
    ("-started", "Started, latest first"),
    ("started", "Started, earliest first"),
    ("-duration", "Longest first"),
    ("duration", "Shortest first"),
    ("-errors", "Most errors first"),
    ("errors", "Fewest errors first"),
)
_TYPES = ("template_evaluation", "code_evaluation", "run_experiment", "unknown")


def board_filters(accesses: Sequence[TeamAccess], wanted: BoardFilter, keys: Sequence[Credential]) -> BoardFilters:
    teams = [it.team for it in accesses]
    tasks = Task.objects.filter(STILL_LISTED, team__in=teams).exclude(arize_id="").order_by("name", "arize_id")
    named = told_apart(tasks.values_list("arize_id", "name", "space_name")[:MOST_TASKS])
    spaces = {space["id"]: shortened(space["name"] or space["id"]) for key in keys for space in key.spaces}
    more = (wanted.type, wanted.credential, wanted.space, wanted.started_after, wanted.started_before)
    return BoardFilters(
        statuses=tuple(Choice(it.value, it.value.upper(), it in wanted.statuses) for it in Status),
        tasks=_choices(named.items(), wanted.task),
        types=_choices(((it, it.replace("_", " ")) for it in _TYPES), wanted.type),
        credentials=_choices(((str(key.pk), key.name) for key in keys), str(wanted.credential or "")),
        spaces=_choices(sorted(spaces.items(), key=lambda space: space[1]), wanted.space),
        q=wanted.q,
        started_after=_local(wanted.started_after),
        started_before=_local(wanted.started_before),
        min_duration="" if wanted.min_duration is None else str(wanted.min_duration),
        sorts=_choices(_SORTS, f"{'-' if wanted.descending else ''}{wanted.sort.value}" if wanted.sort else ""),
        is_set=wanted.is_set,
        more_is_set=any(more) or wanted.min_duration is not None,
    )


def _choices(pairs: Iterable[tuple[str, str]], chosen: str) -> tuple[Choice, ...]:
    """Includes the chosen value even if it is no longer listed: the form must not drop it."""
    listed = dict(pairs)
    listed |= {chosen: shortened(chosen)} if chosen and chosen not in listed else {}
    return tuple(Choice(value, word, value == chosen) for value, word in listed.items())


def _local(at: datetime | None) -> str:
    """In the format of `<input type=datetime-local>`; seconds only if not zero."""
    if at is None:
        return ""
    return at.strftime("%Y-%m-%dT%H:%M:%S" if at.second else "%Y-%m-%dT%H:%M")


def why_empty(
    accesses: Sequence[TeamAccess], wanted: BoardFilter, keys: Sequence[Credential], *, url: str
) -> EmptyBoard:
    """Why the board is empty: no key yet, all runs filtered out, key failing, or no runs."""
    manages = [it for it in accesses if it.access.may(Action.CREDENTIALS_MANAGE)]
    if not keys:
        return _no_key(manages)
    if wanted.is_set or wanted.cursor:
        step = Link("Clear filters", f"{url}?all=1")
        return EmptyBoard("filtered", "No runs match these filters", "Clear the filters to see all runs.", step)
    if all(key.failing_since for key in keys):
        step_ = Link("Open API keys", reverse("credentials", args=[manages[0].team.slug])) if manages else None
        return EmptyBoard(
            "key_failing", "Arize rejected the API key", "No runs can be read until an API key works again.", step_
        )
    if not any(key.last_good_at for key in keys):
        text = "The API key is new. The first runs appear here as soon as Arize answers."
        return EmptyBoard("no_runs", "Reading for the first time", text)
    return EmptyBoard("no_runs", "No runs", "Arize lists no runs for this team's API keys.")


def _no_key(manages: Sequence[TeamAccess]) -> EmptyBoard:
    text = "The board fills automatically once the team has an Arize API key."
    if not manages:
        return EmptyBoard("no_key", "No API key yet", f"{text} A manager of the team can add one.")
    step = Link("Add API key", reverse("credential-new", args=[manages[0].team.slug]))
    return EmptyBoard("no_key", "No API key yet", text, step)


def sort_links(wanted: BoardFilter, url: str) -> Sorts:
    """The first click on a heading sorts the largest first, the second reverses the order."""
    links = {sort.value: _sort_link(wanted, sort, url) for sort in Sort if sort}
    return Sorts(**links)


def _sort_link(wanted: BoardFilter, sort: Sort, url: str) -> SortLink:
    is_current = wanted.sort is sort
    clicked = wanted.sorted_by(sort, descending=not (is_current and wanted.descending))
    direction = "" if not is_current else "descending" if wanted.descending else "ascending"
    return SortLink(url + clicked.query(), direction)


def offers_batches(team_access: TeamAccess) -> bool:
    return team_access.access.may(Action.RUNS_CANCEL_MANY)


def batch_bar(team_access: TeamAccess, wanted: BoardFilter, *, matching: int) -> BatchBar | None:
    """`matching`: how many active runs pass the filter."""
    if not offers_batches(team_access):
        return None
    url = reverse("batches", args=[team_access.team.slug])
    if not wanted.is_set:
        return BatchBar(url, 0, ())
    query = replace(wanted, sort=Sort.ACTIVE, descending=True, cursor=None).query()
    return BatchBar(url, matching, tuple(parse_qsl(query.removeprefix("?"))))
