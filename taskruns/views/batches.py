"""Bulk cancel: the list to confirm, the confirmation, the progress, and past batches."""

import uuid
from dataclasses import replace
from typing import Any

from django.contrib import messages
from django.http import HttpResponse, HttpResponseBase
from django.shortcuts import redirect, render
from django.views.decorators.http import require_POST, require_safe

from taskruns import jobs
from taskruns.access.gate import PanelRequest, actor_of, by_method, owned, requires
from taskruns.audit import EventType, clean_line
from taskruns.forms import BadFilter, BoardFilter, Sort
from taskruns.models import LONGEST_REASON, BatchSource, BatchState, CancelBatch, Run, Team
from taskruns.pages.batches import TYPED_ABOVE, batch_page, left_out_text, past_batches
from taskruns.permissions import Action
from taskruns.services import batches

from .errors import error_page
from .fragments import render_fragment

EMPTY = "No filter is set, and that never means all runs. Set a filter on the board, or select runs one by one."
BOTH = "Selected runs and “all that match” were sent together. Use one of the two buttons."
NOTHING = "No run was selected. Go back and select the runs to cancel."
NONE_ACTIVE = "None of these runs is pending or running any more, so there is nothing to cancel."
NONE_MATCHES = "No pending or running run matches this filter, so there is nothing to cancel."


class Refused(ValueError):
    """No list can be made. The text is shown to the person."""


@requires(Action.RUNS_VIEW)
@require_safe
def past(request: PanelRequest, team: Team) -> HttpResponse:
    return render(request, "taskruns/batches/list.html", {"batches": past_batches(team), "team": team.name})


@requires(Action.RUNS_CANCEL_MANY, event=EventType.RUN_CANCEL_MANY, stops_runs=True)
@require_POST
def draft(request: PanelRequest, team: Team) -> HttpResponse:
    """Store the list of selected or matching runs and redirect to its page to confirm it. Nothing is cancelled yet."""
    try:
        batch = _frozen(request, team)
    except BadFilter as error:
        return error_page(request, 400, "Invalid filter", str(error))
    except Refused as error:
        return error_page(request, 422, "Nothing to cancel", str(error))
    return redirect("batch", slug=team.slug, batch_id=batch.pk)


listing = by_method(read=past, act=draft)


@requires(Action.RUNS_VIEW)
@require_safe
def batch(request: PanelRequest, team: Team, batch_id: uuid.UUID) -> HttpResponseBase:
    """The list to confirm, or the progress. htmx gets only the fragment."""
    return _page(request, _batch(request, batch_id))


@requires(Action.RUNS_CANCEL_MANY, event=EventType.RUN_CANCEL_MANY, stops_runs=True)
@require_POST
def confirm(request: PanelRequest, team: Team, batch_id: uuid.UUID) -> HttpResponseBase:
    found = _batch(request, batch_id)
    if found.state != BatchState.DRAFT:
        messages.info(request, "This bulk cancel was already confirmed. It starts only once.")
        return redirect("batch", slug=team.slug, batch_id=batch_id)
    reason, count = request.POST.get("reason", ""), request.POST.get("count", "").strip()
    faults = _faults(found, reason, count)
    if faults:
        return _page(request, found, status=422, faults=faults, reason=reason, count=count)
    begun = batches.confirm(found, reason=reason, by=actor_of(request))
    jobs.wake_batch(begun.pk)
    left_out = f" {left_out_text(begun.left_out)}" if begun.left_out else ""
    messages.success(request, f"Cancelling now. Progress updates below.{left_out}")
    return redirect("batch", slug=team.slug, batch_id=batch_id)


