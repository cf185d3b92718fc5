"""The panel's real processes beside a simulated Arize, with tokens, and what clients saw at both."""

import json
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.e2e.stack import Stack
from tests.real_clients.clients import AnyClient, Outcome, Target

# The window of a start.
WINDOW = {"data_start_time": "2026-05-01T00:00:00+00:00", "data_end_time": "2026-05-02T00:00:00+00:00"}
SHARED = 12  # tokens
UNKNOWN_RUN = "VGFza1J1bjo5OTpxUndY"
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z?")
_USER = re.compile(r"VXNlcj[\w=]+")  # an id
# Each answer of the simulated Arize has another one.
_REQUEST_ID = re.compile(r"req_\d+")


@dataclass
class Panel:
    """`both` calls a client at Arize and at the panel."""

    stack: Stack
    _shared: list[str] = field(default_factory=list)

    @property
    def direct(self) -> Target:
        return Target("localhost", self.stack.sandbox_port, self.stack.keys["DEMO_KEY_NORTH"])

    def through(self, token: str) -> Target:
        return Target("localhost", self.stack.port, token)

    def token(self, name: str = "", *, role: str = "operator", team: str = "ops-north") -> str:
        """A new token, made by command."""
        name = name or f"test {secrets.token_hex(6)}"
        return self.stack.manage("create_token", team, name, "--role", role).strip()

    def shared_token(self) -> str:
        """One of a few in turn, so that no test uses up what another may ask for in a minute."""
        if not self._shared:
            self._shared += [self.token(f"shared {number}") for number in range(SHARED)]
        self._shared.append(self._shared.pop(0))
        return self._shared[-1]

    def task(self, *, kind: str = "TEMPLATE_EVALUATION") -> dict[str, Any]:
        """One that evaluates the data of a project, or one that runs experiments."""
        data = "dataset_id" if kind == "RUN_EXPERIMENT" else "project_id"
        tasks = self.stack.arize.tasks(limit=100)
        return next(task for task in tasks if task["type"].upper() == kind and task.get(data))

    def runs(self, status: str, count: int = 1) -> list[str]:
        """New runs of one task, which the panel has not read yet."""
        added = self.stack.arize.add_runs(self.task()["id"], status=status, count=count)
        return [run["id"] for run in added]

    def reads_of(self, run_id: str) -> int:
        """How often Arize was asked for the run."""
        listed = self.stack.arize.get("/sandbox/requests", method="GET", path="/task-runs/").json["requests"]
        return sum(run_id.rstrip("=") in entry["path"] for entry in listed)

    def audit_rows(self, run_id: str) -> list[dict[str, Any]]:
        """The rows of the team's log about a run, oldest first."""
        exported = self.stack.manage("export_audit", "ops-north")
        rows = [json.loads(line).get("event", {}) for line in exported.splitlines()]
        return [row for row in rows if row.get("run_id") == run_id]

    def both(self, client: AnyClient, step: str, **arguments: Any) -> tuple[Outcome, Outcome]:
        """The outcomes at Arize and at the panel, with the same arguments."""
        direct = client.do(self.direct, step, **arguments)
        return plain(direct), plain(client.do(self.through(self.shared_token()), step, **arguments))


def plain(outcome: Outcome, run_id: str = "") -> Outcome:
    """Without what differs in each answer: Arize's number of the request. With an id, also without what differs between
    two runs of a task: ids, times, creators and counts.
    """
    replaced = _on_texts(outcome, lambda text: _REQUEST_ID.sub("req", text))
    if not run_id:
        return replaced
    return _on_texts(replaced, lambda text: _TIME.sub("TIME", _USER.sub("USER", text.replace(run_id, "RUN"))), "num")


def _on_texts(value: Any, change: Callable[[str], str], left_out: str = "-") -> Any:
    """`left_out`: how the names of members begin that are left out."""
    if isinstance(value, dict):
        return {name: _on_texts(one, change, left_out) for name, one in value.items() if not name.startswith(left_out)}
    if isinstance(value, list):
        return [_on_texts(one, change, left_out) for one in value]
    return change(value) if isinstance(value, str) else value
