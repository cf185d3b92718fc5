"""The page of a task and the strip of its last runs."""

import uuid

from django.http import HttpResponse
from django.shortcuts import redirect
from django.views.decorators.http import require_safe

from taskruns.access.gate import PanelRequest, owned, requires
from taskruns.access.redirects import board_before
from taskruns.models import Task, Team
from taskruns.pages import tasks as tasks_service
from taskruns.permissions import Action, TeamAccess

from .fragments import Context, fragment, pay_attention


@requires(Action.RUNS_VIEW)
@require_safe
@fragment("tasks/task")
def task(request: PanelRequest, team: Team, task_id: uuid.UUID) -> Context:
    """The page of one task; its fragment polls."""
    owned(request, Task.objects.all(), task_id)
    pay_attention(team)
    page = tasks_service.task_page(task_id, team_access=TeamAccess(team, request.access))
    return {"page": page, "board_url": board_before(request, team.slug)}


@requires(Action.RUNS_VIEW)
@require_safe
@fragment("tasks/strip")
def strip(request: PanelRequest, team: Team, task_id: uuid.UUID) -> Context | HttpResponse:
    """Only a fragment: a browser that opens it goes to the page of the task."""
    found = owned(request, Task.objects.all(), task_id)
    if not request.htmx:
        return redirect("task", slug=team.slug, task_id=task_id)
    return {"strip": tasks_service.task_strip(found, slug=team.slug)}
