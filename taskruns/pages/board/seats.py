"""A team, and the rights of whoever looks at its runs."""

from dataclasses import dataclass

from taskruns.models import Team
from taskruns.permissions import Access


@dataclass(frozen=True, slots=True)
class Seat:
    """A team, and what the person who looks may do there."""

    team: Team
    access: Access
