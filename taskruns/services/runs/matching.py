"""Which runs match a board filter."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from uuid import UUID

from django.db import connection
from django.db.models import Q, QuerySet, Value

from taskruns.forms import BoardFilter
from taskruns.models import Run, Task, Team
from taskruns.models.folded import fold

# With more matches than this, a search does not name single runs, or single tasks.
MANY_IDS = 2_000
MANY_TASKS = 500
# The runs of up to this many tasks are read task by task, each in the order of its index.
FEW_TASKS = 20
_LAST = "\U0010ffff"


@dataclass(frozen=True, slots=True)
class Conditions:
    """A filter, split for the database.

    `indexed`: runs that one index yields in order: the team's, one task's, one status of the team, or a few runs by
    id. `apart`: the same runs in several parts, each in the order of an index. `rest`: the condition that the index
    cannot check, or None. `narrow`: parts of `rest` that have an index of their own.
    """

    indexed: Q
    apart: Sequence[Q] = field(default=())
    rest: Q | None = None
    narrow: Sequence[Q] = field(default=())
    is_sparse: bool = False  # few rows match, so scanning only the nearest rows would not fill a page

    @property
    def all(self) -> Q:
        return self.indexed if self.rest is None else self.indexed & self.rest

    @property
    def parts(self) -> tuple["Conditions", ...]:
        """The parts that each have an index of their own, or itself if it is not split."""
        return tuple(Conditions(part) for part in self.apart) or (self,)


def matching(team: Team, wanted: BoardFilter, *, now: datetime) -> QuerySet[Run]:
    """All runs of the team that match the filter, in no order."""
    return Run.objects.filter(conditions(team, wanted, now=now).all)


def conditions(team: Team, wanted: BoardFilter, *, now: datetime) -> Conditions:
    rest: list[Q] = []
    search = _search(team, wanted.q) if wanted.q else None
    narrow = [part for part in (_tasks(team, wanted), _started(team, wanted)) if part]
    if wanted.min_duration is not None:
        narrow.append(_lasted(team, wanted.min_duration, now))
    if search and search.is_few and not narrow and not wanted.task:
        # Without the team: the ids are already the team's, and the planner might choose an index that starts with team.
        return Conditions(search.where & Q(status__in=wanted.statuses) if wanted.statuses else search.where)
    if search and search.tasks and not (narrow or wanted.task or wanted.statuses or wanted.sort):
        return Conditions(search.where, tuple(Q(task=task) for task in search.tasks))
    narrow += [search.where] if search else []
    indexed = Q(team=team)
    if wanted.task:
        ids = list(Task.objects.filter(team=team, arize_id=wanted.task).values_list("pk", flat=True))
        # The same id may exist at two endpoints.
        (indexed, rest) = (Q(task=ids[0]), rest) if len(ids) == 1 else (indexed, [*rest, Q(task__in=ids)])
    if len(wanted.statuses) == 1 and not wanted.task and not wanted.sort:
        indexed &= Q(status=wanted.statuses[0])
    elif wanted.statuses:
        narrow.append(Q(team=team, status__in=wanted.statuses))
    rest += narrow
    is_sparse = search is not None and search.is_sparse
    return Conditions(indexed, (), _all_of(rest), () if is_sparse else tuple(narrow), is_sparse)


def _tasks(team: Team, wanted: BoardFilter) -> Q | None:
    """The filters on columns of the task."""
    known = {"type": wanted.type, "credential": wanted.credential, "space_id": wanted.space}
    chosen = {name: value for name, value in known.items() if value}
    return Q(task__in=Task.objects.filter(team=team, **chosen).values("pk")) if chosen else None


@dataclass(frozen=True, slots=True)
class Search:
    """What a search text matches. `tasks`: only the runs of these few tasks. `is_few`: only a few runs, listed by id.
    `is_sparse`: only runs whose ids start with the text, and there are many.
    """

    where: Q
    tasks: Sequence[UUID] = ()
    is_few: bool = False
    is_sparse: bool = False


def _search(team: Team, q: str) -> Search:
    """Runs of tasks with `q` in their name, and runs whose ids start with it. One query finds out which exist."""
    folded = fold(q)  # empty if `q` has only accents; an empty text would match every task
    named = Task.objects.filter(team=team, search_name__contains=folded) if folded else Task.objects.none()
    begin = Q(team=team) & (_begins("arize_id", q) | _begins("experiment_id", q))
    tasks, runs, is_many = _look(named, begin)
    if not tasks:
        # The limit makes the database find the few ids first, then their rows.
        of_runs = begin if is_many else Q(pk__in=Run.objects.filter(begin).values("pk")[:MANY_IDS])
        return Search(of_runs if runs else Q(pk__in=[]), is_few=not is_many, is_sparse=is_many)
    of_tasks = Q(task__in=named.values("pk")) if len(tasks) > MANY_TASKS else Q(task__in=tasks)
    if runs:
        return Search(of_tasks | begin)
    return Search(of_tasks, tasks if len(tasks) <= FEW_TASKS else ())


def _look(named: QuerySet[Task], begin: Q) -> tuple[list[UUID], bool, bool]:
    """The ids of matching tasks, at most MANY_TASKS + 1; whether any run matches; whether more than MANY_IDS do."""
    begun = Run.objects.filter(begin).values("pk")
    # The limits are in subqueries because SQLite allows none in the parts of a union.
    tasks = Task.objects.filter(pk__in=named.values("pk")[: MANY_TASKS + 1]).values_list("pk", Value(0))
    first = Run.objects.filter(pk__in=begun[:1]).values_list("pk", Value(1))
    beyond = Run.objects.filter(pk__in=begun[MANY_IDS : MANY_IDS + 1]).values_list("pk", Value(2))
    found = list(tasks.union(first, beyond, all=True))
    kinds = {kind for _, kind in found}
    return [pk for pk, kind in found if kind == 0], 1 in kinds, 2 in kinds


def _begins(column: str, text: str) -> Q:
    """`startswith` in a form that can use an index. SQLite's LIKE ignores case, so it needs a range as well."""
    exact = Q((f"{column}__startswith", text))
    if connection.vendor == "postgresql":
        return exact
    return exact & Q((f"{column}__gte", text), (f"{column}__lt", text + _LAST))


def _started(team: Team, wanted: BoardFilter) -> Q | None:
    ends = {"gte": wanted.started_after, "lt": wanted.started_before}
    chosen = {end: at for end, at in ends.items() if at is not None}
    if not chosen:
        return None
    # The condition on `sort_started_at` is redundant, but has an index.
    exact = {f"run_started_at__{end}": at for end, at in chosen.items()}
    return Q(team=team, **exact, **{f"sort_started_at__{end}": at for end, at in chosen.items()})


def _lasted(team: Team, seconds: int, now: datetime) -> Q:
    ended = Q(team=team, duration_us__gte=seconds * 1_000_000)
    active = Q(team=team, rank=1, run_finished_at=None, run_started_at__lte=now - timedelta(seconds=seconds))
    # 0 seconds matches every run that has started.
    return ended & Q(run_started_at__isnull=False, run_finished_at__isnull=False) | active


def _all_of(parts: Iterable[Q]) -> Q | None:
    whole: Q | None = None
    for part in parts:
        whole = part if whole is None else whole & part
    return whole
