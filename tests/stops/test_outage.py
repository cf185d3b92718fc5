"""An outage of Arize under an emergency stop: it cancels all runs soon after Arize recovers."""

import json
import re
from datetime import timedelta
from random import Random
from typing import Any

import pytest
import requests
import responses
import time_machine
from django.utils import timezone

from taskruns import jobs
from taskruns.models import Credential, Team, User
from taskruns.services import batches, mirror, stops
from taskruns.services.credentials import pauses
from tests.factories import actor, make_credential
from tests.fake_arize import START, World, failing
from tests.mirror.simulation import fill
from tests.wire import ENDPOINT

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("empty_queue")]

WELL_AT = 400  # seconds; the outage begins at 60
WITHIN = 15  # seconds


def take_cancels(world: World, arize: responses.RequestsMock) -> None:
    def cancel(request: requests.PreparedRequest) -> Any:
        call = str(request.path_url)
        world.calls.append(call)
        run = world.find(call.split("/")[3])
        assert run is not None
        answer = world.fault(call)
        if answer is not None:
            return answer
        run |= {"status": "CANCELLED"}
        return 200, {}, json.dumps(run)

    arize.add_callback(responses.POST, re.compile(re.escape(ENDPOINT) + "/v2/task-runs/.*/cancel"), cancel)


def active(world: World) -> list[str]:
    return [run["id"] for runs in world.runs.values() for run in runs if run["status"] == "RUNNING"]


def work() -> None:
    """What the worker's clock does in one second."""
    for key in mirror.due(timezone.now()):
        jobs.read_round(key)
    for batch in batches.due(timezone.now()):
        while jobs.work_slice(batch):
            pass


@pytest.mark.parametrize("fault", [failing("/v2/", 503), lambda _: requests.ConnectTimeout()], ids=["503", "silent"])
@pytest.mark.parametrize("pulled_at", [50, 300], ids=["before the outage", "in a long pause"])
def test_the_last_run_is_cancelled_soon_after_an_outage(
    pulled_at: int, fault: Any, team: Team, oli: User, arize: responses.RequestsMock, settings: Any, monkeypatch: Any
) -> None:
    """Also the runs that began meanwhile. The outage is longer than the longest pause."""
    settings.CANCELS_PER_SECOND = 1_000
    monkeypatch.setattr(pauses, "spread", lambda longest: longest)  # the worst case
    world, chance = World().install(arize), Random(3)
    take_cancels(world, arize)
    with time_machine.travel(START, tick=False) as clock:
        key: Credential = make_credential(team)
        idle = fill(world, key, tasks=60, active=4, spaces=2)
        ended_at = None
        for second in range(1, WELL_AT + WITHIN + 1):
            clock.move_to(START + timedelta(seconds=second))
            if second == pulled_at:
                stops.pull(team, reason="why", left_out=[], by=actor(oli))
            if second == 60:
                world.fault = fault
            if second in range(70, WELL_AT, 30):
                task = chance.choice(idle)
                world.run(f"meanwhile-{second}", task, created_at=timezone.now().isoformat())
                world.tasks[task]["last_run_at"] = timezone.now().isoformat()
            if second == WELL_AT:
                assert len(active(world)) >= 11, "the control"
                world.fault = lambda _: None
            work()
            if second >= WELL_AT and not active(world):
                ended_at = second
                break
    assert ended_at is not None, active(world)
