"""Who belongs to a team, and which teams a person may look into.

Every change of a team's memberships first locks the team's row: "the last manager cannot leave" then holds against
two managers who remove each other at once.
"""

import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from django.db import transaction
from django.db.models import Count, Exists, Max, Min, OuterRef, Q, QuerySet, Subquery, Value
from django.db.models.functions import Coalesce
from django.utils import timezone

from taskruns.audit import Actor, EventType, Target, record
from taskruns.models import EmergencyStop, Membership, Run, SiteRole, Team, TeamRole, User
from taskruns.models.runs import ACTIVE

from .teams import lock_team, open_invitations
from .user_errors import UserError

LAST_MANAGER = "A team needs a manager: make somebody else a manager first."


@dataclass(frozen=True, slots=True)
class Belonging:
    """A team as one person sees it: their role in words, and how many runs are pending or running now."""

    team: Team
    role: str
    active_runs: int


def add(team: Team, person: User, *, role: TeamRole, by: Actor, by_groups: bool = False) -> bool:
    """False if the person has this role in the team already. Raises UserError: another role, disabled, archived.

    An invitation that is still open for their address is used up by it. `by_groups`: single sign-on gives it.
    """
    with transaction.atomic():
        team = lock_team(team)
        known = Membership.objects.filter(team=team, user=person).first()
        if known is not None:
            _refuse_other_role(known, person, role)
            return False
        if not User.objects.filter(pk=person.pk, is_active=True).exists():
            raise UserError("This account is disabled. A site admin has to look at it first.", field="email")
        Membership.objects.create(team=team, user=person, role=role, by_groups=by_groups)
        closed = open_invitations(team).filter(email=person.email).update(revoked_at=timezone.now())
        details = {"role": role.value, "invitations_revoked": closed}
        record(EventType.MEMBER_ADD, "done", by=by, team=team, target=_target(person), details=details)
    return True


def change_role(team: Team, person: User, *, role: TeamRole, by: Actor, by_groups: bool = False) -> bool:
    """False if the person has this role already. Raises UserError: no member (any more), or the last manager.

    A role that a person gives is theirs from then on: groups of single sign-on no longer decide about it.
    """
    with transaction.atomic():
        team = lock_team(team)
        before = _role_in(team, person)
        if before == role:
            return False
        _keep_a_manager(team, person)
        Membership.objects.filter(team=team, user=person).update(role=role, by_groups=by_groups)
        Team.bump(team.pk)  # a hold is paused with its owner's right, and open boards say so
        details = {"before": before, "after": role.value}
        record(EventType.MEMBER_CHANGE_ROLE, "done", by=by, team=team, target=_target(person), details=details)
    return True


def remove(team: Team, person: User, *, by: Actor) -> None:
    """Also how a manager leaves. Raises UserError: no member (any more), or the last manager."""
    with transaction.atomic():
        team = lock_team(team)
        details = {"role": _role_in(team, person)}
        _keep_a_manager(team, person)
        Membership.objects.filter(team=team, user=person).delete()
        Team.bump(team.pk)
        record(EventType.MEMBER_REMOVE, "done", by=by, team=team, target=_target(person), details=details)


def remember(person: User, team: Team) -> None:
    """The team whose board the person looked at last: where `/` leads."""
    if person.last_team_id != team.pk:
        User.objects.filter(pk=person.pk).exclude(last_team=team).update(last_team=team)


def seen_by(person: User) -> "QuerySet[Team]":
    """Teams with the person's `role` in each ("" without one), `reader_manages`: whether they manage any team,
    `has_other_teams`: whether they belong to others too, `as_of`: when the oldest of its working keys (without any:
    when one) last read, and `is_stopped`: whether an emergency stop holds it.

    One query, because each poll of each open board asks it.
    """
    mine = Membership.objects.in_force().filter(team=OuterRef("pk"), user=person)
    working = Q(credentials__revoked_at=None, credentials__failing_since=None)
    read_with: dict[str, Any] = {
        "role": Coalesce(Subquery(mine.values("role")[:1]), Value("")),
        "reader_manages": Exists(Membership.objects.managing(person)),
        "has_other_teams": Exists(Membership.objects.in_force().filter(user=person).exclude(team=OuterRef("pk"))),
        "as_of": Coalesce(Min("credentials__last_good_at", filter=working), Max("credentials__last_good_at")),
        "is_stopped": Exists(EmergencyStop.objects.holding().filter(team=OuterRef("pk"))),
    }
    return Team.objects.annotate(**read_with)


def own_teams(person: User) -> "QuerySet[Team]":
    """The teams in which the person has a role now."""
    return Team.objects.active().filter(pk__in=_team_ids(person))


def home_of(person: User) -> Team | None:
    """The last team that the person looked at and still may, else their only one, else None: they choose."""
    last = person.last_team
    if last is not None and last.archived_at is None and (person.site_role or _belongs(person, last)):
        return last
    teams = own_teams(person)[:2]
    return teams[0] if len(teams) == 1 else None


def teams_of(person: User) -> list[Belonging]:
    """The teams that the person may look into, by name: their own; all for auditors and site admins."""
    roles = dict(Membership.objects.in_force().filter(user=person).values_list("team_id", "role"))
    everywhere = SiteRole(person.site_role)
    teams = Team.objects.active() if everywhere else Team.objects.active().filter(pk__in=roles)
    return list(_belongings(teams, roles, everywhere))


def _belongings(teams: "QuerySet[Team]", roles: dict[uuid.UUID, str], everywhere: SiteRole) -> Iterator[Belonging]:
    active = Run.objects.filter(team__in=teams, status__in=ACTIVE)
    counts = dict(active.values_list("team_id").annotate(Count("pk")).order_by())
    for team in teams.order_by("name", "pk"):
        role = roles.get(team.pk, everywhere.label.lower())
        yield Belonging(team, role, counts.get(team.pk, 0))


def _target(person: User) -> Target:
    return Target("member", str(person.pk), person.email)


def _belongs(person: User, team: Team) -> bool:
    return Membership.objects.in_force().filter(user=person, team=team).exists()


def _team_ids(person: User) -> "QuerySet[Membership, uuid.UUID]":
    return Membership.objects.in_force().filter(user=person).values_list("team_id", flat=True)


def _role_in(team: Team, person: User) -> str:
    role = Membership.objects.filter(team=team, user=person).values_list("role", flat=True).first()
    if role is None:
        raise UserError(f"{person.email} is not a member of this team any more.")
    return role


def _keep_a_manager(team: Team, person: User) -> None:
    """Refuse to take the manager's role from the last one who can still sign in."""
    managers = Membership.objects.filter(team=team, role=TeamRole.MANAGER)
    is_manager = Q(user=person)
    others = managers.exclude(is_manager).in_force().filter(user__is_active=True)
    if managers.filter(is_manager).exists() and not others.exists():
        raise UserError(LAST_MANAGER)


def _refuse_other_role(known: Membership, person: User, role: TeamRole) -> None:
    if known.role != role:
        raise UserError(
            f"{person.email} is a member of this team already, as {known.role}. Change the role instead.",
            field="email",
        )
