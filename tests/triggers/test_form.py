"""The form of each kind of task: suggested values, accepted and refused values, and the request."""

import json
import re
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import responses
import time_machine
from django.test import Client
from django.utils import timezone

from taskruns.forms.triggers import ExperimentForm, form_for
from taskruns.models import AuditEvent, Status, Task, Team, Trigger, User
from tests.actions import EVALUATION
from tests.factories import NOW, make_run
from tests.triggers.starting import NEW, url
from tests.wire import trigger_url

LONG = "x" * 200_000
NUL = "a\x00b"
EXPERIMENT = {"experiment_name": "Prompt 12"}
DATASET = {"max_spans": "10000"}


@pytest.fixture
def dataset_task(task: Task) -> Task:
    Task.objects.update(as_read=json.dumps({"type": "TEMPLATE_EVALUATION", "dataset_id": "D1", "project_id": None}))
    return Task.objects.get()


@pytest.fixture
def experiment_task(task: Task) -> Task:
    Task.objects.update(type="run_experiment", as_read=json.dumps({"type": "RUN_EXPERIMENT", "dataset_id": "D1"}))
    return Task.objects.get()


def post(client: Client, task: Task, data: dict[str, Any]) -> Any:
    return client.post(url(task), {"operation": str(uuid.uuid4())} | data)


def sent(arize: responses.RequestsMock) -> Any:
    (call,) = arize.calls
    return json.loads(call.request.body or "")


def fields(page: str) -> list[str]:
    names = re.findall(r'<(?:input|textarea)[^>]* name="([a-z_]+)"', page)
    return [name for name in dict.fromkeys(names) if name not in {"csrfmiddlewaretoken", "operation"}]


def value_of(page: str, name: str) -> str:
    """The value of a field."""
    ((text, area),) = re.findall(
        rf'<(?:input[^>]*? name="{name}"[^>]*? value="([^"]*)"|textarea[^>]* name="{name}"[^>]*>\s*([^<]*))', page
    )
    return str(text or area)


# Suggested values


def windows(page: str) -> dict[str, str]:
    """Value -> label of each choice."""
    found = re.findall(r'<input type="radio" name="window" value="([^"]*)"[^>]*>\s*([^<]*?)\s*</label>', page)
    return dict(found)


def chosen(page: str) -> str:
    (value,) = re.findall(r'<input type="radio" name="window" value="([^"]*)"[^>]* checked', page)
    return str(value)


def test_own_times_begin_at_the_last_run(client: Client, task: Task) -> None:
    for last, start in (
        (NOW - timedelta(hours=5, seconds=3), "2026-11-22T21:59:57"),
        (None, "2026-11-22T03:00:00"),
        (NOW + timedelta(hours=1), "2026-11-22T03:00:00"),
        (NOW - timedelta(days=60), "2026-10-24T03:00:00"),
    ):
        Task.objects.update(last_run_at=last)
        with time_machine.travel(NOW, tick=False):
            page = client.get(url(task)).content.decode()
        names = ["opened_at", "window", "data_start_time", "data_end_time", "max_spans", "override_evaluations"]
        assert fields(page) == names
        assert value_of(page, "data_start_time") == start
        assert value_of(page, "data_end_time") == "2026-11-23T03:00:00"
        assert value_of(page, "max_spans") == "10000"


@pytest.mark.parametrize("days_ago", [0.3, 30.00001, 45])
def test_the_suggestion_is_accepted(days_ago: float, client: Client, task: Task, arize: Any) -> None:
    arize.post(trigger_url(task), json=NEW, status=201)
    now = NOW + timedelta(microseconds=999_999)
    Task.objects.update(last_run_at=now - timedelta(days=days_ago))
    with time_machine.travel(now, tick=False):
        page = client.get(url(task)).content.decode()
        typed = {name: value_of(page, name) for name in ("data_start_time", "data_end_time", "max_spans")}
        assert post(client, task, typed).status_code == 302
    assert sent(arize).keys() == {"data_start_time", "data_end_time", "max_spans", "override_evaluations"}


