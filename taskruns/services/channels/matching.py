"""Facts become deliveries: one for each rule that wants to know.

The facts are the `RunFact` rows of the mirror and the new rows of each team's chain in the audit log. A chain has no
gaps and its rows are committed in order, so reading on from the last row misses none. A chunk of facts, its deliveries
and the new position are one transaction, so two workers or a killed one change nothing.
"""

import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import accumulate
from typing import Any

from django.db import connection, transaction
from django.db.models import Count, F, Max, QuerySet
from django.http import QueryDict
from django.utils import timezone

from taskruns.audit import clean_line
from taskruns.audit.record import chain_of
from taskruns.forms import BadFilter, BoardFilter
from taskruns.models import (
    AuditChain,
    AuditEvent,
    Channel,
    Delivery,
    DeliveryState,
    Happening,
    LogPosition,
    Rule,
    Run,
    RunFact,
    RunNotice,
    Team,
)
from taskruns.models.channels import KEEPS_INCIDENTS, OF_RUNS, OF_THE_LOG, RUN_ENDED, SUMMARY, WITH_AN_END
from taskruns.models.restores import is_resting, last_adopted_at
from taskruns.models.stamps import SKEW, is_ahead
from taskruns.services.runs.matching import matching

from .notices import ended_notices

CHUNK = 100  # facts in one transaction
MOST_ROWS = 2_000  # deliveries in one transaction: each fact may concern all rules of its team
NAMED = 5  # runs that a summary names
LONGEST_WHY = 300  # characters of Arize's reason


@dataclass(slots=True)
class Fact:
    """Something that happened, as `matching` needs it. `subject`: the id of what it is about, a part of the key."""

    event: Happening
    at: datetime
    subject: str
    run: Run | None = None
    data: dict[str, Any] = field(default_factory=dict)
    began_at: datetime | None = None  # of an episode

    @property
    def key(self) -> str:
        return f"{self.event.value}:{self.subject}:{(self.began_at or self.at).isoformat()}:trigger"


def match() -> bool:
    """Make the deliveries that are due now. True if there is more to do at once."""
    if is_resting():
        return False
    has_more = [_match_runs(), *[_match_log(team_id) for team_id in _behind()]]
    _sum_up()
    has_more.append(_match_notices())
    return any(has_more)


@transaction.atomic
def _match_notices() -> bool:
    """Queue a mail to each person who waits for a run that has ended."""
    rows = list(free(ended_notices().order_by("pk"))[:CHUNK])
    adopted_at = last_adopted_at()
    Delivery.objects.bulk_create([_to_person(row, adopted_at) for row in rows], ignore_conflicts=True)
    RunNotice.objects.filter(pk__in=[row.pk for row in rows]).delete()
    return len(rows) == CHUNK


def _to_person(notice: RunNotice, adopted_at: datetime | None) -> Delivery:
    run = notice.run
    at = run.ended_at or timezone.now()
    return Delivery(
        team_id=run.team_id,
        person_id=notice.person_id,
        recipient=f"person:{notice.person_id}",
        fact=f"{RUN_ENDED}:{run.pk}:{at.isoformat()}:trigger",
        event=RUN_ENDED,
        run=run,
        at=at,
        data=about(run),
        state=DeliveryState.QUEUED,
        is_repeat=_may_be_repeat(at, adopted_at),
    )


def is_match_due() -> bool:
    """Whether `match` has something to do. Asked each second."""
    if is_resting():
        return False
    now = timezone.now()
    return RunFact.objects.exists() or bool(_behind()) or bool(_to_sum_up(now)) or ended_notices().exists()


