"""The questions that auditors ask most, as links to the log with the right filters."""

from datetime import datetime, timedelta

from taskruns.forms import AuditFilter
from taskruns.pages.values import Link

LATELY = timedelta(days=7)
# Label, and the filters; `since` is set for questions about the last days.
_OF_TEAM: tuple[tuple[str, dict[str, str]], ...] = (
    ("Cancels of the last 7 days", {"event": "run.cancel", "since": ""}),
    ("Bulk cancels", {"event": "run.cancel_many"}),
    ("Emergency stops", {"event": "stop.*"}),
    ("Started runs", {"event": "run.trigger"}),
    ("Refused attempts", {"outcome": "denied"}),
    ("API key changes", {"event": "credential.*"}),
    ("Tokens", {"event": "token.*"}),
    ("Member changes", {"event": "member.*"}),
    ("Invitations", {"event": "invitation.*"}),
)
_OF_SITE = (
    *_OF_TEAM,
    ("Accounts and site roles", {"event": "person.*"}),
    ("Teams", {"event": "team.*"}),
    ("Sign-ins", {"event": "auth.sign_in"}),
    ("Failed sign-ins", {"event": "auth.sign_in", "outcome": "failed"}),
    ("Readings, exports and verifications of the log", {"event": "audit.*"}),
)


def questions(url: str, wanted: AuditFilter, *, of_site: bool, now: datetime) -> tuple[Link, ...]:
    since = now.replace(hour=0, minute=0, second=0, microsecond=0) - LATELY
    found = []
    for label, filters in _OF_SITE if of_site else _OF_TEAM:
        rest = {name: value for name, value in filters.items() if name != "since"}
        asked = AuditFilter(**rest, since=since if "since" in filters else None)  # type: ignore[arg-type] # all texts
        found.append(Link(label, url + asked.query(), asked.chosen() == wanted.chosen()))
    return tuple(found)
