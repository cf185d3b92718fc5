"""The board of 50 rows on small and large mirrors, compared with a thousand runs and with plain Django admin.

BENCH_RUNS: runs of the largest mirror, by default a million. Each page of each size shows 50 rows, so that only the
size of the mirror differs.
"""

import os
import re
from functools import partial

from django.conf import settings
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from taskruns.forms import Cursor
from taskruns.models import Cancellation, Credential, Membership, Outcome, Run, Status, Team, TeamRole, User
from taskruns.pages.board.plan import micros
from taskruns.services import mirror
from taskruns.services.mirror.schedule import ATTENTION_WRITTEN_EVERY
from tests.bench.table import Figure, median_ms, medians_ms

FEW = 1_000
MANY = int(os.environ.get("BENCH_RUNS", "1000000"))
TIMES = 40
ROWS = 50
# What a page of the largest mirror may take, compared with a thousand runs and with plain Django admin.
LARGE, OF_ADMIN = "at most 1.3", "at most 0.25"
POLL_QUERIES = 5
PAGES = {
    "first page": "",
    "one status": "status=failed",
    "two statuses": "status=failed&status=cancelled",
    "search": "q=evaluation",
    "search for a run": "q=filled-7",
    "longest first": "sort=-duration",
    "most errors first": "sort=-errors",
    "type and time": "type=template_evaluation&started_before=2100-01-01",
    "a flag": "flag=with_errors",
    "needs attention": "flag=attention",
    "two flags": "flag=longer_than_usual&flag=attention",
    "worst first": "sort=attention",
    "part of an id": "q=lled-2",
    "exact id": "q=filled-experiment-0",
    "word of a failure": "q=%C3%A9valuator",
    "words of a failure": "q=the+evaluator",
    "a person, searched": "q=Person+07",
    "started by": "started_by=person-07@example.com",
    "cancelled by": "cancelled_by=Bench+Operator",
    "ended": "ended_before=2100-01-01",
    "share of errors": "min_error_share=5",
    "not a task": "not_task=filled-task-3",
}


