"""A long log: verification, export and page, compared with a thousandth of the rows.

BENCH_AUDIT_ROWS: number of rows, by default a million. Verification and export run as commands in separate processes,
to measure their memory.
"""

import os
import subprocess
import sys
import threading
import time

from django.db import connection, connections, transaction
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from taskruns.audit import Actor, EventType, Target, record
from taskruns.models import AuditEvent, Heartbeat, Membership, Team, TeamRole, User
from tests.bench.audit_rows import fill, person_of, run_of
from tests.bench.table import Figure, median_ms

FEW = 1_000
MANY = int(os.environ.get("BENCH_AUDIT_ROWS", "1000000"))
WRITERS = 8
EACH = 60  # appends by one writer
TIMES = 30
LIMITS = {
    "verify": ("<= 60 s", "<= 150 MB"),
    "export as jsonl": ("", "constant"),
    "export over http": ("", "constant"),
}
SLOWER = "<= 1.3 x"
PAGES = {
    "first page": "",
    "one outcome": "?outcome=confirmed",
    "search": "?q=evaluation",
    "search in vain": "?q=zzz",
    "one event": "?event=run.cancel",
    "an absent event": "?event=team.create",
    "one person": "?actor={person}",
    "part of an address": "?person=person-7",
    "nobody": "?person=nobody",
    "one run": "?run={run}",
    "one task": "?task=T25saW5lVGFzazo0NTpx0003",
    "an absent key": "?key=00000000-0000-0000-0000-000000000001",
    "one request": "?request=00000000-0000-0000-0000-000000000005",
    "a batch": "?batch=x",
    "an hour": "?since=2026-01-01T01:00&until=2026-01-01T02:00",
}


