"""While a stop holds, new active runs are cancelled once, in its owner's name, as long as the owner has the right."""

from datetime import timedelta
from typing import Any

import pytest
import responses
import time_machine
from django.test import Client
from django.utils import timezone

from taskruns import jobs
from taskruns.models import (
    AuditEvent,
    CancelBatch,
    CancelItem,
    Cancellation,
    Credential,
    EmergencyStop,
    Membership,
    Run,
    Task,
    Team,
    TeamRole,
    User,
)
from taskruns.services import stops
from tests.actions import EVALUATION
from tests.clients import ClientOf
from tests.factories import actor, make_run
from tests.fake_arize import World
from tests.queue_worker import work
from tests.stored import events
from tests.wire import run_url, wire_run

pytestmark = pytest.mark.usefixtures("empty_queue")

WHY = "Evaluations eat the budget"


@pytest.fixture(autouse=True)
def _fast(settings: Any) -> None:
    settings.CANCELS_PER_SECOND = 1_000


@pytest.fixture
def stop(team: Team, oli: User) -> EmergencyStop:
    return stops.pull(team, reason=WHY, left_out=[], by=actor(oli)).stop


def cancels(arize: responses.RequestsMock, *runs: Run, answer: str = "CANCELLED") -> None:
    for run in runs:
        arize.post(run_url(run, "/cancel"), json=wire_run(run, answer))


def posts(arize: responses.RequestsMock) -> list[str]:
    return [str(call.request.url) for call in arize.calls if call.request.method == "POST"]


def batches() -> list[int]:
    return [batch.items.count() for batch in CancelBatch.objects.order_by("created_at")]


# From reading a run to its outcome


def test_a_round_of_the_mirror_finds_new_runs_and_the_stop_cancels_them(
    team: Team, oli: User, credential: Credential, arize: Any
) -> None:
    world = World().install(arize)
    world.task("T1")
    jobs.refresh_credential.call_local(str(credential.pk))
    stop = stops.pull(team, reason=WHY, left_out=[], by=actor(oli)).stop
    world.run("R1", "T1")
    world.task("T2")
    world.run("R2", "T2")
    Credential.objects.update(next_refresh_at=timezone.now(), tasks_read_at=None)
    Task.objects.update(runs_read_at=timezone.now() - timedelta(minutes=1))
    arize.post(f"{credential.endpoint}/v2/task-runs/R1/cancel", json={"id": "R1", "status": "CANCELLED"})
    arize.post(f"{credential.endpoint}/v2/task-runs/R2/cancel", json={"id": "R2", "status": "CANCELLED"})
    jobs.refresh_credential.call_local(str(credential.pk))
    work()
    assert set(Run.objects.values_list("arize_id", "status")) == {("R1", "cancelled"), ("R2", "cancelled")}
    for run_id in ("R1", "R2"):
        rows = AuditEvent.objects.filter(run_id=run_id).order_by("pk")
        assert [row.outcome for row in rows] == ["requested", "confirmed"]
        assert {row.details["stop"] for row in rows} == {str(stop.pk)}
        assert {(row.actor_label, row.actor_role, row.reason) for row in rows[:1]} == {
            ("oli@example.com", "operator", WHY)
        }


def test_the_board_and_the_page_of_a_run_show_the_stop_as_the_cause(
    run: Run, oli: User, arize: Any, client_of: ClientOf
) -> None:
    cancels(arize, run)
    jobs.wake_batch(stops.pull(run.team, reason=WHY, left_out=[], by=actor(oli)).batch.pk)  # type: ignore[union-attr]
    work()
    cause = f"cancelled by the emergency stop of oli@example.com: {WHY}"
    for path in ("", f"{run.pk}/"):
        assert cause in client_of(oli).get(f"/teams/ops-north/runs/{path}").content.decode()
    Cancellation.objects.update(batch=None)
    assert cause not in client_of(oli).get("/teams/ops-north/runs/").content.decode(), "the control"


def test_audit_rows_carry_the_current_role_of_the_owner(stop: EmergencyStop, task: Task, oli: User) -> None:
    Membership.objects.filter(user=oli).update(role=TeamRole.MANAGER)
    make_run(task)
    stops.hold(stop.team_id)
    row = AuditEvent.objects.get(event="run.cancel_many")
    assert (row.actor_type, row.actor_label, row.actor_role) == ("user", "oli@example.com", "manager")
    assert (row.actor_id, row.session_ref, row.ip) == (str(oli.pk), "", "")
    assert row.details["stop"] == str(stop.pk)


# Which runs


def test_a_run_seen_many_times_is_cancelled_once(stop: EmergencyStop, task: Task) -> None:
    first = make_run(task)
    assert stops.hold(stop.team_id) is not None
    for _ in range(3):
        assert stops.hold(stop.team_id) is None
    second = make_run(task)
    assert stops.hold(stop.team_id) is not None
    assert set(CancelItem.objects.values_list("run_id", flat=True)) == {first.pk, second.pk}
    assert batches() == [1, 1]


