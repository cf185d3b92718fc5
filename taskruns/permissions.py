"""Roles and permissions: the table of rights, and the lookup that views and jobs use."""

from dataclasses import dataclass
from enum import StrEnum

from taskruns.models import Membership, SiteRole, Team, TeamRole, TokenRole, User


class Action(StrEnum):
    RUNS_VIEW = "runs.view"
    RUNS_CANCEL = "runs.cancel"
    RUNS_CANCEL_MANY = "runs.cancel_many"
    RUNS_TRIGGER = "runs.trigger"
    RUNS_NOTE = "runs.note"
    STOP_PULL = "stop.pull"
    STOP_LIFT = "stop.lift"
    VIEWS_SHARE = "views.share"
    CREDENTIALS_VIEW = "credentials.view"
    CREDENTIALS_MANAGE = "credentials.manage"
    CHANNELS_MANAGE = "channels.manage"
    CHANNELS_MUTE = "channels.mute"
    TOKENS_MANAGE = "tokens.manage"
    AUDIT_VIEW = "audit.view"
    AUDIT_EXPORT = "audit.export"
    TEAM_SETTINGS = "team.settings"
    MEMBERS_MANAGE = "members.manage"
    TEAMS_MANAGE = "teams.manage"
    PEOPLE_VIEW = "people.view"
    PEOPLE_MANAGE = "people.manage"
    SITE_LOG = "site.log"


A = Action
_LOOK_INSIDE = frozenset({A.RUNS_VIEW, A.CREDENTIALS_VIEW, A.AUDIT_VIEW, A.AUDIT_EXPORT})
_OPERATE = frozenset(
    {A.RUNS_VIEW, A.RUNS_CANCEL, A.RUNS_CANCEL_MANY, A.RUNS_TRIGGER, A.RUNS_NOTE, A.STOP_PULL, A.VIEWS_SHARE}
    | {A.CHANNELS_MUTE}
)
_MANAGE = frozenset(
    {A.STOP_LIFT, A.CREDENTIALS_MANAGE, A.CHANNELS_MANAGE, A.TOKENS_MANAGE, A.TEAM_SETTINGS, A.MEMBERS_MANAGE}
)

TEAM_ROLES: dict[TeamRole, frozenset[Action]] = {
    TeamRole.VIEWER: frozenset({A.RUNS_VIEW}),
    TeamRole.OPERATOR: _OPERATE,
    TeamRole.MANAGER: _OPERATE | _LOOK_INSIDE | _MANAGE,
}
SITE_ROLES: dict[SiteRole, frozenset[Action]] = {
    SiteRole.NONE: frozenset(),
    SiteRole.AUDITOR: _LOOK_INSIDE | {A.PEOPLE_VIEW, A.SITE_LOG},
    SiteRole.ADMIN: _LOOK_INSIDE | {A.MEMBERS_MANAGE, A.TEAMS_MANAGE, A.PEOPLE_VIEW, A.PEOPLE_MANAGE, A.SITE_LOG},
}
# Less than a person with the same role may do.
TOKEN_ROLES: dict[TokenRole, frozenset[Action]] = {
    TokenRole.VIEWER: frozenset({A.RUNS_VIEW}),
    TokenRole.OPERATOR: frozenset({A.RUNS_VIEW, A.RUNS_CANCEL, A.RUNS_TRIGGER}),
}


def roles_with(action: Action) -> tuple[TeamRole | SiteRole, ...]:
    """The roles that may do it, the least powerful first."""
    of_team = [role for role, rights in TEAM_ROLES.items() if action in rights]
    of_site = [role for role, rights in SITE_ROLES.items() if action in rights]
    return (*of_team, *of_site)


@dataclass(frozen=True, slots=True)
class Access:
    """What one person may do, in one team or (team is None) on the whole site."""

    team_role: TeamRole | None
    site_role: SiteRole
    actions: frozenset[Action]

    @property
    def is_insider(self) -> bool:
        """Auditors and site admins count as insiders everywhere."""
        return self.team_role is not None or self.site_role is not SiteRole.NONE

    @property
    def role(self) -> str:
        """Both roles in one word for the audit log, like `operator` or `manager+auditor`."""
        return "+".join(str(role.value) for role in (self.team_role, self.site_role) if role)

    def may(self, action: Action) -> bool:
        return action in self.actions


@dataclass(frozen=True, slots=True)
class TeamAccess:
    """A team, and the rights of the person who reads its pages."""

    team: Team
    access: Access


NOBODY = Access(None, SiteRole.NONE, frozenset())


def access_of(person: User | None, team: Team | None = None) -> Access:
    """Read the person's current rights from the database. Jobs that outlive their request must call it again."""
    if person is None:
        return NOBODY
    found = User.objects.filter(pk=person.pk, is_active=True).values_list("site_role", flat=True).first()
    if found is None:
        return NOBODY
    site_role = SiteRole(found)
    team_role = _team_role(person, team) if team is not None and team.archived_at is None else None
    return granted(site_role, team_role)


def granted(site_role: SiteRole, team_role: TeamRole | None) -> Access:
    """The combined rights of both roles."""
    return Access(team_role, site_role, SITE_ROLES[site_role] | (TEAM_ROLES[team_role] if team_role else frozenset()))


def must_have_second_factor(person: User, team: Team | None = None) -> bool:
    """True for managers of any team, auditors and site admins: a password alone does not protect their rights enough.

    Pass a `team` loaded with `seen_by` to save the query.
    """
    if person.site_role:
        return True
    return Membership.objects.managing(person).exists() if team is None else team.reader_manages


def _team_role(person: User, team: Team) -> TeamRole | None:
    role = Membership.objects.in_force().filter(user=person, team=team).values_list("role", flat=True).first()
    return TeamRole(role) if role else None
