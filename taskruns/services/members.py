"""The members of a team, and the teams that a person may view.

Every change of memberships first locks the team's row. Otherwise two managers who remove each other at the same time
would leave the team without a manager.
"""

import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from django.db import transaction
from django.db.models import (
    CharField,
    Count,
    DateTimeField,
    Exists,
    Expression,
    Max,
    Min,
    OuterRef,
    Q,
    QuerySet,
    Subquery,
    UUIDField,
    Value,
)
from django.db.models.functions import Coalesce, Now
from django.utils import timezone

from taskruns.audit import Actor, EventType, Target, record
from taskruns.models import (
    Channel,
    EmergencyStop,
    Heartbeat,
    Membership,
    Run,
    SiteRole,
    Team,
    TeamRole,
    Token,
    User,
    jobs,
)
from taskruns.models.credentials import RETRIED_WITHIN
from taskruns.models.prepared import Prepared, Slot
from taskruns.models.runs import ACTIVE
from taskruns.models.teams import confirmed_since

from .minor_writes import try_write
from .teams import lock_team, open_invitations
from .user_errors import UserError

LAST_MANAGER = "A team needs a manager. Make another member a manager first."


@dataclass(frozen=True, slots=True)
class TeamSummary:
    """A team in a person's list: the person's role, and how many runs are pending or running."""

    team: Team
    role: str
    active_runs: int


def add(team: Team, person: User, *, role: TeamRole, by: Actor, by_groups: bool = False) -> bool:
    """Add a member. False if the person already has this role in the team.

    Revokes open invitations to their address. `by_groups`: the role comes from their single sign-on groups. Raises
    UserError if they have another role, are disabled, or the team is archived.
    """
    with transaction.atomic():
        team = lock_team(team)
        known = Membership.objects.filter(team=team, user=person).first()
        if known is not None:
            _refuse_other_role(known, person, role)
            return False
        if not User.objects.filter(pk=person.pk, is_active=True).exists():
            raise UserError("This account is disabled. Ask a site admin to enable it first.", field="email")
        Membership.objects.create(team=team, user=person, role=role, by_groups=by_groups)
        closed = open_invitations(team).filter(email=person.email).update(revoked_at=timezone.now())
        details = {"role": role.value, "invitations_revoked": closed}
        record(EventType.MEMBER_ADD, "done", by=by, team=team, target=_target(person), details=details)
    return True


def change_role(team: Team, person: User, *, role: TeamRole, by: Actor, by_groups: bool = False) -> bool:
    """Change a member's role. False if unchanged. Raises UserError if they are not a member, or the last manager.

    Unless `by_groups`, single sign-on groups no longer change this membership from then on.
    """
    with transaction.atomic():
        team = lock_team(team)
        before = _role_in(team, person)
        if before == role:
            return False
        _keep_a_manager(team, person)
        Membership.objects.filter(team=team, user=person).update(role=role, by_groups=by_groups)
        Team.bump(team.pk)  # boards show whether a hold is paused, which depends on its owner's role
        details = {"before": before, "after": role.value}
        record(EventType.MEMBER_CHANGE_ROLE, "done", by=by, team=team, target=_target(person), details=details)
    return True


def remove(team: Team, person: User, *, by: Actor) -> None:
    """Remove a member; managers also leave this way. Raises UserError if not a member, or the last manager."""
    with transaction.atomic():
        team = lock_team(team)
        details = {"role": _role_in(team, person)}
        _keep_a_manager(team, person)
        Membership.objects.filter(team=team, user=person).delete()
        Team.bump(team.pk)
        record(EventType.MEMBER_REMOVE, "done", by=by, team=team, target=_target(person), details=details)


def remember(person: User, team: Team) -> None:
    """Store the team whose board the person viewed last: `/` redirects there. Left out if the database is locked."""
    if person.last_team_id != team.pk:
        row = User.objects.filter(pk=person.pk).exclude(last_team=team)
        try_write(lambda: row.update(last_team=team), what="last team")


def seen_by(person: User, slug: str) -> Team | None:
    """The team, annotated for this person, in one query, because each request of a team needs it.

    `role`: the person's role in the team, or "". `reader_manages`: they manage some team. `has_other_teams`: they are a
    member of another team. `as_of`: the oldest last reading of the team's working keys, or if none works, the latest of
    any key. `waiting_keys`: how many working keys wait after a failure. `is_stopped`: an emergency stop is active.
    `has_silent_channel`: a channel is muted or cannot send. `has_token_trouble`: a token expires soon or
    stopped. Also those of `Heartbeat.annotations`.
    """
    rows = _team(has_clock=jobs.has_clock()).rows(slug=slug, **_reader(person))
    return rows[0] if rows else None


def own_seen_by(person: User) -> list[Team]:
    """The person's teams by name, annotated as by `seen_by`."""
    return _own_teams(has_clock=jobs.has_clock()).rows(**_reader(person))


_SLOTS = {
    "person": Slot("person", UUIDField()),
    "now": Slot("now", DateTimeField()),
    "since": Slot("since", DateTimeField()),
    "retried_since": Slot("retried_since", DateTimeField()),
}


@cache
def _team(*, has_clock: bool) -> Prepared[Team]:
    return Prepared(_annotated(has_clock=has_clock).filter(slug=Slot("slug", CharField())))


