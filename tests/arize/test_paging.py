"""Paging through a list always ends and skips nothing."""

import pytest

from taskruns.arize import paging
from taskruns.arize.errors import ListRepeats
from taskruns.arize.paging import Page
from taskruns.arize.wire import WireSpace


def item(name):
    return WireSpace.from_json({"id": str(name)})


def read(fetch, most=None):
    """The pages that came, and whether the list then turned out to repeat itself."""
    given = []
    try:
        for page in paging.pages(fetch, most=most):
            given.append(page)  # noqa: PERF402 - the pages before an error count
    except ListRepeats:
        return given, True
    return given, False


@pytest.mark.parametrize(
    ("cursors", "most", "asked", "repeats"),
    [
        ([None], None, [None], False),
        (["", "x"], None, [None], False),
        (["a", "b", None], None, [None, "a", "b"], False),
        (["a", "a", "a"], None, [None, "a"], True),
        (["a", "b", "a", "b"], None, [None, "a", "b"], True),
        (["a", "b", "c"], 2, [None, "a"], False),
        (["a", "a", "a"], 2, [None, "a"], True),
        (["a", "b", "c"], 0, [], False),
    ],
)
def test_paging_always_ends_and_says_if_the_list_repeats(cursors, most, asked, repeats):
    seen = []

    def fetch(cursor):
        seen.append(cursor)
        return Page(items=(item(len(seen)),), next_cursor=cursors[len(seen) - 1])

    given, repeated = read(fetch, most)
    assert seen == asked
    assert repeated is repeats
    assert [page.items[0].id for page in given] == [str(number + 1) for number in range(len(asked))]


def test_paging_has_a_page_limit(monkeypatch):
    monkeypatch.setattr(paging, "MOST_PAGES", 5)
    counter = iter(range(100))

    def fetch(_):
        number = next(counter)
        return Page(items=(item(number),), next_cursor=str(number))

    given, repeated = read(fetch)
    assert len(given) == 5
    assert repeated, "a list without an end is not whole"


@pytest.mark.parametrize(
    ("sent", "pages", "repeats"),
    [
        (["a", "a", "b"], 2, True),
        (["ab", "bc", "ca", "d"], 3, True),
        (["", "a", "", "b", ""], 5, False),
        (["a", "", "", "b"], 3, True),
        (["", "", "a"], 2, True),
    ],
)
def test_paging_ends_when_nothing_new_arrives(sent, pages, repeats):
    cursors = iter(range(100))
    fetched = iter(sent)

    def fetch(_):
        return Page(items=tuple(map(item, next(fetched))), next_cursor=f"c{next(cursors)}")

    given, repeated = read(fetch, len(sent))
    assert (len(given), repeated) == (pages, repeats)


def test_a_last_page_may_bring_nothing_new():
    cursors = iter(["a", None])
    assert read(lambda _: Page(items=(item("x"),), next_cursor=next(cursors)))[1] is False
