"""Bulk cancel: each run of a frozen list gets its true outcome and its audit rows."""

import json
from concurrent.futures import Future
from datetime import timedelta
from typing import Any, Self

import pytest
import requests
import responses
import time_machine
from django.conf import settings
from django.db.models import QuerySet
from django.utils import timezone

from taskruns.models import (
    AuditEvent,
    BatchSource,
    BatchState,
    CancelBatch,
    CancelItem,
    Cancellation,
    CancelPace,
    Credential,
    Membership,
    Outcome,
    Run,
    Status,
    Task,
    Team,
    User,
)
from taskruns.services import batches, cancellations, credentials
from taskruns.services.batches import dispatch
from taskruns.services.remote_acts import mark_posted
from tests.factories import actor, make_run
from tests.stored import events
from tests.wire import run_url, wire_run


@pytest.fixture(autouse=True)
def _fast(settings: Any) -> None:  # pytest-django's fixture, which restores the settings
    settings.CANCELS_PER_SECOND = 1_000


@pytest.fixture
def runs(task: Task) -> list[Run]:
    return [make_run(task) for _ in range(5)]


def batch_of(team: Team, runs: list[Run], by: User, **fields: Any) -> CancelBatch:
    ids = [run.pk for run in runs]
    return batches.create_batch(
        team, run_ids=ids, reason="bad prompt", by=actor(by), source=BatchSource.SELECTION, **fields
    )


def finish(batch: CancelBatch, *, most: int = 20) -> CancelBatch:
    """Work on the batch chunk by chunk, without the waits in between, until it is finished."""
    for _ in range(most):
        delay = batches.work(batch.pk)
        if delay is None:
            batch.refresh_from_db()
            return batch
        CancelItem.objects.update(next_try_at=timezone.now())
        CancelPace.objects.update(paused_until=None)
    raise AssertionError("the batch is not finished")


def answers(arize: responses.RequestsMock, run: Run, *posts: Any, seen: str = "RUNNING") -> None:
    """Set Arize's answers: to each POST in order (an HTTP status or a status of the run), and to every GET."""
    for post in posts:
        if isinstance(post, str):
            arize.post(run_url(run, "/cancel"), json=wire_run(run, post))
        elif isinstance(post, Exception):
            arize.post(run_url(run, "/cancel"), body=post)
        else:
            arize.post(run_url(run, "/cancel"), status=post, json={"title": "No", "status": post})
    arize.get(run_url(run), json=wire_run(run, seen))


def states(batch: CancelBatch) -> list[str]:
    return list(batch.items.order_by("pk").values_list("state", flat=True))


def posts(arize: responses.RequestsMock, run: Run) -> int:
    return sum(call.request.method == "POST" and call.request.url == run_url(run, "/cancel") for call in arize.calls)


def test_each_run_is_cancelled_once_and_has_its_rows(team: Team, runs: list[Run], oli: User, arize: Any) -> None:
    for run in runs:
        answers(arize, run, "CANCELLED")
    batch = finish(batch_of(team, runs, oli))
    assert states(batch) == ["confirmed"] * 5
    assert batch.state == BatchState.FINISHED
    assert [posts(arize, run) for run in runs] == [1] * 5
    assert events(event="run.cancel_many") == [("run.cancel_many", "requested"), ("run.cancel_many", "finished")]
    for run in runs:
        rows = AuditEvent.objects.filter(run_id=run.arize_id).order_by("id")
        assert [row.outcome for row in rows] == ["requested", "confirmed"]
        assert {row.details["batch_id"] for row in rows} == {str(batch.pk)}
        assert {(row.actor_label, row.actor_role) for row in rows} == {("oli@example.com", "operator")}
        assert rows[0].reason == "bad prompt"
    finished = AuditEvent.objects.get(outcome="finished")
    assert finished.details["counts"] == {"confirmed": 5}


# --- Arize's answers


@pytest.mark.parametrize(
    ("said", "seen", "state"),
    [
        ("CANCELLED", "CANCELLED", "confirmed"),
        ("COMPLETED", "COMPLETED", "finished_first"),
        (400, "COMPLETED", "finished_first"),
        (400, "FAILED", "failed_first"),
        (409, "CANCELLED", "already_cancelled"),
        (400, "RUNNING", "refused"),
        (403, "RUNNING", "refused"),
        (404, "RUNNING", "refused"),
        (503, "CANCELLED", "confirmed"),
        (503, "COMPLETED", "finished_first"),
    ],
)
def test_an_item_gets_the_outcome_of_its_cancellation(
    said: Any, seen: str, state: str, team: Team, run: Run, oli: User, arize: Any
) -> None:
    answers(arize, run, said, seen=seen)
    batch = finish(batch_of(team, [run], oli))
    assert states(batch) == [state]
    assert posts(arize, run) == 1
    assert outcomes(run) == ["requested", state]


