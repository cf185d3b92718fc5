"""A fake Arize in this process, through `responses`: spaces, tasks, runs newest first, paging and faults."""

import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import requests
import responses

from tests.wire import ENDPOINT

START = datetime(2026, 11, 23, 3, 0, tzinfo=UTC)  # the initial time in the mirror's tests
Fault = tuple[int, dict[str, str], str] | Exception


@dataclass
class World:
    """`fault` gets each call (`/v2/...?query`) and may return its own answer. `sees` limits a key to spaces.

    `before_answer` is called after the answer is built and before it is returned.
    """

    spaces: dict[str, list[str]] = field(default_factory=dict)
    tasks: dict[str, dict[str, Any]] = field(default_factory=dict)
    runs: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    page: int = 100
    sees: dict[str, set[str]] = field(default_factory=dict)
    fault: Callable[[str], Fault | None] = lambda _: None
    before_answer: Callable[[str], None] = lambda _: None
    calls: list[str] = field(default_factory=list)
    _lock: Any = field(default_factory=threading.Lock)

    def task(self, id_: str, *, space: str = "S1", **members: Any) -> dict[str, Any]:
        self.spaces.setdefault(space, []).append(id_)
        self.tasks[id_] = {"id": id_, "name": f"Task {id_}", "type": "TEMPLATE_EVALUATION", **members}
        self.runs.setdefault(id_, [])
        return self.tasks[id_]

    def run(self, id_: str, task: str = "T1", status: str = "RUNNING", *, minute: int = 0, **members: Any) -> Any:
        run = {
            "id": id_,
            "task_id": task,
            "status": status,
            "created_at": f"2026-11-23T{minute // 60:02}:{minute % 60:02}:00.000Z",
            "num_successes": 1,
            **members,
        }
        self.runs[task].insert(0, run)
        return run

    def find(self, run_id: str) -> dict[str, Any] | None:
        return next((run for runs in self.runs.values() for run in runs if run["id"] == run_id), None)

    def paths(self) -> list[str]:
        return [urlsplit(call).path.removeprefix("/v2/") for call in self.calls]

    def reads_of(self, part: str) -> int:
        return sum(part in call for call in self.calls)

    def install(self, double: responses.RequestsMock) -> "World":
        double.add_callback(responses.GET, re.compile(re.escape(ENDPOINT) + "/v2/.*"), self._answer)
        return self

    def _answer(self, request: requests.PreparedRequest) -> Any:
        url = urlsplit(request.url or "")
        call = f"{url.path}?{url.query}" if url.query else url.path
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        key = request.headers["Authorization"].removeprefix("Bearer ")
        with self._lock:
            self.calls.append(call)
            answer = self.fault(call) or self._of(url.path.split("/")[2:], query, key)
        self.before_answer(call)
        if isinstance(answer, Exception):
            raise answer
        return answer

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the world, to change it while other threads read."""
        with self._lock:
            yield

    def _of(self, path: list[str], query: dict[str, str], key: str) -> Any:
        visible = self.sees.get(key, set(self.spaces))
        seen = dict.fromkeys(task for space in sorted(visible) for task in self.spaces.get(space, []))
        match path:
            case ["spaces"]:
                spaces = [{"id": id_, "name": f"Space {id_}"} for id_ in sorted(visible)]
                return self._paged("spaces", spaces, query)
            case ["tasks"]:
                wanted = self.spaces.get(query["space_id"], []) if "space_id" in query else seen
                return self._paged("tasks", [self.tasks[id_] for id_ in wanted if id_ in seen], query)
            case ["tasks", task, "runs"] if unquote(task) in seen:
                runs = self.runs[unquote(task)]
                if "status" in query:
                    runs = [run for run in runs if str(run.get("status")).upper() == query["status"]]
                return self._paged("task_runs", runs, query)
            case ["task-runs", run_id]:
                run = self.find(unquote(run_id))
                return (200, {}, json.dumps(run)) if run and run["task_id"] in seen else _problem(404)
        return _problem(404)

    def _paged(self, member: str, items: list[Any], query: dict[str, str]) -> Any:
        start = int(query.get("cursor", 0))
        end = start + min(self.page, int(query.get("limit", 50)))
        pagination = {"has_more": end < len(items)} | ({"next_cursor": str(end)} if end < len(items) else {})
        return 200, {}, json.dumps({member: items[start:end], "pagination": pagination})


def _problem(status: int) -> Fault:
    return status, {"Content-Type": "application/problem+json"}, json.dumps({"status": status, "title": "No"})


def failing(part: str, status: int, **headers: str) -> Callable[[str], Fault | None]:
    """A fault: every call that contains `part` gets this answer."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda call: (status, named, "") if part in call else None
