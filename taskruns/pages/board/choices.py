"""The choices of the board's filter form and bulk cancel bar, and the texts of an empty board."""

from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import cache, lru_cache
from typing import NamedTuple
from urllib.parse import parse_qsl
from uuid import UUID

from django.db.models import Q, QuerySet, UUIDField
from django.urls import reverse
from django.utils import timezone

from taskruns.forms import BoardFilter, Sort
from taskruns.models import BatchKind, Credential, Status, Task
from taskruns.models.prepared import PreparedShared, Slot
from taskruns.models.tasks import STILL_LISTED
from taskruns.pages.values import Link, shortened, told_apart
from taskruns.permissions import Action, TeamAccess
from taskruns.services.batches import KIND_FACTS, RESTARTABLE

from .chips import FLAG_WORDS
from .rows import Likenesses


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
    """The current filter, to fill the form. Times have the format of the form's fields, in the person's `zone`.

    `number`: how many filters are set, for the button that opens the form. `excluded`: Arize ids of tasks.
    """

    statuses: tuple[Choice, ...]
    flags: tuple[Choice, ...]
    tasks: tuple[Choice, ...]
    types: tuple[Choice, ...]
    credentials: tuple[Choice, ...]
    spaces: tuple[Choice, ...]
    q: str
    created_after: datetime | None
    created_before: datetime | None
    started_after: str
    started_before: str
    ended_after: str
    ended_before: str
    started_by: str
    cancelled_by: str
    min_duration: str
    min_error_share: str
    excluded: tuple[str, ...]
    sorts: tuple[Choice, ...]
    zone: str
    number: int
    is_set: bool


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
class BatchButton:
    """Cancels the selected runs of one team. `team` and `slug`: on the board of all teams, where there are several."""

    url: str
    team: str = ""
    slug: str = ""


@dataclass(frozen=True, slots=True)
class BatchBar:
    """Bulk cancel on the board: `matching` active runs match the filter with these `fields`; 0 without a filter.

    `starts_again`: the filter is for failed and cancelled runs only, which can be started again. `is_one`: one run
    matches, whatever its status.
    """

    buttons: tuple[BatchButton, ...]
    url: str = ""
    matching: int = 0
    fields: tuple[tuple[str, str], ...] = ()
    starts_again: bool = False
    is_one: bool = False


