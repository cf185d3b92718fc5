"""Cancelling many with a real worker and a simulated Arize that is slow to allow and often wrong; then power cuts."""

import random
import tempfile
import threading
import time
import uuid
from pathlib import Path

import requests
from django.db import connection
from django.test import Client
from django.utils import timezone

from taskruns.audit import triggers
from taskruns.models import CancelBatch, Cancellation, Run, Team, User
from taskruns.services import bulk
from tests.bench.table import Figure, show
from tests.bulk_world import FAULTS, World, world

RUNS, A_SECOND = 5_000, 50
RUNS_OF_CUTS, CUTS = 500, 20
RATE_LIMIT = {"path": "/v2/", "per_second": A_SECOND}


def measure() -> list[Figure]:
    triggers.seal(connection)
    figures = []
    for part in (_with_power_cuts, _whole):
        with tempfile.TemporaryDirectory() as directory, world(Path(directory), rate=A_SECOND) as here:
            found = part(here)
            show(found, title="")
            figures += found
            Run.objects.all().delete()
            Team.objects.filter(pk=here.team.pk).update(slug=f"was-{here.team.pk.hex[:8]}")
            User.objects.filter(pk=here.person.pk).update(email=f"{here.person.pk.hex}@example.com")
    return figures


def _whole(here: World) -> list[Figure]:
    runs = here.add_runs(RUNS)
    here.fail(RATE_LIMIT, *FAULTS)
    worker = here.start_worker()
    time.sleep(3)  # its start is not the batch's time
    batch = here.batch(runs)
    memory = _watch(here, worker.pid, batch)
    seconds = (batch.finished_at - batch.started_at).total_seconds()
    faults = here.faults_of(batch)
    print(*faults[:20], sep="\n")  # noqa: T201
    early, late = max(memory[: len(memory) // 4]), max(memory)
    return [
        Figure(f"{RUNS} cancels, 2% 429, 1% 503, 1% cut", seconds, "s", RUNS / A_SECOND, f"{A_SECOND} a second"),
        Figure("  untrue ends, rows too late, unexplained POSTs", len(faults), "", 0, "none may be"),
        Figure("  the worker's memory at most", late, "MB", early, "in the first quarter"),
    ]


def _with_power_cuts(here: World) -> list[Figure]:
    runs = here.add_runs(RUNS_OF_CUTS)
    here.fail(*FAULTS)
    batch = here.batch(runs)
    dice = random.Random(5)
    began = time.monotonic()
    presser = Presser(here, [run.pk for run in runs])
    presser.start()
    for _ in range(CUTS):
        both = [here.start("worker"), here.start("web")]
        time.sleep(dice.uniform(2, 5))
        for process in both:
            here.kill(process)
    presser.is_over = True
    presser.join()
    here.start_worker()
    here.wait_for(batch, within=300)
    while Cancellation.objects.filter(outcome="", run__team=here.team).exists():
        time.sleep(1)  # a single press that lost its web process is closed by the sweep
    faults = here.faults_of(batch)
    print(*faults[:20], sep="\n")  # noqa: T201
    print(f"{bulk.counts_of(batch)}, {presser.answered} single presses were answered")  # noqa: T201
    return [
        Figure(f"{RUNS_OF_CUTS} cancels, {CUTS} cuts of worker and web", time.monotonic() - began, "s", 0, ""),
        Figure("  untrue ends, rows too late, unexplained POSTs", len(faults), "", 0, "none may be"),
    ]


class Presser(threading.Thread):
    """Somebody who presses Cancel on single runs of the batch meanwhile, as often as the web process answers."""

    def __init__(self, here: World, run_ids: list[uuid.UUID]) -> None:
        super().__init__()
        self.here, self.run_ids, self.is_over, self.answered = here, run_ids, False, 0
        client = Client()
        client.force_login(here.person, backend="allauth.account.auth_backends.AuthenticationBackend")
        self.cookies = {"sessionid": client.cookies["sessionid"].value, "csrftoken": "x" * 32}

    def run(self) -> None:
        dice = random.Random(6)
        while not self.is_over:
            url = f"http://localhost:{self.here.port}/teams/many/runs/{dice.choice(self.run_ids)}/cancel/"
            headers = {"HX-Request": "true", "X-CSRFToken": "x" * 32}
            try:
                answer = requests.post(url, cookies=self.cookies, headers=headers, timeout=5)
            except requests.RequestException:
                time.sleep(0.1)
                continue
            assert answer.status_code in {200, 409, 429, 502}, answer.text
            self.answered += 1
            time.sleep(0.05)


def _watch(here: World, pid: int, batch: CancelBatch) -> list[float]:
    """Megabytes of the worker, twice a second."""
    memory = []
    started = timezone.now()
    while batch.finished_at is None:
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
        memory.append(int(status.split("VmRSS:")[1].split()[0]) / 1024)
        time.sleep(0.5)
        batch.refresh_from_db()
        if (timezone.now() - started).total_seconds() > 10 * RUNS / A_SECOND:
            raise TimeoutError(here.log())
    return memory
