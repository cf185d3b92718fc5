"""The stop that a team is under, and what its owner and others may do with it now."""

from taskruns.models import EmergencyStop, SiteRole, Team, TeamRole, User
from taskruns.permissions import Access, Action, granted


def standing(team: Team) -> EmergencyStop | None:
    """One query, because each page of the team asks it. With the role that the stop's owner has by now."""
    return EmergencyStop.objects.holding().with_owner().filter(team=team).first()


def is_paused(stop: EmergencyStop) -> bool:
    """The hold acts for its owner: while they may not stop runs, it does nothing. Expects `owner_role`."""
    role = TeamRole(stop.owner_role) if stop.owner_role else None
    return not granted(SiteRole.NONE, role).may(Action.STOP_PULL)


def may_lift(stop: EmergencyStop, *, person: User | None, access: Access) -> bool:
    """A manager, and whoever pulled it as long as they may pull."""
    is_owner = person is not None and stop.person_id == person.pk
    return access.may(Action.STOP_LIFT) or (is_owner and access.may(Action.STOP_PULL))
