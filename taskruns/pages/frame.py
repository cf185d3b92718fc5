"""The frame around every page."""

from dataclasses import dataclass

from taskruns import __version__

from .stops import StopBanner
from .values import Link, Message, Moment


@dataclass(frozen=True, slots=True)
class Frame:
    """The header and footer of every page: the person, the team, the navigation, and alarms.

    `links` are always in sight; `pages`, the team's pages of rare use, are in its menu. `is_home`: this is the board.
    """

    person: str
    person_id: str
    team: str
    slug: str
    links: tuple[Link, ...]
    teams: tuple[Link, ...]
    pages: tuple[Link, ...] = ()
    is_home: bool = False
    alarm: Link | None = None
    theme: str = ""
    no_shortcuts: bool = False
    has_password: bool = True
    sees_people: bool = False
    stop: StopBanner | None = None
    silent: tuple[Message, ...] = ()  # channels of the team whose messages do not reach people
    restored_at: Moment | None = None  # set while the panel rests after a restore
    version: str = __version__