def measure() -> list[Figure]:
    small, middle, large = _team("few", FEW), _team("some", MANY // 5), _team("many", MANY)
    figures = _parallel_appends()
    commands = {
        "verify": ["manage.py", "verify_audit", "--chain"],
        "export as jsonl": ["manage.py", "export_audit"],
        "export over http": ["-c", _WEB_EXPORT],
    }
    for name, command in commands.items():
        few_seconds, few_mb = _command([*command, small.slug])
        seconds, mb = _command([*command, large.slug])
        reference = f"the same at {FEW:,} rows"
        in_time, in_memory = LIMITS[name]
        figures.append(Figure(f"{name} {MANY:,} rows", seconds, "s", few_seconds, reference, in_time))
        figures.append(Figure(f"{name} {MANY:,} rows, peak memory", mb, "MB", few_mb, reference, in_memory))
    return figures + _pages(small, {MANY // 5: middle, MANY: large})


_WEB_EXPORT = """
import sys, django
django.setup()
from django.conf import settings
from django.test import Client
from taskruns.models import User
settings.ALLOWED_HOSTS = ["testserver"]
client = Client()
person = User.objects.get(memberships__team__slug=sys.argv[1])
client.force_login(person, backend="allauth.account.auth_backends.AuthenticationBackend")
answer = client.get(f"/teams/{sys.argv[1]}/audit/export.jsonl")
assert sum(len(part) for part in answer.streaming_content) > 1000
"""


def _team(slug: str, rows: int) -> Team:
    team = Team.objects.create(slug=slug, name=slug.title())
    person = User.objects.create(email=f"{slug}@example.com")
    Membership.objects.create(team=team, user=person, role=TeamRole.MANAGER)
    fill(f"team:{team.pk}", rows=rows)
    return team


def _pages(small: Team, large: dict[int, Team]) -> list[Figure]:
    """Without statistics of the planner: a new database has none either."""
    figures = []
    for name, query in PAGES.items():
        few, queries = _page(small, query)
        for rows, team in large.items():
            many, the_same = _page(team, query)
            grown = "" if queries == the_same else f" (NOT THE SAME: {the_same})"
            what = f"audit page of {rows:,} rows, {name}, {queries} queries{grown} (p50)"
            figures.append(Figure(what, many, "ms", few, f"the same at {FEW:,} rows", SLOWER))
    of_all = _client(_auditor())
    for name, query in PAGES.items():
        queries, many = _measured(of_all, f"/audit/{query_for(large[MANY], query)}")
        few, _ = _page(small, query)
        what = f"audit page of all teams, {name}, {queries} queries (p50)"
        figures.append(Figure(what, many, "ms", few, f"a team's page of {FEW:,} rows"))
    return figures


def query_for(team: Team, query: str) -> str:
    chain = f"team:{team.pk}"
    return query.format(person=person_of(chain, 7), run=run_of(chain, 2))


def _page(team: Team, query: str) -> tuple[float, int]:
    queries, milliseconds = _measured(
        _client(User.objects.get(memberships__team=team)), f"/teams/{team.slug}/audit/{query_for(team, query)}"
    )
    return milliseconds, queries


def _auditor() -> User:
    return User.objects.create(email="auditor@example.com", site_role="auditor")


def _client(person: User) -> Client:
    client = Client()
    client.force_login(person, backend="allauth.account.auth_backends.AuthenticationBackend")
    return client


def _measured(client: Client, path: str) -> tuple[int, float]:
    """Queries, and milliseconds (p50)."""
    if client.get(path).status_code != 200:
        raise RuntimeError(path)
    with CaptureQueriesContext(connection) as captured:
        client.get(path)
        count = len(captured)
    return count, median_ms(lambda _number: client.get(path), range(TIMES))


def _command(arguments: list[str]) -> tuple[float, float]:
    """Seconds and peak MB of `python ...` on this run's database."""
    database = connection.settings_dict
    url = (
        f"sqlite:///{database['NAME']}"
        if connection.vendor == "sqlite"
        else f"postgres://{database['USER']}:{database['PASSWORD']}@{database['HOST']}:{database['PORT'] or 5432}"
        f"/{database['NAME']}"
    )
    # Run in a child process, whose peak memory the kernel records.
    code = (
        "import resource, subprocess, sys; done = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL); "
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, file=sys.stderr); sys.exit(done.returncode)"
    )
    begin = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", code, sys.executable, *arguments],
        env=os.environ | {"DATABASE_URL": url, "DJANGO_SETTINGS_MODULE": "tests.settings"},
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    seconds = time.perf_counter() - begin
    if done.returncode:
        raise RuntimeError(done.stderr)
    return seconds, int(done.stderr.strip().splitlines()[-1]) / 1024


def _parallel_appends() -> list[Figure]:
    teams = [Team.objects.create(slug=f"writer-{number}", name=f"Writer {number}") for number in range(WRITERS)]
    by = Actor.command()

    def append(team: Team, number: int) -> None:
        with transaction.atomic(durable=True):
            record(EventType.TEAM_CHANGE, "done", by=by, team=team, target=Target("team", "bench", str(number)))

    def bare(_team: Team, number: int) -> None:
        with transaction.atomic(durable=True):
            name = f"{threading.get_ident() % 10**12}-{number}"
            Heartbeat.objects.create(name=name, seen_at=timezone.now())

    reference = _appends_a_second([(bare, team) for team in teams])
    one = _appends_a_second([(append, teams[0])] * WRITERS)
    _without_a_gap(teams[0], WRITERS * EACH)
    eight = _appends_a_second([(append, team) for team in teams])
    for team in teams:
        _without_a_gap(team, (WRITERS if team == teams[0] else 0) * EACH + EACH)
    what = "bare INSERTs by 8 writers"
    return [
        Figure("audit rows appended, 8 writers on one chain", one, "/s", reference, what),
        Figure("audit rows appended, 8 writers on eight chains", eight, "/s", reference, what),
    ]


def _appends_a_second(writers: list[tuple]) -> float:  # type: ignore[type-arg]
    failed: list[BaseException] = []

    def work(act, team) -> None:  # type: ignore[no-untyped-def]
        try:
            for number in range(EACH):
                act(team, number)
        except Exception as error:  # noqa: BLE001 - reported by the measuring thread
            failed.append(error)
        finally:
            connections.close_all()

    threads = [threading.Thread(target=work, args=writer) for writer in writers]
    begin = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - begin
    if failed:
        raise failed[0]
    return len(threads) * EACH / seconds


def _without_a_gap(team: Team, rows: int) -> None:
    numbers = AuditEvent.objects.filter(chain=f"team:{team.pk}").order_by("seq").values_list("seq", flat=True)
    if list(numbers) != list(range(1, rows + 1)):
        raise RuntimeError(f"{team}: rows are missing or doubled")