def outcomes(run: Run) -> list[str]:
    rows = AuditEvent.objects.filter(run_id=run.arize_id, event="run.cancel").order_by("seq")
    return list(rows.values_list("outcome", flat=True))


def test_every_429_returns_the_item_to_the_queue(team: Team, run: Run, oli: User, arize: Any) -> None:
    answers(arize, run, 429, 429, 429, 429, 429, "CANCELLED")
    batch = finish(batch_of(team, [run], oli))
    assert states(batch) == ["confirmed"]
    assert posts(arize, run) == 6
    assert outcomes(run) == ["requested", "refused"] * 5 + ["requested", "confirmed"]
    assert batch.items.get().attempts == 1, "a 429 is no attempt"


def test_after_a_429_the_item_waits_as_long_as_arize_asks(team: Team, run: Run, oli: User, arize: Any) -> None:
    arize.post(run_url(run, "/cancel"), status=429, headers={"Retry-After": "4"})
    batch = batch_of(team, [run], oli)
    before = timezone.now()
    assert batches.work(batch.pk) == 1.0
    item = batch.items.get()
    assert item.state == "queued"
    assert timedelta(seconds=3.5) < item.next_try_at - before < timedelta(seconds=6)


@pytest.mark.parametrize("lost", [503, 500, requests.ConnectionError("cut")])
def test_a_lost_cancel_without_effect_is_sent_at_most_three_times(
    lost: Any, team: Team, run: Run, oli: User, arize: Any
) -> None:
    answers(arize, run, lost, lost, lost, "CANCELLED")
    batch = finish(batch_of(team, [run], oli))
    assert states(batch) == ["unknown"]
    assert posts(arize, run) == 3
    assert outcomes(run) == ["requested", "unknown"] * 3
    rows = AuditEvent.objects.filter(outcome="requested", event="run.cancel").order_by("seq")
    assert [row.details["attempt"] for row in rows] == [1, 2, 3]
    assert [row.details.get("previous_operation") for row in rows[1:]] == [str(row.operation_id) for row in rows[:2]]


def test_a_lost_cancel_is_checked_before_it_is_sent_again(team: Team, run: Run, oli: User, arize: Any) -> None:
    arize.post(run_url(run, "/cancel"), body=requests.ConnectionError("cut"))
    for _ in range(3):
        arize.get(run_url(run), status=500)
    batch = batch_of(team, [run], oli)
    batches.work(batch.pk)
    assert states(batch) == ["sent"], "the run could not be read, so its state is not known"
    arize.get(run_url(run), json=wire_run(run, "CANCELLED"))
    finish(batch)
    assert states(batch) == ["confirmed"]
    assert posts(arize, run) == 1
    assert outcomes(run) == ["requested", "unknown", "confirmed"]


def test_a_run_that_cannot_be_read_is_unknown_and_not_sent_again(team: Team, run: Run, oli: User, arize: Any) -> None:
    arize.post(run_url(run, "/cancel"), status=503)
    arize.get(run_url(run), status=500)
    batch = finish(batch_of(team, [run], oli))
    assert states(batch) == ["unknown"]
    assert posts(arize, run) == 1
    assert outcomes(run) == ["requested", "unknown"]


def test_a_later_outcome_reaches_the_item(team: Team, run: Run, oli: User, arize: Any) -> None:
    answers(arize, run, 503, 503, 503)
    batch = finish(batch_of(team, [run], oli))
    assert states(batch) == ["unknown"]
    arize.replace("GET", run_url(run), json=wire_run(run, "CANCELLED"))
    cancellations.sweep()
    assert batches.follow_unknown() == 1
    assert states(batch) == ["already_cancelled"], "the run went on after each cancel, so none of them stopped it"


def test_a_batch_stays_open_until_its_stopping_run_has_stopped(team: Team, run: Run, oli: User, arize: Any) -> None:
    answers(arize, run, "RUNNING")
    batch = batch_of(team, [run], oli)
    assert batches.work(batch.pk) == 5.0
    assert states(batch) == ["sent"]
    arize.replace("GET", run_url(run), json=wire_run(run, "CANCELLED"))
    cancellations.sweep()
    finish(batch)
    assert states(batch) == ["confirmed"]
    assert posts(arize, run) == 1


