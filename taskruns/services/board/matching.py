"""Which runs a filter lets through."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from django.db import connection
from django.db.models import Q, QuerySet

from taskruns.filters import BoardFilter
from taskruns.models import Run, Task, Team

# A search that begins so many ids is no search for one run.
MANY_IDS = 200
_LAST = "\U0010ffff"


@dataclass(frozen=True, slots=True)
class Conditions:
    """A filter, taken apart for the database.

    `walked` are runs of one index, in its order: the team's, one task's, or one status of the team. `rest` is what the
    index does not know; None: nothing. `narrow` are parts of `rest` that have an index of their own.
    """

    walked: Q
    rest: Q | None = None
    narrow: Sequence[Q] = field(default=())

    @property
    def all(self) -> Q:
        return self.walked if self.rest is None else self.walked & self.rest


def matching(team: Team, wanted: BoardFilter, *, now: datetime) -> QuerySet[Run]:
    """All runs of the team that the filter lets through, in no order."""
    return Run.objects.filter(conditions(team, wanted, now=now).all)


def conditions(team: Team, wanted: BoardFilter, *, now: datetime) -> Conditions:
    rest: list[Q] = []
    narrow = [part for part in (_tasks(team, wanted), _search(team, wanted.q), _started(team, wanted)) if part]
    if wanted.min_duration is not None:
        narrow.append(_lasted(team, wanted.min_duration, now))
    walked = Q(team=team)
    if wanted.task:
        ids = list(Task.objects.filter(team=team, arize_id=wanted.task).values_list("pk", flat=True))
        # The same id may exist at two endpoints.
        (walked, rest) = (Q(task=ids[0]), rest) if len(ids) == 1 else (walked, [*rest, Q(task__in=ids)])
    if len(wanted.statuses) == 1 and not wanted.task and not wanted.sort:
        walked &= Q(status=wanted.statuses[0])
    elif wanted.statuses:
        narrow.append(Q(team=team, status__in=wanted.statuses))
    rest += narrow
    return Conditions(walked, _all_of(rest), tuple(narrow))


def _tasks(team: Team, wanted: BoardFilter) -> Q | None:
    """What is known of the task, not of the run."""
    known = {"type": wanted.type, "credential": wanted.credential, "space_id": wanted.space}
    chosen = {name: value for name, value in known.items() if value}
    return Q(task__in=Task.objects.filter(team=team, **chosen).values("pk")) if chosen else None


def _search(team: Team, q: str) -> Q | None:
    if not q:
        return None
    named = Task.objects.filter(team=team, name__icontains=q).values("pk")
    begin = Q(team=team) & (_begins("arize_id", q) | _begins("experiment_id", q))
    ids = list(Run.objects.filter(begin).values_list("pk", flat=True)[: MANY_IDS + 1])
    if len(ids) > MANY_IDS:
        return Q(task__in=named) | begin
    return Q(task__in=named) | Q(pk__in=ids) if ids else Q(task__in=named)


def _begins(column: str, text: str) -> Q:
    """`startswith` as each database finds it in an index: SQLite's LIKE knows no case and so uses none."""
    exact = Q((f"{column}__startswith", text))
    if connection.vendor == "postgresql":
        return exact
    return exact & Q((f"{column}__gte", text), (f"{column}__lt", text + _LAST))


def _started(team: Team, wanted: BoardFilter) -> Q | None:
    ends = {"gte": wanted.started_after, "lt": wanted.started_before}
    chosen = {end: at for end, at in ends.items() if at is not None}
    if not chosen:
        return None
    # The second column says the same to an index.
    exact = {f"run_started_at__{end}": at for end, at in chosen.items()}
    return Q(team=team, **exact, **{f"sort_started_at__{end}": at for end, at in chosen.items()})


def _lasted(team: Team, seconds: int, now: datetime) -> Q:
    ended = Q(team=team, duration_us__gte=seconds * 1_000_000)
    goes_on = Q(team=team, rank=1, run_finished_at=None, run_started_at__lte=now - timedelta(seconds=seconds))
    # `0` asks for runs that have begun at all.
    return ended & Q(run_started_at__isnull=False, run_finished_at__isnull=False) | goes_on


def _all_of(parts: Iterable[Q]) -> Q | None:
    whole: Q | None = None
    for part in parts:
        whole = part if whole is None else whole & part
    return whole
