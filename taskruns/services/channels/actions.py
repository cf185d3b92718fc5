"""What people do with channels. An address is never shown again after it was saved."""

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from django.core.exceptions import TooManyFieldsSent
from django.db import transaction
from django.http import QueryDict
from django.utils import timezone
from django.views.decorators.debug import sensitive_variables

from taskruns.audit import Actor, EventType, Target, clean_line, record
from taskruns.audit.record import chain_of
from taskruns.encryption import DecryptionFailed
from taskruns.forms import BadFilter, BoardFilter, refuse_unknown
from taskruns.models import (
    AuditChain,
    Channel,
    ChannelKind,
    Delivery,
    DeliveryState,
    Happening,
    Limit,
    LogPosition,
    Rule,
    SignInCount,
    Team,
)
from taskruns.models.channels import KEEPS_INCIDENTS, LONGEST_MUTE, TEST, UNSENT
from taskruns.models.restores import is_resting
from taskruns.services import key_ring
from taskruns.services.teams import lock_team
from taskruns.services.user_errors import UserError

from .addresses import Destination, checked_name, destination, destination_of, looks_secret
from .sending import CLAIM

LONGEST_NAME = 100
LONGEST_QUERY = 6_000
MOST_CHANNELS, MOST_RULES = 50, 100  # of a team: each event may make a message for each rule
LONGEST_QUIET = 24 * 60  # minutes
TESTS = Limit("channel tests", 10, timedelta(minutes=1))  # of a team: each goes to a receiver outside
RESTING = (
    "This panel was restored from a backup and not adopted yet, so it sends no messages. Ask your administrator to run "
    "`manage.py restore --adopt`."
)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a rule asks for, as a person gave it."""

    events: tuple[str, ...]
    query: str = ""
    quiet_minutes: int = 0
    min_error_share: int = 0
    usual_percent: int = 200
    running_minutes: int = 60
    pending_minutes: int = 10
    idle_minutes: int = 10


# Of a rule, each with its least and its most.
_NUMBERS = {
    "quiet_minutes": (0, LONGEST_QUIET, "The quiet time must be from 0 to 1,440 minutes."),
    "min_error_share": (0, 100, "The share of errors must be from 0 to 100 percent."),
    "usual_percent": (101, 10_000, "The duration must be from 101 to 10,000 percent of the usual one."),
    **dict.fromkeys(
        ("running_minutes", "pending_minutes", "idle_minutes"),
        (1, 30_000, "The minutes must be a number from 1 to 30,000."),
    ),
}


@dataclass(frozen=True, slots=True)
class Added:
    """`signing`: the new signing secret of a signed webhook, to be shown once; else empty."""

    channel: Channel
    signing: str = field(default="", repr=False)


@sensitive_variables()
def add(team: Team, *, name: str, kind: str, address: str, wanted: Wanted, by: Actor) -> Added:
    """Add a channel with one rule. Raises UserError."""
    name, of_kind, checked = _clean_name(name), _checked_kind(kind), _checked(wanted)
    to = destination(of_kind, address)
    channel = Channel(team=team, name=name, kind=of_kind, created_by=by.person, created_by_label=by.label)
    with transaction.atomic():
        key_ring.check_newest()
        channel.encrypt_secret(to.as_json())
        channel.hint = to.hint
        lock_team(team)
        _refuse_taken(team, name)
        others = Channel.objects.filter(team=team, removed_at=None).count()
        if others >= MOST_CHANNELS:
            raise UserError(f"The team already has {MOST_CHANNELS} channels. Remove one first.")
        _refuse_more_rules(team)
        _read_the_log_from_here(team, is_first=not others)
        channel.save(force_insert=True)
        _save(Rule(channel=channel), checked)
        record(
            EventType.CHANNEL_ADD,
            "done",
            by=by,
            team=team,
            target=target_of(channel),
            details={"kind": of_kind.value, **_details(checked)},
        )
    return Added(channel, to.signing)


@sensitive_variables()
def change(channel: Channel, *, name: str, is_on: bool, address: str, by: Actor) -> bool:
    """Rename it, turn it on or off, or give it another address (empty: the same). False if unchanged.

    Turned off, it drops what it has not sent. Turned on, it tells only what happens from then on. Raises UserError.
    """
    name = _clean_name(name)
    with transaction.atomic():
        lock_team(channel.team)
        row = _locked(channel)
        changed = [what for what, new in (("name", name), ("is_on", is_on)) if getattr(row, what) != new]
        if address.strip():
            changed += _readdress(row, address)
        if not changed:
            return False
        if "name" in changed:
            _refuse_taken(row.team, name, besides=row)
        row.name, row.is_on = name, is_on
        if "is_on" in changed:
            missed = row.missed if row.is_muted(timezone.now()) else 0
            row.missed = missed if is_on else missed + _drop(row)
            Rule.objects.filter(channel=row).update(since=timezone.now(), quiet_until=None)
        row.save()
        record(
            EventType.CHANNEL_CHANGE, "done", by=by, team=row.team, target=target_of(row), details={"changed": changed}
        )
    channel.refresh_from_db()
    return True


def remove(channel: Channel, *, by: Actor) -> bool:
    """Delete its address, its rules and what it has not sent. False if it was already removed."""
    with transaction.atomic():
        row = (
            Channel.objects.select_for_update(of=("self",), no_key=True).filter(pk=channel.pk, removed_at=None).first()
        )
        if row is None:
            return False
        dropped = _drop(row)
        # Nothing can be sent any more: no address. What a worker is just sending needs its row no longer either.
        Delivery.objects.filter(channel=row, state__in=UNSENT).delete()
        Rule.objects.filter(channel=row).delete()
        Channel.objects.filter(pk=row.pk).update(removed_at=timezone.now(), ciphertext="", hint="")
        record(
            EventType.CHANNEL_REMOVE,
            "done",
            by=by,
            team=channel.team,
            target=target_of(row),
            details={"kind": row.kind, "messages_dropped": dropped},
        )
    return True


def mute(channel: Channel, *, until: datetime, by: Actor) -> None:
    """Send nothing until then, and drop what was not sent yet. Raises UserError."""
    now = timezone.now()
    if not now < until <= now + LONGEST_MUTE:
        raise UserError(f"Choose a time within the next {LONGEST_MUTE.days} days. Nothing was muted.", field="until")
    with transaction.atomic():
        row = _locked(channel)
        dropped = _drop(row)
        missed = row.missed if row.is_silent(now) else 0
        Channel.objects.filter(pk=row.pk).update(muted_until=until, muted_by_label=by.label, missed=missed + dropped)
        details = {"until": until.isoformat(), "messages_dropped": dropped}
        record(EventType.CHANNEL_MUTE, "done", by=by, team=row.team, target=target_of(row), details=details)
    channel.refresh_from_db()


def unmute(channel: Channel, *, by: Actor) -> bool:
    """False if it was not muted."""
    with transaction.atomic():
        row = _locked(channel)
        if row.muted_until is None:
            return False
        missed = 0 if row.is_on else row.missed
        Channel.objects.filter(pk=row.pk).update(muted_until=None, muted_by_label="", missed=missed)
        record(EventType.CHANNEL_MUTE, "done", by=by, team=row.team, target=target_of(row), details={"until": None})
    channel.refresh_from_db()
    return True


def send_test(channel: Channel, *, by: Actor, is_claimed: bool = False) -> Delivery:
    """Queue a test message: also while the channel is muted, because a person asks for it. `is_claimed`: the caller
    sends it at once, instead of a worker. Raises UserError.
    """
    if is_resting():
        raise UserError(f"Nothing was sent. {RESTING}")
    if by.person is not None and not SignInCount.objects.try_count(TESTS, str(channel.team_id)):
        raise UserError("The team has sent too many tests in the last minute. Nothing was sent. Wait a minute.")
    with transaction.atomic():
        row = _locked(channel)
        delivery = Delivery(team=row.team, channel=row, event=TEST, state=DeliveryState.QUEUED, at=timezone.now())
        delivery.recipient = delivery.fact = f"test:{delivery.pk}"
        delivery.is_open = row.kind in KEEPS_INCIDENTS
        delivery.data = {"who": by.label, "subject": str(delivery.pk)}
        if is_claimed:
            delivery.state, delivery.claimed_until = DeliveryState.SENDING, timezone.now() + CLAIM
            delivery.attempts = 1
        delivery.save(force_insert=True)
        Channel.objects.filter(pk=row.pk).update(rests_until=None)
        record(EventType.CHANNEL_TEST, "done", by=by, team=row.team, target=target_of(row), details={"kind": row.kind})
    return delivery


def save_rule(channel: Channel, wanted: Wanted, *, rule: Rule | None = None, by: Actor) -> Rule:
    """Add a rule, or change one. Only what happens from now on is told. Raises UserError."""
    checked = _checked(wanted)
    with transaction.atomic():
        lock_team(channel.team)
        row = _locked(channel)
        if rule is None:
            _refuse_more_rules(row.team)
            rule = Rule(channel=row)
        elif not Rule.objects.filter(pk=rule.pk).exists():
            raise UserError("This rule was removed. Add a new one.")
        saved = _save(rule, checked)
        details = {"changed": ["rules"], "rule": str(saved.pk), **_details(checked)}
        record(EventType.CHANNEL_CHANGE, "done", by=by, team=row.team, target=target_of(row), details=details)
    return saved


def remove_rule(rule: Rule, *, by: Actor) -> None:
    """Delete it and the messages that it holds. Nothing is recorded if another person was faster. Raises UserError."""
    with transaction.atomic():
        row = _locked(rule.channel)
        Delivery.objects.filter(rule=rule, state=DeliveryState.HELD).delete()
        if not Rule.objects.filter(pk=rule.pk).delete()[0]:
            return
        details = {"changed": ["rules"], "rule": str(rule.pk)}
        record(EventType.CHANNEL_CHANGE, "done", by=by, team=row.team, target=target_of(row), details=details)


def find_live(team: Team, name: str) -> Channel | None:
    """The team's channel with this name, ignoring case."""
    wanted = clean_line(name, LONGEST_NAME).casefold()
    live = Channel.objects.filter(team=team, removed_at=None)
    return next((channel for channel in live if channel.name.casefold() == wanted), None)


