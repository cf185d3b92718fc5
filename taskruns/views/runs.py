"""One run, and the Cancel button."""

import uuid

from django.contrib import messages
from django.http import Http404, HttpResponse, HttpResponseBase
from django.shortcuts import redirect, render
from django.urls import reverse
from django.views.decorators.http import require_POST, require_safe
from django_htmx.http import reswap, retarget

from taskruns import jobs
from taskruns.access import gate
from taskruns.access.gate import PanelRequest, actor_of, by_method, owned, requires, spend
from taskruns.access.redirects import board_before, page_of, team_page_before
from taskruns.audit import EventType
from taskruns.models import LONGEST_REASON, Run, Team
from taskruns.pages.board import row_of
from taskruns.pages.cancellations import sentence_of
from taskruns.pages.channels.page import run_notice
from taskruns.pages.outcomes import CANCEL_WORDS
from taskruns.pages.runs import run_page
from taskruns.pages.tasks import run_line
from taskruns.pages.values import Message, shortened
from taskruns.permissions import Action, TeamAccess
from taskruns.services import mirror
from taskruns.services.cancellations import cancel as cancel_run
from taskruns.services.cancellations import is_needed
from taskruns.services.channels import notices
from taskruns.services.runs import notes
from taskruns.services.user_errors import UserError

from .errors import error_page
from .fragments import Context, fragment, pay_attention, render_fragment, vary_on_htmx
from .user_errors import shown_as_message

LEVELS = {"success": messages.SUCCESS, "info": messages.INFO, "warning": messages.WARNING, "error": messages.ERROR}
TOO_LONG = f"The reason is longer than {LONGEST_REASON} characters. Nothing was sent. Shorten it, then try again."


@requires(Action.RUNS_VIEW)
@require_safe
@fragment("runs/run")
def run(request: PanelRequest, team: Team, run_id: uuid.UUID) -> Context:
    """The page of one run. Its fragment polls while the run is active."""
    owned(request, Run.objects.all(), run_id)
    pay_attention(team)
    page = run_page(run_id, team_access=TeamAccess(team, request.access))
    return {
        "page": page,
        "board_url": board_before(request, team.slug),
        "notice": run_notice(run_id, team.slug, request.user),
    }


@requires(Action.RUNS_VIEW)
@require_safe
def by_arize_id(request: PanelRequest, team: Team, arize_id: str) -> HttpResponse:
    """A link that other systems can build from Arize's own run id."""
    try:
        found = mirror.find_by_arize_id(team, arize_id, may_ask=lambda: gate.try_spend(request, gate.LOOKUPS))
    except UserError as error:
        text = f"The panel cannot tell right now whether this run belongs to your team. {error.sentence}"
        return error_page(request, 503, "Run lookup failed", text)
    if found is None:
        raise Http404
    return redirect("run", slug=team.slug, run_id=found.pk)


@requires(Action.RUNS_VIEW)
@require_safe
def lead_to_run(request: PanelRequest, team: Team, run_id: uuid.UUID) -> HttpResponse:
    """There is nothing to read here, but signing in again leads back to the address of the question."""
    owned(request, Run.objects.all(), run_id)
    return redirect("run", slug=team.slug, run_id=run_id)


@requires(Action.RUNS_CANCEL, event=EventType.RUN_CANCEL, stops_runs=True)
@require_POST
def ask_or_cancel(request: PanelRequest, team: Team, run_id: uuid.UUID) -> HttpResponseBase:
    """Cancel one run if the form says `confirmed=1`, otherwise only ask whether to: a first click changes nothing.

    htmx gets the new row (or run) and a message; a plain form is redirected to the run's page.
    """
    found = owned(request, Run.objects.select_related("task"), run_id)
    reason, is_confirmed = request.POST.get("reason", ""), request.POST.get("confirmed") == "1"
    is_too_long = len(reason) > LONGEST_REASON
    if request.htmx and is_confirmed and is_too_long:
        return _speak(request, Message("error", TOO_LONG), run_id, status=422)
    if is_too_long or not is_confirmed:
        return _question(request, run_id, reason, fault=TOO_LONG if is_too_long else "")
    if not is_needed(found):
        spend(request, gate.NEEDLESS_CANCELS)  # it stops nothing, but leaves a row
    result = cancel_run(found, by=actor_of(request), reason=reason)
    if result.is_queued:
        jobs.wake_cancels()
    words = CANCEL_WORDS[result.outcome]
    # Names the run, because several may be cancelled in a row.
    message = Message(words.tone, f"{shortened(found.label)}: {sentence_of(result)}")
    return _speak(request, message, run_id, status=429 if result.throttled else words.status)