# A longer list does not help; the search finds the others.
MOST_TASKS = 1_000
_SORTS = (
    ("attention", "Needs attention first"),
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


class NamedTask(NamedTuple):
    team: UUID
    arize_id: str
    name: str
    space: str


def named_tasks(accesses: Sequence[TeamAccess]) -> tuple[NamedTask, ...]:
    """The first MOST_TASKS by name."""
    teams = [it.team.pk for it in accesses]
    is_one = len(teams) == 1
    rows = _of_one_team().rows(most=MOST_TASKS, team=teams[0]) if is_one else _by_name(Q(team__in=teams))[:MOST_TASKS]
    return tuple(map(NamedTask._make, rows))


@cache
def _of_one_team() -> PreparedShared[tuple[UUID, str, str, str]]:
    return PreparedShared(_by_name(Q(team=Slot("team", UUIDField()))), most=4 * MOST_TASKS)


def _by_name(of_teams: Q) -> QuerySet[Task, tuple[UUID, str, str, str]]:
    tasks = Task.objects.filter(STILL_LISTED, of_teams).exclude(arize_id="").order_by("name", "arize_id")
    return tasks.values_list("team", "arize_id", "name", "space_name")


def likenesses(tasks: Sequence[NamedTask], keys: Iterable[Credential]) -> Likenesses | None:
    """None if there are more tasks."""
    if len(tasks) == MOST_TASKS:
        return None
    names = Counter((task.team, task.name) for task in tasks if task.name)
    teams = Counter(key.team_id for key in keys)
    return Likenesses(
        {name for name, number in names.items() if number > 1}, {team for team, number in teams.items() if number > 1}
    )


def board_filters(wanted: BoardFilter, keys: Sequence[Credential], tasks: Sequence[NamedTask]) -> BoardFilters:
    spaces = {space["id"]: shortened(space["name"] or space["id"]) for key in keys for space in key.spaces}
    return BoardFilters(
        statuses=tuple(Choice(it.value, it.value.upper(), it in wanted.statuses) for it in Status),
        flags=tuple(Choice(it.value, word, it in wanted.flags) for it, word in FLAG_WORDS.items()),
        tasks=_of_tasks(tuple(tasks), wanted.task),
        types=_choices(((it, it.replace("_", " ")) for it in _TYPES), wanted.type),
        credentials=_choices(((str(key.pk), key.name) for key in keys), str(wanted.credential or "")),
        spaces=_choices(sorted(spaces.items(), key=lambda space: space[1]), wanted.space),
        q=wanted.q,
        created_after=wanted.created_after,
        created_before=wanted.created_before,
        started_after=_local(wanted.started_after),
        started_before=_local(wanted.started_before),
        ended_after=_local(wanted.ended_after),
        ended_before=_local(wanted.ended_before),
        started_by=wanted.started_by,
        cancelled_by=wanted.cancelled_by,
        min_duration=_text(wanted.min_duration),
        min_error_share=_text(wanted.min_error_share),
        excluded=wanted.not_tasks,
        sorts=_choices(_SORTS, wanted.sort_text if wanted.sort else ""),
        zone=timezone.get_current_timezone_name(),
        number=len(parse_qsl(wanted.unsorted().query().removeprefix("?"))),
        is_set=wanted.is_set,
    )


# The same for as long as no task is added or renamed.
@lru_cache(maxsize=64)
def _of_tasks(tasks: tuple[NamedTask, ...], chosen: str) -> tuple[Choice, ...]:
    return _choices(told_apart((task.arize_id, task.name, task.space) for task in tasks).items(), chosen)


def _choices(pairs: Iterable[tuple[str, str]], chosen: str) -> tuple[Choice, ...]:
    """Includes the chosen value even if it is no longer listed: the form must not drop it."""
    listed = dict(pairs)
    listed |= {chosen: shortened(chosen)} if chosen and chosen not in listed else {}
    return tuple(Choice(value, word, value == chosen) for value, word in listed.items())


def _text(number: int | None) -> str:
    return "" if number is None else str(number)


def _local(at: datetime | None) -> str:
    """In the format of `<input type=datetime-local>` and the person's zone; seconds only if not zero."""
    if at is None:
        return ""
    with suppress(OverflowError):  # the first or the last day that there is: shown in UTC
        at = timezone.localtime(at)
    return at.replace(tzinfo=None).isoformat(timespec="seconds" if at.second else "minutes")


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
    return Sorts(
        created=_sort_link(wanted, Sort.CREATED, url),
        started=_sort_link(wanted, Sort.STARTED, url),
        duration=_sort_link(wanted, Sort.DURATION, url),
        errors=_sort_link(wanted, Sort.ERRORS, url),
    )


def _sort_link(wanted: BoardFilter, sort: Sort, url: str) -> SortLink:
    is_current = wanted.sort is sort
    clicked = wanted.sorted_by(sort, descending=not (is_current and wanted.descending))
    direction = "" if not is_current else "descending" if wanted.descending else "ascending"
    return SortLink(url + clicked.query(), direction)


def offers_batches(team_access: TeamAccess) -> bool:
    return team_access.access.may(Action.RUNS_CANCEL_MANY)


def batch_bar(
    accesses: Sequence[TeamAccess], wanted: BoardFilter, *, of_all: bool, matching: int, is_one: bool
) -> BatchBar | None:
    """`matching`: how many active runs of the only team match the filter. `is_one`: only one run does at all."""
    offering = [it for it in accesses if offers_batches(it)]
    if not offering:
        return None
    if of_all:
        return BatchBar(tuple(BatchButton(_batches_url(it), it.team.name, it.team.slug) for it in offering))
    url = _batches_url(offering[0])
    fields = tuple(parse_qsl(wanted.unsorted().query().removeprefix("?")))
    is_for_ended = bool(wanted.statuses) and set(wanted.statuses) <= set(RESTARTABLE)
    starts_again = is_for_ended and KIND_FACTS[BatchKind.TRIGGER].may(offering[0].access)
    return BatchBar((BatchButton(url),), url, matching, fields, starts_again, is_one)


def _batches_url(team_access: TeamAccess) -> str:
    return reverse("batches", args=[team_access.team.slug])
