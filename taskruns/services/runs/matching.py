"""Which runs match a board filter."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import reduce
from operator import and_
from typing import Any
from uuid import UUID

from django.db.models import ExpressionWrapper, F, FloatField, Q, QuerySet, Value
from django.db.models.functions import Cast, Coalesce
from django.db.models.lookups import GreaterThanOrEqual

from taskruns.forms import BoardFilter, Flag
from taskruns.models import Run, Task, Team

from . import people
from .retention import ENDED
from .search import FEW_RUNS, Search, has_unfilled, search

_UNFILLED = Q(is_filled_in=None)


@dataclass(frozen=True, slots=True)
class Narrow:
    """A filter as alternatives that each have an index."""

    ways: tuple[Q, ...]


@dataclass(frozen=True, slots=True)
class Conditions:
    """A filter, split for the database.

    `indexed`: runs that one index yields in order: the team's, one task's, one status or flag of the team, or a few
    runs by id. `apart`: the same runs in several parts, each in the order of an index. `rest`: the condition that the
    index cannot check, or None. `narrow`: parts of `rest` that have indexes of their own.
    `is_sparse`: too few rows match for scanning only the nearest rows to fill a page. `unscanned`: the same as `rest`
    by other means, for finding all runs instead of checking those of a scan. `is_single`: `rest` is one
    filter of all the team's runs.
    `is_unfilled`: see `Search`.
    """

    indexed: Q
    apart: tuple[Q, ...] = ()
    rest: Q | None = None
    narrow: tuple[Narrow, ...] = ()
    is_sparse: bool = False
    unscanned: Q | None = None
    is_single: bool = False
    is_unfilled: bool = False
    number: int | None = None  # how many runs match in all, if known

    @property
    def ways(self) -> tuple[Q, ...]:
        """What finds the runs of a single filter; none if no index does."""
        return self.narrow[0].ways if self.is_single and self.narrow else ()

    @property
    def active(self) -> Q:
        """The active runs that match: they are few, so each is checked."""
        active = self.indexed & Q(rank=1)
        return active if self.rest is None else active & self.rest

    @property
    def all(self) -> Q:
        return self.indexed if self.unscanned is None else self.indexed & self.unscanned

    @property
    def parts(self) -> tuple["Conditions", ...]:
        """The parts that each have an index of their own, or itself if it is not split."""
        return tuple(Conditions(part) for part in self.apart) or (self,)


@dataclass(frozen=True, slots=True)
class _Part:
    """One filter: what checks a run, and what finds its runs if indexes can. `where` has no condition that is only for
    an index: the planner might prefer that one to the board's.
    """

    where: Q
    ways: Sequence[Q] = ()
    narrow: Narrow | None = None
    is_few: bool = False  # `where` names them by their ids
    number: int | None = None
    apart: Sequence[Q] = ()  # the same runs in parts without overlap, each in the order of an index

    @property
    def all(self) -> Q:
        return _any_of(self.ways) if self.ways else self.where

    @classmethod
    def of(cls, where: Q, *ways: Q) -> "_Part":
        return cls(where, ways, Narrow(ways))

    @classmethod
    def searched(cls, found: Search) -> "_Part":
        is_useless = found.is_many or not found.ways
        narrow = None if is_useless else Narrow(tuple(found.ways))
        apart = tuple(Q(task=task) for task in found.tasks)
        return cls(found.where, found.ways, narrow, is_few=found.is_few, number=found.number, apart=apart)

    @classmethod
    def of_few(cls, ids: Sequence[UUID]) -> "_Part":
        where = Q(pk__in=ids)
        return cls(where, [where], Narrow((where,)), is_few=True, number=len(ids))


def matching(team: Team, wanted: BoardFilter, *, now: datetime) -> QuerySet[Run]:
    """All runs of the team that match the filter, in no order."""
    return Run.objects.filter(conditions(team, wanted, now=now).all)


def matching_active(team: Team, wanted: BoardFilter, *, now: datetime) -> QuerySet[Run]:
    return Run.objects.filter(conditions(team, wanted, now=now).active)


def conditions(team: Team, wanted: BoardFilter, *, now: datetime) -> Conditions:
    found = search(team, wanted.q) if wanted.q else None
    asked = _split(team, wanted, found, now)
    return replace(asked, is_unfilled=True) if found and found.is_unfilled else asked


def _split(team: Team, wanted: BoardFilter, found: Search | None, now: datetime) -> Conditions:
    parts = [part for part in _parts(team, wanted, now) if part is not None]
    parts += [_Part.searched(found)] if found else []
    is_free = not (wanted.task or wanted.statuses or wanted.flags)
    if is_free and not wanted.sort and len(parts) == 1 and parts[0].apart:
        return Conditions(parts[0].where, tuple(parts[0].apart))
    if not wanted.task and any(part.is_few for part in parts):
        number = parts[0].number if len(parts) == 1 and is_free else None
        return Conditions(_of_few(parts, wanted), number=number)
    indexed, others = _indexed(team, wanted)
    parts = [*others, *parts]
    is_sparse = found is not None and found.is_many
    return Conditions(
        indexed,
        (),
        _all_of(part.where for part in parts),
        tuple(part.narrow for part in parts if part.narrow),
        is_sparse,
        _all_of(part.all for part in parts),
        len(parts) == 1 and indexed == Q(team=team),
    )


def _of_few(parts: Iterable[_Part], wanted: BoardFilter) -> Q:
    """Checks a few runs that are known by their ids. Without the team, which they have anyway: the planner might choose
    an index that starts with it.
    """
    each = [part.where for part in sorted(parts, key=lambda part: not part.is_few)]
    each += [Q(status__in=wanted.statuses)] if wanted.statuses else []
    each += [_any_of(map(_flagged, wanted.flags))] if wanted.flags else []
    return reduce(and_, each)


def _indexed(team: Team, wanted: BoardFilter) -> tuple[Q, list[_Part]]:
    """The runs of one index in the order of the board, and the rest of the filters on task, status and flags."""
    indexed, rest = Q(team=team), []
    is_free = not wanted.task and not wanted.sort
    if wanted.task:
        ids = list(Task.objects.filter(team=team, arize_id=wanted.task).values_list("pk", flat=True))
        # The same id may exist at two endpoints.
        indexed = Q(task=ids[0]) if len(ids) == 1 else indexed
        rest += [] if len(ids) == 1 else [_Part(Q(task__in=ids))]
    if len(wanted.flags) == 1 and is_free:
        indexed, is_free = indexed & _flagged(wanted.flags[0]), False
    elif wanted.flags:
        each = [_flagged(flag) for flag in wanted.flags]
        # The ranks are redundant, but lead SQLite to the index of the flag.
        rest.append(_Part.of(_any_of(each), *(Q(team=team, rank__in=(0, 1)) & flagged for flagged in each)))
    if len(wanted.statuses) == 1 and is_free:
        indexed &= Q(status=wanted.statuses[0])
    elif wanted.statuses:
        rest.append(_Part.of(Q(status__in=wanted.statuses), Q(team=team, status__in=wanted.statuses)))
    return indexed, rest


def _flagged(flag: Flag) -> Q:
    if flag is Flag.ATTENTION:
        return Q(attention__gt=0)
    return Q((flag.value, True), rank=1) if flag in {Flag.PENDING_LONG, Flag.CANCEL_OPEN} else Q((flag.value, True))


def _parts(team: Team, wanted: BoardFilter, now: datetime) -> Iterable[_Part | None]:
    """The filters that no index of the board's order serves."""
    yield _tasks(team, wanted)
    yield _other_tasks(team, wanted)
    yield _created(team, wanted)
    yield _started(team, wanted)
    yield _ended(team, wanted)
    yield _lasted(team, wanted, now)
    yield _erred(team, wanted)
    yield from _people(team, wanted)


