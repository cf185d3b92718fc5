"""The emergency stop: show what it affects, pull it, lift it. Plain forms, without htmx."""

import uuid

from django.contrib import messages
from django.http import HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_POST, require_safe

from taskruns import jobs
from taskruns.access.gate import PanelRequest, actor_of, by_method, owned, refused, requires
from taskruns.audit import EventType
from taskruns.forms.fields import posted
from taskruns.forms.stops import StopForm
from taskruns.models import Task, Team
from taskruns.pages.stops import banner_of, stop_page
from taskruns.pages.values import Message
from taskruns.permissions import Action
from taskruns.services import stops
from taskruns.services.stops import Pulled

from .fragments import vary_on_htmx
from .frame import stop_banner
from .user_errors import shown_on_form

ASKED = "Nothing was stopped yet. Check the tasks below, then click “Pull the emergency stop”."
UNREADABLE = "The list of excluded tasks could not be read, so nothing was stopped. Select the tasks again."


@requires(Action.RUNS_VIEW)
@require_safe
def look(request: PanelRequest, team: Team) -> HttpResponse:
    """Show the affected tasks, or the active stop. htmx gets only what changes while the stop is active."""
    if request.htmx:
        banner = stop_banner(team, request.user, request.access)
        page = stop_page(team, banner=banner, may_pull=False) if banner else None
        context = {"progress": page and page.progress, "page": page, "is_polled": True, "stop": banner}
        return vary_on_htmx(render(request, "taskruns/stops/_progress.html", context))
    return vary_on_htmx(_page(request, team, StopForm()))


@requires(Action.STOP_PULL, event=EventType.STOP_PULL, stops_runs=True)
@require_POST
def pull(request: PanelRequest, team: Team) -> HttpResponse:
    form = StopForm(posted(request))
    try:
        left_out = _left_out(request)
    except ValueError:
        return _page(request, team, form, message=Message("error", UNREADABLE), status=422)
    if not form.is_valid():
        return _page(request, team, form, left_out=left_out, status=422)
    if "ask" in request.POST:
        return _page(request, team, form, left_out=left_out, message=Message("warning", ASKED))
    return _pull(request, team, form, left_out)


stop = by_method(read=look, act=pull)


def _pull(request: PanelRequest, team: Team, form: StopForm, left_out: list[Task]) -> HttpResponse:
    try:
        with shown_on_form(form, unless=(stops.AlreadyPulled,)):
            pulled = stops.pull(team, reason=form.cleaned_data["reason"], left_out=left_out, by=actor_of(request))
            return _pulled(request, team, pulled)
    except stops.AlreadyPulled as first:
        return _page(request, team, form, message=Message("warning", first.sentence), status=409)
    return _page(request, team, form, left_out=left_out, status=422)


def _pulled(request: PanelRequest, team: Team, pulled: Pulled) -> HttpResponse:
    if pulled.batch is not None:
        jobs.wake_batch(pulled.batch.pk)
    messages.warning(request, f"Emergency stop pulled. {_hit(pulled.runs)}")
    return redirect("stop", slug=team.slug)


def _hit(runs: int) -> str:
    if not runs:
        return "No run was active. New runs are cancelled as soon as they appear."
    return "1 run is being cancelled." if runs == 1 else f"{runs:,} runs are being cancelled."


@requires(Action.STOP_PULL, event=EventType.STOP_LIFT)
@require_POST
def lift(request: PanelRequest, team: Team) -> HttpResponse:
    """For managers, and for the operator who pulled it, which the service checks."""
    try:
        lifted = stops.lift(team, by=actor_of(request))
    except stops.MayNotLift:
        raise refused(request, EventType.STOP_LIFT, action=Action.STOP_LIFT) from None
    if lifted is None:
        messages.info(request, "The emergency stop had already ended.")
    else:
        messages.success(request, "Emergency stop lifted. New runs are no longer cancelled.")
    return redirect("board", slug=team.slug)


def _left_out(request: PanelRequest) -> list[Task]:
    """The excluded tasks of this team. Raises ValueError for an invalid id, Http404 for a task of another team."""
    wanted = {uuid.UUID(text) for text in request.POST.getlist("left_out")}
    found = Task.objects.filter(team=request.team).in_bulk(wanted)
    for missing in sorted(wanted - found.keys()):
        owned(request, Task.objects.all(), missing)
    return list(found.values())


def _page(
    request: PanelRequest,
    team: Team,
    form: StopForm,
    *,
    left_out: list[Task] | None = None,
    message: Message | None = None,
    status: int = 200,
) -> HttpResponse:
    banner = banner_of(team, person=request.user, access=request.access)
    ticked = [str(task.pk) for task in left_out or ()]
    may_pull = request.access.may(Action.STOP_PULL)
    page = stop_page(team, banner=banner, may_pull=may_pull, left_out=ticked)
    context = {"page": page, "form": form, "message": message, "is_lifting": "lift" in request.GET}
    return render(request, "taskruns/stops/stop.html", context, status=status)