def test_a_run_that_keeps_running_for_300_s_is_still_running(team: Team, run: Run, oli: User, arize: Any) -> None:
    answers(arize, run, "RUNNING")
    batch = batch_of(team, [run], oli)
    batches.work(batch.pk)
    with time_machine.travel(timezone.now() + timedelta(seconds=301)):
        cancellations.sweep()
        batch = finish(batch)
    assert states(batch) == ["still_running"]
    assert batch.state == BatchState.FINISHED


# --- Runs that end or are cancelled elsewhere


def test_a_run_that_ended_before_its_turn_needs_no_cancel(team: Team, run: Run, oli: User, arize: Any) -> None:
    batch = batch_of(team, [run], oli)
    Run.objects.filter(pk=run.pk).update(status=Status.COMPLETED, rank=0)
    finish(batch)
    assert states(batch) == ["not_needed"]
    assert outcomes(run) == ["not_needed"]
    assert not arize.calls


def test_an_item_joins_a_single_cancel_of_its_run(team: Team, run: Run, oli: User, mona: User, arize: Any) -> None:
    batch = batch_of(team, [run], oli)
    single = Cancellation.objects.create(run=run, person=mona, person_label=mona.email)
    batches.work(batch.pk)
    item = batch.items.get()
    assert (item.state, item.joined, item.cancellation) == ("sent", True, single)
    assert outcomes(run) == ["joined"]
    Cancellation.objects.filter(pk=single.pk).update(outcome=Outcome.CONFIRMED)
    finish(batch)
    assert states(batch) == ["confirmed"]
    assert not arize.calls


def test_a_single_cancel_joins_the_cancel_of_a_batch(team: Team, run: Run, oli: User, mona: User, arize: Any) -> None:
    answers(arize, run, "RUNNING")
    batches.work(batch_of(team, [run], oli).pk)
    assert cancellations.cancel(run, by=actor(mona, "manager")).outcome == "joined"
    assert posts(arize, run) == 1


def test_two_batches_with_one_run_send_one_post(team: Team, run: Run, oli: User, mona: User, arize: Any) -> None:
    answers(arize, run, "RUNNING")
    first, second = batch_of(team, [run], oli), batch_of(team, [run], mona)
    batches.work(first.pk)
    batches.work(second.pk)
    assert posts(arize, run) == 1
    arize.replace("GET", run_url(run), json=wire_run(run, "CANCELLED"))
    cancellations.sweep()
    assert [states(finish(batch)) for batch in (first, second)] == [["confirmed"], ["confirmed"]]


# --- Rights, abort, keys


def test_a_right_lost_during_a_batch_stops_the_rest(team: Team, runs: list[Run], oli: User, arize: Any) -> None:
    def demoted(run: Run) -> Any:
        Membership.objects.filter(user=oli).update(role="viewer")
        return (200, {}, json.dumps(wire_run(run, "CANCELLED")))

    settings.CANCELS_PER_SECOND = 3  # one or two at a time
    for run in runs:
        arize.add_callback("POST", run_url(run, "/cancel"), lambda _request, run=run: demoted(run))
    batch = batch_of(team, runs, oli)
    in_this_thread(batch)
    batch.refresh_from_db()
    assert batch.state == BatchState.ABORTED
    assert batch.why_aborted.startswith("oli@example.com no longer has permission")
    assert set(states(batch)) == {"confirmed", "left_out"}
    aborted = AuditEvent.objects.get(event="run.cancel_many", outcome="aborted")
    assert (aborted.actor_type, aborted.details["counts"]["left_out"]) == ("job", states(batch).count("left_out"))


