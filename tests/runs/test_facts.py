"""Facts about runs that change with the clock: stored by readings and by the clock, shown from their columns."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import time_machine
from django.db import connection, transaction
from django.test import Client
from django.test.utils import CaptureQueriesContext

from taskruns import jobs
from taskruns.arize.wire import WireRun
from taskruns.forms import BoardFilter
from taskruns.models import Run, RunSearch, Status, Task, Team
from taskruns.models.runs import PENDING_LONG, Attention, share_of
from taskruns.services.mirror import refresh
from taskruns.services.runs import facts
from taskruns.services.runs.matching import matching, matching_active
from taskruns.services.runs.observations import Reading, record_gone, record_observation, record_readings
from tests.factories import make_credential, make_run
from tests.fake_arize import World
from tests.runs.past import fill, past
from tests.runs.readings import START, at, reading
from tests.wire import wire_run

PENDING = {"run_started_at": None, "run_finished_at": None}
# The last second in which a run of a task that usually takes 5 min is not longer than usual, counted from START.
LIMIT = 600


@pytest.fixture
def task(task: Task) -> Task:
    Task.objects.update(usual_seconds=300)
    return Task.objects.get()


@pytest.fixture
def clock() -> Any:
    with time_machine.travel(START, tick=False) as clock:
        yield clock


def began(**fields: Any) -> dict[str, Any]:
    """A run that was created and started at START."""
    return {"created_at": START, "run_started_at": START, "first_seen_at": START, **fields}


def version() -> int:
    return Team.objects.get(slug="ops-north").board_version


def stored(run: Run) -> Run:
    run.refresh_from_db()
    return run


def members(run: Run, **changed: Any) -> dict[str, Any]:
    """The reading's members that leave the run's own times as they are."""
    times = {name: getattr(run, name) for name in ("created_at", "run_started_at", "run_finished_at")}
    return {name: value and value.isoformat() for name, value in times.items()} | changed


# --- What a reading sets


@pytest.mark.parametrize("errors", [0, 1, None])
@pytest.mark.parametrize("status", ["RUNNING", "COMPLETED", "FAILED"])
def test_a_reading_notes_whether_items_errored(status: str, errors: int | None, task: Task):
    seen = WireRun.from_json(wire_run(Run(task=task, arize_id="R1"), status, num_errors=errors))
    record_readings([Reading(task, [seen], at(0))])
    assert Run.objects.get().with_errors is bool(errors)


@pytest.mark.parametrize("as_list", [False, True])
def test_a_later_reading_updates_whether_items_errored(as_list: Any, task: Task):
    run = make_run(task, **began(observed_at=START, num_errors=0, with_errors=False))
    for second, errors in ((1, 0), (2, 3), (3, 0)):
        seen = reading(run, num_errors=errors)
        if as_list:
            record_readings([Reading(task, [seen], at(second))])
        else:
            record_observation(run, seen, at(second))
        assert stored(run).with_errors is bool(errors)


@pytest.mark.parametrize("counted", ["num_successes", "num_errors", "num_skipped"])
def test_progress_is_dated_by_the_reading_that_shows_it(counted: str, task: Task):
    run = make_run(task, **began())
    record_readings([Reading(task, [WireRun.from_json(wire_run(run, id="new"))], at(1))])
    new = Run.objects.get(arize_id="new")
    assert new.progress_changed_at == at(1), "when it was first seen"
    record_observation(new, reading(new), at(2))
    record_observation(new, reading(new, failure_reason="a change of something else"), at(3))
    assert stored(new).progress_changed_at == at(1)
    record_observation(new, reading(new, **{counted: 99}), at(4))
    assert stored(new).progress_changed_at == at(4)
    record_observation(new, reading(new, "COMPLETED", **{counted: 100}), at(5))
    assert stored(new).progress_changed_at == at(4), "not any more once it has ended"


def test_a_run_that_comes_back_begins_to_progress_anew(task: Task):
    run = make_run(task, **began(observed_at=START, progress_changed_at=START))
    record_gone(run, at(1))
    record_observation(run, reading(run), at(2))
    assert stored(run).progress_changed_at == at(2)


@pytest.mark.parametrize("status", ["COMPLETED", "FAILED", "CANCELLED"])
@pytest.mark.parametrize(("seconds", "is_longer"), [(LIMIT, False), (LIMIT + 1, True)])
def test_the_reading_that_ends_a_run_decides_whether_it_took_long(
    seconds: int, is_longer: Any, status: str, task: Task
):
    run = make_run(task, **began(observed_at=START))
    record_observation(run, reading(run, status, **members(run, run_finished_at=at(seconds).isoformat())), at(700))
    assert stored(run).longer_than_usual is is_longer
    Task.objects.update(usual_seconds=10_000)
    record_observation(run, reading(run, status, **members(run), num_successes=999), at(800))
    assert stored(run).longer_than_usual is is_longer, "what is usual later does not matter"


FIRST_SEEN = {
    "late": ("RUNNING", {}, (True, False)),
    "waits": ("PENDING", {"run_started_at": None}, (False, True)),
    "done": ("COMPLETED", {"run_finished_at": 60}, (False, False)),
    "took": ("FAILED", {"run_finished_at": LIMIT + 1}, (True, False)),
}


def test_runs_that_are_first_seen_get_every_fact_at_once(task: Task):
    page = []
    for id_, (status, changed, _) in FIRST_SEEN.items():
        times = {"created_at": 0, "run_started_at": 0, "run_finished_at": None} | changed
        sent = {name: None if second is None else wire_time(second) for name, second in times.items()}
        page.append(WireRun.from_json(wire_run(Run(task=task, arize_id=id_), status, **sent)))
    record_readings([Reading(task, page, at(LIMIT + 1))])
    found = {run.arize_id: (run.longer_than_usual, run.pending_long) for run in Run.objects.all()}
    assert found == {id_: wanted for id_, (_, _, wanted) in FIRST_SEEN.items()}


def wire_time(seconds: float) -> str:
    return at(seconds).isoformat().replace("+00:00", "Z")


@pytest.mark.parametrize("how", ["RUNNING", "CANCELLED", "gone"])
def test_a_run_is_not_pending_any_more_once_it_has_another_status(how: str, task: Task):
    run = make_run(task, status=Status.PENDING, **began(observed_at=START, run_started_at=None, pending_long=True))
    if how == "gone":
        record_gone(run, at(700))
    else:
        record_observation(run, reading(run, how), at(700))
    assert stored(run).pending_long is False


def test_a_run_whose_end_has_no_time_stays_as_it_was(task: Task):
    run = make_run(task, **began(observed_at=START, longer_than_usual=True))
    record_observation(run, reading(run, "CANCELLED", run_finished_at=None), at(5))
    assert stored(run).longer_than_usual is True


# --- What the clock sets


@pytest.mark.parametrize(("seconds", "is_longer"), [(LIMIT, False), (LIMIT + 1, True)])
def test_the_clock_makes_an_active_run_longer_than_usual(seconds: int, is_longer: Any, task: Task, clock: Any):
    run = make_run(task, **began(with_errors=False))
    facts.update_all()
    assert stored(run).longer_than_usual is False
    clock.shift(seconds)
    before = version()
    assert facts.update_all() == int(is_longer)
    assert stored(run).longer_than_usual is is_longer
    assert version() == before + int(is_longer), "open boards must learn of it, and of nothing else"


@pytest.mark.parametrize(("usual", "seconds"), [(10, 71), (59, 120), (300, 601)])
def test_a_task_of_seconds_gets_an_extra_minute(usual: int, seconds: int, task: Task, clock: Any):
    Task.objects.update(usual_seconds=usual)
    run = make_run(task, **began())
    clock.shift(seconds - 1)
    facts.update_all()
    assert stored(run).longer_than_usual is False
    clock.shift(1)
    facts.update_all()
    assert stored(run).longer_than_usual is True


def test_a_run_that_waits_for_ten_minutes_is_pending_long(task: Task, clock: Any):
    run = make_run(task, status=Status.PENDING, **began(run_started_at=None))
    running = make_run(task, **began())
    clock.shift(PENDING_LONG)
    facts.update_all()
    assert stored(run).pending_long is False
    before = version()
    clock.shift(1)
    facts.update_all()
    assert (stored(run).pending_long, stored(running).pending_long) == (True, False)
    assert version() == before + 1


YEAR_1 = datetime(1, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize("created", [None, YEAR_1])
def test_without_a_true_time_waiting_counts_from_the_first_reading(created: Any, task: Task, clock: Any):
    run = make_run(task, status=Status.PENDING, **began(run_started_at=None))
    Run.objects.update(created_at=created)
    facts.update_all()
    assert stored(run).pending_long is False
    clock.shift(PENDING_LONG + timedelta(seconds=1))
    facts.update_all()
    assert stored(run).pending_long is True


@pytest.mark.parametrize("begun", [None, YEAR_1])
def test_a_run_without_a_true_start_is_not_longer_than_usual(begun: Any, task: Task, clock: Any):
    run = make_run(task, **began(run_started_at=begun))
    clock.shift(86_400)
    facts.update_all()
    assert stored(run).longer_than_usual is False
    Run.objects.update(run_started_at=START)
    facts.update_all()
    assert stored(run).longer_than_usual is True, "the control"


def test_a_task_that_is_not_known_well_has_no_long_runs(task: Task, clock: Any):
    Task.objects.update(usual_seconds=None)
    run = make_run(task, **began())
    clock.shift(86_400)
    facts.update_all()
    assert stored(run).longer_than_usual is False


def test_a_new_usual_duration_changes_active_runs_only(task: Task, clock: Any):
    (ended,) = past(task, 900)
    run = make_run(task, **began())
    as_before_the_upgrade()
    facts.fill_in()
    clock.shift(700)
    facts.update_all()
    assert (stored(run).longer_than_usual, stored(ended).longer_than_usual) == (True, True)
    Task.objects.update(usual_seconds=3_600)
    before = version()
    facts.update_all()
    assert (stored(run).longer_than_usual, stored(ended).longer_than_usual) == (False, True)
    assert version() == before + 1


def test_unchanged_facts_write_nothing(task: Task, clock: Any):
    for status in (Status.RUNNING, Status.PENDING, Status.COMPLETED):
        make_run(task, status=status, **began())
    as_before_the_upgrade()
    facts.fill_in()
    before = version()
    clock.shift(5)
    with CaptureQueriesContext(connection) as queries:
        assert facts.update_all() == 0
        assert not facts.fill_in()
    assert not [query["sql"] for query in queries if not query["sql"].startswith("SELECT")]
    assert version() == before


def test_a_run_that_ends_before_the_lock_is_left_alone(task: Task, clock: Any, monkeypatch: Any):
    """A reading ends the run between the query of the clock and its lock."""
    run = make_run(task, **began(observed_at=START, with_errors=True, progress_changed_at=START))
    clock.shift(3_600)
    write = facts._write

    def end_first(runs: Any) -> int:
        record_observation(run, reading(run, "COMPLETED", **members(run, run_finished_at=wire_time(60))), at(3_600))
        return write(runs)

    monkeypatch.setattr(facts, "_write", end_first)
    assert facts.update_all() == 0
    assert (stored(run).status, run.longer_than_usual) == ("completed", False)


def test_teams_without_a_working_key_have_a_clock_too(task: Task, other_team: Team, clock: Any):
    theirs = Task.objects.create(team=other_team, endpoint=task.endpoint, arize_id="T", usual_seconds=300)
    runs = [make_run(each, **began()) for each in (task, theirs)]
    clock.shift(3_600)
    jobs.look_after_run_facts()
    assert [stored(run).longer_than_usual for run in runs] == [True, True]


def test_a_round_updates_the_facts(arize: Any, team: Team, clock: Any):
    world = World().install(arize)
    world.task("T1")
    world.run("R1", minute=180, run_started_at="2026-11-23T03:00:00Z")
    key = make_credential(team)
    refresh(key.pk)
    Task.objects.update(usual_seconds=300)
    before = version()
    clock.shift(LIMIT + 1)
    refresh(key.pk)
    assert Run.objects.get().longer_than_usual is True
    assert version() > before


def test_many_runs_cost_few_queries(task: Task, clock: Any):
    counts = []
    for number in (2, 40):
        for _ in range(number):
            make_run(task, **began())
        clock.shift(1_000)
        with CaptureQueriesContext(connection) as queries:
            assert facts.update_active(task.team_id) == number
        counts.append(len(queries))
    assert counts[0] == counts[1]


# --- After an upgrade


def as_before_the_upgrade() -> None:
    """Runs as an earlier release wrote them."""
    Run.objects.update(is_filled_in=None, ended_at=None, error_share=None, attention=0, cancel_open=False)
    RunSearch.objects.all().delete()


def test_runs_from_before_the_upgrade_are_filled_in(task: Task, clock: Any):
    clock.shift(700)
    late, early = make_run(task, **began(num_errors=1)), make_run(task, **began(run_started_at=at(690)))
    waits = make_run(task, status=Status.PENDING, **began(run_started_at=None))
    took, short = past(task, 900, 60, num_errors=2)
    as_before_the_upgrade()
    assert set(Run.objects.values_list("with_errors", "longer_than_usual", "pending_long")) == {(None, None, None)}
    before = version()
    assert not facts.fill_in()
    assert [stored(run).with_errors for run in (late, early, waits, took, short)] == [True, False, False, True, True]
    assert [stored(run).longer_than_usual for run in (late, early, waits, took, short)] == [
        *(True, False, False),
        *(True, False),
    ]
    assert [run.pk for run in Run.objects.filter(pending_long=True)] == [waits.pk]
    assert [stored(run).progress_changed_at for run in (late, took)] == [late.observed_at, None]
    assert [run.ended_at for run in map(stored, (late, took))] == [None, took.run_finished_at]
    assert [stored(run).error_share for run in (late, early, took)] == [100, None, 100]
    assert stored(late).attention == Attention.MANY_ERRORS
    assert [run.pk for run in matching_active(task.team, BoardFilter(q=late.arize_id[4:]), now=at(700))] == [late.pk]
    assert version() == before + 1


def test_filling_in_goes_chunk_by_chunk(task: Task, monkeypatch: Any):
    monkeypatch.setattr(facts, "CHUNK", 2)
    monkeypatch.setattr(facts, "CHUNKS", 2)
    runs = past(task, *[60] * 6)
    as_before_the_upgrade()
    assert facts.fill_in(), "there are more"
    assert [stored(run).ended_at is None for run in runs] == [False] * 4 + [True] * 2, "the newest first"
    facts.fill_in()
    assert not Run.objects.filter(is_filled_in=None).exists()
    assert RunSearch.objects.count() == 6


def test_filters_and_searches_are_right_before_the_filling_in(task: Task, clock: Any, client: Client):
    """The end, the share of errors and ids by their start are found without the new columns."""
    clock.shift(3_600)
    runs = past(task, 900, 60, num_errors=1, num_successes=1)
    queries = [
        BoardFilter(min_error_share=50),
        BoardFilter(ended_after=runs[0].run_finished_at, ended_before=runs[0].run_finished_at + timedelta(seconds=1)),
        BoardFilter(q=runs[0].arize_id[:12].upper()),
    ]
    found = [set(matching(task.team, wanted, now=at(0))) for wanted in queries]
    assert found == [set(runs), {runs[0]}, {run for run in runs if run.arize_id[:12] == runs[0].arize_id[:12]}]
    url, hint = "/teams/ops-north/runs/?q=abcdef", "older runs are still being prepared for the search"
    assert hint not in client.get(url).content.decode()
    as_before_the_upgrade()
    assert hint in client.get(url).content.decode()
    assert [set(matching(task.team, wanted, now=at(0))) for wanted in queries] == found
    assert not set(matching(task.team, BoardFilter(min_error_share=51), now=at(0)))


@pytest.mark.slow
def test_generated_runs_have_all_facts(team: Team):
    fill("ops-north", 1_800)
    assert not Run.objects.exclude(is_filled_in=True, with_errors__isnull=False, ended_at__isnull=False).exists()
    runs = list(Run.objects.select_related("task"))
    assert {bool(run.num_errors) for run in runs} == {run.with_errors for run in runs} == {True, False}
    wanted = [run.run_finished_at is not None and run.exceeds_usual(run.run_finished_at) for run in runs]
    assert [run.longer_than_usual for run in runs] == wanted
    assert any(wanted)
    assert [run.error_share for run in runs] == [share_of(run.num_successes, run.num_errors) for run in runs]
    assert facts.update_all() == 0, "their attention too"
    assert RunSearch.objects.count() == 1_800


# --- How much a run needs attention, and when it ended


ENDED = {"run_finished_at": START + timedelta(seconds=60)}
NEEDS = [
    ({"status": Status.FAILED, **ENDED}, Attention.FAILED),
    ({"num_errors": 2, "num_successes": 17}, Attention.MANY_ERRORS),
    ({"num_errors": 1, "num_successes": 9}, Attention.NONE),
    ({"status": Status.COMPLETED, "num_errors": 9, **ENDED}, Attention.MANY_ERRORS),
    ({"status": Status.CANCELLED, "num_errors": 9, **ENDED}, Attention.NONE),
    ({"status": Status.COMPLETED, "longer_than_usual": True, **ENDED}, Attention.NONE),
    ({"status": Status.UNKNOWN}, Attention.UNKNOWN_STATE),
    ({"cancel_open": True}, Attention.CANCEL_OPEN),
    ({"status": Status.GONE, "cancel_open": False}, Attention.NONE),
    ({}, Attention.NONE),
]


@pytest.mark.parametrize(("fields", "needed"), NEEDS)
def test_a_run_needs_attention_for_its_worst_reason(fields: Any, needed: Attention, task: Task, clock: Any):
    run = make_run(task, **began(**{"pending_long": False, "longer_than_usual": False, **fields}))
    as_before_the_upgrade()
    Run.objects.update(cancel_open=fields.get("cancel_open", False), is_filled_in=True, ended_at=run.ended_at)
    with transaction.atomic():
        facts._write(Run.objects.filter(pk=run.pk))
    assert stored(run).attention == needed


def test_time_alone_makes_an_active_run_need_attention(task: Task, clock: Any):
    run, waits = make_run(task, **began()), make_run(task, status=Status.PENDING, **began(run_started_at=None))
    facts.update_all()
    assert (stored(run).attention, stored(waits).attention) == (0, 0)
    clock.shift(LIMIT + 1)
    facts.update_all()
    assert stored(run).attention == Attention.LONGER_THAN_USUAL
    assert stored(waits).attention == Attention.PENDING_LONG


def test_attention_ends_a_day_after_the_run(task: Task, clock: Any):
    run = make_run(task, **began(observed_at=START))
    record_observation(run, reading(run, "FAILED", **members(run, run_finished_at=at(60).isoformat())), at(61))
    assert stored(run).attention == Attention.FAILED
    for seconds, needed in ((86_400 + 59, Attention.FAILED), (86_400 + 60, Attention.NONE)):
        clock.move_to(at(seconds))
        before = version()
        facts.update_all()
        assert stored(run).attention == needed
        assert version() == before + (needed == Attention.NONE)


@pytest.mark.parametrize("says_when", [True, False])
def test_a_reading_notes_when_a_run_ended(says_when: Any, task: Task, clock: Any):
    run = make_run(task, **began(observed_at=START))
    clock.shift(90)
    finished = {"run_finished_at": at(60).isoformat() if says_when else None}
    record_observation(run, reading(run, "COMPLETED", **members(run) | finished), at(80))
    assert stored(run).ended_at == at(60 if says_when else 80)
    record_observation(run, reading(run, "RUNNING", **members(run)), at(85))
    assert stored(run).ended_at is None


def test_a_new_run_without_an_end_ended_when_it_was_created(task: Task):
    seen = {"created_at": at(-500).isoformat(), "run_started_at": None, "run_finished_at": None}
    record_readings(
        [Reading(task, [WireRun.from_json(wire_run(Run(task=task, arize_id="R1"), "FAILED", **seen))], at(0))]
    )
    assert Run.objects.get().ended_at == at(-500)


def test_a_run_that_is_gone_ended_and_needs_nothing(task: Task, clock: Any):
    run = make_run(task, **began(observed_at=START, cancel_open=True, attention=Attention.CANCEL_OPEN))
    record_gone(run, at(1))
    gone = stored(run)
    assert (gone.ended_at, gone.cancel_open, gone.attention) == (START, False, Attention.NONE)


# --- What the database does with them


FLAGS = {"with_errors": "run_board_with_errors", "longer_than_usual": "run_board_longer"}


@pytest.mark.parametrize(("flag", "index"), FLAGS.items())
def test_a_filter_by_team_and_fact_has_an_index_in_the_order_of_the_board(flag: str, index: str, task: Task):
    runs = Run.objects.filter(team=task.team_id, **{flag: True}).order_by("-rank", "-sorted_at", "-pk")[:51]
    assert index in plan_of(runs)
    assert "run_not_filled_in" in plan_of(Run.objects.filter(is_filled_in=None).order_by("-sorted_at")[:500])


def plan_of(runs: Any) -> str:
    """With few rows, PostgreSQL prefers to scan them all."""
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute("SET LOCAL enable_seqscan = off; SET LOCAL enable_sort = off")
    return str(runs.explain())


# --- What pages show


def test_pages_show_the_column_and_not_the_clock(task: Task, client: Client):
    run = make_run(task, **began(longer_than_usual=False))
    urls = [f"/teams/ops-north/{path}" for path in ("runs/", f"runs/{run.pk}/", f"tasks/{task.pk}/")]
    for is_longer in (False, True):
        Run.objects.update(longer_than_usual=is_longer)
        assert ['class="longer"' in client.get(url).content.decode() for url in urls] == [is_longer] * 3


def test_an_open_board_learns_that_a_run_takes_long(task: Task, client: Client, clock: Any):
    make_run(task, **began())
    facts.update_all()
    url = "/teams/ops-north/runs/table/"
    etag = client.get(url)["ETag"]
    clock.shift(LIMIT)
    facts.update_all()
    assert client.get(url, headers={"If-None-Match": etag}).status_code == 304
    clock.shift(1)
    facts.update_all()
    answer = client.get(url, headers={"If-None-Match": etag})
    assert answer.status_code == 200
    assert "longer than usual" in answer.content.decode()