def target_of(channel: Channel) -> Target:
    return Target("channel", str(channel.pk), channel.name)


def canonical(query: str) -> str:
    """A board filter as a rule stores it. A name or value that filters nothing is refused: a mistyped filter must not
    match every run. Raises UserError.
    """
    if len(query) > LONGEST_QUERY:
        raise UserError(f"The filter is too long. The limit is {LONGEST_QUERY:,} characters.", field="query")
    try:
        given = QueryDict(query.strip().removeprefix("?"), mutable=True)
        for name in ("cursor", "sort"):
            given.pop(name, None)
        _refuse_secrets(*given, field="query")
        refuse_unknown(given)
        wanted = BoardFilter.parse(given).unsorted().query().removeprefix("?")
    except BadFilter as error:
        raise UserError(str(error), field="query") from None
    except TooManyFieldsSent:
        raise UserError("The filter has too many parameters.", field="query") from None
    for name in sorted(given.keys() - QueryDict(wanted).keys()):
        raise UserError(f"The filter “{name}” has no value. Give it one, or leave it out.", field="query")
    return wanted


def _clean_name(name: str) -> str:
    cleaned = clean_line(name, LONGEST_NAME + 1)
    if not cleaned:
        raise UserError("Enter a name for the channel.", field="name")
    if len(cleaned) > LONGEST_NAME:
        raise UserError(f"The name is too long. The limit is {LONGEST_NAME} characters.", field="name")
    return checked_name(cleaned)


