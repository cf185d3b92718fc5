"""The form of a message for each kind of channel.

Sources of the forms:
- Slack: https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks and
  https://docs.slack.dev/messaging/formatting-message-text (only &, < and > are escaped). Mattermost, Rocket.Chat and
  Discord (its address with /slack at the end) accept the same.
- Signed webhooks: https://www.standardwebhooks.com, type, timestamp and data.
- Teams: https://learn.microsoft.com/microsoftteams/platform/webhooks-and-connectors/how-to/connectors-using (a message
  with one Adaptive Card) and https://adaptivecards.io/explorer. A TextRun supports no markdown, so it shows text as it
  is: https://learn.microsoft.com/adaptive-cards/schema-explorer/text-run.
- PagerDuty: https://developer.pagerduty.com/docs/events-api-v2/trigger-events/, the Events API v2, and its schema
  https://github.com/PagerDuty/api-schema/blob/main/reference/events-v2/openapiv3.json.
"""

import html
import json
import re
from collections.abc import Callable, Mapping
from datetime import UTC
from typing import Any

from taskruns.audit import clean_line
from taskruns.models import ChannelKind, Delivery
from taskruns.services.channels import Mail, Post

from .messages import LONGEST, ChannelMessage, Severity, link_of, message_of, one_line, who_and_why

LONGEST_SUBJECT = 150
LONGEST_SUMMARY = 1_024  # of an incident of PagerDuty
LONGEST_CHAT = 2_000  # Discord refuses a longer text
_CUTS = (300, 100, 40, 20)  # characters of each text of a chat: the first that fits
_FOR_A_CHANNEL = "Managers of the team choose what is sent."
_FOR_A_PERSON = "You asked for it on the page of the run."
_FOR_SITE_ADMINS = "All site admins get it."
_MARKS = {Severity.INFO: ":information_source:", Severity.WARNING: ":warning:", Severity.CRITICAL: ":rotating_light:"}
# Invisible, and stops what would be formatted, linked, or call people.
_BREAK = "\N{ZERO WIDTH SPACE}"
# The colon: of an emoji, not of a time. The dot: of a host, which chats link.
_FORMATS = re.compile(r"([*_~`@#\[\]|]|(?<!\d):|:(?!\d\d(?!\d))|(?<=\w)\.(?=[^\W\d_]{2}))")
_OF_THE_RUN = (
    *("run_id", "panel_run_id", "task_id", "task_name", "space", "status", "started_at", "counts", "error_share"),
    *("outcome", "target", "number", "by_event", "named", "detail"),
)


def word(delivery: Delivery) -> Mail | Post:
    """The message in the form of its channel. To a person: a mail."""
    kind = ChannelKind(delivery.channel.kind) if delivery.channel else ChannelKind.EMAIL
    if kind is ChannelKind.EMAIL:
        return _mail(message_of(delivery), _why_you(delivery))
    body = _BODIES[kind](delivery)
    return Post(json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode())


def _why_you(delivery: Delivery) -> str:
    if delivery.team is None:
        return _FOR_SITE_ADMINS
    return _FOR_A_CHANNEL if delivery.channel else _FOR_A_PERSON


def webhook_body(delivery: Delivery) -> dict[str, Any]:
    """Members that do not apply are left out."""
    who, why = who_and_why(delivery)
    known = {name: delivery.data.get(name) for name in _OF_THE_RUN}
    why = one_line(why, LONGEST)  # Arize's may have any length
    team = delivery.team.slug if delivery.team else None
    data = {"team": team, **known, "who": who, "why": why, "url": link_of(delivery).url}
    at = delivery.at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return {"type": delivery.event, "timestamp": at, "data": {k: v for k, v in data.items() if v not in (None, "", {})}}


