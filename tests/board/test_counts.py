"""The numbers above a board: exact up to their caps, of the last 24 hours, and the same however a page was reached."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
import time_machine
from django.http import QueryDict

from taskruns.forms import BoardFilter, Cursor, Flag
from taskruns.models import Run, RunSearch, Status, Task, Team, User
from taskruns.pages.board import counts as counts_module
from taskruns.pages.board import keyset
from taskruns.pages.board import page as page_module
from taskruns.pages.board.counts import BoardCounts, Count, Total, board_counts, total
from taskruns.pages.board.page import list_runs
from taskruns.permissions import TeamAccess, access_of
from tests.factories import make_credential, make_run, make_task, unsaved_run

DAY = timedelta(hours=24)
SECOND = timedelta(seconds=1)


@pytest.fixture
def now() -> Any:
    with time_machine.travel("2026-11-23T03:00:00Z", tick=False) as clock:
        yield clock


@pytest.fixture
def team_access(now: Any, team: Team, vera: User) -> TeamAccess:
    return TeamAccess(team, access_of(vera, team))


def numbers(counts: BoardCounts) -> dict[str, int]:
    found: dict[str, Count] = {
        str(kind): count for each in (counts.statuses, counts.flags) for kind, count in each.items()
    }
    return {kind: count.number for kind, count in found.items() if count.number}


def ended(task: Task, ago: timedelta, status: Status = Status.FAILED, **fields: Any) -> Run:
    """A run that was created two days ago and ended this long ago."""
    now = page_module.timezone.now()
    return make_run(task, status=status, created_at=now - 2 * DAY, run_finished_at=now - ago, **fields)


@pytest.mark.parametrize("status", [Status.COMPLETED, Status.FAILED, Status.CANCELLED, Status.GONE])
def test_a_run_counts_for_a_day_from_its_end(status: Status, task: Task, team_access: TeamAccess) -> None:
    for ago in (timedelta(0), SECOND, DAY - SECOND, DAY, DAY + SECOND):
        ended(task, ago, status)
    assert numbers(board_counts([team_access])) == {status.value: 4}


def test_active_and_unknown_runs_count_however_old(task: Task, team_access: TeamAccess, now: Any) -> None:
    long_ago = page_module.timezone.now() - 30 * DAY
    for status in (Status.PENDING, Status.RUNNING, Status.RUNNING, Status.UNKNOWN):
        make_run(task, status=status, created_at=long_ago)
    assert numbers(board_counts([team_access])) == {"pending": 1, "running": 2, "unknown": 1}


def test_flags_count_active_runs_and_those_that_ended_in_a_day(task: Task, team_access: TeamAccess) -> None:
    for fact in ("with_errors", "longer_than_usual"):
        make_run(task, **{fact: True})
        ended(task, DAY - SECOND, Status.COMPLETED, **{fact: True})
        ended(task, DAY + SECOND, Status.COMPLETED, **{fact: True})
    make_run(task, status=Status.PENDING, pending_long=True)
    make_run(task, cancel_open=True)
    ended(task, SECOND, attention=6)
    counts = board_counts([team_access])
    assert {flag: count.number for flag, count in counts.flags.items()} == {
        Flag.WITH_ERRORS: 2,
        Flag.LONGER_THAN_USUAL: 2,
        Flag.PENDING_LONG: 1,
        Flag.CANCEL_OPEN: 1,
        Flag.ATTENTION: 1,
    }


def test_the_counts_of_two_teams_are_added_and_those_of_others_left_out(
    task: Task, team_access: TeamAccess, other_team: Team, vera: User
) -> None:
    theirs = make_task(other_team, make_credential(other_team))
    ended(task, SECOND)
    ended(theirs, SECOND)
    make_run(theirs)
    other = TeamAccess(other_team, access_of(vera, other_team))
    assert numbers(board_counts([team_access])) == {"failed": 1}
    assert numbers(board_counts([team_access, other])) == {"failed": 2, "running": 1}
    assert numbers(board_counts([])) == {}


def test_a_count_stops_at_its_cap(task: Task, team_access: TeamAccess, monkeypatch: Any) -> None:
    monkeypatch.setattr(counts_module, "MOST", 3)
    counts_module._counted.cache_clear()
    for _ in range(3):
        make_run(task)
    assert board_counts([team_access]).statuses[Status.RUNNING] == Count(3)
    make_run(task)
    assert board_counts([team_access]).statuses[Status.RUNNING] == Count(3, is_capped=True)
    assert (Count(3, is_capped=True).text, Count(1234).text) == ("3+", "1,234")
    counts_module._counted.cache_clear()


def test_time_alone_changes_what_the_counts_begin_with(task: Task, team_access: TeamAccess, now: Any) -> None:
    """So an open board whose data did not change loads again when a run leaves the last 24 hours, not before."""
    ended(task, DAY - 10 * SECOND)
    ended(task, DAY - 60 * SECOND)
    before = board_counts([team_access])
    for seconds, number in ((5, 2), (10, 2), (11, 1), (60, 1), (61, 0)):
        now.move_to(page_module.timezone.now().replace(hour=3, minute=seconds // 60, second=seconds % 60))
        assert numbers(board_counts([team_access])).get("failed", 0) == number
        counts = board_counts([team_access])
        assert (counts.begins == before.begins) == (numbers(counts) == numbers(before))


def parsed(query: str, cursor: Cursor | None = None) -> BoardFilter:
    return BoardFilter.parse(QueryDict(query + (f"&cursor={cursor.text()}" if cursor else "")))


def totals(team_access: TeamAccess, query: str) -> list[tuple[str, int]]:
    """The text and the number of rows of each page, first down to the last page, then up to the first."""
    found, cursor = [], None
    for direction in ("following", "previous"):
        while True:
            wanted = parsed(query, cursor)
            listing = list_runs([team_access], wanted)
            found.append((total(listing, wanted).text, len(listing.runs)))
            cursor = getattr(listing, direction)
            if cursor is None or len(found) > 40:
                break
        cursor = listing.previous
    return found


@pytest.fixture
def many(task: Task, team_access: TeamAccess, monkeypatch: Any) -> Callable[[int], None]:
    """Writes this many runs, with pages of 4 rows and low limits."""
    for module, name, limit in (
        *((page_module, "PAGE", 4), (counts_module, "EXACT", 20)),
        *((keyset, "NEAR", 5), (keyset, "FAR", 8), (keyset, "NARROW", 3)),
    ):
        monkeypatch.setattr(module, name, limit)

    def write(number: int) -> None:
        now = page_module.timezone.now()
        RunSearch.objects.write(
            Run.objects.bulk_create(
                unsaved_run(
                    task,
                    arize_id=f"run-{it:03}",
                    status=Status.FAILED if it % 2 else Status.RUNNING,
                    created_at=now - it * SECOND,
                    num_errors=it % 3,
                    with_errors=it % 3 > 0,
                )
                for it in range(number)
            )
        )

    return write


@pytest.mark.parametrize("query", ["", "sort=created", "sort=-errors", "sort=attention"])
def test_each_page_says_which_of_how_many_it_shows(query: str, many: Any, team_access: TeamAccess) -> None:
    many(10)
    down = [("1-4 of 10", 4), ("5-8 of 10", 4), ("9-10 of 10", 2)]
    assert totals(team_access, query) == [*down, ("5-8 of 10", 4), ("1-4 of 10", 4)]


def test_one_run_and_none_are_said_without_a_range(many: Any, team_access: TeamAccess) -> None:
    many(1)
    assert totals(team_access, "")[0] == ("1 of 1", 1)
    assert totals(team_access, "q=nothing")[0] == ("", 0)


def test_a_total_above_the_cap_says_more_than(many: Any, team_access: TeamAccess) -> None:
    many(30)
    found = dict.fromkeys(text for text, _ in totals(team_access, ""))
    assert list(found) == [
        *("1-4 of more than 20", "5-8 of more than 20", "9-12 of more than 20", "13-16 of more than 20"),
        *("17-20 of more than 20", "21-24 of more than 20", "more than 20"),
    ]


def test_a_filter_without_an_index_does_not_count_further_than_it_scans(many: Any, team_access: TeamAccess) -> None:
    many(30)
    listing = list_runs([team_access], parsed("not_task=none"))
    assert total(listing, parsed("not_task=none")).is_capped
    indexed = parsed("min_error_share=60")
    assert total(list_runs([team_access], indexed), indexed) == Total(20, first=1, last=4)


def test_a_whole_listing_needs_no_query(many: Any, team_access: TeamAccess, django_assert_num_queries: Any) -> None:
    many(3)
    listing = list_runs([team_access], parsed(""))
    with django_assert_num_queries(0):
        assert total(listing, parsed("")) == Total(3, first=1, last=3)
