"""Denied attempts: each becomes a row in the audit log that contains no working token or link."""

import re
from dataclasses import replace

from django.core.exceptions import PermissionDenied
from django.http import HttpRequest
from django.urls import ResolverMatch

from taskruns.audit import Actor, EventType, Target
from taskruns.models import Team
from taskruns.permissions import Action, access_of
from taskruns.services import audit
from taskruns.services.audit import Attempt

# Path parameters that grant access by themselves.
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


class Denied(PermissionDenied):
    """An insider without the right. The page says who has it: the roles with this action, or what `sentence` says."""

    def __init__(self, action: Action | None = None, *, sentence: str = "") -> None:
        self.action, self.sentence = action, sentence
        super().__init__()


def record_denied(
    request: HttpRequest,
    event: EventType,
    *,
    by: Actor,
    team: Team | None = None,
    why: str = "",
    target: Target | None = None,
) -> None:
    """Record a denied request. This is the only place that does. Without a `team` it goes to the site log."""
    audit.record_denial(event, _attempt(request), by=by, team=team, why=why, target=target)


def record_forged(request: HttpRequest, *, by: Actor, why: str) -> None:
    """Record a forged form, which Django refuses before the gate. An insider's attempt goes to the team's log.

    A missing team costs as many queries as an existing one, so that the response time does not reveal which exist.
    """
    slug = request.resolver_match.kwargs.get("slug") if request.resolver_match else None
    team = Team.objects.filter(slug=slug).first() if slug else None
    has_members = team is not None and team.archived_at is None
    access = access_of(by.person, team if has_members else Team())  # nobody has a role in one that is not stored
    if team is None or not access.is_insider:
        record_denied(request, EventType.ACCESS_DENIED, by=by, why=why)
        return
    # Set what the gate would set, so that the error page shows the team's header.
    request.team, request.access = team, access  # type: ignore[attr-defined]
    record_denied(request, EventType.ACCESS_DENIED, by=replace(by, role=access.role), team=team, why=why)


def record_throttled(request: HttpRequest, *, by: Actor) -> None:
    """Record an attempt that allauth throttled before its own view ran."""
    page = request.resolver_match.url_name if request.resolver_match else ""
    if page in SIGN_IN_PAGES:
        login = by.person.email if by.person else request.POST.get("login", "")
        audit.record_failed_sign_in(login, "throttled", by=by)
        return
    event = EventType.AUTH_PASSWORD_CHANGE if page == "account_change_password" else EventType.ACCESS_DENIED
    record_denied(request, event, by=by, why="too many attempts")


def _attempt(request: HttpRequest) -> Attempt:
    match = request.resolver_match
    if match is None:
        return Attempt("", "", request.method or "")
    ids = {name: match.kwargs[name] for name in ("run_id", "task_id", "credential_id") if name in match.kwargs}
    return Attempt(match.url_name or "", _path(request.path, match), request.method or "", **ids)


def _path(path: str, match: ResolverMatch) -> str:
    """The path, or its pattern if the path contains a token: no row may hold a working link."""
    if not SECRETS & match.kwargs.keys():
        return path
    return "/" + _PARAMETER.sub(r"<\1>", _GROUP.sub(r"<\1>", match.route).strip("^$"))