def _mail(message: ChannelMessage, why: str) -> Mail:
    width = max((len(label) for label, _ in message.facts), default=0) + 1
    facts = [f"{label + ':':<{width}} {text}" for label, text in message.facts]
    parts = [message.title, "\n".join(facts), f"{message.link.text}:\n{message.link.url}", message.note]
    foot = f"-- \nSent by the Taskruns panel at {message.site}. {why}"
    body = "\n\n".join([part for part in parts if part] + [foot])
    # Mail programs would decode =?...?= in a subject, and show what was cleaned away.
    subject = f"[Taskruns] {message.title}".replace("=?", "= ?")
    return Mail(clean_line(subject, LONGEST_SUBJECT), f"{body}\n")


def _slack(delivery: Delivery) -> dict[str, Any]:
    message = message_of(delivery)
    texts = (_chat_text(message, longest) for longest in _CUTS)
    text = next((text for text in texts if len(text) <= LONGEST_CHAT), _chat_text(message, _CUTS[-1]))
    return {"text": text, "unfurl_links": False, "unfurl_media": False}


def _chat_text(message: ChannelMessage, longest: int) -> str:
    facts = [f"{label}: {_plain(text[:longest])}" for label, text in message.facts]
    link = f"<{message.link.url}|{message.link.text}>"
    title = _plain(message.title[:longest])
    lines = [f"{_MARKS[message.severity]} *{title}*", *facts, f"{link} ({_plain(message.site)})"]
    return "\n".join([*lines, f"_{message.note}_"] if message.note else lines)


def _teams(delivery: Delivery) -> dict[str, Any]:
    message = message_of(delivery)
    colour = {Severity.INFO: "Default", Severity.WARNING: "Warning", Severity.CRITICAL: "Attention"}[message.severity]
    lines = [[_run(message.title, weight="Bolder", size="Medium", color=colour)]]
    lines += [[_run(f"{label}: ", isSubtle=True), _run(text)] for label, text in message.facts]
    lines += [[_run(text, isSubtle=True)] for text in (f"Taskruns at {message.site}", message.note) if text]
    card = {
        "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
        "type": "AdaptiveCard",
        "version": "1.4",
        "fallbackText": f"A message of the Taskruns panel at {message.site}.",  # markdown, so nothing from Arize
        "body": [{"type": "RichTextBlock", "inlines": inlines} for inlines in lines],
        "actions": [{"type": "Action.OpenUrl", "title": message.link.text, "url": message.link.url}],
    }
    attachment = {"contentType": "application/vnd.microsoft.card.adaptive", "contentUrl": None, "content": card}
    return {"type": "message", "attachments": [attachment]}


def _run(text: str, **style: Any) -> dict[str, Any]:
    return {"type": "TextRun", "text": text, **style}


def _pagerduty(delivery: Delivery) -> dict[str, Any]:
    """Without the routing key, which is added when it is sent. One incident for each event and subject of a team."""
    key = {"dedup_key": f"{delivery.team_id}:{delivery.event}:{delivery.subject}"}
    if delivery.is_resolve:
        return {"event_action": "resolve", **key}
    message = message_of(delivery)
    at = delivery.at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    details = dict(message.facts) | ({"Note": message.note} if message.note else {})
    payload = {
        "summary": message.title[:LONGEST_SUMMARY],
        "source": message.site,
        "severity": message.severity.value,
        "timestamp": at,
        "component": one_line(delivery.data.get("task_name") or delivery.data.get("target") or "", LONGEST),
        "group": delivery.team.name if delivery.team else "",
        "class": delivery.event,
        "custom_details": details,
    }
    return {
        "event_action": "trigger",
        **key,
        "payload": {name: value for name, value in payload.items() if value},
        "client": f"Taskruns at {message.site}",
        "client_url": message.link.url,
        "links": [{"href": message.link.url, "text": message.link.text}],
    }


def _plain(text: str) -> str:
    """Shown as it is: neither formatted, nor a link, nor calling anyone."""
    return _FORMATS.sub(rf"\1{_BREAK}", html.escape(text, quote=False))


_BODIES: Mapping[ChannelKind, Callable[[Delivery], dict[str, Any]]] = {
    ChannelKind.SLACK: _slack,
    ChannelKind.WEBHOOK: webhook_body,
    ChannelKind.TEAMS: _teams,
    ChannelKind.PAGERDUTY: _pagerduty,
}
