"""A key is replaced while rounds read and people cancel: no call fails, and each has a valid key."""

import threading
from typing import Any

import pytest

from taskruns.audit import Actor
from taskruns.models import Credential, Outcome, Run, Task, Team
from taskruns.services import cancellations, credentials, mirror
from tests.arize_server import ArizeServer, serving
from tests.factories import CANARY, make_credential, make_run
from tests.threads import in_threads
from tests.wire import wire_run

OTHER = "ak-other-9WmQ2sVb7TzX4cNd1Fg"
SHELL = Actor(type="command", label="tests")
CANCELS, ROUNDS, REPLACED = 12, 15, 15
NOTHING: dict[str, Any] = {"pagination": {"has_more": False}}


@pytest.mark.slow
@pytest.mark.commits
def test_a_key_is_replaced_under_load_without_a_failed_call(committed: None, settings: Any):
    """Arize accepts both keys during the change, as after a rotation with a grace period."""
    runs: dict[str, Run] = {}

    def answer(method: str, path: str) -> tuple[int, Any]:
        run = next((run for id_, run in runs.items() if id_ in path), None)
        if run is not None:
            return 200, wire_run(run, "CANCELLED" if method == "POST" else "RUNNING")
        if "/runs" in path:
            return 200, NOTHING | {"task_runs": [wire_run(run, "RUNNING") for run in runs.values()]}
        if "/tasks" in path:
            return 200, NOTHING | {"tasks": [{"id": "T1", "name": "Task", "last_run_at": "2026-11-23T02:55:00Z"}]}
        return 200, NOTHING | {"spaces": [{"id": "S1", "name": "Space"}], "api_keys": []}

    called = threading.Event()
    with serving(ArizeServer(answer, on_arrival=lambda _path: called.set())) as arize:
        settings.ARIZE_ENDPOINTS = (arize.url,)
        team = Team.objects.create(slug="ops-north", name="Ops North")
        key = make_credential(team, key=CANARY)
        Credential.objects.update(endpoint=arize.url)
        task = Task.objects.create(team=team, endpoint=arize.url, arize_id="T1", credential=key, name="Task")
        runs |= {run.arize_id: run for run in (make_run(task) for _ in range(CANCELS))}
        to_cancel = list(runs.values())

        settled = threading.Event()

        def replace() -> list[bool]:
            """Wait until each key is in use before it is replaced, so that a fast thread cannot finish first."""
            row = Credential.objects.get(pk=key.pk)
            done = []
            try:
                for turn in range(REPLACED):
                    called.clear()
                    assert called.wait(30), "no call to Arize"
                    done.append(credentials.replace(row, key=(OTHER, CANARY)[turn % 2], expires_on=None, by=SHELL))
            finally:
                settled.set()
            return done

        def read() -> list[str]:
            problems = []
            while len(problems) < ROUNDS or not settled.is_set():
                report = mirror.refresh(key.pk, force=True)
                problems.append("no round" if report is None else report.problem)
            return problems

        def cancel(part: int) -> list[str]:
            return [cancellations.cancel(run, by=SHELL).outcome for run in to_cancel[part::2]]

        work = [replace, read, lambda: cancel(0), lambda: cancel(1)]
        replaced, problems, *ended = in_threads(len(work), lambda number: work[number]())

    assert replaced == [True] * REPLACED
    assert set(problems) == {""}
    assert ended[0] + ended[1] == [Outcome.CONFIRMED.value] * CANCELS
    assert set(arize.keys) == {f"Bearer {CANARY}", f"Bearer {OTHER}"}
    assert not arize.faults
    row = Credential.objects.get(pk=key.pk)
    assert (row.decrypt_secret(), row.failing_since, row.failures) == (OTHER, None, 0)
