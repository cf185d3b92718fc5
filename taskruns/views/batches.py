"""Bulk cancel, and starting runs again in bulk: the list to confirm, the confirmation, the progress, past batches.

Both kinds share each URL. A form that starts runs says `kind=trigger`; without it, the gate is that of a bulk cancel.
"""

import uuid
from collections.abc import Callable, Mapping
from typing import Any

from django.contrib import messages
from django.http import HttpResponse, HttpResponseBase
from django.shortcuts import redirect, render
from django.views.decorators.http import require_POST, require_safe

from taskruns import jobs
from taskruns.access.gate import PanelRequest, View, access_to, actor_of, by_field, by_method, owned, refused, requires
from taskruns.audit import EventType
from taskruns.forms import BadFilter, BoardFilter, refuse_unknown
from taskruns.forms.batches import DEFAULT_PATTERN, ConfirmForm, StartAgainForm
from taskruns.models import BatchKind, BatchSource, BatchState, CancelBatch, Run, Team
from taskruns.pages.batch_drafts import left_out_text
from taskruns.pages.batches import BatchPage, TeamSelection, batch_page, past_batches, selections
from taskruns.permissions import Action, TeamAccess
from taskruns.services import batches, members
from taskruns.services.batches import KIND_FACTS, StartOptions
from taskruns.services.user_errors import UserError

from .errors import error_page
from .fragments import render_fragment

EMPTY = "No filter is set, and that never means all runs. Set a filter on the board, or select runs one by one."
BOTH = "Selected runs and “all that match” were sent together. Use one of the two buttons."
UNREADABLE = "The panel could not read what to {act}. Go back and try again from the board."
NOT_FINISHED = "This bulk cancel is still in progress. Wait until it is done, then start its runs again."
_ACTS = {BatchKind.CANCEL: "cancel", BatchKind.TRIGGER: "start again"}
NONE_OF_THEM = {
    BatchKind.CANCEL: "None of these runs is pending or running any more, so there is nothing to cancel.",
    BatchKind.TRIGGER: "None of these runs has failed or was cancelled, so there is nothing to start again.",
}
NONE_MATCHES = {
    BatchKind.CANCEL: "No pending or running run matches this filter, so there is nothing to cancel.",
    BatchKind.TRIGGER: "No failed or cancelled run matches this filter, so there is nothing to start again.",
}
# Of the form that sends the filter.
_FIELDS = ("csrfmiddlewaretoken", "kind", "match", "run")


class Refused(ValueError):
    """No list can be made. The text is shown to the person."""


class OtherTeams(Exception):
    """Runs of other teams of the person were selected. Without a script, nothing on the board prevents it."""

    def __init__(self, found: tuple[TeamSelection, ...]) -> None:
        super().__init__()
        self.found = found


def _gated(view: Callable[..., HttpResponseBase], *, is_limited: bool = True) -> View:
    """`is_limited`: starting runs counts against the person's limit on acts. Stopping them never does."""
    cancels = requires(Action.RUNS_CANCEL_MANY, event=EventType.RUN_CANCEL_MANY, stops_runs=True)
    starts = requires(Action.RUNS_TRIGGER, event=EventType.RUN_TRIGGER_MANY, stops_runs=not is_limited)
    posted = require_POST(view)
    return by_field("kind", BatchKind.TRIGGER.value, act=starts(posted), otherwise=cancels(posted))


@requires(Action.RUNS_VIEW)
@require_safe
def past(request: PanelRequest, team: Team) -> HttpResponse:
    return render(request, "taskruns/batches/list.html", {"batches": past_batches(team), "team": team.name})


def _draft(request: PanelRequest, team: Team) -> HttpResponse:
    """Store the list of selected or matching runs and redirect to its page to confirm it. Nothing is sent yet."""
    kind = _kind(request)
    title = f"Nothing to {_ACTS[kind]}"
    try:
        batch = _frozen(request, team, kind)
    except BadFilter as error:
        return error_page(request, 400, "Invalid filter", str(error))
    except OtherTeams as other:
        context = {"selections": other.found, "kind": kind.value}
        return render(request, "taskruns/batches/teams.html", context, status=422)
    except Refused as error:
        return error_page(request, 422, title, str(error))
    except UserError as error:
        return error_page(request, 422, title, error.sentence)
    return redirect("batch", slug=team.slug, batch_id=batch.pk)


draft = _gated(_draft)
listing = by_method(read=past, act=draft)


@requires(Action.RUNS_VIEW)
@require_safe
def batch(request: PanelRequest, team: Team, batch_id: uuid.UUID) -> HttpResponseBase:
    """The list to confirm, or the progress. htmx gets only the fragment."""
    return _page(request, _batch(request, batch_id))


