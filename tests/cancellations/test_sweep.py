"""The sweep finds the outcome of cancels that a crash, a lost answer or a slow stop left open. None is closed twice."""

import itertools
from collections.abc import Callable
from datetime import timedelta
from io import StringIO
from typing import Any

import pytest
import requests
import responses
import time_machine
from django.core.management import call_command
from django.utils import timezone

from taskruns.models import AuditEvent, Cancellation, Credential, Outcome, Run, Status, Task, Team, User
from taskruns.services.cancellations import follow, sweep
from taskruns.services.credentials.client import connected
from taskruns.services.remote_acts import OutcomeNotWritten
from tests.arize_server import ArizeServer, serving
from tests.clients import ClientOf, click_cancel
from tests.database_refusals import accept_inserts, refuse_inserts
from tests.factories import make_credential, make_run, make_task
from tests.stored import events
from tests.threads import in_threads
from tests.wire import run_url, wire_run

ENDS = {"CANCELLED": "confirmed", "completed": "finished_first", "Failed": "failed_first"}


def opened(run: Run, *, age: int, outcome: str = "", stopping: int | None = None) -> Cancellation:
    """A cancellation requested `age` seconds ago and accepted by Arize `stopping` seconds ago."""
    now = timezone.now()
    return Cancellation.objects.create(
        run=run,
        person_label="oli@example.com",
        requested_at=now - timedelta(seconds=age),
        posted_at=now - timedelta(seconds=age),
        outcome=outcome,
        stopping_since=None if stopping is None else now - timedelta(seconds=stopping),
    )


@pytest.mark.parametrize("status", ENDS)
@pytest.mark.parametrize("state", ["crashed", "unknown", "stopping"])
def test_the_sweep_writes_the_outcome_that_arize_reports(state: str, status: str, run: Run, arize: Any) -> None:
    row = {
        "crashed": lambda: opened(run, age=61),
        "unknown": lambda: opened(run, age=5, outcome=Outcome.UNKNOWN),
        "stopping": lambda: opened(run, age=5, stopping=4),
    }[state]()
    arize.get(run_url(run), json=wire_run(run, status))
    assert sweep() == 1
    row.refresh_from_db()
    run.refresh_from_db()
    assert row.outcome == ENDS[status]
    assert row.closed_at is not None
    assert run.status == status.lower()
    written = AuditEvent.objects.get()
    assert (written.event, written.outcome, written.operation_id) == ("run.cancel", ENDS[status], row.pk)
    assert (written.actor_type, written.actor_label, written.team_id) == ("job", "sweep", run.team_id)
    assert written.run_id == run.arize_id
    assert sweep() == 0
    assert len(arize.calls) == 1


def test_a_cancel_that_waited_before_it_was_sent_is_not_taken_for_a_crash(run: Run, arize: Any) -> None:
    arize.get(run_url(run), json=wire_run(run, "RUNNING"))
    row = opened(run, age=90)
    Cancellation.objects.update(posted_at=timezone.now() - timedelta(seconds=5))
    assert sweep() == 0, "its answer may still come"
    Cancellation.objects.update(posted_at=timezone.now() - timedelta(seconds=61))
    assert sweep() == 1, "the control"
    row.refresh_from_db()
    assert row.outcome == Outcome.UNKNOWN


@pytest.mark.parametrize("is_ours", [True, False])
def test_a_damaged_chain_does_not_keep_other_teams_from_being_swept(
    *, is_ours: bool, run: Run, other_team: Team, arize: Any
) -> None:
    theirs = make_run(make_task(other_team, make_credential(other_team, name="Theirs")))
    for it in (run, theirs):
        opened(it, age=61)
        arize.get(run_url(it), json=wire_run(it, "CANCELLED"))
    damaged, other = (run, theirs) if is_ours else (theirs, run)
    refuse_inserts("taskruns_auditevent", unless=f"NEW.chain <> 'team:{damaged.team_id}'")
    with pytest.raises(OutcomeNotWritten):
        sweep()
    accept_inserts("taskruns_auditevent")
    assert Cancellation.objects.get(run=other).outcome == Outcome.CONFIRMED
    assert Cancellation.objects.get(run=damaged).outcome == Outcome.OPEN


@pytest.mark.parametrize("state", ["unknown", "stopping"])
def test_a_reading_of_another_run_closes_nothing(state: str, run: Run, task: Task, arize: Any) -> None:
    row = opened(run, age=5, **{"unknown": {"outcome": Outcome.UNKNOWN}, "stopping": {"stopping": 4}}[state])
    arize.get(run_url(run), json=wire_run(make_run(task), "CANCELLED"))
    assert sweep() == 0
    run.refresh_from_db()
    assert (Cancellation.objects.get().outcome, run.status) == (row.outcome, Status.RUNNING)