cancel = by_method(read=lead_to_run, act=ask_or_cancel)


@requires(Action.RUNS_NOTE, event=EventType.RUN_NOTE)
@require_POST
def add_note(request: PanelRequest, team: Team, run_id: uuid.UUID) -> HttpResponse:
    """A mistake is shown on a page of its own: the run's page polls, which would drop what was typed."""
    found = owned(request, Run.objects.select_related("task", "team"), run_id)
    text = request.POST.get("note", "")
    try:
        notes.add(found, text=text, by=actor_of(request))
    except UserError as error:
        context = {
            "row": row_of(run_id, team_access=TeamAccess(team, request.access)),
            "text": text,
            "fault": error.sentence,
            "note_url": request.path,
            "board_url": board_before(request, team.slug),
        }
        return render(request, "taskruns/runs/note.html", context, status=422)
    messages.success(request, "Note added.")
    return redirect("run", slug=team.slug, run_id=run_id)


@requires(Action.RUNS_VIEW)
@require_POST
def ask_for_notice(request: PanelRequest, team: Team, run_id: uuid.UUID) -> HttpResponse:
    """One's own mail when the run ends, or (`off`) not any more."""
    found = owned(request, Run.objects.select_related("task"), run_id)
    with shown_as_message(request):
        if "off" in request.POST:
            notices.drop(found, request.user)
            messages.success(request, "You will not get a mail about this run.")
        else:
            notices.ask(found, request.user)
            messages.success(request, f"You will get a mail when this run of {shortened(found.label)} ends.")
    return redirect(team_page_before(request, team.slug) or reverse("run", args=[team.slug, run_id]))


notice = by_method(read=lead_to_run, act=ask_for_notice)
note = by_method(read=lead_to_run, act=add_note)


def _question(request: PanelRequest, run_id: uuid.UUID, reason: str, *, fault: str) -> HttpResponseBase:
    """The page that asks. It shows the run as it is now, so it has no button if the run has ended by then."""
    team = _team(request)
    row = row_of(run_id, team_access=TeamAccess(team, request.access))
    context = {
        "row": row,
        "reason": reason,
        "fault": fault,
        "board_url": board_before(request, team.slug),
        "back_url": team_page_before(request, team.slug) or row.url,
    }
    response = render_fragment(request, "cancellations/question", context, status=422 if fault else 200)
    if request.htmx:
        # The dialog always confirms, so this page is older than the panel. Its target is a row, too small to ask in.
        return reswap(retarget(response, "#main"), "innerHTML")
    return response


def _speak(request: PanelRequest, message: Message, run_id: uuid.UUID, *, status: int) -> HttpResponse:
    team = _team(request)
    if request.htmx and page_of(request.htmx).startswith(reverse("task", args=[team.slug, _task_id(run_id)])):
        context = {"line": run_line(run_id, team_access=TeamAccess(team, request.access)), "message": message}
        return vary_on_htmx(render(request, "taskruns/tasks/_run_line_answer.html", context, status=status))
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


def _task_id(run_id: uuid.UUID) -> uuid.UUID:
    return Run.objects.values_list("task_id", flat=True).get(pk=run_id)


def _team(request: PanelRequest) -> Team:
    assert request.team is not None  # noqa: S101 - a team's url
    return request.team
