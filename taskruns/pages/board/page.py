"""The board, read only from the mirror: a page costs the same when Arize is slow or down."""

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from uuid import UUID

from django.urls import reverse
from django.utils import timezone

from taskruns import __version__
from taskruns.forms import BoardFilter, Cursor, Sort
from taskruns.models import Credential, Run, Team
from taskruns.models.runs import ACTIVE, LATELY
from taskruns.models.stamps import SKEW, is_recent
from taskruns.pages.board.rows import RunRow
from taskruns.pages.credentials import FirstContact, first_contacts, health, warnings_of
from taskruns.pages.saved_views import ALL
from taskruns.pages.tokens import token_warnings
from taskruns.pages.values import Message, Moment
from taskruns.permissions import TeamAccess
from taskruns.services.mirror.staleness import Ages, ages_of, board_ages, keys_with_ages
from taskruns.services.runs.matching import Conditions, conditions

from .chips import Chip, SetFilter, chips, set_filters
from .choices import (
    BatchBar,
    BoardFilters,
    EmptyBoard,
    Sorts,
    batch_bar,
    board_filters,
    likenesses,
    named_tasks,
    offers_batches,
    sort_links,
    why_empty,
)
from .counts import Begins, Count, board_counts, sum_of, total
from .keyset import Found, find, find_together, may_find_together, merged
from .plan import Place, is_read_descending, micros, moment
from .rows import PAGE, load_runs, run_rows, unread


@dataclass(frozen=True, slots=True)
class BoardAges:
    """How old the rows are. `statuses`: no status of an active run is older. `searched`: each run that Arize had then
    is on the board. None if not known. `versions`: team id -> `board_version` when the ages were read.
    """

    statuses: Moment | None
    searched: Moment | None
    versions: Mapping[UUID, int]


@dataclass(frozen=True, slots=True)
class Board:
    """The board of one team, or of all of a person's teams (then `slug` is empty).

    `chips`: the numbers above the rows; `position`: which of how many runs these are; `set_filters`: other filters.
    `warnings` say why data may be old; `as_of` is the last reading, `has_working_key` whether one can follow; `etag`
    identifies exactly what is shown; `is_partial`: not all rows were scanned for the filter; `shown` is false for a
    person without a team.
    """

    shown: bool
    team: str
    slug: str
    url: str
    table_url: str
    chart_url: str
    rows: tuple[RunRow, ...]
    chips: tuple[Chip, ...]
    position: str
    sorts: Sorts
    active: Count
    filters: BoardFilters
    set_filters: tuple[SetFilter, ...]
    empty: EmptyBoard | None
    warnings: tuple[Message, ...]
    first_contacts: tuple[FirstContact, ...]
    as_of: Moment | None
    ages: BoardAges
    has_working_key: bool
    is_partial: bool
    first_url: str
    previous_url: str
    next_url: str
    etag: str
    batch_bar: BatchBar | None = None

    @property
    def can_pick(self) -> bool:
        """Whether rows can be selected."""
        return self.batch_bar is not None


# A key without attention is read every 5 min. If the last reading is older than this, nothing reads it.
LATE = timedelta(minutes=6)
# The worker's clock notes itself, and its queue, every 5 s.
UNSEEN_AFTER = timedelta(seconds=20)
TICK = 10  # seconds


@dataclass(frozen=True, slots=True)
class Listing:
    """One page of runs as rows show them, and where the neighbouring pages start. `asked`: the filter for each team at
    `now`; `is_partial`: not all rows were scanned.
    """

    runs: tuple[Run, ...]
    asked: tuple[Conditions, ...]
    now: datetime
    previous: Cursor | None = None
    following: Cursor | None = None
    is_partial: bool = False

    @property
    def is_whole(self) -> bool:
        """Whether the page shows all runs that match."""
        return self.previous is None and self.following is None and not self.is_partial


