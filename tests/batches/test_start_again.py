"""Starting ended runs again in bulk: each at most once, with the request that it had, and with its audit rows."""

import json
from datetime import timedelta
from typing import Any

import pytest
import requests
import time_machine
from django.db import IntegrityError
from django.db.models import Q
from django.utils import timezone

from taskruns.arize.triggers import EvaluationTrigger, ExperimentTrigger
from taskruns.models import (
    AuditEvent,
    BatchState,
    CancelBatch,
    CancelItem,
    Credential,
    EmergencyStop,
    ItemState,
    Membership,
    Run,
    Status,
    Task,
    Team,
    Trigger,
    User,
)
from taskruns.services import batches, triggers
from taskruns.services.batches import dispatch
from taskruns.services.remote_acts import mark_posted
from tests.arize_server import ArizeServer, serving
from tests.batches.starting_again import (
    BODY,
    END,
    START,
    accept,
    draft_starts,
    ended_run,
    finish,
    start_again,
    starts,
    states,
)
from tests.factories import actor, make_credential, make_run, make_task, member
from tests.stored import events
from tests.threads import in_threads
from tests.wire import ENDPOINT, trigger_url


@pytest.fixture(autouse=True)
def _fast(settings: Any) -> None:  # pytest-django's fixture, which restores the settings
    settings.CANCELS_PER_SECOND = 1_000


@pytest.fixture
def runs(task: Task) -> list[Run]:
    return [ended_run(task, status=status) for status in (Status.FAILED, Status.CANCELLED, Status.FAILED)]


def newest(arize: Any, task: Task, *ids: str, status: int = 200) -> None:
    """What Arize lists after a lost answer."""
    items = [{"id": run, "task_id": task.arize_id, "status": "PENDING"} for run in ids]
    body = {"task_runs": items, "pagination": {"has_more": False}}
    arize.get(f"{ENDPOINT}/v2/tasks/{task.arize_id}/runs", json=body, status=status)


def rows(outcome: str) -> list[AuditEvent]:
    return list(AuditEvent.objects.filter(event="run.trigger", outcome=outcome).order_by("seq"))


def test_each_run_is_started_once_and_has_its_rows(task: Task, runs: list[Run], oli: User, arize: Any) -> None:
    accept(arize, task)
    batch = finish(start_again(runs, oli))
    assert (states(batch), batch.state, starts(arize)) == (["done"] * 3, BatchState.FINISHED, 3)
    assert events(event="run.trigger_many") == [("run.trigger_many", "requested"), ("run.trigger_many", "finished")]
    requested, done = rows("requested"), rows("done")
    assert sorted(row.details["again"] for row in requested) == sorted(run.arize_id for run in runs)
    assert {row.operation_id for row in requested} == {row.operation_id for row in done}
    assert {row.run_id for row in done} == {"new-1", "new-2", "new-3"}
    for row in (*requested, *done):
        assert row.details["batch_id"] == str(batch.pk)
        assert (row.actor_label, row.actor_role) == ("oli@example.com", "operator")
    assert {row.reason for row in requested} == {"bad data"}
    many = AuditEvent.objects.get(event="run.trigger_many", outcome="requested")
    assert (many.details["runs"], many.details["statuses"]) == (3, {"cancelled": 1, "failed": 2})
    assert many.details["override_evaluations"] is False
    assert {item.trigger.run.arize_id for item in batch.items.select_related("trigger__run")} == {
        *("new-1", "new-2", "new-3")
    }


# --- What is sent


def sent(arize: Any) -> list[dict[str, Any]]:
    return [json.loads(call.request.body) for call in arize.calls if call.request.method == "POST"]


def test_an_evaluation_is_started_with_the_window_that_it_had(task: Task, oli: User, arize: Any) -> None:
    accept(arize, task)
    finish(start_again([ended_run(task)], oli, override_evaluations=True))
    assert sent(arize) == [BODY | {"override_evaluations": True}]


def test_a_run_that_was_started_here_keeps_its_other_values(task: Task, oli: User, arize: Any) -> None:
    accept(arize, task)
    run = ended_run(task)
    was = EvaluationTrigger(window=(START, END), max_spans=77, override_evaluations=True).as_json()
    triggers_of(run, oli, was)
    finish(start_again([run], oli))
    assert sent(arize) == [BODY | {"max_spans": 77}]


