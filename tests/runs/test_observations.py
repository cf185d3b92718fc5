"""A reading of Arize changes a mirrored run only if it is newer than what is known."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from django.utils import timezone
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from taskruns.arize.wire import RunStatus, WireRun
from taskruns.models import Run, Status, Task, Team
from taskruns.services.runs.observations import Reading, record_gone, record_observation, record_readings
from tests.factories import make_run
from tests.runs.readings import START, at, reading, without


@pytest.fixture
def run(task: Task) -> Run:
    return make_run(task, observed_at=START, created_at=START)


@pytest.mark.parametrize("as_list", [False, True])
def test_an_older_reading_never_overwrites_a_newer_one(as_list: Any, run: Run) -> None:
    record_observation(run, reading(run, "CANCELLED"), at(5))
    if as_list:
        record_readings([Reading(run.task, [reading(run, "RUNNING", num_successes=99)], at(4))])
    else:
        assert not record_observation(run, reading(run, "RUNNING", num_successes=99), at(4))
    run.refresh_from_db()
    assert (run.status, run.rank, run.num_successes, run.observed_at) == ("cancelled", 0, 10, at(5))
    record_observation(run, reading(run, "FAILED", num_successes=99), at(6))
    run.refresh_from_db()
    assert (run.status, run.num_successes) == ("failed", 99)


def test_a_stale_object_in_memory_does_not_undo_what_is_stored(run: Run) -> None:
    stale = Run.objects.get(pk=run.pk)
    record_observation(run, reading(run, "COMPLETED"), at(5))
    record_observation(stale, reading(run, "RUNNING"), at(6))
    run.refresh_from_db()
    assert run.status == "running"


def test_a_missing_member_is_kept_and_a_null_clears_it(run: Run) -> None:
    full = {"experiment_id": "E1", "failure_reason": "no data", "data_start_time": "2026-11-20T00:00:00Z"}
    record_observation(run, reading(run, **full), at(1))
    record_observation(run, without(run, "status", "num_errors", "created_at", "run_started_at"), at(2))
    run.refresh_from_db()
    assert (run.status, run.num_errors, run.experiment_id) == ("running", 1, "E1")
    assert run.run_started_at == datetime(2026, 11, 23, 2, 55, tzinfo=UTC)
    assert run.sorted_at == datetime(2026, 11, 23, 2, 54, 59, tzinfo=UTC)
    record_observation(run, reading(run, **dict.fromkeys(full), num_errors=None), at(3))
    run.refresh_from_db()
    assert (run.experiment_id, run.failure_reason, run.data_start_time, run.num_errors) == (None,) * 4
    assert run.num_successes == 10


def test_a_null_status_is_an_unknown_one(run: Run) -> None:
    record_observation(run, reading(run, status=None), at(1))
    run.refresh_from_db()
    assert (run.status, run.rank) == ("unknown", 0)


@pytest.mark.parametrize("status", ["PENDING", "running", "COMPLETED", "failed", "Cancelled", "canceled", "PAUSED"])
def test_each_status_is_read_in_any_case(status: str, run: Run) -> None:
    known = {"canceled": "cancelled", "PAUSED": "unknown"}.get(status, status.lower())
    record_observation(run, reading(run, status), at(1))
    run.refresh_from_db()
    assert (run.status, run.raw_status) == (known, status)
    assert run.rank == (known in {"pending", "running"})


def test_a_missing_run_is_gone_and_comes_back(run: Run) -> None:
    assert record_gone(run, at(1))
    run.refresh_from_db()
    assert (run.status, run.rank, run.gone_since is not None) == ("gone", 0, True)
    since = run.gone_since
    assert not record_gone(run, at(2))
    run.refresh_from_db()
    assert run.gone_since == since
    assert record_observation(run, reading(run, "RUNNING"), at(3))
    run.refresh_from_db()
    assert (run.status, run.rank, run.gone_since) == ("running", 1, None)


@pytest.mark.parametrize("status", ["completed", "failed", "cancelled"])
def test_an_ended_run_missing_from_arize_is_not_gone(status: str, task: Task) -> None:
    ended = make_run(task, status=Status(status), observed_at=START)
    assert not record_gone(ended, at(1))
    ended.refresh_from_db()
    assert ended.status == status


def test_an_older_404_does_not_hide_a_run_that_was_seen_later(run: Run) -> None:
    record_observation(run, reading(run), at(5))
    assert not record_gone(run, at(4))
    run.refresh_from_db()
    assert run.status == "running"


def test_only_a_visible_change_wakes_the_board(run: Run) -> None:
    record_observation(run, reading(run), at(1))
    before = Team.objects.get().board_version
    assert not record_observation(run, reading(run), at(2))
    assert Team.objects.get().board_version == before
    run.refresh_from_db()
    assert run.observed_at == at(2)
    assert record_observation(run, reading(run, num_successes=11), at(3))
    assert Team.objects.get().board_version > before


def test_an_outdated_reading_does_not_wake_the_board(run: Run) -> None:
    record_observation(run, reading(run), at(5))
    before = Team.objects.get().board_version
    record_readings([Reading(run.task, [reading(run, num_successes=1)], at(4))])
    assert Team.objects.get().board_version == before


def test_unknown_members_are_kept(run: Run) -> None:
    record_observation(run, reading(run, "COMPLETED", progress={"share": 0.5}), at(1))
    run.refresh_from_db()
    assert json.loads(run.as_read)["progress"] == {"share": 0.5}


def test_values_no_database_can_hold_are_stored_in_part(run: Run) -> None:
    odd = {"failure_reason": "a\0b\ud800c" + "x" * 1_000_000, "num_successes": 10**30, "num_errors": -5}
    record_observation(run, reading(run, **odd), at(1))
    run.refresh_from_db()
    assert run.failure_reason is not None
    assert run.failure_reason.startswith("ab\ufffdcxxx")
    assert len(run.failure_reason) == 1_000_004
    assert (run.num_successes, run.num_errors) == (2**63 - 1, 0)


def test_a_new_run_without_members_is_sorted_by_when_it_was_first_seen(task: Task) -> None:
    before = timezone.now()
    record_readings([Reading(task, [WireRun.from_json({"id": "bare"})], before)])
    bare = Run.objects.get(arize_id="bare")
    assert (bare.status, bare.rank, bare.created_at) == ("unknown", 0, None)
    assert bare.sorted_at >= before


@pytest.mark.parametrize(("length", "is_kept"), [(2_000, True), (2_001, False), (5_000, False)])
def test_ids_too_long_for_an_index_are_left_out(length: int, is_kept: Any, task: Task) -> None:
    """Use random text, because repeated text is compressed and would fit."""
    long_id = "".join(chr(33 + (i * i * 31 + i // 7) % 90) for i in range(length))
    seen = [WireRun.from_json({"id": id_, "status": "RUNNING"}) for id_ in (long_id, "beside-it")]
    assert record_readings([Reading(task, seen, START)]) == 1 + is_kept
    assert Run.objects.filter(arize_id=long_id).exists() is is_kept
    assert Run.objects.filter(arize_id="beside-it").exists()


def test_an_experiment_id_too_long_for_an_index_is_left_out(run: Run) -> None:
    long_id = "".join(chr(33 + (i * i * 31 + i // 7) % 90) for i in range(5_000))
    record_observation(run, reading(run, "COMPLETED", experiment_id=long_id), at(1))
    run.refresh_from_db()
    assert (run.status, run.experiment_id) == ("completed", None)
    assert json.loads(run.as_read)["experiment_id"] == long_id


def test_one_page_may_name_a_run_twice(task: Task) -> None:
    seen = [WireRun.from_json({"id": "twin", "status": status}) for status in ("RUNNING", "COMPLETED")]
    assert record_readings([Reading(task, seen, START)]) == 1
    assert Run.objects.get().status == "completed"


def test_a_page_costs_few_queries_when_nothing_changed(task: Task, django_assert_max_num_queries: Any) -> None:
    seen = [WireRun.from_json({"id": f"run-{n}", "status": "RUNNING"}) for n in range(100)]
    record_readings([Reading(task, seen, at(1))])
    with django_assert_max_num_queries(6):
        record_readings([Reading(task, seen, at(2))])
    assert set(Run.objects.values_list("observed_at", flat=True)) == {at(2)}


MOMENTS = st.permutations(range(1, 7))
STATUSES = st.lists(st.sampled_from([*RunStatus, "gone"]), min_size=6, max_size=6)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(order=MOMENTS, statuses=STATUSES, how=st.lists(st.booleans(), min_size=6, max_size=6))
def test_any_order_of_readings_ends_in_the_newest_one(
    order: list[int], statuses: list[str], how: Any, task: Task
) -> None:
    run = make_run(task, observed_at=START)
    for moment, status, as_list in zip(order, statuses, how, strict=True):
        seen = reading(run, str(status), num_successes=moment)
        if status == "gone":
            record_gone(run, at(moment))
        elif as_list:
            record_readings([Reading(task, [seen], at(moment))])
        else:
            record_observation(run, seen, at(moment))
    newest = statuses[order.index(6)]
    run.refresh_from_db()
    if newest == "gone":
        # An ended run stays ended, because Arize may forget it.
        assert run.status in {"gone", "completed", "failed", "cancelled"}
    else:
        assert (run.status, run.num_successes) == (newest, 6)
    assert run.rank == int(run.status in {"pending", "running"})


def test_times_of_the_year_1_are_no_times(task: Task) -> None:
    """Some servers send them instead of null. The stored JSON keeps what was sent."""
    run = make_run(task, observed_at=at(0))
    never = "0001-01-01T00:00:00Z"
    record_observation(run, reading(run, "RUNNING", run_started_at=never, run_finished_at=never), at(1))
    run.refresh_from_db()
    assert (run.run_started_at, run.run_finished_at) == (None, None)
    assert json.loads(run.as_read)["run_started_at"] == never