def _refuse_secrets(*names: str, field: str) -> None:
    """Before a sentence repeats a name that is not known."""
    if any(map(looks_secret, names)):
        raise UserError("This looks like an address or a secret. Enter it in its own field.", field=field)


def _checked_kind(kind: str) -> ChannelKind:
    if kind not in ChannelKind.values:
        known = ", ".join(ChannelKind.values)
        raise UserError(f"There is no such kind of channel. Use one of: {known}.", field="kind")
    return ChannelKind(kind)


def _checked(wanted: Wanted) -> Wanted:
    _refuse_secrets(*wanted.events, field="events")
    unknown = next((event for event in wanted.events if event not in Happening.values), None)
    if unknown is not None:
        raise UserError(f"There is no event “{clean_line(unknown, 50)}”. Check its spelling.", field="events")
    if not wanted.events:
        raise UserError("Choose at least one event.", field="events")
    for name, (least, most, sentence) in _NUMBERS.items():
        if not least <= getattr(wanted, name) <= most:
            raise UserError(sentence, field=name)
    events = tuple(event for event in Happening.values if event in wanted.events)
    return replace(wanted, events=events, query=canonical(wanted.query))


def _save(rule: Rule, checked: Wanted) -> Rule:
    rule.events, rule.query = list(checked.events), checked.query
    for name in _NUMBERS:
        setattr(rule, name, getattr(checked, name))
    rule.since = timezone.now()
    rule.save()
    return rule