def triggers_of(run: Run, by: User, parameters: dict[str, Any]) -> None:
    Trigger.objects.create(
        pk="5f0c4a34-27a5-4d0c-9d0f-3c3c1b8a0009",
        task=run.task,
        person=by,
        person_label=by.email,
        parameters=parameters,
        outcome="done",
        run=run,
    )


def test_an_evaluation_of_a_dataset_has_no_window(task: Task, oli: User, arize: Any) -> None:
    accept(arize, task)
    Task.objects.update(as_read='{"dataset_id": "RGF0YXNldDox", "project_id": null}')
    finish(start_again([ended_run(task, data_start_time=None, data_end_time=None)], oli))
    assert sent(arize) == [{"max_spans": 10_000, "override_evaluations": False}]


@pytest.mark.parametrize(
    ("name", "pattern", "names"),
    [
        ("Nightly", "{name} again {n}", ["Nightly again 1", "Nightly again 2"]),
        ("Nightly", "{time} {n}", ["2026-11-23 03:00:00 1", "2026-11-23 03:00:00 2"]),
        ('{n}"\\\n{name}\u202e', "{name}/{n}", ["{n}{name}/1", "{n}{name}/2"]),
        ("x" * 300, "{name} again {n}", [f"{'x' * 247} again 1", f"{'x' * 247} again 2"]),
    ],
)
def test_experiments_get_new_names(
    name: str, pattern: str, names: list[str], task: Task, oli: User, arize: Any
) -> None:
    accept(arize, task)
    Task.objects.update(type="run_experiment", name=name)
    two = [ended_run(task, data_start_time=None, data_end_time=None) for _ in range(2)]
    with time_machine.travel("2026-11-23T03:00:00Z", tick=False):
        batch = start_again(two, oli, experiment_name=pattern)
    finish(batch)
    assert sorted(body["experiment_name"] for body in sent(arize)) == names
    assert all(len(name) <= 255 for name in names)


def test_an_experiment_that_was_started_here_keeps_its_examples(task: Task, oli: User, arize: Any) -> None:
    accept(arize, task)
    Task.objects.update(type="run_experiment")
    run = ended_run(task)
    triggers_of(run, oli, ExperimentTrigger("Old", example_ids=("e1", "e2")).as_json())
    finish(start_again([run], oli, experiment_name="{name} {n}"))
    assert sent(arize) == [{"experiment_name": "Old 1", "example_ids": ["e1", "e2"]}]


@pytest.mark.parametrize(
    ("fields", "state"),
    [
        ({"data_start_time": None}, "no_window"),
        ({"data_end_time": None}, "no_window"),
        ({"data_start_time": END, "data_end_time": START}, "no_window"),
        ({"data_start_time": START.replace(year=1)}, "no_window"),
        ({"data_start_time": START.replace(year=1970)}, "long_window"),
        ({"data_start_time": END - timedelta(days=30, seconds=1)}, "long_window"),
        ({"data_start_time": END - timedelta(days=30)}, "queued"),
    ],
)
def test_a_run_without_a_usable_window_is_not_started(
    fields: dict[str, Any], state: str, task: Task, oli: User, arize: Any
) -> None:
    accept(arize, task)
    good, odd = ended_run(task), ended_run(task, **fields)
    batch = draft_starts([good, odd])
    assert batch.items.get(run=odd).state == state
    finish(batches.confirm(batch, reason="why", by=actor(oli)))
    assert starts(arize) == 1 + (state == "queued")
    many = AuditEvent.objects.get(event="run.trigger_many", outcome="requested")
    assert many.details["runs"] == 1 + (state == "queued")


def test_a_list_without_a_startable_run_cannot_be_confirmed(task: Task, oli: User) -> None:
    Task.objects.update(type="unknown")
    batch = draft_starts([ended_run(task)])
    assert states(batch) == ["unknown_type"]
    with pytest.raises(batches.NothingLeft, match="No run is left"):
        batches.confirm(batch, reason="why", by=actor(oli))
    assert events() == []


