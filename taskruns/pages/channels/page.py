"""Display models of the pages of channels. No address is among them: only its last characters, for managers."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from django.conf import settings
from django.db.models import Q, QuerySet
from django.urls import reverse
from django.utils import timezone

from taskruns.models import (
    ArizeHook,
    Channel,
    ChannelKind,
    Delivery,
    DeliveryState,
    Happening,
    HookAuth,
    Rule,
    RunNotice,
    SavedView,
    Team,
    User,
)
from taskruns.models.channels import TO_SEND
from taskruns.pages.saved_views import Choice, choices_of, visible
from taskruns.pages.stops import until_words
from taskruns.pages.values import Link, Message, Moment, counted
from taskruns.permissions import Action, TeamAccess
from taskruns.services.saved_views import read

from .messages import WORDS, message_of
from .troubles import trouble_of

SHOWN = 50  # deliveries
LISTED = 3  # events of a rule, in the list of channels
KIND_WORDS = {
    ChannelKind.EMAIL: "Email",
    ChannelKind.SLACK: "Slack, Mattermost, Rocket.Chat or Discord",
    ChannelKind.WEBHOOK: "Signed webhook",
    ChannelKind.TEAMS: "Microsoft Teams",
    ChannelKind.PAGERDUTY: "PagerDuty",
}
_STATES = {
    DeliveryState.HELD: ("held", "clock"),
    DeliveryState.QUEUED: ("queued", "clock"),
    DeliveryState.SENDING: ("sending", "clock"),
    DeliveryState.SENT: ("sent", "check"),
    DeliveryState.FAILED: ("failed, retrying", "x-mark"),
    DeliveryState.GIVEN_UP: ("given up", "no-symbol"),
}


@dataclass(frozen=True, slots=True)
class RuleRow:
    id: str
    events: tuple[str, ...]
    choices: tuple[Choice, ...]
    quiet: str
    change_url: str
    remove_url: str

    @property
    def more(self) -> int:
        """The number of events that the list of channels does not name."""
        return max(0, len(self.events) - LISTED)


@dataclass(frozen=True, slots=True)
class ChannelRow:
    """`state`: working, failing, muted, off or new, with its sentence. `hint`: empty for people who may not manage."""

    id: str
    name: str
    kind: str
    hint: str
    state: str
    state_text: str
    since: Moment | None
    until: Moment | None
    missed: str
    last_sent: Moment | None
    by: str
    created: Moment | None
    rules: tuple[RuleRow, ...]
    url: str


@dataclass(frozen=True, slots=True)
class DeliveryRow:
    title: str
    event: str
    at: Moment | None
    state: str
    word: str
    icon: str
    attempts: int
    trouble: str
    next_try: Moment | None
    sent: Moment | None


@dataclass(frozen=True, slots=True)
class ChannelPage:
    """`is_moving`: some delivery may change soon, so the page polls."""

    row: ChannelRow
    deliveries: tuple[DeliveryRow, ...]
    held: int
    is_moving: bool


def channel_rows(team_access: TeamAccess) -> tuple[ChannelRow, ...]:
    channels = Channel.objects.live().filter(team=team_access.team).prefetch_related("rules").order_by("name", "pk")
    return tuple(channel_row(channel, team_access) for channel in channels)


def channel_row(channel: Channel, team_access: TeamAccess) -> ChannelRow:
    now, slug = timezone.now(), team_access.team.slug
    state, text, since, until = _state(channel, now)
    may_manage = team_access.access.may(Action.CHANNELS_MANAGE)
    return ChannelRow(
        id=str(channel.pk),
        name=channel.name,
        kind=KIND_WORDS[ChannelKind(channel.kind)],
        hint=f"…{channel.hint}" if may_manage and channel.hint else "",
        state=state,
        state_text=text,
        since=Moment.of(since),
        until=Moment.of(until),
        missed=counted(channel.missed, "message was", "messages were", "not sent") if channel.is_silent(now) else "",
        last_sent=Moment.of(channel.last_sent_at),
        by=channel.created_by_label,
        created=Moment.of(channel.created_at),
        rules=tuple(_rule_row(rule, slug) for rule in sorted(channel.rules.all(), key=lambda it: it.created_at)),
        url=reverse("channel", args=[slug, channel.pk]),
    )


def channel_page(channel: Channel, team_access: TeamAccess) -> ChannelPage:
    deliveries = Delivery.objects.filter(channel=channel, summary=None)
    shown = deliveries.exclude(state=DeliveryState.HELD).select_related("team", "channel", "run")
    rows = list(shown.order_by("-created_at", "-pk")[:SHOWN])
    return ChannelPage(
        row=channel_row(channel, team_access),
        deliveries=tuple(map(_delivery_row, rows)),
        held=deliveries.filter(state=DeliveryState.HELD).count(),
        is_moving=any(row.state in TO_SEND for row in rows),
    )


def silent_channels(team: Team) -> tuple[Message, ...]:
    """Where people would miss its messages: each channel that is muted, or that cannot send."""
    now = timezone.now()
    return tuple(message for channel in _silent(team, now) for message in _silence(channel, team, now))


@dataclass(frozen=True, slots=True)
class RunNoticeForm:
    """`is_asked`: the person gets a mail when the run ends."""

    url: str
    is_asked: bool


def run_notice(run_id: UUID, slug: str, person: User) -> RunNoticeForm | None:
    """None if the panel sends no mail."""
    if not settings.MAILS:
        return None
    is_asked = RunNotice.objects.filter(run=run_id, person=person).exists()
    return RunNoticeForm(reverse("run-notice", args=[slug, run_id]), is_asked)


@dataclass(frozen=True, slots=True)
class HookPage:
    """The address for Arize's webhook, without the address. `auth`: empty until its secret is stored."""

    auth: str
    by: str
    created: Moment | None
    last_event: Moment | None


