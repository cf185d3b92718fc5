"""Which addresses a channel may have. No sentence repeats what was typed: it may be a secret in the wrong field."""

import base64
import json
import re
import secrets
from dataclasses import dataclass
from typing import Any
from urllib.parse import SplitResult, urlsplit

from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.validators import validate_email
from django.views.decorators.debug import sensitive_variables

from taskruns.encryption import DecryptionFailed
from taskruns.models import Channel, ChannelKind
from taskruns.outbound import is_private_by_name
from taskruns.services.user_errors import UserError

LONGEST_URL = 2_000  # characters
MOST_ADDRESSES = 20
_HINT = 4
_SEPARATORS = re.compile(r"[\s,;]+")
_VISIBLE = re.compile(r"[!-~]+")
_HOST = re.compile(r"[a-z0-9._-]{1,253}|[0-9a-f:.]+", re.IGNORECASE)
_LOOKS_SECRET = re.compile(r"://|whsec_|xox[a-z]-|\bak-|[A-Za-z0-9+/_=-]{40,}")
# Hosts whose webhooks take one kind of message only.
_HOST_OF_SLACK = "hooks.slack.com"
_HOSTS_OF_TEAMS = (".logic.azure.com", ".webhook.office.com", ".api.powerplatform.com")
SIGNING_PREFIX = "whsec_"
# The Events API of PagerDuty. A key of its service region EU works at the second address only.
PAGERDUTY, PAGERDUTY_EU = "https://events.pagerduty.com/v2/enqueue", "https://events.eu.pagerduty.com/v2/enqueue"
_ROUTING_KEY = re.compile(r"[A-Za-z0-9]{32}")


@dataclass(frozen=True, slots=True)
class Destination:
    """What a channel's secret holds. `to`: mail addresses; else `url`, and `signing` if its requests are signed, or
    `routing`, the key that PagerDuty wants in the body.
    """

    to: tuple[str, ...] = ()
    url: str = ""
    signing: str = ""
    routing: str = ""

    def __repr__(self) -> str:
        return "Destination(...)"

    def as_json(self) -> str:
        return json.dumps({"to": self.to, "url": self.url, "signing": self.signing, "routing": self.routing})

    @property
    def hint(self) -> str:
        """The last characters; nothing of a short one."""
        text = self.routing or self.url or ", ".join(self.to)
        return text[-_HINT:] if len(text) >= 4 * _HINT else ""


@sensitive_variables()
def destination_of(channel: Channel) -> Destination:
    """Raises DecryptionFailed."""
    try:
        stored: dict[str, Any] = json.loads(channel.decrypt_secret())
        return Destination(tuple(stored["to"]), stored["url"], stored["signing"], stored.get("routing", ""))
    except (ValueError, KeyError, TypeError):
        raise DecryptionFailed from None


@sensitive_variables()
def destination(kind: ChannelKind, address: str, *, signing: str = "") -> Destination:
    """The checked address. A signed webhook gets a new signing secret unless it has one. Raises UserError."""
    if kind is ChannelKind.EMAIL:
        return Destination(to=_checked_mails(address))
    if kind is ChannelKind.PAGERDUTY:
        return _pagerduty(address)
    url = _checked_url(kind, address)
    if kind is ChannelKind.WEBHOOK:
        return Destination(url=url, signing=signing or new_signing_secret())
    return Destination(url=url)


def new_signing_secret() -> str:
    return SIGNING_PREFIX + base64.b64encode(secrets.token_bytes(32)).decode()


def looks_secret(text: str) -> bool:
    return _LOOKS_SECRET.search(text) is not None


def checked_name(name: str) -> str:
    if looks_secret(name):
        raise UserError(
            "This looks like an address or a secret, not like a name. Enter it in its own field.", field="name"
        )
    return name


def is_allowed(url: str) -> bool:
    """Asked again before each request, because the settings may have changed since the channel was saved."""
    parts = _split(url)
    return parts is not None and (_is_listed(parts) or _is_public_https(parts))


def may_be_private(url: str) -> bool:
    """Whether NOTIFY_HOSTS names the host, so that its address may be private."""
    parts = _split(url)
    return parts is not None and _is_listed(parts)


