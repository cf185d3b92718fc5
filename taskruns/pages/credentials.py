"""Display models of the pages of API keys: never the secret, only its last four characters."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, datetime

from django.db.models import Count
from django.urls import reverse
from django.utils import timezone

from taskruns.arize.endpoints import REGIONS
from taskruns.audit import clean_line
from taskruns.models import Credential, Task
from taskruns.services.credentials import KeyState, TestResult, state_of
from taskruns.services.credentials.expiry import THRESHOLDS
from taskruns.services.credentials.health import Seen

from .key_usage import Usage, usage_by_key
from .values import Message, Moment

WARNED_DAYS = max(THRESHOLDS)  # before a key expires
CANCEL_UNTRIED = "Arize cannot tell in advance whether it may cancel; you find out at the first cancel."
SPACES_NAMED = 5


@dataclass(frozen=True, slots=True)
class CredentialRow:
    """`state` is working, failing, waiting or new; `state_text` is a sentence. `expires_text` may be empty."""

    id: str
    name: str
    endpoint: str
    hint: str
    state: str
    state_text: str
    list_problem: str
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
    """Progress of the first reading with a key. `total` is unknown until Arize has listed all tasks (`is_listed`)."""

    key: str
    read: int
    total: int
    is_listed: bool

    @property
    def text(self) -> str:
        if not self.is_listed:
            return f"Key “{self.key}” is new: the list of its tasks is being read."
        return f"First reading with key “{self.key}”: read {self.read:,} of {self.total:,} tasks."


def credential_rows(keys: Iterable[Credential], *, slug: str, now: datetime) -> tuple[CredentialRow, ...]:
    """With the calls of each key in the last 24 hours."""
    keys = list(keys)
    usage = usage_by_key(keys)
    return tuple(credential_row(key, slug=slug, now=now, usage=usage[key]) for key in keys)


def credential_row(credential: Credential, *, slug: str, now: datetime, usage: Usage | None = None) -> CredentialRow:
    state, text = health(credential, now)
    return CredentialRow(
        id=str(credential.pk),
        name=credential.name,
        endpoint=endpoint_label(credential.endpoint),
        hint=f"…{credential.last4}" if credential.last4 else "…",
        state=state,
        state_text=text,
        list_problem=credential.list_problem,
        spaces=tuple(space["name"] or space["id"] for space in credential.spaces),
        last_good=Moment.of(credential.last_good_at),
        failing_since=Moment.of(credential.failing_since),
        created=Moment.of(credential.created_at),
        expires_on=credential.expires_on.isoformat() if credential.expires_on else "",
        expires_text=_expires_text(_days_left(credential.expires_on, timezone.localdate(now))),
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


def endpoint_label(url: str) -> str:
    return next((f"{region.label} ({region.url})" for region in REGIONS if region.url == url), url)


def result_message(credential: Credential, result: TestResult) -> Message:
    """What a test of the key found."""
    if result.seen is None:
        return Message("error", f"{credential.name}: {result.problem}")
    expiry = f" Arize says that it expires on {result.seen.ends}." if result.seen.ends else ""
    text = f"{credential.name}: {_what_it_sees(result.seen)} {CANCEL_UNTRIED}{expiry}"
    return Message("warning" if result.seen.is_empty else "success", text)


def warnings_of(keys: Iterable[Credential]) -> tuple[Message, ...]:
    """Why data that these keys read may be out of date, now or soon."""
    now = timezone.now()
    warnings = []
    for key in keys:
        state, text = health(key, now)
        if state in {"failing", "waiting"}:
            warnings.append(Message("error" if state == "failing" else "warning", f"Key “{key.name}”: {text}"))
        elif key.list_problem:
            warnings.append(Message("warning", f"Key “{key.name}”: {key.list_problem}"))
        ending = expiry_warning(key, timezone.localdate(now))
        if ending is not None and state != "failing":
            warnings.append(ending)
    return tuple(warnings)


def expiry_warning(credential: Credential, today: date) -> Message | None:
    """For the board. Without the number of days, because the board's ETag covers data, not the date."""
    day = credential.expires_on
    left = _days_left(day, today)
    if left is None:
        return None
    if left < 0:
        return Message("error", f"Key “{credential.name}” expired on {day}: replace it.")
    return Message("warning", f"Key “{credential.name}” expires on {day}: replace it before Arize rejects it.")


def first_contacts(keys: Iterable[Credential]) -> tuple[FirstContact, ...]:
    """For the keys whose first reading is in progress. Makes no query if there are none."""
    reading = [key for key in keys if key.first_contact_done_at is None and key.failing_since is None]
    if not reading:
        return ()
    tasks = Task.objects.filter(credential__in=reading).exclude(arize_id="").order_by()
    counted = tasks.values_list("credential").annotate(Count("runs_read_at"), Count("pk"))
    numbers = {key: (read, total) for key, read, total in counted}
    return tuple(
        FirstContact(key.name, *numbers.get(key.pk, (0, 0)), is_listed=key.tasks_read_at is not None) for key in reading
    )


def _days_left(day: date | None, today: date) -> int | None:
    """Negative after the last day. None if the key does not expire within WARNED_DAYS."""
    left = None if day is None else (day - today).days
    return None if left is None or left > WARNED_DAYS else left


def _expires_text(left: int | None) -> str:
    if left is None:
        return ""
    if left < 0:
        return "expired"
    return {0: "expires today", 1: "expires tomorrow"}.get(left, f"expires in {left} days")


def _what_it_sees(seen: Seen) -> str:
    if seen.is_empty:
        return "Arize accepts the key, but the key sees no space and no task. Give it a role in a space."
    names = [clean_line(space.name or space.id, 60) for space in seen.spaces.items]
    named = ", ".join(names[:SPACES_NAMED]) + (", …" if len(names) > SPACES_NAMED else "")
    in_spaces = _count(len(names), "space", more=bool(seen.spaces.next_cursor)) + (f" ({named})" if named else "")
    number = _count(len(seen.tasks.items), "task", more=bool(seen.tasks.next_cursor))
    return f"The key works. It sees {in_spaces} and {number}."


def _count(number: int, noun: str, *, more: bool) -> str:
    return f"{number}{' or more' if more else ''} {noun}{'' if number == 1 and not more else 's'}"
