"""A board's filter in its query string: `parse` reads what `query` writes."""

from dataclasses import fields

import pytest
from django.http import QueryDict

from taskruns.forms import BadFilter, BoardFilter, refuse_unknown
from taskruns.forms.board import Cursor

# One value for each filter, as in the URL.
QUERIES = {
    "statuses": "status=failed&status=cancelled",
    "task": "task=T25saW5l",
    "type": "type=template_evaluation",
    "credential": "credential=3f0c4a34-27a5-4d0c-9d0f-3c3c1b8a0001",
    "space": "space=U3BhY2U6MQ",
    "q": "q=relevance",
    "created_after": "created_after=2026-11-23T03:00:00Z",
    "created_before": "created_before=2026-11-24T03:00:00Z",
    "started_after": "started_after=2026-11-23T03:00:00Z",
    "started_before": "started_before=2026-11-24T03:00:00Z",
    "ended_after": "ended_after=2026-11-23T03:00:00Z",
    "ended_before": "ended_before=2026-11-24T03:00:00Z",
    "min_duration": "min_duration=90",
    "min_error_share": "min_error_share=10",
    "started_by": "started_by=ana@example.com",
    "cancelled_by": "cancelled_by=Ana+Ruiz",
    "not_tasks": "not_task=T25saW5l&not_task=T25saW5m",
    "flags": "flag=attention&flag=with_errors",
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


def test_attention_is_sorted_worst_first_unless_reversed():
    worst_first, reverse = (BoardFilter.parse(QueryDict(f"sort={text}")) for text in ("attention", "-attention"))
    assert (worst_first.descending, reverse.descending) == (True, False)
    assert (worst_first.query(), reverse.query()) == ("?sort=attention", "?sort=-attention")


@pytest.mark.parametrize(
    ("query", "sentence"),
    [
        ("flag=late", "There is no flag “late”. Use one of: with_errors, longer_than_usual, pending_long, "),
        ("min_error_share=101", "must be a percentage from 0 to 100"),
        ("min_error_share=1.5", "must be a whole number"),
        ("ended_after=yesterday", "“ended_after” must be a time like"),
        ("sort=worst", "There is no sort order “worst”. Use one of: created, "),
        ("&".join(f"not_task={number}" for number in range(21)), "repeated more than 20 times"),
        ("not_task=a%00b", "cannot be searched for"),
    ],
)
def test_an_unusable_value_is_named_in_a_sentence(query: str, sentence: str):
    with pytest.raises(BadFilter) as refused:
        BoardFilter.parse(QueryDict(query))
    assert sentence in str(refused.value)


def test_only_known_parameters_pass_where_others_are_refused():
    known = "&".join(QUERIES.values())
    refuse_unknown(QueryDict(f"{known}&sort=created&cursor=x&match=all"), besides=["match"])
    with pytest.raises(BadFilter, match="There is no filter “statuses”"):
        refuse_unknown(QueryDict("statuses=failed"))
    assert BoardFilter.parse(QueryDict("statuses=failed")) == BoardFilter()
