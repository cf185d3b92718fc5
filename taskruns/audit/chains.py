"""The names of the log's chains: one for each team, and one for the site."""

from uuid import UUID

from django.core.exceptions import ValidationError

from taskruns.models import Team

SITE_CHAIN = "site"
_TEAM = "team:"


def chain_of(team_id: UUID | None) -> str:
    """The team's chain, or the site's for None."""
    return f"{_TEAM}{team_id}" if team_id else SITE_CHAIN


def team_of(chain: str) -> Team | None:
    """None for the site, and for a chain whose team is gone from the database or whose name was edited."""
    try:
        return Team.objects.filter(pk=chain.removeprefix(_TEAM)).first() if chain != SITE_CHAIN else None
    except ValidationError:
        return None
