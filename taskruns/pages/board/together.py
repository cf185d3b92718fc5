"""One page over several teams, or over a few tasks, in two or three questions, however many there are."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

from django.db.models import QuerySet

from taskruns.forms import BoardFilter, Cursor, Sort
from taskruns.models import Run
from taskruns.services.runs.matching import Conditions

from .keyset import Found, Place, Stream, in_order, loaded, micros, streams

MOST = 200  # parts of one union; SQLite takes no more than 500


def may_find_together(asked: Sequence[Conditions]) -> bool:
    """Whether each one's rows stand in an index: a filter that is walked needs further questions for each."""
    return 1 < len(asked) <= MOST and all(each.rest is None for each in asked)


def find_together(
    asked: Sequence[Conditions], wanted: BoardFilter, cursor: Cursor | None, *, limit: int, now: datetime
) -> Found:
    """The next `limit` rows of all of them after the cursor, or before it, then nearest first."""
    descending = wanted.descending != (cursor is not None and cursor.backwards)
    if cursor is None and wanted.sort is Sort.ACTIVE:
        places = list(_newest(asked, limit))
    else:
        parts = [part for part in streams(wanted, now) if not part.is_past(wanted, cursor, descending=descending)]
        places = [
            place
            for part in parts
            for place in _nearest(asked, part, part.within(wanted, cursor), limit, descending=descending)
        ]
    places = sorted(places, key=in_order(descending=descending))[:limit]
    runs = loaded(Run.objects.all()).in_bulk([place.id for place in places])
    return Found(tuple((place, runs[place.id]) for place in places if place.id in runs))


def _newest(asked: Sequence[Conditions], limit: int) -> Iterator[Place]:
    """Of each the `limit` first: the index knows both ranks, one after the other."""
    each = [Run.objects.filter(part.walked).order_by("-rank", "-sorted_at", "-pk") for part in asked]
    for pk, rank, at in _union(each, limit, "pk", "rank", "sorted_at"):
        yield Place(rank, micros(at), pk)


def _nearest(
    asked: Sequence[Conditions], part: Stream, cursor: Cursor | None, limit: int, *, descending: bool
) -> Iterator[Place]:
    """Of each the `limit` nearest."""
    each = []
    for conditions in asked:
        runs = Run.objects.filter(conditions.walked & part.where)
        if cursor is not None:
            runs = part.after(runs, cursor, descending=descending)
        each.append(part.ordered(runs, descending=descending))
    for pk, value in _union(each, limit, "pk", part.column):
        yield Place(part.rank, part.value_of(value), pk)


def _union(each: Sequence[QuerySet[Run]], limit: int, *columns: str) -> QuerySet[Run, tuple[Any, ...]]:
    # The limit stands one level down: SQLite has none in the parts of a union.
    first, *others = (Run.objects.filter(pk__in=runs.values("pk")[:limit]).values_list(*columns) for runs in each)
    return first.union(*others, all=True)