def test_an_interrupted_cancel_is_unknown_until_arize_reports_its_outcome(
    run: Run, arize: responses.RequestsMock
) -> None:
    row = opened(run, age=61)
    arize.get(run_url(run), json=wire_run(run, "RUNNING"))
    assert sweep() == 1
    assert sweep() == 0
    arize.replace(responses.GET, run_url(run), json=wire_run(run, "CANCELLED"))
    with time_machine.travel(timezone.now() + timedelta(seconds=6)):
        assert sweep() == 1
    assert events(operation_id=row.pk) == [("run.cancel", "unknown"), ("run.cancel", "already_cancelled")]


def test_a_lost_answer_is_confirmed_only_if_the_run_was_not_seen_active(
    run: Run, task: Task, oli: User, client_of: ClientOf, arize: responses.RequestsMock
) -> None:
    """Both cancels got 500. The first run was active in a re-read, so someone else cancelled it later."""
    unread = make_run(task)
    for it in (run, unread):
        arize.post(run_url(it, "/cancel"), status=500)
    arize.get(run_url(run), json=wire_run(run, "RUNNING"))
    arize.get(run_url(unread), status=500)
    for it in (run, unread):
        click_cancel(client_of(oli), it)
    for it in (run, unread):
        arize.replace(responses.GET, run_url(it), json=wire_run(it, "CANCELLED"))
    assert sweep() == 2
    outcomes = dict(Cancellation.objects.values_list("run", "outcome"))
    assert outcomes == {run.pk: "already_cancelled", unread.pk: "confirmed"}


def test_one_of_two_cancels_of_a_run_is_confirmed(
    run: Run, oli: User, mona: User, client_of: ClientOf, arize: responses.RequestsMock
) -> None:
    arize.post(run_url(run, "/cancel"), status=500)
    arize.get(run_url(run), status=500)
    click_cancel(client_of(oli), run)
    arize.replace(responses.POST, run_url(run, "/cancel"), json=wire_run(run, "CANCELLED"))
    click_cancel(client_of(mona), run)
    arize.replace(responses.GET, run_url(run), json=wire_run(run, "CANCELLED"))
    assert sweep() == 1
    assert dict(Cancellation.objects.values_list("person_label", "outcome")) == {
        oli.email: "already_cancelled",
        mona.email: "confirmed",
    }


def test_one_of_two_lost_answers_is_confirmed(run: Run, arize: responses.RequestsMock) -> None:
    opened(run, age=90, outcome=Outcome.UNKNOWN), opened(run, age=61)
    arize.get(run_url(run), json=wire_run(run, "CANCELLED"))
    assert sweep() == 2
    assert sorted(Cancellation.objects.values_list("outcome", flat=True)) == ["already_cancelled", "confirmed"]


def test_a_cancel_that_arize_confirmed_wrongly_takes_no_credit(run: Run, arize: Any) -> None:
    """The run was seen active after it. The next cancel was accepted, and stopped it."""
    wrong = opened(run, age=300, outcome=Outcome.CONFIRMED)
    right = opened(run, age=60, stopping=60)
    Cancellation.objects.filter(pk=wrong.pk).update(closed_at=timezone.now() - timedelta(seconds=299))
    Run.objects.filter(pk=run.pk).update(observed_at=timezone.now() - timedelta(seconds=65))
    arize.get(run_url(run), json=wire_run(run, "CANCELLED"))
    assert sweep() == 1
    right.refresh_from_db()
    assert right.outcome == Outcome.CONFIRMED


def test_a_stopping_run_with_an_unknown_status_is_not_called_active(run: Run, arize: Any) -> None:
    row = opened(run, age=310, stopping=305)
    arize.get(run_url(run), json=wire_run(run, "CANCELLING"))
    assert sweep() == 1
    row.refresh_from_db()
    assert (row.outcome, row.followed) == (Outcome.UNKNOWN, True)
    arize.replace(responses.GET, run_url(run), json=wire_run(run, "CANCELLED"))
    Cancellation.objects.update(look_at=timezone.now())
    assert sweep() == 1
    row.refresh_from_db()
    assert row.outcome == Outcome.CONFIRMED


def test_a_cancel_in_progress_is_left_alone(run: Run, arize: responses.RequestsMock) -> None:
    opened(run, age=55)
    assert sweep() == 0
    assert len(arize.calls) == 0