def test_excluded_tasks_and_other_teams_keep_running(team: Team, other_team: Team, task: Task, oli: User) -> None:
    other = Task.objects.create(team=team, endpoint=task.endpoint, arize_id="T2", credential=task.credential)
    foreign = Task.objects.create(team=other_team, endpoint=task.endpoint, arize_id="T3")
    stop = stops.pull(team, reason=WHY, left_out=[task], by=actor(oli)).stop
    make_run(task)
    make_run(foreign)
    assert stops.hold(team.pk) is None
    assert stops.hold(other_team.pk) is None
    held = make_run(other)
    assert stops.hold(team.pk) is not None
    assert CancelItem.objects.get().run == held
    assert stop.holds(other)
    assert not stop.holds(task)


def finish(state: str, *, ago: int = 0) -> None:
    CancelItem.objects.update(state=state)
    CancelBatch.objects.update(finished_at=timezone.now() - timedelta(seconds=ago), state="finished")


def test_a_run_that_ignores_its_cancel_is_tried_ever_more_rarely(stop: EmergencyStop, task: Task) -> None:
    make_run(task)
    stops.hold(stop.team_id)
    finish("refused", ago=50)
    assert stops.hold(stop.team_id) is None, "not yet"
    for tries in (2, 3):
        finish("refused", ago=61)
        assert stops.hold(stop.team_id) is not None
        assert CancelItem.objects.count() == tries
        assert stops.hold(stop.team_id) is None, "while the list is in progress"
    for tries, minutes in enumerate((2, 4, 8, 10, 10, 10), 4):
        finish("still_running", ago=60 * minutes - 1)
        assert stops.hold(stop.team_id) is None, "not yet"
        finish("still_running", ago=60 * minutes + 1)
        assert stops.hold(stop.team_id) is not None
        assert CancelItem.objects.count() == tries


def test_a_run_does_not_wait_for_others_of_its_batch(stop: EmergencyStop, task: Task, oli: User) -> None:
    """Whose key fails, so that the batch does not finish."""
    make_run(task)
    refused = make_run(task)
    stops.hold(stop.team_id)
    cancel = Cancellation.objects.create(run=refused, person_label="oli@example.com", outcome="refused")
    CancelItem.objects.filter(run=refused).update(state="refused", cancellation=cancel)
    for ago, is_due in ((50, False), (61, True)):
        Cancellation.objects.update(closed_at=timezone.now() - timedelta(seconds=ago))
        assert (stops.hold(stop.team_id) is not None) == is_due
    assert CancelItem.objects.filter(run=refused).count() == 2
    assert CancelItem.objects.count() == 3


@pytest.mark.parametrize(("state", "readings"), [("not_sent", 0), ("unknown", 5)])
def test_attempts_during_an_outage_do_not_count(state: str, readings: int, stop: EmergencyStop, task: Task) -> None:
    """The run is cancelled again as soon as the mirror has read it again."""
    run = make_run(task)
    stops.hold(stop.team_id)
    for _ in range(5):
        CancelItem.objects.update(readings=readings, state=state)
        Run.objects.filter(pk=run.pk).update(observed_at=timezone.now())
        assert stops.hold(stop.team_id) is None, "the batch is not finished"
        finish(state, ago=1)
        Run.objects.filter(pk=run.pk).update(observed_at=timezone.now() - timedelta(seconds=2))
        assert stops.hold(stop.team_id) is None, "not read since"
        Run.objects.filter(pk=run.pk).update(observed_at=timezone.now())
        assert stops.hold(stop.team_id) is not None
    assert CancelItem.objects.count() == 6


def test_attempts_without_effect_do_count(stop: EmergencyStop, task: Task) -> None:
    """The run could be read after each of them: it is Arize that does not cancel it."""
    run = make_run(task)
    stops.hold(stop.team_id)
    finish("unknown", ago=1)
    Run.objects.filter(pk=run.pk).update(observed_at=timezone.now())
    assert stops.hold(stop.team_id) is None


def test_an_ended_run_is_not_cancelled(stop: EmergencyStop, task: Task) -> None:
    run = make_run(task)
    stops.hold(stop.team_id)
    finish("finished_first", ago=3_600)
    Run.objects.filter(pk=run.pk).update(rank=0, status="completed")
    assert stops.hold(stop.team_id) is None


# The owner's right


def test_the_stop_pauses_while_its_owner_has_no_right(stop: EmergencyStop, task: Task, oli: User) -> None:
    run = make_run(task)
    Membership.objects.filter(user=oli).update(role=TeamRole.VIEWER)
    assert stops.hold(stop.team_id) is None
    assert not CancelBatch.objects.exists()
    Membership.objects.filter(user=oli).update(role=TeamRole.OPERATOR)
    assert stops.hold(stop.team_id) is not None
    assert CancelItem.objects.get().run == run


