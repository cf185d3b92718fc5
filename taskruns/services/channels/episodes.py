"""What only time brings: a run that takes too long, a cancel that stopped nothing, a stop that ends soon, an Arize that
cannot be reached, a token that expires or stops.

Decided every few seconds on stored stamps, and never on a reading that is too old: then nobody knows what the run does.
Each episode is a row, so it is told once; the row and its deliveries are one transaction.
"""

import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime, timedelta

from django.db import transaction
from django.db.models import Exists, OuterRef, Q
from django.utils import timezone

from taskruns.models import (
    Cancellation,
    Channel,
    Credential,
    EmergencyStop,
    Episode,
    Happening,
    Outcome,
    Rule,
    Run,
    Team,
    Token,
)
from taskruns.models.batches import OPEN_ITEMS
from taskruns.models.channels import OF_ACTIVE_RUNS, OF_TIME
from taskruns.models.restores import is_resting
from taskruns.models.runs import true_time
from taskruns.services.tokens.access import (
    LAPSES_WITHIN,
    lapse_of,
    lapses_soon,
    maker_problem,
    with_lapse,
    with_maker_role,
)
from taskruns.services.tokens.clock import THRESHOLDS, threshold_of

from .incidents import has_incidents, resolve
from .matching import Fact, about, deliver_facts, free, matching_runs, write_deliveries

# Twice the pace at which a key with active runs is read while nobody looks at a board.
READ_WITHIN = timedelta(seconds=60)
UNKNOWN_FOR = timedelta(minutes=2)
LATELY = timedelta(hours=1)  # an older end of a cancel is no news
EXPIRING = timedelta(hours=1)
UNREACHABLE_AFTER = timedelta(minutes=5)
KEPT = timedelta(days=400)
CHUNK = 1_000

# Event -> when the episode began, if the rule's threshold is passed now.
_Began = Callable[[Rule, Run, datetime], datetime | None]


def notice_time() -> None:
    """Begin and end the episodes of all teams whose rules ask for them."""
    if is_resting():
        return
    rules: dict[uuid.UUID, list[Rule]] = {}
    for rule in Rule.objects.filter(channel__in=Channel.objects.live()).select_related("channel"):
        if OF_TIME & set(rule.events):
            rules.setdefault(rule.channel.team_id, []).append(rule)
    for team in Team.objects.filter(pk__in=rules):
        _of_team(team, rules[team.pk])
    resolve()


def asks_for_time() -> bool:
    """Whether some rule asks for what only time brings."""
    events = Rule.objects.filter(channel__in=Channel.objects.live()).values_list("events", flat=True)
    return any(OF_TIME & set(asked) for asked in events) or has_incidents()


def forget_old() -> bool:
    """Delete a chunk of old episodes. True if there may be more."""
    old = Episode.objects.filter(created_at__lt=timezone.now() - KEPT).order_by("created_at")
    ids = list(old.values_list("pk", flat=True)[:CHUNK])
    Episode.objects.filter(pk__in=ids).delete()
    return len(ids) == CHUNK


def _of_team(team: Team, rules: Iterable[Rule]) -> None:
    rules = list(rules)
    events = {event for rule in rules for event in rule.events}
    now = timezone.now()
    if OF_ACTIVE_RUNS & events:
        runs = list(_runs_read_lately(team, now))
        for rule in rules:
            _of_rule(team, rule, runs, now)
    # A recovery is the end of an outage, so both need its episode.
    events |= {Happening.ARIZE_UNREACHABLE.value} if Happening.ARIZE_RECOVERED in events else set()
    found = [fact for event, find in _OF_TEAM.items() if event.value in events for fact in find(team, now)]
    if found:
        _begin(team, found)
    if Happening.ARIZE_UNREACHABLE in events:
        _end_outages(team, now)


# Active runs, by the thresholds of each rule


def _runs_read_lately(team: Team, now: datetime) -> Iterator[Run]:
    """With the reading that says that they are still active."""
    active = Run.objects.filter(team=team, rank=1, observed_at__gt=now - READ_WITHIN)
    return active.select_related("task").iterator(chunk_size=CHUNK)


