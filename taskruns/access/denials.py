"""Refused attempts: each becomes a row of the audit log, without anything in it that would let its reader in."""

import re
from dataclasses import replace

from django.http import HttpRequest
from django.urls import ResolverMatch

from taskruns.audit import Actor, EventType, Target
from taskruns.models import Team
from taskruns.permissions import access_of
from taskruns.services import audit
from taskruns.services.audit import Attempt

# Parameters of a path that open a door by themselves.
SECRETS = frozenset({"token", "key"})
SIGN_IN_PAGES = frozenset(
    {
        "account_login",
        "account_reauthenticate",
        "mfa_login_webauthn",
        "mfa_reauthenticate",
        "mfa_reauthenticate_webauthn",
    }
)
_PARAMETER = re.compile(r"<(?:\w+:)?(\w+)>")
_GROUP = re.compile(r"\(\?P<(\w+)>[^)]*\)")


def record_denied(
    request: HttpRequest,
    event: EventType,
    *,
    by: Actor,
    team: Team | None = None,
    why: str = "",
    target: Target | None = None,
) -> None:
    """The one place where a refused request becomes a row. Without a `team` it stands in the site's log."""
    audit.record_denial(event, _attempt(request), by=by, team=team, why=why, target=target)


def record_forged(request: HttpRequest, *, by: Actor, why: str) -> None:
    """A form that did not come from the panel never reaches its gate: an insider's goes to the log of the team."""
    slug = request.resolver_match.kwargs.get("slug") if request.resolver_match else None
    team = Team.objects.filter(slug=slug).first() if slug else None
    access = access_of(by.person, team)
    if team is None or not access.is_insider:
        record_denied(request, EventType.ACCESS_DENIED, by=by, why=why)
        return
    # As if it had passed the gate: the error page stands in the frame of the team.
    request.team, request.access = team, access  # type: ignore[attr-defined]
    record_denied(request, EventType.ACCESS_DENIED, by=replace(by, role=access.role), team=team, why=why)


def record_throttled(request: HttpRequest, *, by: Actor) -> None:
    """Allauth refused before its own view was reached."""
    page = request.resolver_match.url_name if request.resolver_match else ""
    if page in SIGN_IN_PAGES:
        login = by.person.email if by.person else request.POST.get("login", "")
        audit.record_failed_sign_in(login, "throttled", by=by)
        return
    event = EventType.AUTH_PASSWORD_CHANGE if page == "account_change_password" else EventType.ACCESS_DENIED
    record_denied(request, event, by=by, why="too many tries")


def _attempt(request: HttpRequest) -> Attempt:
    match = request.resolver_match
    if match is None:
        return Attempt("", "", request.method or "")
    ids = {name: match.kwargs[name] for name in ("run_id", "task_id", "credential_id") if name in match.kwargs}
    return Attempt(match.url_name or "", _path(request.path, match), request.method or "", **ids)


def _path(path: str, match: ResolverMatch) -> str:
    """The path, or its pattern if the path itself lets its reader in: no row may hold a live link."""
    if not SECRETS & match.kwargs.keys():
        return path
    return "/" + _PARAMETER.sub(r"<\1>", _GROUP.sub(r"<\1>", match.route).strip("^$"))