def measure() -> list[Figure]:
    boards = {size: Board(size) for size in sorted({FEW, MANY // 10, MANY})}
    figures = _pages(boards)
    figures += _poll(boards[MANY])
    figures += _plain_admin(boards[MANY])
    return figures + _arize_down(boards[FEW])


class Board:
    """A team with this many past runs, and a viewer."""

    def __init__(self, size: int) -> None:
        self.team = Team.objects.create(slug=f"bench-{size}", name=f"Bench {size}")
        person = User.objects.create(email=f"bench-{size}@example.com", name="Bench Operator")
        Membership.objects.create(team=self.team, user=person, role=TeamRole.OPERATOR)
        for _done in mirror.fill_runs(self.team, runs=size):
            pass
        self._cancelled_by(person)
        self.client = Client()
        self.client.force_login(person, backend="allauth.account.auth_backends.AuthenticationBackend")
        self.url = f"/teams/{self.team.slug}/runs/"

    def _cancelled_by(self, person: User) -> None:
        cancelled = Run.objects.filter(team=self.team, status=Status.CANCELLED).order_by("-sorted_at")[: 2 * ROWS]
        Cancellation.objects.bulk_create(
            Cancellation(run=run, person=person, person_label=person.email, outcome=Outcome.CONFIRMED)
            for run in cancelled
        )

    def deep(self) -> str:
        """The 1,000th page, or the last one if there are fewer."""
        runs = Run.objects.filter(team=self.team).order_by("-rank", "-sorted_at", "-pk")
        row = runs[min(999 * ROWS, runs.count() - ROWS - 1)]
        return f"cursor={Cursor(row.rank, micros(row.sorted_at), row.pk).text()}"

    def get(self, query: str) -> bytes:
        answer = self.client.get(f"{self.url}?{query}")
        if answer.status_code != 200 or answer.content.count(b"<tr id=") != ROWS:
            raise RuntimeError(f"{query}: {answer.status_code}")
        return bytes(answer.content)

    def queries(self, query: str) -> int:
        self.get(query)
        with CaptureQueriesContext(connection) as captured:
            self.get(query)
        return len(captured)

    def look(self, query: str, _number: int = 0) -> None:
        self.get(query)

    def median(self, query: str) -> float:
        return median_ms(partial(self.look, query), range(TIMES))


def _pages(boards: dict[int, Board]) -> list[Figure]:
    figures = []
    deep = {size: board.deep() for size, board in boards.items()}
    for name, query in (PAGES | {"1,000th page": ""}).items():
        asked = {size: deep[size] if name == "1,000th page" else query for size in boards}
        counts = {size: board.queries(asked[size]) for size, board in boards.items()}
        found = medians_ms({size: partial(board.look, asked[size]) for size, board in boards.items()}, range(TIMES))
        for size, milliseconds in found.items():
            what = f"board of {size:,} runs, {name}, {counts[size]} queries (p50)"
            figures.append(Figure(what, milliseconds, "ms", found[FEW], f"the same at {FEW:,} runs", LARGE))
    return figures


def _poll(board: Board) -> list[Figure]:
    """The poll of an open board every five seconds when nothing changed."""
    url = f"{board.url}table/"
    etag = board.client.get(url)["ETag"]

    def poll(_number: int) -> None:
        answer = board.client.get(url, headers={"HX-Request": "true", "If-None-Match": etag})
        if (answer.status_code, answer.content) != (304, b""):
            raise RuntimeError(answer.status_code)

    # As if the interval of another poll had passed: the attention timestamp is due for renewal.
    Team.objects.filter(pk=board.team.pk).update(watched_at=timezone.now() - 2 * ATTENTION_WRITTEN_EVERY)
    with CaptureQueriesContext(connection) as captured:
        poll(0)
    # Before the next request, which empties the log.
    queries = len([query for query in captured if query["sql"].partition(" ")[0] not in {"BEGIN", "COMMIT"}])
    what = f"unchanged poll of {MANY:,} runs"
    return [
        Figure(f"{what} (p50)", median_ms(poll, range(TIMES)), "ms", board.median(""), "the full page"),
        Figure(f"{what}, queries", queries, "", POLL_QUERIES, "the goal", "at most 1"),
    ]


def _arize_down(board: Board) -> list[Figure]:
    """Arize refuses every connection: the board says so and stays as fast."""
    before = board.median("")
    key = Credential(team=board.team, name="Unreachable", endpoint=settings.ARIZE_ENDPOINTS[0])
    key.encrypt_secret("ak-bench-nobody-listens")
    key.save()
    report = mirror.refresh(key.pk, force=True)
    if report is None or not report.problem or b"notice-warning" not in board.get(""):
        raise RuntimeError(report)
    return [Figure(f"board of {FEW:,} runs, Arize down (p50)", board.median(""), "ms", before, "the same, Arize up")]


def _plain_admin(board: Board) -> list[Figure]:
    """Django admin's list of the same 50 rows, which counts rows and pages with OFFSET."""
    figures = []
    failed = ("one status", "status=failed", "status__exact=failed")
    for name, ours, plain in (("first page", "", ""), failed, ("search", "q=evaluation", "q=evaluation")):
        url = f"/plain/taskruns/run/?team__id__exact={board.team.pk}&{plain}"

        def look(_number: int, url: str = url) -> None:
            answer = board.client.get(url)
            if answer.status_code != 200 or len(re.findall(rb"<tr", answer.content)) < ROWS:
                raise RuntimeError(answer.status_code)

        what = f"board of {MANY:,} runs, {name} (p50)"
        admin = median_ms(look, range(5))
        figures.append(Figure(what, board.median(ours), "ms", admin, "plain Django admin", OF_ADMIN))
    return figures
