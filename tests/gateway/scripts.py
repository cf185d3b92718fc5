"""A script that talks to `/v2/` with a token, and what it may expect."""

import json
from dataclasses import dataclass
from typing import Any

from django.http import HttpResponse
from django.test import Client

PROBLEM = "application/problem+json"
LISTS = ("spaces", "organizations", "projects", "datasets", "experiments", "tasks", "users")
# Every GET that the gateway offers
OFFERED = [*LISTS, *(f"{name}/X1=" for name in LISTS), "task-runs/X1=", "tasks/X1=/runs"]


@dataclass
class Script:
    secret: str

    def __post_init__(self) -> None:
        self.client = Client(raise_request_exception=False, enforce_csrf_checks=True)

    def ask(self, method: str, path: str, body: Any = "", **headers: Any) -> Any:
        """`path`: below `/v2/`, as it is sent."""
        sent = {"Authorization": f"Bearer {self.secret}"} if self.secret else {}
        raw = body if isinstance(body, bytes | str) else json.dumps(body)
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        kind = "application/json" if raw else ""
        return self.client.generic(method, f"/v2/{path}", raw, content_type=kind, headers=sent | headers)

    def get(self, path: str, **headers: Any) -> Any:
        return self.ask("GET", path, **headers)

    def cancel(self, run_id: str, **headers: Any) -> Any:
        return self.ask("POST", f"task-runs/{run_id}/cancel", **headers)

    def trigger(self, task_id: str, body: Any = "", **headers: Any) -> Any:
        return self.ask("POST", f"tasks/{task_id}/trigger", body, **headers)


def problem_of(response: HttpResponse) -> tuple[int, str]:
    """(status, detail) of a problem document in Arize's style."""
    assert response.headers["Content-Type"] == PROBLEM, response.content
    document = json.loads(response.content)
    assert list(document) == ["type", "title", "status", "detail"]
    assert document["status"] == response.status_code
    assert document["type"].startswith(("https://arize.com/docs/ax/rest-reference/errors#", "about:blank"))
    return response.status_code, document["detail"]