@requires(Action.RUNS_CANCEL_MANY, event=EventType.RUN_CANCEL_MANY, stops_runs=True)
@require_POST
def abort(request: PanelRequest, team: Team, batch_id: uuid.UUID) -> HttpResponse:
    found = _batch(request, batch_id)
    if found.state == BatchState.DRAFT:
        messages.info(request, "It had not started, so nothing was sent.")
    elif batches.abort(found, by=actor_of(request)):
        jobs.wake_batch(found.pk)
        messages.success(request, "Stopped. No more cancels are sent. Cancels already sent are still tracked.")
    else:
        messages.info(request, "There was nothing left to stop.")
    return redirect("batch", slug=team.slug, batch_id=batch_id)


@requires(Action.RUNS_CANCEL_MANY, event=EventType.RUN_CANCEL_MANY, stops_runs=True)
@require_POST
def retry(request: PanelRequest, team: Team, batch_id: uuid.UUID) -> HttpResponse:
    """Make a new list of the runs that were not stopped. It must be confirmed too."""
    found = _batch(request, batch_id)
    if found.finished_at is None:
        text = "This bulk cancel is still in progress. Wait until it is done, then retry the rest."
        return error_page(request, 409, "Still in progress", text)
    again = batches.draft_retry(found, drafted_by=request.user)
    if again is None:
        return error_page(request, 422, "Nothing to cancel", NONE_ACTIVE)
    return redirect("batch", slug=team.slug, batch_id=again.pk)


def _frozen(request: PanelRequest, team: Team) -> CancelBatch:
    match, chosen = request.POST.get("match", ""), [text for text in request.POST.getlist("run") if text]
    if match not in {"", "all"}:
        raise Refused("The panel could not read what to cancel. Go back and try again from the board.")
    if match and chosen:
        raise Refused(BOTH)
    made = _of_filter(request, team) if match else _of_selection(request, team, chosen)
    if made is None:
        raise Refused(NONE_MATCHES if match else NONE_ACTIVE)
    return made


def _of_filter(request: PanelRequest, team: Team) -> CancelBatch | None:
    wanted = replace(BoardFilter.parse(request.POST), sort=Sort.ACTIVE, descending=True, cursor=None)
    if not wanted.is_set:
        raise Refused(EMPTY)
    return batches.draft_matching(team, wanted, drafted_by=request.user)


def _of_selection(request: PanelRequest, team: Team, chosen: list[str]) -> CancelBatch | None:
    try:
        ids = list(dict.fromkeys(uuid.UUID(text) for text in chosen))
    except ValueError:
        raise Refused("One of the run IDs is not valid. Go back and try again from the board.") from None
    if not ids:
        raise Refused(NOTHING)
    known = set(Run.objects.filter(team=team, pk__in=ids).values_list("pk", flat=True))
    for run_id in ids:
        if run_id not in known:
            owned(request, Run.objects.all(), run_id)  # 404; a run of another team is recorded as an attempt
    return batches.draft_of(team, run_ids=ids, source=BatchSource.SELECTION, drafted_by=request.user)


def _batch(request: PanelRequest, batch_id: uuid.UUID) -> CancelBatch:
    return owned(request, CancelBatch.objects.select_related("team", "previous"), batch_id)


def _faults(found: CancelBatch, reason: str, count: str) -> dict[str, str]:
    faults = {}
    if len(reason) > LONGEST_REASON:
        faults["reason"] = f"The reason is longer than {LONGEST_REASON} characters. Please shorten it."
    elif not clean_line(reason, LONGEST_REASON):
        faults["reason"] = "Enter a reason. Your team sees it beside each run, and the audit log keeps it."
    total = found.items.count()
    if total > TYPED_ABOVE and count != str(total):
        faults["count"] = f"Type the number of runs, {total}, to confirm that you mean all of them."
    return faults


def _page(request: PanelRequest, found: CancelBatch, *, status: int = 200, **typed: Any) -> HttpResponseBase:
    page = batch_page(found, may_act=request.access.may(Action.RUNS_CANCEL_MANY))
    return render_fragment(request, "batches/batch", {"page": page, "reason": page.reason} | typed, status=status)