def test_a_stopping_run_has_300_seconds(run: Run, arize: Any, oli: User, client_of: ClientOf) -> None:
    arize.post(run_url(run, "/cancel"), json=wire_run(run, "RUNNING"))
    arize.get(run_url(run), json=wire_run(run, "RUNNING"))
    start = timezone.now()
    with time_machine.travel(start, tick=False) as clock:
        client = client_of(oli)
        click_cancel(client, run)
        for seconds, closed in ((1, 0), (61, 0), (299, 0), (301, 1), (400, 0)):
            clock.move_to(start + timedelta(seconds=seconds))
            assert sweep() == closed, seconds
    row = Cancellation.objects.get()
    assert row.outcome == Outcome.STILL_RUNNING
    assert events(operation_id=row.pk) == [("run.cancel", "requested"), ("run.cancel", "still_running")]
    page = client_of(oli).get(f"/teams/ops-north/runs/{run.pk}/").content.decode()
    assert "the run is still active" in page
    assert "data-cancel>" in page


@pytest.mark.parametrize(
    ("later", "outcome"), [("RUNNING", Outcome.STILL_RUNNING), ("CANCELLED", Outcome.CONFIRMED)], ids=str
)
def test_a_run_that_was_unreadable_when_its_time_was_over(
    later: str, outcome: Outcome, run: Run, arize: Any, oli: User, client_of: ClientOf
) -> None:
    """Its outcome is unknown only until a reading shows it."""
    arize.post(run_url(run, "/cancel"), json=wire_run(run, "RUNNING"))
    arize.get(run_url(run), json=wire_run(run, "RUNNING"))
    start = timezone.now()
    with time_machine.travel(start, tick=False) as clock:
        click_cancel(client_of(oli), run)
        arize.replace("GET", run_url(run), status=401, json={"title": "Authentication required"})
        clock.move_to(start + timedelta(seconds=400))
        assert sweep() == 1
        row = Cancellation.objects.get()
        assert row.outcome == Outcome.UNKNOWN
        arize.replace("GET", run_url(run), json=wire_run(run, later))
        for minute in range(10, 30, 5):
            clock.move_to(start + timedelta(minutes=minute))
            sweep()
    row.refresh_from_db()
    assert row.outcome == outcome
    found = [outcome for _event, outcome in events(operation_id=row.pk)]
    assert found == ["requested", "unknown", outcome.value]


def settle(credential: Credential, may_call: Callable[[], bool] = lambda: True) -> int:
    with connected(credential) as client:
        return follow(credential).look(client, may_call=may_call)


def test_the_mirror_reads_the_stopping_runs_of_its_key_first(
    run: Run, arize: responses.RequestsMock, credential: Credential
) -> None:
    other = make_credential(run.team, name="Other")
    task = Task.objects.create(team=run.team, endpoint=run.endpoint, arize_id="T2", credential=other)
    row, foreign = opened(run, age=5, stopping=4), opened(make_run(task), age=5, stopping=4)
    arize.get(run_url(run), json=wire_run(run, "CANCELLED"))
    arize.get(run_url(foreign.run), json=wire_run(foreign.run, "CANCELLED"))
    assert settle(credential, may_call=lambda: False) == 0
    assert settle(credential) == 1
    assert set(Cancellation.objects.filter(outcome="").values_list("pk", flat=True)) == {foreign.pk}
    assert settle(other) == 1
    assert events(operation_id=row.pk) == [("run.cancel", "confirmed")]


def test_the_sweep_gives_up_if_arize_no_longer_knows_the_run(run: Run, arize: responses.RequestsMock) -> None:
    row = opened(run, age=61, outcome=Outcome.UNKNOWN)
    arize.get(run_url(run), status=404)
    assert sweep() == 1
    row.refresh_from_db()
    run.refresh_from_db()
    assert (row.followed, run.status) == (False, Status.GONE)
    assert sweep() == 0
    assert len(arize.calls) == 1


UNREACHABLE = {
    "slow": {"body": requests.ReadTimeout()},
    "refused": {"body": requests.ConnectTimeout()},
    "cut": {"body": requests.ConnectionError("cut")},
    "429": {"status": 429},
    "401": {"status": 401},
    "403": {"status": 403},
    "500": {"status": 500},
    "HTML": {"status": 200, "body": "<html></html>"},
}