def test_only_failed_and_cancelled_runs_of_the_team_are_listed(task: Task, other_team: Team, runs: list[Run]) -> None:
    others = [ended_run(task, status=status) for status in (Status.RUNNING, Status.COMPLETED, Status.GONE)]
    theirs = ended_run(Task.objects.create(team=other_team, endpoint=task.endpoint, arize_id="x"))
    batch = draft_starts([*runs, *others, theirs])
    assert set(batch.items.values_list("run", flat=True)) == {run.pk for run in runs}
    assert batch.passed_over == 4


def test_more_than_a_thousand_runs_are_refused(task: Task) -> None:
    Run.objects.bulk_create([ended_run_unsaved(task, number) for number in range(1_001)])
    with pytest.raises(batches.TooManyStarts, match="More than 1,000 runs"):
        draft_starts(list(Run.objects.all()))
    assert not CancelBatch.objects.exists()


def ended_run_unsaved(task: Task, number: int) -> Run:
    now = timezone.now()
    return Run(
        team=task.team,
        task=task,
        endpoint=task.endpoint,
        arize_id=f"r{number}",
        status=Status.FAILED,
        observed_at=now,
        sorted_at=now,
    )


# --- At most once


def test_a_list_confirmed_twice_starts_once(task: Task, runs: list[Run], oli: User, arize: Any) -> None:
    accept(arize, task)
    draft = draft_starts(runs)
    for _ in range(2):
        batches.confirm(draft, reason="why", by=actor(oli))
    finish(draft)
    assert starts(arize) == 3
    assert len(events(event="run.trigger_many")) == 2


def test_two_lists_with_the_same_runs_start_each_run_once(task: Task, runs: list[Run], oli: User, arize: Any) -> None:
    accept(arize, task)
    both = [start_again(runs, oli) for _ in range(2)]
    first, second = map(finish, both)
    assert (states(first), states(second)) == (["done"] * 3, ["already_started"] * 3)
    assert starts(arize) == 3
    skipped = rows("not_sent")
    assert {str(row.details["previous_operation"]) for row in skipped} == {
        str(pk) for pk in Trigger.objects.values_list("pk", flat=True)
    }
    assert states(draft_starts(runs)) == ["already_started"] * 3, "and a new list says so"


@pytest.mark.parametrize("lost", [503, 500, requests.ConnectionError("cut")])
def test_a_start_whose_answer_is_lost_is_never_repeated(lost: Any, task: Task, oli: User, arize: Any) -> None:
    answer = {"body": lost} if isinstance(lost, Exception) else {"status": lost}
    arize.post(trigger_url(task), **answer)
    newest(arize, task, "maybe-mine")
    batch = finish(start_again([ended_run(task)], oli))
    assert (states(batch), starts(arize)) == (["unknown"], 1)
    assert rows("unknown")[0].details["new_runs"] == ["maybe-mine"]
    assert batches.draft_retry(batch) is None, "a retry could start a second run"
    assert states(draft_starts(list(Run.objects.filter(status="failed")))) == ["already_started"]


def test_an_answer_with_a_run_that_existed_before_proves_no_start(task: Task, oli: User, arize: Any) -> None:
    run = ended_run(task, arize_id="old", first_seen_at=timezone.now() - timedelta(hours=1))
    arize.post(trigger_url(task), status=201, json={"id": "old", "task_id": task.arize_id, "status": "PENDING"})
    batch = finish(start_again([run], oli))
    assert (states(batch), starts(arize)) == (["unknown"], 1)
    assert rows("done") == []


def test_every_429_returns_the_run_to_the_queue(task: Task, oli: User, arize: Any) -> None:
    for _ in range(4):
        arize.post(trigger_url(task), status=429, headers={"Retry-After": "1"})
    arize.post(trigger_url(task), status=201, json={"id": "new", "task_id": task.arize_id, "status": "PENDING"})
    batch = finish(start_again([ended_run(task)], oli))
    assert (states(batch), starts(arize)) == (["done"], 5)
    assert [outcome for _, outcome in events(event="run.trigger")] == ["requested", "refused"] * 4 + [
        *("requested", "done")
    ]
    assert batch.items.get().attempts == 1, "a 429 is no attempt"


