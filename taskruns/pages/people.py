"""What the pages about people, their sessions and their rights show."""

from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import datetime

from allauth.socialaccount.models import SocialAccount
from django.db.models import Max, Prefetch, Q, QuerySet

from taskruns.models import AuditEvent, Membership, User
from taskruns.services.people import factors, sessions

from .values import Link, Moment


@dataclass(frozen=True, slots=True)
class SessionRow:
    id: int
    began: Moment | None
    seen: Moment | None
    ip: str
    user_agent: str
    is_this: bool


@dataclass(frozen=True, slots=True)
class PersonRow:
    id: str
    email: str
    name: str
    site_role: str
    is_active: bool
    teams: tuple[str, ...]
    signed_in: Moment | None


@dataclass(frozen=True, slots=True)
class SignInRow:
    at: Moment | None
    method: str
    ip: str
    user_agent: str
    is_again: bool


@dataclass(frozen=True, slots=True)
class PersonPage:
    """`roles` are (value, word). `is_self`: nobody changes their own rights."""

    row: PersonRow
    teams: tuple[tuple[Link, str], ...]
    sign_ins: tuple[SignInRow, ...]
    live_sessions: int
    factors: tuple[str, ...]
    has_sso_account: bool
    roles: tuple[tuple[str, str], ...]
    role: str
    may_manage: bool
    is_self: bool


@dataclass(frozen=True, slots=True)
class RightsRow:
    """What one action is called, and for each role, by name, whether it is theirs."""

    words: str
    code: str
    cells: tuple[tuple[str, bool], ...]


@dataclass(frozen=True, slots=True)
class RightsTable:
    roles: tuple[str, ...]
    rows: tuple[RightsRow, ...]


# By the action's code, in the order of the page.
WORDS: dict[str, str] = {
    "runs.view": "see the board, runs, tasks and each run's history; take runs away as CSV",
    "runs.cancel": "cancel a run",
    "runs.cancel_many": "cancel many runs at once",
    "runs.trigger": "start a run of a task",
    "stop.pull": "pull the emergency stop",
    "stop.lift": "lift the emergency stop (and whoever pulled it)",
    "views.share": "share views with the team",
    "credentials.view": "see which keys there are, never a key itself",
    "credentials.manage": "add, test, replace and revoke keys",
    "audit.view": "read the audit log",
    "audit.export": "export the audit log",
    "team.settings": "change the team's settings",
    "members.manage": "add and remove members and change their roles",
    "teams.manage": "make and archive teams",
    "people.view": "see all people of the panel",
    "people.manage": "give site roles, disable people, end their sessions",
    "site.log": "read, export and verify the logs of the site and of all teams",
}


def rights_table(given: Iterable[tuple[str, AbstractSet[str]]]) -> RightsTable:
    """`given`: each role and the codes of what it may do, as the table that decides has them."""
    roles = list(given)
    rows = (
        RightsRow(words, code, tuple((name, code in rights) for name, rights in roles)) for code, words in WORDS.items()
    )
    return RightsTable(tuple(name for name, _ in roles), tuple(rows))


PAGE = 50
LAST_SIGN_INS = 10


@dataclass(frozen=True, slots=True)
class Found:
    """One page, and the e-mail after which the next one begins, if there is one."""

    people: list[User]
    signed_in_at: dict[str, datetime]
    next_after: str


@dataclass(frozen=True, slots=True)
class Dossier:
    """`sign_ins` are rows of the log, newest first. `live_sessions` are counted, `factors` are words."""

    person: User
    memberships: list[Membership]
    sign_ins: list[AuditEvent]
    live_sessions: int
    factors: list[str]
    has_sso_account: bool


def search(text: str, *, after: str = "") -> Found:
    """People with this text in their e-mail or name, by e-mail, with their teams."""
    wanted = Q(email__icontains=text) | Q(name__icontains=text) if text else Q()
    theirs = Membership.objects.filter(team__archived_at=None).select_related("team").order_by("team__name")
    rows = User.objects.filter(wanted, email__gt=after).order_by("email")
    people = list(rows.prefetch_related(Prefetch("memberships", theirs))[: PAGE + 1])
    has_more = len(people) > PAGE
    people = people[:PAGE]
    return Found(people, _last_sign_ins(people), people[-1].email if has_more else "")


def dossier(person: User) -> Dossier:
    memberships = Membership.objects.filter(user=person, team__archived_at=None).select_related("team")
    return Dossier(
        person=person,
        memberships=list(memberships.order_by("team__name")),
        sign_ins=list(_sign_ins([person]).order_by("-seq")[:LAST_SIGN_INS]),
        live_sessions=len(sessions.live(person)),
        factors=[factors.WORDS[row.type] for row in factors.of(person)],
        has_sso_account=SocialAccount.objects.filter(user=person).exists(),
    )


def _last_sign_ins(people: Iterable[User]) -> dict[str, datetime]:
    """Person's id -> the newest sign-in of the log."""
    return dict(_sign_ins(people).values_list("target_id").annotate(Max("at")).order_by())


def _sign_ins(people: Iterable[User]) -> "QuerySet[AuditEvent]":
    ids = [str(person.pk) for person in people]
    return AuditEvent.objects.filter(chain="site", target_id__in=ids, event="auth.sign_in", outcome="done")