def _tasks(team: Team, wanted: BoardFilter) -> _Part | None:
    """The filters on columns of the task."""
    known = {"type": wanted.type, "credential": wanted.credential, "space_id": wanted.space}
    chosen = {name: value for name, value in known.items() if value}
    if not chosen:
        return None
    of_tasks = Q(task__in=Task.objects.filter(team=team, **chosen).values("pk"))
    return _Part.of(of_tasks, of_tasks)


def _other_tasks(team: Team, wanted: BoardFilter) -> _Part | None:
    """Nearly all runs pass this, so it needs no index."""
    if not wanted.not_tasks:
        return None
    excluded = Task.objects.filter(team=team, arize_id__in=wanted.not_tasks).values_list("pk", flat=True)
    return _Part(~Q(task__in=list(excluded)))


def _created(team: Team, wanted: BoardFilter) -> _Part | None:
    ends = _range(wanted.created_after, wanted.created_before)
    created = _within("sorted_at", ends)
    return _Part.of(created, Q(team=team) & created) if ends else None


def _started(team: Team, wanted: BoardFilter) -> _Part | None:
    ends = _range(wanted.started_after, wanted.started_before)
    if not ends:
        return None
    exact = _within("run_started_at", ends)
    # The condition on `sort_started_at` is redundant, but has an index.
    return _Part.of(exact, Q(team=team) & exact & _within("sort_started_at", ends))


