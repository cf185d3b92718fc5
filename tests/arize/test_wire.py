"""The tolerant reader: documented values, odd values and invalid ones."""

import json
import math
from dataclasses import fields
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskruns.arize.errors import Unreadable
from taskruns.arize.paging import Page
from taskruns.arize.values import DEEPEST, MOST
from taskruns.arize.wire import (
    RunStatus,
    TaskType,
    WireRun,
    WireSpace,
    WireTask,
    read_status,
    read_type,
)
from tests.paths import CANCEL_ANSWER

SAMPLE = json.loads(CANCEL_ANSWER.read_text())
ANY_TEXT = st.text(st.characters(exclude_categories=()))
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | ANY_TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(ANY_TEXT, inner, max_size=4),
    max_leaves=12,
)
RUN_MEMBERS = [*SAMPLE, "experiment_id", "failure_reason"]
TASK_MEMBERS = [field.name for field in fields(WireTask) if not field.name.startswith("raw")]
MOMENTS = st.none() | st.datetimes(min_value=datetime(1900, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 - hypothesis needs a naive one
STORABLE = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
COUNTS = st.none() | st.integers(0, MOST)


def test_sample_answer_of_the_docs_is_read():
    run = WireRun.from_json(SAMPLE)
    assert run == WireRun(
        id="VGFza1J1bjo5OTpxUndY",
        task_id="T25saW5lVGFzazo0NTpxUndY",
        experiment_id=None,
        status=RunStatus.COMPLETED,
        raw_status="completed",
        run_started_at=datetime(2026, 3, 7, 10, 30, 1, tzinfo=UTC),
        run_finished_at=datetime(2026, 3, 7, 10, 35, 22, tzinfo=UTC),
        data_start_time=datetime(2026, 3, 1, tzinfo=UTC),
        data_end_time=datetime(2026, 3, 7, tzinfo=UTC),
        num_successes=4850,
        num_errors=12,
        num_skipped=138,
        created_at=datetime(2026, 3, 7, 10, 30, tzinfo=UTC),
        created_by_user_id="VXNlcjoxOm5OYkM=",
        failure_reason=None,
        raw=SAMPLE,
    )


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        ("PENDING", RunStatus.PENDING),
        ("running", RunStatus.RUNNING),
        ("Completed", RunStatus.COMPLETED),
        (" FAILED\n", RunStatus.FAILED),
        ("CANCELLED", RunStatus.CANCELLED),
        ("canceled", RunStatus.CANCELLED),
        ("CANCELED", RunStatus.CANCELLED),
        ("PAUSED", RunStatus.UNKNOWN),
        ("", RunStatus.UNKNOWN),
        (None, RunStatus.UNKNOWN),
        (3, RunStatus.UNKNOWN),
        (["RUNNING"], RunStatus.UNKNOWN),
    ],
)
def test_status_is_read_in_every_spelling(sent, status):
    assert read_status(sent) is status


def test_unknown_status_is_neither_active_nor_ended():
    run = WireRun.from_json({"id": "r", "status": "PAUSED"})
    assert (run.status, run.raw_status) == (RunStatus.UNKNOWN, "PAUSED")
    assert not run.status.is_active
    assert not run.status.is_ended


def test_known_status_is_active_or_ended():
    assert {status for status in RunStatus if status.is_active} == {RunStatus.PENDING, RunStatus.RUNNING}
    assert {status for status in RunStatus if status.is_active == status.is_ended} == {RunStatus.UNKNOWN}


@pytest.mark.parametrize("kind", [kind for kind in TaskType if kind is not TaskType.UNKNOWN])
def test_type_is_read_in_both_cases(kind):
    assert read_type(kind.value.upper()) is read_type(kind.value) is kind
    assert read_type("GUESS") is TaskType.UNKNOWN


@pytest.mark.parametrize("record", [WireSpace, WireTask, WireRun])
@pytest.mark.parametrize(
    "data", [None, [], "id", 5, {}, *({"id": bad} for bad in (None, "", " ", "\0", True, [], 1.5))]
)
def test_only_a_usable_id_is_required(record, data):
    with pytest.raises(Unreadable):
        record.from_json(data)
    assert record.from_json({"id": 12}).id == "12"


@pytest.mark.parametrize("record", [WireSpace, WireTask, WireRun])
def test_raw_distinguishes_null_from_absent(record):
    absent, null = record.from_json({"id": "i"}), record.from_json({"id": "i", "name": None, "status": None})
    assert ("name" in absent.raw, "name" in null.raw) == (False, True)
    assert hash(absent) == hash(null)


