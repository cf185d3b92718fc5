"""One run, and the Cancel button."""

import uuid

from django.contrib import messages
from django.http import Http404, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.views.decorators.http import require_POST, require_safe

from taskruns.access import gate
from taskruns.access.gate import PanelRequest, actor_of, owned, requires, spend
from taskruns.access.redirects import board_before
from taskruns.audit import EventType
from taskruns.models import LONGEST_REASON, Run, Team
from taskruns.pages.board import row_of
from taskruns.pages.cancellations import sentence_of
from taskruns.pages.outcomes import CANCEL_WORDS
from taskruns.pages.runs import run_page
from taskruns.pages.values import Message, shortened
from taskruns.permissions import Action, TeamAccess
from taskruns.services import mirror
from taskruns.services.cancellations import cancel as cancel_run
from taskruns.services.cancellations import is_needed
from taskruns.services.user_errors import UserError

from .errors import error_page
from .fragments import Context, fragment, pay_attention, vary_on_htmx

LEVELS = {"success": messages.SUCCESS, "info": messages.INFO, "warning": messages.WARNING, "error": messages.ERROR}


@requires(Action.RUNS_VIEW)
@require_safe
@fragment("runs/run")
def run(request: PanelRequest, team: Team, run_id: uuid.UUID) -> Context:
    """The page of one run. Its fragment polls while the run is active."""
    owned(request, Run.objects.all(), run_id)
    pay_attention(team)
    page = run_page(run_id, team_access=TeamAccess(team, request.access))
    return {"page": page, "board_url": board_before(request, team.slug)}


@requires(Action.RUNS_VIEW)
@require_safe
def by_arize_id(request: PanelRequest, team: Team, arize_id: str) -> HttpResponse:
    """A link that other systems can build from Arize's own run id."""
    try:
        found = mirror.find_by_arize_id(team, arize_id, may_ask=lambda: gate.has_room(request, gate.LOOKUPS))
    except UserError as error:
        text = f"The panel cannot tell right now whether this run belongs to your team. {error.sentence}"
        return error_page(request, 503, "Run lookup failed", text)
    if found is None:
        raise Http404
    return redirect("run", slug=team.slug, run_id=found.pk)


@requires(Action.RUNS_CANCEL, event=EventType.RUN_CANCEL, stops_runs=True)
@require_POST
def cancel(request: PanelRequest, team: Team, run_id: uuid.UUID) -> HttpResponse:
    """Cancel one run. htmx gets the new row (or run) and a message; a plain form is redirected to the run's page."""
    found = owned(request, Run.objects.select_related("task"), run_id)
    reason = request.POST.get("reason", "")
    if len(reason) > LONGEST_REASON:
        text = f"The reason is longer than {LONGEST_REASON} characters. Nothing was sent. Shorten it, then try again."
        return _speak(request, Message("error", text), run_id, status=422)
    if not is_needed(found):
        spend(request, gate.NEEDLESS_CANCELS)  # it stops nothing, but leaves a row
    result = cancel_run(found, by=actor_of(request), reason=reason)
    words = CANCEL_WORDS[result.outcome]
    # Names the run, because several may be cancelled in a row.
    message = Message(words.tone, f"{shortened(found.label)}: {sentence_of(result)}")
    return _speak(request, message, run_id, status=429 if result.throttled else words.status)


def _speak(request: PanelRequest, message: Message, run_id: uuid.UUID, *, status: int) -> HttpResponse:
    team = request.team
    assert team is not None  # noqa: S101 - a team's url
    if request.htmx and request.htmx.target != "run-page":
        row = row_of(run_id, team_access=TeamAccess(team, request.access))
        context = {"row": row, "message": message}
        return vary_on_htmx(render(request, "taskruns/board/_row_answer.html", context, status=status))
    if not request.htmx:
        messages.add_message(request, LEVELS[message.tone], message.text)
        if status < 400:
            # Redirect after success, so that a reload does not send the form again. A failure keeps its status.
            return redirect("run", slug=team.slug, run_id=run_id)
    page = run_page(run_id, team_access=TeamAccess(team, request.access))
    template = "taskruns/runs/_run_answer.html" if request.htmx else "taskruns/runs/run.html"
    context = {"page": page, "message": message, "board_url": reverse("board", args=[team.slug])}
    return vary_on_htmx(render(request, template, context, status=status))