def board(
    accesses: Sequence[TeamAccess],
    wanted: BoardFilter,
    *,
    of_all: bool,
    url: str,
    table_url: str,
    zone: str,
) -> Board:
    """One page of a team's board, or (`of_all`) of several teams together. Raises BadFilter for a damaged page link."""
    # The ages before the rows: ages that are read after them could claim a run that came in between.
    keys = keys_with_ages([it.team.pk for it in accesses])
    ages = _shown(ages_of(keys))
    counts = board_counts(accesses)
    tag = _until_counts_change(etag(accesses, wanted, ages, zone=zone), counts.begins)
    listing = list_runs(accesses, wanted)
    tasks = named_tasks(accesses)
    alike = likenesses(tasks, keys)
    rows = run_rows(listing.runs, accesses=accesses, name_team=of_all, likenesses=alike, are_shared=True)
    filters = board_filters(wanted, keys, tasks)
    return Board(
        shown=bool(accesses),
        team="all your teams" if of_all else accesses[0].team.name,
        slug="" if of_all else accesses[0].team.slug,
        url=url,
        table_url=table_url + wanted.query(cursor=wanted.cursor),
        chart_url=(reverse("teams-chart") if of_all else reverse("board-chart", args=[accesses[0].team.slug]))
        + wanted.unsorted().query(),
        rows=rows,
        chips=chips(wanted, counts, url),
        position=total(listing, wanted).text,
        sorts=sort_links(wanted, url),
        active=sum_of(counts.statuses[status] for status in ACTIVE),
        filters=filters,
        set_filters=set_filters(wanted, _labels(filters), url),
        empty=None if rows or listing.is_partial else why_empty(accesses, wanted, keys, url=url),
        warnings=(
            *warnings_of(keys, readers=accesses),
            *token_warnings(accesses),
            *late(accesses, keys),
            *unread(listing.runs),
            *unfilled(listing.asked),
        ),
        first_contacts=first_contacts(keys),
        as_of=Moment.of(as_of(accesses)),
        ages=ages,
        has_working_key=any(key.failing_since is None for key in keys),
        is_partial=listing.is_partial,
        first_url=url + (wanted.query() or f"?{ALL}") if wanted.cursor else "",
        previous_url=url + wanted.query(cursor=listing.previous) if listing.previous else "",
        next_url=url + wanted.query(cursor=listing.following) if listing.following else "",
        etag=tag,
        batch_bar=batch_bar(
            accesses,
            wanted,
            of_all=of_all,
            matching=_matching(accesses, wanted, listing),
            is_one=listing.is_whole and len(listing.runs) == 1,
        ),
    )


def _labels(filters: BoardFilters) -> dict[str, str]:
    return {it.value: it.word for it in (*filters.tasks, *filters.types, *filters.spaces, *filters.credentials)}


def read_ages(accesses: Iterable[TeamAccess]) -> BoardAges:
    """One query, because every poll needs it."""
    return _shown(board_ages([it.team.pk for it in accesses]))


def _shown(ages: Ages) -> BoardAges:
    return BoardAges(Moment.of(ages.statuses_at), Moment.of(ages.searched_at), ages.versions)


def etag(accesses: Iterable[TeamAccess], wanted: BoardFilter, ages: BoardAges, *, zone: str) -> str:
    """Identifies exactly what the table shows. Contains no rendered HTML and no time, only what time alone changes:
    whether a team is late, whether there is a worker, how long it was not seen, how many keys wait, and which ages are
    known. With the versions of the moment when the ages were read: a table of an earlier version could lack a run that
    they claim. Computed before what it identifies is read, so that a change in between is shown at the next poll.
    """
    known = [(it.team, ages.versions.get(it.team.pk, it.team.board_version), it.access.role) for it in accesses]
    teams = sorted((str(team.pk), version, role, team.waiting_keys) for team, version, role in known)
    unseen = worker_message(it.team for it in accesses)
    shown = (
        is_late(accesses),
        has_worker(it.team for it in accesses),
        unseen,
        ages.statuses is None,
        ages.searched is None,
    )
    parts = (teams, wanted.query(cursor=wanted.cursor), zone, shown, _tick(wanted), __version__)
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]


def _tick(wanted: BoardFilter) -> int:
    """Time alone lets active runs match a least duration, and changes their order: look again every TICK seconds.

    Later pages keep the time of their link.
    """
    is_timed = wanted.min_duration is not None or wanted.sort == Sort.DURATION
    return int(timezone.now().timestamp()) // TICK if is_timed and wanted.cursor is None else 0


def _until_counts_change(tag: str, begins: Begins) -> str:
    """The tag with the second in which the next run leaves the last 24 hours, so that no poll has to look it up: until
    then time alone changes no count.
    """
    first = min((at for at in begins if at is not None), default=None)
    return f"{tag}-{int((first + LATELY).timestamp()) if first else 0}"


def known_etag(sent: str, tag: str) -> str:
    """The ETag that the browser sent, if it still identifies what the table shows; else empty."""
    found = re.search(rf"{tag}-(\d{{1,12}})", sent)
    is_same = found is not None and (found[1] == "0" or timezone.now().timestamp() < int(found[1]))
    return found[0] if found is not None and is_same else ""


def is_late(accesses: Iterable[TeamAccess]) -> bool:
    """Whether a team was last read longer ago than any pace explains. Without a query, because every poll calls it."""
    since = timezone.now() - LATE
    # A reading in the future comes from a clock that was set back: it does not say when the next one was.
    until = timezone.now() + LATE
    return any(it.team.as_of is not None and not since <= it.team.as_of <= until for it in accesses)