def test_a_long_retry_after_pauses_the_key(task: Task, runs: list[Run], oli: User, arize: Any) -> None:
    arize.post(trigger_url(task), status=429, headers={"Retry-After": "30"})
    batch = start_again(runs[:1], oli)
    assert batches.work(batch.pk) == 5.0
    assert states(batch) == ["queued"]
    CancelItem.objects.update(next_try_at=timezone.now())
    assert batches.work(batch.pk) == 1.0, "the key's own pause holds it"
    assert starts(arize) == 1


@pytest.mark.parametrize("status", [400, 403, 404, 409, 422])
def test_a_refusal_is_not_repeated_and_can_be_retried(status: int, task: Task, oli: User, arize: Any) -> None:
    arize.post(trigger_url(task), status=status, json={"title": "No", "status": status})
    batch = finish(start_again([ended_run(task)], oli))
    assert (states(batch), starts(arize)) == (["refused"], 1)
    again = batches.draft_retry(batch)
    assert again is not None
    assert (states(again), again.kind, again.previous) == (["queued"], "trigger", batch)


def test_five_lost_answers_in_a_row_end_the_batch(task: Task, oli: User, arize: Any, settings: Any) -> None:
    arize.post(trigger_url(task), status=503)
    newest(arize, task, status=503)
    batch = finish(start_again([ended_run(task) for _ in range(30)], oli), most=60)
    assert batch.state == BatchState.ABORTED
    assert batch.why_aborted.startswith("Arize did not answer the last 5 starts.")
    counts = batches.counts_of(batch)
    assert counts["unknown"] == starts(arize) < 30
    assert counts["unknown"] + counts["left_out"] == 30
    aborted = AuditEvent.objects.get(event="run.trigger_many", outcome="aborted")
    assert aborted.actor_type == "job"
    retried = batches.draft_retry(batch)
    assert retried is not None
    assert retried.items.count() == counts["left_out"]


def test_a_worker_killed_before_the_post_starts_the_run_later(task: Task, oli: User, arize: Any) -> None:
    accept(arize, task)
    batch = start_again([ended_run(task)], oli)
    (opened,) = dispatch.open_some(batch.pk, task.credential_id, most=5)
    assert states(batch) == ["sent"]
    assert [outcome for _, outcome in events(event="run.trigger")] == ["requested"]
    triggers.sweep()
    assert batches.work(batch.pk) is not None
    assert starts(arize) == 0, "a live worker may still send it"
    with time_machine.travel(timezone.now() + timedelta(seconds=6)):
        finish(batch)
    assert (states(batch), starts(arize)) == (["done"], 1)
    assert [outcome for _, outcome in events(event="run.trigger")] == ["requested", "not_sent", "requested", "done"]
    assert mark_posted([opened.attempt]) == set(), "the first worker, if it lives, sends nothing more"


def test_a_slow_worker_sends_what_nobody_has_given_up(task: Task, oli: User, arize: Any) -> None:
    """It notes that it sends just before another worker would have queued the run again."""
    batch = start_again([ended_run(task)], oli)
    (opened,) = dispatch.open_some(batch.pk, task.credential_id, most=5)
    unsent = CancelItem.objects.select_related("trigger__task__team").get()
    assert mark_posted([opened.attempt]) == {opened.attempt.pk}
    dispatch.KINDS["trigger"].close_unsent([unsent], actor(oli))
    assert states(batch) == ["sent"]
    assert [outcome for _, outcome in events(event="run.trigger")] == ["requested"]


def test_a_worker_killed_after_the_post_leaves_an_unknown_start(task: Task, oli: User, arize: Any) -> None:
    batch = start_again([ended_run(task)], oli)
    (opened,) = dispatch.open_some(batch.pk, task.credential_id, most=5)
    assert mark_posted([opened.attempt]) == {opened.attempt.pk}
    with time_machine.travel(timezone.now() + timedelta(seconds=61)):
        batches.work(batch.pk)
        assert states(batch) == ["sent"]
        triggers.sweep()
        batch = finish(batch)
    assert (states(batch), batch.state, starts(arize)) == (["unknown"], BatchState.FINISHED, 0)
    assert [outcome for _, outcome in events(event="run.trigger")] == ["requested", "unknown"]


