"""What the pages about people, their sessions and their rights show."""

from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from .words import Link, Moment


@dataclass(frozen=True, slots=True)
class SessionRow:
    id: int
    began: Moment | None
    seen: Moment | None
    ip: str
    user_agent: str
    is_this: bool


@dataclass(frozen=True, slots=True)
class PersonRow:
    id: str
    email: str
    name: str
    site_role: str
    is_active: bool
    teams: tuple[str, ...]
    signed_in: Moment | None


@dataclass(frozen=True, slots=True)
class SignInRow:
    at: Moment | None
    method: str
    ip: str
    user_agent: str
    is_again: bool


@dataclass(frozen=True, slots=True)
class PersonPage:
    """`roles` are (value, word). `is_self`: nobody changes their own rights."""

    row: PersonRow
    teams: tuple[tuple[Link, str], ...]
    sign_ins: tuple[SignInRow, ...]
    live_sessions: int
    factors: tuple[str, ...]
    has_identity: bool
    roles: tuple[tuple[str, str], ...]
    role: str
    may_manage: bool
    is_self: bool


@dataclass(frozen=True, slots=True)
class RightsRow:
    """What one action is called, and for each role, by name, whether it is theirs."""

    words: str
    code: str
    cells: tuple[tuple[str, bool], ...]


@dataclass(frozen=True, slots=True)
class RightsTable:
    roles: tuple[str, ...]
    rows: tuple[RightsRow, ...]


# By the action's code, in the order of the page.
WORDS: dict[str, str] = {
    "runs.view": "see the board, runs, tasks and each run's history; take runs away as CSV",
    "runs.cancel": "cancel a run",
    "runs.cancel_many": "cancel many runs at once",
    "runs.trigger": "start a run of a task",
    "stop.pull": "pull the emergency stop",
    "stop.lift": "lift the emergency stop (and whoever pulled it)",
    "views.share": "share views with the team",
    "credentials.view": "see which keys there are, never a key itself",
    "credentials.manage": "add, test, replace and revoke keys",
    "audit.view": "read the audit log",
    "audit.export": "export the audit log",
    "team.settings": "change the team's settings",
    "members.manage": "add and remove members and change their roles",
    "teams.manage": "make and archive teams",
    "people.view": "see all people of the panel",
    "people.manage": "give site roles, disable people, end their sessions",
    "site.log": "read, export and verify the logs of the site and of all teams",
}


def rights_table(given: Iterable[tuple[str, AbstractSet[str]]]) -> RightsTable:
    """`given`: each role and the codes of what it may do, as the table that decides has them."""
    roles = list(given)
    rows = (
        RightsRow(words, code, tuple((name, code in rights) for name, rights in roles)) for code, words in WORDS.items()
    )
    return RightsTable(tuple(name for name, _ in roles), tuple(rows))