def hook_of(team: Team) -> HookPage | None:
    hook = ArizeHook.objects.filter(team=team, removed_at=None).first()
    if hook is None:
        return None
    auth = HookAuth(hook.auth).label if hook.ciphertext else ""
    return HookPage(auth, hook.created_by_label, Moment.of(hook.created_at), Moment.of(hook.last_event_at))


def event_choices() -> Iterator[tuple[str, str]]:
    return ((event, WORDS[event].label) for event in Happening.values)


def kind_choices() -> Iterator[tuple[str, str]]:
    """Without mail if the panel sends none."""
    kinds = (kind for kind in ChannelKind if settings.MAILS or kind is not ChannelKind.EMAIL)
    return ((kind.value, KIND_WORDS[kind]) for kind in kinds)


def view_choices(team: Team, person: User) -> list[tuple[str, str]]:
    return [(str(view.pk), view.name) for view in visible(team, person).order_by("name") if read(view.query)[0]]


def query_of_view(team: Team, person: User, view_id: str) -> str:
    """The filter of a saved view that the person sees."""
    view: SavedView | None = visible(team, person).filter(pk=view_id).first() if view_id else None
    return view.query if view else ""


def _silent(team: Team, now: datetime) -> "QuerySet[Channel]":
    channels = Channel.objects.live().filter(team=team)
    return channels.filter(Q(muted_until__gt=now) | Q(failing_since__isnull=False, is_on=True)).order_by("name")


def _silence(channel: Channel, team: Team, now: datetime) -> Iterator[Message]:
    link = Link("View the channel", reverse("channel", args=[team.slug, channel.pk]))
    if not channel.is_on:
        return
    if channel.is_muted(now):
        until = until_words(channel.muted_until) if channel.muted_until else ""
        text = f"Channel “{channel.name}” is muted until {until} by {channel.muted_by_label}: it sends nothing."
        yield Message("warning", text, link)
    elif channel.failing_since is not None:
        trouble = trouble_of(channel.failure, channel.failure_status)
        yield Message("error", f"Channel “{channel.name}” cannot send. {trouble}", link)


def _state(channel: Channel, now: datetime) -> tuple[str, str, datetime | None, datetime | None]:
    if not channel.is_on:
        return "off", "Turned off: it sends nothing.", None, None
    if channel.is_muted(now):
        return "muted", f"Muted by {channel.muted_by_label}.", None, channel.muted_until
    if channel.failing_since is not None:
        return "failing", trouble_of(channel.failure, channel.failure_status), channel.failing_since, None
    if channel.last_sent_at is None:
        return "new", "Nothing sent yet.", None, None
    return "working", "Working.", None, None


def _rule_row(rule: Rule, slug: str) -> RuleRow:
    args = [slug, rule.channel_id, rule.pk]
    events = tuple(WORDS[event].label + _threshold(rule, event) for event in rule.events if event in WORDS)
    quiet = f"at most one every {rule.quiet_minutes} min" if rule.quiet_minutes else "each at once"
    return RuleRow(
        id=str(rule.pk),
        events=events,
        choices=choices_of(rule.query) if rule.query else (),
        quiet=quiet,
        change_url=reverse("channel-rule", args=args),
        remove_url=reverse("channel-rule-remove", args=args),
    )


def _threshold(rule: Rule, event: str) -> str:
    said = {
        Happening.RUN_WITH_ERRORS: f"at least {rule.min_error_share} %" if rule.min_error_share else "",
        Happening.RUN_LONGER: f"over {rule.usual_percent} %",
        Happening.RUN_RUNNING: f"over {rule.running_minutes} min",
        Happening.RUN_PENDING: f"over {rule.pending_minutes} min",
        Happening.RUN_IDLE: f"for {rule.idle_minutes} min",
    }.get(Happening(event), "")
    return f" ({said})" if said else ""


def _delivery_row(delivery: Delivery) -> DeliveryRow:
    word, icon = _STATES[DeliveryState(delivery.state)]
    is_waiting = delivery.state == DeliveryState.FAILED
    return DeliveryRow(
        title=f"{'Over: ' if delivery.is_resolve else ''}{message_of(delivery).title}",
        event=delivery.event,
        at=Moment.of(delivery.at),
        state=delivery.state,
        word=word,
        icon=icon,
        attempts=delivery.attempts,
        trouble=trouble_of(delivery.failure, delivery.status),
        next_try=Moment.of(delivery.next_try_at) if is_waiting else None,
        sent=Moment.of(delivery.sent_at),
    )