def test_times_are_in_the_persons_zone_and_sent_in_utc(client: Client, task: Task, oli: User, arize: Any) -> None:
    """The window includes the end of summer time in Berlin: 30 days in local time are an hour more in UTC."""
    User.objects.filter(pk=oli.pk).update(time_zone="Europe/Berlin")
    arize.post(trigger_url(task), json=NEW, status=201)
    Task.objects.update(last_run_at=datetime(2026, 10, 20, 22, 30, tzinfo=UTC))
    with time_machine.travel(datetime(2026, 11, 1, 11, tzinfo=UTC), tick=False):
        page = client.get(url(task)).content.decode()
    assert "Time zone: Europe/Berlin." in page
    assert value_of(page, "data_start_time") == "2026-10-21T00:30:00"
    assert value_of(page, "data_end_time") == "2026-11-01T12:00:00"
    wall = {"data_start_time": "2026-10-10T12:00", "data_end_time": "2026-11-09T12:00", "max_spans": "1"}
    assert post(client, task, wall).status_code == 422
    hour_twice = wall | {"data_end_time": "2026-10-25T02:30"}
    assert post(client, task, hour_twice).status_code == 302
    assert sent(arize)["data_start_time"] == "2026-10-10T10:00:00.000Z"
    assert sent(arize)["data_end_time"] == "2026-10-25T00:30:00.000Z"


def test_a_time_with_an_offset_is_kept(client: Client, task: Task, arize: Any) -> None:
    arize.post(trigger_url(task), json=NEW, status=201)
    window = {"data_start_time": "2026-11-22T00:00+02:00", "data_end_time": "2026-11-22T00:00Z"}
    assert post(client, task, EVALUATION | window | {"override_evaluations": "on"}).status_code == 302
    assert sent(arize) == {
        "data_start_time": "2026-11-21T22:00:00.000Z",
        "data_end_time": "2026-11-22T00:00:00.000Z",
        "max_spans": 10_000,
        "override_evaluations": True,
    }


# Windows to choose from


def sent_window(arize: responses.RequestsMock) -> tuple[str, str]:
    body = json.loads(arize.calls[-1].request.body or "")
    return body["data_start_time"], body["data_end_time"]


def opened(client: Client, task: Task) -> tuple[str, dict[str, str]]:
    """The form's page, and its fields as a browser without a script would send them."""
    page = client.get(url(task)).content.decode()
    names = ("opened_at", "data_start_time", "data_end_time", "max_spans")
    return page, {name: value_of(page, name) for name in names} | {"window": chosen(page)}


def test_the_last_24_hours_are_suggested_with_their_times(client: Client, task: Task, oli: User, arize: Any) -> None:
    User.objects.filter(pk=oli.pk).update(time_zone="Europe/Berlin")
    arize.post(trigger_url(task), json=NEW, status=201)
    Task.objects.update(last_run_at=NOW - timedelta(minutes=1))
    with time_machine.travel(NOW, tick=False):
        page, typed = opened(client, task)
    assert windows(page) == {
        "hour": "Last hour (2026-11-23 03:00 to 2026-11-23 04:00 CET)",
        "day": "Last 24 hours (2026-11-22 04:00 to 2026-11-23 04:00 CET)",
        "week": "Last 7 days (2026-11-16 04:00 to 2026-11-23 04:00 CET)",
        "own": "Own times",
    }
    assert chosen(page) == "day"
    with time_machine.travel(NOW + timedelta(minutes=9), tick=False):
        assert post(client, task, typed).status_code == 302
    assert sent_window(arize) == ("2026-11-22T03:00:00.000Z", "2026-11-23T03:00:00.000Z")


@pytest.mark.parametrize(
    ("window", "start"), [("hour", "2026-11-23T02:00:00.000Z"), ("week", "2026-11-16T03:00:00.000Z")]
)
def test_another_window_is_sent(window: str, start: str, client: Client, task: Task, arize: Any) -> None:
    arize.post(trigger_url(task), json=NEW, status=201)
    with time_machine.travel(NOW, tick=False):
        _, typed = opened(client, task)
        assert post(client, task, typed | {"window": window}).status_code == 302
    assert sent_window(arize) == (start, "2026-11-23T03:00:00.000Z")


def test_a_form_sent_twice_asks_for_the_same_window(client: Client, task: Task, arize: Any) -> None:
    arize.post(trigger_url(task), json=NEW, status=201)
    with time_machine.travel(NOW, tick=False):
        _, typed = opened(client, task)
    typed |= {"operation": str(uuid.uuid4())}
    for minute in (1, 2):
        with time_machine.travel(NOW + timedelta(minutes=minute), tick=False):
            assert client.post(url(task), typed).status_code == 302
    assert len(arize.calls) == 1
    assert Trigger.objects.count() == 1


