"""An emergency stop resumes soon after Arize recovers: seconds of 503 cost seconds, not minutes."""

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from django.utils import timezone

from taskruns.models import CancelBatch, Cancellation, Credential, Membership, Run, Task, Team, TeamRole, User
from taskruns.services import batches, stops
from tests.arize_server import ArizeServer, serving
from tests.factories import CANARY, actor, make_run, person
from tests.processes import wait_for
from tests.wire import wire_run

pytestmark = [pytest.mark.slow, pytest.mark.commits]

RUNS = 60
AT_POST, OUTAGE = 20, 3.0  # the outage begins with this POST and lasts this many seconds
WITHIN = 15.0  # seconds from the end of the outage to the last cancel


@dataclass
class Outage:
    """An Arize that answers 503 to everything for a while."""

    runs: dict[str, Any] = field(default_factory=dict)
    cancelled: Counter[str] = field(default_factory=Counter)
    posts: int = 0
    failed: int = 0
    over_at: float = 0.0
    last_at: float = 0.0

    def answer(self, method: str, path: str) -> tuple[int, Any]:
        run_id, now = path.split("/")[3], time.monotonic()
        self.posts += method == "POST"
        if self.posts == AT_POST and not self.over_at:
            self.over_at = now + OUTAGE
        if now < self.over_at:
            self.failed += 1
            return 503, {"status": 503, "title": "Service Unavailable"}
        if method == "POST":
            self.cancelled[run_id] += 1
            self.last_at = now
        return 200, self.runs[run_id] | {"status": "CANCELLED" if self.cancelled[run_id] else "RUNNING"}


@pytest.fixture
def stopped(committed: None, settings: Any) -> Iterator[tuple[Outage, CancelBatch]]:
    settings.CANCELS_PER_SECOND = 20
    outage = Outage()
    with serving(ArizeServer(outage.answer)) as double:
        settings.ARIZE_ENDPOINTS = (double.url,)
        team = Team.objects.create(slug="ops-north", name="Ops North")
        oli: User = person("oli@example.com")
        Membership.objects.create(team=team, user=oli, role=TeamRole.OPERATOR)
        credential = Credential(team=team, name="Production", endpoint=double.url)
        credential.encrypt_secret(CANARY)
        credential.save()
        task = Task.objects.create(team=team, endpoint=double.url, arize_id="T1", credential=credential)
        runs: list[Run] = [make_run(task) for _ in range(RUNS)]
        outage.runs = {run.arize_id: wire_run(run) for run in runs}
        batch = stops.pull(team, reason="too expensive", left_out=[], by=actor(oli)).batch
        assert batch is not None
        yield outage, batch


def test_an_emergency_stop_ends_soon_after_an_outage(stopped: tuple[Outage, CancelBatch]) -> None:
    outage, batch = stopped
    while batches.work(batch.pk) is not None:
        wait_for(lambda: batches.due(timezone.now()), "the next slice")
    assert outage.failed >= 3, "the control: the outage was noticed"
    assert outage.failed < 60, "a paused key is not tried with a full slice"
    assert batches.counts_of(batch) == {"confirmed": RUNS}
    assert set(outage.cancelled.values()) == {1}
    assert outage.last_at - outage.over_at <= WITHIN
    assert not Cancellation.objects.filter(outcome="").exists()
