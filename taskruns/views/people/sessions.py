"""The page of a person's own sessions."""

from django.contrib import messages
from django.http import HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_POST, require_safe

from taskruns.access.gate import PanelRequest, actor_of, ends_own_sessions, mine, signed_in
from taskruns.models import PersonSession
from taskruns.pages.browsers import browser_of
from taskruns.pages.people import SessionRow
from taskruns.pages.values import Moment
from taskruns.services.people import sessions
from taskruns.services.people.sessions import LiveSession


@signed_in
@require_safe
def listing(request: PanelRequest) -> HttpResponse:
    rows = tuple(_row(session, request.session.session_key) for session in sessions.live(request.user))
    return render(request, "taskruns/people/sessions.html", {"rows": rows})


@ends_own_sessions
@require_POST
def end(request: PanelRequest, session_id: int) -> HttpResponse:
    """Other people's sessions give the same 404 as missing ones. Ending the current session signs out."""
    row = mine(request, PersonSession.objects.all(), session_id)
    sessions.end_one(request.user, digest=row.session_key, by=actor_of(request))
    if sessions.is_session(request.session.session_key, row.session_key):
        request.session.flush()
        return redirect("account_login")
    messages.success(request, "Session ended.")
    return redirect("sessions")


@ends_own_sessions
@require_POST
def end_others(request: PanelRequest) -> HttpResponse:
    ended = sessions.end_others(request.user, keep=request.session.session_key or "", by=actor_of(request))
    messages.success(request, f"{ended} other session{'' if ended == 1 else 's'} ended.")
    return redirect("sessions")


def _row(session: LiveSession, current: str | None) -> SessionRow:
    return SessionRow(
        id=session.id,
        began=Moment.of(session.began_at),
        seen=Moment.of(session.seen_at),
        ip=session.ip,
        browser=browser_of(session.user_agent),
        user_agent=session.user_agent,
        is_this=sessions.is_session(current, session.digest),
    )
