"""Under /v2, like Arize (REST API v2, August 2026). Each request needs `Authorization: Bearer <key>`:

GET spaces, spaces/{id}, tasks, tasks/{id}, tasks/{id}/runs, task-runs/{id}, users/{id}, api-keys
POST task-runs/{id}/cancel, tasks/{id}/trigger

Lists accept `limit` (1-100, default 50) and `cursor`. Tasks also accept `space_id`, `space_name`, `name`, `project_id`,
`dataset_id` and `type`, the runs of a task `status`, and spaces `name` and `org_id`. Lists are sorted newest first. A
triggered run is pending for 20 s and then behaves like any other; its creator is the key's bot user. The names of
triggered experiments are unique in their dataset.
"""

import base64
import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from .catalogue import ORGANIZATION_ID, USERS, Space, Task, TaskType, is_identifier
from .keys import Keys
from .messages import Answer, Parameters, Problem, Request, json_answer
from .runs import AT_ONCE, CancelEffect, Status
from .triggers import check_evaluations, read_trigger
from .wire import Wire, WireForm
from .world import Clock, ExperimentNameTaken, RunAlreadyEnded, SeenRun, World

LONGEST_NAME = 255
LARGEST_PAGE = 100
DEFAULT_PAGE = 50

Item = TypeVar("Item")
# (created, in simulated milliseconds; the object's number)
Place = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Call:
    """One authenticated request: the key's spaces, the id in the path (if any), the parameters, a cancel's effect."""

    spaces: tuple[Space, ...]
    id: str
    parameters: Parameters
    request: Request
    cancel: CancelEffect


class Api:
    def __init__(self, *, world: World, keys: Keys, spelling: WireForm, clock: Clock) -> None:
        self._world = world
        self._clock = clock
        self._keys = keys
        self._spelling = spelling
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
        """Raises Problem for every answer that is not 2xx."""
        spaces = self._keys.spaces(request.bearer)
        if spaces is None:
            raise Problem(401, "The API key is missing, unknown, expired or revoked.")
        segments = request.segments[1:]
        action = self._action(request.method, segments)
        object_id = segments[1] if len(segments) > 1 else ""
        if object_id:
            _check_id("id", object_id)
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

    # Spaces, users and keys

    def _list_spaces(self, call: Call) -> Answer:
        organization = _read_id(call.parameters, "org_id")
        name = _read_name(call.parameters, "name")
        spaces = [space for space in call.spaces if name in space.name]
        if organization not in {None, ORGANIZATION_ID}:
            spaces = []
        page = page_of(spaces, call.parameters, place=lambda space: (space.created_ms, space.number))
        bodies = [self._spelling.space(space) for space in page.items]
        return json_answer({"spaces": bodies, "pagination": page.pagination()})

    def _get_space(self, call: Call) -> Answer:
        space = next((space for space in call.spaces if space.id == call.id), None)
        if space is None:
            raise _not_found("space")
        return json_answer(self._spelling.space(space))

    def _get_user(self, call: Call) -> Answer:
        user = next((user for user in USERS if user.id == call.id), None)
        if user is None:
            raise _not_found("user")
        return json_answer(self._spelling.user(user))

    def _list_api_keys(self, call: Call) -> Answer:
        """The caller's own key. Service keys of a space are refused."""
        if _read_id(call.parameters, "space_id") is not None:
            raise Problem(403, "This key may not read the service keys of a space.")
        page = page_of([self._keys.listed(call.request.bearer or "")], call.parameters, place=lambda _: (0, 0))
        return json_answer({"api_keys": list(page.items), "pagination": page.pagination()})

    # Tasks

    def _list_tasks(self, call: Call) -> Answer:
        tasks = self._filtered(self._readable(call), call)
        page = page_of(tasks, call.parameters, place=lambda task: (task.created_ms, task.number))
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
            raise _not_found("task")
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
        """A missing or unreadable scope gives 404 since July 2026; older servers return an empty list."""
        wanted_id = _read_id(parameters, scope)
        if wanted_id is not None and wanted_id not in readable and self._spelling.wire is not Wire.LOWER:
            raise _not_found(scope.removesuffix("_id"))
        return wanted_id

    # Runs

    def _list_runs(self, call: Call) -> Answer:
        task = self._task(call)
        status = self._spelling.read_choice("status", call.parameters.one("status"), Status)
        page = page_of(self._world.runs_of(task, status=status), call.parameters, place=lambda seen: seen.run.place)
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
        """The run's creator is the key's bot user, the last one in USERS."""
        task, show = self._task(call), self._clock.shown
        (seen,) = self._world.seen_tasks([task])
        last_run = None if seen.last_run_ms is None else show(seen.last_run_ms)
        wanted = read_trigger(call.request, task=task, last_run=last_run, now=show(self._clock.now_ms()))
        check_evaluations(wanted, {task.id: task for task in self._readable(call)}.get)
        window_ms = wanted.window and (self._clock.simulated(wanted.window[0]), self._clock.simulated(wanted.window[1]))
        try:
            run = self._world.trigger(task, window_ms=window_ms, experiment_name=wanted.experiment_name, by=USERS[-1])
        except ExperimentNameTaken:
            raise Problem(409, "An experiment of this name exists in the dataset.") from None
        return json_answer(self._spelling.run(run), status=201)

    def _run(self, call: Call) -> SeenRun:
        seen = self._world.find_run(call.id)
        if seen is None or seen.run.task.space not in call.spaces:
            raise _not_found("task run")
        return seen