@transaction.atomic
def _match_runs() -> bool:
    found = list(free(RunFact.objects.order_by("pk"))[:CHUNK])
    facts = found[: _number_in_one_go([fact.team_id for fact in found])]
    runs = Run.objects.select_related("task").in_bulk([fact.run_id for fact in facts])
    # In a fixed order, because their rules are locked.
    for team in Team.objects.filter(pk__in={fact.team_id for fact in facts}).order_by("pk"):
        mine = [fact for fact in facts if fact.team_id == team.pk and fact.run_id in runs]
        deliver_facts(team, [_of_run(runs[fact.run_id], Happening(fact.event), fact.at) for fact in mine])
    RunFact.objects.filter(pk__in=[fact.pk for fact in facts]).delete()
    return len(facts) < len(found) or len(found) == CHUNK


def _number_in_one_go(teams: Sequence[uuid.UUID]) -> int:
    """How many of the first facts fit into one transaction, so that it locks nothing for long; at least one.

    `teams`: the team of each fact.
    """
    live = Rule.objects.filter(channel__team__in=set(teams), channel__removed_at=None).order_by()
    rules: dict[uuid.UUID, int] = dict(live.values_list("channel__team").annotate(Count("pk")))
    rows = accumulate(rules.get(team, 0) for team in teams)
    return max(1, sum(number <= MOST_ROWS for number in rows))


def _behind() -> list[uuid.UUID]:
    """The teams with channels whose log has new rows."""
    live = Channel.objects.live().values("team")
    positions = dict(LogPosition.objects.filter(team__in=live).values_list("team", "seq"))
    chains = {chain_of(team_id): team_id for team_id in positions}
    newest = AuditChain.objects.filter(chain__in=chains).values_list("chain", "seq")
    return [chains[chain] for chain, seq in newest if seq > positions[chains[chain]]]


@transaction.atomic
def _match_log(team_id: uuid.UUID) -> bool:
    position = free(LogPosition.objects.filter(team=team_id)).first()
    if position is None:
        return False
    most = _number_in_one_go([team_id] * CHUNK)
    rows = list(AuditEvent.objects.filter(chain=chain_of(team_id), seq__gt=position.seq).order_by("seq")[:most])
    if not rows:
        return False
    deliver_facts(Team.objects.get(pk=team_id), list(_of_log(team_id, rows)))
    LogPosition.objects.filter(pk=position.pk).update(seq=rows[-1].seq)
    return len(rows) == most


def free(rows: "QuerySet[Any]") -> "QuerySet[Any]":
    """Without those that another worker is just working on."""
    can_skip = connection.features.has_select_for_update_skip_locked
    return rows.select_for_update(of=("self",), no_key=True, skip_locked=can_skip)


def _of_run(run: Run, event: Happening, at: datetime) -> Fact:
    return Fact(event, at, str(run.pk), run, about(run))


def _of_log(team_id: uuid.UUID, rows: Sequence[AuditEvent]) -> Iterator[Fact]:
    """The rows that a rule can ask for. A row with an unknown event, changed by hand, is skipped."""
    asked = [row for row in rows if row.event in OF_THE_LOG and row.outcome in OF_THE_LOG[Happening(row.event)]]
    ids = [row.run_id for row in asked if row.run_id]
    runs = {
        (run.endpoint, run.arize_id): run
        for run in Run.objects.filter(team=team_id, arize_id__in=ids).select_related("task")
    }
    reasons = _reasons(asked)
    for row in asked:
        run = runs.get((row.endpoint, row.run_id)) if row.run_id else None
        data = (about(run) if run else {}) | {
            "who": row.actor_label,
            "outcome": row.outcome,
            "target": row.target_label,
            "subject": str(run.pk) if run else row.target_id,
            "why": row.reason or reasons.get(row.operation_id, ""),
            **_details(row),
        }
        yield Fact(Happening(row.event), row.at, str(row.event_id), run, data)


def _reasons(rows: Iterable[AuditEvent]) -> dict[uuid.UUID | None, str]:
    """The reason that a person gave stands in the first row of the operation."""
    operations = {row.operation_id for row in rows if row.operation_id}
    newest_first = AuditEvent.objects.filter(operation_id__in=operations).exclude(reason="").order_by("-pk")
    return dict(newest_first.values_list("operation_id", "reason"))  # keeps the last one, which is the first row


