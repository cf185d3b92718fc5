"""Display models of the pages about people, their sessions and their rights."""

from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import datetime

from allauth.socialaccount.models import SocialAccount
from django.conf import settings
from django.db.models import Max, Prefetch, Q, QuerySet
from django.urls import reverse

from taskruns.forms import AuditFilter
from taskruns.forms.people import SiteRoleForm
from taskruns.models import (
    AuditEvent,
    BatchState,
    CancelBatch,
    EmailStatus,
    EmergencyStop,
    Membership,
    SiteRole,
    TeamRole,
    User,
)
from taskruns.models.folded import contains
from taskruns.models.teams import confirmed_since
from taskruns.permissions import Access, Action
from taskruns.services.people import factors, sessions

from .batch_words import stopping_batches
from .browsers import browser_of
from .tokens import stopping, tokens_of
from .values import Link, Moment, counted


@dataclass(frozen=True, slots=True)
class SessionRow:
    """`browser`: in words, from the `user_agent`."""

    id: int
    began: Moment | None
    seen: Moment | None
    ip: str
    browser: str
    user_agent: str
    is_this: bool


@dataclass(frozen=True, slots=True)
class PersonRow:
    id: str
    email: str
    name: str
    site_role: str
    is_active: bool
    unverified: str
    teams: tuple[str, ...]
    signed_in: Moment | None


@dataclass(frozen=True, slots=True)
class SignInRow:
    at: Moment | None
    method: str
    ip: str
    browser: str
    user_agent: str
    is_again: bool


@dataclass(frozen=True, slots=True)
class PersonPage:
    """`roles` are (value, label) pairs. `is_self`: people cannot change their own rights. `follows_sso`: the provider's
    name and address replace what a site admin writes.
    """

    row: PersonRow
    teams: tuple[tuple[Link, str], ...]
    sign_ins: tuple[SignInRow, ...]
    live_sessions: int
    factors: tuple[str, ...]
    has_sso_account: bool
    follows_sso: bool
    roles: tuple[tuple[str, str], ...]
    role: str
    may_manage: bool
    is_self: bool
    audit_links: tuple[Link, ...] = ()


@dataclass(frozen=True, slots=True)
class RightsRow:
    """The label of one action, and for each role its name and whether it may do it."""

    words: str
    code: str
    cells: tuple[tuple[str, bool], ...]


@dataclass(frozen=True, slots=True)
class RightsTable:
    roles: tuple[str, ...]
    rows: tuple[RightsRow, ...]


# Action code -> label, in the order of the page.
WORDS: dict[str, str] = {
    "runs.view": "see the board, runs, tasks and each run's history; download runs as CSV",
    "runs.cancel": "cancel a run",
    "runs.cancel_many": "cancel runs in bulk",
    "runs.trigger": "start a run of a task; start failed and cancelled runs again in bulk",
    "runs.note": "leave notes on runs",
    "stop.pull": "pull the emergency stop",
    "stop.lift": "lift the emergency stop (the person who pulled it may too)",
    "views.share": "share views with the team",
    "credentials.view": "see which API keys exist, never a key itself",
    "credentials.manage": "add, test, replace and revoke API keys",
    "channels.manage": "add, change, test and remove channels",
    "channels.mute": "mute channels",
    "tokens.manage": "create, replace and revoke the tokens of scripts",
    "audit.view": "read the audit log",
    "audit.export": "export the audit log",
    "team.settings": "change the team's settings",
    "members.manage": "add and remove members and change their roles",
    "teams.manage": "create and archive teams",
    "people.view": "see all people in the panel",
    "people.manage": "change names and emails, assign site roles, disable accounts, end people's sessions",
    "site.log": "read, export and verify the logs of the site and of all teams",
}


def rights_table(given: Iterable[tuple[str, AbstractSet[str]]]) -> RightsTable:
    """`given`: each role with the codes of its rights, as in `permissions.py`."""
    roles = list(given)
    rows = (
        RightsRow(words, code, tuple((name, code in rights) for name, rights in roles)) for code, words in WORDS.items()
    )
    return RightsTable(tuple(name for name, _ in roles), tuple(rows))


def unverified(person: User) -> str:
    """Who entered the address, if it is not verified."""
    words = {EmailStatus.INVITED: "not verified, invited by {}", EmailStatus.CHANGED: "not verified, changed by {}"}
    return words[EmailStatus(person.email_status)].format(person.email_vouched_by) if person.email_status else ""


def audit_links(person: User) -> tuple[Link, ...]:
    """The questions about a person that the site audit answers."""
    url, by = reverse("site-audit"), str(person.pk)
    return (
        Link("All entries by this person", url + AuditFilter(actor=by).query()),
        Link("Refused attempts of this person", url + AuditFilter(actor=by, outcome="denied").query()),
        Link("All entries that name this person", url + AuditFilter(q=person.email).query()),
    )


def follows_sso(person: User) -> bool:
    """Whether each single sign-on sets the person's name and address again."""
    return _has_sso_account(person) and _sso_names(person)