def test_task_and_space_are_read_completely():
    task = WireTask.from_json({
        "id": "t", "name": "Nightly", "type": "RUN_EXPERIMENT", "project_id": "p", "dataset_id": "d",
        "sampling_rate": 1, "is_continuous": True, "last_run_at": "2026-03-07T10:30:01Z",
        "created_at": "2026-03-01T00:00:00Z", "updated_at": "2026-03-02T00:00:00Z",
        "created_by_user_id": "u", "experiment_ids": ["e1", 2, None, "", "e3"], "evaluators": [{"x": 0.5}],
    })  # fmt: skip
    assert (task.type, task.raw_type, task.sampling_rate) == (TaskType.RUN_EXPERIMENT, "RUN_EXPERIMENT", 1.0)
    assert (task.name, task.project_id, task.dataset_id, task.is_continuous) == ("Nightly", "p", "d", True)
    assert task.experiment_ids == ("e1", "2", "e3")
    assert task.last_run_at == datetime(2026, 3, 7, 10, 30, 1, tzinfo=UTC)
    assert (task.created_at.day, task.updated_at.day, task.created_by_user_id) == (1, 2, "u")
    assert task.raw["evaluators"] == [{"x": 0.5}]
    space = WireSpace.from_json({"id": "s", "name": "Prod", "organization_id": "o", "is_private": False})
    assert (space.name, space.organization_id, space.raw["is_private"]) == ("Prod", "o", False)


def test_raw_keeps_unknown_members_and_drops_unstorable_values():
    deep = 1
    for _ in range(DEEPEST + 100):
        deep = [deep]
    run = WireRun.from_json(
        {"id": "r", "ne\0w": [0.1, "a\0", {"k\0": math.nan}], "s": "\udfff", "big": math.inf, "deep": deep}
    )
    assert {name: run.raw[name] for name in ("new", "s", "big")} == {
        "new": [0.1, "a", {"k": None}],
        "s": "\ufffd",
        "big": None,
    }
    assert json.dumps(run.raw, allow_nan=False).count("[") == DEEPEST


@pytest.mark.parametrize("data", [{}, {"tasks": []}, {"task_runs": None}, {"task_runs": []}])
def test_page_without_its_list_is_empty(data):
    assert Page.from_json(data, member="task_runs", item=WireRun.from_json) == Page(items=(), next_cursor=None)


@pytest.mark.parametrize("data", [None, [], "x", 5, {"task_runs": {}}, {"task_runs": "x"}, {"task_runs": 0}])
def test_page_without_an_object_is_unreadable(data):
    with pytest.raises(Unreadable):
        Page.from_json(data, member="task_runs", item=WireRun.from_json)


def test_page_skips_unreadable_items():
    data = {
        "task_runs": [{"id": "a"}, {}, None, "b", {"id": ""}, {"id": 3}],
        "pagination": {"next_cursor": "c"},
    }
    page = Page.from_json(data, member="task_runs", item=WireRun.from_json)
    assert [run.id for run in page.items] == ["a", "3"]
    assert page.next_cursor == "c"


@pytest.mark.parametrize("pagination", [None, [], {}, {"next_cursor": None}, {"next_cursor": ""}, {"next_cursor": []}])
def test_page_without_a_usable_cursor_is_the_last(pagination):
    page = Page.from_json({"spaces": None, "pagination": pagination}, member="spaces", item=WireSpace.from_json)
    assert page == Page(items=(), next_cursor=None)


@given(ANY_JSON)
def test_any_json_is_read_or_raises_unreadable(data):
    for record in (WireSpace, WireTask, WireRun):
        try:
            record.from_json(data)
        except Unreadable:
            continue


@pytest.mark.slow
@given(st.fixed_dictionaries({"id": st.text("abc", min_size=1)}, optional=dict.fromkeys(RUN_MEMBERS[1:], ANY_JSON)))
def test_any_run_with_an_id_can_be_read_and_stored(data):
    run = WireRun.from_json(data)
    assert run.id == data["id"]
    json.dumps(run.raw, allow_nan=False, ensure_ascii=False).encode()
    assert "\0" not in repr(run.raw)


@given(st.fixed_dictionaries({"id": st.text("abc", min_size=1)}, optional=dict.fromkeys(TASK_MEMBERS[1:], ANY_JSON)))
def test_any_task_with_an_id_can_be_read(data):
    assert WireTask.from_json(data).id == data["id"]


@given(
    status=st.sampled_from(RunStatus),
    is_upper=st.booleans(),
    moments=st.lists(MOMENTS, min_size=5, max_size=5),
    counts=st.lists(COUNTS, min_size=3, max_size=3),
    texts=st.lists(st.none() | STORABLE, min_size=4, max_size=4),
    offset=st.integers(-1439, 1439),
)
def test_rendered_run_is_read_back_unchanged(status, is_upper, moments, counts, texts, offset):
    zone = timezone(timedelta(minutes=offset))
    names = ["run_started_at", "run_finished_at", "data_start_time", "data_end_time", "created_at"]
    rendered = [moment and _shifted(moment, zone).isoformat() for moment in moments]
    data = {
        "id": "r",
        "status": status.upper() if is_upper else status.value,
        **dict(zip(names, rendered, strict=True)),
        **dict(zip(["num_successes", "num_errors", "num_skipped"], counts, strict=True)),
        **dict(zip(["task_id", "experiment_id", "created_by_user_id", "failure_reason"], texts, strict=True)),
    }
    run = WireRun.from_json(json.loads(json.dumps(data)))
    assert [getattr(run, name) for name in names] == moments
    assert [run.num_successes, run.num_errors, run.num_skipped] == counts
    assert [run.task_id, run.experiment_id, run.created_by_user_id, run.failure_reason] == texts
    assert (run.status, run.raw) == (status, data)


def _shifted(moment, zone):
    try:
        return moment.astimezone(zone)
    except OverflowError:  # the last hours of the year 9999
        return moment
