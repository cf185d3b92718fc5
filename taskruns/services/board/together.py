"""One page over several teams in two or three questions, however many teams there are."""

from collections.abc import Iterator, Sequence
from datetime import datetime

from taskruns.filters import BoardFilter, Cursor
from taskruns.models import Run

from .matching import Conditions
from .paging import Found, Place, Stream, in_order, loaded, streams


def may_find_together(asked: Sequence[Conditions]) -> bool:
    """Whether each team's rows stand in an index: a filter that is walked needs further questions for each."""
    return len(asked) > 1 and all(each.rest is None for each in asked)


def find_together(
    asked: Sequence[Conditions], wanted: BoardFilter, cursor: Cursor | None, *, limit: int, now: datetime
) -> Found:
    """The next `limit` rows of all teams after the cursor, or before it, then nearest first."""
    descending = wanted.descending != (cursor is not None and cursor.backwards)
    places: list[Place] = []
    for part in streams(wanted, now):
        if not part.is_past(wanted, cursor, descending=descending):
            places += _nearest(asked, part, part.within(wanted, cursor), limit, descending=descending)
    places = sorted(places, key=in_order(descending=descending))[:limit]
    runs = loaded(Run.objects.all()).in_bulk([place.id for place in places])
    return Found(tuple((place, runs[place.id]) for place in places if place.id in runs))


def _nearest(
    asked: Sequence[Conditions], part: Stream, cursor: Cursor | None, limit: int, *, descending: bool
) -> Iterator[Place]:
    """Of each team the `limit` nearest."""
    each = []
    for conditions in asked:
        runs = Run.objects.filter(conditions.walked & part.where)
        if cursor is not None:
            runs = part.after(runs, cursor, descending=descending)
        # The limit stands one level down: SQLite has none in the parts of a union.
        ids = part.ordered(runs, descending=descending).values("pk")[:limit]
        each.append(Run.objects.filter(pk__in=ids).values_list("pk", part.column))
    for pk, value in each[0].union(*each[1:], all=True):
        yield Place(part.rank, part.value_of(value), pk)
