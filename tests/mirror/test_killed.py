"""Workers killed during a round: real processes, killed by SIGKILL while Arize answers."""

import os
import signal
import subprocess
import sys
from collections import Counter
from datetime import timedelta
from random import Random
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
import time_machine
from django.db import connection
from django.utils import timezone

from taskruns.models import Credential, Run, Task, Team
from taskruns.services.credentials.budget import Budget
from taskruns.services.mirror import due, refresh, schedule
from tests.arize_server import ArizeServer, serving
from tests.factories import make_credential
from tests.paths import ROOT
from tests.threads import in_threads

pytestmark = pytest.mark.slow

TASKS = 12
# One round of a worker. Only the claim keeps two workers from reading at once.
ROUND = """
import sys, uuid, django
django.setup()
from django.db import connections
connections["default"].settings_dict["NAME"] = sys.argv[1]
from django.conf import settings
settings.ARIZE_ENDPOINTS = (sys.argv[2],)
from taskruns.services.mirror import refresh
sys.stdin.readline()
print(refresh(uuid.UUID(sys.argv[3])), flush=True)
"""


class Arize:
    """Each task lists one run, active or ended. Counts the requests, and keeps those that arrive twice at once."""

    def __init__(self) -> None:
        self.statuses = {f"R{number}": "RUNNING" if number < 4 else "COMPLETED" for number in range(TASKS)}
        self.in_flight: Counter[str] = Counter()
        self.duplicates: list[str] = []
        self.kill: dict[int, int] = {}  # number of the request -> pid to kill when it arrives
        self.asked = 0

    def arrived(self, path: str) -> None:
        self.asked += 1
        if victim := self.kill.pop(self.asked, None):
            os.kill(victim, signal.SIGKILL)
        self.in_flight[path] += 1
        if self.in_flight[path] > 1:
            self.duplicates.append(path)

    def answer(self, _: str, path: str) -> tuple[int, Any]:
        self.in_flight[path] -= 1
        match urlsplit(path).path.split("/")[2:]:
            case ["spaces"]:
                return 200, {"spaces": [{"id": "S1", "name": "one"}]}
            case ["tasks"]:
                return 200, {"tasks": [{"id": f"T{number}", "name": f"Task {number}"} for number in range(TASKS)]}
            case ["tasks", task, "runs"]:
                return 200, {"task_runs": [self._run(f"R{task[1:]}")]}
            case ["task-runs", run]:
                return 200, self._run(unquote(run))
        return 404, {}

    def _run(self, id_: str) -> dict[str, Any]:
        return {"id": id_, "task_id": f"T{id_[1:]}", "status": self.statuses[id_]}


def worker(double: ArizeServer, credential: Credential) -> subprocess.Popen[str]:
    """A process that starts a round when told to."""
    database = connection.settings_dict["NAME"]
    return subprocess.Popen(
        [sys.executable, "-c", ROUND, str(database), double.url, str(credential.pk)],
        cwd=ROOT,
        env=os.environ | {"DJANGO_SETTINGS_MODULE": "tests.settings"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def run_round(process: subprocess.Popen[str]) -> str:
    """Start its round. Returns what it printed: nothing if it was killed."""
    return process.communicate("go\n", timeout=60)[0].strip()


@pytest.mark.commits
def test_after_a_kill_the_next_round_loses_nothing_and_repeats_no_call(committed: None, settings: Any) -> None:
    arize = Arize()
    chance = Random(4)
    with serving(ArizeServer(arize.answer, on_arrival=arize.arrived)) as double:
        settings.ARIZE_ENDPOINTS = (double.url,)
        credential = make_credential(Team.objects.create(slug="ops", name="Ops"))
        Credential.objects.update(endpoint=double.url)
        moments = (1, 3, chance.randrange(4, 14))
        for moment, victim in [(moment, worker(double, credential)) for moment in moments]:
            arize.kill = {arize.asked + moment: victim.pid}
            assert run_round(victim) == ""
            assert victim.returncode == -signal.SIGKILL
            # Its claim is still valid, because nothing shows yet that it was killed.
            assert due(timezone.now()) == []
            assert refresh(credential.pk) is None
            Credential.objects.update(claimed_until=timezone.now() - timedelta(seconds=1))
        with time_machine.travel(timezone.now() + schedule.LEASE):
            assert due(timezone.now()) == [credential.pk]
            reports = in_threads(4, lambda _: refresh(credential.pk))
        assert sum(report is not None for report in reports) == 1
        assert mirrored() == {id_: word.lower() for id_, word in arize.statuses.items()}
        assert Task.objects.filter(runs_read_at=None).count() == 0
        assert arize.duplicates == []
        assert [fault for fault in double.faults if not isinstance(fault, ConnectionError)] == []


@pytest.mark.commits
def test_the_calls_of_a_killed_worker_count_against_the_rate_limit(committed: None, settings: Any) -> None:
    """Even if it is killed repeatedly at the start of a round, because calls are recorded before they are made."""
    credential = make_credential(Team.objects.create(slug="ops", name="Ops"))
    spent = 0
    for _ in range(30):
        Credential.objects.update(claimed_until=None)
        held = schedule.claim(credential.pk)
        assert held is not None
        budget = Budget(300, held.recent_calls)
        for _ in range(20):
            schedule.renew(held, budget=budget)
            spent += budget.take()
    assert 200 <= spent <= 300


def test_a_completed_round_counts_only_the_calls_it_made(credential: Credential) -> None:
    held = schedule.claim(credential.pk)
    assert held is not None
    budget = Budget(300, held.recent_calls)
    for _ in range(20):
        schedule.renew(held, budget=budget)
        assert budget.take()
    schedule.release(held, began=timezone.now(), recent_calls=budget.recent())
    credential.refresh_from_db()
    assert Budget(300, credential.recent_calls).left() == 280


def mirrored() -> dict[str, str]:
    return dict(Run.objects.values_list("arize_id", "status"))
