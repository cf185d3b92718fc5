"""Paging through a list always ends and skips nothing."""

import pytest

from taskruns.arize import paging
from taskruns.arize.paging import Page
from taskruns.arize.wire import WireSpace


def item(name):
    return WireSpace.from_json({"id": str(name)})


@pytest.mark.parametrize(
    ("cursors", "most", "asked"),
    [
        ([None], None, [None]),
        (["", "x"], None, [None]),
        (["a", "b", None], None, [None, "a", "b"]),
        (["a", "a", "a"], None, [None, "a"]),
        (["a", "b", "a", "b"], None, [None, "a", "b"]),
        (["a", "b", "c"], 2, [None, "a"]),
        (["a", "b", "c"], 0, []),
    ],
)
def test_paging_always_ends(cursors, most, asked):
    seen = []

    def fetch(cursor):
        seen.append(cursor)
        return Page(items=(item(len(seen)),), next_cursor=cursors[len(seen) - 1])

    given = list(paging.pages(fetch, most=most))
    assert seen == asked
    assert [page.items[0].id for page in given] == [str(number + 1) for number in range(len(asked))]


def test_paging_has_a_page_limit(monkeypatch):
    monkeypatch.setattr(paging, "MOST_PAGES", 5)
    counter = iter(range(100))

    def fetch(_):
        number = next(counter)
        return Page(items=(item(number),), next_cursor=str(number))

    assert len(list(paging.pages(fetch, most=50))) == 5


@pytest.mark.parametrize(
    ("sent", "read"),
    [
        (["a", "a", "b"], 2),
        (["ab", "bc", "ca", "d"], 3),
        (["", "a", "", "b", ""], 5),
        (["a", "", "", "b"], 3),
        (["", "", "a"], 2),
    ],
)
def test_paging_ends_when_nothing_new_arrives(sent, read):
    cursors = iter(range(100))
    fetched = iter(sent)

    def fetch(_):
        return Page(items=tuple(map(item, next(fetched))), next_cursor=f"c{next(cursors)}")

    assert len(list(paging.pages(fetch, most=len(sent)))) == read