def _longer(rule: Rule, run: Run, now: datetime) -> datetime | None:
    started, usual = true_time(run.run_started_at), run.task.usual_seconds
    if started is None or not usual:
        return None
    return started if (now - started).total_seconds() * 100 > usual * rule.usual_percent else None


def _running(rule: Rule, run: Run, now: datetime) -> datetime | None:
    started = true_time(run.run_started_at)
    is_long = started is not None and now - started > timedelta(minutes=rule.running_minutes)
    return started if is_long else None


def _pending(rule: Rule, run: Run, now: datetime) -> datetime | None:
    created = true_time(run.created_at) or run.first_seen_at
    is_long = run.status == "pending" and now - created > timedelta(minutes=rule.pending_minutes)
    return created if is_long else None


def _idle(rule: Rule, run: Run, now: datetime) -> datetime | None:
    changed = run.progress_changed_at
    is_long = run.status == "running" and changed is not None and now - changed > timedelta(minutes=rule.idle_minutes)
    return changed if is_long else None


_OF_RUN: Mapping[Happening, _Began] = {
    Happening.RUN_LONGER: _longer,
    Happening.RUN_RUNNING: _running,
    Happening.RUN_PENDING: _pending,
    Happening.RUN_IDLE: _idle,
}


def _of_rule(team: Team, rule: Rule, runs: Iterable[Run], now: datetime) -> None:
    facts = [
        Fact(event, now, str(run.pk), run, about(run), began)
        for event, began_at in _OF_RUN.items()
        if event.value in rule.events
        for run in runs
        if (began := began_at(rule, run, now)) is not None
    ]
    new = _untold(facts, rule)
    if new and rule.query:
        found = matching_runs(team, rule.query, [fact.run.pk for fact in new if fact.run is not None])
        new = [fact for fact in new if fact.run is not None and fact.run.pk in found]
    if new:
        _begin_for_rule(team, rule, new)


@transaction.atomic
def _begin_for_rule(team: Team, rule: Rule, facts: list[Fact]) -> None:
    """Under the rule's lock, so that two workers tell it once."""
    held = free(Rule.objects.filter(pk=rule.pk).select_related("channel")).first()
    new = _untold(facts, rule)
    if held is not None and new:
        Episode.objects.bulk_create(_episode(team, fact, held) for fact in new)
        write_deliveries(team, held, new)


# The same for all rules of a team


def _not_stopped(team: Team, now: datetime) -> Iterator[Fact]:
    """Cancels that stopped nothing: Arize refused them, the run went on, or nobody knows for two minutes."""
    known = Q(outcome__in=[Outcome.STILL_RUNNING, Outcome.REFUSED], closed_at__gt=now - LATELY)
    unknown = Q(outcome=Outcome.UNKNOWN, closed_at__gt=now - LATELY, closed_at__lte=now - UNKNOWN_FOR)
    later = Cancellation.objects.filter(run=OuterRef("run"), requested_at__gt=OuterRef("requested_at"))
    later = later.exclude(outcome=Outcome.NOT_SENT)
    rows = Cancellation.objects.filter(known | unknown, ~Exists(later), run__team=team)
    # What a batch will send again says nothing yet.
    for row in rows.exclude(items__state__in=OPEN_ITEMS).select_related("run__task"):
        data = about(row.run) | {"who": row.person_label, "why": row.reason, "outcome": row.outcome}
        yield Fact(Happening.NOT_STOPPED, row.closed_at or now, str(row.pk), row.run, data, row.requested_at)


def _expiring(team: Team, now: datetime) -> Iterator[Fact]:
    for stop in EmergencyStop.objects.holding(now).filter(team=team, expires_at__lte=now + EXPIRING):
        detail = {"expires_at": stop.expires_at.isoformat(), "pulled_by": stop.person_label}
        data = {"who": stop.person_label, "why": stop.reason, "detail": detail, "subject": str(stop.pk)}
        yield Fact(Happening.STOP_EXPIRING, now, str(stop.pk), None, data, stop.pulled_at)


def _unreachable(team: Team, now: datetime) -> Iterator[Fact]:
    """Keys whose calls have failed for five minutes, other than by Arize's rate limit or a rejected key."""
    keys = Credential.objects.usable().filter(team=team, backoff_is_limit=False, failures__gt=0)
    for key in keys.filter(backoff_since__lte=now - UNREACHABLE_AFTER):
        yield _of_key(Happening.ARIZE_UNREACHABLE, key, now, key.backoff_since)


