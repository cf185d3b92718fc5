"""The routes under /sandbox, which Arize does not have. No key is needed. `server.py` is their reference."""

from collections.abc import Callable

from taskruns.sandbox.catalogue import Task
from taskruns.sandbox.clock import Clock, iso
from taskruns.sandbox.fault_documents import read_faults
from taskruns.sandbox.faults import Faults
from taskruns.sandbox.fields import Fields, read_fields
from taskruns.sandbox.messages import Answer, Request, json_answer
from taskruns.sandbox.outcomes import Status
from taskruns.sandbox.problems import Problem
from taskruns.sandbox.received import Received
from taskruns.sandbox.wire import Spelling, Wire
from taskruns.sandbox.world import World

MOST_ADDED = 1_000
_FARTHEST_ADVANCE_S = 31 * 86_400


class Controls:
    def __init__(
        self, *, world: World, clock: Clock, faults: Faults, received: Received, reset: Callable[[], None]
    ) -> None:
        self._world = world
        self._clock = clock
        self._faults = faults
        self._received = received
        self._reset_all = reset
        self._spelling = Spelling(Wire.UPPER, clock=clock)
        self._routes: dict[str, dict[str, Callable[[Request], Answer]]] = {
            "faults": {"POST": self._add_faults, "GET": self._list_faults, "DELETE": self._remove_faults},
            "requests": {"GET": self._list_requests},
            "reset": {"POST": self._reset},
            "runs": {"POST": self._add_runs},
            "runs/{id}": {"PATCH": self._change_run},
            "clock": {"GET": self._read_clock, "POST": self._move_clock},
        }

    def answer(self, request: Request) -> Answer:
        """Raises Problem for everything but a 2xx."""
        parts = request.segments[1:]
        methods = self._routes.get("runs/{id}" if len(parts) == 2 and parts[0] == "runs" else "/".join(parts))
        if methods is None:
            raise Problem(404, "There is no such control.")
        if request.method not in methods:
            allowed = ", ".join(methods)
            raise Problem(405, f"This control answers {allowed}.", headers={"Allow": allowed})
        return methods[request.method](request)

    def _add_faults(self, request: Request) -> Answer:
        return json_answer({"added": self._faults.add(read_faults(request.json()))}, status=201)

    def _list_faults(self, request: Request) -> Answer:
        del request  # every control is called alike
        return json_answer({"faults": self._faults.listing()})

    def _remove_faults(self, request: Request) -> Answer:
        del request
        self._faults.remove_all()
        return json_answer({"faults": []})

    def _list_requests(self, request: Request) -> Answer:
        parameters = request.parameters()
        method = parameters.one("method")
        return json_answer(self._received.listing(method=method and method.upper(), path=parameters.one("path")))

    def _reset(self, request: Request) -> Answer:
        del request
        self._reset_all()
        return json_answer({"reset": True})

    def _add_runs(self, request: Request) -> Answer:
        fields = read_fields(request.json(), known=("task", "status", "count", "failure_reason"))
        seen = self._world.add_runs(
            self._task(fields.text("task")),
            status=_read_status(fields) or Status.RUNNING,
            count=fields.whole("count", least=1, most=MOST_ADDED) or 1,
            failure_reason=fields.text("failure_reason"),
        )
        return json_answer({"runs": [self._spelling.run(one) for one in seen]}, status=201)

    def _change_run(self, request: Request) -> Answer:
        fields = read_fields(request.json(), known=("status", "failure_reason"))
        seen = self._world.find_run(request.segments[2])
        if seen is None:
            raise Problem(404, "There is no such run.")
        changed = self._world.hold(seen.run, status=_read_status(fields), failure_reason=fields.text("failure_reason"))
        return json_answer(self._spelling.run(changed))

    def _read_clock(self, request: Request) -> Answer:
        del request
        now_ms = self._clock.now_ms()
        return json_answer({"simulated_seconds": now_ms / 1000, "shown_as": iso(self._clock.shown(now_ms))})

    def _move_clock(self, request: Request) -> Answer:
        fields = read_fields(request.json(), known=("advance_seconds",))
        seconds = fields.number("advance_seconds", least=0, most=_FARTHEST_ADVANCE_S)
        if seconds is None:
            raise Problem(400, "advance_seconds is missing.")
        self._clock.advance(int(seconds * 1000))
        return self._read_clock(request)

    def _task(self, wanted: str | None) -> Task:
        task = next((task for task in self._world.tasks if wanted in {task.id, task.name}), None)
        if task is None:
            raise Problem(400, "task must be the id or the full name of a task.")
        return task


def _read_status(fields: Fields) -> Status | None:
    status = fields.text("status")
    if status is None:
        return None
    if status.upper() in set(Status):
        return Status(status.upper())
    raise Problem(400, f"status must be one of {', '.join(one.lower() for one in Status)}.")
