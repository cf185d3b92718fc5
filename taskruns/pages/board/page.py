"""What the board shows, read from the mirror alone: a page costs the same with Arize slow or down."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from django.db.models import Count, QuerySet, Subquery
from django.db.models.functions import Coalesce
from django.utils import timezone

from taskruns import __version__
from taskruns.forms import BoardFilter, Cursor, Sort
from taskruns.models import Credential, Run, Team
from taskruns.pages.credentials import first_contacts
from taskruns.pages.saved_views import ALL
from taskruns.pages.values import Moment
from taskruns.services.runs.matching import Conditions, conditions

from .choices import board_filters, many_bar, offers_many, sort_links, why_empty
from .keyset import Found, Place, find, merged, micros, moment
from .parts import Board
from .rows import run_rows
from .seats import Seat
from .staleness import is_late, late, unread, warnings_of
from .together import find_together, may_find_together

PAGE = 50


@dataclass(frozen=True, slots=True)
class Listing:
    """One page of runs, and where its neighbours begin. `asked`: the filter as it was put to each team; `walked`: not
    all rows were looked at.
    """

    runs: tuple[Run, ...]
    asked: tuple[Conditions, ...]
    previous: Cursor | None = None
    following: Cursor | None = None
    walked: bool = False


def board(seats: Sequence[Seat], wanted: BoardFilter, *, of_all: bool, url: str, table_url: str, zone: str) -> Board:
    """One page of a team's board, or (`of_all`) of several teams as one. Raises BadFilter for a damaged page link."""
    listing = list_runs(seats, wanted)
    keys = list(live_keys(seats).order_by("name"))
    rows = run_rows(listing.runs, seats=seats, name_team=of_all)
    active, matching = _active(seats, wanted, listing.asked)
    return Board(
        shown=bool(seats),
        team="all your teams" if of_all else seats[0].team.name,
        slug="" if of_all else seats[0].team.slug,
        url=url,
        table_url=table_url + wanted.query(cursor=wanted.cursor),
        rows=rows,
        sorts=sort_links(wanted, url),
        active=active,
        filters=board_filters(seats, wanted, keys),
        empty=None if rows or listing.walked else why_empty(seats, wanted, keys, url=url),
        warnings=(*warnings_of(keys), *late(seats, keys), *unread(listing.runs)),
        first_contacts=first_contacts(keys),
        as_of=Moment.of(as_of(seats)),
        walked=listing.walked,
        first_url=url + (wanted.query() or f"?{ALL}") if wanted.cursor else "",
        previous_url=url + wanted.query(cursor=listing.previous) if listing.previous else "",
        next_url=url + wanted.query(cursor=listing.following) if listing.following else "",
        etag=etag(seats, wanted, zone=zone),
        many=None if of_all else many_bar(seats[0], wanted, matching=matching),
    )


def etag(seats: Iterable[Seat], wanted: BoardFilter, *, zone: str) -> str:
    """Names exactly what the table shows: no clocks but whether any team is late, no rendered HTML."""
    teams = [(str(seat.team.pk), seat.team.board_version, seat.access.role) for seat in seats]
    parts = (sorted(teams), wanted.query(cursor=wanted.cursor), zone, is_late(seats), __version__)
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]


def live_keys(seats: Iterable[Seat]) -> QuerySet[Credential]:
    return Credential.objects.live().filter(team__in=[seat.team for seat in seats]).defer("ciphertext")


def as_of(seats: Iterable[Seat]) -> datetime | None:
    """When the oldest of the working keys last read: nothing on the board is older, unless a warning says so."""
    return min((seat.team.as_of for seat in seats if seat.team.as_of is not None), default=None)


def list_runs(seats: Sequence[Seat], wanted: BoardFilter) -> Listing:
    cursor = wanted.cursor
    now = moment(cursor.at) if cursor and cursor.at else timezone.now()
    asked = tuple(conditions(seat.team, wanted, now=now) for seat in seats)
    found = _find(asked, wanted, cursor, now)
    is_full = len(found.rows) > PAGE
    if cursor is not None and cursor.backwards and not is_full and found.walked_to is None:
        # The top of the list is reached: show its first page whole.
        return list_runs(seats, replace(wanted, cursor=None))
    shown = found.rows[:PAGE]
    end = shown[-1][0] if is_full else found.walked_to
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
    return Listing(tuple(run for _, run in shown), asked, before, after, found.walked_to is not None)


def _active(seats: Sequence[Seat], wanted: BoardFilter, asked: Sequence[Conditions]) -> tuple[int, int]:
    """How many active runs there are, and how many of them pass the filter, where that is offered. Counted together."""
    active = Run.objects.filter(team__in=[seat.team for seat in seats], rank=1)
    if len(seats) != 1 or not wanted.is_set or not offers_many(seats[0]):
        return active.count(), 0
    # Two counts in one question, each with an index of its own; one count with a condition would walk the whole team.
    team = Team.objects.filter(pk=seats[0].team.pk)
    number, matching = team.values_list(_number(active), _number(active.filter(asked[0].all))).get()
    return number, matching


def _number(runs: QuerySet[Run]) -> Coalesce:
    counted = runs.order_by().values("team").annotate(number=Count("pk")).values("number")
    return Coalesce(Subquery(counted), 0)


def _find(asked: Sequence[Conditions], wanted: BoardFilter, cursor: Cursor | None, now: datetime) -> Found:
    parts = [part for conditions in asked for part in conditions.parts]
    if may_find_together(parts):
        return find_together(parts, wanted, cursor, limit=PAGE + 1, now=now)
    # One that is walked does not take the indexes of the others from them.
    each = [
        find_together(team.parts, wanted, cursor, limit=PAGE + 1, now=now)
        if may_find_together(team.parts)
        else find(team, wanted, cursor, limit=PAGE + 1, now=now)
        for team in asked
    ]
    descending = wanted.descending != (cursor is not None and cursor.backwards)
    return each[0] if len(each) == 1 else merged(each, PAGE + 1, descending=descending)
