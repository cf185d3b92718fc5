"""What the help page explains: every status, every end of a cancel, every role."""

from collections.abc import Iterable
from dataclasses import dataclass

from taskruns.models import Outcome, SiteRole, Status, TeamRole

from .values import StatusMark, mark_of

STATUSES: dict[Status, str] = {
    Status.PENDING: "Arize has made the run and has not begun to work on it. It can be cancelled.",
    Status.RUNNING: "Arize works on it. It can be cancelled.",
    Status.COMPLETED: "It is done. “With errors”: some of its items failed, the run itself did not.",
    Status.FAILED: "Arize gave it up. The row says why, as far as Arize tells.",
    Status.CANCELLED: "It was stopped: by a person here, by a hold, by someone outside this team, or by Arize itself, "
    "which ends runs that have nothing to do. The row says which.",
    Status.UNKNOWN: "Arize used a word that the panel does not know; it is shown as Arize wrote it.",
    Status.GONE: "Arize does not know the run any more: it was deleted there, or the key may no longer see it.",
}


@dataclass(frozen=True, slots=True)
class Ending:
    """One end of a cancel: its code as the audit log has it, what happened, and what to do next."""

    code: str
    text: str
    next: str = ""


# "" is a cancel that has no end yet.
ENDINGS: dict[str, Ending] = {
    Outcome.OPEN: Ending(
        "stopping",
        "Arize accepted the cancel, and the run still goes on.",
        "Wait: the panel keeps reading, and tells the end when there is one.",
    ),
    Outcome.CONFIRMED: Ending("confirmed", "Arize says that the run is cancelled, because of this press."),
    Outcome.FINISHED_FIRST: Ending("finished_first", "The run had completed before the cancel reached it."),
    Outcome.FAILED_FIRST: Ending("failed_first", "The run had failed before the cancel reached it."),
    Outcome.ALREADY_CANCELLED: Ending("already_cancelled", "Somebody or something else had cancelled it before."),
    Outcome.STILL_RUNNING: Ending(
        "still_running",
        "Arize accepted the cancel five minutes ago, and the run still goes on.",
        "Look at the run in Arize; you may press again.",
    ),
    Outcome.REFUSED: Ending(
        "refused",
        "Arize said no: the key may not cancel there, the run is not known, or there were too many calls.",
        "The message names the reason; a manager can test or replace the key.",
    ),
    Outcome.NOT_SENT: Ending(
        "not_sent",
        "Nothing reached Arize: no connection, or no key that works.",
        "Press again when the board no longer says that Arize cannot be reached.",
    ),
    Outcome.UNKNOWN: Ending(
        "unknown",
        "The cancel was sent and the answer was lost, so nobody can say yet whether it worked.",
        "The panel looks each minute and writes the truth when Arize tells it. You may press again at any time.",
    ),
    "joined": Ending("joined", "A cancel of this run was already under way: one cancel was sent, not two."),
    "not_needed": Ending("not_needed", "The run had ended when you pressed: nothing was sent."),
}

ROLES: dict[TeamRole | SiteRole, str] = {
    TeamRole.VIEWER: "sees the team's runs, and who cancelled what",
    TeamRole.OPERATOR: "cancels and starts runs too, one or many, and pulls the emergency stop",
    TeamRole.MANAGER: "keeps keys, members and settings too, and reads the audit log",
    SiteRole.AUDITOR: "sees every team and every log, and changes nothing",
    SiteRole.ADMIN: "makes teams, looks after people, sees every log; stops no run without being a team's member",
}


@dataclass(frozen=True, slots=True)
class HelpPage:
    statuses: tuple[tuple[StatusMark, str], ...]
    endings: tuple[Ending, ...]
    roles: tuple[tuple[str, str], ...]


def help_page() -> HelpPage:
    return HelpPage(
        statuses=tuple((mark_of(status), text) for status, text in STATUSES.items()),
        endings=tuple(ENDINGS.values()),
        roles=role_words(ROLES),
    )


def role_words(roles: Iterable[TeamRole | SiteRole]) -> tuple[tuple[str, str], ...]:
    """What each role is called, and what it is for."""
    return tuple((role.label.lower(), ROLES[role]) for role in roles)