@requires(Action.RUNS_VIEW)
@require_safe
def lead_to_batch(request: PanelRequest, team: Team, batch_id: uuid.UUID) -> HttpResponse:
    """There is nothing to read at the addresses of its forms, but signing in again or a reload leads there."""
    _batch(request, batch_id)
    return redirect("batch", slug=team.slug, batch_id=batch_id)


def _confirm(request: PanelRequest, team: Team, batch_id: uuid.UUID) -> HttpResponseBase:
    found = _acted_on(request, batch_id)
    if found.state != BatchState.DRAFT:
        messages.info(request, "This list was already confirmed. It starts only once.")
        return redirect("batch", slug=team.slug, batch_id=batch_id)
    page = _page_of(request, found)
    form = _form(page, found, request.POST)
    if form.is_valid():
        try:
            return _begin(request, found, form)
        except UserError as error:
            form.add_error(None, error.sentence)
    form.focus_on_error()
    return _page(request, found, status=422, form=form)


def _begin(request: PanelRequest, found: CancelBatch, form: ConfirmForm) -> HttpResponseBase:
    options = StartOptions(
        override_evaluations=bool(form.cleaned_data.get("override_evaluations")),
        experiment_name=form.cleaned_data.get("experiment_name", ""),
    )
    reason = form.cleaned_data["reason"]
    begun = batches.confirm(found, reason=reason, by=actor_of(request), options=options)
    jobs.wake_batch(begun.pk)
    left_out = f" {left_out_text(begun.left_out)}" if begun.left_out else ""
    doing = "Cancelling" if found.kind == BatchKind.CANCEL else "Starting the runs again"
    messages.success(request, f"{doing} now. Progress updates below.{left_out}")
    return redirect("batch", slug=found.team.slug, batch_id=found.pk)


confirm = by_method(read=lead_to_batch, act=_gated(_confirm))


def _remove(request: PanelRequest, team: Team, batch_id: uuid.UUID) -> HttpResponseBase:
    """Remove single runs from a list that is not confirmed, or only show another page of it. What was typed is kept."""
    found = _acted_on(request, batch_id)
    try:
        ids = [uuid.UUID(text) for text in request.POST.getlist("remove")]
    except ValueError:
        return error_page(request, 422, "Nothing removed", "One of the run IDs is not valid. Go back and try again.")
    if found.state != BatchState.DRAFT:
        messages.info(request, "This list was already confirmed, so no run can be removed from it.")
        return redirect("batch", slug=team.slug, batch_id=batch_id)
    batches.remove(found, run_ids=ids)
    typed = {name: str(text) for name, text in request.POST.items()}
    if ids:  # the number of runs has changed, so it must be typed again
        typed.pop("count", None)
    form = _form(_page_of(request, found), found, typed=typed)
    return _page(request, found, form=form, is_list_open=True)


remove = by_method(read=lead_to_batch, act=_gated(_remove))


def _abort(request: PanelRequest, team: Team, batch_id: uuid.UUID) -> HttpResponse:
    found = _acted_on(request, batch_id)
    is_cancel = found.kind == BatchKind.CANCEL
    if found.state == BatchState.DRAFT:
        messages.info(request, "It had not started, so nothing was sent.")
    elif batches.abort(found, by=actor_of(request)):
        jobs.wake_batch(found.pk)
        text = "No more cancels are sent. Cancels already sent are still tracked."
        starts = "No more runs are started. Starts already sent are still tracked."
        messages.success(request, f"Stopped. {text if is_cancel else starts}")
    else:
        messages.info(request, "There was nothing left to stop.")
    return redirect("batch", slug=team.slug, batch_id=batch_id)


abort = _gated(_abort, is_limited=False)


def _retry(request: PanelRequest, team: Team, batch_id: uuid.UUID) -> HttpResponse:
    """Make a new list of the runs that were not stopped, or not started. It must be confirmed too."""
    found = _acted_on(request, batch_id)
    if found.finished_at is None:
        what = "bulk cancel" if found.kind == BatchKind.CANCEL else "list"
        text = f"This {what} is still in progress. Wait until it is done, then retry the rest."
        return error_page(request, 409, "Still in progress", text)
    again = batches.draft_retry(found, drafted_by=request.user)
    if again is None:
        kind = BatchKind(found.kind)
        return error_page(request, 422, f"Nothing to {_ACTS[kind]}", NONE_OF_THEM[kind])
    return redirect("batch", slug=team.slug, batch_id=again.pk)


retry = _gated(_retry)


def _kind(request: PanelRequest) -> BatchKind:
    return BatchKind.TRIGGER if request.POST.get("kind") == BatchKind.TRIGGER else BatchKind.CANCEL


