"""The audit log's pages: a team's log, the site audit, export and verification."""

from collections.abc import Iterator
from typing import Any

from django.contrib import messages
from django.http import HttpResponse, HttpResponseBase
from django.shortcuts import redirect, render
from django.urls import reverse
from django.views.decorators.http import require_GET, require_POST

from taskruns import jobs
from taskruns.access.gate import PanelRequest, actor_of, requires
from taskruns.audit import EventType
from taskruns.forms import AuditFilter, BadFilter
from taskruns.models import Team
from taskruns.pages.audit.page import EVENTS, OUTCOMES
from taskruns.pages.audit.page import page as audit_page
from taskruns.pages.audit.rows import verification_view
from taskruns.pages.encryption import encryption_progress
from taskruns.permissions import Action
from taskruns.services import audit

from .downloads import download
from .errors import error_page

_KINDS = {"jsonl": ("application/x-ndjson", audit.jsonl_lines), "csv": ("text/csv; charset=utf-8", audit.csv_lines)}


@requires(Action.AUDIT_VIEW, event=EventType.AUDIT_READ, acts_on="GET")
@require_GET
def listing(request: PanelRequest, team: Team) -> HttpResponse:
    return _page(request, team, {})


@requires(Action.SITE_LOG, event=EventType.AUDIT_READ, acts_on="GET")
@require_GET
def site(request: PanelRequest) -> HttpResponse:
    return _page(request, None, _verifications() | {"encryption": encryption_progress()})


@requires(Action.SITE_LOG, event=EventType.AUDIT_READ, acts_on="GET")
@require_GET
def verification(request: PanelRequest) -> HttpResponse:
    """The fragment that polls while a verification runs."""
    return render(request, "taskruns/audit/_verification.html", _verifications())


@requires(Action.SITE_LOG, event=EventType.AUDIT_READ, acts_on="GET")
@require_GET
def encryption(request: PanelRequest) -> HttpResponse:
    """The fragment that polls while secrets are still to be encrypted with the newest ring key."""
    return render(request, "taskruns/audit/_encryption.html", {"encryption": encryption_progress()})


@requires(Action.SITE_LOG, event=EventType.AUDIT_VERIFY)
@require_POST
def verify(request: PanelRequest) -> HttpResponse:
    started = audit.start_verification(by=actor_of(request))
    jobs.wake_verification(started.pk)
    messages.success(request, "Verification started. Progress updates below.")
    return redirect("site-audit")


@requires(Action.AUDIT_EXPORT, event=EventType.AUDIT_EXPORT, acts_on="GET", recent_auth=True)
@require_GET
def export(request: PanelRequest, team: Team, kind: str) -> HttpResponseBase:
    return _export(request, team, kind)


@requires(Action.SITE_LOG, event=EventType.AUDIT_EXPORT, acts_on="GET", recent_auth=True)
@require_GET
def site_export(request: PanelRequest, kind: str) -> HttpResponseBase:
    return _export(request, None, kind)


def _page(request: PanelRequest, team: Team | None, context: dict[str, Any]) -> HttpResponse:
    try:
        wanted = _wanted(request)
    except BadFilter as error:
        return error_page(request, 400, "Invalid filter", str(error))
    audit.record_reading(team, by=actor_of(request))
    here = reverse("audit", args=[team.slug]) if team else reverse("site-audit")
    context |= {
        "page": audit_page(team, wanted, reader=str(request.user.pk)),
        "may_export": request.access.may(Action.AUDIT_EXPORT),
        "export_url": f"{here}export.",
    }
    return render(request, "taskruns/audit/list.html", context)


def _export(request: PanelRequest, team: Team | None, kind: str) -> HttpResponseBase:
    try:
        wanted = _wanted(request)
    except BadFilter as error:
        return error_page(request, 400, "Invalid filter", str(error))
    content_type, lines = _KINDS[kind]

    def start() -> tuple[str, Iterator[str]]:
        chosen = audit.export(team, by=actor_of(request), kind=kind, wanted=wanted)
        return f"audit-{team.slug if team else 'site'}.{kind}", lines(chosen)

    action = Action.AUDIT_EXPORT if team else Action.SITE_LOG
    return download(request, action, start, content_type=content_type)


def _wanted(request: PanelRequest) -> AuditFilter:
    return AuditFilter.parse(request.GET, events=EVENTS, outcomes=OUTCOMES)


def _verifications() -> dict[str, Any]:
    running, last = audit.status()
    return {
        "running": verification_view(running) if running else None,
        "last": verification_view(last) if last else None,
    }
