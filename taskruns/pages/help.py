"""The content of the help page: every status, every outcome of a cancel, every role."""

from collections.abc import Iterable
from dataclasses import dataclass

from taskruns.models import Happening, Outcome, SiteRole, Status, TeamRole

from .channels.messages import WORDS
from .outcomes import CANCEL_WORDS
from .values import StatusMark, mark_of

STATUSES: dict[Status, str] = {
    Status.PENDING: "Arize has created the run but not started it. It can be cancelled.",
    Status.RUNNING: "Arize is working on it. It can be cancelled.",
    Status.COMPLETED: "It finished. “With errors” means that some items failed, not the run itself.",
    Status.FAILED: "Arize reported a failure. The row shows the reason if Arize gives one.",
    Status.CANCELLED: "It was stopped by a person here, by an emergency stop, by someone outside this team, or by "
    "Arize itself, which ends runs that have nothing to do. The row says which.",
    Status.UNKNOWN: "Arize sent a status that the panel does not know. It is shown as Arize sent it.",
    Status.GONE: "Arize no longer knows the run: it was deleted there, or the key can no longer see it.",
}


ROLES: dict[TeamRole | SiteRole, str] = {
    TeamRole.VIEWER: "sees the team's runs, and who cancelled what",
    TeamRole.OPERATOR: "also cancels and starts runs, adds notes, mutes channels, and pulls the emergency stop",
    TeamRole.MANAGER: "also manages API keys, channels, tokens, members and settings, and reads the audit log",
    SiteRole.AUDITOR: "sees every team and every log, but changes nothing",
    SiteRole.ADMIN: "creates teams, manages people, sees every log; cannot stop runs without being a team member",
}


@dataclass(frozen=True, slots=True)
class ExplainedOutcome:
    """One outcome of a cancel: its code in the audit log, what happened, and what to do next."""

    code: str
    text: str
    next: str


@dataclass(frozen=True, slots=True)
class ExplainedEvent:
    """What a channel can be told about."""

    code: str
    text: str
    severity: str


@dataclass(frozen=True, slots=True)
class HelpPage:
    events: tuple[ExplainedEvent, ...]
    statuses: tuple[tuple[StatusMark, str], ...]
    outcomes: tuple[ExplainedOutcome, ...]
    roles: tuple[tuple[str, str], ...]


def help_page() -> HelpPage:
    return HelpPage(
        events=tuple(
            ExplainedEvent(it.value, f"{WORDS[it.value].label}.", WORDS[it.value].severity) for it in Happening
        ),
        statuses=tuple((mark_of(status), text) for status, text in STATUSES.items()),
        outcomes=tuple(ExplainedOutcome(it.code, CANCEL_WORDS[it].explained, CANCEL_WORDS[it].next) for it in Outcome),
        roles=role_words(ROLES),
    )


def role_words(roles: Iterable[TeamRole | SiteRole]) -> tuple[tuple[str, str], ...]:
    """The name of each role, and what it may do."""
    return tuple((role.label.lower(), ROLES[role]) for role in roles)
