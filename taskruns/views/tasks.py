"""The page of a task and the strip of its last runs."""

import uuid

from django.http import HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_safe

from taskruns.access.gate import PanelRequest, owned, requires
from taskruns.access.redirects import board_before
from taskruns.models import Task, Team
from taskruns.pages import tasks as tasks_service
from taskruns.permissions import Action

from .fragments import fresh, watch


@requires(Action.RUNS_VIEW)
@require_safe
def task(request: PanelRequest, team: Team, task_id: uuid.UUID) -> HttpResponse:
    """For htmx its fragment only, which polls."""
    owned(request, Task.objects.all(), task_id)
    watch(team)
    page = tasks_service.task_page(task_id, access=request.access, slug=team.slug)
    template = "taskruns/tasks/_task.html" if request.htmx else "taskruns/tasks/task.html"
    return fresh(render(request, template, {"page": page, "board_url": board_before(request, team.slug)}))


@requires(Action.RUNS_VIEW)
@require_safe
def strip(request: PanelRequest, team: Team, task_id: uuid.UUID) -> HttpResponse:
    """A fragment; who opens it as a page is led to the one that holds it."""
    found = owned(request, Task.objects.all(), task_id)
    if not request.htmx:
        return fresh(redirect("task", slug=team.slug, task_id=task_id))
    drawn = tasks_service.task_strip(found, slug=team.slug)
    return fresh(render(request, "taskruns/tasks/_strip.html", {"strip": drawn}))
