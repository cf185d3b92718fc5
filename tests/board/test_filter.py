"""A board's filter in its query string: `parse` reads what `query` writes."""

from dataclasses import fields

import pytest
from django.http import QueryDict

from taskruns.forms import BoardFilter
from taskruns.forms.board import Cursor

# One value for each filter, as in the URL.
QUERIES = {
    "statuses": "status=failed&status=cancelled",
    "task": "task=T25saW5l",
    "type": "type=template_evaluation",
    "credential": "credential=3f0c4a34-27a5-4d0c-9d0f-3c3c1b8a0001",
    "space": "space=U3BhY2U6MQ",
    "q": "q=relevance",
    "started_after": "started_after=2026-11-23T03:00:00Z",
    "started_before": "started_before=2026-11-24T03:00:00Z",
    "min_duration": "min_duration=90",
}
ORDER = {"sort", "descending", "cursor"}


def test_every_filter_has_a_case():
    assert {field.name for field in fields(BoardFilter)} == QUERIES.keys() | ORDER


@pytest.mark.parametrize("name", QUERIES)
def test_a_filter_survives_its_query_string(name: str):
    wanted = BoardFilter.parse(QueryDict(QUERIES[name]))
    assert getattr(wanted, name) != getattr(BoardFilter(), name)
    assert wanted.is_set
    assert BoardFilter.parse(QueryDict(wanted.query().removeprefix("?"))) == wanted


def test_sort_and_position_survive_the_query_string():
    wanted = BoardFilter.parse(QueryDict("sort=-errors"))
    assert not wanted.is_set
    place = Cursor.parse(QueryDict(wanted.query(cursor=some_cursor()).removeprefix("?"))["cursor"])
    assert place == some_cursor()
    assert BoardFilter.parse(QueryDict(wanted.query().removeprefix("?"))) == wanted


def some_cursor() -> Cursor:
    wanted = BoardFilter.parse(QueryDict(QUERIES["credential"]))
    assert wanted.credential is not None
    return Cursor(1, 7, wanted.credential)
