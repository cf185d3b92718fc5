"""What the help page explains: every status, every outcome of a cancel, every role."""

from collections.abc import Iterable
from dataclasses import dataclass

from taskruns.models import Outcome, SiteRole, Status, TeamRole

from .outcomes import CANCEL_WORDS
from .values import StatusMark, mark_of

STATUSES: dict[Status, str] = {
    Status.PENDING: "Arize has made the run and has not begun to work on it. It can be cancelled.",
    Status.RUNNING: "Arize works on it. It can be cancelled.",
    Status.COMPLETED: "It is done. “With errors”: some of its items failed, the run itself did not.",
    Status.FAILED: "Arize reported a failure. The row says why, if Arize does.",
    Status.CANCELLED: "It was stopped: by a person here, by a hold, by someone outside this team, or by Arize itself, "
    "which ends runs that have nothing to do. The row says which.",
    Status.UNKNOWN: "Arize used a word that the panel does not know; it is shown as Arize wrote it.",
    Status.GONE: "Arize does not know the run any more: it was deleted there, or the key may no longer see it.",
}


ROLES: dict[TeamRole | SiteRole, str] = {
    TeamRole.VIEWER: "sees the team's runs, and who cancelled what",
    TeamRole.OPERATOR: "cancels and starts runs too, one or many, and pulls the emergency stop",
    TeamRole.MANAGER: "keeps keys, members and settings too, and reads the audit log",
    SiteRole.AUDITOR: "sees every team and every log, and changes nothing",
    SiteRole.ADMIN: "makes teams, looks after people, sees every log; stops no run without being a team's member",
}


@dataclass(frozen=True, slots=True)
class ExplainedOutcome:
    """What a cancel came to: its code as the audit log has it, what happened, and what to do next."""

    code: str
    text: str
    next: str


@dataclass(frozen=True, slots=True)
class HelpPage:
    statuses: tuple[tuple[StatusMark, str], ...]
    outcomes: tuple[ExplainedOutcome, ...]
    roles: tuple[tuple[str, str], ...]


def help_page() -> HelpPage:
    return HelpPage(
        statuses=tuple((mark_of(status), text) for status, text in STATUSES.items()),
        outcomes=tuple(ExplainedOutcome(it.code, CANCEL_WORDS[it].explained, CANCEL_WORDS[it].next) for it in Outcome),
        roles=role_words(ROLES),
    )


def role_words(roles: Iterable[TeamRole | SiteRole]) -> tuple[tuple[str, str], ...]:
    """What each role is called, and what it is for."""
    return tuple((role.label.lower(), ROLES[role]) for role in roles)
