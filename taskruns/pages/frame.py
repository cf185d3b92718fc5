"""The frame around every page."""

from dataclasses import dataclass

from .stops import StopBanner
from .values import Link


@dataclass(frozen=True, slots=True)
class Frame:
    """The header of every page: the person, the team, the navigation, and alarms."""

    person: str
    person_id: str
    team: str
    slug: str
    links: tuple[Link, ...]
    teams: tuple[Link, ...]
    alarm: Link | None = None
    theme: str = ""
    no_shortcuts: bool = False
    has_password: bool = True
    sees_people: bool = False
    stop: StopBanner | None = None