def in_this_thread(batch: CancelBatch) -> None:
    """Work on one chunk in this thread, so that the fake Arize's callback uses the test's transaction."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("taskruns.services.batches.worker.ThreadPoolExecutor", SameThread)
        batches.work(batch.pk)


class SameThread:
    def __init__(self, _threads: int) -> None: ...
    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...

    def submit(self, ask: Any, *args: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(ask(*args))
        return future


@pytest.mark.parametrize("loss", ["removed", "disabled", "archived"])
def test_a_batch_sends_nothing_once_its_person_has_lost_the_right(
    loss: str, team: Team, runs: list[Run], oli: User, arize: Any
) -> None:
    batch = batch_of(team, runs, oli)
    {
        "removed": Membership.objects.filter(user=oli).delete,
        "disabled": lambda: User.objects.filter(pk=oli.pk).update(is_active=False),
        "archived": lambda: Team.objects.filter(pk=team.pk).update(archived_at=timezone.now()),
    }[loss]()
    batches.work(batch.pk)
    batch.refresh_from_db()
    assert (batch.state, states(batch)) == (BatchState.ABORTED, ["left_out"] * 5)
    assert not arize.calls


def test_an_abort_sends_nothing_more_and_follows_sent_cancels(
    team: Team, runs: list[Run], oli: User, mona: User, arize: Any
) -> None:
    settings.CANCELS_PER_SECOND = 1
    answers(arize, runs[0], "RUNNING")
    for run in runs:
        answers(arize, run, "RUNNING")
    batch = batch_of(team, runs, oli)
    CancelItem.objects.filter(batch=batch).exclude(run=runs[0]).update(
        next_try_at=timezone.now() + timedelta(minutes=4)
    )
    batches.work(batch.pk)
    CancelItem.objects.filter(batch=batch, state="queued").update(next_try_at=timezone.now())
    assert batches.abort(batch, by=actor(mona, "manager"))
    assert not batches.abort(batch, by=actor(mona, "manager")), "a second abort changes nothing"
    batches.work(batch.pk)
    batch.refresh_from_db()
    assert batch.finished_at is None
    assert sorted(states(batch)) == ["left_out"] * 4 + ["sent"]
    arize.replace("GET", run_url(runs[0]), json=wire_run(runs[0], "CANCELLED"))
    cancellations.sweep()
    batch = finish(batch)
    assert batch.state == BatchState.ABORTED
    assert sorted(states(batch)) == ["confirmed"] + ["left_out"] * 4
    assert sum(posts(arize, run) for run in runs) == 1
    many = AuditEvent.objects.filter(event="run.cancel_many").order_by("seq")
    assert [(row.outcome, row.actor_label) for row in many] == [
        ("requested", "oli@example.com"),
        ("aborted", "mona@example.com"),
        ("finished", "oli@example.com"),
    ]
    assert many[1].details["counts"] == {"left_out": 4, "sent": 1}


@pytest.mark.parametrize(
    ("stamp", "ahead", "facts"),
    [
        ("failing_since", timedelta(0), {}),
        ("rejected_at", timedelta(0), {}),
        ("backoff_until", timedelta(minutes=4), {"backoff_is_limit": True}),
    ],
    ids=["failing", "just rejected", "429"],
)
def test_runs_of_a_failing_key_wait_until_it_works(
    stamp: str, ahead: timedelta, facts: Any, team: Team, run: Run, credential: Credential, oli: User, arize: Any
) -> None:
    answers(arize, run, "CANCELLED")
    trouble = facts | {stamp: timezone.now() + ahead}
    Credential.objects.filter(pk=credential.pk).update(**trouble)
    batch = batch_of(team, [run], oli)
    assert batches.work(batch.pk) is not None
    assert (states(batch), len(arize.calls)) == (["queued"], 0)
    Credential.objects.filter(pk=credential.pk).update(failing_since=None, rejected_at=None, backoff_until=None)
    finish(batch)
    assert states(batch) == ["confirmed"]


def test_a_batch_does_not_wait_for_the_mirror_after_a_server_error(
    team: Team, run: Run, credential: Credential, oli: User, arize: Any
) -> None:
    """The mirror may rest for minutes. The batch has its own, shorter pauses."""
    answers(arize, run, "CANCELLED")
    Credential.objects.update(backoff_until=timezone.now() + timedelta(minutes=5), backoff_reason="503")
    batch = batch_of(team, [run], oli)
    finish(batch)
    assert states(batch) == ["confirmed"]


def test_runs_of_a_rejected_key_wait_and_none_is_given_up(
    team: Team, runs: list[Run], credential: Credential, oli: User, arize: Any
) -> None:
    """One 401 may be a fault of Arize. After the second look, the runs wait until the key works again."""
    settings.CANCELS_PER_SECOND = 1
    for run in runs:
        answers(arize, run, 401)
    batch = batch_of(team, runs, oli)
    began = timezone.now()
    with time_machine.travel(began) as clock:
        for failing, posts_sent in ((False, 1), (True, 2), (True, 2)):
            in_this_thread(batch)
            credential.refresh_from_db()
            assert (credential.failing_since is not None) == failing
            assert sum(posts(arize, run) for run in runs) == posts_sent
            assert states(batch) == ["queued"] * 5
            clock.shift(11)
    assert events(event="credential.failing") == [("credential.failing", "done")]
    arize.reset()
    for run in runs:
        answers(arize, run, "CANCELLED")
    credentials.note_recovered(credential, by=actor(oli))
    settings.CANCELS_PER_SECOND = 1_000
    assert states(finish(batch)) == ["confirmed"] * 5


def test_a_run_without_a_key_is_not_sent_and_says_so(team: Team, task: Task, run: Run, oli: User, arize: Any) -> None:
    Task.objects.update(credential=None)
    batch = finish(batch_of(team, [run], oli))
    assert states(batch) == ["not_sent"]
    assert outcomes(run) == ["requested", "not_sent"]


# --- Workers


def test_a_claimed_batch_waits_for_its_worker_until_the_claim_expires(
    team: Team, run: Run, oli: User, arize: Any
) -> None:
    answers(arize, run, "CANCELLED")
    batch = batch_of(team, [run], oli)
    CancelBatch.objects.update(claimed_until=timezone.now() + timedelta(seconds=4))
    assert batches.due(timezone.now()) == []
    assert batches.work(batch.pk) is None
    assert not arize.calls
    with time_machine.travel(timezone.now() + timedelta(seconds=6)):
        assert batches.due(timezone.now()) == [batch.pk]
        finish(batch)
    assert states(batch) == ["confirmed"]


def test_runs_of_a_killed_worker_are_read_before_they_are_sent_again(
    team: Team, run: Run, oli: User, arize: Any
) -> None:
    """Killed when it was about to send: only Arize knows whether it did, so the run is read."""
    answers(arize, run, "CANCELLED")
    batch = batch_of(team, [run], oli)
    (opened,) = dispatch.open_some(batch.pk, run.task.credential_id, most=5)
    assert mark_posted([opened.attempt]) == {opened.attempt.pk}
    assert outcomes(run) == ["requested"]
    batches.work(batch.pk)
    assert not arize.calls, "it may still be in progress"
    with time_machine.travel(timezone.now() + timedelta(seconds=46)):
        batches.work(batch.pk)
        assert [call.request.method for call in arize.calls] == ["GET"]
        finish(batch)
    assert states(batch) == ["confirmed"]
    assert outcomes(run) == ["requested", "unknown", "requested", "confirmed"]


def test_a_clock_that_is_set_back_keeps_no_cancel_waiting(
    team: Team, task: Task, oli: User, arize: Any, settings: Any
) -> None:
    """Their moments to be sent are an hour ahead then."""
    settings.CANCELS_PER_SECOND = 20
    runs = [make_run(task) for _ in range(8)]
    sent: list[str] = []
    with time_machine.travel(timezone.now(), tick=True) as clock:
        for run in runs:

            def answer(_request: Any, run: Run = run) -> tuple[int, dict[str, str], str]:
                sent.append(run.arize_id)
                if len(sent) == 2:
                    clock.shift(-3_600)
                return 200, {}, json.dumps(wire_run(run, "CANCELLED"))

            arize.add_callback(responses.POST, run_url(run, "/cancel"), callback=answer)
        batch = finish(batch_of(team, runs, oli))
    assert states(batch) == ["confirmed"] * 8
    assert len(sent) == 8


def test_a_draft_does_nothing_and_is_deleted(team: Team, runs: list[Run], arize: Any) -> None:
    draft = batches.draft_of(team, run_ids=[run.pk for run in runs], source=BatchSource.SELECTION)
    assert batches.work(draft.pk) is None
    assert batches.due(timezone.now()) == []
    assert batches.forget_drafts() == 0
    with time_machine.travel(timezone.now() + timedelta(days=2)):
        batches.forget_drafts()
    assert not CancelBatch.objects.exists()
    assert not arize.calls
    assert not AuditEvent.objects.exists()


def test_a_draft_that_is_confirmed_while_old_ones_are_deleted_stays(
    team: Team, runs: list[Run], arize: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    draft = batches.draft_of(team, run_ids=[run.pk for run in runs], source=BatchSource.SELECTION)
    locked = QuerySet.select_for_update

    def confirmed_first(rows: Any, *args: Any, **kwargs: Any) -> Any:
        CancelBatch.objects.filter(pk=draft.pk).update(state=BatchState.WORKING)
        return locked(rows, *args, **kwargs)

    monkeypatch.setattr(QuerySet, "select_for_update", confirmed_first)
    with time_machine.travel(timezone.now() + timedelta(days=2)):
        batches.forget_drafts()
    assert CancelBatch.objects.get().items.count() == len(runs)


def test_a_draft_contains_only_active_runs_of_the_team(
    team: Team, task: Task, runs: list[Run], other_team: Team
) -> None:
    ended = make_run(task, status=Status.COMPLETED)
    theirs = make_run(Task.objects.create(team=other_team, endpoint=task.endpoint, arize_id="x"))
    draft = batches.draft_of(
        team, run_ids=[*[run.pk for run in runs], ended.pk, theirs.pk], source=BatchSource.SELECTION
    )
    assert set(draft.items.values_list("run_id", flat=True)) == {run.pk for run in runs}
    assert draft.passed_over == 2