def test_a_right_lost_during_the_list_stops_the_rest_until_it_returns(run: Run, oli: User, arize: Any) -> None:
    cancels(arize, run)
    batch = stops.pull(run.team, reason=WHY, left_out=[], by=actor(oli)).batch
    assert batch is not None
    Membership.objects.filter(user=oli).update(role=TeamRole.VIEWER)
    jobs.wake_batch(batch.pk)
    work()
    assert posts(arize) == []
    assert batch.items.get().state == "left_out"
    jobs.look_after_stops()
    assert posts(arize) == []
    Membership.objects.filter(user=oli).update(role=TeamRole.OPERATOR)
    jobs.look_after_stops()
    work()
    assert len(posts(arize)) == 1
    assert Run.objects.get().status == "cancelled"


def test_a_stop_of_a_disabled_person_cancels_nothing(stop: EmergencyStop, task: Task, oli: User) -> None:
    make_run(task)
    EmergencyStop.objects.update(person=None)
    assert stops.hold(stop.team_id) is None
    EmergencyStop.objects.update(person=oli)
    assert stops.hold(stop.team_id) is not None, "the control"


# When it ends


def test_nothing_is_cancelled_after_the_stop_ends(stop: EmergencyStop, task: Task, team: Team, oli: User) -> None:
    make_run(task)
    with time_machine.travel(stop.expires_at, tick=False):
        assert stops.hold(team.pk) is None
    stops.lift(team, by=actor(oli))
    assert stops.hold(team.pk) is None
    assert not CancelBatch.objects.exists()


def test_lifting_leaves_out_queued_cancels(run: Run, oli: User, arize: Any) -> None:
    cancels(arize, run)
    batch = stops.pull(run.team, reason=WHY, left_out=[], by=actor(oli)).batch
    assert batch is not None
    stops.lift(run.team, by=actor(oli))
    jobs.wake_batch(batch.pk)
    work()
    batch.refresh_from_db()
    assert (batch.state, batch.items.get().state, posts(arize)) == ("aborted", "left_out", [])
    assert batch.why_aborted == "The emergency stop was lifted. The remaining cancels were not sent."
    assert events() == [
        ("run.cancel_many", "requested"),
        ("stop.pull", "done"),
        ("run.cancel_many", "aborted"),
        ("stop.lift", "done"),
    ]


def test_the_worker_cancels_even_if_no_key_is_read(stop: EmergencyStop, task: Task, arize: Any) -> None:
    run = make_run(task)
    cancels(arize, run)
    jobs.look_after_stops()
    work()
    assert Run.objects.get().status == "cancelled"


def test_without_a_stop_a_round_costs_one_more_query(
    credential: Credential, run: Run, django_assert_num_queries: Any
) -> None:
    with django_assert_num_queries(1):
        assert stops.hold_after_round(credential.pk) is None


# Starting runs during a stop


def start(client: Client, task: Task, **data: str) -> Any:
    return client.post(f"/teams/ops-north/tasks/{task.pk}/trigger/", EVALUATION | data)


def test_no_run_of_a_stopped_task_can_be_started(
    client: Client, stop: EmergencyStop, task: Task, arize: Any, team: Team, oli: User
) -> None:
    arize.post(f"{task.endpoint}/v2/tasks/{task.arize_id}/trigger", json={"id": "N", "status": "PENDING"}, status=201)
    answer = start(client, task)
    page = " ".join(answer.content.decode().split())
    assert answer.status_code == 409
    assert f"An emergency stop holds this task, so no run was started. oli@example.com pulled it: {WHY}" in page
    assert posts(arize) == []
    row = AuditEvent.objects.get(event="run.trigger")
    assert (row.outcome, row.details) == ("not_sent", {"stop": str(stop.pk)})
    stops.lift(team, by=actor(oli))
    assert start(client, task).status_code == 302, "the same form, after the stop was lifted"
    assert len(posts(arize)) == 1


def test_a_run_of_an_excluded_task_can_be_started(
    client: Client, task: Task, arize: Any, team: Team, oli: User
) -> None:
    arize.post(f"{task.endpoint}/v2/tasks/{task.arize_id}/trigger", json={"id": "N", "status": "PENDING"}, status=201)
    stops.pull(team, reason=WHY, left_out=[task], by=actor(oli))
    assert start(client, task).status_code == 302
    assert len(posts(arize)) == 1


def test_a_form_sent_before_the_stop_still_shows_its_result(
    client: Client, task: Task, arize: Any, team: Team, oli: User
) -> None:
    arize.post(f"{task.endpoint}/v2/tasks/{task.arize_id}/trigger", json={"id": "N", "status": "PENDING"}, status=201)
    assert start(client, task).status_code == 302
    stops.pull(team, reason=WHY, left_out=[], by=actor(oli))
    again = start(client, task)
    assert (again.status_code, len(posts(arize))) == (302, 1)
