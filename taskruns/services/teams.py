"""Teams and who belongs to them.

Every change of a team's memberships first locks the team's row: "the last manager cannot leave" then holds against
two managers who remove each other at once.
"""

import re
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from django.db import IntegrityError, transaction
from django.db.models import Count, Exists, Max, Min, OuterRef, Q, QuerySet, Subquery, Value
from django.db.models.functions import Coalesce
from django.utils import timezone
from django.utils.text import slugify

from taskruns.audit import Actor, EventType, Target, clean_line, record
from taskruns.models import Credential, EmergencyStop, Invitation, Membership, Run, SiteRole, Task, Team, TeamRole, User
from taskruns.models.runs import ACTIVE
from taskruns.services.user_errors import UserError

LONGEST_NAME = 100
LONGEST_SLUG = 50
# `site` is the audit chain of no team; `new` is a page.
RESERVED_SLUGS = frozenset({"site", "new"})
_SLUG = re.compile(r"[a-z0-9]+(?:[-_][a-z0-9]+)*")
LAST_MANAGER = "A team needs a manager: make somebody else a manager first."


class TeamExists(UserError):
    """The very team that was asked for is there already."""

    def __init__(self, team: Team) -> None:
        self.team = team
        super().__init__(f"There already is a team {team.name} ({team.slug}).", field="name")


@dataclass(frozen=True, slots=True)
class Belonging:
    """A team as one person sees it: their role in words, and how many runs are pending or running now."""

    team: Team
    role: str
    active_runs: int


def create_team(name: str, *, slug: str | None = None, by: Actor) -> Team:
    """A team without members or keys. Without `slug` one is made of the name.

    Raises TeamExists when that team is there already (same slug and name, or same name and no slug asked for), and
    UserError.
    """
    name = _clean_name(name)
    with transaction.atomic():
        team = _insert(name, _free_slug(name) if slug is None else _checked_slug(slug, name))
        details = {"slug": team.slug}
        record(EventType.TEAM_CREATE, "done", by=by, target=target_of(team), details=details)
    return team


def rename(team: Team, *, name: str, by: Actor) -> bool:
    """False if it was the name already. The slug stays: bookmarks and scripts hold it. Raises UserError."""
    name = _clean_name(name)
    with transaction.atomic():
        before = lock_team(team)
        if before.name == name:
            return False
        Team.objects.filter(pk=team.pk).update(name=name)
        team.name = name
        details = {"changed": ["name"], "before": before.name, "after": name}
        record(EventType.TEAM_CHANGE, "done", by=by, team=team, target=target_of(team), details=details)
    return True


def archive(team: Team, *, by: Actor) -> bool:
    """End a team for good: its keys are destroyed, so reading stops; its log stays. False if it was so already."""
    with transaction.atomic():
        # Keys before the team, as everywhere: a round of reading locks them in this order too.
        keys = list(_live_keys(team).select_for_update(no_key=True))
        now = timezone.now()
        if not Team.objects.filter(pk=team.pk, archived_at=None).update(archived_at=now):
            return False
        _live_keys(team).update(revoked_at=now, ciphertext="", claimed_until=None)
        Task.objects.filter(team=team).update(credential=None)
        withdrawn = open_invitations(team).update(revoked_at=now)
        Team.bump(team.pk)
        for key in keys:
            record(EventType.CREDENTIAL_REVOKE, "done", by=by, team=team, credential=key)
        details = {"keys_revoked": len(keys), "invitations_revoked": withdrawn}
        record(EventType.TEAM_ARCHIVE, "done", by=by, team=team, target=target_of(team), details=details)
    return True


def add_member(team: Team, person: User, *, role: TeamRole, by: Actor, by_groups: bool = False) -> bool:
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
        record(EventType.MEMBER_ADD, "done", by=by, team=team, target=_member(person), details=details)
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
        record(EventType.MEMBER_CHANGE_ROLE, "done", by=by, team=team, target=_member(person), details=details)
    return True


def remove_member(team: Team, person: User, *, by: Actor) -> None:
    """Also how a manager leaves. Raises UserError: no member (any more), or the last manager."""
    with transaction.atomic():
        team = lock_team(team)
        details = {"role": _role_in(team, person)}
        _keep_a_manager(team, person)
        Membership.objects.filter(team=team, user=person).delete()
        Team.bump(team.pk)
        record(EventType.MEMBER_REMOVE, "done", by=by, team=team, target=_member(person), details=details)


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
    mine = Membership.objects.filter(team=OuterRef("pk"), user=person)
    working = Q(credentials__revoked_at=None, credentials__failing_since=None)
    read_with: dict[str, Any] = {
        "role": Coalesce(Subquery(mine.values("role")[:1]), Value("")),
        "reader_manages": Exists(Membership.objects.managing(person)),
        "has_other_teams": Exists(Membership.objects.filter(user=person).exclude(team=OuterRef("pk"))),
        "as_of": Coalesce(Min("credentials__last_good_at", filter=working), Max("credentials__last_good_at")),
        "is_stopped": Exists(EmergencyStop.objects.holding().filter(team=OuterRef("pk"))),
    }
    return Team.objects.annotate(**read_with)


