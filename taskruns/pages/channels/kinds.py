"""The form of a message for each kind of channel.

Sources of the forms:
- Slack: https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks and
  https://docs.slack.dev/messaging/formatting-message-text (only &, < and > are escaped). Mattermost, Rocket.Chat and
  Discord (its address with /slack at the end) accept the same.
- Signed webhooks: https://www.standardwebhooks.com, type, timestamp and data.
"""

import html
import json
import re
from datetime import UTC
from typing import Any

from taskruns.audit import clean_line
from taskruns.models import ChannelKind, Delivery
from taskruns.services.channels import Mail, Post

from .messages import ChannelMessage, Severity, link_of, message_of, who_and_why

LONGEST_SUBJECT = 150
_FOR_A_CHANNEL = "Managers of the team choose what is sent."
_FOR_A_PERSON = "You asked for it on the page of the run."
_MARKS = {Severity.INFO: ":information_source:", Severity.WARNING: ":warning:", Severity.CRITICAL: ":rotating_light:"}
# Invisible, and stops what would be formatted, linked, or call people.
_BREAK = "\N{ZERO WIDTH SPACE}"
_FORMATS = re.compile(r"([*_~`@#\[\]|:])")
_OF_THE_RUN = (
    *("run_id", "panel_run_id", "task_id", "task_name", "space", "status", "started_at", "counts", "error_share"),
    *("outcome", "target", "number", "by_event", "named", "detail"),
)


def word(delivery: Delivery) -> Mail | Post:
    """The message in the form of its channel. To a person: a mail."""
    kind = ChannelKind(delivery.channel.kind) if delivery.channel else ChannelKind.EMAIL
    if kind is ChannelKind.EMAIL:
        return _mail(message_of(delivery), _FOR_A_CHANNEL if delivery.channel else _FOR_A_PERSON)
    body = _slack(message_of(delivery)) if kind is ChannelKind.SLACK else webhook_body(delivery)
    return Post(json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode())


def webhook_body(delivery: Delivery) -> dict[str, Any]:
    """Members that do not apply are left out."""
    who, why = who_and_why(delivery)
    known = {name: delivery.data.get(name) for name in _OF_THE_RUN}
    data = {"team": delivery.team.slug, **known, "who": who, "why": why, "url": link_of(delivery).url}
    at = delivery.at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return {"type": delivery.event, "timestamp": at, "data": {k: v for k, v in data.items() if v not in (None, "", {})}}


def _mail(message: ChannelMessage, why: str) -> Mail:
    width = max((len(label) for label, _ in message.facts), default=0) + 1
    facts = [f"{label + ':':<{width}} {text}" for label, text in message.facts]
    parts = [message.title, "\n".join(facts), f"{message.link.text}:\n{message.link.url}", message.note]
    foot = f"-- \nSent by the Taskruns panel at {message.site}. {why}"
    body = "\n\n".join([part for part in parts if part] + [foot])
    return Mail(clean_line(f"[Taskruns] {message.title}", LONGEST_SUBJECT), f"{body}\n")


def _slack(message: ChannelMessage) -> dict[str, Any]:
    facts = [f"{label}: {_plain(text)}" for label, text in message.facts]
    link = f"<{message.link.url}|{message.link.text}>"
    lines = [f"{_MARKS[message.severity]} *{_plain(message.title)}*", *facts, f"{link} ({_plain(message.site)})"]
    lines += [f"_{message.note}_"] if message.note else []
    return {"text": "\n".join(lines), "unfurl_links": False, "unfurl_media": False}


def _plain(text: str) -> str:
    """Shown as it is: neither formatted, nor a link, nor calling anyone."""
    return _FORMATS.sub(rf"\1{_BREAK}", html.escape(text, quote=False))
