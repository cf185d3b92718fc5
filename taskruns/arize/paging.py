"""Pages of Arize's lists: reading one page, and reading them all even if the cursors are broken."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, Protocol, Self, TypeVar

from taskruns.arize.errors import Unreadable
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
    """Yield pages until there is no cursor, nothing new arrives, a cursor repeats, or `most` pages were read.

    A single empty page is not the end: Arize may leave out items that the key must not see.
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


def _readable(values: list[object], item: Callable[[object], Item]) -> tuple[Item, ...]:
    items: list[Item] = []
    for value in values:
        try:
            items.append(item(value))
        except Unreadable:
            continue  # one bad item must not hide the good ones
    return tuple(items)
