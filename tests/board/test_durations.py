"""The usual duration of a task's runs: updated by each reading that ends a run, shown beside each run."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from taskruns.arize.wire import WireRun
from taskruns.models import Run, Status, Task, Team
from taskruns.pages.values import Pace, pace_of, roughly, usual_of
from taskruns.services.runs.observations import (
    FEWEST_COMPLETED,
    LAST_COMPLETED,
    SCANNED,
    Reading,
    learn_usual,
    record_observation,
    record_readings,
)
from tests.factories import make_run
from tests.runs.past import fill, past
from tests.runs.readings import START, at, reading, without


def usual(task: Task) -> int | None:
    learn_usual(task.pk)
    task.refresh_from_db()
    return task.usual_seconds


def test_the_usual_duration_is_the_median_of_completed_runs(task: Task):
    past(task, 60, 600, 300, 30, 900)
    assert usual(task) == 300


@pytest.mark.parametrize("known", range(FEWEST_COMPLETED))
def test_too_few_runs_give_no_duration(known: int, task: Task):
    past(task, *[60] * known)
    assert usual(task) is None
    past(task, *[60] * FEWEST_COMPLETED)
    assert usual(task) == 60


def test_only_completed_runs_with_both_times_count(task: Task, team: Team):
    past(task, *[100] * FEWEST_COMPLETED)
    past(task, *[900] * 9, status=Status.FAILED)
    past(task, *[900] * 9, status=Status.CANCELLED)
    past(task, *[900] * 9, run_started_at=None)
    past(task, *[900] * 9, run_finished_at=None)
    other = Task.objects.create(team=team, endpoint=task.endpoint, arize_id="other")
    past(other, *[900] * 9)
    assert usual(task) == 100


def test_impossible_times_do_not_count(task: Task):
    """An end before the start; the year 1, which some servers send for "not yet"."""
    past(task, *[100] * FEWEST_COMPLETED)
    past(task, *[-50] * 9)
    past(task, *[900] * 9, run_started_at=datetime(1, 1, 1, tzinfo=UTC))
    assert usual(task) == 100


def test_only_the_latest_runs_count(task: Task):
    past(task, *[60] * LAST_COMPLETED, *[3_600] * 100)
    assert usual(task) == 60


def test_old_runs_are_not_read(task: Task):
    past(task, *[1] * SCANNED, status=Status.FAILED)
    past(task, *[60] * FEWEST_COMPLETED, created_at=START - timedelta(days=400))
    assert usual(task) is None


def test_a_task_without_runs_loses_its_usual_duration(task: Task):
    past(task, *[60] * FEWEST_COMPLETED)
    assert usual(task) == 60
    Run.objects.all().delete()
    assert usual(task) is None


COMPLETED = {"run_started_at": "2026-11-23T03:00:00Z", "run_finished_at": "2026-11-23T03:02:00Z"}


@pytest.mark.parametrize("as_list", [False, True])
def test_a_reading_that_completes_a_run_updates_its_task(as_list: Any, task: Task):
    past(task, *[120] * (FEWEST_COMPLETED - 1))
    run = make_run(task, created_at=START)
    seen = reading(run, "COMPLETED", **COMPLETED)
    if as_list:
        record_readings([Reading(task, [seen], at(5))])
    else:
        record_observation(run, seen, at(5))
    task.refresh_from_db()
    assert task.usual_seconds == 120


def test_first_contact_updates_its_tasks(task: Task):
    stored = [Run(task=task, arize_id=f"R{number}") for number in range(FEWEST_COMPLETED)]
    record_readings([Reading(task, [reading(run, "COMPLETED", **COMPLETED) for run in stored], at(5))])
    task.refresh_from_db()
    assert task.usual_seconds == 120


def looks_at_durations(act: Any) -> bool:
    with CaptureQueriesContext(connection) as queries:
        act()
    return any("usual_seconds" in query["sql"] and query["sql"].startswith("UPDATE") for query in queries)


def test_a_reading_that_completes_nothing_runs_no_query(task: Task):
    running, failing = make_run(task, created_at=START), make_run(task, created_at=START)
    done = past(task, 120)[0]
    page: list[WireRun] = [reading(running, num_successes=11), reading(failing, "FAILED"), reading(done, "COMPLETED")]
    assert looks_at_durations(lambda: record_readings([Reading(task, page, at(5))]))
    page[:2] = [reading(running, num_successes=12), reading(failing, "FAILED", num_errors=3)]
    assert not looks_at_durations(lambda: record_readings([Reading(task, page, at(6))]))
    assert not looks_at_durations(lambda: record_observation(running, reading(running, num_successes=13), at(7)))
    assert not looks_at_durations(lambda: record_observation(done, reading(done, "COMPLETED"), at(8)))


def test_an_answer_without_a_status_does_no_harm(task: Task):
    run = make_run(task, created_at=START)
    record_readings([Reading(task, [without(run, "status")], at(5))])
    run.refresh_from_db()
    assert run.num_successes == 10


def test_updating_takes_two_queries_for_any_number_of_runs(task: Task):
    counts = []
    for length in (FEWEST_COMPLETED, 300):
        past(task, *[60] * length)
        with CaptureQueriesContext(connection) as queries:
            learn_usual(task.pk)
        counts.append(len(queries))
    assert counts == [2, 2]


@pytest.mark.slow
def test_generated_runs_have_a_usual_duration_too(team: Team):
    fill("ops-north", 2_000)
    completed = Run.objects.filter(status=Status.COMPLETED).values("task")
    assert Task.objects.filter(pk__in=completed).count() == 200
    assert not Task.objects.filter(pk__in=completed, usual_seconds=None).exists()


SAID = {
    0: "0 s",
    99: "99 s",
    100: "2 min",
    321: "5 min",
    7_169: "119 min",
    7_199: "2 h",
    86_400: "24 h",
    172_800: "2 d",
}


@pytest.mark.parametrize(("seconds", "words"), SAID.items())
def test_a_duration_is_shown_in_one_unit(seconds: int, words: str):
    assert roughly(seconds) == words


@pytest.mark.parametrize("is_longer", [False, True, None])
def test_the_pace_is_what_is_stored(is_longer: Any, task: Task):
    task.usual_seconds = 300
    run = Run(task=task, status=Status.RUNNING, run_started_at=START, longer_than_usual=is_longer)
    assert pace_of(run) == Pace("usually 5 min", is_longer=bool(is_longer))


def test_without_a_usual_duration_nothing_is_shown(task: Task):
    task.usual_seconds = None
    assert pace_of(Run(task=task, status=Status.RUNNING, run_started_at=START)) == Pace()
    assert usual_of(task) == ""
