"""What the board shows, read from the mirror alone: a page costs the same with Arize slow or down.

Order and paging: active runs first, then newest, then id. A page after a cursor is at most two queries, one in the
active part and one in the rest, because each of them walks one index in its order.
"""

import hashlib
import uuid
from collections.abc import Iterable
from datetime import datetime

from django.db.models import Q, QuerySet
from django.urls import reverse
from django.utils import timezone

from taskruns import __version__
from taskruns.display.credentials import health
from taskruns.display.runs import (
    Board,
    BoardFilters,
    EmptyBoard,
    RunRow,
    StatusChoice,
    run_row,
)
from taskruns.display.words import Link, Message, Moment
from taskruns.filters import BoardFilter, Cursor
from taskruns.models import Cancellation, Credential, Outcome, Run, Status, Task, Team
from taskruns.permissions import Access, Action

PAGE = 50


def board(team: Team, wanted: BoardFilter, *, access: Access, zone: str) -> Board:
    """One page of the team's board, for somebody with this access."""
    may_cancel = access.may(Action.RUNS_CANCEL)
    runs = _page(_matching(team, wanted), wanted.cursor)
    rows = run_rows(runs[:PAGE], may_cancel=may_cancel, slug=team.slug)
    keys = list(Credential.objects.live().filter(team=team).order_by("name"))
    url = reverse("board", args=[team.slug])
    table_url = reverse("board-table", args=[team.slug])
    last = runs[PAGE - 1] if len(runs) > PAGE else None
    return Board(
        team=team.name,
        slug=team.slug,
        url=url,
        table_url=table_url + wanted.query(cursor=wanted.cursor),
        rows=rows,
        active=Run.objects.filter(team=team, rank=1).count(),
        filters=_filters(team, wanted),
        empty=None if rows else _why_empty(team, wanted, keys, access),
        warnings=warnings_of(keys),
        as_of=Moment.of(as_of(keys)),
        first_url=url + wanted.query() if wanted.cursor else "",
        next_url=url + wanted.query(cursor=Cursor(last.rank, last.sorted_at, last.pk)) if last else "",
        etag=etag(team, wanted, access=access, zone=zone),
    )


def etag(team: Team, wanted: BoardFilter, *, access: Access, zone: str) -> str:
    """Names exactly what the table shows: no clocks, no rendered HTML."""
    parts = (str(team.pk), team.board_version, wanted.query(cursor=wanted.cursor), access.role, zone, __version__)
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]


def as_of(keys: Iterable[Credential]) -> datetime | None:
    """When the oldest of the working keys last read: nothing on the board is older, unless a warning says so."""
    times = [key.last_good_at for key in keys if key.last_good_at and not key.failing_since]
    return min(times, default=None)


def team_as_of(team: Team) -> Moment | None:
    return Moment.of(as_of(Credential.objects.live().filter(team=team)))


def run_rows(runs: list[Run], *, may_cancel: bool, slug: str) -> tuple[RunRow, ...]:
    latest = latest_cancellations(run.pk for run in runs)
    return tuple(run_row(run, last=latest.get(run.pk), may_cancel=may_cancel, slug=slug) for run in runs)


def row_of(run_id: uuid.UUID, *, access: Access, slug: str) -> RunRow:
    """One fresh row, as after a cancel."""
    run = Run.objects.select_related("task__credential").get(pk=run_id)
    return run_rows([run], may_cancel=access.may(Action.RUNS_CANCEL), slug=slug)[0]


def warnings_of(keys: Iterable[Credential]) -> tuple[Message, ...]:
    """Why something may be old."""
    now = timezone.now()
    states = [(key, *health(key, now)) for key in keys]
    return tuple(
        Message("error" if state == "failing" else "warning", f"Key “{key.name}”: {text}")
        for key, state, text in states
        if state in {"failing", "waiting"}
    )


def _matching(team: Team, wanted: BoardFilter) -> QuerySet[Run]:
    runs = Run.objects.filter(team=team).select_related("task__credential")
    if wanted.statuses:
        runs = runs.filter(status__in=wanted.statuses)
    if wanted.task:
        runs = runs.filter(task__in=Task.objects.filter(team=team, arize_id=wanted.task).values("pk"))
    if wanted.q:
        named = Task.objects.filter(team=team, name__icontains=wanted.q).values("pk")
        begins = Q(arize_id__startswith=wanted.q) | Q(experiment_id__startswith=wanted.q)
        runs = runs.filter(Q(task__in=named) | begins)
    return runs


def _page(runs: QuerySet[Run], cursor: Cursor | None) -> list[Run]:
    """One row more than a page, to know whether there is a next one."""
    ordered = runs.order_by("-rank", "-sorted_at", "-pk")
    found: list[Run] = []
    if cursor is None or cursor.rank == 1:
        found = list(_after(ordered.filter(rank=1), cursor)[: PAGE + 1])
        cursor = None
    if len(found) <= PAGE:
        found += _after(ordered.filter(rank=0), cursor)[: PAGE + 1 - len(found)]
    return found


def _after(runs: QuerySet[Run], cursor: Cursor | None) -> QuerySet[Run]:
    if cursor is None:
        return runs
    older = Q(sorted_at__lt=cursor.sorted_at) | Q(sorted_at=cursor.sorted_at, pk__lt=cursor.id)
    return runs.filter(older, sorted_at__lte=cursor.sorted_at)


def latest_cancellations(run_ids: Iterable[uuid.UUID]) -> dict[uuid.UUID, Cancellation]:
    """The one that Arize confirmed, if any, else the latest: a second press that came too late did not end the run."""
    rows = Cancellation.objects.filter(run__in=list(run_ids)).order_by("requested_at")
    in_order = sorted(rows, key=lambda row: row.outcome == Outcome.CONFIRMED)
    return {row.run_id: row for row in in_order}


def _filters(team: Team, wanted: BoardFilter) -> BoardFilters:
    tasks = Task.objects.filter(team=team).order_by("name").values_list("arize_id", "name")[:1000]
    return BoardFilters(
        statuses=tuple(
            StatusChoice(status.value, status.value.upper(), status in wanted.statuses) for status in Status
        ),
        tasks=tuple((arize_id, name or arize_id, arize_id == wanted.task) for arize_id, name in tasks),
        q=wanted.q,
        is_set=wanted.is_set,
    )


def _why_empty(team: Team, wanted: BoardFilter, keys: list[Credential], access: Access) -> EmptyBoard:
    """The four empty boards: no key yet, filter hides all, key failing, no runs."""
    may_manage = access.may(Action.CREDENTIALS_MANAGE)
    if not keys:
        step = Link("Add a key", reverse("credential-new", args=[team.slug])) if may_manage else None
        text = "The board fills by itself once the team has an Arize API key."
        if not may_manage:
            text += " A manager of the team can add one."
        return EmptyBoard("no_key", "No key yet", text, step)
    if wanted.is_set or wanted.cursor:
        step = Link("Show all runs", reverse("board", args=[team.slug]))
        return EmptyBoard("filtered", "No run matches", "The filters hide every run of this team.", step)
    if all(key.failing_since for key in keys):
        step = Link("Look at the keys", reverse("credentials", args=[team.slug])) if may_manage else None
        return EmptyBoard("key_failing", "Arize rejects the key", "No runs can be read until a key works again.", step)
    if not any(key.last_good_at for key in keys):
        text = "The key is new: the first runs appear here as soon as Arize answers."
        return EmptyBoard("no_runs", "Reading for the first time", text)
    return EmptyBoard("no_runs", "No runs", "Arize lists no runs for the keys of this team.")