def _has_sso_account(person: User) -> bool:
    return bool(SocialAccount.objects.filter(user=person).exists())


def _sso_names(person: User) -> bool:
    return bool(settings.SSO_ONLY) or not person.has_usable_password()


def role_of(member: Membership, person: User) -> str:
    """The role, and whether it is paused: one from groups needs a recent single sign-on."""
    since = confirmed_since()
    is_in_force = not member.by_groups or (person.sso_signed_in_at is not None and person.sso_signed_in_at > since)
    return member.role if is_in_force else f"{member.role}, paused until the next single sign-on"


def consequences_of_disabling(person: User) -> tuple[str, ...]:
    """What happens to what the person has and does now."""
    mine = Membership.objects.filter(user=person, role=TeamRole.MANAGER, team__archived_at=None)
    managers = Membership.objects.in_force().filter(role=TeamRole.MANAGER, user__is_active=True).exclude(user=person)
    alone = mine.exclude(team__in=managers.values("team")).select_related("team").order_by("team__name")
    stops = EmergencyStop.objects.holding().filter(person=person).select_related("team").order_by("team__name")
    batches = CancelBatch.objects.filter(person=person, state=BatchState.WORKING)
    found = (
        counted(sessions.live_count(person), "session ends", "sessions end", "immediately."),
        *stopping_batches(batches),
        stopping(tokens_of(person)),
        *(f"The emergency stop of {stop.team.name} pauses: new runs are no longer cancelled." for stop in stops),
        *(f"{member.team.name} has no other manager. Make another member a manager first." for member in alone),
    )
    return tuple(text for text in found if text)


PAGE = 50
LAST_SIGN_INS = 10


@dataclass(frozen=True, slots=True)
class Found:
    """One page of people. `next_after`: the email after which the next page starts, or empty."""

    people: list[User]
    signed_in_at: dict[str, datetime]
    next_after: str


def search(text: str, *, after: str = "") -> Found:
    """People whose email or name contains the text, ordered by email, with their teams."""
    wanted = contains("email", text) | contains("name", text) if text else Q()
    theirs = Membership.objects.filter(team__archived_at=None).select_related("team").order_by("team__name")
    rows = User.objects.filter(wanted, email__gt=after).order_by("email")
    people = list(rows.prefetch_related(Prefetch("memberships", theirs))[: PAGE + 1])
    has_more = len(people) > PAGE
    people = people[:PAGE]
    return Found(people, _last_sign_ins(people), people[-1].email if has_more else "")


def person_rows(found: Found) -> tuple[PersonRow, ...]:
    return tuple(
        person_row(person, person.memberships.all(), found.signed_in_at.get(str(person.pk))) for person in found.people
    )


def person_page(person: User, *, reader: User, access: Access) -> PersonPage:
    active = Membership.objects.filter(user=person, team__archived_at=None)
    members = list(active.select_related("team").order_by("team__name"))
    has_account = _has_sso_account(person)
    return PersonPage(
        row=person_row(person, members),
        teams=tuple(_team(member, person) for member in members),
        follows_sso=has_account and _sso_names(person),
        sign_ins=tuple(map(_sign_in, _sign_ins([person]).order_by("-seq")[:LAST_SIGN_INS])),
        live_sessions=sessions.live_count(person),
        factors=tuple(factors.LABELS[row.type] for row in factors.of(person)),
        has_sso_account=has_account,
        roles=SiteRoleForm.CHOICES,
        role=person.site_role or "none",
        may_manage=access.may(Action.PEOPLE_MANAGE),
        is_self=person.pk == reader.pk,
        audit_links=audit_links(person) if access.may(Action.SITE_LOG) else (),
    )


def person_row(person: User, memberships: Iterable[Membership] = (), signed_in_at: datetime | None = None) -> PersonRow:
    return PersonRow(
        id=str(person.pk),
        email=person.email,
        name=person.name,
        site_role=SiteRole(person.site_role).label.lower() if person.site_role else "",
        is_active=person.is_active,
        unverified=unverified(person),
        teams=tuple(f"{member.team.name} ({role_of(member, person)})" for member in memberships),
        signed_in=Moment.of(signed_in_at),
    )


def _team(member: Membership, person: User) -> tuple[Link, str]:
    return Link(member.team.name, reverse("board", args=[member.team.slug])), role_of(member, person)


def _sign_in(event: AuditEvent) -> SignInRow:
    return SignInRow(
        at=Moment.of(event.at),
        method=event.auth_method,
        ip=event.ip,
        browser=browser_of(event.user_agent),
        user_agent=event.user_agent,
        is_again=bool(event.details.get("again")),
    )


def _last_sign_ins(people: Iterable[User]) -> dict[str, datetime]:
    """Person's id -> their latest sign-in in the audit log."""
    return dict(_sign_ins(people).values_list("target_id").annotate(Max("at")).order_by())


def _sign_ins(people: Iterable[User]) -> "QuerySet[AuditEvent]":
    ids = [str(person.pk) for person in people]
    return AuditEvent.objects.filter(chain="site", target_id__in=ids, event="auth.sign_in", outcome="done")