def _details(checked: Wanted) -> dict[str, object]:
    found: dict[str, object] = {"events": list(checked.events), "query": checked.query}
    return found | {name: getattr(checked, name) for name in _NUMBERS}


def _refuse_more_rules(team: Team) -> None:
    if Rule.objects.filter(channel__team=team, channel__removed_at=None).count() >= MOST_RULES:
        raise UserError(f"The team's channels already have {MOST_RULES} rules. Remove one first.")


def _locked(channel: Channel) -> Channel:
    rows = Channel.objects.live().select_for_update(of=("self",), no_key=True).select_related("team")
    row = rows.filter(pk=channel.pk).first()
    if row is None:
        raise UserError("This channel was removed. Add a new one.")
    return row


def _refuse_taken(team: Team, name: str, *, besides: Channel | None = None) -> None:
    known = find_live(team, name)
    if known is not None and (besides is None or known.pk != besides.pk):
        raise UserError(f"The team already has a channel named {name}. Choose another name.", field="name")


def _read_the_log_from_here(team: Team, *, is_first: bool) -> None:
    """What the log holds already is not told. Other channels may not have been told all of it yet."""
    seq = AuditChain.objects.filter(chain=chain_of(team.pk)).values_list("seq", flat=True).first() or 0
    if is_first:
        LogPosition.objects.filter(team=team).update(seq=seq)
    LogPosition.objects.get_or_create(team=team, defaults={"seq": seq})


@sensitive_variables()
def _readdress(row: Channel, address: str) -> list[str]:
    """Set the new address, and keep the signing secret. Returns what changed."""
    before = _known(row)
    to = destination(ChannelKind(row.kind), address, signing=before.signing if before else "")
    if before == to:
        return []
    key_ring.check_newest()
    row.encrypt_secret(to.as_json())
    row.hint = to.hint
    row.failing_since = row.rests_until = None
    row.failure, row.failure_status, row.failures = "", None, 0
    return ["address"]


def _known(row: Channel) -> Destination | None:
    try:
        return destination_of(row)
    except DecryptionFailed:
        return None


def _drop(row: Channel) -> int:
    """Delete what was not sent, and return how many. Tests, ends of incidents and what a worker is just sending, alone
    or in a summary, stay.
    """
    unsent = Delivery.objects.filter(channel=row, state__in=UNSENT).exclude(state=DeliveryState.SENDING)
    unsent = unsent.exclude(summary__state=DeliveryState.SENDING)
    return unsent.exclude(event=TEST).exclude(fact__endswith=":resolve").delete()[0]