def _ended(team: Team, wanted: BoardFilter) -> _Part | None:
    ends = _range(wanted.ended_after, wanted.ended_before)
    if not ends:
        return None
    filled_in = _within("ended_at", ends)
    # The statuses are redundant, but the index begins with them.
    indexed = Q(team=team, status__in=ENDED) & filled_in
    if not has_unfilled():
        return _Part.of(filled_in, indexed)
    unfilled = _UNFILLED & Q(status__in=ENDED, ended_at=None) & _within("run_finished_at", ends)
    return _Part.of(filled_in | unfilled, indexed, Q(team=team) & unfilled)


def _range(after: datetime | None, before: datetime | None) -> dict[str, datetime]:
    return {end: at for end, at in (("gte", after), ("lt", before)) if at is not None}


def _within(column: str, ends: dict[str, datetime]) -> Q:
    return Q(**{f"{column}__{end}": at for end, at in ends.items()})


def _lasted(team: Team, wanted: BoardFilter, now: datetime) -> _Part | None:
    if wanted.min_duration is None:
        return None
    seconds = wanted.min_duration
    # 0 seconds matches every run that has started.
    ended = Q(duration_us__gte=seconds * 1_000_000, run_started_at__isnull=False, run_finished_at__isnull=False)
    active = Q(rank=1, run_finished_at=None, run_started_at__lte=now - timedelta(seconds=seconds))
    return _Part.of(ended | active, Q(team=team) & ended, Q(team=team) & active)


def _erred(team: Team, wanted: BoardFilter) -> _Part | None:
    """0 percent matches every run that has succeeded or errored items."""
    if wanted.min_error_share is None:
        return None
    least = wanted.min_error_share
    where, ways = Q(error_share__gte=least), [Q(team=team, error_share__gt=0, error_share__gte=least)]
    if has_unfilled():
        unfilled = Q(_UNFILLED, _has_share(least), error_share=None)
        where, ways = where | unfilled, [*ways, Q(team=team) & unfilled]
    # The index holds no run without errors.
    return _Part.of(where, *ways) if least else _Part(where)


def _has_share(least: int) -> Q:
    """Computed, for runs whose share is not stored yet. In floats, because a hundred times a count may not fit."""
    errors, items = (_float(F("num_errors")), _float(F("num_errors")) + _float(F("num_successes")))
    share: Any = GreaterThanOrEqual(errors * Value(100.0), ExpressionWrapper(items * Value(float(least)), FloatField()))
    return Q(Q(num_errors__gt=0) | Q(num_successes__gt=0), share)


def _float(count: F) -> Any:
    return Coalesce(Cast(count, FloatField()), Value(0.0))


def _people(team: Team, wanted: BoardFilter) -> Iterable[_Part]:
    if wanted.started_by:
        them = people.named(team, wanted.started_by)
        ways = tuple(people.started_by(team, them))
        yield replace(_Part.of(_any_of(ways), *ways), apart=people.started_by_each(team, them))
    if wanted.cancelled_by:
        yield _cancelled_by(team, people.named_in_panel(team, wanted.cancelled_by))


def _cancelled_by(team: Team, them: people.People) -> _Part:
    ids = people.first_cancelled_by(team, them, most=FEW_RUNS + 1)
    if len(ids) <= FEW_RUNS:
        return _Part.of_few(ids)
    theirs = people.cancelled_by(team, them)
    return _Part.of(theirs, theirs)


def _any_of(parts: Iterable[Q]) -> Q:
    whole = Q()
    for part in parts:
        whole |= part
    return whole


def _all_of(parts: Iterable[Q]) -> Q | None:
    whole: Q | None = None
    for part in parts:
        whole = part if whole is None else whole & part
    return whole
