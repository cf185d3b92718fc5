"""How many calls to Arize the board needs, and how soon a change in Arize is on an open board.

A sandbox process counts the calls while ticks and polls of several simulated minutes run at once. How soon new runs are
seen is simulated too, with an Arize in this process whose answers take no time: 300 or 1,000 tasks, eight of them with
active runs. The delay of a change is measured in real time with all real processes: sandbox, worker (every 5 s), web,
and boards that poll as the page's script does.
"""

import random
import re
import statistics
import tempfile
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

import requests
import responses
import time_machine
from django.conf import settings
from django.test import Client
from django.utils import timezone

from taskruns.models import Credential, EmergencyStop, Membership, Run, Task, Team, TeamRole, User
from taskruns.services import mirror
from tests.bench.cancels import KEY, sandbox
from tests.bench.table import Figure
from tests.e2e.stack import Stack, running_stack
from tests.factories import make_credential
from tests.fake_arize import START, World
from tests.mirror.simulation import NewRuns, Simulation, fill, p95, watch
from tests.sandbox.caller import Caller
from tests.wire import ENDPOINT

TASKS, ACTIVE = 1_000, 5
MINUTES = 2
BOARDS = (0, 1, 200)
RUNS = 12  # each changes twice: pending again, then completed
# Seconds, as in app.js.
POLL, WRITTEN, PATIENCE = 5.0, 0.8, 2.0
BOARDS_OPEN = 5


def measure() -> list[Figure]:
    return [*_calls(), *_new_runs(), *_delays()]


def _calls() -> list[Figure]:
    with sandbox(tasks=TASKS) as url:
        settings.ARIZE_ENDPOINTS = (url,)
        arize = Caller(url, KEY)
        tasks = arize.tasks(limit=100)
        _quieten(arize, tasks)
        for task in tasks[:ACTIVE]:
            arize.add_runs(task["id"], status="running")
        client, credential, spent = _panel(arize)
        sweep = float(len(tasks))
        is_a_sweep = "one list a task: a plain sweep"
        figures = [Figure(f"first contact with {TASKS:,} tasks: most calls in a minute", spent, "", sweep, is_a_sweep)]
        by_boards = {boards: _minutes(arize, client, credential, boards=boards) for boards in BOARDS}
        for boards, calls in by_boards.items():
            what = f"calls a minute, {TASKS:,} idle tasks, {ACTIVE} active runs, {boards} boards"
            figures.append(Figure(what, calls, "", sweep, is_a_sweep))
        figures.append(
            Figure("calls a minute with 200 open boards", by_boards[200], "", by_boards[1], "with one board")
        )
        return figures


def _quieten(arize: Caller, tasks: list[dict[str, str]], *, left: Collection[str] = ()) -> None:
    """Ends all active runs except those to keep."""
    for task in tasks:
        for run in arize.runs(task["id"], limit=100):
            if run["status"] in {"PENDING", "RUNNING"} and run["id"] not in left:
                arize.call("PATCH", f"/sandbox/runs/{run['id']}", body={"status": "completed"})


def _panel(arize: Caller) -> tuple[Client, Credential, float]:
    """A board and a key after first contact. Returns the most calls in any minute of it."""
    team = Team.objects.create(slug="pace", name="Pace")
    person = User.objects.create(email="pace@example.com")
    Membership.objects.create(team=team, user=person, role=TeamRole.VIEWER)
    credential = Credential(team=team, name="Pace", endpoint=arize.url)
    credential.encrypt_secret(KEY)
    credential.save()
    client = Client()
    client.force_login(person, backend="allauth.account.auth_backends.AuthenticationBackend")
    called: dict[int, float] = {}
    with time_machine.travel(timezone.now(), tick=False) as clock:
        begin = timezone.now()
        while Credential.objects.filter(pk=credential.pk, first_contact_done_at=None).exists():
            called[len(called) * 5] = _tick(arize, credential)
            clock.move_to(begin + timedelta(seconds=5 * len(called)))
    assert Task.objects.filter(team=team).count() == TASKS
    assert Run.objects.filter(team=team, rank=1).count() == ACTIVE
    return client, credential, _most(called)


def _minutes(arize: Caller, client: Client, credential: Credential, *, boards: int) -> float:
    """The most calls in any minute while this many boards poll every 5 s and a worker ticks every 5 s."""
    begin = timezone.now() + timedelta(hours=1 + BOARDS.index(boards))
    called: dict[int, float] = {}
    etag = ""
    with time_machine.travel(begin, tick=False) as clock:
        Credential.objects.filter(pk=credential.pk).update(next_refresh_at=begin)
        for second in range(0, 60 * MINUTES, 5):
            clock.move_to(begin + timedelta(seconds=second))
            for _ in range(boards):
                etag = _poll(client, etag)
            called[second] = _tick(arize, credential)
    return _most(called)


def _poll(client: Client, etag: str) -> str:
    """Like the page's script: the table is sent only if it changed."""
    answer = client.get("/teams/pace/runs/table/", headers={"If-None-Match": etag})
    assert answer.status_code in {200, 304}, answer.status_code
    return answer.headers.get("ETag", etag)


def _tick(arize: Caller, credential: Credential) -> float:
    before = _received(arize)
    if credential.pk in mirror.due(timezone.now()):
        mirror.refresh(credential.pk)
    return _received(arize) - before


def _received(arize: Caller) -> float:
    return float(arize.get("/sandbox/requests", path="nothing").json["total"])


def _most(called: dict[int, float]) -> float:
    return max(sum(calls for at, calls in called.items() if start <= at < start + 60) for start in called)


