"""Cancelling many with a real worker and a simulated Arize that is slow to allow and often wrong; then power cuts."""

import random
import tempfile
import time
from pathlib import Path

from django.db import connection
from django.utils import timezone

from taskruns.audit import triggers
from taskruns.models import CancelBatch, Run, Team, User
from tests.bench.table import Figure
from tests.bulk_world import FAULTS, World, world

RUNS, A_SECOND = 5_000, 50
RUNS_OF_CUTS, CUTS = 500, 20
RATE_LIMIT = {"path": "/v2/", "per_second": A_SECOND}


def measure() -> list[Figure]:
    triggers.seal(connection)
    figures = []
    for part in (_whole, _with_power_cuts):
        with tempfile.TemporaryDirectory() as directory, world(Path(directory), rate=A_SECOND) as here:
            figures += part(here)
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
    for _ in range(CUTS):
        worker = here.start_worker()
        time.sleep(dice.uniform(1.2, 2.6))
        here.kill(worker)
    here.start_worker()
    here.wait_for(batch, within=300)
    faults = here.faults_of(batch)
    print(*faults[:20], sep="\n")  # noqa: T201
    return [
        Figure(f"{RUNS_OF_CUTS} cancels with {CUTS} power cuts", time.monotonic() - began, "s", 0, ""),
        Figure("  untrue ends, rows too late, unexplained POSTs", len(faults), "", 0, "none may be"),
    ]


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
