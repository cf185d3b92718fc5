"""The form that starts a run of a task. One form starts at most one run, however often it is sent."""

import uuid
from typing import Any

from django.contrib import messages
from django.http import HttpResponse
from django.shortcuts import redirect, render
from django.utils import timezone
from django.views.decorators.http import require_http_methods
from django_htmx.http import HttpResponseClientRedirect

from taskruns.access.gate import PanelRequest, actor_of, owned, requires
from taskruns.audit import EventType
from taskruns.forms.triggers import TriggerForm, form_for
from taskruns.models import Task, Team, TriggerOutcome
from taskruns.pages.outcomes import TRIGGER_WORDS
from taskruns.pages.triggers import sentence_of, trigger_page
from taskruns.pages.values import Message
from taskruns.permissions import Action
from taskruns.services import triggers
from taskruns.services.triggers import TriggerResult

from .fragments import vary_on_htmx

DAMAGED = "This page is out of date or was altered. Nothing was sent. Check the form, then send it again."


@requires(Action.RUNS_TRIGGER, event=EventType.RUN_TRIGGER)
@require_http_methods(["GET", "HEAD", "POST"])
def trigger(request: PanelRequest, team: Team, task_id: uuid.UUID) -> HttpResponse:
    """GET shows the form, or the result of `operation`. POST sends the form."""
    task = owned(request, Task.objects.select_related("credential"), task_id)
    kind = form_for(task)
    if kind is None:
        return _page(request, task, None, status=422 if request.method == "POST" else 200)
    if request.method == "POST":
        return _send(request, task, kind(request.POST, task=task))
    return _show(request, task, kind)


def _send(request: PanelRequest, task: Task, form: TriggerForm) -> HttpResponse:
    operation = _operation(request.POST.get("operation", ""))
    is_valid = form.is_valid()
    if operation is None:
        return _page(request, task, form, message=Message("error", DAMAGED), status=422)
    if not is_valid:
        return _page(request, task, form, operation=operation, status=422)
    result = triggers.trigger(task, operation=operation, wanted=form.wanted(), by=actor_of(request))
    return _answer(request, task, form, result, operation)


def _show(request: PanelRequest, task: Task, kind: type[TriggerForm]) -> HttpResponse:
    operation = _operation(request.GET.get("operation", ""))
    found = operation and triggers.earlier(task, operation=operation, by=actor_of(request))
    if not operation or not found:
        return _page(request, task, kind(initial=kind.suggest(task, timezone.now()), task=task))
    result, parameters = found
    if request.htmx:
        # A waiting page polls: it stays as it is until there is a result, then it is replaced by that result's page.
        is_open = result.outcome is TriggerOutcome.OPEN
        return HttpResponse(status=204) if is_open else HttpResponseClientRedirect(request.get_full_path())
    return _answer(request, task, kind(initial=kind.repeated(parameters), task=task), result, operation, status=200)


def _answer(
    request: PanelRequest,
    task: Task,
    form: TriggerForm,
    result: TriggerResult,
    operation: uuid.UUID,
    *,
    status: int | None = None,
) -> HttpResponse:
    """Redirect to the new run if it was started. Otherwise show the form, with a new operation unless waiting."""
    if result.outcome is TriggerOutcome.DONE:
        text = f"{task}: {sentence_of(result)}"
        if result.joined:
            messages.info(request, f"{text} This form had already been sent, so no second run was started.")
        else:
            messages.success(request, text)
        if result.run is None:  # deleted from the mirror
            return redirect("board", slug=_team(request).slug)
        return redirect("run", slug=_team(request).slug, run_id=result.run.pk)
    words, is_waiting = TRIGGER_WORDS[result.outcome], result.outcome is TriggerOutcome.OPEN
    return _page(
        request,
        task,
        form,
        message=Message(words.tone, sentence_of(result)),
        operation=operation if is_waiting else None,
        is_waiting=is_waiting,
        status=status or (429 if result.throttled else words.status),
    )


def _page(
    request: PanelRequest,
    task: Task,
    form: TriggerForm | None,
    *,
    message: Message | None = None,
    operation: uuid.UUID | None = None,
    is_waiting: bool = False,
    status: int = 200,
) -> HttpResponse:
    team = _team(request)
    page = trigger_page(
        task,
        team=team.name,
        slug=team.slug,
        what=form.what if form else "",
        operation=str(operation or uuid.uuid4()),
        message=message,
        is_waiting=is_waiting,
    )
    context: dict[str, Any] = {"page": page, "form": form}
    response = render(request, "taskruns/triggers/trigger.html", context, status=status)
    return vary_on_htmx(response)


def _team(request: PanelRequest) -> Team:
    assert request.team is not None  # noqa: S101 - a team's url
    return request.team


def _operation(text: str) -> uuid.UUID | None:
    try:
        return uuid.UUID(text)
    except ValueError:
        return None