def test_the_window_of_the_last_run_can_be_used_again(client: Client, task: Task, arize: Any) -> None:
    arize.post(trigger_url(task), json=NEW, status=201)
    window = {"data_start_time": NOW - timedelta(days=3), "data_end_time": NOW - timedelta(days=2)}
    make_run(task, status=Status.COMPLETED, created_at=NOW - timedelta(days=1), **window)
    make_run(task, created_at=NOW - timedelta(hours=1))
    with time_machine.travel(NOW, tick=False):
        page, typed = opened(client, task)
        same = next(value for value in windows(page) if value.startswith("run-"))
        assert windows(page)[same] == "Same as the last run (2026-11-20 03:00 to 2026-11-21 03:00 UTC)"
        # Another run ends before that. The form still means the one that it showed.
        make_run(task, status=Status.COMPLETED, created_at=NOW, data_start_time=NOW, data_end_time=NOW)
        assert post(client, task, typed | {"window": same}).status_code == 302
    assert sent_window(arize) == ("2026-11-20T03:00:00.000Z", "2026-11-21T03:00:00.000Z")


def test_a_window_that_arize_would_refuse_is_not_offered(client: Client, task: Task) -> None:
    make_run(task, data_start_time=NOW - timedelta(days=40), data_end_time=NOW)
    assert list(windows(client.get(url(task)).content.decode())) == ["hour", "day", "week", "own"]


def test_the_run_of_another_task_is_no_choice(client: Client, task: Task, other_team: Team, arize: Any) -> None:
    other = Task.objects.create(team=other_team, endpoint=task.endpoint, arize_id="T9")
    window = {"data_start_time": NOW - timedelta(days=3), "data_end_time": NOW - timedelta(days=2)}
    theirs = make_run(other, **window)
    page = post(client, task, {"window": f"run-{theirs.pk}", "opened_at": "", "max_spans": "1"})
    assert page.status_code == 422
    assert "Select a valid choice." in page.content.decode()
    assert "2026-11-20" not in page.content.decode()
    assert not arize.calls


def test_a_page_that_was_open_for_long_shows_new_times_first(client: Client, task: Task, arize: Any) -> None:
    arize.post(trigger_url(task), json=NEW, status=201)
    with time_machine.travel(NOW, tick=False):
        _, typed = opened(client, task)
    typed |= {"max_spans": "77"}
    with time_machine.travel(NOW + timedelta(hours=5), tick=False):
        page = post(client, task, typed)
        html = page.content.decode()
        assert page.status_code == 422
        assert "This page was open for more than 30 minutes, so its times are new now." in html
        assert value_of(html, "max_spans") == "77"
        assert not arize.calls
        again = typed | {"opened_at": value_of(html, "opened_at"), "window": chosen(html)}
        assert post(client, task, again).status_code == 302
    assert sent_window(arize)[1] == "2026-11-23T08:00:00.000Z"


def test_own_times_are_kept_and_needed(client: Client, task: Task, arize: Any) -> None:
    arize.post(trigger_url(task), json=NEW, status=201)
    _, typed = opened(client, task)
    own = typed | {"window": "own", "data_start_time": "", "data_end_time": "2026-11-22T03:00:00"}
    page = post(client, task, own).content.decode()
    assert "This field is required." in page.split('id="id_data_start_time_error"')[1].split("</ul>")[0]
    assert chosen(page) == "own"
    assert value_of(page, "data_end_time") == "2026-11-22T03:00:00"
    assert post(client, task, own | {"data_start_time": "2026-11-21T03:00:00"}).status_code == 302
    assert sent_window(arize) == ("2026-11-21T03:00:00.000Z", "2026-11-22T03:00:00.000Z")


# Tasks on a dataset, and experiments


def test_a_dataset_has_experiments_and_no_window(client: Client, dataset_task: Task, arize: Any) -> None:
    arize.post(trigger_url(dataset_task), json=NEW, status=201)
    page = client.get(url(dataset_task)).content.decode()
    assert fields(page) == ["experiment_ids", "max_spans", "override_evaluations"]
    window = {name: str(EVALUATION[name]) for name in ("data_start_time", "data_end_time")}
    typed = DATASET | window | {"experiment_ids": " e1 \r\n\r\ne2\ne1 ", "experiment_name": "x"}
    assert post(client, dataset_task, typed).status_code == 302
    assert sent(arize) == {"experiment_ids": ["e1", "e2"], "max_spans": 10_000, "override_evaluations": False}


