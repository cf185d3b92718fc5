"""Pages of Arize's lists: reading one page, and reading them all even if the cursors are broken."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, Protocol, Self, TypeVar

from taskruns.arize.errors import ListRepeats, Unreadable
from taskruns.arize.values import read_text

Item = TypeVar("Item", bound="Identified")

MOST_PAGES = 1_000  # per list: 100,000 items, more than any loop should read


class Identified(Protocol):
    @property
    def id(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Page(Generic[Item]):
    """One page of a list, in the server's order (runs: newest first; tasks: not documented)."""

    items: tuple[Item, ...]
    next_cursor: str | None

    @classmethod
    def from_json(cls, data: object, *, member: str, item: Callable[[object], Item]) -> Self:
        """Skip items without a usable id. An absent or null list is empty: some servers send it that way.

        Raises Unreadable if `data` is not an object or the member is not a list.
        """
        if not isinstance(data, dict) or not isinstance(data.get(member), list | None):
            raise Unreadable
        pagination = data.get("pagination")
        cursor = read_text(pagination.get("next_cursor")) if isinstance(pagination, dict) else None
        return cls(items=_readable(data.get(member) or [], item), next_cursor=cursor or None)


def pages(fetch: Callable[[str | None], Page[Item]], *, most: int | None = None) -> Iterator[Page[Item]]:
    """Yield pages until there is no cursor, or `most` pages were read.

    Raises ListRepeats after the last page if there is a cursor but no progress: then there may be more items.
    """
    progress = Progress()
    cursor: str | None = None
    for _ in range(MOST_PAGES if most is None else min(most, MOST_PAGES)):
        page = fetch(cursor)
        yield page
        cursor = page.next_cursor
        if not cursor:
            return
        if progress.repeats(page):
            raise ListRepeats
    if most is None or most > MOST_PAGES:
        raise ListRepeats  # more items than any account has


class Progress:
    """Checks that each page of a list continues the pages before it. `start`: the cursor of the first page."""

    def __init__(self, start: str = "") -> None:
        self._cursors = {start}
        self._ids: set[str] = set()
        self._was_empty = False

    def repeats(self, page: Page[Any]) -> bool:
        """Whether the page's cursor has occurred before, or the page has a cursor but no new items.

        A single empty page may be followed by more: Arize may leave out items that the key must not see.
        """
        found = {item.id for item in page.items}
        is_old = found <= self._ids and (self._was_empty or bool(found))
        is_known = page.next_cursor in self._cursors
        self._cursors.add(page.next_cursor or "")
        self._ids |= found
        self._was_empty = not found
        return bool(page.next_cursor) and (is_known or is_old)


def _readable(values: list[object], item: Callable[[object], Item]) -> tuple[Item, ...]:
    items: list[Item] = []
    for value in values:
        try:
            items.append(item(value))
        except Unreadable:
            continue  # one bad item must not hide the good ones
    return tuple(items)
