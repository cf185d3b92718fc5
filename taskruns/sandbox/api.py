"""The routes under /v2: who may read what, and Arize's answers. Source: REST API v2, August 2026."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from taskruns.sandbox.access import Access
from taskruns.sandbox.api_keys import KeyList
from taskruns.sandbox.catalogue import ORGANIZATION_ID, USERS, Space, Task, TaskType
from taskruns.sandbox.clock import Clock
from taskruns.sandbox.identifiers import MalformedIdentifier, demand_wellformed
from taskruns.sandbox.messages import Answer, Parameters, Request, json_answer
from taskruns.sandbox.outcomes import Status
from taskruns.sandbox.pages import cut, wanted
from taskruns.sandbox.problems import Problem
from taskruns.sandbox.runs import AT_ONCE, CancelEffect
from taskruns.sandbox.triggers import demand_evaluations, read_trigger
from taskruns.sandbox.wire import Spelling, Wire
from taskruns.sandbox.world import ExperimentNameTaken, RunAlreadyEnded, SeenRun, World

LONGEST_NAME = 255


@dataclass(frozen=True, slots=True)
class Call:
    """One authenticated request: its spaces, the id in its path (if any), its parameters, what a cancel does."""

    spaces: tuple[Space, ...]
    id: str
    parameters: Parameters
    request: Request
    cancel: CancelEffect


class Api:
    def __init__(self, *, world: World, access: Access, spelling: Spelling, clock: Clock) -> None:
        self._world = world
        self._clock = clock
        self._access = access
        self._spelling = spelling
        self._keys = KeyList(tuple(access.keys))
        self._routes: dict[tuple[str, ...], dict[str, Callable[[Call], Answer]]] = {
            ("spaces",): {"GET": self._list_spaces},
            ("spaces", "{id}"): {"GET": self._get_space},
            ("tasks",): {"GET": self._list_tasks},
            ("tasks", "{id}"): {"GET": self._get_task},
            ("tasks", "{id}", "runs"): {"GET": self._list_runs},
            ("tasks", "{id}", "trigger"): {"POST": self._trigger_run},
            ("task-runs", "{id}"): {"GET": self._get_run},
            ("task-runs", "{id}", "cancel"): {"POST": self._cancel_run},
            ("users", "{id}"): {"GET": self._get_user},
            ("api-keys",): {"GET": self._list_api_keys},
        }

    def answer(self, request: Request, *, cancel: CancelEffect = AT_ONCE) -> Answer:
        """Raises Problem for everything but a 2xx."""
        spaces = self._access.spaces(request.bearer)
        if spaces is None:
            raise Problem(401, "The API key is missing, unknown, expired or revoked.")
        segments = request.segments[1:]
        action = self._action(request.method, segments)
        object_id = segments[1] if len(segments) > 1 else ""
        if object_id:
            _demand_id("id", object_id)
        return action(Call(spaces, object_id, request.parameters(), request, cancel))

    def _action(self, method: str, segments: Sequence[str]) -> Callable[[Call], Answer]:
        shape = tuple("{id}" if place == 1 and part else part for place, part in enumerate(segments))
        methods = self._routes.get(shape)
        if methods is None:
            raise Problem(404, "There is no such route.")
        if method not in methods:
            allowed = ", ".join(methods)
            raise Problem(405, f"This route answers {allowed}.", headers={"Allow": allowed})
        return methods[method]

    # Spaces and users

    def _list_spaces(self, call: Call) -> Answer:
        organization = _read_id(call.parameters, "org_id")
        name = _read_name(call.parameters, "name")
        spaces = [space for space in call.spaces if name in space.name]
        if organization not in {None, ORGANIZATION_ID}:
            spaces = []
        page = cut(spaces, place=lambda space: (space.created_ms, space.number), to=wanted(call.parameters))
        bodies = [self._spelling.space(space) for space in page.items]
        return json_answer({"spaces": bodies, "pagination": page.pagination()})

    def _get_space(self, call: Call) -> Answer:
        space = next((space for space in call.spaces if space.id == call.id), None)
        if space is None:
            raise _absent("space")
        return json_answer(self._spelling.space(space))

    def _get_user(self, call: Call) -> Answer:
        user = next((user for user in USERS if user.id == call.id), None)
        if user is None:
            raise _absent("user")
        return json_answer(self._spelling.user(user))

    def _list_api_keys(self, call: Call) -> Answer:
        """The caller's own; the service keys of a space are not for everybody."""
        if _read_id(call.parameters, "space_id") is not None:
            raise Problem(403, "This key may not read the service keys of a space.")
        page = cut([self._keys.own(call.request.bearer or "")], place=lambda _: (0, 0), to=wanted(call.parameters))
        return json_answer({"api_keys": list(page.items), "pagination": page.pagination()})

    # Tasks

    def _list_tasks(self, call: Call) -> Answer:
        tasks = self._filtered(self._readable(call), call)
        page = cut(tasks, place=lambda task: (task.created_ms, task.number), to=wanted(call.parameters))
        bodies = [self._spelling.task(seen) for seen in self._world.seen_tasks(page.items)]
        return json_answer({"tasks": bodies, "pagination": page.pagination()})

    def _get_task(self, call: Call) -> Answer:
        (seen,) = self._world.seen_tasks([self._task(call)])
        return json_answer(self._spelling.task(seen))

    def _readable(self, call: Call) -> list[Task]:
        return [task for task in self._world.tasks if task.space in call.spaces]

    def _task(self, call: Call) -> Task:
        task = next((task for task in self._readable(call) if task.id == call.id), None)
        if task is None:
            raise _absent("task")
        return task

    def _filtered(self, tasks: list[Task], call: Call) -> list[Task]:
        name = _read_name(call.parameters, "name")
        space_name = _read_name(call.parameters, "space_name")
        kind = self._spelling.read_choice("type", call.parameters.one("type"), TaskType)
        found = [
            task
            for task in tasks
            if name in task.name.lower() and space_name in task.space.name and kind in {None, task.type}
        ]
        for scope, of, readable in (
            ("space_id", _space_of, {space.id for space in call.spaces}),
            ("project_id", _project_of, {task.project_id for task in tasks}),
            ("dataset_id", _dataset_of, {task.dataset_id for task in tasks}),
        ):
            wanted_id = self._scope(call.parameters, scope, readable=readable)
            found = [task for task in found if wanted_id in {None, of(task)}]
        return found

    def _scope(self, parameters: Parameters, scope: str, *, readable: Collection[str | None]) -> str | None:
        """An absent or unreadable scope is a 404 since July 2026; old servers answer an empty list."""
        wanted_id = _read_id(parameters, scope)
        if wanted_id is not None and wanted_id not in readable and self._spelling.wire is not Wire.LOWER:
            raise _absent(scope.removesuffix("_id"))
        return wanted_id

    # Runs

    def _list_runs(self, call: Call) -> Answer:
        task = self._task(call)
        status = self._spelling.read_choice("status", call.parameters.one("status"), Status)
        runs = self._world.runs_of(task, status=status)
        page = cut(runs, place=lambda seen: seen.run.place, to=wanted(call.parameters))
        bodies = [self._spelling.run(seen) for seen in page.items]
        return json_answer({"task_runs": bodies, "pagination": page.pagination()})

    def _get_run(self, call: Call) -> Answer:
        return json_answer(self._spelling.run(self._run(call)))

    def _cancel_run(self, call: Call) -> Answer:
        try:
            return json_answer(self._spelling.run(self._world.cancel(self._run(call).run, effect=call.cancel)))
        except RunAlreadyEnded as ended:
            detail = f"cannot cancel a run with status '{ended.status.lower()}'"
            raise Problem(400, detail) from None

    def _trigger_run(self, call: Call) -> Answer:
        """Whoever holds the key acts as its bot user, the last of the people."""
        task, show = self._task(call), self._clock.shown
        (seen,) = self._world.seen_tasks([task])
        last_run = None if seen.last_run_ms is None else show(seen.last_run_ms)
        wanted = read_trigger(call.request, task=task, last_run=last_run, now=show(self._clock.now_ms()))
        demand_evaluations(wanted, {task.id: task for task in self._readable(call)}.get)
        window_ms = wanted.window and (self._clock.simulated(wanted.window[0]), self._clock.simulated(wanted.window[1]))
        try:
            run = self._world.trigger(task, window_ms=window_ms, experiment_name=wanted.experiment_name, by=USERS[-1])
        except ExperimentNameTaken:
            raise Problem(409, "An experiment of this name exists in the dataset.") from None
        return json_answer(self._spelling.run(run), status=201)

    def _run(self, call: Call) -> SeenRun:
        seen = self._world.find_run(call.id)
        if seen is None or seen.run.task.space not in call.spaces:
            raise _absent("task run")
        return seen


def _space_of(task: Task) -> str | None:
    return task.space.id


def _project_of(task: Task) -> str | None:
    return task.project_id


def _dataset_of(task: Task) -> str | None:
    return task.dataset_id


def _absent(what: str) -> Problem:
    """The same answer for what does not exist and for what the key may not read, as Arize does on purpose."""
    return Problem(404, f"The {what} does not exist or is not readable with this key.")


def _demand_id(name: str, text: str) -> None:
    try:
        demand_wellformed(text)
    except MalformedIdentifier:
        raise Problem(400, f"{name} is not a valid identifier.") from None


def _read_id(parameters: Parameters, name: str) -> str | None:
    text = parameters.one(name)
    if text is not None:
        _demand_id(name, text)
    return text


def _read_name(parameters: Parameters, name: str) -> str:
    """A case-insensitive part of a name, folded; empty when it is not given."""
    text = parameters.one(name) or ""
    if len(text) > LONGEST_NAME:
        raise Problem(400, f"{name} must have at most {LONGEST_NAME} characters.")
    return text.lower()
