"""The real web server and worker with an Arize that accepts calls and never answers: pages are served all the same."""

import http.client
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings as django_settings
from django.test import Client

from taskruns.models import AuditEvent, Cancellation, Credential, Membership, Run, Task, Team, TeamRole, User
from tests.batches.worker_stack import WorkerStack
from tests.factories import CANARY, make_run, person
from tests.processes import wait_for
from tests.threads import in_threads

pytestmark = [pytest.mark.slow, pytest.mark.commits]

CLICKS = 20
# Seconds; no page may take longer. Without free threads each waits for the end of a call, after 12 s.
SLOW = 8.0
SILENT_FOR = 8.0


@dataclass
class SilentArize:
    """Reads each request and never answers."""

    received: list[str] = field(default_factory=list)
    url: str = ""

    def posts(self) -> Counter[str]:
        return Counter(line.split("/")[3] for line in self.received if line.startswith("POST"))


@contextmanager
def silent_arize() -> Iterator[SilentArize]:
    double, held = SilentArize(), []
    with socket.create_server(("127.0.0.1", 0), backlog=128) as server:
        double.url = f"http://127.0.0.1:{server.getsockname()[1]}"

        def accept() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    held.append(connection)
                    threading.Thread(target=read, args=(connection,), daemon=True).start()

        def read(connection: socket.socket) -> None:
            with suppress(OSError):
                double.received.append(connection.recv(4_096).decode().split("\r\n")[0])

        threading.Thread(target=accept, daemon=True).start()
        try:
            yield double
        finally:
            server.shutdown(socket.SHUT_RDWR)
            for connection in held:
                connection.close()


@pytest.fixture
def stack(committed: None, tmp_path: Path, settings: Any) -> Iterator[tuple[WorkerStack, SilentArize, list[Run]]]:
    with silent_arize() as double:
        settings.ARIZE_ENDPOINTS = (double.url,)
        team = Team.objects.create(slug="ops-north", name="Ops North")
        oli = person("oli@example.com")
        Membership.objects.create(team=team, user=oli, role=TeamRole.OPERATOR)
        # The mirror leaves this key alone, so that each call here is one of a cancel.
        key = Credential(team=team, name="Production", endpoint=double.url, next_refresh_at="2999-01-01T00:00Z")
        key.encrypt_secret(CANARY)
        key.save()
        task = Task.objects.create(team=team, endpoint=double.url, arize_id="T1", credential=key)
        runs = [make_run(task) for _ in range(CLICKS)]
        here = WorkerStack(double.url, tmp_path, team, oli, key)
        try:
            yield here, double, runs
        finally:
            for process in list(here.processes):
                here.kill(process)


@dataclass
class Browser:
    """A signed-in person, over HTTP."""

    port: int
    cookies: dict[str, str]

    def request(self, method: str, path: str, body: str = "") -> tuple[int, str, float]:
        """The status, the text, and the seconds that it took."""
        began = time.monotonic()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        headers = {
            "Host": f"localhost:{self.port}",
            "Cookie": "; ".join(f"{name}={value}" for name, value in self.cookies.items()),
            "Content-Type": "application/x-www-form-urlencoded",
            "X-CSRFToken": self.cookies["csrf"],
            "HX-Request": "true",
        }
        try:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            return answer.status, answer.read().decode(), time.monotonic() - began
        finally:
            connection.close()


def browser_of(user: User, port: int) -> Browser:
    client = Client()
    client.force_login(user, backend="allauth.account.auth_backends.AuthenticationBackend")
    session = client.cookies[django_settings.SESSION_COOKIE_NAME].value
    token = "a" * 32
    name = f"{port}-{django_settings.SESSION_COOKIE_NAME}"  # as a panel on another port names it
    return Browser(port, {name: session, django_settings.CSRF_COOKIE_NAME: token, "csrf": token})


def test_pages_are_served_and_each_cancel_is_sent_once(stack: Any) -> None:
    here, double, runs = stack
    here.collect_static()
    here.start("web"), here.start_worker()
    browser = browser_of(here.person, here.port)
    wait_for(lambda: is_ready(browser), "the panel", within=40)
    looked, over = threading.Event(), threading.Event()
    times: list[tuple[str, float]] = []

    def look(_: int) -> None:
        while not over.is_set():
            for path in ("/healthz", f"/teams/{here.team.slug}/runs/"):
                status, _text, seconds = browser.request("GET", path)
                assert status == 200
                times.append((path, seconds))
            looked.set()
            over.wait(0.1)

    def click(number: int) -> tuple[int, str, float]:
        path = f"/teams/{here.team.slug}/runs/{runs[number].pk}/cancel/"
        return browser.request("POST", path, "confirmed=1")

    def act(number: int) -> Any:
        if number == CLICKS:
            return look(number)
        assert looked.wait(timeout=30)
        return click(number)

    watcher = threading.Timer(SILENT_FOR, over.set)
    watcher.start()
    answers = in_threads(CLICKS + 1, act)[:CLICKS]
    assert len(times) >= 4, "each page twice"
    assert [entry for entry in times if entry[1] > SLOW] == []
    queued = [text for status, text, seconds in answers if status == 200 and "being sent to Arize" in text]
    assert len(queued) >= CLICKS - 6, "two processes with three places each"
    assert sorted(status for status, _, _ in answers) == [200] * len(queued) + [502] * (CLICKS - len(queued))
    wait_for(lambda: not Cancellation.objects.filter(outcome="").exists(), "the outcomes", within=60)
    assert double.posts() == Counter(run.arize_id for run in runs)
    assert AuditEvent.objects.filter(event="run.cancel", outcome="requested").count() == CLICKS
    assert AuditEvent.objects.filter(event="run.cancel", outcome="unknown").count() == CLICKS


def is_ready(browser: Browser) -> bool:
    try:
        return browser.request("GET", "/readyz")[0] == 200
    except (OSError, http.client.HTTPException):
        return False