def test_a_late_answer_replaces_an_unknown_outcome(task: Task, oli: User, arize: Any) -> None:
    accept(arize, task)
    batch = start_again([ended_run(task)], oli)
    (opened,) = dispatch.open_some(batch.pk, task.credential_id, most=5)
    mark_posted([opened.attempt])
    with time_machine.travel(timezone.now() + timedelta(seconds=61)):
        triggers.sweep()
        finish(batch)
    assert states(batch) == ["unknown"]
    kind = dispatch.KINDS["trigger"]
    assert triggers.close(opened.attempt, kind.ask(opened), by=actor(oli))
    assert batches.follow_unknown() == 1
    assert states(batch) == ["done"]


def test_two_workers_start_each_run_once(committed: None, settings: Any, monkeypatch: Any) -> None:
    """Even if the claim of the batch does not keep the second worker away, and two batches list the same runs."""
    task_id, number = "T25saW5lVGFzazo0NTpxUndY", iter(range(1, 1_000))

    def answer(method: str, path: str) -> tuple[int, Any]:
        return 201, {"id": f"new-{next(number)}", "task_id": task_id, "status": "PENDING"}

    with serving(ArizeServer(answer)) as server:
        settings.ARIZE_ENDPOINTS = (server.url,)
        team = Team.objects.create(slug="ops-north", name="Ops North")
        oli = member(team, "oli@example.com", "operator")
        credential = make_credential(team)
        task = make_task(team, credential)
        Credential.objects.update(endpoint=server.url)
        runs = [ended_run(task) for _ in range(40)]
        both = [start_again(runs, oli) for _ in range(2)]
        monkeypatch.setattr("taskruns.services.batches.worker._unclaimed", lambda _: Q())
        in_threads(4, lambda place: batches.work(both[place % 2].pk))
        for batch in both:
            while batches.work(batch.pk) is not None:
                pass
        found = sorted(states(both[0]) + states(both[1]))
        assert found == ["already_started"] * 40 + ["done"] * 40
        assert len(server.posts()) == 40
        assert server.faults == []
    assert len(rows("requested")) == len(rows("done")) == 40


# --- Stops, rights, abort, keys


def test_a_stop_pulled_in_the_middle_holds_the_rest(task: Task, oli: User, arize: Any) -> None:
    accept(arize, task)
    free = Task.objects.create(
        team=task.team, endpoint=task.endpoint, arize_id="free", credential=task.credential, type="code_evaluation"
    )
    arize.post(trigger_url(free), status=201, json={"id": "n", "task_id": "free", "status": "PENDING"})
    batch = start_again([ended_run(task), ended_run(task), ended_run(free)], oli)
    stop = EmergencyStop.objects.create(
        team=task.team, person=oli, person_label=oli.email, reason="why", left_out=[str(free.pk)]
    )
    batch = finish(batch)
    assert sorted(states(batch)) == ["done", "held", "held"]
    assert starts(arize) == 1
    held = rows("not_sent")
    assert [row.details["stop"] for row in held] == [str(stop.pk)] * 2
    assert not AuditEvent.objects.filter(event="run.trigger", outcome="requested", task_id=task.arize_id).exists()
    retried = batches.draft_retry(batch)
    assert retried is not None
    with pytest.raises(batches.Held, match=r"Nothing was started: oli@example\.com pulled the emergency stop"):
        batches.confirm(retried, reason="why", by=actor(oli))
    EmergencyStop.objects.update(end="lifted")
    finish(batches.confirm(retried, reason="why", by=actor(oli)))
    assert (states(retried), starts(arize)) == (["done", "done"], 3)


