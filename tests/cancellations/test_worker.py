"""Cancels that no web request could send, because others wait for Arize: the worker sends each of them once."""

import re
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
import responses
import time_machine
from django.db import OperationalError
from django.test import Client
from django.utils import timezone

from taskruns import jobs
from taskruns.models import AuditEvent, Cancellation, Credential, Membership, Run, Task, Team, TeamRole, User
from taskruns.services import cancellations, remote_acts
from taskruns.services.cancellations import worker
from taskruns.worker.clock import Clock
from tests.arize_server import ArizeServer, serving
from tests.clients import ClientOf, click_cancel
from tests.factories import CANARY, actor, make_credential, make_run, make_task, member
from tests.paths import ROOT
from tests.queue_worker import work
from tests.stored import events
from tests.threads import NoPlace, in_threads
from tests.wire import ENDPOINT, run_url, wire_run

pytestmark = pytest.mark.usefixtures("empty_queue")


@pytest.fixture
def client(oli: User, client_of: ClientOf) -> Client:
    return client_of(oli)


@pytest.fixture
def _busy(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many requests as may already wait for Arize."""
    monkeypatch.setattr(remote_acts, "_places", NoPlace())


@pytest.fixture
def post(arize: responses.RequestsMock, run: Run) -> responses.BaseResponse:
    return arize.post(run_url(run, "/cancel"), json=wire_run(run, "CANCELLED"))


@pytest.mark.usefixtures("_busy")
def test_a_cancel_beyond_the_places_is_requested_and_sent_by_the_worker(
    client: Client, run: Run, post: Any, htmx: Any
) -> None:
    page = click_cancel(client, run, htmx=htmx, reason="too slow")
    if not htmx:
        assert page.status_code == 302
        page = client.get(page.url)
    assert page.status_code == 200
    text = page.content.decode()
    assert "Cancel requested, being sent to Arize" in text
    assert "cancel being sent, requested by oli@example.com" in text
    row = Cancellation.objects.get()
    assert (row.outcome, row.posted_at, post.call_count) == ("", None, 0)
    work()
    row.refresh_from_db()
    assert (row.outcome, post.call_count) == ("confirmed", 1)
    assert row.posted_at >= row.requested_at
    assert events(operation_id=row.pk) == [("run.cancel", "requested"), ("run.cancel", "confirmed")]
    outcome = AuditEvent.objects.get(outcome="confirmed")
    assert (outcome.actor_type, outcome.actor_label, outcome.actor_role) == ("user", "oli@example.com", "operator")


@pytest.mark.usefixtures("_busy")
def test_the_clock_sends_it_if_the_message_was_lost(client: Client, run: Run, post: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(jobs, "wake_cancels", lambda: None)
    monkeypatch.setattr("taskruns.worker.clock.close_old_connections", lambda: None)
    click_cancel(client, run)
    work()
    assert post.call_count == 0
    clock = Clock()
    for lane in (clock.rounds, clock.batches, clock.chores):
        lane.stop()
    monkeypatch.setattr(clock.cancels, "add", lambda _key: jobs.send_cancels())
    clock.tick()
    assert post.call_count == 1


@pytest.mark.usefixtures("_busy")
def test_others_join_a_cancel_that_waits_for_the_worker(client: Client, run: Run, post: Any) -> None:
    assert [click_cancel(client, run).status_code for _ in range(2)] == [200, 409]
    work()
    assert post.call_count == 1
    assert [outcome for _, outcome in events()] == ["requested", "joined", "confirmed"]


@pytest.mark.usefixtures("_busy")
@pytest.mark.parametrize("loss", ["removed", "demoted", "disabled"])
def test_nothing_is_sent_for_a_person_who_lost_the_right(
    loss: str, client: Client, run: Run, oli: User, post: Any
) -> None:
    click_cancel(client, run)
    {
        "removed": Membership.objects.filter(user=oli).delete,
        "demoted": lambda: Membership.objects.filter(user=oli).update(role="viewer"),
        "disabled": lambda: User.objects.filter(pk=oli.pk).update(is_active=False),
    }[loss]()
    work()
    row = Cancellation.objects.get()
    assert (row.outcome, row.posted_at, post.call_count) == ("not_sent", None, 0)
    assert "no longer has permission" in row.explanation
    assert [outcome for _, outcome in events()] == ["requested", "not_sent"]


@pytest.mark.usefixtures("_busy")
def test_nothing_is_sent_that_nobody_expects_any_more(client: Client, run: Run, post: Any) -> None:
    click_cancel(client, run)
    with time_machine.travel(timezone.now() + timedelta(seconds=119)):
        assert worker.has_unsent()
    with time_machine.travel(timezone.now() + timedelta(seconds=121)):
        assert (cancellations.send_unsent(), cancellations.sweep()) == (0, 1)
    assert (Cancellation.objects.get().outcome, post.call_count) == ("not_sent", 0)


@pytest.mark.usefixtures("_busy")
def test_a_worker_without_the_ring_key_leaves_it_to_others(
    client: Client, run: Run, post: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    click_cancel(client, run)
    monkeypatch.setattr("taskruns.services.key_ring.problem", lambda: "no ring key")
    assert cancellations.send_unsent() == 0
    assert Cancellation.objects.get().outcome == ""


@pytest.mark.usefixtures("_busy")
def test_other_requests_that_would_wait_are_refused(
    run: Run, mona: User, client_of: ClientOf, arize: responses.RequestsMock, settings: Any
) -> None:
    client = client_of(mona)
    by_id = client.get(f"/teams/{run.team.slug}/runs/by-arize-id/unknown/")
    tested = client.post(f"/teams/{run.team.slug}/credentials/{run.task.credential_id}/test/")
    for answer in (by_id, tested):
        assert answer.status_code == 503
        assert "Nothing was sent" in answer.content.decode()
    assert tested.headers["Retry-After"] == "10"
    assert (len(arize.calls), events(event="credential.test")) == (0, [])


def test_fewer_than_half_of_the_threads_wait_for_arize() -> None:
    (threads,) = re.findall(r"^threads = (\d+)$", (ROOT / "gunicorn.conf.py").read_text(), re.MULTILINE)
    assert int(threads) > 2 * remote_acts.MOST_WAITING


def test_a_place_is_given_back_after_an_error(run: Run, oli: User, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_acts, "_places", threading.BoundedSemaphore(1))
    monkeypatch.setattr("taskruns.services.cancellations.actions.ask_arize", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        cancellations.cancel(run, by=actor(oli))
    assert remote_acts.Place().take()


@pytest.fixture
def quick_arize(committed: None, settings: Any) -> Iterator[tuple[ArizeServer, Task]]:
    """A task whose key leads to a fake Arize that cancels every run."""

    def answer(_method: str, path: str) -> tuple[int, Any]:
        run = Run.objects.select_related("task").get(arize_id=path.split("/")[3])
        return 200, wire_run(run, "CANCELLED")

    with serving(ArizeServer(answer)) as double:
        settings.ARIZE_ENDPOINTS = (double.url,)
        team = Team.objects.create(slug="ops-north", name="Ops North")
        credential = Credential(team=team, name="Production", endpoint=double.url)
        credential.encrypt_secret(CANARY)
        credential.save()
        yield double, Task.objects.create(team=team, endpoint=double.url, arize_id="T1", credential=credential)


@pytest.mark.usefixtures("_busy")
def test_what_was_sent_is_written_although_the_next_cannot_be_read(
    client: Client, run: Run, post: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    click_cancel(client, run)
    steps = iter([worker._Sender._next])

    def next_or_fail(sender: Any) -> list[Cancellation]:
        if (step := next(steps, None)) is None:
            raise OperationalError("the connection is lost")
        return step(sender)

    monkeypatch.setattr(worker._Sender, "_next", next_or_fail)
    monkeypatch.setattr(worker, "wait", lambda *_, **__: (set(), set()))  # no answer yet
    left = []
    monkeypatch.setattr(worker, "close_old_connections", lambda: left.append(Cancellation.objects.get().outcome))
    with pytest.raises(OperationalError):
        cancellations.send_unsent()
    assert left == [""], "the lost connection is left before the outcome is written"
    assert Cancellation.objects.get().outcome == "confirmed"


@pytest.mark.slow
@pytest.mark.commits
def test_two_workers_send_each_cancel_once(quick_arize: tuple[ArizeServer, Task]) -> None:
    double, task = quick_arize
    runs, person = [make_run(task) for _ in range(20)], member(task.team, "oli@example.com", TeamRole.OPERATOR)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(remote_acts, "_places", NoPlace())
        for run in runs:
            assert cancellations.cancel(run, by=actor(person)).is_queued
        patch.setattr(worker, "_sending", threading.Semaphore(2))  # as if they were two processes
        sent = in_threads(2, lambda _: cancellations.send_unsent())
    assert sum(sent) == len(runs)
    assert sorted(double.posts()) == sorted(f"POST /v2/task-runs/{run.arize_id}/cancel" for run in runs)
    assert set(Cancellation.objects.values_list("outcome", flat=True)) == {"confirmed"}


def test_keys_with_nothing_in_flight_come_first(team: Team, oli: User) -> None:
    """Those of a silent Arize would take each thread that becomes free."""
    silent = make_task(team, make_credential(team, name="Silent"))
    healthy = Task.objects.create(
        team=team, endpoint=ENDPOINT, arize_id="T2", credential=make_credential(team, name="Healthy")
    )
    for task in (silent, silent, silent, healthy):
        run = make_run(task)
        Cancellation.objects.create(run=run, person=oli, person_label=oli.email, posted_at=None)
    with ThreadPoolExecutor(1) as pool:
        sender = worker._Sender(pool)
        mine = Cancellation.objects.select_related("run__task").filter(run__task=silent).first()
        assert mine is not None
        sender.in_flight[Future()] = worker._Sent(mine, actor(oli))
        assert sender._next()[0].run.task == healthy
