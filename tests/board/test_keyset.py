"""Pages of the board in every order, both directions, with every filter, while runs arrive: compared with a simple
model."""

import re
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from importlib import import_module
from typing import Any

import pytest
import time_machine
from django.db import connection
from django.http import QueryDict
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from taskruns.forms import BoardFilter, Cursor, Flag
from taskruns.models import ArizeUser, Credential, Run, RunSearch, Status, Task, Team, User
from taskruns.models.runs import ACTIVE
from taskruns.pages.board import keyset
from taskruns.pages.board import page as page_module
from taskruns.pages.board.page import Listing, list_runs
from taskruns.permissions import TeamAccess, access_of
from tests.factories import unsaved_run
from tests.wire import ENDPOINT

pytestmark = pytest.mark.slow

SEARCH = import_module("taskruns.services.runs.search")

BASE = datetime(2026, 11, 23, 3, 0, tzinfo=UTC)
NOW = BASE + timedelta(hours=1)
SORTS = (
    *("", "created", "-created", "started", "-started", "duration", "-duration", "errors", "-errors"),
    *("attention", "-attention"),
)
NAMES = ("Toxicity", "Answer relevance", "Prompt experiment")


def at(seconds: int) -> datetime:
    return BASE + timedelta(seconds=seconds)


@pytest.fixture
def tasks(team: Team, task: Task) -> list[Task]:
    kinds = ("template_evaluation", "code_evaluation", "run_experiment")
    return [
        Task.objects.create(
            team=team, endpoint=ENDPOINT, arize_id=f"T{number}", name=name, type=kinds[number], space_id=f"S{number}"
        )
        for number, name in enumerate(NAMES)
    ]


@pytest.fixture(autouse=True)
def ana(team: Team) -> ArizeUser:
    return ArizeUser.objects.create(
        team=team, endpoint=ENDPOINT, arize_id="U1", name="Ana Ruiz", email="ana@example.com", known=True
    )


@pytest.fixture
def team_access(team: Team, vera: User) -> TeamAccess:
    return TeamAccess(team, access_of(vera, team))


# (task, status, created, started after or None, took or None, errors or None)
RUN = st.tuples(
    st.integers(0, 2),
    st.sampled_from(list(Status)),
    st.integers(0, 6),
    st.one_of(st.none(), st.integers(0, 3)),
    st.one_of(st.none(), st.integers(0, 9)),
    st.one_of(st.none(), st.integers(0, 2)),
)
QUERY = st.fixed_dictionaries(
    {"sort": st.sampled_from(SORTS)},
    optional={
        "status": st.sampled_from(["running", "completed", "running&status=pending", "failed&status=running", "gone"]),
        "task": st.sampled_from(["T0", "T2", "none"]),
        "type": st.sampled_from(["code_evaluation", "unknown"]),
        "space": st.just("S1"),
        "q": st.sampled_from(["oxi", "R00", "e", "r0", "answer", "EXP", "Time-Out", "ana", "nothing at all"]),
        "started_after": st.just("2026-11-23T03:00:03Z"),
        "started_before": st.just("2026-11-23T03:00:06"),
        "ended_after": st.just("2026-11-23T03:00:04"),
        "ended_before": st.just("2026-11-23T03:00:08Z"),
        "min_duration": st.sampled_from(["0", "4", "3595"]),
        "min_error_share": st.sampled_from(["0", "9", "10"]),
        "not_task": st.sampled_from(["T0", "T1&not_task=T2", "none"]),
        "flag": st.sampled_from([*Flag, "pending_long&flag=with_errors", "attention&flag=longer_than_usual"]),
        "started_by": st.sampled_from(["U1", "ana ruiz", "ana@example.com", "nobody"]),
    },
)


def write(tasks: list[Task], drawn: Iterable[Any], *, after: int = 0) -> None:
    """The runs, numbered from `after`."""
    made = Run.objects.bulk_create(drawn_run(tasks, number, one) for number, one in enumerate(drawn, after))
    RunSearch.objects.write(made)


def drawn_run(tasks: list[Task], number: int, drawn: Any) -> Run:
    which, status, created, wait, took, errors = drawn
    started = None if wait is None else at(created + wait)
    finished = started + timedelta(seconds=took) if started and took is not None and status not in ACTIVE else None
    run = unsaved_run(
        tasks[which],
        arize_id=f"R{number:03}",
        experiment_id=f"Exp{number}" if number % 2 else None,
        status=status,
        created_at=at(created),
        run_started_at=started,
        run_finished_at=finished,
        num_errors=errors,
        num_successes=None if errors is None else 10,
        with_errors=bool(errors),
        longer_than_usual=number % 3 == 0,
        pending_long=status == Status.PENDING and number % 2 == 0,
        cancel_open=status in ACTIVE and number % 4 == 1,
        created_by_user_id=f"U{number % 3}" if number % 5 else None,
        failure_reason="The evaluator\n timed out: TIME-out of 30 s" if status == Status.FAILED else None,
    )
    run.attention = run.needs(NOW)
    return run