def test_an_experiment_is_sent_with_the_given_fields(client: Client, experiment_task: Task, arize: Any) -> None:
    arize.post(trigger_url(experiment_task), json=NEW, status=201)
    typed = EXPERIMENT | {
        "dataset_version_id": "V1",
        "example_ids": "x1\nx2",
        "query_filter": "input is not null",
        "tracing_metadata": "team = north\nwhy=a=b",
        "evaluation_task_ids": "T7",
        "max_spans": "5",
    }
    assert post(client, experiment_task, typed).status_code == 302
    body = {
        "experiment_name": "Prompt 12",
        "dataset_version_id": "V1",
        "example_ids": ["x1", "x2"],
        "query_filter": "input is not null",
        "tracing_metadata": {"team": "north", "why": "a=b"},
        "evaluation_task_ids": ["T7"],
    }
    assert sent(arize) == body
    assert AuditEvent.objects.get(outcome="requested").details == body


def test_an_experiment_needs_only_a_name_and_suggests_one(client: Client, experiment_task: Task, arize: Any) -> None:
    arize.post(trigger_url(experiment_task), json=NEW, status=201)
    Task.objects.update(name='The "golden\\ set"\u202e ' + "x" * 300)
    with time_machine.travel(NOW, tick=False):
        page = client.get(url(experiment_task)).content.decode()
    name = value_of(page, "experiment_name")
    assert name.startswith("The golden set x")
    assert name.endswith("x 2026-11-23 03:00:00")
    assert len(name) == 255
    assert post(client, experiment_task, {"experiment_name": name}).status_code == 302
    assert sent(arize) == {"experiment_name": name}


@pytest.mark.parametrize(
    "typed", [EXPERIMENT | {"max_examples": "7"}, EXPERIMENT | {"tracing_metadata": "a=b", "example_ids": "x\ny"}]
)
def test_a_refused_experiment_can_be_edited_again(
    typed: dict[str, str], client: Client, experiment_task: Task, arize: Any
) -> None:
    arize.post(trigger_url(experiment_task), json={"title": "Resource conflict"}, status=409)
    assert post(client, experiment_task, typed).status_code == 409
    page = client.get(url(experiment_task), {"operation": str(Trigger.objects.get().pk)}).content.decode()
    assert "Choose another name." in page
    assert {name: value_of(page, name) for name in typed} == typed


WRONG: list[tuple[str, str, str, str]] = [
    *(
        ("dataset", "experiment_ids", value, words)
        for value, words in {
            NUL: "Null characters are not allowed.",
            LONG: "at most",
            "two words": "“two words” is not an ID",
            "\n".join(f"e{number}" for number in range(101)): "Enter at most 100 lines",
            "x" * 513: "is not an ID",
            "a\x07b": "Invisible characters are not allowed here.",
        }.items()
    ),
    *(
        ("dataset", "max_spans", value, words)
        for value, words in {
            "": "This field is required.",
            "0": "greater than or equal to 1",
            "1.5": "Enter a whole number.",
            "9" * 5_000: "Enter a whole number.",
        }.items()
    ),
    *(
        ("experiment", "experiment_name", value, words)
        for value, words in {
            "": "This field is required.",
            "  ": "This field is required.",
            'a "b"': "no quotation mark",
            "a\\b": "or backslashes in a name",
            "x" * 256: "at most 255 characters",
            NUL: "Null characters are not allowed.",
            "a\nb": "Invisible characters and line breaks",
            "a\u202eb": "Invisible characters and line breaks",
        }.items()
    ),
    *(
        ("experiment", "max_examples", value, words)
        for value, words in {
            "0": "greater than or equal to 1",
            "-3": "greater than or equal to 1",
            "many": "Enter a whole number.",
            "2147483648": "less than or equal to 2147483647",
        }.items()
    ),
    *(
        ("experiment", name, value, words)
        for name in ("query_filter", "dataset_version_id")
        for value, words in {
            "x" * 513: "at most 512 characters",
            NUL: "Null characters are not allowed.",
            "a\u2028b": "Invisible characters and line breaks",
        }.items()
    ),
    *(
        ("experiment", "tracing_metadata", value, words)
        for value, words in {
            "north": "“north” is not a pair",
            "=north": "is not a pair",
            "team=": "is not a pair",
            "a=1\na=2": "The name “a” is used twice.",
            "x" * 101 + "=1": "A name has at most 100 characters, a value at most 512.",
            "a=" + "x" * 513: "A name has at most 100 characters, a value at most 512.",
            NUL: "Null characters are not allowed.",
            LONG: "at most",
        }.items()
    ),
    *(("experiment", name, "a b", "is not an ID") for name in ("example_ids", "evaluation_task_ids")),
]


