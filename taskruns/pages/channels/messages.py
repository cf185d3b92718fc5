"""What a message says: a title, facts, and a link. `kinds` gives it the form of each kind of channel.

Text from Arize is cleaned and cut here, and escaped by `kinds`. All times carry their zone.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from django.conf import settings
from django.urls import reverse

from taskruns.audit import clean_line
from taskruns.models import CANCEL_FACTS, Cancellation, Delivery, Happening, Outcome, Run, Status
from taskruns.models.channels import RUN_ENDED, SUMMARY, TEST, SiteHappening
from taskruns.pages.audit.sentences import SENTENCES
from taskruns.pages.cancellations import cause_of
from taskruns.pages.outcomes import CANCEL_WORDS
from taskruns.pages.values import Link

_DIRECTIONS = re.compile("[\u202a-\u202e\u2066-\u2069]")
LONGEST = 300  # characters of one fact
AGAIN = "This message may be a repetition: the panel does not know whether an earlier attempt arrived."


class Severity(StrEnum):
    INFO = "info"
    WARNING = "warning"
    CRITICAL = "critical"


@dataclass(frozen=True, slots=True)
class EventWords:
    """`title`: of a message, with {task}, {status} and others. Empty: the sentence of the audit log. `label`: on forms.

    `each`: for a number of them in a summary.
    """

    label: str
    severity: Severity
    each: str
    title: str = ""


_H = Happening
WORDS: Mapping[str, EventWords] = {
    _H.RUN_FAILED.value: EventWords("A run failed", Severity.CRITICAL, "failed", "Failed: {task}"),
    _H.RUN_CANCELLED.value: EventWords(
        "A run was cancelled, whoever did it", Severity.WARNING, "cancelled", "Cancelled: {task}"
    ),
    _H.RUN_WITH_ERRORS.value: EventWords(
        "A run completed with errors", Severity.WARNING, "completed with errors", "Completed with errors: {task}"
    ),
    _H.RUN_LONGER.value: EventWords(
        "A run takes longer than usual", Severity.WARNING, "longer than usual", "Longer than usual: {task}"
    ),
    _H.RUN_RUNNING.value: EventWords(
        "A run has been running for long", Severity.WARNING, "running for long", "Running for long: {task}"
    ),
    _H.RUN_PENDING.value: EventWords(
        "A run has been pending for long", Severity.WARNING, "pending for long", "Pending for long: {task}"
    ),
    _H.RUN_IDLE.value: EventWords(
        "A run makes no progress", Severity.WARNING, "without progress", "No progress: {task}"
    ),
    _H.RUN_CANCEL.value: EventWords("A cancel requested here has an outcome", Severity.INFO, "outcomes of cancels"),
    _H.RUN_CANCEL_MANY.value: EventWords("A bulk cancel finished or was stopped", Severity.INFO, "bulk cancels"),
    _H.NOT_STOPPED.value: EventWords(
        "A cancel did not stop its run", Severity.CRITICAL, "cancels without effect", "Not stopped: {task}"
    ),
    _H.STOP_PULL.value: EventWords("The emergency stop was pulled", Severity.CRITICAL, "emergency stops"),
    _H.STOP_LIFT.value: EventWords("The emergency stop was lifted", Severity.INFO, "lifted stops"),
    _H.STOP_EXPIRING.value: EventWords(
        "The emergency stop ends within an hour",
        Severity.WARNING,
        "expiring stops",
        "The emergency stop of {team} ends within an hour",
    ),
    _H.STOP_EXPIRE.value: EventWords("The emergency stop expired", Severity.INFO, "expired stops"),
    _H.CREDENTIAL_FAILING.value: EventWords("Arize rejects an API key", Severity.CRITICAL, "rejected API keys"),
    _H.CREDENTIAL_RECOVERED.value: EventWords(
        "Arize accepts a rejected API key again", Severity.INFO, "recovered API keys"
    ),
    _H.CREDENTIAL_EXPIRING.value: EventWords("An API key expires soon", Severity.WARNING, "expiring API keys"),
    _H.TOKEN_EXPIRING.value: EventWords(
        "A token expires in 7 days or 1 day", Severity.WARNING, "expiring tokens", "The token {target} expires soon"
    ),
    _H.TOKEN_EXPIRE.value: EventWords("A token expired", Severity.INFO, "expired tokens"),
    _H.TOKEN_STOPPED.value: EventWords(
        "A token stopped: its maker left or has a lower role",
        Severity.CRITICAL,
        "stopped tokens",
        "The token {target} no longer works",
    ),
    _H.ARIZE_UNREACHABLE.value: EventWords(
        "Arize cannot be reached for 5 minutes",
        Severity.CRITICAL,
        "failures of Arize",
        "Arize cannot be reached with the API key {target}",
    ),
    _H.ARIZE_RECOVERED.value: EventWords(
        "Arize can be reached again",
        Severity.INFO,
        "recoveries of Arize",
        "Arize can be reached again with the API key {target}",
    ),
    SiteHappening.AUDIT_FAULTS.value: EventWords(
        "The audit log has faults", Severity.CRITICAL, "audit faults", "The audit log was changed: faults found"
    ),
    SiteHappening.WORKER_MISSING.value: EventWords(
        "The worker is missing", Severity.CRITICAL, "missing workers", "The worker of the panel is not running"
    ),
    SiteHappening.ANCHORS_NOT_WRITTEN.value: EventWords(
        "Anchors are not written",
        Severity.CRITICAL,
        "unwritten anchors",
        "Anchors of the audit log cannot be written to their file",
    ),
    RUN_ENDED: EventWords("A run that you wait for ended", Severity.INFO, "ended", "Ended ({status}): {task}"),
    TEST: EventWords("A test message", Severity.INFO, "tests", "Test message of the channel {channel}"),
}
_TO_DO: Mapping[str, str] = {
    SiteHappening.AUDIT_FAULTS.value: (
        "Keep a copy of the database and of the anchor file, then open the site audit: it names each fault."
    ),
    SiteHappening.WORKER_MISSING.value: (
        "Start the worker again: without it, nothing is read from Arize, and bulk cancels and messages wait. "
        "`manage.py doctor` says what else is wrong."
    ),
    SiteHappening.ANCHORS_NOT_WRITTEN.value: (
        "Make the file in AUDIT_ANCHOR_FILE writable. The anchors wait in the database and are written then."
    ),
}


@dataclass(frozen=True, slots=True)
class ChannelMessage:
    """`facts`: label and text. `note`: a further sentence, or empty."""

    title: str
    facts: tuple[tuple[str, str], ...]
    link: Link
    severity: Severity
    site: str
    note: str = ""


def message_of(delivery: Delivery) -> ChannelMessage:
    return ChannelMessage(
        title=_title(delivery),
        facts=tuple((label, one_line(text, LONGEST)) for label, text in _facts(delivery) if text),
        link=link_of(delivery),
        severity=severity_of(delivery),
        site=settings.SITE.netloc,
        note=AGAIN if delivery.is_repeat else "",
    )


def severity_of(delivery: Delivery) -> Severity:
    """A summary is as severe as the worst that it sums up."""
    if delivery.event != SUMMARY:
        return WORDS[delivery.event].severity
    found = {WORDS[event].severity for event in _by_event(delivery) if event in WORDS}
    return next((it for it in (Severity.CRITICAL, Severity.WARNING) if it in found), Severity.INFO)


def who_and_why(delivery: Delivery) -> tuple[str, str]:
    """Who did it, and why, as far as known."""
    data, run = delivery.data, delivery.run
    if delivery.event in {Happening.RUN_CANCELLED, Happening.RUN_FAILED, RUN_ENDED} and run is not None:
        credited = _credited(run) if run.status == Status.CANCELLED else None
        stopped_it = credited is not None and CANCEL_WORDS[Outcome(credited.outcome)].cause
        return (credited.person_label if credited is not None and stopped_it else ""), cause_of(run, credited)
    return str(data.get("who") or ""), str(data.get("why") or "")


# Where a message about something else than a run leads: the start of its event, the text and the url of the link.
_LINKS: Mapping[str, tuple[str, str]] = {
    "credential.": ("Open the API keys", "credentials"),
    "arize.": ("Open the API keys", "credentials"),
    "token.": ("Open the tokens", "tokens"),
    "stop.": ("Open the emergency stop", "stop"),
    Happening.RUN_CANCEL_MANY.value: ("Open the bulk cancels", "batches"),
}
_BOARD = ("Open the board", "board")


def link_of(delivery: Delivery) -> Link:
    if delivery.team is None:
        return Link("Open the site audit", _url("site-audit"))
    slug, data = delivery.team.slug, delivery.data
    if data.get("panel_run_id"):
        return Link("Open the run", _url("run", slug, data["panel_run_id"]))
    text, url = next((it for start, it in _LINKS.items() if delivery.event.startswith(start)), _BOARD)
    return Link(text, _url(url, slug))


def moment(at: str | datetime | None) -> str:
    """With its zone, because readers have different ones."""
    if not at:
        return ""
    read = datetime.fromisoformat(at) if isinstance(at, str) else at
    return read.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def one_line(text: str, longest: int) -> str:
    """Without what would turn the direction of the text around it."""
    return clean_line(_DIRECTIONS.sub("", text), longest)


def _title(delivery: Delivery) -> str:
    data, words = delivery.data, WORDS.get(delivery.event)
    if delivery.event == SUMMARY:
        return f"And {data['number']:,} more: {_summed_up(delivery)}"
    if words is None or not words.title:
        return one_line(_sentence(delivery), LONGEST)
    channel = delivery.channel.name if delivery.channel else ""
    known = {"task": data.get("task_name", ""), "status": data.get("status", ""), "target": data.get("target", "")}
    team = delivery.team.name if delivery.team else ""
    said = words.title.format(channel=channel, team=team, **known)
    return one_line(said, LONGEST)


def _sentence(delivery: Delivery) -> str:
    """That of the audit log."""
    data, sentences = delivery.data, SENTENCES[delivery.event]
    said = sentences.get(data.get("outcome", ""), sentences.get("", ""))
    return said.format(
        who=data.get("who") or "The panel",
        target=data.get("task_name") or data.get("target", ""),
        run=data.get("run_id", ""),
        why="",
    )


def _summed_up(delivery: Delivery) -> str:
    parts = sorted(_by_event(delivery).items(), key=lambda part: -part[1])
    return ", ".join(f"{number:,} {WORDS[event].each if event in WORDS else event}" for event, number in parts)


def _by_event(delivery: Delivery) -> dict[str, int]:
    found: dict[str, int] = delivery.data.get("by_event", {})
    return found


def _facts(delivery: Delivery) -> Iterator[tuple[str, str]]:
    data = delivery.data
    if delivery.team is None:
        yield "Since", moment(delivery.at)
        yield "Faults", str((data.get("detail") or {}).get("faults") or "")
        yield "What to do", _TO_DO[delivery.event]
        return
    yield "Team", delivery.team.name
    if delivery.event == SUMMARY:
        yield "From", moment(delivery.at)
        yield "Until", moment(data.get("until"))
        yield from (("Run", f"{named.get('task_name') or named.get('target', '')}") for named in data.get("named", ()))
        return
    yield "Space", str(data.get("space") or "")
    yield "Run", str(data.get("run_id") or "")
    yield "Started", moment(data.get("started_at"))
    yield "Items", _items(data.get("counts"))
    if delivery.event == TEST:
        yield "Sent by", str(data.get("who") or "")
        return
    yield "When", moment(delivery.at)
    yield from _more(data.get("detail") or {})
    who, why = who_and_why(delivery)
    yield "Who", who
    yield "Why", why
    if delivery.event == Happening.NOT_STOPPED:
        yield "Cancel", str(data.get("outcome") or "").replace("_", " ")


def _more(detail: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    counts = detail.get("counts")
    if isinstance(counts, dict):
        yield "Runs", ", ".join(f"{number} {str(state).replace('_', ' ')}" for state, number in counts.items())
    yield "Active runs", str(detail.get("active_runs") or "")
    yield "Ends", moment(detail.get("expires_at"))
    yield "Expires on", str(detail.get("expires_on") or "")


def _items(counts: Any) -> str:
    if not isinstance(counts, dict) or not any(isinstance(number, int) for number in counts.values()):
        return ""
    known = {name: number or 0 for name, number in counts.items()}
    return ", ".join(f"{number:,} {name}" for name, number in known.items())


def _credited(run: Run) -> Cancellation | None:
    """The cancellation that stopped the run, as far as known; otherwise the latest one."""
    mine = Cancellation.objects.filter(run=run).select_related("person", "batch")
    return max(mine, key=lambda row: (CANCEL_FACTS[Outcome(row.outcome)].credit, row.requested_at), default=None)


def _url(name: str, *args: object) -> str:
    return str(settings.SITE_URL) + reverse(name, args=[str(arg) for arg in args])