def _details(row: AuditEvent) -> dict[str, Any]:
    kept = ("counts", "why", "expires_on", "days_left", "expires_at", "active_runs", "pulled_by", "stop", "batch_id")
    details = row.details if isinstance(row.details, dict) else {}
    found = {name: details[name] for name in kept if name in details}
    return {"detail": found} if found else {}


def about(run: Run) -> dict[str, Any]:
    """What a message says about a run, as it is now. Text from Arize is cut, and escaped where it is shown."""
    task = run.task
    return {
        "run_id": run.arize_id,
        "panel_run_id": str(run.pk),
        "subject": str(run.pk),
        "task_id": task.arize_id,
        "task_name": clean_line(str(task), LONGEST_WHY),
        "space": clean_line(task.space_name or task.space_id or "", LONGEST_WHY),
        "status": str(run.status),
        "started_at": run.run_started_at.isoformat() if run.run_started_at else None,
        "counts": {"succeeded": run.num_successes, "errored": run.num_errors, "skipped": run.num_skipped},
        "error_share": run.error_share,
    }


def deliver_facts(team: Team, facts: Sequence[Fact]) -> None:
    """Write the deliveries of these facts. The caller's transaction holds the facts."""
    if not facts or team.archived_at is not None:
        return
    rules = list(
        Rule.objects.filter(channel__team=team, channel__removed_at=None).select_related("channel").order_by("pk")
    )
    found: dict[str, set[uuid.UUID]] = {}
    for rule in rules:
        if rule.query and rule.query not in found:
            found[rule.query] = matching_runs(team, rule.query, [fact.run.pk for fact in facts if fact.run is not None])
        wanted = [fact for fact in facts if _is_wanted(rule, fact, found.get(rule.query))]
        if wanted:
            write_deliveries(team, rule, wanted)


def matching_runs(team: Team, query: str, run_ids: Sequence[uuid.UUID]) -> set[uuid.UUID]:
    """Those of these runs that match the filter."""
    try:
        wanted = BoardFilter.parse(QueryDict(query))
    except BadFilter:
        return set()  # a release that no longer has this filter: nothing matches, rather than everything
    return set(matching(team, wanted, now=timezone.now()).filter(pk__in=run_ids).values_list("pk", flat=True))


def _is_wanted(rule: Rule, fact: Fact, found: set[uuid.UUID] | None) -> bool:
    """`found`: the runs that match the rule's filter. None: it has none."""
    if fact.event.value not in rule.events or _is_from_before(rule, fact):
        return False
    if fact.event in OF_RUNS and found is not None and (fact.run is None or fact.run.pk not in found):
        return False
    return _is_enough(rule, fact)


def _is_from_before(rule: Rule, fact: Fact) -> bool:
    """Whether the fact is older than the rule. A `since` in the future was written by a wrong clock and is ignored:
    otherwise the rule would tell nothing until then.
    """
    return fact.at < rule.since <= timezone.now() + SKEW


def _is_enough(rule: Rule, fact: Fact) -> bool:
    if fact.event is not Happening.RUN_WITH_ERRORS or fact.run is None:
        return True
    return (fact.run.error_share or 0) >= rule.min_error_share


def write_deliveries(team: Team, rule: Rule, facts: Sequence[Fact]) -> None:
    now, channel = timezone.now(), rule.channel
    if channel.is_silent(now):
        Channel.objects.filter(pk=channel.pk).update(missed=F("missed") + len(facts))
        return
    adopted_at = last_adopted_at()
    rows = [_delivery(team, rule, fact, adopted_at) for fact in facts]
    if rule.quiet_minutes:
        # Locked and read again: another worker or lane may have started the quiet time.
        locked = Rule.objects.select_for_update(of=("self",), no_key=True).filter(pk=rule.pk).first()
        if locked is None:
            return  # the rule was removed
        is_quiet = _is_quiet(locked, now) or _holds_some(locked)
        for row in rows[0 if is_quiet else 1 :]:
            row.state = DeliveryState.HELD
        if not is_quiet:
            rule.quiet_until = now + timedelta(minutes=rule.quiet_minutes)
            Rule.objects.filter(pk=rule.pk).update(quiet_until=rule.quiet_until)
    Delivery.objects.bulk_create(rows, ignore_conflicts=True)