@cache
def _own_teams(*, has_clock: bool) -> Prepared[Team]:
    # A role from a group may be over although its row is still there.
    mine = _annotated(has_clock=has_clock).filter(archived_at=None).exclude(Q(("role", "")))
    return Prepared(mine.order_by("name"))


def _annotated(*, has_clock: bool) -> "QuerySet[Team]":
    return annotated(**_SLOTS, database_now=Now() if has_clock else _SLOTS["now"])


def _reader(person: User) -> dict[str, Any]:
    """The value of each slot."""
    now = timezone.now()
    return {"person": person.pk, "now": now, "since": confirmed_since(), "retried_since": now - RETRIED_WITHIN}


def annotated(
    *, person: Value, now: Value, since: Value, retried_since: Value, database_now: Expression
) -> "QuerySet[Team]":
    """All teams with the annotations of `seen_by`. No value of this moment may be read here."""
    in_force = Membership.objects.in_force(since).filter(user=person)
    working = Q(credentials__revoked_at=None, credentials__failing_since=None)
    waiting = working & Q(credentials__backoff_until__gt=retried_since)
    read_with: dict[str, Any] = {
        "role": Coalesce(Subquery(in_force.filter(team=OuterRef("pk")).values("role")[:1]), Value("")),
        "reader_manages": Exists(Membership.objects.managing(person, since)),
        "has_other_teams": Exists(in_force.exclude(team=OuterRef("pk"))),
        "as_of": Coalesce(Min("credentials__last_good_at", filter=working), Max("credentials__last_good_at")),
        "waiting_keys": Count("credentials", filter=waiting),
        "has_token_trouble": Exists(_in_trouble().filter(team=OuterRef("pk"))),
        "has_silent_channel": Exists(_silent(now).filter(team=OuterRef("pk"))),
        "is_stopped": Exists(EmergencyStop.objects.holding(now).filter(team=OuterRef("pk"))),
    } | Heartbeat.annotations(database_now)
    return Team.objects.annotate(**read_with)


def _in_trouble() -> "QuerySet[Token]":
    """Tokens that expire soon, or that stopped because of their maker, as the clock has noted."""
    trouble = Q(expiry_told__isnull=False) | Q(maker_told_at__isnull=False)
    return Token.objects.filter(trouble, revoked_at=None, expired_at=None, replaced_at=None)


def _silent(now: Value) -> "QuerySet[Channel]":
    """Channels that are muted, or whose last message could not be sent."""
    trouble = Q(muted_until__gt=now) | Q(failing_since__isnull=False)
    return Channel.objects.filter(trouble, removed_at=None, is_on=True)


def own_teams(person: User) -> "QuerySet[Team]":
    """The teams in which the person has a role now."""
    return Team.objects.active().filter(pk__in=_team_ids(person))


def home_of(person: User) -> Team | None:
    """The last team that the person viewed, if they still may, or their only team. None: they must choose."""
    last = person.last_team
    if last is not None and last.archived_at is None and (person.site_role or _is_member(person, last)):
        return last
    teams = own_teams(person)[:2]
    return teams[0] if len(teams) == 1 else None


def teams_of(person: User) -> list[TeamSummary]:
    """The teams that the person may view, by name: their own, or all for auditors and site admins."""
    roles = dict(Membership.objects.in_force().filter(user=person).values_list("team_id", "role"))
    site_role = SiteRole(person.site_role)
    teams = Team.objects.active() if site_role else Team.objects.active().filter(pk__in=roles)
    return list(_summaries(teams, roles, site_role))


def _summaries(teams: "QuerySet[Team]", roles: dict[uuid.UUID, str], site_role: SiteRole) -> Iterator[TeamSummary]:
    active = Run.objects.filter(team__in=teams, status__in=ACTIVE)
    counts = dict(active.values_list("team_id").annotate(Count("pk")).order_by())
    for team in teams.order_by("name", "pk"):
        role = roles.get(team.pk, site_role.label.lower())
        yield TeamSummary(team, role, counts.get(team.pk, 0))


def _target(person: User) -> Target:
    return Target("member", str(person.pk), person.email)


def _is_member(person: User, team: Team) -> bool:
    return Membership.objects.in_force().filter(user=person, team=team).exists()


def _team_ids(person: User) -> "QuerySet[Membership, uuid.UUID]":
    return Membership.objects.in_force().filter(user=person).values_list("team_id", flat=True)


def _role_in(team: Team, person: User) -> str:
    role = Membership.objects.filter(team=team, user=person).values_list("role", flat=True).first()
    if role is None:
        raise UserError(f"{person.email} is no longer a member of this team.")
    return role


def _keep_a_manager(team: Team, person: User) -> None:
    """Refuse to remove the last manager who can still sign in."""
    managers = Membership.objects.filter(team=team, role=TeamRole.MANAGER)
    is_manager = Q(user=person)
    others = managers.exclude(is_manager).in_force().filter(user__is_active=True)
    if managers.filter(is_manager).exists() and not others.exists():
        raise UserError(LAST_MANAGER)


def _refuse_other_role(known: Membership, person: User, role: TeamRole) -> None:
    if known.role != role:
        raise UserError(
            f"{person.email} is already a member of this team, as {known.role}. Change the role instead.",
            field="email",
        )
