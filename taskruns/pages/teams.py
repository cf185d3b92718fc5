"""What the pages about people and teams show, and the frame around every page."""

from dataclasses import dataclass

from django.conf import settings
from django.urls import reverse

from taskruns.services.invitations import Invited

from .stops import StopBanner
from .values import Link, Moment


@dataclass(frozen=True, slots=True)
class Frame:
    """The header of every page: who is signed in, in which team, where one may go, and what must not be overlooked."""

    person: str
    team: str
    slug: str
    links: tuple[Link, ...]
    teams: tuple[Link, ...]
    alarm: Link | None = None
    theme: str = ""
    no_shortcuts: bool = False
    has_password: bool = True
    sees_people: bool = False
    stop: StopBanner | None = None


@dataclass(frozen=True, slots=True)
class TeamCard:
    name: str
    slug: str
    url: str
    role: str
    active: int


@dataclass(frozen=True, slots=True)
class MemberRow:
    id: str
    email: str
    name: str
    role: str
    since: Moment | None
    is_self: bool


@dataclass(frozen=True, slots=True)
class InvitationRow:
    id: str
    email: str
    role: str
    expires: Moment | None


@dataclass(frozen=True, slots=True)
class MembersPage:
    """`roles` are (value, word). `link` is an invitation just made: it is shown once, here, and never stored."""

    team: str
    slug: str
    members: tuple[MemberRow, ...]
    invitations: tuple[InvitationRow, ...]
    roles: tuple[tuple[str, str], ...]
    link: str = ""
    link_email: str = ""


def link_of(invited: Invited) -> str:
    """What a new person opens to join the team; empty for one who had an account."""
    return str(settings.SITE_URL) + reverse("invitation", args=[invited.token]) if invited.token else ""
