"""The members of a team, and the teams that a person may view.

Every change of memberships first locks the team's row. Otherwise two managers who remove each other at the same time
would leave the team without a manager.
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
    """Store the team whose board the person viewed last: `/` redirects there."""
    if person.last_team_id != team.pk:
        User.objects.filter(pk=person.pk).exclude(last_team=team).update(last_team=team)


def seen_by(person: User) -> "QuerySet[Team]":
    """All teams, annotated for this person, in one query, because each poll of each open board needs it.

    `role`: the person's role in the team, or "". `reader_manages`: they manage some team. `has_other_teams`: they are a
    member of another team. `as_of`: the oldest last reading of the team's working keys, or if none works, the latest of
    any key. `is_stopped`: an emergency stop is active.
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
