"""The pages of batches: the list to confirm, the progress, the outcome of each run, and past batches."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from django.db.models import Case, Count, QuerySet, When
from django.urls import reverse
from django.utils import timezone

from taskruns.models import (
    BatchKind,
    BatchSource,
    BatchState,
    CancelBatch,
    CancelItem,
    CancelPace,
    Credential,
    ItemState,
    Outcome,
    Run,
    Team,
    TriggerOutcome,
)
from taskruns.permissions import Access, TeamAccess
from taskruns.services.batches import KIND_FACTS, RESTARTABLE, counts_of, is_paused, not_started, not_stopped

from .batch_drafts import (
    DraftPart,
    confirm_text,
    draft_notes,
    draft_part,
    filter_words,
    left_out_text,
    passed_over_text,
)
from .batch_words import (
    KIND_WORDS,
    STILL_ACTIVE,
    StateCount,
    counted,
    sentence_of,
    state_counts,
    title_of,
    total_of,
    unfinished,
    words_of,
)
from .outcomes import CANCEL_WORDS
from .values import Link, Message, Moment, in_words, short_id, who_of

MOST_LISTED = 200  # runs listed as failed, or as started
MOST_BATCHES = 100
_ALARMS = {outcome.value for outcome, words in CANCEL_WORDS.items() if words.is_alarm}


@dataclass(frozen=True, slots=True)
class BatchItem:
    """One run that was not stopped or not started. `alarm`: it is active although Arize reported it cancelled."""

    url: str
    task: str
    run: str
    status: str
    alarm: bool


@dataclass(frozen=True, slots=True)
class FailedGroup:
    """The listed runs with the same outcome for the same reason."""

    word: str
    why: str
    alarm: bool
    runs: tuple[BatchItem, ...]


@dataclass(frozen=True, slots=True)
class StartedRun:
    """A run that was started again, and the new one."""

    task: str
    old: Link
    new: Link
    status: str


@dataclass(frozen=True, slots=True)
class BatchPage:
    """`may_act`: show the buttons. `draft`: only while it waits for its confirmation.

    `failed_title`, `stop_label`, `keep_label`, `act_label`: the words of its kind. `can_retry`: how many of the failed
    runs can be tried again. `not_listed`: how many failed runs are in no group. `can_start`: how many of the cancelled
    runs can be started again.
    """

    id: str
    url: str
    team: str
    slug: str
    kind: str
    state: str
    title: str
    sentence: str
    source: str
    filters: tuple[str, ...]
    matched: Link | None
    previous: Link | None
    retries: tuple[Link, ...]
    who: str
    reason: str
    options: tuple[str, ...]
    created: Moment | None
    started: Moment | None
    finished: Moment | None
    took: str
    total: int
    done: int
    counts: tuple[StateCount, ...]
    draft: DraftPart | None
    notes: tuple[Message, ...]
    failed_title: str
    failed: tuple[FailedGroup, ...]
    failed_total: int
    not_listed: int
    new_runs: tuple[StartedRun, ...]
    new_runs_total: int
    can_retry: int
    can_start: int
    may_act: bool
    is_live: bool
    stop_label: str
    keep_label: str
    act_label: str
    list_url: str
    confirm_url: str
    abort_url: str
    retry_url: str

    @property
    def new_runs_not_listed(self) -> int:
        return self.new_runs_total - len(self.new_runs)


@dataclass(frozen=True, slots=True)
class BatchRow:
    """One past batch in the list."""

    url: str
    title: str
    state: str
    who: str
    reason: str
    at: Moment | None
    counts: tuple[StateCount, ...]


@dataclass(frozen=True, slots=True)
class TeamSelection:
    """The selected runs of one team. `act`: the button that continues with them."""

    url: str
    act: str
    run_ids: tuple[str, ...]


def selections(
    run_ids: Collection[UUID], accesses: Iterable[TeamAccess], *, kind: BatchKind
) -> tuple[TeamSelection, ...]:
    """The selected runs by team, if the person sees each of them and may act on it; else nothing."""
    teams = {it.team.pk: it.team for it in accesses if KIND_FACTS[kind].may(it.access)}
    found: dict[UUID, list[str]] = {team_id: [] for team_id in teams}
    for run_id, team_id in Run.objects.filter(pk__in=run_ids, team__in=teams).values_list("pk", "team"):
        found[team_id].append(str(run_id))
    if sum(map(len, found.values())) < len(run_ids):
        return ()
    return tuple(
        TeamSelection(
            url=reverse("batches", args=[teams[team_id].slug]),
            act=KIND_WORDS[kind].act.format(runs=f"{counted(len(ids))} of {teams[team_id].name}") + "…",
            run_ids=tuple(ids),
        )
        for team_id, ids in found.items()
        if ids
    )


def batch_page(batch: CancelBatch, *, access: Access, page: int = 1) -> BatchPage:
    """`page`: of the list of a draft's runs."""
    slug, counts, words = batch.team.slug, counts_of(batch), words_of(batch)
    total, is_draft = total_of(counts), batch.state == BatchState.DRAFT
    is_cancel = batch.kind == BatchKind.CANCEL
    failed = not_stopped(batch) if is_cancel else not_started(batch) | _lost(batch)
    still_active = failed.filter(state=Outcome.CONFIRMED).count() if is_cancel else 0
    again = failed.filter(run__rank=1) if is_cancel else not_started(batch)
    active = again.count() if is_cancel and not is_draft else 0
    started = CancelItem.objects.filter(batch=batch, state=TriggerOutcome.DONE)
    listed, failed_total = _failed(failed, slug=slug), failed.count()
    return BatchPage(
        id=str(batch.pk),
        url=reverse("batch", args=[slug, batch.pk]),
        team=batch.team.name,
        slug=slug,
        kind=batch.kind,
        state=batch.state,
        title=title_of(batch, total),
        sentence=sentence_of(batch, counts, still_active, active),
        source=words.sources[BatchSource(batch.source)],
        filters=filter_words(batch),
        matched=Link("See them on the board", reverse("board", args=[slug]) + batch.filters) if batch.filters else None,
        previous=_link(batch.previous, slug) if batch.previous else None,
        retries=tuple(_link(it, slug) for it in batch.retries.exclude(state=BatchState.DRAFT).order_by("created_at")),
        who=who_of(batch, role=batch.person_role),
        reason=batch.reason or (batch.previous.reason if is_draft and batch.previous else ""),
        options=() if is_draft else _options(batch),
        created=Moment.of(batch.created_at),
        started=Moment.of(batch.started_at),
        finished=Moment.of(batch.finished_at),
        took=_took(batch),
        total=total,
        done=total - unfinished(counts),
        counts=() if is_draft else state_counts(counts, kind=batch.kind, still_active=still_active),
        draft=draft_part(batch, slug=slug, page=page) if is_draft else None,
        notes=_notes(batch, still_active),
        failed_title=words.failed,
        failed=listed,
        failed_total=failed_total,
        not_listed=failed_total - sum(len(group.runs) for group in listed),
        new_runs=_started(started, slug=slug),
        new_runs_total=started.count(),
        can_retry=again.count() if batch.finished_at else 0,
        can_start=_can_start(batch, access),
        may_act=KIND_FACTS[batch.kind].may(access),
        is_live=not is_draft and batch.finished_at is None,
        stop_label=words.stop,
        keep_label=words.keep,
        act_label=confirm_text(batch, total),
        list_url=reverse("batches", args=[slug]),
        confirm_url=reverse("batch-confirm", args=[slug, batch.pk]),
        abort_url=reverse("batch-abort", args=[slug, batch.pk]),
        retry_url=reverse("batch-retry", args=[slug, batch.pk]),
    )


