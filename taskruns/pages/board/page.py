"""The board, read only from the mirror: a page costs the same when Arize is slow or down."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from django.db.models import Count, QuerySet, Subquery
from django.db.models.functions import Coalesce
from django.utils import timezone

from taskruns import __version__
from taskruns.forms import BoardFilter, Cursor, Sort
from taskruns.models import Credential, Heartbeat, Run, Team
from taskruns.pages.board.rows import RunRow
from taskruns.pages.credentials import FirstContact, first_contacts, health, warnings_of
from taskruns.pages.saved_views import ALL
from taskruns.pages.values import Message, Moment
from taskruns.permissions import TeamAccess
from taskruns.services.runs.matching import Conditions, conditions

from .choices import (
    BatchBar,
    BoardFilters,
    EmptyBoard,
    Sorts,
    batch_bar,
    board_filters,
    offers_batches,
    sort_links,
    why_empty,
)
from .keyset import Found, find, find_together, may_find_together, merged
from .plan import Place, is_read_descending, micros, moment
from .rows import run_rows, unread


@dataclass(frozen=True, slots=True)
class Board:
    """The board of one team, or of all of a person's teams (then `slug` is empty).

    `warnings` say why data may be old; `etag` identifies exactly what is shown; `is_partial`: not all rows were scanned
    for the filter; `shown` is false for a person without a team.
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
    is_partial: bool
    first_url: str
    previous_url: str
    next_url: str
    etag: str
    batch_bar: BatchBar | None = None


PAGE = 50
# A key without attention is read every 5 min. If the last reading is older than this, nothing reads it.
LATE = timedelta(minutes=6)


@dataclass(frozen=True, slots=True)
class Listing:
    """One page of runs, and where the neighbouring pages start. `asked`: the filter for each team; `is_partial`: not
    all rows were scanned.
    """

    runs: tuple[Run, ...]
    asked: tuple[Conditions, ...]
    previous: Cursor | None = None
    following: Cursor | None = None
    is_partial: bool = False


def board(
    accesses: Sequence[TeamAccess], wanted: BoardFilter, *, of_all: bool, url: str, table_url: str, zone: str
) -> Board:
    """One page of a team's board, or (`of_all`) of several teams together. Raises BadFilter for a damaged page link."""
    listing = list_runs(accesses, wanted)
    keys = list(live_keys(accesses).order_by("name"))
    rows = run_rows(listing.runs, accesses=accesses, name_team=of_all)
    active, matching = _active(accesses, wanted, listing.asked)
    return Board(
        shown=bool(accesses),
        team="all your teams" if of_all else accesses[0].team.name,
        slug="" if of_all else accesses[0].team.slug,
        url=url,
        table_url=table_url + wanted.query(cursor=wanted.cursor),
        rows=rows,
        sorts=sort_links(wanted, url),
        active=active,
        filters=board_filters(accesses, wanted, keys),
        empty=None if rows or listing.is_partial else why_empty(accesses, wanted, keys, url=url),
        warnings=(*warnings_of(keys), *late(accesses, keys), *unread(listing.runs)),
        first_contacts=first_contacts(keys),
        as_of=Moment.of(as_of(accesses)),
        is_partial=listing.is_partial,
        first_url=url + (wanted.query() or f"?{ALL}") if wanted.cursor else "",
        previous_url=url + wanted.query(cursor=listing.previous) if listing.previous else "",
        next_url=url + wanted.query(cursor=listing.following) if listing.following else "",
        etag=etag(accesses, wanted, zone=zone),
        batch_bar=None if of_all else batch_bar(accesses[0], wanted, matching=matching),
    )


def etag(accesses: Iterable[TeamAccess], wanted: BoardFilter, *, zone: str) -> str:
    """Identifies exactly what the table shows. Contains no time except whether a team is late, and no rendered HTML."""
    teams = [(str(it.team.pk), it.team.board_version, it.access.role) for it in accesses]
    parts = (sorted(teams), wanted.query(cursor=wanted.cursor), zone, is_late(accesses), __version__)
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]


