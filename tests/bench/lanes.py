"""How often one real worker reads each key: many watched keys, and keys whose Arize accepts calls and never answers."""

import os
import statistics
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db import connection
from django.utils import timezone

from config.processes import base_environment, launch, stop
from taskruns.audit import append_only
from taskruns.models import Credential, Heartbeat, Team
from tests.arize_server import ArizeServer, serving
from tests.batches.worker_stack import database_url
from tests.bench.table import Figure
from tests.processes import wait_for

KEYS, HUNG_OF = 100, 40
SECONDS = 90
PAUSE = 1.5  # seconds without a call, after which a call begins a new round


def measure() -> list[Figure]:
    append_only.make_append_only(connection)
    settled = _measure(KEYS, hung=0, warm_up=20)
    hung = _measure(HUNG_OF, hung=HUNG_OF // 2, warm_up=0)
    p50, p95 = _percentiles(settled.gaps())
    hung_p50, hung_p95 = _percentiles(hung.gaps())
    return [
        Figure(f"{KEYS} watched keys, one worker: start to start, p50", p50, "s", 5.0, "the goal"),
        Figure(f"{KEYS} watched keys, one worker: start to start, p95", p95, "s", 7.0, "the goal"),
        Figure("  the worker's processor time", settled.processor, "%", 100, "one processor"),
        Figure(f"{HUNG_OF} keys, half of them hang: the others, p50", hung_p50, "s", 5.0, "the pace"),
        Figure(f"{HUNG_OF} keys, half of them hang: the others, p95", hung_p95, "s", 8.0, "the goal"),
        Figure("  longest silence of a key that works", max(hung.gaps()), "s", 8.0, "the goal at p95"),
        Figure("  seconds until the worker ended after SIGTERM", hung.seconds_to_end, "s", 8.0, "then it is killed"),
    ]


def _percentiles(seconds: list[float]) -> tuple[float, float]:
    return statistics.median(seconds), statistics.quantiles(seconds, n=20)[-1]


@dataclass
class _Arize(ArizeServer):
    """One task with one active run for each key. The keys in `hung` get no answer once `is_hung` is set."""

    hung: frozenset[str] = frozenset()
    is_hung: threading.Event = field(default_factory=threading.Event)
    is_over: threading.Event = field(default_factory=threading.Event)
    calls: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    since: float = 0.0
    until: float = float("inf")
    processor: float = 0.0
    seconds_to_end: float = 0.0

    def take(self, method: str, path: str, key: str | None = None) -> tuple[int, Any]:
        name = (key or "").removeprefix("Bearer ")
        self.calls[name].append(time.monotonic())
        if name in self.hung and self.is_hung.is_set():
            self.is_over.wait()
        number = name[-4:]  # ids that contain a key would be cleaned of it, and be the same for all keys
        return 200, _answer(path.split("?", maxsplit=1)[0].split("/")[2:], number)

    def gaps(self) -> list[float]:
        """Seconds from the start of each round to the start of the next, and to the end, of all keys that work."""
        found = []
        for key, calls in self.calls.items():
            if key in self.hung:
                continue
            began = [now for before, now in pairwise([float("-inf"), *calls]) if now - before > PAUSE]
            during = [at for at in began if self.since <= at <= self.until]
            found += [later - earlier for earlier, later in pairwise(during)]
            found += [gap for gap in (self.until - (during or [self.since])[-1],) if gap > 5.0]
        return found


def _answer(path: list[str], number: str) -> Any:
    run = {"id": f"R-{number}", "task_id": f"T-{number}", "status": "RUNNING", "created_at": "2026-11-23T03:00:00.000Z"}
    done = {"pagination": {"has_more": False}}
    match path:
        case ["spaces"]:
            return {"spaces": [{"id": f"S-{number}", "name": "Space"}]} | done
        case ["tasks"]:
            return {"tasks": [{"id": f"T-{number}", "name": "Task", "type": "TEMPLATE_EVALUATION"}]} | done
        case ["tasks", _, "runs"]:
            return {"task_runs": [run]} | done
        case ["task-runs", _]:
            return run
    return {}


def _measure(keys: int, *, hung: int, warm_up: float) -> _Arize:
    names = [f"ak-lanes-key-{number:04}" for number in range(keys)]
    arize = _Arize(answer=lambda _method, _path: (404, {}), hung=frozenset(names[:hung]))
    with tempfile.TemporaryDirectory() as directory, serving(arize):
        settings.ARIZE_ENDPOINTS = (arize.url,)
        teams = [_team(f"lanes-{keys}-{number}", arize.url, names[number::20]) for number in range(20)]
        try:
            with _worker(Path(directory), arize) as pid:
                wait_for(lambda: len(arize.calls) == keys, "the first rounds", within=120)
                _watch(teams, 5 + warm_up)
                arize.is_hung.set()
                before = _processor(pid)
                arize.since = time.monotonic()
                _watch(teams, SECONDS)
                arize.until = time.monotonic()
                arize.processor = 100 * (_processor(pid) - before) / (arize.until - arize.since)
        finally:
            arize.is_over.set()
            Credential.objects.filter(team__in=teams).update(revoked_at=timezone.now())
    return arize


def _team(slug: str, url: str, names: list[str]) -> Team:
    team = Team.objects.create(slug=slug, name=slug)
    for name in names:
        credential = Credential(team=team, name=name, endpoint=url)
        credential.encrypt_secret(name)
        credential.save()
    return team


def _watch(teams: list[Team], seconds: float) -> None:
    """Boards of all teams are open."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        Team.objects.filter(pk__in=[team.pk for team in teams]).update(watched_at=timezone.now())
        time.sleep(min(5.0, max(0.0, until - time.monotonic())))


@contextmanager
def _worker(directory: Path, arize: _Arize) -> Iterator[int]:
    environment = base_environment() | {
        **{name: os.environ[name] for name in ("SECRET_KEY", "ENCRYPTION_KEYS", "AUDIT_SIGNING_KEY")},
        "ENV_FILE": "",
        "DATA_DIR": str(directory),
        "DATABASE_URL": database_url(),
        "QUEUE_URL": f"sqlite:///{directory / 'queue.sqlite3'}",
        "ARIZE_ENDPOINTS": arize.url,
    }
    began = timezone.now()
    Heartbeat.objects.all().delete()
    worker = launch("worker", environment=environment, log=directory / "worker.log")
    try:
        wait_for(Heartbeat.objects.filter(seen_at__gte=began).exists, "the worker")
        yield worker.pid
    finally:
        ending = time.monotonic()
        stop([worker], grace=20)
        arize.seconds_to_end = time.monotonic() - ending


def _processor(pid: int) -> float:
    """The processor time of the process in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rsplit(") ", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
