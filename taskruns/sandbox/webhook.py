"""Arize's webhook `online_task.run.failed`, sent in the background when a control makes a run fail.

Source of the headers and the signature: the official Python SDK 8.61.0, `WebhookAuthType`. The members of the body are
not documented; these are a guess.
"""

import hashlib
import hmac
import http.client
import json
import threading
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from .messages import Fields, Problem

EVENT = "online_task.run.failed"
_TIMEOUT = 10.0  # seconds
MOST_KEPT = 100  # attempts


@dataclass(frozen=True, slots=True)
class Target:
    """`auth`: hmac or bearer."""

    url: str
    secret: str = field(repr=False)
    auth: str = "hmac"

    @classmethod
    def read(cls, document: object) -> "Target":
        """Raises Problem 400."""
        fields = Fields.read(document, known=("url", "secret", "auth"))
        url, secret = fields.text("url") or "", fields.text("secret") or ""
        if urlsplit(url).scheme not in {"http", "https"} or not urlsplit(url).hostname or not secret:
            raise Problem(400, "A webhook needs a url and a secret.")
        return cls(url, secret, fields.choice("auth", ("hmac", "bearer")) or "hmac")

    def headers(self, body: bytes, *, event_id: str) -> dict[str, str]:
        stamp = str(int(time.time()))
        proof = {"Authorization": f"Bearer {self.secret}"}
        if self.auth == "hmac":
            signature = hmac.new(self.secret.encode(), f"{stamp}.".encode() + body, hashlib.sha256)
            proof = {"X-Arize-Webhook-Signature": f"v1={signature.hexdigest()}"}
        return {
            "Content-Type": "application/json",
            "X-Arize-Webhook-Timestamp": stamp,
            "X-Arize-Webhook-Id": event_id,
            "X-Arize-Webhook-Event": EVENT,
            **proof,
        }


class Webhook:
    """Sends to one target, if there is one, and keeps what was answered."""

    def __init__(self) -> None:
        self.target: Target | None = None
        self.attempts: list[dict[str, object]] = []

    def send(self, runs: Sequence[dict[str, object]]) -> None:
        """One event for each run, in a thread, so that the control answers at once."""
        target = self.target
        if target is not None and runs:
            threading.Thread(target=self._send_all, args=(target, runs), daemon=True).start()

    def _send_all(self, target: Target, runs: Sequence[dict[str, object]]) -> None:
        for run in runs:
            event_id = str(uuid.uuid4())
            data = {"task_id": run["task_id"], "task_run_id": run["id"], "reason": run.get("failure_reason")}
            body = json.dumps({"event": EVENT, "id": event_id, "data": data}).encode()
            self.attempts.append({"id": event_id, "run": run["id"], "status": _post(target, body, event_id=event_id)})
        del self.attempts[:-MOST_KEPT]


def _post(target: Target, body: bytes, *, event_id: str) -> int | None:
    """The status; None without an answer."""
    parts = urlsplit(target.url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.netloc, timeout=_TIMEOUT)
    try:
        connection.request("POST", parts.path or "/", body, target.headers(body, event_id=event_id))
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()
