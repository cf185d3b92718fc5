"""A receiver of messages for the demo: it keeps what channels send, and shows it as people would get it."""

import html
import json
import threading
from collections import deque
from dataclasses import dataclass
from datetime import UTC, datetime

from .messages import Answer, Request

KEPT = 100  # messages
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="refresh" content="3"><title>Messages of the demo</title>
<style>body {{ font: 1rem/1.5 system-ui, sans-serif; max-width: 48rem; margin: 2rem auto; padding: 0 1rem }}
article {{ border: 1px solid #8884; border-radius: 6px; padding: .5rem 1rem; margin: 1rem 0; overflow-wrap: anywhere }}
pre {{ white-space: pre-wrap; font: inherit }} time {{ color: #666; font-size: .85rem }}</style></head>
<body><h1>Messages of the demo</h1>
<p>This page stands for the chat of the team. It shows what the panel's channel has sent, the newest first.</p>
{messages}</body></html>"""
_NONE = "<p>Nothing yet. Cancel a run, or send a test message on the panel's page “Channels”.</p>"


@dataclass(frozen=True, slots=True)
class _Message:
    at: datetime
    text: str


class Inbox:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._messages: deque[_Message] = deque(maxlen=KEPT)

    def take(self, request: Request) -> Answer:
        document = request.json()
        said = document.get("text") if isinstance(document, dict) else None
        text = said if isinstance(said, str) else json.dumps(document, indent=1, ensure_ascii=False)
        with self._lock:
            self._messages.appendleft(_Message(datetime.now(tz=UTC), text))
        return Answer(200, b"ok", {"Content-Type": "text/plain"})

    def show(self, request: Request) -> Answer:
        del request
        with self._lock:
            messages = list(self._messages)
        shown = "\n".join(_article(message) for message in messages) or _NONE
        return Answer(200, _PAGE.format(messages=shown).encode(), {"Content-Type": "text/html; charset=utf-8"})


def _article(message: _Message) -> str:
    """The text of Slack's form is escaped already, but whoever sends it here may send anything."""
    text = html.escape(html.unescape(message.text), quote=False)
    return f"<article><time>{message.at:%H:%M:%S} UTC</time><pre>{text}</pre></article>"