def is_late(accesses: Iterable[TeamAccess]) -> bool:
    """Whether a team was last read longer ago than any pace explains. Without a query, because every poll calls it."""
    since = timezone.now() - LATE
    return any(it.team.as_of is not None and it.team.as_of < since for it in accesses)


def late(accesses: Iterable[TeamAccess], keys: Iterable[Credential]) -> tuple[Message, ...]:
    """A warning if nothing reads Arize and no key explains why. Without the age: the browser shows it."""
    now = timezone.now()
    unexplained = {key.team_id for key in keys if health(key, now)[0] == "working"}
    if not is_late(it for it in accesses if it.team.pk in unexplained):
        return ()
    if Heartbeat.objects.filter(seen_at__gte=now - LATE).exists():
        return (Message("warning", "Reading from Arize takes unusually long. This page may be out of date."),)
    return (Message("error", "The panel's worker is not running, so nothing is read from Arize. This page is old."),)


def live_keys(accesses: Iterable[TeamAccess]) -> QuerySet[Credential]:
    return Credential.objects.live().filter(team__in=[it.team for it in accesses]).defer("ciphertext")


def as_of(accesses: Iterable[TeamAccess]) -> datetime | None:
    """The oldest last reading of the working keys: nothing on the board is older, unless a warning says so."""
    return min((it.team.as_of for it in accesses if it.team.as_of is not None), default=None)


def list_runs(accesses: Sequence[TeamAccess], wanted: BoardFilter) -> Listing:
    cursor = wanted.cursor
    now = moment(cursor.at) if cursor and cursor.at else timezone.now()
    asked = tuple(conditions(it.team, wanted, now=now) for it in accesses)
    found = _find(asked, wanted, cursor, now)
    is_full = len(found.rows) > PAGE
    if cursor is not None and cursor.backwards and not is_full and found.scanned_to is None:
        # The top of the list is reached: show the full first page.
        return list_runs(accesses, replace(wanted, cursor=None))
    shown = found.rows[:PAGE]
    end = shown[-1][0] if is_full else found.scanned_to
    here = Place(cursor.rank, cursor.value, cursor.id) if cursor else None
    begin = shown[0][0] if shown else here
    ends = (begin if cursor else None, end)
    if cursor is not None and cursor.backwards:
        shown, ends = shown[::-1], (end, begin)
    is_timed = wanted.sort is Sort.DURATION or wanted.min_duration is not None
    at = micros(now) if is_timed else 0
    before, after = (
        place.cursor(backwards=backwards, at=at) if place else None
        for place, backwards in zip(ends, (True, False), strict=True)
    )
    return Listing(tuple(run for _, run in shown), asked, before, after, found.scanned_to is not None)


def _active(accesses: Sequence[TeamAccess], wanted: BoardFilter, asked: Sequence[Conditions]) -> tuple[int, int]:
    """The number of active runs, and of those that match the filter where bulk cancel is offered. At most one query."""
    active = Run.objects.filter(team__in=[it.team for it in accesses], rank=1)
    if len(accesses) != 1 or not wanted.is_set or not offers_batches(accesses[0]):
        return active.count(), 0
    # Two counts in one query, each with its own index. One count with a condition would scan the whole team.
    team = Team.objects.filter(pk=accesses[0].team.pk)
    number, matching = team.values_list(_number(active), _number(active.filter(asked[0].all))).get()
    return number, matching


def _number(runs: QuerySet[Run]) -> Coalesce:
    counted = runs.order_by().values("team").annotate(number=Count("pk")).values("number")
    return Coalesce(Subquery(counted), 0)


def _find(asked: Sequence[Conditions], wanted: BoardFilter, cursor: Cursor | None, now: datetime) -> Found:
    parts = [part for conditions in asked for part in conditions.parts]
    if may_find_together(parts):
        return find_together(parts, wanted, cursor, limit=PAGE + 1, now=now)
    # One team's filter that needs a scan must not keep the others from using an index.
    each = [
        find_together(team.parts, wanted, cursor, limit=PAGE + 1, now=now)
        if may_find_together(team.parts)
        else find(team, wanted, cursor, limit=PAGE + 1, now=now)
        for team in asked
    ]
    return each[0] if len(each) == 1 else merged(each, PAGE + 1, descending=is_read_descending(wanted, cursor))
