"""Display models of the pages of API keys: never the secret, only its last four characters."""

import re
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta

from django.db.models import Count
from django.urls import reverse
from django.utils import timezone

from taskruns.arize.endpoints import REGIONS
from taskruns.audit import clean_line
from taskruns.models import Credential, Membership, Task, TeamRole
from taskruns.permissions import Action, TeamAccess
from taskruns.services.credentials import KeyState, TestResult, state_of
from taskruns.services.credentials.expiry import THRESHOLDS
from taskruns.services.credentials.key_tests import Seen

from .key_usage import Usage, usage_by_key
from .values import Link, Message, Moment, named

WARNED_DAYS = max(THRESHOLDS)  # before a key expires
CANCEL_UNTRIED = "Arize cannot tell in advance whether a key may cancel; you find out at the first cancel."
SPACES_NAMED = 5
MANAGERS_NAMED = 3
RECOVERY_SHOWN = timedelta(days=7)
_TRY_AGAIN = re.compile(r"( Wait a little)?,?( then)? try again[^.]*\.$", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class CredentialRow:
    """`state` is working, failing, waiting or new; `state_text` is a sentence. `expires_text` may be empty.

    `retry_at`: when a failing key is tried again. `recovered`: when Arize lately accepted a failing key again.
    """

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
    retry_at: Moment | None
    recovered: Moment | None
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
        retry_at=Moment.of(credential.retry_at),
        recovered=Moment.of(_recovered(credential, now)),
        created=Moment.of(credential.created_at),
        expires_on=credential.expires_on.isoformat() if credential.expires_on else "",
        expires_text=_expires_text(_days_left(credential.expires_on, timezone.localdate(now))),
        usage=usage,
        replace_url=reverse("credential-replace", args=[slug, credential.pk]),
        test_url=reverse("credential-test", args=[slug, credential.pk]),
        revoke_url=reverse("credential-revoke", args=[slug, credential.pk]),
    )


def _recovered(credential: Credential, now: datetime) -> datetime | None:
    at = credential.recovered_at
    return at if at is not None and credential.failing_since is None and at > now - RECOVERY_SHOWN else None


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


def not_saved(result: TestResult, endpoint: str) -> str:
    """Why a key in a form was not saved, and what to do. There is no stored key yet that a person could test."""
    if not result.is_rejected:
        return f"{result.problem} Nothing was saved."
    return (
        "Arize rejected this API key (401). Nothing was saved. Check that you copied the whole key, that it has not "
        f"expired, and that Arize issued it in this region: {endpoint_label(endpoint)}."
    )


def warnings_of(keys: Iterable[Credential], *, readers: Iterable[TeamAccess] = ()) -> tuple[Message, ...]:
    """Why data that these keys read may be out of date, now or soon. `readers`: the reader's access to their teams."""
    now, keys, mend = timezone.now(), list(keys), _Mend(readers)
    warnings = list(_waiting(key for key in keys if state_of(key, now) is KeyState.WAITING))
    for key in keys:
        state, text = health(key, now)
        if state == KeyState.FAILING:
            warnings.append(mend.said(key, Message("error", f"Key “{key.name}”: {text}")))
        elif key.list_problem and state != KeyState.WAITING:
            warnings.append(Message("warning", f"Key “{key.name}”: {key.list_problem}"))
        ending = expiry_warning(key, timezone.localdate(now))
        if ending is not None and state != KeyState.FAILING:
            warnings.append(mend.said(key, ending))
    return tuple(warnings)


class _Mend:
    """Adds to a warning about a key the way to it, or who can replace it."""

    def __init__(self, readers: Iterable[TeamAccess]) -> None:
        self._by_team = {it.team.pk: it for it in readers}
        self._managers: dict[uuid.UUID, str] = {}

    def said(self, key: Credential, warning: Message) -> Message:
        reader = self._by_team.get(key.team_id)
        if reader is None:
            return warning
        link = None
        if reader.access.may(Action.CREDENTIALS_VIEW):
            link = Link("Open API key", f"{reverse('credentials', args=[reader.team.slug])}#credential-{key.pk}")
        who = "" if reader.access.may(Action.CREDENTIALS_MANAGE) else self._who(key.team_id)
        return replace(warning, text=f"{warning.text} {who}".rstrip(), link=link)

    def _who(self, team_id: uuid.UUID) -> str:
        if team_id not in self._managers:
            self._managers[team_id] = _managers(team_id)
        return self._managers[team_id]


def _managers(team_id: uuid.UUID) -> str:
    members = Membership.objects.in_force().filter(team=team_id, role=TeamRole.MANAGER, user__is_active=True)
    people = [member.user for member in members.select_related("user").order_by("user__email")[: MANAGERS_NAMED + 1]]
    names = [named(person.name, person.email) for person in people]
    if not names:
        return "The team has no manager who can replace it. Ask a site admin."
    more = " and others" if len(names) > MANAGERS_NAMED else ""
    return f"{' or '.join(names[:MANAGERS_NAMED])}{more} can replace it."


def _waiting(keys: Iterable[Credential]) -> Iterator[Message]:
    """One warning for all keys with the same trouble, which are usually all keys: Arize is down."""
    by_reason: dict[str, list[Credential]] = {}
    for key in keys:
        by_reason.setdefault(_without_advice(key.backoff_reason), []).append(key)
    for reason, waiting in by_reason.items():
        names = ", ".join(f"“{key.name}”" for key in waiting)
        since = min((key.backoff_since for key in waiting if key.backoff_since is not None), default=None)
        retrying = f"Retrying automatically{_since(since, waiting[0].backoff_until) if since else ''}."
        yield Message("warning", f"Key{'s' if len(waiting) > 1 else ''} {names}: {reason} {retrying}")


def _without_advice(sentence: str) -> str:
    """Errors end with what a person should do. Here the panel does it."""
    return _TRY_AGAIN.sub("", sentence).rstrip(" .,") + "."


def _since(begun: datetime, until: datetime | None) -> str:
    """` since 19:02 UTC`, with the date if the trouble began on another day."""
    local = timezone.localtime(begun)
    is_same_day = local.date() == timezone.localtime(until).date()
    return local.strftime(f" since {'' if is_same_day else '%Y-%m-%d '}%H:%M {local.tzname()}")


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