def parsed(query: dict[str, str], cursor: Cursor | None = None) -> BoardFilter:
    text = "&".join(f"{name}={value}" for name, value in query.items())
    return BoardFilter.parse(QueryDict(text + (f"&cursor={cursor.text()}" if cursor else "")))


def elapsed(run: Run) -> timedelta:
    if run.run_started_at is None:
        return timedelta(0)
    if run.run_finished_at is None:
        return NOW - run.run_started_at if run.status in ACTIVE else timedelta(0)
    return run.run_finished_at - run.run_started_at


FLAGS: dict[str, Callable[[Run], Any]] = {
    "with_errors": lambda run: run.num_errors,
    "longer_than_usual": lambda run: run.longer_than_usual,
    "pending_long": lambda run: run.pending_long,
    "cancel_open": lambda run: run.cancel_open,
    "attention": lambda run: run.attention,
}


def several(query: dict[str, str], name: str) -> list[str]:
    return query[name].replace(f"{name}=", "").split("&") if name in query else []


def passes(run: Run, query: dict[str, str]) -> bool:
    """The meaning of the filters, written a second time without a database."""
    begun, ended = run.run_started_at, run.run_finished_at
    lasts = begun is not None and (ended is not None or run.status in ACTIVE)
    is_over = run.status not in {*ACTIVE, Status.UNKNOWN}
    over = (ended or run.created_at) if is_over else None
    items = (run.num_errors or 0) + (run.num_successes or 0)
    by = {"U1": "U1", "ana ruiz": "U1", "ana@example.com": "U1"}.get(query.get("started_by", ""))
    return all(
        (
            run.status in (several(query, "status") or Status.values),
            query.get("task", run.task.arize_id) == run.task.arize_id,
            run.task.arize_id not in several(query, "not_task"),
            query.get("type", run.task.type) == run.task.type,
            query.get("space", run.task.space_id) == run.task.space_id,
            "started_after" not in query or (begun is not None and begun >= at(3)),
            "started_before" not in query or (begun is not None and begun < at(6)),
            "ended_after" not in query or (over is not None and over >= at(4)),
            "ended_before" not in query or (over is not None and over < at(8)),
            "min_duration" not in query or (lasts and elapsed(run).total_seconds() >= int(query["min_duration"])),
            "min_error_share" not in query
            or (items and 100 * (run.num_errors or 0) >= int(query["min_error_share"]) * items),
            "flag" not in query or any(FLAGS[flag](run) for flag in several(query, "flag")),
            "started_by" not in query or (by is not None and run.created_by_user_id == by),
            "q" not in query or is_found(run, query["q"].lower()),
        )
    )


def is_found(run: Run, q: str) -> bool:
    if q in run.task.name.lower():
        return True
    texts = (run.arize_id, run.experiment_id or "", " ".join((run.failure_reason or "").split()))
    return len(q) > 2 and (any(q in text.lower() for text in texts) or (q == "ana" and run.created_by_user_id == "U1"))


def key_of(sort: str) -> Callable[[Run], Any]:
    keys: dict[str, Callable[[Run], Any]] = {
        "": lambda run: (run.status in ACTIVE, run.created_at),
        "created": lambda run: run.created_at,
        "started": lambda run: run.run_started_at or run.created_at,
        "duration": elapsed,
        "errors": lambda run: run.num_errors or 0,
        "attention": lambda run: (run.attention, run.created_at),
    }
    return lambda run: (keys[sort.lstrip("-")](run), run.pk.int)


def is_largest_first(sort: str) -> bool:
    return sort in {"", "attention"} or (sort.startswith("-") and sort != "-attention")


def expected(query: dict[str, str]) -> list[str]:
    sort = query["sort"]
    runs = sorted(Run.objects.select_related("task"), key=key_of(sort), reverse=is_largest_first(sort))
    return [run.arize_id for run in runs if passes(run, query)]


def all_pages(
    accesses: list[TeamAccess], query: dict[str, str], between: Callable[[], Any] = lambda: None
) -> Iterator[Listing]:
    cursor: Cursor | None = None
    for _ in range(400):
        listing = list_runs(accesses, parsed(query, cursor))
        yield listing
        between()
        cursor = listing.following
        if cursor is None:
            return
    raise AssertionError("the pages never end")