@pytest.mark.parametrize("kind", UNREACHABLE)
def test_an_unreadable_arize_does_not_stop_the_sweep(kind: str, task: Task, arize: responses.RequestsMock) -> None:
    runs = [make_run(task) for _ in range(4)]
    crashed = opened(runs[0], age=90)
    stopping = opened(runs[1], age=80, stopping=79)
    stopped = opened(runs[2], age=400, stopping=399)
    unknown = opened(runs[3], age=70, outcome=Outcome.UNKNOWN)
    for run in runs:
        arize.get(run_url(run), **UNREACHABLE[kind])
    assert sweep() == 2
    found = {row.pk: (row.outcome, row.followed) for row in Cancellation.objects.all()}
    assert found[crashed.pk] == ("unknown", True)
    assert found[stopping.pk] == ("", True)
    assert found[stopped.pk] == ("unknown", True)
    assert found[unknown.pk] == ("unknown", True)
    arize.reset()
    for run in runs:
        arize.get(run_url(run), json=wire_run(run, "CANCELLED"))
    with time_machine.travel(timezone.now() + timedelta(seconds=61)):
        assert sweep() == 4
    assert set(Cancellation.objects.values_list("outcome", flat=True)) == {"confirmed"}


def test_the_sweep_continues_with_the_next_key_after_a_failure(run: Run, arize: responses.RequestsMock) -> None:
    healthy = Task.objects.create(
        team=run.team, endpoint=run.endpoint, arize_id="T2", credential=make_credential(run.team, name="Other")
    )
    bare = Task.objects.create(team=run.team, endpoint=run.endpoint, arize_id="T3")
    second = make_run(healthy)
    for target in (run, second, make_run(bare)):
        opened(target, age=61)
    arize.get(run_url(run), body=requests.ConnectTimeout())
    arize.get(run_url(second), json=wire_run(second, "CANCELLED"))
    assert sweep() == 3
    outcomes = {row.run_id: row.outcome for row in Cancellation.objects.all()}
    assert outcomes[second.pk] == "confirmed"
    assert sorted(outcomes.values()) == ["confirmed", "unknown", "unknown"]


def test_an_outcome_that_could_not_be_written_is_closed_later(
    run: Run, arize: responses.RequestsMock, oli: User, client_of: ClientOf
) -> None:
    post = arize.post(run_url(run, "/cancel"), json=wire_run(run, "CANCELLED"))
    client = client_of(oli)
    refuse_inserts("taskruns_auditevent", unless="NEW.outcome = 'requested'")
    page = click_cancel(client, run)
    assert page.status_code == 503
    assert "was sent to Arize, but its answer could not be recorded" in page.content.decode()
    row = Cancellation.objects.get()
    assert (row.outcome, post.call_count) == ("", 1)
    assert click_cancel(client, run).status_code == 503
    assert post.call_count == 1
    accept_inserts("taskruns_auditevent")
    arize.get(run_url(run), json=wire_run(run, "CANCELLED"))
    with time_machine.travel(timezone.now() + timedelta(seconds=61)):
        assert sweep() == 1
    assert events(operation_id=row.pk) == [("run.cancel", "requested"), ("run.cancel", "confirmed")]


def test_the_command_prints_how_many_it_closed(run: Run, arize: responses.RequestsMock) -> None:
    opened(run, age=61)
    arize.get(run_url(run), json=wire_run(run, "CANCELLED"))
    outputs = [StringIO(), StringIO()]
    for out in outputs:
        call_command("sweep", stdout=out)
    assert [out.getvalue() for out in outputs] == ["1 cancellation closed.\n", "0 cancellations closed.\n"]


def test_two_operations_on_one_run_get_the_same_outcome(run: Run, arize: responses.RequestsMock) -> None:
    first, second = opened(run, age=90, outcome=Outcome.UNKNOWN), opened(run, age=61)
    arize.get(run_url(run), json=wire_run(run, "COMPLETED"))
    assert sweep() == 2
    assert events(operation_id=first.pk) == events(operation_id=second.pk) == [("run.cancel", "finished_first")]


@pytest.mark.commits
@pytest.mark.parametrize(("outcome", "age"), [("", 61), (Outcome.UNKNOWN, 5)])
def test_concurrent_sweeps_write_one_outcome(committed: None, outcome: str, age: int, settings: Any) -> None:
    def answer(_: str, path: str) -> tuple[int, Any]:
        return 200, wire_run(Run.objects.get(arize_id=path.split("/")[3]), "CANCELLED")

    with serving(ArizeServer(answer)) as double:
        settings.ARIZE_ENDPOINTS = (double.url,)
        team = Team.objects.create(slug="ops-north", name="Ops North")
        credential = make_credential(team)
        Credential.objects.update(endpoint=double.url)
        task = Task.objects.create(team=team, endpoint=double.url, arize_id="T1", credential=credential)
        rows = [opened(make_run(task), age=age, outcome=outcome) for _ in range(3)]
        closed = in_threads(4, lambda _: sweep())
    assert sum(closed) == 3
    assert events() == list(itertools.repeat(("run.cancel", "confirmed"), 3))
    assert {row.pk for row in rows} == set(AuditEvent.objects.values_list("operation_id", flat=True))