def _space_of(task: Task) -> str | None:
    return task.space.id


def _project_of(task: Task) -> str | None:
    return task.project_id


def _dataset_of(task: Task) -> str | None:
    return task.dataset_id


def _not_found(what: str) -> Problem:
    """The same answer for missing and unreadable objects, as Arize does on purpose."""
    return Problem(404, f"The {what} does not exist or is not readable with this key.")


def _check_id(name: str, text: str) -> None:
    if not is_identifier(text):
        raise Problem(400, f"{name} is not a valid identifier.")


def _read_id(parameters: Parameters, name: str) -> str | None:
    text = parameters.one(name)
    if text is not None:
        _check_id(name, text)
    return text


def _read_name(parameters: Parameters, name: str) -> str:
    """A case-insensitive part of a name, in lower case; empty when it is not given."""
    text = parameters.one(name) or ""
    if len(text) > LONGEST_NAME:
        raise Problem(400, f"{name} must have at most {LONGEST_NAME} characters.")
    return text.lower()


# Pages by limit and opaque cursor: keyset by creation, newest first, so that new objects shift nothing


@dataclass(frozen=True, slots=True)
class Page(Generic[Item]):
    items: Sequence[Item]
    next_cursor: str | None

    def pagination(self) -> dict[str, object]:
        """`next_cursor` is there only when there is more."""
        if self.next_cursor is None:
            return {"has_more": False}
        return {"has_more": True, "next_cursor": self.next_cursor}


def page_of(items: Sequence[Item], parameters: Parameters, *, place: Callable[[Item], Place]) -> Page[Item]:
    """The page for `limit` and `cursor`. The items may be in any order.

    Raises Problem 400 for a limit outside 1-100 or a cursor that this server cannot have issued.
    """
    limit, before = _read_limit(parameters.one("limit")), _read_cursor(parameters.one("cursor"))
    ordered = sorted(items, key=place, reverse=True)
    rest = [item for item in ordered if before is None or place(item) < before]
    shown = rest[:limit]
    return Page(shown, _cursor(place(shown[-1])) if len(rest) > limit else None)


def _read_limit(text: str | None) -> int:
    if text is None:
        return DEFAULT_PAGE
    # Only ASCII digits: int() would also accept " 5 ", "1_0" and digits of other scripts.
    if text.isascii() and text.isdigit() and len(text) < 4 and 1 <= int(text) <= LARGEST_PAGE:
        return int(text)
    raise Problem(400, f"limit must be an integer from 1 to {LARGEST_PAGE}.")


def _read_cursor(text: str | None) -> Place | None:
    if text is None:
        return None
    try:
        document = json.loads(base64.b64decode(text, validate=True))
        created, number = document["createdAt"], document["id"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise Problem(400, "cursor is invalid.") from None
    if type(created) is int and type(number) is int:
        return (created, number)
    raise Problem(400, "cursor is invalid.")


def _cursor(place: Place) -> str:
    return base64.b64encode(json.dumps({"createdAt": place[0], "id": place[1]}).encode()).decode()
