"""What the keys pages show. A key itself is never part of it: only the last four characters that the row holds."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta

from django.db.models import Count
from django.urls import reverse
from django.utils import timezone

from taskruns.arize.endpoints import REGIONS
from taskruns.audit import clean_line
from taskruns.models import Credential, KeyUsage, Task
from taskruns.services.credentials import KeyState, TestResult, state_of
from taskruns.services.credentials.expiry import THRESHOLDS
from taskruns.services.credentials.health import Seen

from .values import Message, Moment

TOLD_DAYS = max(THRESHOLDS)  # so many days before its end people are told
CANCEL_UNTRIED = "Arize cannot tell in advance whether it may cancel; you find out at the first cancel."
SPACES_NAMED = 5

# The use of a key, hour by hour, is a row of small bars.
HOURS = 24
SLOT, BAR, HEIGHT, MARK = 8, 6, 24, 5  # in the units of the picture
SMALLEST = 1.5  # one call is seen beside thousands


@dataclass(frozen=True, slots=True)
class _Hour:
    calls: int = 0
    limited: int = 0


@dataclass(frozen=True, slots=True)
class Usage:
    """`path` draws all calls of the hours, `limited_path` marks on top of those in which Arize answered 429."""

    numbers: str
    path: str
    limited_path: str
    summary: str
    width: int = HOURS * SLOT
    height: int = HEIGHT


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


def credential_rows(keys: Iterable[Credential], *, slug: str, now: datetime) -> tuple[CredentialRow, ...]:
    """With the use of each key in the last 24 hours."""
    keys = list(keys)
    usage = _usage_by_key(keys)
    return tuple(credential_row(key, slug=slug, now=now, usage=usage[key]) for key in keys)


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


def result_message(credential: Credential, result: TestResult) -> Message:
    """What a test of the key found."""
    if result.seen is None:
        return Message("error", f"{credential.name}: {result.problem}")
    expiry = f" Arize says that it expires on {result.seen.ends}." if result.seen.ends else ""
    text = f"{credential.name}: {_what_it_sees(result.seen)} {CANCEL_UNTRIED}{expiry}"
    return Message("warning" if result.seen.is_nothing else "success", text)


def _what_it_sees(seen: Seen) -> str:
    if seen.is_nothing:
        return "Arize accepts the key, but it sees no space and no task: give it a role in a space."
    names = [clean_line(space.name or space.id, 60) for space in seen.spaces.items]
    named = ", ".join(names[:SPACES_NAMED]) + (", …" if len(names) > SPACES_NAMED else "")
    in_spaces = _count(len(names), "space", more=bool(seen.spaces.next_cursor)) + (f" ({named})" if named else "")
    number = _count(len(seen.tasks.items), "task", more=bool(seen.tasks.next_cursor))
    return f"The key works. It sees {in_spaces} and {number}."


def _count(number: int, noun: str, *, more: bool) -> str:
    return f"{number}{' or more' if more else ''} {noun}{'' if number == 1 and not more else 's'}"


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


def first_contacts(keys: Iterable[Credential]) -> tuple[FirstContact, ...]:
    """How far first contact is, for those of the keys where it is in progress. Without any, no query is made."""
    reading = [key for key in keys if key.first_contact_done_at is None and key.failing_since is None]
    if not reading:
        return ()
    tasks = Task.objects.filter(credential__in=reading).exclude(arize_id="").order_by()
    counted = tasks.values_list("credential").annotate(Count("runs_read_at"), Count("pk"))
    numbers = {key: (read, total) for key, read, total in counted}
    return tuple(
        FirstContact(key.name, *numbers.get(key.pk, (0, 0)), is_listed=key.tasks_read_at is not None) for key in reading
    )


def _usage_by_key(keys: Iterable[Credential]) -> dict[Credential, Usage]:
    """The last 24 hours of each key, the one at hand included. One query."""
    this_hour = timezone.now().replace(minute=0, second=0, microsecond=0)
    starts = [this_hour - timedelta(hours=back) for back in reversed(range(HOURS))]
    keys = list(keys)
    rows = KeyUsage.objects.filter(credential__in=keys, hour__gte=starts[0])
    counts = {(row.credential_id, row.hour): _Hour(row.calls, row.limited) for row in rows}
    return {key: _usage(starts, [counts.get((key.pk, start), _Hour()) for start in starts]) for key in keys}


def _usage(starts: Sequence[datetime], hours: Sequence[_Hour]) -> Usage:
    day, limited = sum(hour.calls for hour in hours), sum(hour.limited for hour in hours)
    most = max((hour.calls for hour in hours), default=0)
    heights = [max(SMALLEST, (HEIGHT - MARK - 1) * hour.calls / most) if hour.calls else 0.0 for hour in hours]
    return Usage(
        numbers=_numbers(hours[-1], day, limited),
        path="".join(_bar(slot, height) for slot, height in enumerate(heights) if height),
        limited_path="".join(_mark(slot, heights[slot]) for slot, hour in enumerate(hours) if hour.limited),
        summary=_summary(starts, hours, day, limited),
    )


def _numbers(now: _Hour, day: int, limited: int) -> str:
    """`2,304 in 24 h, 120 this hour; 12 answered 429, 3 this hour`"""
    refused = f"; {limited:,} answered 429" if limited else ""
    refused += f", {now.limited:,} this hour" if now.limited else ""
    return f"{day:,} in 24 h, {now.calls:,} this hour{refused}"


def _summary(starts: Sequence[datetime], hours: Sequence[_Hour], day: int, limited: int) -> str:
    """`Last 24 hours: 2,304 calls, 12 of them answered 429. Most in one hour: 180, from 03:00.`"""
    if not day:
        return "No calls in the last 24 hours."
    busiest = max(range(len(hours)), key=lambda slot: hours[slot].calls)
    moment = Moment.of(starts[busiest])
    refused = f", {limited:,} of them answered 429" if limited else ""
    since = moment.text[11:16] if moment else ""
    calls = f"{day:,} call{'' if day == 1 else 's'}"
    return f"Last 24 hours: {calls}{refused}. Most in one hour: {hours[busiest].calls:,}, from {since}."


def _bar(slot: int, height: float) -> str:
    left = slot * SLOT + (SLOT - BAR) // 2
    return f"M{left} {HEIGHT}v-{height:.1f}h{BAR}v{height:.1f}z"


def _mark(slot: int, height: float) -> str:
    """A small triangle above the bar: a shape, not a colour alone."""
    left, top = slot * SLOT + (SLOT - BAR) // 2, HEIGHT - height - MARK - 0.5
    return f"M{left} {top:.1f}h{BAR}l-{BAR / 2:g} {MARK}z"
