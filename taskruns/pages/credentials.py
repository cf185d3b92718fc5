"""What the keys pages show. A key itself is never part of it: only the last four characters that the row holds."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, datetime, timedelta

from django.db.models import Count
from django.urls import reverse
from django.utils import timezone

from taskruns.arize.endpoints import REGIONS
from taskruns.models import Credential, Task
from taskruns.services.credentials import KeyState, state_of
from taskruns.services.credentials.expiry import THRESHOLDS

from .key_usage import Usage
from .values import Message, Moment

TOLD_DAYS = max(THRESHOLDS)  # so many days before its end people are told


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
    failing_since: Moment | None
    created: Moment | None
    expires_on: str
    expires_text: str
    usage: Usage | None
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


def credential_row(credential: Credential, *, slug: str, now: datetime, usage: Usage | None = None) -> CredentialRow:
    """`expires_text` is empty while the end is far away."""
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
        failing_since=Moment.of(credential.failing_since),
        created=Moment.of(credential.created_at),
        expires_on=credential.expires_on.isoformat() if credential.expires_on else "",
        expires_text=_days_left(credential.expires_on, timezone.localdate(now)),
        usage=usage,
        replace_url=reverse("credential-replace", args=[slug, credential.pk]),
        test_url=reverse("credential-test", args=[slug, credential.pk]),
        revoke_url=reverse("credential-revoke", args=[slug, credential.pk]),
    )


def health(credential: Credential, now: datetime) -> tuple[KeyState, str]:
    state = state_of(credential, now)
    texts = {
        KeyState.FAILING: credential.failing_reason,
        KeyState.WAITING: credential.backoff_reason,
        KeyState.NEW: "Not used yet.",
        KeyState.WORKING: "Working.",
    }
    return state, texts[state]


def expiry_warning(credential: Credential, today: date) -> Message | None:
    """For the board. No count of days: the sentence must be the same as long as the data are."""
    day = credential.expires_on
    if day is None or day > today + timedelta(days=TOLD_DAYS):
        return None
    if day < today:
        return Message("error", f"Key “{credential.name}” expired on {day}: replace it.")
    return Message("warning", f"Key “{credential.name}” expires on {day}: replace it before Arize rejects it.")


def _days_left(day: date | None, today: date) -> str:
    if day is None or day > today + timedelta(days=TOLD_DAYS):
        return ""
    left = (day - today).days
    if left < 0:
        return "expired"
    return {0: "expires today", 1: "expires tomorrow"}.get(left, f"expires in {left} days")


def endpoint_label(url: str) -> str:
    return next((f"{region.label} ({region.url})" for region in REGIONS if region.url == url), url)


def under_way(keys: Iterable[Credential]) -> tuple[FirstContact, ...]:
    """How far first contact is, for those of the keys where it goes on. Without any, no query is made."""
    reading = [key for key in keys if key.first_contact_done_at is None and key.failing_since is None]
    if not reading:
        return ()
    tasks = Task.objects.filter(credential__in=reading).exclude(arize_id="").order_by()
    counted = tasks.values_list("credential").annotate(Count("runs_read_at"), Count("pk"))
    numbers = {key: (read, total) for key, read, total in counted}
    return tuple(
        FirstContact(key.name, *numbers.get(key.pk, (0, 0)), is_listed=key.tasks_read_at is not None) for key in reading
    )
