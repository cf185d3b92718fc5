"""Exports on the real web server: the time of one, and of other requests while 16 exports are requested at once.

BENCH_EXPORT_RUNS: number of runs, by default 100,000.
"""

import csv
import io
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import requests
from django.conf import settings
from django.db import connection
from django.test import Client

from config.processes import ROOT, base_environment, launch, stop
from taskruns.models import Membership, Run, Team, TeamRole, User
from taskruns.pages.board.export import COLUMNS
from taskruns.services import mirror
from tests.bench.cancels import panel, sandbox
from tests.bench.table import Figure, median_ms
from tests.processes import free_ports, wait_for

RUNS = int(os.environ.get("BENCH_EXPORT_RUNS", "100000"))
TIMES = 3
AT_ONCE = 16
CANCELS = 40
_PLAIN = (
    *("id", "arize_id", "task__arize_id", "task__name", "task__type", "task__space_id", "task__space_name"),
    *("task__credential__name", "endpoint", "status", "raw_status", "created_at", "run_started_at", "run_finished_at"),
    *("duration_us", "data_start_time", "data_end_time", "num_successes", "num_errors", "num_skipped"),
    *("experiment_id", "created_by_user_id", "failure_reason", "gone_since", "observed_at"),
)


def measure() -> list[Figure]:
    with sandbox() as url:
        settings.ARIZE_ENDPOINTS = (url,)
        operator, slug = panel(url, slug="exports")
        team = Team.objects.get(slug=slug)
        viewer = Client()
        person = User.objects.create(email="bench-viewer@example.com")
        Membership.objects.create(team=team, user=person, role=TeamRole.VIEWER)
        viewer.force_login(person, backend="allauth.account.auth_backends.AuthenticationBackend")
        for _done in mirror.fill_runs(team, runs=RUNS):
            pass
        plain = median_ms(lambda _number: _plain(team), range(TIMES))
        export = median_ms(lambda _number: _export(viewer, slug), range(TIMES))
        what = f"CSV export of {RUNS:,} runs, {len(COLUMNS)} columns"
        with _web(url) as address:
            beside = _beside(address, team, operator, viewer)
        return [Figure(what, export, "ms", plain, "csv.writer over values_list", "<= 1.5x"), *beside]


def _plain(team: Team) -> None:
    text = io.StringIO()
    rows = Run.objects.filter(team=team).order_by("-sorted_at", "-pk").values_list(*_PLAIN)
    csv.writer(text).writerows(rows.iterator())


def _export(client: Client, slug: str) -> None:
    answer = client.get(f"/teams/{slug}/runs/export.csv")
    lines = sum(piece.count(b"\n") for piece in answer.streaming_content)  # type: ignore[attr-defined]
    if lines <= RUNS:
        raise RuntimeError(f"{lines} lines")


@contextmanager
def _web(arize: str) -> Iterator[str]:
    """The web server on the database of this benchmark."""
    (port,) = free_ports(1)
    address = f"http://localhost:{port}"
    secrets = {name: os.environ[name] for name in ("SECRET_KEY", "ENCRYPTION_KEYS", "AUDIT_SIGNING_KEY")}
    directory = Path(settings.DATA_DIR)
    environment = base_environment() | secrets | {
        "ENV_FILE": "",
        "SITE_URL": address,
        "DATA_DIR": str(directory),
        "DATABASE_URL": _database_url(),
        "QUEUE_URL": f"sqlite:///{directory / 'queue.sqlite3'}",
        "ARIZE_ENDPOINTS": arize,
        "REQUIRE_MFA": "off",
    }  # fmt: skip
    collect = [sys.executable, "manage.py", "collectstatic", "--no-input", "--verbosity=0"]
    subprocess.run(collect, cwd=ROOT, env=environment, check=True)
    web = launch("web", environment=environment, log=directory / "web.log")
    try:
        wait_for(lambda: _answers(f"{address}/healthz"), "the web server", within=30)
        yield address
    finally:
        stop([web])


def _database_url() -> str:
    own = connection.settings_dict
    if connection.vendor == "sqlite":
        return f"sqlite:///{own['NAME']}"
    return f"postgres://{own['USER']}:{own['PASSWORD']}@{own['HOST']}:{own['PORT']}/{own['NAME']}"


def _answers(url: str) -> bool:
    try:
        return requests.get(url, timeout=5).status_code == 200
    except requests.RequestException:
        return False


def _beside(address: str, team: Team, operator: Client, viewer: Client) -> list[Figure]:
    """p95 of a cancel and of /healthz while one viewer keeps requesting 16 exports at once."""
    runs = iter(list(Run.objects.filter(team=team, rank=1).order_by("sorted_at")[: 4 * CANCELS]))
    browser = _browser(address, operator)

    def cancel() -> None:
        path = f"{address}/teams/{team.slug}/runs/{next(runs).pk}/cancel/"
        headers = {"X-CSRFToken": browser.cookies["csrftoken"], "HX-Request": "true", "Origin": address}
        answer = browser.post(path, data={"confirmed": "1"}, headers=headers, timeout=60)
        assert answer.status_code == 200, answer.text

    def health() -> None:
        assert requests.get(f"{address}/healthz", timeout=60).status_code == 200

    acts = {"a cancel": (cancel, "<= 1 s"), "/healthz": (health, "<= 0.5 s")}
    cancel()
    alone = {what: _p95(act) for what, (act, _limit) in acts.items()}
    with _exporting(address, team, viewer) as counts:
        beside = {what: _p95(act) for what, (act, _limit) in acts.items()}
    done = f"{counts[200]} sent, {counts[429]} refused"
    return [
        Figure(f"{what} beside {AT_ONCE} exports, {done} (p95)", beside[what], "ms", alone[what], "without", limit)
        for what, (_act, limit) in acts.items()
    ]


def _p95(act: Callable[[], None]) -> float:
    spans = []
    for _ in range(CANCELS):
        begin = time.perf_counter()
        act()
        spans.append(time.perf_counter() - begin)
    return 1000 * statistics.quantiles(spans, n=20)[-1]


def _browser(address: str, client: Client) -> requests.Session:
    browser = requests.Session()
    browser.cookies.set("sessionid", client.cookies["sessionid"].value, domain="localhost.local")
    browser.get(f"{address}/", timeout=30).raise_for_status()
    return browser


@contextmanager
def _exporting(address: str, team: Team, viewer: Client) -> Iterator[dict[int, int]]:
    counts = {200: 0, 429: 0}
    ends = threading.Event()

    def export() -> None:
        browser = _browser(address, viewer)
        while not ends.is_set():
            url = f"{address}/teams/{team.slug}/runs/export.csv"
            with browser.get(url, stream=True, timeout=60) as answer:
                counts[answer.status_code] += 1
                for _piece in answer.iter_content(65_536):
                    if ends.is_set():
                        break
            ends.wait(0 if answer.status_code == 200 else 0.2)

    threads = [threading.Thread(target=export) for _ in range(AT_ONCE)]
    for thread in threads:
        thread.start()
    try:
        wait_for(lambda: counts[200] and counts[429] >= AT_ONCE - 1, "exports", within=60)
        yield counts
    finally:
        ends.set()
        for thread in threads:
            thread.join()
