"""Bulk cancels with a real worker and a simulated Arize that is slow and often fails; then kill the processes."""

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

from taskruns.audit import append_only
from taskruns.models import Cancellation, Heartbeat, Run, Team, User
from taskruns.services import batches
from tests.batches.worker_stack import FAULTS, WorkerStack, worker_stack
from tests.bench.table import Figure, show
from tests.processes import wait_for

RUNS, A_SECOND = 5_000, 50
RUNS_OF_CUTS, CUTS = 500, 20
RATE_LIMIT = {"path": "/v2/", "per_second": A_SECOND}


def measure() -> list[Figure]:
    append_only.make_append_only(connection)
    figures = []
    for part in (_with_power_cuts, _whole):
        with tempfile.TemporaryDirectory() as directory, worker_stack(Path(directory), rate=A_SECOND) as here:
            found = part(here)
            show(found, title="")
            figures += found
            Run.objects.all().delete()
            Team.objects.filter(pk=here.team.pk).update(slug=f"was-{here.team.pk.hex[:8]}")
            User.objects.filter(pk=here.person.pk).update(email=f"{here.person.pk.hex}@example.com")
    return figures


def _whole(here: WorkerStack) -> list[Figure]:
    runs = here.add_runs(RUNS)
    here.fail(RATE_LIMIT, *FAULTS)
    worker = here.start_worker()
    began = timezone.now()
    wait_for(Heartbeat.objects.filter(seen_at__gt=began).exists, "the worker: its start is not the batch's time")
    batch = here.batch(runs)
    memory = Memory(worker.pid)
    memory.start()
    here.wait_for(batch, within=10 * RUNS / A_SECOND)
    memory.over.set()
    seconds = (batch.finished_at - batch.started_at).total_seconds()
    faults = here.faults_of(batch)
    print(*faults[:20], sep="\n")  # noqa: T201
    early, late = max(memory.megabytes[: len(memory.megabytes) // 2]), max(memory.megabytes)
    return [
        Figure(f"{RUNS} cancels, 2% 429, 1% 503, 1% cut", seconds, "s", RUNS / A_SECOND, f"{A_SECOND} a second"),
        Figure("  untrue ends, rows too late, unexplained POSTs", len(faults), "", 0, "none may be"),
        Figure("  the worker's memory at most", late, "MB", early, "in the first half"),
    ]


def _with_power_cuts(here: WorkerStack) -> list[Figure]:
    runs = here.add_runs(RUNS_OF_CUTS)
    here.fail(*FAULTS)
    batch = here.batch(runs)
    dice = random.Random(5)
    began = time.monotonic()
    canceller = SingleCanceller(here, [run.pk for run in runs])
    canceller.start()
    for sent in sorted(dice.sample(range(5, RUNS_OF_CUTS - 20), CUTS)):
        both = [here.start("worker"), here.start("web")]
        wait_for(lambda sent=sent: sum(map(len, here.posts().values())) >= sent, "the next cut", within=120)
        for process in both:
            here.kill(process)
    canceller.over.set()
    canceller.join()
    here.start_worker()
    here.wait_for(batch, within=300)
    # The sweep closes a single cancel whose web process was killed.
    is_open = Cancellation.objects.filter(outcome="", run__team=here.team)
    wait_for(lambda: not is_open.exists(), "the sweep", within=180)
    faults = here.faults_of(batch)
    print(*faults[:20], sep="\n")  # noqa: T201
    print(f"{batches.counts_of(batch)}, {canceller.answered} single cancels were answered")  # noqa: T201
    return [
        Figure(f"{RUNS_OF_CUTS} cancels, {CUTS} cuts of worker and web", time.monotonic() - began, "s", 0, ""),
        Figure("  untrue ends, rows too late, unexplained POSTs", len(faults), "", 0, "none may be"),
    ]


class SingleCanceller(threading.Thread):
    """A person who cancels single runs of the batch at the same time, as fast as the web process answers."""

    def __init__(self, here: WorkerStack, run_ids: list[uuid.UUID]) -> None:
        super().__init__()
        self.here, self.run_ids, self.answered = here, run_ids, 0
        self.over = threading.Event()
        client = Client()
        client.force_login(here.person, backend="allauth.account.auth_backends.AuthenticationBackend")
        self.cookies = {"sessionid": client.cookies["sessionid"].value, "csrftoken": "x" * 32}

    def run(self) -> None:
        dice = random.Random(6)
        while not self.over.wait(0.05):
            url = f"http://localhost:{self.here.port}/teams/many/runs/{dice.choice(self.run_ids)}/cancel/"
            headers = {"HX-Request": "true", "X-CSRFToken": "x" * 32}
            try:
                answer = requests.post(url, {"confirmed": "1"}, cookies=self.cookies, headers=headers, timeout=5)
            except requests.RequestException:
                continue
            assert answer.status_code in {200, 409, 429, 502}, answer.text
            self.answered += 1


class Memory(threading.Thread):
    """Measures a process's memory in MB twice a second."""

    def __init__(self, pid: int) -> None:
        super().__init__()
        self.pid, self.megabytes, self.over = pid, [0.0], threading.Event()

    def run(self) -> None:
        while not self.over.wait(0.5):
            status = Path(f"/proc/{self.pid}/status").read_text(encoding="ascii")
            self.megabytes.append(int(status.split("VmRSS:")[1].split()[0]) / 1024)