@pytest.mark.parametrize(
    ("kind", "field", "value", "words"), WRONG, ids=[f"{field} {value[:20]!r}" for _, field, value, _ in WRONG]
)
def test_invalid_values_are_refused_at_their_field_and_kept(
    kind: str, field: str, value: str, words: str, client: Client, request: pytest.FixtureRequest, arize: Any
) -> None:
    task = request.getfixturevalue(f"{kind}_task")
    arize.post(trigger_url(task), json=NEW, status=201)
    good = DATASET if kind == "dataset" else EXPERIMENT
    operation = str(uuid.uuid4())
    page = client.post(url(task), good | {"operation": operation, field: value})
    text = page.content.decode()
    assert page.status_code == 422
    at_field = text.split(f'id="id_{field}_error"')[1].split("</ul>")[0]
    assert words in at_field
    if value and value.isprintable() and len(value) < 600:
        assert value_of(text, field) == value.replace('"', "&quot;")
    assert operation in text, "nothing was sent, so it is still the same form"
    assert not arize.calls
    assert not Trigger.objects.exists()
    assert not AuditEvent.objects.exists()
    assert post(client, task, good).status_code == 302, "the control: the rest of the form was valid"


def test_examples_are_chosen_by_number_or_by_id(client: Client, experiment_task: Task, arize: Any) -> None:
    page = post(client, experiment_task, EXPERIMENT | {"max_examples": "5", "example_ids": "x"})
    assert page.status_code == 422
    assert "Enter either a number of examples or their IDs, not both." in page.content.decode()
    assert not arize.calls


# Kinds of tasks


@pytest.mark.parametrize(
    ("kind", "members", "form"),
    [
        ("template_evaluation", {"project_id": "P"}, "ProjectForm"),
        ("code_evaluation", {"project_id": "P", "dataset_id": None}, "ProjectForm"),
        ("code_evaluation", {"dataset_id": "D"}, "DatasetForm"),
        ("template_evaluation", {}, "ProjectForm"),
        ("run_experiment", {"dataset_id": "D"}, "ExperimentForm"),
    ],
)
def test_the_form_depends_on_the_kind_of_task(kind: str, members: dict[str, Any], form: str) -> None:
    found = form_for(Task(type=kind, as_read=json.dumps(members)))
    assert found is not None
    assert found.__name__ == form


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ({"type": "PROMPT_OPTIMIZATION"}, "This panel does not know the task type “PROMPT_OPTIMIZATION”"),
        ({}, "Arize has not reported the type of this task yet."),
    ],
)
def test_a_task_of_an_unknown_kind_cannot_be_started_and_says_so(
    members: dict[str, Any], words: str, client: Client, task: Task, arize: Any
) -> None:
    Task.objects.update(type="unknown", as_read=json.dumps(members))
    for page, status in ((client.get(url(task)), 200), (post(client, task, EVALUATION), 422)):
        assert page.status_code == status
        assert words in page.content.decode()
        assert "Start the run" not in page.content.decode()
    assert not arize.calls
    assert not AuditEvent.objects.exists()


def test_the_form_links_back_to_the_runs_of_the_task(client: Client, task: Task) -> None:
    Task.objects.update(arize_id="a/b+c==")
    page = client.get(url(task)).content.decode()
    assert 'href="/teams/ops-north/runs/?task=a%2Fb%2Bc%3D%3D"' in page


def test_a_task_without_a_name_gets_a_suggested_one() -> None:
    suggested = ExperimentForm.suggest(Task(arize_id='"'), timezone.now())["experiment_name"]
    assert ExperimentForm({"experiment_name": suggested}).is_valid()
