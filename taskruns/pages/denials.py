"""The sentences of the page "You don't have permission": who may do it, from the table of rights."""

from collections.abc import Sequence

from taskruns.models import TeamRole
from taskruns.permissions import Access, Action, roles_with

from .people import WORDS

GENERAL = "Your role does not allow this."
NOT_A_MEMBER = "Only members of this team can change this."
LOGGED = "This attempt was logged."


def why_denied(action: Action | None, access: Access | None, *, sentence: str = "", in_team: bool) -> str:
    """What happened, what it means, what to do next. `sentence`: for rights that depend on more than the role."""
    roles = roles_with(action) if action else ()
    who = f"Only {_and([f'{role.label.lower()}s' for role in roles])} can {_words(action)}." if action else GENERAL
    of_team = in_team and (not roles or any(isinstance(role, TeamRole) for role in roles))
    ask = "a manager of this team" if of_team else "a site admin"
    return f"{sentence or who} {_own(access, in_team=in_team)} {LOGGED} If you need this, ask {ask}."


def _words(action: Action) -> str:
    """The label on the page of roles and permissions, without what follows a semicolon."""
    return WORDS[action].partition(";")[0]


def _own(access: Access | None, *, in_team: bool) -> str:
    named = [role.label.lower() for role in (access.team_role, access.site_role) if role] if access else []
    if not named:
        return "You have no role for this." if in_team else "You have no site role."
    return f"Your role here is {named[0]}." if len(named) == 1 else f"Your roles here are {_and(named)}."


def _and(words: Sequence[str]) -> str:
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last
