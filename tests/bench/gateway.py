"""What the gateway adds to a call: real web processes and the sandbox, with the direct call as the reference.

Then with 50 scripts running: how long a person waits for the board and for a cancel, beside a fast or a slow Arize.
"""

import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import requests
from django.conf import settings
from django.db import connection
from django.db.models import Min
from django.utils import timezone

from taskruns.audit import append_only
from taskruns.models import Credential, Run, Task, Team, User
from tests.bench.cancels import KEY, panel, sandbox
from tests.bench.table import Figure
from tests.clients import signed_in
from tests.factories import make_token
from tests.gateway.web import web

COUNT = 150
SCRIPTS = 50
SECONDS = 10
HIGH = {"ARIZE_CALLS_PER_MINUTE": "1000000", "TOKEN_REQUESTS_PER_MINUTE": "1000000"}


def measure() -> list[Figure]:
    append_only.make_append_only(connection)
    with sandbox() as url, tempfile.TemporaryDirectory() as directory:
        settings.ARIZE_ENDPOINTS = (url,)
        _, slug = panel(url, slug="gateway")
        team = Team.objects.get(slug=slug)
        _, secret = make_token(team)
        runs = list(Run.objects.filter(team=team, rank=1).order_by("sorted_at").select_related("task"))
        with web(Path(directory), arize=url, more=HIGH) as base:
            figures = _overheads(base, url, secret, runs)
        with web(Path(directory), arize=url, more={}) as base:
            figures += _under_load(base, url, team, runs[-40:])
        with web(Path(directory), arize=url, more={}, with_worker=True) as base:
            figures += _freshness(base, team)
        return figures


def _overheads(base: str, url: str, secret: str, runs: list[Run]) -> list[Figure]:
    through, direct = _session(secret), _session(KEY)

    def get(path: str) -> tuple[Callable[[int], object], Callable[[int], object]]:
        def one(session: requests.Session, host: str, number: int) -> None:
            answer = session.get(f"{host}/v2/{path.format(runs[number].arize_id)}", timeout=30)
            assert answer.status_code == 200, answer.text

        return (lambda number: one(through, base, number)), (lambda number: one(direct, url, number))

    def cancel(session: requests.Session, host: str, run: Run) -> None:
        answer = session.post(f"{host}/v2/task-runs/{run.arize_id}/cancel", timeout=30)
        assert answer.status_code == 200, answer.text

    task = runs[0].task.arize_id
    figures = []
    for what, path in (
        ("GET of a run", "task-runs/{}"),
        ("GET of 5 spaces", "spaces?limit=5"),
        ("GET of 100 runs", f"tasks/{quote(task)}/runs?limit=100"),
    ):
        figures.append(_added(f"{what} through the gateway", *get(path), limit="<= 8 ms more"))
    cancels = (
        lambda number: cancel(through, base, runs[2 * number]),
        lambda number: cancel(direct, url, runs[2 * number + 1]),
    )
    return [*figures, _added("a cancel through the gateway", *cancels, limit="<= 25 ms more")]


def _session(secret: str) -> requests.Session:
    session = requests.Session()
    session.headers.update({"Authorization": f"Bearer {secret}", "Accept-Encoding": "identity"})
    session.trust_env = False
    return session


def _added(what: str, through: Callable[[int], object], direct: Callable[[int], object], *, limit: str) -> Figure:
    """In turns, so that a busy moment of the machine meets both."""
    spans: dict[int, list[float]] = {0: [], 1: []}
    for number in range(COUNT):
        for which, act in enumerate((through, direct)):
            begin = time.perf_counter()
            act(number)
            spans[which].append(1000 * (time.perf_counter() - begin))
    value, reference = statistics.median(spans[0]), statistics.median(spans[1])
    return Figure(f"{what}, p50 (+{value - reference:.1f})", value, "ms", reference, "the direct call", limit)


def _under_load(base: str, url: str, team: Team, runs: list[Run]) -> list[Figure]:
    tokens = [make_token(team, name=f"Script {number}")[1] for number in range(SCRIPTS)]
    person = User.objects.get(email=f"{team.slug}@example.com")
    Credential.objects.filter(team=team).update(recent_calls=[])
    calm = _latencies(base, person, team, runs[:10])
    Credential.objects.filter(team=team).update(recent_calls=[])
    with _scripts(base, tokens) as counts:
        fast = _latencies(base, person, team, runs[10:20])
    sys.stderr.write(f"  fast Arize: {dict(counts())}\n")
    slow = {"path": "/v2/", "method": "GET", "latency_ms": 3000}
    requests.post(f"{url}/sandbox/faults", json=slow, timeout=10).raise_for_status()
    Credential.objects.filter(team=team).update(recent_calls=[])
    with _scripts(base, tokens) as counts:
        hung = _latencies(base, person, team, runs[20:30])
    sys.stderr.write(f"  slow Arize: {dict(counts())}\n")
    requests.delete(f"{url}/sandbox/faults", timeout=10).raise_for_status()
    return [
        Figure(f"{act} beside {SCRIPTS} scripts, {how} Arize, p95", found[act], "ms", calm[act], "without them")
        for act in ("board", "cancel")
        for how, found in (("fast", fast), ("slow", hung))
    ]