def _frozen(request: PanelRequest, team: Team, kind: BatchKind) -> CancelBatch:
    match, chosen = request.POST.get("match", ""), [text for text in request.POST.getlist("run") if text]
    if match not in {"", "all"} or request.POST.get("kind", "") not in {"", *BatchKind.values}:
        raise Refused(UNREADABLE.format(act=_ACTS[kind]))
    if match and chosen:
        raise Refused(BOTH)
    _require(request, kind)
    if kind is BatchKind.TRIGGER and request.POST.get("batch"):
        made = _of_batch(request)
    else:
        made = _of_filter(request, team, kind) if match else _of_selection(request, team, kind, chosen)
    if made is None:
        raise Refused(NONE_MATCHES[kind] if match else NONE_OF_THEM[kind])
    return made


def _of_filter(request: PanelRequest, team: Team, kind: BatchKind) -> CancelBatch | None:
    refuse_unknown(request.POST, besides=_FIELDS)
    wanted = BoardFilter.parse(request.POST).unsorted()
    if not wanted.is_set:
        raise Refused(EMPTY)
    return batches.draft_matching(team, wanted, kind=kind, drafted_by=request.user)


def _of_selection(request: PanelRequest, team: Team, kind: BatchKind, chosen: list[str]) -> CancelBatch | None:
    try:
        ids = list(dict.fromkeys(uuid.UUID(text) for text in chosen))
    except ValueError:
        raise Refused("One of the run IDs is not valid. Go back and try again from the board.") from None
    if not ids:
        raise Refused(f"No run was selected. Go back and select the runs to {_ACTS[kind]}.")
    known = set(Run.objects.filter(team=team, pk__in=ids).values_list("pk", flat=True))
    others = [run_id for run_id in ids if run_id not in known]
    if others:
        accesses = (TeamAccess(it, access_to(request.user, it)) for it in members.own_seen_by(request.user))
        if found := selections(ids, accesses, kind=kind):
            raise OtherTeams(found)
        for run_id in others:
            owned(request, Run.objects.all(), run_id)  # 404; a run of another team is recorded as an attempt
    return batches.draft_of(team, run_ids=ids, source=BatchSource.SELECTION, kind=kind, drafted_by=request.user)


def _of_batch(request: PanelRequest) -> CancelBatch | None:
    """The runs of a bulk cancel, to start them again."""
    try:
        found = _batch(request, uuid.UUID(request.POST["batch"]))
    except ValueError:
        raise Refused(UNREADABLE.format(act=_ACTS[BatchKind.TRIGGER])) from None
    if found.kind != BatchKind.CANCEL or found.finished_at is None:
        raise Refused(NOT_FINISHED)
    return batches.draft_again(found, drafted_by=request.user)


def _batch(request: PanelRequest, batch_id: uuid.UUID) -> CancelBatch:
    return owned(request, CancelBatch.objects.select_related("team", "previous", "person"), batch_id)


def _acted_on(request: PanelRequest, batch_id: uuid.UUID) -> CancelBatch:
    """The batch, for a person with every right that its kind needs, whatever the form says."""
    found = _batch(request, batch_id)
    _require(request, BatchKind(found.kind))
    return found


def _require(request: PanelRequest, kind: BatchKind) -> None:
    if not KIND_FACTS[kind].may(request.access):
        raise refused(request, KIND_FACTS[kind].event)


def _form(
    page: BatchPage, found: CancelBatch, data: Any = None, *, typed: Mapping[str, str] | None = None
) -> ConfirmForm:
    """`typed`: shown in a form that is not checked yet."""
    kept: dict[str, Any] = dict(typed or {})
    if page.draft is None or found.kind == BatchKind.CANCEL:
        return ConfirmForm(data, total=page.total, initial={"reason": page.reason} | kept)
    options = found.options
    evaluates = options.get("override_evaluations", False) if typed is None else "override_evaluations" in typed
    pattern = options.get("experiment_name") or DEFAULT_PATTERN
    initial: dict[str, Any] = {"reason": page.reason, "experiment_name": pattern} | kept
    initial |= {"override_evaluations": evaluates}
    return StartAgainForm(data, total=page.total, experiments=page.draft.experiments, initial=initial)


def _page_of(request: PanelRequest, found: CancelBatch) -> BatchPage:
    number = request.GET.get("list", "")
    is_number = number.isascii() and number.isdecimal() and len(number) < 10
    return batch_page(found, access=request.access, page=int(number) if is_number else 1)


def _page(
    request: PanelRequest,
    found: CancelBatch,
    *,
    status: int = 200,
    form: ConfirmForm | None = None,
    is_list_open: bool = False,
) -> HttpResponseBase:
    page = _page_of(request, found)
    context = {"page": page, "is_list_open": is_list_open or "list" in request.GET}
    if page.draft is not None:
        context["form"] = form or _form(page, found)
    return render_fragment(request, "batches/batch", context, status=status)
