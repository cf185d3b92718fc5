"""What the board's search text matches: any text that a person has about a run.

- part of the name of a task or, from three characters, of a space;
- from three characters part of an id, of an id in clear (`TaskRun:4512:aB3d`), or of the failure reason;
- the person who triggered or cancelled the run: part of the name or e-mail address;
- an address of Arize's pages: the run, experiment, task or space that it names.

Case, accents and line breaks do not matter (`models/folded.py`, `models/run_search.py`).
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from typing import Any
from urllib.parse import unquote
from uuid import UUID

from django.db.models import Exists, IntegerField, OuterRef, Q, QuerySet, TextField, UUIDField, Value
from django.db.models.expressions import CombinedExpression

from taskruns.models import ArizeUser, Run, RunSearch, Task, Team, User
from taskruns.models.folded import contains_folded
from taskruns.models.prepared import ForAMinute, Prepared, Slot
from taskruns.models.run_search import SHORTEST, FirstHolding, holding, searchable

from .people import People, cancelled_by, started_by

# With at most this many matches, the runs are found first and then sorted. With more, the runs are read in the board's
# order and checked one by one: of a million runs, the nearest 20,000 then hold about a page of matches.
FEW_RUNS = 2_000
MANY_TASKS = 500
# The runs of up to this many tasks are read task by task, each in the order of its index.
FEW_TASKS = 20
_SEPARATORS = re.compile(r"[/?&#=]")
_MOST_SEGMENTS = 40
_TASK, _RUN, _IN_ARIZE, _IN_PANEL, _UNFILLED, _RUNS = range(6)


@dataclass(frozen=True, slots=True)
class Search:
    """`where`: checks a run. `ways`: the same runs in parts that each have an index. `tasks`: only the runs of
    these few tasks. `is_few`: at most FEW_RUNS, by their texts alone. `is_many`: more than that hold the text.
    `is_unfilled`: since an upgrade, the texts of some runs are still to be filled in.
    """

    where: Q
    ways: Sequence[Q] = ()
    tasks: Sequence[UUID] = ()
    is_few: bool = False
    is_many: bool = False
    is_unfilled: bool = False
    number: int | None = None  # how many, if known


NOTHING = Search(Q(pk__in=[]), is_few=True)


def search(team: Team, q: str) -> Search:
    """The runs of the team that the text matches."""
    if "://" in q and (named := _of_address(team, q)):
        return named
    term = searchable(q)  # empty if `q` has only accents; an empty text would match every task
    if not term:
        return NOTHING
    is_long = len(term) >= SHORTEST
    found = _look(team, term) if is_long else _Found(tasks=_ids(_tasks_named(team, term)[: MANY_TASKS + 1]))
    return replace(_of_term(team, term, found), is_unfilled=found.is_unfilled)


def _of_term(team: Team, term: str, found: "_Found") -> Search:
    of_tasks = [_of_tasks(team, term, found.tasks)] if found.tasks else []
    if of_tasks and not found.is_any_run:
        return Search(of_tasks[0], of_tasks, found.tasks if len(found.tasks) <= FEW_TASKS else ())
    ways = [*_by_text(team, term, found), *_by_people(team, found), *of_tasks]
    if not ways:
        return NOTHING
    if found.kinds == {_RUN} and not found.is_many:
        return Search(ways[0], ways, is_few=True, number=len(found.runs))
    checked = [*_checked(team, term, found), *_by_people(team, found), *of_tasks]
    return Search(_any_of(checked), ways, is_many=found.is_many)


@dataclass(frozen=True, slots=True)
class _Found:
    """What exists: ids of tasks, of runs unless there are more than FEW_RUNS (`is_many`), of users of Arize and of
    people of the panel; `kinds`: of what there is any.
    """

    tasks: Sequence[UUID] = ()
    runs: Sequence[UUID] = ()
    is_many: bool = False
    in_arize: Sequence[UUID] = ()
    in_panel: Sequence[UUID] = ()
    kinds: frozenset[int] = frozenset()

    is_unfilled: bool = False

    @property
    def is_any_run(self) -> bool:
        return not self.kinds <= {_TASK}


def _look(team: Team, term: str) -> _Found:
    """One query, and one more for the ids of few runs."""
    by_kind: dict[int, list[UUID]] = {}
    known = _numbers_of_many.get((team.pk, term))
    most_runs = None if known else FEW_RUNS + 1
    for pk, kind in _existing(most_runs, MANY_TASKS + 1).rows(team=team.pk, term=term):
        by_kind.setdefault(kind, []).append(pk)
    number = known or max(by_kind) - _RUNS
    if number > FEW_RUNS:
        _numbers_of_many.keep((team.pk, term), number)
    kinds = frozenset(kind for kind in by_kind if kind < _RUNS) | ({_RUN} if number else set())
    is_few = 0 < number <= FEW_RUNS
    runs = _first_runs(FEW_RUNS + 1).rows(team=team.pk, term=term) if is_few else []
    tasks, in_arize, in_panel = (by_kind.get(kind, []) for kind in (_TASK, _IN_ARIZE, _IN_PANEL))
    return _Found(tasks, runs, number > FEW_RUNS, in_arize, in_panel, kinds, _UNFILLED in kinds)


# Of the texts that more than FEW_RUNS hold: counting them is most of the work, and they stay many.
_numbers_of_many: ForAMinute[int] = ForAMinute(most=1_000)


@cache
def _existing(most_runs: int | None, most_tasks: int) -> Prepared[tuple[UUID, int]]:
    """What there is of each kind. Of runs only how many, on top of _RUNS: of many, no id is needed. None: no runs.

    The limits are in subqueries because SQLite allows none in the parts of a union.
    """
    team, term = Slot("team", UUIDField()), Slot("term", TextField())
    people = contains_folded("name", term) | contains_folded("email", term)
    tasks = Task.objects.filter(Q(search_name__contains=term) | Q(search_space__contains=term), team=team)
    parts: list[tuple[QuerySet[Any], Any]] = [
        (Task.objects.filter(pk__in=tasks.values("pk")[:most_tasks]), Value(_TASK)),
        (Run.objects.filter(pk__in=one_unfilled()), Value(_UNFILLED)),
        (ArizeUser.objects.filter(people, team=team), Value(_IN_ARIZE)),
        (User.objects.filter(people), Value(_IN_PANEL)),
    ]
    if most_runs is not None:
        number = CombinedExpression(
            Value(_RUNS), "+", FirstHolding(most_runs, is_number=True), output_field=IntegerField()
        )
        parts.append((Team.objects.filter(pk=team), number))
    first, *others = (rows.order_by().values_list("pk", kind) for rows, kind in parts)
    return Prepared(first.union(*others, all=True))


@cache
def _first_runs(most: int) -> Prepared[UUID]:
    return Prepared(Run.objects.filter(pk__in=FirstHolding(most)).values_list("pk", flat=True))


def has_unfilled() -> bool:
    """Whether `one_unfilled` finds a run."""
    return bool(_one_unfilled().rows())


@cache
def _one_unfilled() -> Prepared[UUID]:
    return Prepared(one_unfilled().values_list("pk", flat=True))


def one_unfilled() -> QuerySet[Run, Any]:
    """The id of a run, of any team, whose columns an upgrade has still to fill in. Its index is empty otherwise; SQLite
    uses it only for this order.
    """
    return Run.objects.filter(is_filled_in=None).order_by("-sorted_at").values("pk")[:1]


def _tasks_named(team: Team, term: str) -> QuerySet[Task]:
    named = Q(search_name__contains=term)
    if len(term) >= SHORTEST:
        named |= Q(search_space__contains=term)
    return Task.objects.filter(named, team=team)


def _of_tasks(team: Team, term: str, tasks: Sequence[UUID]) -> Q:
    many = len(tasks) > MANY_TASKS
    # Without the team, which the index of the task does not have: they are its tasks.
    return Q(task__in=_tasks_named(team, term).values("pk") if many else list(tasks))


def _by_text(team: Team, term: str, found: _Found) -> Iterator[Q]:
    if found.is_many:
        yield _of_all_holding(team.pk, term)
    elif found.runs:
        yield Q(pk__in=list(found.runs))
    if _UNFILLED in found.kinds:
        yield _begins_unfilled(team, term)


def _checked(team: Team, term: str, found: _Found) -> Iterator[Q]:
    """As `_by_text`, for runs that are read one by one anyway."""
    if found.is_many:
        yield _holds(term)
    elif found.runs:
        yield Q(pk__in=list(found.runs))
    if _UNFILLED in found.kinds:
        yield _begins_unfilled(team, term)


# The same object for the same term, because objects are compared: what is compiled for them is kept.
@lru_cache(maxsize=256)
def _of_all_holding(team: UUID, term: str) -> Q:
    return Q(pk__in=RunSearch.objects.filter(holding(team, term)).values("run"))


@lru_cache(maxsize=256)
def _holds(term: str) -> Q:
    return Q(Exists(RunSearch.objects.filter(run=OuterRef("pk"), text__contains=term)))


def _by_people(team: Team, found: _Found) -> Iterator[Q]:
    people = People(users=tuple(found.in_panel))
    if found.in_arize:
        ids = ArizeUser.objects.filter(pk__in=list(found.in_arize)).values("arize_id")
        yield Q(team=team, created_by_user_id__in=ids)
    if found.in_panel:
        yield from (cancelled_by(team, people), *started_by(team, people))


def _begins_unfilled(team: Team, term: str) -> Q:
    """Runs whose texts are not filled in yet after an upgrade, by the start of their id, without case."""
    begins = Q(arize_id__istartswith=term) | Q(experiment_id__istartswith=term)
    return Q(begins, is_filled_in=None, team=team)


def _of_address(team: Team, address: str) -> Search | None:
    """The most particular thing that the address names. Ids may stand there without their padding, or percent-encoded
    twice.
    """
    ids = _ids_in(address)
    found = list(
        Run.objects.filter(Q(arize_id__in=ids) | Q(experiment_id__in=ids), team=team).values_list("pk", flat=True)[
            : FEW_RUNS + 1
        ]
    )
    if found:
        where = Q(Q(arize_id__in=ids) | Q(experiment_id__in=ids), team=team)
        return Search(where, [where], is_few=len(found) <= FEW_RUNS)
    for column in ("arize_id", "space_id"):
        tasks = _ids(Task.objects.filter(Q((f"{column}__in", ids)), team=team)[: MANY_TASKS + 1])
        if tasks:
            where = Q(team=team, task__in=Task.objects.filter(Q((f"{column}__in", ids)), team=team).values("pk"))
            return Search(where, [where], tasks if len(tasks) <= FEW_TASKS else ())
    return None


def _ids_in(address: str) -> list[str]:
    """Each segment of the path, the query and the fragment, as the ids that it may be."""
    segments = _SEPARATORS.split(unquote(unquote(address)).partition("://")[2])[1 : _MOST_SEGMENTS + 1]
    bare = dict.fromkeys(segment for segment in segments if len(segment) >= SHORTEST)
    return [f"{segment}{padding}" for segment in bare for padding in ("", "=", "==")]


def _ids(tasks: QuerySet[Task]) -> list[UUID]:
    return list(tasks.values_list("pk", flat=True))


def _any_of(parts: Iterable[Q]) -> Q:
    whole = Q()
    for part in parts:
        whole |= part
    return whole