def ids(listings: Any) -> list[str]:
    return [run.arize_id for listing in listings for run in listing.runs]


@pytest.fixture
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lower every limit so that a few rows reach it."""
    monkeypatch.setattr(keyset, "NEAR", 3)
    monkeypatch.setattr(keyset, "FAR", 8)
    monkeypatch.setattr(keyset, "NARROW", 2)
    monkeypatch.setattr(SEARCH, "FEW_RUNS", 3)
    # A search for one task reads it; one for more is scanned.
    monkeypatch.setattr(SEARCH, "FEW_TASKS", 1)


PROPERTY = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@PROPERTY
@given(runs=st.lists(RUN, max_size=30), query=QUERY, size=st.integers(1, 7))
@pytest.mark.usefixtures("_small")
def test_every_page_has_the_right_runs_in_order_in_both_directions(
    runs: Any, query: dict[str, str], size: int, tasks: list[Task], team_access: TeamAccess, monkeypatch: Any
) -> None:
    monkeypatch.setattr(page_module, "PAGE", size)
    Run.objects.all().delete()
    write(tasks, runs)
    wanted = expected(query)
    with time_machine.travel(NOW, tick=False):
        there = list(all_pages([team_access], query))
        assert ids(there) == wanted
        assert all(len(listing.runs) == size or listing.is_partial for listing in there[:-1])
        last = there[-1]
        back = [last]
        while last.previous is not None:
            last = list_runs([team_access], parsed(query, last.previous))
            back.insert(0, last)
            assert len(back) < 400
    # Paging back ends with a full first page, which may repeat rows of the page after it.
    assert list(dict.fromkeys(ids(back))) == wanted


@PROPERTY
@given(runs=st.lists(RUN, min_size=8, max_size=25), query=QUERY, new=st.lists(RUN, min_size=3, max_size=3))
@pytest.mark.usefixtures("_small")
def test_new_runs_neither_repeat_nor_hide_others(
    runs: Any, query: dict[str, str], new: Any, tasks: list[Task], team_access: TeamAccess, monkeypatch: Any
) -> None:
    monkeypatch.setattr(page_module, "PAGE", 3)
    Run.objects.all().delete()
    write(tasks, runs)
    wanted = expected(query)
    count = len(runs)

    def arrive() -> None:
        nonlocal count
        if count < len(runs) + 20:
            write(tasks, new, after=count)
            count += len(new)

    with time_machine.travel(NOW, tick=False):
        seen = ids(all_pages([team_access], query, arrive))
    assert len(seen) == len(set(seen))
    assert [run for run in seen if int(run[1:]) < len(runs)] == wanted


@PROPERTY
@given(runs=st.lists(st.tuples(st.booleans(), RUN), max_size=25), query=QUERY)
@pytest.mark.usefixtures("_small")
def test_the_board_of_two_teams_merges_both_boards(
    runs: Any,
    query: dict[str, str],
    tasks: list[Task],
    team_access: TeamAccess,
    other_team: Team,
    vera: User,
    monkeypatch: Any,
) -> None:
    monkeypatch.setattr(page_module, "PAGE", 4)
    Run.objects.all().delete()
    Task.objects.filter(team=other_team).delete()
    others = [
        Task.objects.create(
            team=other_team,
            endpoint=ENDPOINT,
            arize_id=task.arize_id,
            name=f"{task.name}, answer {number}"
            if number
            else task.name,  # so that one search is scanned in one team only
            type=task.type,
            space_id=task.space_id,
        )
        for number, task in enumerate(tasks)
    ]
    ana = {"name": "Ana Ruiz", "email": "ana@example.com", "known": True}
    ArizeUser.objects.get_or_create(team=other_team, endpoint=ENDPOINT, arize_id="U1", defaults=ana)
    RunSearch.objects.write(
        Run.objects.bulk_create(
            drawn_run(others if is_other else tasks, number, drawn) for number, (is_other, drawn) in enumerate(runs)
        )
    )
    with time_machine.travel(NOW, tick=False):
        both = [team_access, TeamAccess(other_team, access_of(vera, other_team))]
        assert ids(all_pages(both, query)) == expected(query)


@PROPERTY
@given(runs=st.lists(RUN, max_size=25), query=QUERY.filter(lambda query: "q" in query))
def test_a_search_for_a_few_tasks_reads_task_by_task(
    runs: Any, query: dict[str, str], tasks: list[Task], team_access: TeamAccess, monkeypatch: Any
) -> None:
    """With the real limits, every search of these few tasks is read task by task."""
    monkeypatch.setattr(page_module, "PAGE", 4)
    Run.objects.all().delete()
    write(tasks, runs)
    with time_machine.travel(NOW, tick=False):
        assert ids(all_pages([team_access], query)) == expected(query)


def test_a_search_that_finds_little_says_it_is_partial(
    tasks: list[Task], team_access: TeamAccess, client_of: Any, vera: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, limit in (("NEAR", 5), ("FAR", 10), ("NARROW", 1)):
        monkeypatch.setattr(keyset, name, limit)
    monkeypatch.setattr(SEARCH, "FEW_TASKS", 0)
    write(tasks, [(0 if number in {1, 2} else 1, Status.COMPLETED, number, 0, 1, 0) for number in range(30)])
    client = client_of(vera)
    html = client.get("/teams/ops-north/runs/?q=toxi").content.decode()
    assert "No matches so far" in html
    assert 'id="board-empty"' not in html
    pages = 0
    while "R001" not in html:
        following = re.search(r'href="([^"]+)" rel="next"', html)
        assert following is not None
        html = client.get(following[1].replace("&amp;", "&")).content.decode()
        pages += 1
    assert pages == 2
    assert "Keep searching" not in html


def test_a_middle_page_links_in_both_directions(
    tasks: list[Task], team_access: TeamAccess, client_of: Any, vera: User
) -> None:
    write(tasks, [(0, Status.COMPLETED, number, 0, 1, 0) for number in range(130)])
    client, seen = client_of(vera), []
    url = "/teams/ops-north/runs/"
    for _ in range(3):
        html = client.get(url).content.decode()
        seen.append(re.findall(r'data-run-id="([^"]+)"', html))
        url = (re.search(r'href="([^"]+)" rel="next"', html) or [""] * 2)[1].replace("&amp;", "&")
    assert url == ""
    for number in (1, 0):
        found = re.search(r'href="([^"]+)" rel="prev"', html)
        assert found is not None
        html = client.get(found[1].replace("&amp;", "&")).content.decode()
        assert re.findall(r'data-run-id="([^"]+)"', html) == seen[number]
    assert 'rel="prev"' not in html


def test_a_deep_page_takes_no_more_queries_than_the_first(
    tasks: list[Task], team_access: TeamAccess, django_assert_max_num_queries: Any
) -> None:
    write(tasks, [(0, Status.COMPLETED, number, 0, 1, 0) for number in range(200)])
    for query in ({"sort": ""}, {"sort": "-errors"}, {"sort": "", "status": "completed"}):
        *_, last = list(all_pages([team_access], query))
        with django_assert_max_num_queries(2):  # the places, then the rows
            list_runs([team_access], parsed(query, last.previous))


def test_an_impossible_time_in_a_page_link_is_no_500(team_access: TeamAccess, client_of: Any, vera: User) -> None:
    far = Cursor(0, 2**62, Team().pk, at=2**62).text()
    for sort in SORTS:
        answer = client_of(vera).get(f"/teams/ops-north/runs/?sort={sort}&cursor={far}")
        assert answer.status_code in {200, 400}, sort
    assert timezone.now() > BASE


@pytest.mark.parametrize(
    "query",
    [
        *("", "status=failed", "status=failed&status=running", "sort=-duration", "started_before=2100-01-01"),
        *("q=toxi", "q=o", "q=R00", "q=nothing", "q=toxi&status=completed&status=running", "q=toxi&sort=errors"),
        *("q=o&min_duration=1&type=unknown", "type=unknown&min_duration=1&started_before=2100-01-01"),
    ],
)
@pytest.mark.parametrize(("few", "most"), [(20, 15), (0, 18)])
@pytest.mark.usefixtures("_small")
def test_no_page_takes_many_queries(
    query: str,
    few: int,
    most: int,
    tasks: list[Task],
    team_access: TeamAccess,
    client_of: Any,
    vera: User,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With the lowered limits: filters that are scanned to the end, and filters that find a page at once. A name that
    matches many tasks with hardly any recent run takes three more.
    """
    monkeypatch.setattr(SEARCH, "FEW_TASKS", few)
    monkeypatch.setattr(page_module, "PAGE", 4)
    Credential.objects.update(last_good_at=timezone.now(), first_contact_done_at=timezone.now())
    write(tasks, [(number % 3, Status.CANCELLED, number % 7, 0, 1, 0) for number in range(40)])
    Run.objects.update(created_by_user_id="U1")
    client = client_of(vera)
    client.get("/teams/ops-north/runs/")  # the first view records attention
    with CaptureQueriesContext(connection) as captured:
        assert client.get(f"/teams/ops-north/runs/?{query}").status_code == 200
    assert len(captured) <= most