def past_batches(team: Team) -> tuple[BatchRow, ...]:
    """Newest first, without drafts."""
    begun = CancelBatch.objects.filter(team=team).exclude(state=BatchState.DRAFT)
    rows = list(begun.select_related("person").order_by("-created_at")[:MOST_BATCHES])
    numbers: dict[object, dict[str, int]] = {row.pk: {} for row in rows}
    counted = CancelItem.objects.filter(batch__in=rows).values_list("batch", "state").annotate(number=Count("pk"))
    for batch_id, state, number in counted.order_by("batch", "state"):
        numbers[batch_id][state] = number
    still_active = dict(counted.filter(state=Outcome.CONFIRMED, run__rank=1).values_list("batch", "number"))
    return tuple(
        BatchRow(
            url=reverse("batch", args=[team.slug, row.pk]),
            title=title_of(row, total_of(numbers[row.pk])),
            state=row.state,
            who=who_of(row),
            reason=row.reason,
            at=Moment.of(row.started_at),
            counts=state_counts(numbers[row.pk], kind=row.kind, still_active=still_active.get(row.pk, 0)),
        )
        for row in rows
    )


def _lost(batch: CancelBatch) -> QuerySet[CancelItem]:
    """Starts whose outcome is unknown. They are listed, but never retried."""
    return CancelItem.objects.filter(batch=batch, state=TriggerOutcome.UNKNOWN)


def _can_start(batch: CancelBatch, access: Access) -> int:
    """How many runs of a finished bulk cancel can be started again."""
    if batch.kind != BatchKind.CANCEL or batch.finished_at is None or not KIND_FACTS[BatchKind.TRIGGER].may(access):
        return 0
    return batch.items.filter(run__status__in=RESTARTABLE).count()


