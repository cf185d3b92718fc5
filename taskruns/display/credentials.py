"""What the keys pages show. A key itself is never part of it: only the last four characters that the row holds."""

from dataclasses import dataclass
from datetime import datetime

from django.urls import reverse

from taskruns.arize.endpoints import REGIONS
from taskruns.models import Credential

from .words import Moment


@dataclass(frozen=True, slots=True)
class CredentialRow:
    """`state` is working, failing, waiting or new; `state_text` says it in a sentence."""

    id: str
    name: str
    endpoint: str
    hint: str
    state: str
    state_text: str
    spaces: tuple[str, ...]
    last_good: Moment | None
    created: Moment | None
    expires_on: str
    replace_url: str
    test_url: str
    revoke_url: str


@dataclass(frozen=True, slots=True)
class FirstContact:
    """How far the first reading with a key is. Until Arize has listed all tasks, their number is not known."""

    key: str
    read: int
    total: int
    is_listed: bool

    @property
    def text(self) -> str:
        if not self.is_listed:
            return f"Key “{self.key}” is new: the list of its tasks is being read."
        return f"First reading with key “{self.key}”: read {self.read:,} of {self.total:,} tasks."


def credential_row(credential: Credential, *, slug: str, now: datetime) -> CredentialRow:
    state, text = health(credential, now)
    return CredentialRow(
        id=str(credential.pk),
        name=credential.name,
        endpoint=endpoint_label(credential.endpoint),
        hint=f"…{credential.last4}" if credential.last4 else "…",
        state=state,
        state_text=text,
        spaces=tuple(space["name"] or space["id"] for space in credential.spaces),
        last_good=Moment.of(credential.last_good_at),
        created=Moment.of(credential.created_at),
        expires_on=credential.expires_on.isoformat() if credential.expires_on else "",
        replace_url=reverse("credential-replace", args=[slug, credential.pk]),
        test_url=reverse("credential-test", args=[slug, credential.pk]),
        revoke_url=reverse("credential-revoke", args=[slug, credential.pk]),
    )


def health(credential: Credential, now: datetime) -> tuple[str, str]:
    if credential.failing_since is not None:
        return "failing", credential.failing_reason
    if credential.is_backing_off(now):
        return "waiting", credential.backoff_reason
    if credential.last_good_at is None:
        return "new", "Not used yet."
    return "working", "Working."


def endpoint_label(url: str) -> str:
    return next((f"{region.label} ({region.url})" for region in REGIONS if region.url == url), url)