def _freshness(base: str, team: Team) -> Iterator[Figure]:
    """How old the oldest status of an active run is, and the oldest search of a task, while the board is open."""
    Credential.objects.filter(team=team).update(recent_calls=[])
    tokens = [make_token(team, name=f"Fresh {number}")[1] for number in range(SCRIPTS)]
    _ages(team, 15)  # the worker's first rounds
    calm = _ages(team, 20)
    with _scripts(base, tokens) as counts:
        busy = _ages(team, 30)
    sys.stderr.write(f"  watched board: {dict(counts())}\n")
    for kind, beside, alone in zip(("status", "search"), zip(*busy, strict=True), zip(*calm, strict=True), strict=True):
        p95 = [statistics.quantiles(ages, n=20)[-1] for ages in (beside, alone)]
        what = f"oldest {kind} of a watched board beside {SCRIPTS} scripts, p95"
        yield Figure(what, p95[0], "s", p95[1], "without them")


def _ages(team: Team, seconds: float) -> list[tuple[float, float]]:
    """Samples of both ages, in seconds."""
    found, until = [], time.monotonic() + seconds
    while time.monotonic() < until:
        Team.objects.filter(pk=team.pk).update(watched_at=timezone.now())
        searched = Task.objects.filter(team=team).exclude(arize_id="").aggregate(at=Min("runs_read_at"))["at"]
        seen = Run.objects.filter(team=team, rank=1).aggregate(at=Min("observed_at"))["at"]
        now = timezone.now()
        found.append(((now - (seen or now)).total_seconds(), (now - (searched or now)).total_seconds()))
        time.sleep(0.25)
    return found


def _latencies(base: str, person: User, team: Team, runs: list[Run]) -> dict[str, float]:
    """p95 in milliseconds of a person's board and cancels over a few seconds."""
    browser = _session("")
    del browser.headers["Authorization"]
    cookie = signed_in(person).cookies[settings.SESSION_COOKIE_NAME].value
    browser.cookies.set(settings.SESSION_COOKIE_NAME, cookie)
    spans: dict[str, list[float]] = {"board": [], "cancel": []}
    board = f"{base}/teams/{team.slug}/runs/"
    page = browser.get(board, timeout=60)
    assert page.status_code == 200, page.text[:500]
    form = page.text.split('name="csrfmiddlewaretoken" value="')[1].split('"')[0]
    until = time.monotonic() + SECONDS
    left = list(runs)
    while time.monotonic() < until:
        spans["board"].append(_timed(lambda: browser.get(board, timeout=60)))
        if left:
            run, body = left.pop(), {"confirmed": "1", "csrfmiddlewaretoken": form}
            path = f"{base}/teams/{team.slug}/runs/{run.pk}/cancel/"
            spans["cancel"].append(_timed(lambda path=path, body=body: browser.post(path, body, timeout=60)))
    return {act: statistics.quantiles(each, n=20)[-1] for act, each in spans.items()}


def _timed(ask: Callable[[], requests.Response]) -> float:
    begin = time.perf_counter()
    answer = ask()
    assert answer.status_code == 200, answer.status_code
    return 1000 * (time.perf_counter() - begin)


@contextmanager
def _scripts(base: str, tokens: list[str]) -> Iterator[Callable[[], Counter[str]]]:
    """A process with one thread for each script, which polls like the official clients: as told by Retry-After."""
    command = [sys.executable, "-c", _SCRIPT, base, *tokens]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    counts: Counter[str] = Counter()
    try:
        time.sleep(2)  # until all of them are at work
        yield lambda: counts
    finally:
        output, _ = process.communicate("", timeout=60)
        counts.update(output.split())


_SCRIPT = """
import sys, threading, requests
base, *tokens = sys.argv[1:]
over = threading.Event()
def work(token):
    session = requests.Session()
    session.headers["Authorization"] = "Bearer " + token
    while not over.is_set():
        answer = session.get(base + "/v2/tasks?limit=5", timeout=60)
        print(answer.status_code)
        over.wait(float(answer.headers.get("Retry-After", 0.1)))
threads = [threading.Thread(target=work, args=(token,)) for token in tokens]
for thread in threads: thread.start()
sys.stdin.read()
over.set()
for thread in threads: thread.join()
"""
