"""The log when it is long: verification, export and page, beside the same at a thousandth of the rows.

BENCH_AUDIT_ROWS makes it smaller than a million. Verification and export run as commands, in processes of their own,
so that their memory is theirs.
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
from taskruns.models import Heartbeat, Membership, Team, TeamRole, User
from tests.bench.audit_rows import fill
from tests.bench.table import Figure, median_ms

FEW = 1_000
MANY = int(os.environ.get("BENCH_AUDIT_ROWS", "1000000"))
WRITERS = 8
EACH = 60  # appends of one writer
TIMES = 30


def measure() -> list[Figure]:
    small, large = _team("few", FEW), _team("many", MANY)
    figures = _parallel_appends()
    for name, command in (("verify", ["verify_audit", "--chain"]), ("export as jsonl", ["export_audit"])):
        few_seconds, few_mb = _command([*command, small.slug])
        seconds, mb = _command([*command, large.slug])
        yardstick = f"the same at {FEW:,} rows"
        figures.append(Figure(f"{name} {MANY:,} rows", seconds, "s", few_seconds, yardstick))
        figures.append(Figure(f"{name} {MANY:,} rows, peak memory", mb, "MB", few_mb, yardstick))
    return figures + _pages(small, large)


def _team(slug: str, rows: int) -> Team:
    team = Team.objects.create(slug=slug, name=slug.title())
    person = User.objects.create(email=f"{slug}@example.com")
    Membership.objects.create(team=team, user=person, role=TeamRole.MANAGER)
    fill(f"team:{team.pk}", rows=rows)
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE")
    return team


def _pages(small: Team, large: Team) -> list[Figure]:
    figures = []
    for name, query in {"first page": "", "by outcome": "?outcome=confirmed", "search": "?q=evaluation"}.items():
        few, _ = _page(small, query)
        many, queries = _page(large, query)
        what = f"audit page of {MANY:,} rows, {name}, {queries} queries (p50)"
        figures.append(Figure(what, many, "ms", few, f"the same at {FEW:,} rows"))
    return figures


def _page(team: Team, query: str) -> tuple[float, int]:
    client = Client()
    person = User.objects.get(memberships__team=team)
    client.force_login(person, backend="allauth.account.auth_backends.AuthenticationBackend")
    path = f"/teams/{team.slug}/audit/{query}"
    client.get(path)
    with CaptureQueriesContext(connection) as captured:
        client.get(path)
        count = len(captured)
    return median_ms(lambda _number: client.get(path), range(TIMES)), count


def _command(arguments: list[str]) -> tuple[float, float]:
    """Seconds and peak MB of `manage.py ...` on the database of this run."""
    database = connection.settings_dict
    url = (
        f"sqlite:///{database['NAME']}"
        if connection.vendor == "sqlite"
        else f"postgres://{database['USER']}:{database['PASSWORD']}@{database['HOST']}:{database['PORT'] or 5432}"
        f"/{database['NAME']}"
    )
    # Alone in a child of its own, whose peak the kernel keeps.
    code = (
        "import resource, subprocess, sys; done = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL); "
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, file=sys.stderr); sys.exit(done.returncode)"
    )
    begin = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", code, sys.executable, "manage.py", *arguments, "--settings=tests.settings"],
        env=os.environ | {"DATABASE_URL": url},
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

    yardstick = _appends_a_second([(bare, team) for team in teams])
    one = _appends_a_second([(append, teams[0])] * WRITERS)
    eight = _appends_a_second([(append, team) for team in teams])
    what = "bare INSERTs by 8 writers"
    return [
        Figure("audit rows appended, 8 writers on one chain", one, "/s", yardstick, what),
        Figure("audit rows appended, 8 writers on eight chains", eight, "/s", yardstick, what),
    ]


def _appends_a_second(writers: list[tuple]) -> float:  # type: ignore[type-arg]
    def work(act, team) -> None:  # type: ignore[no-untyped-def]
        try:
            for number in range(EACH):
                act(team, number)
        finally:
            connections.close_all()

    threads = [threading.Thread(target=work, args=writer) for writer in writers]
    begin = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return len(threads) * EACH / (time.perf_counter() - begin)