def home_of(person: User) -> Team | None:
    """The last team that the person looked at and still may, else their only one, else None: they choose."""
    last = person.last_team
    if last is not None and last.archived_at is None and (person.site_role or _belongs(person, last)):
        return last
    teams = Team.objects.active().filter(memberships__user=person)[:2]
    return teams[0] if len(teams) == 1 else None


def teams_of(person: User) -> list[Belonging]:
    """The teams that the person may look into, by name: their own; all for auditors and site admins."""
    roles = dict(Membership.objects.filter(user=person).values_list("team_id", "role"))
    everywhere = SiteRole(person.site_role)
    teams = Team.objects.active() if everywhere else Team.objects.active().filter(pk__in=roles)
    return list(_belongings(teams, roles, everywhere))


def _belongings(teams: "QuerySet[Team]", roles: dict[uuid.UUID, str], everywhere: SiteRole) -> Iterator[Belonging]:
    active = Run.objects.filter(team__in=teams, status__in=ACTIVE)
    counts = dict(active.values_list("team_id").annotate(Count("pk")).order_by())
    for team in teams.order_by("name", "pk"):
        role = roles.get(team.pk, everywhere.label.lower())
        yield Belonging(team, role, counts.get(team.pk, 0))


def lock_team(team: Team) -> Team:
    """The team's row, locked until the transaction ends. Raises UserError if it is archived.

    no_key: rows that only point at the team (runs, tasks) need not wait for it.
    """
    locked = Team.objects.select_for_update(no_key=True).get(pk=team.pk)
    if locked.archived_at is not None:
        raise UserError("This team is archived: nothing in it can be changed any more.")
    return locked


def open_invitations(team: Team) -> "QuerySet[Invitation]":
    """Links that still work."""
    now = timezone.now()
    return Invitation.objects.filter(team=team, accepted_at=None, revoked_at=None, expires_at__gt=now)


def target_of(team: Team) -> Target:
    return Target("team", str(team.pk), team.name)


def _member(person: User) -> Target:
    return Target("member", str(person.pk), person.email)


def _live_keys(team: Team) -> "QuerySet[Credential]":
    return Credential.objects.filter(team=team, revoked_at=None).order_by("pk")


def _belongs(person: User, team: Team) -> bool:
    return Membership.objects.filter(user=person, team=team).exists()


def _role_in(team: Team, person: User) -> str:
    role = Membership.objects.filter(team=team, user=person).values_list("role", flat=True).first()
    if role is None:
        raise UserError(f"{person.email} is not a member of this team any more.")
    return role


def _keep_a_manager(team: Team, person: User) -> None:
    """Refuse to take the manager's role from the last one who can still sign in."""
    managers = Membership.objects.filter(team=team, role=TeamRole.MANAGER)
    is_manager = Q(user=person)
    if managers.filter(is_manager).exists() and not managers.exclude(is_manager).filter(user__is_active=True).exists():
        raise UserError(LAST_MANAGER)


def _refuse_other_role(known: Membership, person: User, role: TeamRole) -> None:
    if known.role != role:
        raise UserError(
            f"{person.email} is a member of this team already, as {known.role}. Change the role instead.",
            field="email",
        )


def _clean_name(name: str) -> str:
    cleaned = clean_line(name, LONGEST_NAME + 1)
    if not cleaned:
        raise UserError("Give the team a name.", field="name")
    if len(cleaned) > LONGEST_NAME:
        raise UserError(f"A team's name has at most {LONGEST_NAME} characters.", field="name")
    return cleaned


def _checked_slug(slug: str, name: str) -> str:
    if not _SLUG.fullmatch(slug) or len(slug) > LONGEST_SLUG:
        raise UserError(
            f"A slug is made of small letters, digits and hyphens, at most {LONGEST_SLUG} characters.", field="slug"
        )
    if slug in RESERVED_SLUGS:
        raise UserError(f"The slug {slug} is reserved. Choose another one.", field="slug")
    taken = Team.objects.filter(slug=slug).first()
    if taken is not None and taken.archived_at is None and taken.name == name:
        raise TeamExists(taken)
    if taken is not None:
        raise UserError(f"The slug {slug} belongs to another team. Choose another one.", field="slug")
    return slug


def _free_slug(name: str) -> str:
    same = Team.objects.active().filter(name=name).first()
    if same is not None:
        raise TeamExists(same)
    stem = slugify(name)[: LONGEST_SLUG - 5].strip("-_") or "team"
    taken = set(Team.objects.filter(slug__startswith=stem).values_list("slug", flat=True)) | RESERVED_SLUGS
    numbered = (f"{stem}-{number}" for number in range(2, len(taken) + 3))
    return next(slug for slug in (stem, *numbered) if slug not in taken)


def _insert(name: str, slug: str) -> Team:
    try:
        with transaction.atomic():
            return Team.objects.create(name=name, slug=slug)
    except IntegrityError:
        raise UserError(f"The slug {slug} was taken just now. Please try again.", field="slug") from None
