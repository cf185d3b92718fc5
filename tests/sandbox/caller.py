"""A plain HTTP client for the sandbox's own tests, without retries and redirects."""

import base64
import http.client
import json
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode, urlsplit


@dataclass(frozen=True)
class Answered:
    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Caller:
    """Calls with one key; `key=None` sends no Authorization."""

    url: str
    key: str | None = "ak-full-key-1"
    timeout: float = 20

    def call(self, method: str, path: str, /, *, body: Any = None, headers: Any = None, **query: Any) -> Answered:
        connection = http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=self.timeout)
        try:
            return self.call_on(connection, method, path, body=body, headers=headers, **query)
        finally:
            connection.close()

    def call_on(
        self, connection: Any, method: str, path: str, /, *, body: Any = None, headers: Any = None, **query: Any
    ) -> Answered:
        target = path + (f"?{urlencode(query, doseq=True)}" if query else "")
        raw = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        key = {} if self.key is None else {"Authorization": f"Bearer {self.key}"}
        connection.request(method, target, body=raw, headers={**key, **(headers or {})})
        response = connection.getresponse()
        return Answered(response.status, response.headers, response.read())

    def get(self, path: str, /, **query: Any) -> Answered:
        return self.call("GET", path, **query)

    def post(self, path: str, body: Any = None) -> Answered:
        return self.call("POST", path, body=body)

    def cancel(self, run_id: str) -> Answered:
        return self.post(f"/v2/task-runs/{quote(run_id, safe='')}/cancel")

    def run(self, run_id: str) -> Any:
        return self.get(f"/v2/task-runs/{quote(run_id, safe='')}").json

    def pages(self, path: str, member: str, **query: Any) -> list[Any]:
        """All objects of a list, read page by page."""
        found: list[Any] = []
        while True:
            answer = self.get(path, **query).json
            found += answer[member]
            if not answer["pagination"]["has_more"]:
                assert "next_cursor" not in answer["pagination"]
                return found
            assert query.get("cursor") != answer["pagination"]["next_cursor"], "the cursor repeats"
            query["cursor"] = answer["pagination"]["next_cursor"]

    def tasks(self, **query: Any) -> list[Any]:
        return self.pages("/v2/tasks", "tasks", **query)

    def runs(self, task_id: str, **query: Any) -> list[Any]:
        return self.pages(f"/v2/tasks/{quote(task_id, safe='')}/runs", "task_runs", **query)

    def add_runs(self, task: str, **fields: Any) -> list[Any]:
        answer = self.post("/sandbox/runs", {"task": task, **fields})
        assert answer.status == 201, answer.body
        return answer.json["runs"]

    def fault(self, **members: Any) -> None:
        answer = self.post("/sandbox/faults", members)
        assert answer.status == 201, answer.body

    def advance(self, seconds: float) -> None:
        assert self.post("/sandbox/clock", {"advance_seconds": seconds}).status == 200

    def snapshot(self) -> dict[str, Any]:
        """Everything that can be read: tasks and their runs."""
        return {
            "tasks": self.tasks(limit=100),
            "runs": {task["id"]: self.runs(task["id"]) for task in self.tasks()},
        }


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()