@pytest.mark.parametrize("loss", ["removed", "viewer", "disabled", "archived"])
def test_a_right_lost_before_the_turn_starts_nothing(
    loss: str, team: Team, runs: list[Run], oli: User, arize: Any
) -> None:
    batch = start_again(runs, oli)
    {
        "removed": Membership.objects.filter(user=oli).delete,
        "viewer": lambda: Membership.objects.filter(user=oli).update(role="viewer"),
        "disabled": lambda: User.objects.filter(pk=oli.pk).update(is_active=False),
        "archived": lambda: Team.objects.filter(pk=team.pk).update(archived_at=timezone.now()),
    }[loss]()
    batches.work(batch.pk)
    batch.refresh_from_db()
    assert (batch.state, states(batch)) == (BatchState.ABORTED, ["left_out"] * 3)
    assert batch.why_aborted.startswith("oli@example.com no longer has permission to start runs again")
    assert not arize.calls


def test_an_abort_starts_nothing_more(runs: list[Run], oli: User, mona: User, arize: Any) -> None:
    batch = start_again(runs, oli)
    dispatch.open_some(batch.pk, runs[0].task.credential_id, most=1)
    assert batches.abort(batch, by=actor(mona, "manager"))
    assert not batches.abort(batch, by=actor(mona, "manager"))
    assert sorted(states(batch)) == ["left_out", "left_out", "sent"]
    with time_machine.travel(timezone.now() + timedelta(seconds=6)):
        batch = finish(batch)
    assert (sorted(set(states(batch))), starts(arize)) == (["left_out", "not_sent"], 0)
    assert events(event="run.trigger_many") == [
        ("run.trigger_many", "requested"),
        ("run.trigger_many", "aborted"),
        ("run.trigger_many", "finished"),
    ]


def test_runs_of_a_failing_key_wait_until_it_works(task: Task, runs: list[Run], oli: User, arize: Any) -> None:
    accept(arize, task)
    Credential.objects.update(failing_since=timezone.now())
    batch = start_again(runs, oli)
    assert batches.work(batch.pk) is not None
    assert (states(batch), len(arize.calls)) == (["queued"] * 3, 0)
    Credential.objects.update(failing_since=None)
    assert states(finish(batch)) == ["done"] * 3


def test_a_run_without_a_key_is_not_started_and_says_so(task: Task, runs: list[Run], oli: User, arize: Any) -> None:
    Task.objects.update(credential=None)
    batch = finish(start_again(runs[:1], oli))
    assert states(batch) == ["not_sent"]
    assert "No API key" in batch.items.get().trigger.explanation


def test_removed_runs_are_not_started(task: Task, runs: list[Run], oli: User, arize: Any) -> None:
    accept(arize, task)
    draft = draft_starts(runs)
    assert batches.remove(draft, run_ids=[runs[0].pk]) == 1
    batch = finish(batches.confirm(draft, reason="why", by=actor(oli)))
    assert (states(batch), starts(arize)) == (["done", "done"], 2)
    assert batches.remove(batch, run_ids=[runs[1].pk]) == 0, "a confirmed list stays as it is"


def test_a_bulk_cancel_leads_to_a_list_of_its_runs(task: Task, oli: User) -> None:
    run = make_run(task, data_start_time=START, data_end_time=END)
    other = make_run(task, data_start_time=START, data_end_time=END)
    cancelled = batches.create_batch(task.team, run_ids=[run.pk, other.pk], reason="x", by=actor(oli), source="stop")
    Run.objects.filter(pk=run.pk).update(status=Status.CANCELLED, rank=0)
    Run.objects.filter(pk=other.pk).update(status=Status.COMPLETED, rank=0)
    again = batches.draft_again(cancelled)
    assert again is not None
    assert [item.run for item in again.items.select_related("run")] == [run]
    assert (again.kind, again.source, again.previous, states(again)) == ("trigger", "batch", cancelled, ["queued"])


def test_the_database_refuses_a_second_start_of_a_run(task: Task, runs: list[Run], oli: User, arize: Any) -> None:
    """The control of the lock: even code that forgets it cannot open two."""
    batch = start_again(runs[:1], oli)
    dispatch.open_some(batch.pk, task.credential_id, most=1)
    item = batch.items.get()
    rival = CancelItem(batch=draft_starts([runs[1]]), run=item.run, state=ItemState.SENT, trigger=item.trigger)
    with pytest.raises(IntegrityError):
        rival.save()
