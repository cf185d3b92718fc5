"""Many people cancel at once, with a fast Arize: one POST, and never one without a committed row before it."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from taskruns.models import AuditEvent, Cancellation, Credential, Membership, Run, Status, Task, Team, TeamRole
from taskruns.services import cancellations
from tests.arize_server import ArizeServer, serving
from tests.clients import ClientOf, click_cancel
from tests.factories import CANARY, make_run, person
from tests.threads import in_threads
from tests.wire import wire_run

CLICKS = 50
pytestmark = [pytest.mark.slow, pytest.mark.commits, pytest.mark.usefixtures("committed")]


@pytest.fixture
def stage(committed: None, settings: Any) -> Iterator[tuple[ArizeServer, Task]]:
    """A team whose key leads to a fake Arize that cancels at once and reads the audit log when a POST arrives."""
    statuses: Counter[str] = Counter()

    def answer(method: str, path: str) -> tuple[int, Any]:
        run = Run.objects.select_related("task").get(arize_id=path.split("/")[3])
        statuses[run.arize_id] += method == "POST"
        if statuses[run.arize_id] > 1:
            return 400, {"title": "Bad Request", "detail": "cannot cancel a run with status 'cancelled'"}
        return 200, wire_run(run, "CANCELLED")

    with serving(ArizeServer(answer, _a_request_is_written)) as double:
        settings.ARIZE_ENDPOINTS = (double.url,)
        team = Team.objects.create(slug="ops-north", name="Ops North")
        credential = Credential(team=team, name="Production", endpoint=double.url)
        credential.encrypt_secret(CANARY)
        credential.save()
        yield double, Task.objects.create(team=team, endpoint=double.url, arize_id="T1", credential=credential)


def _a_request_is_written(path: str) -> None:
    run = Run.objects.get(arize_id=path.split("/")[3])
    requested = AuditEvent.objects.filter(outcome="requested", target_id=str(run.pk))
    assert requested.count() == 1
    assert Cancellation.objects.get(run=run).pk == requested.get().operation_id


def test_fifty_clicks_on_one_run_are_one_post(stage: tuple[ArizeServer, Task], client_of: ClientOf) -> None:
    double, task = stage
    run = make_run(task)
    clients = []
    for number in range(5):
        someone = person(f"operator{number}@example.com")
        Membership.objects.create(team=task.team, user=someone, role=TeamRole.OPERATOR)
        clients += [client_of(someone) for _ in range(CLICKS // 5)]
    statuses = in_threads(CLICKS, lambda number: click_cancel(clients[number], run).status_code)
    assert double.posts() == [f"POST /v2/task-runs/{run.arize_id}/cancel"]
    assert not double.faults
    assert set(statuses) <= {200, 409}
    outcomes = Counter(AuditEvent.objects.values_list("outcome", flat=True))
    assert (outcomes["requested"], outcomes["confirmed"]) == (1, 1)
    assert outcomes["joined"] + outcomes["not_needed"] == CLICKS - 1
    assert outcomes["joined"] == statuses.count(409)
    run.refresh_from_db()
    assert run.status == Status.CANCELLED


def test_clicks_on_different_runs_do_not_block_each_other(stage: tuple[ArizeServer, Task], client_of: ClientOf) -> None:
    double, task = stage
    runs = [make_run(task) for _ in range(8)]
    someone = person("operator@example.com")
    Membership.objects.create(team=task.team, user=someone, role=TeamRole.OPERATOR)
    clients = [client_of(someone) for _ in range(16)]
    statuses = in_threads(16, lambda number: click_cancel(clients[number], runs[number % 8]).status_code)
    cancellations.send_unsent()  # those for which too many others waited for Arize
    assert sorted(double.posts()) == sorted(f"POST /v2/task-runs/{run.arize_id}/cancel" for run in runs)
    assert not double.faults
    assert statuses.count(200) >= 8
    assert Cancellation.objects.filter(outcome="confirmed").count() == 8
    seqs = AuditEvent.objects.order_by("seq").values_list("seq", flat=True)
    assert list(seqs) == list(range(1, 25))