def _new_runs() -> list[Figure]:
    """The goals are the references."""
    figures = []
    for tasks, goal in ((300, 10.0), (1_000, 25.0)):
        with _simulated(f"hint-{tasks}") as simulation:
            idle = fill(simulation.world, simulation.key, tasks=tasks, active=8, spaces=4)
            watch(simulation.key.team)
            simulation.run(300, before_tick=NewRuns(idle, has_hint=True, every=8, until=270))
            what = f"{tasks:,} tasks, watched, {len(simulation.delays)} new runs with a hint, p95"
            figures += _of(simulation, what, p95(simulation.delays), goal)
    with _simulated("search") as simulation:
        fill(simulation.world, simulation.key, tasks=300, active=8)
        watch(simulation.key.team)
        simulation.run(300)
        oldest = max(age for second, age in simulation.searched.items() if second >= 120 and age is not None)
        figures += _of(simulation, "300 tasks, watched, oldest search", oldest, 120.0)
    with _simulated("held") as simulation:
        idle = fill(simulation.world, simulation.key, tasks=300, active=8, spaces=4)
        ends = timezone.now() + timedelta(days=1)
        EmergencyStop.objects.create(team=simulation.key.team, person_label="pace", reason="pace", expires_at=ends)
        simulation.run(300, before_tick=NewRuns(idle, has_hint=True, every=8, until=270))
        what = f"300 tasks, emergency stop, {len(simulation.delays)} new runs with a hint, p95"
        figures += _of(simulation, what, p95(simulation.delays), 15.0)
    with _simulated("unwatched") as simulation:
        fill(simulation.world, simulation.key, tasks=1_000, active=5, spaces=4)
        simulation.run(300)
        calls = float(simulation.most_in_a_minute())
        figures.append(Figure("1,000 tasks, nobody looks, 5 active: calls a minute", calls, "", 40.0, "the goal"))
    return figures


def _of(simulation: Simulation, what: str, seconds: float, goal: float) -> list[Figure]:
    calls, limit = float(simulation.most_in_a_minute()), float(settings.ARIZE_CALLS_PER_MINUTE)
    return [
        Figure(what, seconds, "s", goal, "the goal"),
        Figure("  its calls a minute", calls, "", limit, "the rate limit"),
    ]


@contextmanager
def _simulated(slug: str) -> Iterator[Simulation]:
    settings.ARIZE_ENDPOINTS = (ENDPOINT,)
    arize = responses.RequestsMock(assert_all_requests_are_fired=False)
    with arize, time_machine.travel(START, tick=False) as clock:
        team = Team.objects.create(slug=slug, name=slug)
        yield Simulation(World().install(arize), clock, make_credential(team))


def _delays() -> list[Figure]:
    with tempfile.TemporaryDirectory() as directory, running_stack(Path(directory), spare=RUNS) as stack:
        seconds = sorted(_changes_seen(stack))
    p95 = statistics.quantiles(seconds, n=20)[-1]
    name = f"a change in Arize is on an open board ({len(seconds)})"
    return [
        Figure(f"{name}, p50", statistics.median(seconds), "s", 6.0, "the goal"),
        Figure(f"{name}, p95", p95, "s", 6.0, "the goal"),
    ]


@dataclass
class _Board:
    """An open board that polls as the page's script does. `seen`: from each change to the first poll that shows it."""

    session: requests.Session
    url: str
    next_poll: float
    waits_for: dict[str, float] = field(default_factory=dict)
    seen: list[float] = field(default_factory=list)

    def poll(self) -> None:
        answer = self.session.get(self.url, timeout=20)
        page = answer.text
        for row in [row for row in self.waits_for if row in page]:
            self.seen.append(time.monotonic() - self.waits_for.pop(row))
        self.next_poll = time.monotonic() + _until_next(answer.headers.get("X-Statuses-At"))


def _until_next(statuses_at: str | None) -> float:
    """As `planPoll` in app.js."""
    if statuses_at is None:
        return POLL
    wait = datetime.fromisoformat(statuses_at).timestamp() + POLL + WRITTEN - time.time()
    return min(POLL, max(1.0, wait)) if wait > -PATIENCE else POLL


def _changes_seen(stack: Stack) -> list[float]:
    """Changes happen at random times; each board polls at its own times."""
    _quieten(stack.arize, stack.arize.tasks(limit=100), left=set(stack.spare))
    session, url = _signed_in(stack)
    now = time.monotonic()
    boards = [_Board(session, url, now + phase * POLL / BOARDS_OPEN) for phase in range(BOARDS_OPEN)]
    waiting = [(run, word) for word in ("completed", "pending") for run in stack.spare]
    chance = random.Random(5)
    next_change = now + 4 * POLL
    while waiting or any(board.waits_for for board in boards):
        assert time.monotonic() < now + 4 * 60, "changes that no poll has shown"
        if waiting and time.monotonic() >= next_change:
            run, word = waiting.pop()
            stack.arize.call("PATCH", f"/sandbox/runs/{run}", body={"status": word})
            for board in boards:
                board.waits_for[f'data-run-id="{run}" data-status="{word}"'] = time.monotonic()
            next_change += chance.uniform(0, 1.5 * POLL)
        for board in boards:
            if time.monotonic() >= board.next_poll:
                board.poll()
        time.sleep(0.02)
    return [seconds for board in boards for seconds in board.seen]


def _signed_in(stack: Stack) -> tuple[requests.Session, str]:
    session = requests.Session()
    login = f"{stack.url}/accounts/login/"
    token = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', session.get(login, timeout=20).text)
    assert token is not None
    fields = {"login": "vera@demo.example", "password": stack.password, "csrfmiddlewaretoken": token[1]}
    answer = session.post(login, data=fields, headers={"Referer": login}, timeout=20)
    assert answer.ok, answer.status_code
    return session, f"{stack.url}/teams/ops-north/runs/table/"
