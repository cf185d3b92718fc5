"""With the real web processes: what only they do to a path, a connection and a count."""

import http.client
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from taskruns.models import AuditEvent, Credential, Run, Task, Team
from tests.arize_server import ArizeServer, serving
from tests.factories import make_credential, make_run, make_task, make_token
from tests.gateway.web import LOG, web
from tests.processes import wait_for
from tests.wire import wire_run

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("committed")]


class Panel:
    """`ask` uses one connection, as the official clients do."""

    def __init__(self, base: str, secret: str) -> None:
        self.connection = http.client.HTTPConnection(urlsplit(base).netloc, timeout=30)
        self.secret = secret

    def ask(self, method: str, target: str, **headers: str) -> tuple[int, Any, http.client.HTTPResponse]:
        self.connection.putrequest(method, f"/v2/{target}", skip_accept_encoding=True)
        for name, value in ({"Authorization": f"Bearer {self.secret}", "Content-Length": "0"} | headers).items():
            self.connection.putheader(name, value)
        self.connection.endheaders()
        answer = self.connection.getresponse()
        body = answer.read()
        return answer.status, json.loads(body) if body else None, answer


@pytest.fixture
def arize() -> Iterator[ArizeServer]:
    with serving(ArizeServer(answer=lambda _method, path: (200, {"path": path}))) as double:
        yield double


def test_web_processes_serve_scripts(arize: ArizeServer, tmp_path: Path, settings: Any):
    team = Team.objects.create(slug="ops-north", name="Ops North")
    key = make_credential(team)
    Credential.objects.update(endpoint=arize.url)
    key.refresh_from_db()
    task = make_task(team, key)
    Task.objects.update(endpoint=arize.url)
    task.refresh_from_db()
    run = make_run(task)
    _, secret = make_token(team)
    with web(tmp_path, arize=arize.url, more={"TOKEN_REQUESTS_PER_MINUTE": "40"}) as base:
        panel = Panel(base, secret)
        # The query arrives byte for byte, and an id as one segment.
        target = "tasks/T%3d1/runs?cursor=a%2fb%3d&cursor=x~&limit=1"
        assert panel.ask("GET", target)[1] == {"path": f"/v2/{target.replace('%3d1', '%3D1')}"}
        # A slash in an id, and what a path may not hold.
        before = len(arize.received)
        for odd in ("tasks/a%2Fruns", "task-runs/a%2fcancel", "tasks/%2e%2e", "tasks/..", "tasks/a%00b", "tasks/%5c"):
            assert panel.ask("GET", odd)[0] in {400, 403}, odd
        assert panel.ask("POST", "task-runs/a%2fcancel")[0] == 400
        assert len(arize.received) == before
        # Methods without a body in the answer keep the connection usable.
        assert panel.ask("HEAD", "tasks")[:2] == (403, None)
        arize.answer = lambda _method, _path: (200, wire_run(run, "CANCELLED"))
        status, body, answer = panel.ask("POST", f"task-runs/{run.arize_id}/cancel")
        assert (status, body["status"]) == (200, "CANCELLED")
        assert answer.headers["Content-Security-Policy"]
        assert "Set-Cookie" not in answer.headers
        # The mirror learns what passes, and the log what is refused, soon after the answer.
        other = make_run(task)
        arize.answer = lambda _method, _path: (200, wire_run(other, "COMPLETED"))
        panel.ask("GET", f"task-runs/{other.arize_id}")
        wait_for(lambda: Run.objects.filter(pk=other.pk, status="completed").exists(), "the run in the mirror")
        assert Panel(base, secret[:-1]).ask("GET", "tasks")[0] == 401
        wait_for(lambda: AuditEvent.objects.filter(event="token.refused").exists(), "the refusal in the log")
        # Both processes count in one place.
        statuses = Counter(Panel(base, secret).ask("GET", "nowhere")[0] for _ in range(40))
        assert set(statuses) == {403, 429}
        assert statuses[403] <= 30
    assert secret not in (tmp_path / LOG).read_text()
    assert "/v2/tasks" in (tmp_path / LOG).read_text()