def _split(url: str) -> SplitResult | None:
    """None unless it is a web address with a host, without a user name and without a fragment."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return None
    is_web = parts.scheme in {"http", "https"} and bool(parts.hostname) and port != 0
    is_plain = "@" not in parts.netloc and not parts.fragment and "\\" not in url
    is_host = _HOST.fullmatch(parts.hostname or "") is not None
    return parts if is_web and is_plain and is_host and _VISIBLE.fullmatch(url) else None


def _is_listed(parts: SplitResult) -> bool:
    name = (parts.hostname or "").lower()
    host = f"[{name}]" if ":" in name else name
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return bool({host, f"{host}:{port}"} & set(settings.NOTIFY_HOSTS))


def _is_public_https(parts: SplitResult) -> bool:
    return parts.scheme == "https" and not is_private_by_name(parts.hostname or "")


@sensitive_variables()
def _checked_url(kind: ChannelKind, address: str) -> str:
    url = address.strip()
    if "@" in url and "://" not in url:
        raise UserError("This is an email address. Enter the web address, or choose the kind “email”.", field="address")
    if url.startswith(SIGNING_PREFIX):
        raise UserError(
            "This is a signing secret, not an address. The panel makes its own. Enter the receiver's address.",
            field="address",
        )
    if len(url) > LONGEST_URL:
        raise UserError(f"The address is too long. The limit is {LONGEST_URL:,} characters.", field="address")
    parts = _split(url)
    if parts is None:
        raise UserError(
            "This is not a web address. Enter it like https://host.example.com/path, without a user name.",
            field="address",
        )
    _refuse_wrong_kind(kind, parts)
    if _is_listed(parts):
        return url
    if parts.scheme != "https":
        raise UserError(
            "The address must begin with https://. Plain http is for hosts in this panel's NOTIFY_HOSTS only.",
            field="address",
        )
    if not _is_public_https(parts):
        raise UserError(
            "This host is private. Enter a public one, or ask your administrator to add it to NOTIFY_HOSTS.",
            field="address",
        )
    return url


@sensitive_variables()
def _pagerduty(address: str) -> Destination:
    """The integration key, and behind it the address if it is not PagerDuty's usual one."""
    key, _, url = address.strip().partition(" ")
    if not _ROUTING_KEY.fullmatch(key):
        raise UserError(
            "This is not an integration key of PagerDuty. It has 32 letters and digits. Add an integration of the kind "
            "“Events API v2” to a service, and copy its key.",
            field="address",
        )
    url = url.strip() or PAGERDUTY
    if url in {PAGERDUTY, PAGERDUTY_EU} or may_be_private(url):
        return Destination(url=url, routing=key)
    raise UserError(f"After the key, only the address {PAGERDUTY_EU} may follow.", field="address")


def _refuse_wrong_kind(kind: ChannelKind, parts: SplitResult) -> None:
    host = (parts.hostname or "").lower()
    is_slack = host == _HOST_OF_SLACK
    if host.endswith(_HOSTS_OF_TEAMS) and kind is not ChannelKind.TEAMS:
        raise UserError("This is an address of Microsoft Teams. Choose the kind “Microsoft Teams”.", field="kind")
    if host.endswith(".pagerduty.com"):
        raise UserError("For PagerDuty, choose the kind “PagerDuty” and enter the integration key.", field="kind")
    if is_slack and kind is not ChannelKind.SLACK:
        raise UserError("This is an address of Slack. Choose the kind “Slack”.", field="kind")
    if is_slack and not parts.path.startswith(("/services/", "/workflows/", "/triggers/")):
        raise UserError("This address of Slack is not complete. Copy the whole webhook URL again.", field="address")


@sensitive_variables()
def _checked_mails(address: str) -> tuple[str, ...]:
    if not settings.MAILS:
        raise UserError("This panel sends no mail: EMAIL_URL is not set. Choose another kind.", field="kind")
    if "://" in address:
        raise UserError("This is a web address. Enter email addresses, or choose another kind.", field="address")
    found = tuple(dict.fromkeys(part for part in _SEPARATORS.split(address) if part))
    if not found:
        raise UserError("Enter at least one email address.", field="address")
    if len(found) > MOST_ADDRESSES:
        raise UserError(f"These are too many addresses. The limit is {MOST_ADDRESSES}.", field="address")
    for one in found:
        try:
            validate_email(one)
        except ValidationError:
            raise UserError(
                "One of these is not an email address. Separate addresses with commas.", field="address"
            ) from None
    return found