def _options(batch: CancelBatch) -> tuple[str, ...]:
    """What the person chose for all runs to start again."""
    evaluates = {True: ("spans that already have results are re-evaluated",)}
    pattern = str(batch.options.get("experiment_name") or "")
    named = (f"names of new experiments: {pattern}",) if pattern else ()
    return evaluates.get(batch.options.get("override_evaluations") is True, ()) + named


def _took(batch: CancelBatch) -> str:
    if batch.started_at is None or batch.finished_at is None:
        return ""
    return in_words(max(batch.finished_at - batch.started_at, timedelta(seconds=1)))


def _failed(failed: QuerySet[CancelItem], *, slug: str) -> tuple[FailedGroup, ...]:
    """Grouped by outcome and reason: alarms first, then the largest group."""
    is_alarm = Case(When(run__rank=1, state__in=_ALARMS, then=0), default=1)
    loaded = failed.select_related("run__task", "batch", "cancellation", "trigger")
    groups: dict[tuple[str, str, bool], list[BatchItem]] = {}
    for item in loaded.order_by(is_alarm, "state", "pk")[:MOST_LISTED]:
        found = _batch_item(item, slug=slug)
        groups.setdefault((_word(item), _why(item), found.alarm), []).append(found)
    made: Iterable[FailedGroup] = (FailedGroup(*key, tuple(runs)) for key, runs in groups.items())
    return tuple(sorted(made, key=lambda group: (not group.alarm, -len(group.runs))))


def _word(item: CancelItem) -> str:
    return STILL_ACTIVE if item.state == Outcome.CONFIRMED else words_of(item.batch).states[item.state].word


def _why(item: CancelItem) -> str:
    attempt = item.trigger or item.cancellation
    return attempt.explanation if attempt is not None else ""


def _batch_item(item: CancelItem, *, slug: str) -> BatchItem:
    """Expects `run.task` to be loaded."""
    run = item.run
    return BatchItem(
        url=reverse("run", args=[slug, run.pk]),
        task=str(run.task),
        run=run.arize_id,
        status=run.status,
        alarm=run.is_active and item.state in _ALARMS,
    )


def _started(items: QuerySet[CancelItem], *, slug: str) -> tuple[StartedRun, ...]:
    loaded = items.select_related("run__task", "trigger__run").order_by("pk")[:MOST_LISTED]
    return tuple(
        StartedRun(
            task=str(item.run.task),
            old=Link(short_id(item.run.arize_id), reverse("run", args=[slug, item.run_id])),
            new=Link(short_id(item.trigger.run.arize_id), reverse("run", args=[slug, item.trigger.run_id])),
            status=item.trigger.run.status,
        )
        for item in loaded
        if item.trigger is not None and item.trigger.run is not None
    )


def _link(batch: CancelBatch, slug: str) -> Link:
    return Link(title_of(batch, total_of(counts_of(batch))), reverse("batch", args=[slug, batch.pk]))


def _notes(batch: CancelBatch, still_active: int) -> tuple[Message, ...]:
    notes = draft_notes(batch) if batch.state == BatchState.DRAFT else []
    if still_active:
        they = "it is still active. Check it" if still_active == 1 else "they are still active. Check them"
        text = f"Arize reported {still_active:,} of these runs as cancelled, but {they} in Arize."
        notes.append(Message("error", text))
    if batch.why_aborted:
        notes.append(Message("warning", batch.why_aborted))
    if batch.passed_over:
        notes.append(Message("info", passed_over_text(batch)))
    if batch.left_out:
        notes.append(Message("info", left_out_text(batch.left_out)))
    if batch.state == BatchState.WORKING and batch.finished_at is None:
        notes += _why_it_waits(batch)
    return tuple(notes)


def _why_it_waits(batch: CancelBatch) -> list[Message]:
    now = timezone.now()
    waiting = CancelItem.objects.filter(batch=batch, state=ItemState.QUEUED).order_by()
    keys = Credential.objects.filter(pk__in=waiting.values("run__task__credential"), revoked_at=None)
    paused = CancelPace.objects.filter(is_paused(now), credential__in=keys).select_related("credential")
    held = [(key, key.failing_reason) for key in keys.exclude(failing_since=None)]
    limited = keys.filter(Credential.backing_off(now), failing_since=None, backoff_is_limit=True)
    held += [(key, key.backoff_reason) for key in limited]
    held += [(pace.credential, pace.pause_reason) for pace in paused]
    return [Message("warning", f"Runs of key “{key.name}” are waiting: {why}") for key, why in dict(held).items()]