def _of_key(event: Happening, key: Credential, now: datetime, began: datetime | None) -> Fact:
    data = {"target": key.name, "why": key.backoff_reason, "subject": str(key.pk)}
    return Fact(event, now, str(key.pk), None, data, began)


def _expiring_tokens(team: Team, now: datetime) -> Iterator[Fact]:
    """Once for each threshold, and a day before the maker's role from groups ends. A token that was replaced is meant
    to end.
    """
    latest = now + timedelta(days=max(THRESHOLDS))
    live = with_lapse().filter(team=team, revoked_at=None, expired_at=None, replaced_at=None, expires_at__gt=now)
    for token in live:
        if token.expires_at <= latest:
            began = token.expires_at - timedelta(days=threshold_of(token))
            yield _of_token(Happening.TOKEN_EXPIRING, token, now, began, token.expires_at)
        lapse = lapse_of(token)
        if lapse is not None and lapses_soon(token, now) and maker_problem(token) is None:
            yield _of_token(Happening.TOKEN_EXPIRING, token, now, lapse - LAPSES_WITHIN, lapse)


def _stopped_tokens(team: Team, now: datetime) -> Iterator[Fact]:
    live = with_maker_role().filter(team=team, revoked_at=None, expired_at=None, expires_at__gt=now)
    for token in live.filter(maker_told_at__isnull=False):
        if maker_problem(token) is not None:
            yield _of_token(Happening.TOKEN_STOPPED, token, now, token.maker_told_at)


def _of_token(
    event: Happening, token: Token, now: datetime, began: datetime | None, ends: datetime | None = None
) -> Fact:
    detail = {"expires_at": ends.isoformat()} if ends else {}
    data = {"target": token.name, "who": token.maker_label, "detail": detail, "subject": str(token.pk)}
    return Fact(event, now, str(token.pk), None, data, began)


_OF_TEAM: Mapping[Happening, Callable[[Team, datetime], Iterator[Fact]]] = {
    Happening.NOT_STOPPED: _not_stopped,
    Happening.STOP_EXPIRING: _expiring,
    Happening.ARIZE_UNREACHABLE: _unreachable,
    Happening.TOKEN_EXPIRING: _expiring_tokens,
    Happening.TOKEN_STOPPED: _stopped_tokens,
}


def _begin(team: Team, facts: list[Fact]) -> None:
    if not _untold(facts):
        return
    with transaction.atomic():
        # The team's row is the lock: two workers tell it once.
        if free(Team.objects.filter(pk=team.pk)).first() is None:
            return
        new = _untold(facts)
        Episode.objects.bulk_create(_episode(team, fact) for fact in new)
        deliver_facts(team, new)


def _end_outages(team: Team, now: datetime) -> None:
    """Arize can be reached again with keys that are not revoked or rejected since."""
    outages = Episode.objects.filter(team=team, event=Happening.ARIZE_UNREACHABLE, ended_at=None)
    for outage in outages:
        key = Credential.objects.filter(pk=outage.subject).first()
        if key is not None and key.backoff_since == outage.began_at:
            continue
        with transaction.atomic():
            is_mine = Episode.objects.filter(pk=outage.pk, ended_at=None).update(ended_at=now)
            if is_mine and key is not None and key.revoked_at is None and key.failing_since is None:
                deliver_facts(team, [_of_key(Happening.ARIZE_RECOVERED, key, now, outage.began_at)])


def _untold(facts: list[Fact], rule: Rule | None = None) -> list[Fact]:
    """Those without an episode yet."""
    keys = [_key(fact, rule) for fact in facts]
    told = set(Episode.objects.filter(key__in=keys).values_list("key", flat=True)) if keys else set()
    return [fact for fact, key in zip(facts, keys, strict=True) if key not in told]


def _key(fact: Fact, rule: Rule | None) -> str:
    return f"{rule.pk if rule else 'all'}:{fact.key}"


def _episode(team: Team, fact: Fact, rule: Rule | None = None) -> Episode:
    began = fact.began_at or fact.at
    return Episode(
        team=team, rule=rule, event=fact.event.value, subject=fact.subject, key=_key(fact, rule), began_at=began
    )
