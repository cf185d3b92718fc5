"""The board of 50 rows over a small and a large mirror."""

from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from taskruns.models import Membership, Team, TeamRole, User
from taskruns.services import mirror
from tests.bench.table import Figure, median_ms

SIZES = (1_000, 100_000)
TIMES = 30
PAGES = {"first page": "", "by status": "?status=failed", "search": "?q=evaluation"}


def measure() -> list[Figure]:
    small = {}
    figures = []
    for size in SIZES:
        client, slug = _team(size)
        for name, query in PAGES.items():
            path = f"/teams/{slug}/runs/{query}"
            client.get(path)
            with CaptureQueriesContext(connection) as queries:
                client.get(path)
            count = len(queries)
            milliseconds = median_ms(lambda _number, client=client, path=path: client.get(path), range(TIMES))
            small.setdefault(name, milliseconds)
            what = f"board of {size:,} runs, {name}, {count} queries (p50)"
            figures.append(Figure(what, milliseconds, "ms", small[name], f"the same at {SIZES[0]:,} runs"))
    return figures


def _team(size: int) -> tuple[Client, str]:
    team = Team.objects.create(slug=f"bench-{size}", name=f"Bench {size}")
    person = User.objects.create(email=f"bench-{size}@example.com")
    Membership.objects.create(team=team, user=person, role=TeamRole.OPERATOR)
    for _done in mirror.fill_runs(team, runs=size):
        pass
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE")
    client = Client()
    client.force_login(person, backend="allauth.account.auth_backends.AuthenticationBackend")
    return client, team.slug