def late(accesses: Iterable[TeamAccess], keys: Iterable[Credential]) -> tuple[Message, ...]:
    """A warning if the worker was not seen, or if nothing reads Arize and no key explains why."""
    now = timezone.now()
    unexplained = {key.team_id for key in keys if health(key, now)[0] == "working"}
    if not is_late(it for it in accesses if it.team.pk in unexplained):
        unseen = worker_message(it.team for it in accesses)
        return () if unseen is None else (unseen,)
    if has_worker(it.team for it in accesses):
        return (Message("warning", "Reading from Arize takes unusually long. This page may be out of date."),)
    return (Message("error", "The panel's worker is not running, so nothing is read from Arize. This page is old."),)


def unfilled(asked: Iterable[Conditions]) -> tuple[Message, ...]:
    """After an upgrade, a search finds runs that are not filled in yet by the start of their id only."""
    if not any(it.is_unfilled for it in asked):
        return ()
    text = "After the upgrade, older runs are still being prepared for the search. Until then, it finds them by their"
    return (Message("info", f"{text} task or the start of their ID only."),)


def has_worker(teams: Iterable[Team]) -> bool:
    """Whether a worker was seen since the time after which a board is late."""
    return any(is_recent(team.worker_seen_at, team.database_now, LATE) for team in teams)


def worker_message(teams: Iterable[Team]) -> Message | None:
    """None if both were seen lately, or never: then nothing was ever read, and the page says that elsewhere.

    The text changes at most every 10 seconds, because open boards load again when it does.
    """
    for team in teams:
        if unseen := _unseen(team.worker_seen_at, team.database_now):
            text = f"The panel's worker has not been seen for {unseen}, so nothing is read from Arize."
            return Message("error", f"{text} This page may be out of date.")
        if unseen := _unseen(team.queue_seen_at, team.database_now):
            text = f"The panel's queue has not answered for {unseen}. Runs are still read from Arize and cancelled"
            return Message("warning", f"{text}, at the times that the database says. Mails may be late.")
    return None


def _unseen(seen_at: datetime | None, now: datetime) -> str:
    """How long ago, in words, or empty."""
    if seen_at is None or now - UNSEEN_AFTER <= seen_at <= now + SKEW:
        return ""
    seconds = int(abs(now - seen_at).total_seconds())
    if seconds < 60:
        return f"{seconds // 10 * 10} s"
    return f"{seconds // 60} min" if seconds < 3_600 else f"{seconds // 3_600} h"


def as_of(accesses: Iterable[TeamAccess]) -> datetime | None:
    """The oldest last reading of the working keys: nothing on the board is older, unless a warning says so."""
    return min((it.team.as_of for it in accesses if it.team.as_of is not None), default=None)


def list_runs(accesses: Sequence[TeamAccess], wanted: BoardFilter) -> Listing:
    cursor = wanted.cursor
    now = moment(cursor.at) if cursor and cursor.at else timezone.now()
    asked = tuple(conditions(it.team, wanted, now=now) for it in accesses)
    found = _find(asked, wanted, cursor, now)
    is_full = len(found.places) > PAGE
    if cursor is not None and cursor.backwards and not is_full and found.scanned_to is None:
        # The top of the list is reached: show the full first page.
        return list_runs(accesses, replace(wanted, cursor=None))
    shown = found.places[:PAGE]
    end = shown[-1] if is_full else found.scanned_to
    here = Place(cursor.rank, cursor.value, cursor.id) if cursor else None
    begin = shown[0] if shown else here
    ends = (begin if cursor else None, end)
    if cursor is not None and cursor.backwards:
        shown, ends = shown[::-1], (end, begin)
    is_timed = wanted.sort is Sort.DURATION or wanted.min_duration is not None
    at = micros(now) if is_timed else 0
    before, after = (
        place.cursor(backwards=backwards, at=at) if place else None
        for place, backwards in zip(ends, (True, False), strict=True)
    )
    return Listing(load_runs([it.id for it in shown]), asked, now, before, after, found.scanned_to is not None)


def _matching(accesses: Sequence[TeamAccess], wanted: BoardFilter, listing: Listing) -> int:
    """The number of active runs that match the filter, where bulk cancel is offered for them. Often the page shows them
    all: active runs come first.
    """
    if len(accesses) != 1 or not wanted.is_set or not offers_batches(accesses[0]):
        return 0
    active = sum(run.is_active for run in listing.runs)
    shows_ended = wanted.sort is Sort.ACTIVE and wanted.cursor is None and active < len(listing.runs)
    if shows_ended or listing.is_whole:
        return active
    return Run.objects.filter(listing.asked[0].active).count()


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
