"""Walking a list of Arize's page by page, whatever its cursors do."""

from collections.abc import Callable, Iterator
from typing import TypeVar

from taskruns.arize.wire import Identified, Page

Item = TypeVar("Item", bound=Identified)

MOST_PAGES = 1_000  # of one list: 100,000 items, more than a loop should ever walk


def pages(fetch: Callable[[str | None], Page[Item]], *, most: int | None = None) -> Iterator[Page[Item]]:
    """Page after page until there is no cursor, nothing new comes any more, a cursor comes twice, or `most` pages
    were given. One empty page is not the end: Arize may leave out what a key must not see.
    """
    cursor: str | None = None
    cursors: set[str] = set()
    ids: set[str] = set()
    was_empty = False
    for _ in range(MOST_PAGES if most is None else min(most, MOST_PAGES)):
        page = fetch(cursor)
        yield page
        cursor = page.next_cursor
        found = {item.id for item in page.items}
        is_old = found <= ids and (was_empty or bool(found))
        if not cursor or cursor in cursors or is_old:
            return
        cursors.add(cursor)
        ids |= found
        was_empty = not found
