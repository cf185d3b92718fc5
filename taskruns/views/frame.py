"""The frame around every page. Built lazily, because fragments do not need it."""

from collections.abc import Iterable
from typing import Any

from django.conf import settings
from django.http import HttpRequest
from django.urls import reverse
from django.utils.functional import SimpleLazyObject
from django.utils.http import urlencode

from taskruns.access import recent_auth, unfinished
from taskruns.access.redirects import UNDONE
from taskruns.models import LONGEST_REASON, SiteRole, Team, User
from taskruns.models.restores import restored_at
from taskruns.pages.audit.rows import alarm_of
from taskruns.pages.channels.page import silent_channels
from taskruns.pages.frame import Frame
from taskruns.pages.stops import StopBanner, banner_of
from taskruns.pages.unfinished import act_of
from taskruns.pages.values import Link, Moment
from taskruns.permissions import SITE_ROLES, Access, Action
from taskruns.services import audit, members

_TEAM_LINKS = (
    ("Runs", "board", Action.RUNS_VIEW),
    ("API keys", "credentials", Action.CREDENTIALS_VIEW),
    ("Channels", "channels", Action.RUNS_VIEW),
    ("Tokens", "tokens", Action.TOKENS_MANAGE),
    ("Members", "members", Action.MEMBERS_MANAGE),
    ("Audit", "audit", Action.AUDIT_VIEW),
    ("Settings", "team-settings", Action.TEAM_SETTINGS),
)


def frame(request: HttpRequest) -> dict[str, Any]:
    person = getattr(request, "user", None)
    if not isinstance(person, User):
        return {
            "frame": None,
            "mails": settings.MAILS,
            # An administrator opens the form with ?password: see `reset_sign_in`.
            "hides_password": settings.SSO_ONLY and request.method != "POST" and "password" not in request.GET,
            "sso_only": settings.SSO_ONLY,
            "sign_on": settings.OIDC.name if settings.OIDC else "",
            "undone": UNDONE.get(request.GET.get("undone", ""), ""),
        }
    return {
        "frame": SimpleLazyObject(lambda: _frame(request, person)),
        "confirm_url": SimpleLazyObject(lambda: _confirm_url(request, person)),
        "longest_reason": LONGEST_REASON,
        "unfinished": SimpleLazyObject(lambda: _unfinished(request)),
    }


def _confirm_url(request: HttpRequest, person: User) -> str:
    """Where to confirm one's identity, for pages whose buttons require it. Empty if the session has a recent proof."""
    if recent_auth.is_recent(request, person):
        return ""
    return f"{reverse('confirm')}?{urlencode({'next': request.get_full_path()})}"


def _unfinished(request: HttpRequest) -> str:
    """The act that waits for the confirmation, for the pages that ask for it."""
    act = unfinished.waiting(request)
    return act_of(act.path) if act else ""


def _frame(request: HttpRequest, person: User) -> Frame:
    team: Team | None = getattr(request, "team", None)
    access: Access | None = getattr(request, "access", None)
    if team is not None and (access is None or not access.is_insider):
        team = None
    of_team = _team_links(request, team, access) if team and access else ()
    return Frame(
        person=person.email,
        person_id=str(person.pk),
        team=team.name if team else "",
        slug=team.slug if team else "",
        links=_in_sight(of_team) if team else _site_links(request, person),
        teams=_teams(person, team),
        pages=of_team[1:],
        is_home=bool(of_team) and request.path == of_team[0].url,
        alarm=_alarm(person),
        theme=person.theme,
        no_shortcuts=not person.shortcuts,
        has_password=person.has_usable_password() and not settings.SSO_ONLY,
        sees_people=Action.PEOPLE_VIEW in SITE_ROLES[SiteRole(person.site_role)],
        stop=stop_banner(team, person, access) if team and access else None,
        silent=silent_channels(team) if team and getattr(team, "has_silent_channel", True) else (),
        restored_at=Moment.of(restored_at()),
    )


def stop_banner(team: Team, person: User, access: Access) -> StopBanner | None:
    """The gate has already looked for a stop; pages outside the gate (errors) make a query."""
    is_stopped = getattr(team, "is_stopped", True)
    return banner_of(team, person=person, access=access) if is_stopped else None


def _team_links(request: HttpRequest, team: Team, access: Access) -> tuple[Link, ...]:
    return tuple(
        Link(text, url := reverse(name, args=[team.slug]), request.path.startswith((url, *_also(name, team))))
        for text, name, action in _TEAM_LINKS
        if access.may(action)
    )


def _in_sight(links: tuple[Link, ...]) -> tuple[Link, ...]:
    """The board and the page that is open. The team's menu holds the others, so that the board's rows are near."""
    return tuple(link for number, link in enumerate(links) if number == 0 or link.current)


def _also(name: str, team: Team) -> tuple[str, ...]:
    """More URLs for which an entry of the navigation is current."""
    pages = ("tasks", "batches", "stop", "views") if name == "board" else ()
    return tuple(f"/teams/{team.slug}/{page}/" for page in pages)


def _site_links(request: HttpRequest, person: User) -> tuple[Link, ...]:
    pages = (
        ("Teams", "teams", None),
        ("People", "people", Action.PEOPLE_VIEW),
        ("Site audit", "site-audit", Action.SITE_LOG),
    )
    may = SITE_ROLES[SiteRole(person.site_role)]
    return tuple(
        Link(text, url := reverse(name), request.path == url)
        for text, name, action in pages
        if action is None or action in may
    )


def _alarm(person: User) -> Link | None:
    """On every page, warn the people responsible for the log if it has faults or its verification failed."""
    if Action.SITE_LOG not in SITE_ROLES[SiteRole(person.site_role)]:
        return None
    failed = audit.latest_failed()
    if failed is None:
        return None
    return Link(alarm_of(failed), reverse("site-audit"))


def _teams(person: User, current: Team | None) -> tuple[Link, ...]:
    """The person's teams. No query if the gate already knows that the current team is the only one."""
    is_only = current is not None and _is_only(current)
    teams: Iterable[Team | None] = (current,) if is_only else members.own_teams(person).order_by("name")
    return tuple(Link(team.name, reverse("board", args=[team.slug]), team == current) for team in teams if team)


def _is_only(team: Team) -> bool:
    """False outside the gate, where it is unknown."""
    return bool(getattr(team, "role", "")) and not getattr(team, "has_other_teams", True) and team.archived_at is None