def _is_quiet(rule: Rule, now: datetime) -> bool:
    """Whether the quiet time lasts, at most as long as the rule sets now: it may have been shortened, or started by a
    wrong clock.
    """
    return is_ahead(rule.quiet_until, now, timedelta(minutes=rule.quiet_minutes))


def _holds_some(rule: Rule) -> bool:
    """Their summary is due: what comes now belongs into it."""
    return Delivery.objects.filter(rule=rule, state=DeliveryState.HELD, summary=None).exists()


def _delivery(team: Team, rule: Rule, fact: Fact, adopted_at: datetime | None) -> Delivery:
    return Delivery(
        team=team,
        channel=rule.channel,
        rule=rule,
        recipient=f"rule:{rule.pk}",
        fact=fact.key,
        event=fact.event.value,
        run=fact.run,
        at=fact.at,
        data=fact.data,
        state=DeliveryState.QUEUED,
        is_repeat=_may_be_repeat(fact.at, adopted_at),
        is_open=rule.channel.kind in KEEPS_INCIDENTS and fact.event in WITH_AN_END,
    )


def _may_be_repeat(at: datetime, adopted_at: datetime | None) -> bool:
    """Whether the panel whose backup was adopted here may have sent it already: it worked until then."""
    return adopted_at is not None and at < adopted_at


def _sum_up() -> None:
    """Send one summary for each rule whose quiet time is over and that holds messages."""
    for rule_id in _to_sum_up(timezone.now()):
        _sum_up_rule(rule_id)


def _to_sum_up(now: datetime) -> list[uuid.UUID]:
    held = Delivery.objects.filter(state=DeliveryState.HELD, summary=None).values("rule")
    return [rule.pk for rule in Rule.objects.filter(pk__in=held) if not _is_quiet(rule, now)]


@transaction.atomic
def _sum_up_rule(rule_id: uuid.UUID) -> None:
    now = timezone.now()
    rule = free(Rule.objects.filter(pk=rule_id)).first()
    if rule is None or _is_quiet(rule, now):
        return
    held = Delivery.objects.filter(rule=rule, state=DeliveryState.HELD, summary=None)
    number = held.count()
    if not number:
        return
    if number == 1:
        held.update(state=DeliveryState.QUEUED, next_try_at=now)
    else:
        summary = _summary(rule, held, now)
        Delivery.objects.bulk_create([summary])
        held.update(summary=summary, is_open=False)
    Rule.objects.filter(pk=rule.pk).update(quiet_until=now + timedelta(minutes=rule.quiet_minutes))


def _summary(rule: Rule, held: QuerySet[Delivery], now: datetime) -> Delivery:
    """Loads only the first few and lets the database count the rest: a rule may hold a day's messages."""
    first = list(held.order_by("at", "pk")[:NAMED])
    by_event = dict(held.order_by().values_list("event").annotate(Count("pk")))
    named = [{"event": row.event, **row.data} for row in first]
    data = {"number": sum(by_event.values()), "by_event": by_event, "named": named}
    return Delivery(
        team_id=first[0].team_id,
        channel_id=rule.channel_id,
        rule=rule,
        recipient=f"rule:{rule.pk}",
        fact=f"{SUMMARY}:{rule.pk}:{now.isoformat()}:summary",
        event=SUMMARY,
        at=first[0].at,
        data=data | {"until": held.aggregate(last=Max("at"))["last"].isoformat()},
        state=DeliveryState.QUEUED,
        is_repeat=held.filter(is_repeat=True).exists(),
    )
