"""The pages of batches: the list to confirm, the progress, the outcome of each run, and past batches."""

from dataclasses import dataclass
from datetime import timedelta
from typing import NamedTuple

from django.db.models import Count, Q
from django.urls import reverse
from django.utils import timezone

from taskruns.models import (
    CANCEL_FACTS,
    BatchSource,
    BatchState,
    CancelBatch,
    CancelItem,
    CancelPace,
    Credential,
    Effect,
    ItemState,
    Outcome,
    Status,
    Team,
)
from taskruns.models.batches import ITEM_OUTCOMES, OPEN_ITEMS
from taskruns.services.batches import counts_of, not_stopped

from .outcomes import CANCEL_WORDS
from .values import Link, Message, Moment, in_words, told_apart

TYPED_ABOVE = 20  # to cancel more runs than this, a person types their number
MOST_NOT_STOPPED = 200  # runs listed as not stopped
MOST_TASKS = 200
MOST_BATCHES = 100
_TONES = {Effect.STOPPED: "good", Effect.ENDED: "quiet", Effect.NOT_STOPPED: "bad"}
_ALARMS = {outcome.value for outcome, words in CANCEL_WORDS.items() if words.is_alarm}
STILL_ACTIVE = "reported as cancelled by Arize, but still active"
_SOURCES = {
    BatchSource.SELECTION: "selected runs",
    BatchSource.FILTER: "all runs that matched a filter",
    BatchSource.RETRY: "runs that an earlier bulk cancel did not stop",
    BatchSource.STOP: "the emergency stop",
}


class _StateWords(NamedTuple):
    word: str
    tone: str
    icon: str


def _icon(outcome: Outcome) -> str:
    if CANCEL_FACTS[outcome].effect is not Effect.NOT_STOPPED:
        return "check"
    return "error" if CANCEL_FACTS[outcome].is_final else "warning"


# In the order of the counts: outcomes grouped by their effect on the run.
STATE_WORDS: dict[str, _StateWords] = {
    ItemState.QUEUED: _StateWords("queued", "quiet", "clock"),
    ItemState.SENT: _StateWords("in progress", "going", "play"),
    **{
        outcome: _StateWords(CANCEL_WORDS[outcome].in_batch, tone, _icon(outcome))
        for effect, tone in _TONES.items()
        for outcome in ITEM_OUTCOMES
        if CANCEL_FACTS[outcome].effect is effect
    },
    ItemState.LEFT_OUT: _StateWords("dropped, nothing sent", "bad", "warning"),
}


@dataclass(frozen=True, slots=True)
class StateCount:
    """`tone` (good, quiet, going or bad) selects the colour; `word` says the same in text."""

    state: str
    word: str
    number: int
    tone: str
    icon: str


@dataclass(frozen=True, slots=True)
class TaskCount:
    """The present statuses of one task's runs in a draft."""

    task: str
    pending: int
    running: int
    ended: int


@dataclass(frozen=True, slots=True)
class BatchItem:
    """One run that was not stopped, and why. `alarm`: it is still active although Arize reported it cancelled."""

    url: str
    task: str
    run: str
    word: str
    why: str
    status: str
    alarm: bool


@dataclass(frozen=True, slots=True)
class BatchPage:
    """`may_act`: show the buttons. `typed`: the number that the person must type; empty if none is required."""

    id: str
    url: str
    team: str
    slug: str
    state: str
    title: str
    sentence: str
    source: str
    matched: Link | None
    previous: Link | None
    retries: tuple[Link, ...]
    who: str
    reason: str
    created: Moment | None
    started: Moment | None
    finished: Moment | None
    took: str
    total: int
    done: int
    counts: tuple[StateCount, ...]
    tasks: tuple[TaskCount, ...]
    notes: tuple[Message, ...]
    not_stopped: tuple[BatchItem, ...]
    not_stopped_total: int
    can_retry: int
    may_act: bool
    typed: str
    is_live: bool
    confirm_url: str
    abort_url: str
    retry_url: str


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


def batch_page(batch: CancelBatch, *, may_act: bool) -> BatchPage:
    slug, counts = batch.team.slug, counts_of(batch)
    total = sum(counts.values())
    is_draft = batch.state == BatchState.DRAFT
    failed = not_stopped(batch)
    still_active = failed.filter(state=Outcome.CONFIRMED).count()
    named = failed.select_related("run__task", "cancellation").order_by("state", "pk")[:MOST_NOT_STOPPED]
    return BatchPage(
        id=str(batch.pk),
        url=reverse("batch", args=[slug, batch.pk]),
        team=batch.team.name,
        slug=slug,
        state=batch.state,
        title=_title_of(batch, total),
        sentence=_sentence_of(batch, counts, still_active),
        source=_SOURCES[BatchSource(batch.source)],
        matched=Link("the filter on the board", reverse("board", args=[slug]) + batch.filters)
        if batch.filters
        else None,
        previous=_link(batch.previous, slug) if batch.previous else None,
        retries=tuple(_link(it, slug) for it in batch.retries.exclude(state=BatchState.DRAFT).order_by("created_at")),
        who=f"{batch.person_label} ({batch.person_role})" if batch.person_role else batch.person_label,
        reason=batch.reason or (batch.previous.reason if is_draft and batch.previous else ""),
        created=Moment.of(batch.created_at),
        started=Moment.of(batch.started_at),
        finished=Moment.of(batch.finished_at),
        took=_took(batch),
        total=total,
        done=total - _unfinished(counts),
        counts=() if is_draft else state_counts(counts, still_active=still_active),
        tasks=_tasks(batch) if is_draft else (),
        notes=_notes(batch, still_active),
        not_stopped=tuple(_batch_item(item, slug=slug) for item in named),
        not_stopped_total=failed.count(),
        can_retry=failed.filter(run__rank=1).count() if batch.finished_at else 0,
        may_act=may_act,
        typed=str(total) if total > TYPED_ABOVE else "",
        is_live=not is_draft and batch.finished_at is None,
        confirm_url=reverse("batch-confirm", args=[slug, batch.pk]),
        abort_url=reverse("batch-abort", args=[slug, batch.pk]),
        retry_url=reverse("batch-retry", args=[slug, batch.pk]),
    )


def past_batches(team: Team) -> tuple[BatchRow, ...]:
    """Newest first, without drafts."""
    begun = CancelBatch.objects.filter(team=team).exclude(state=BatchState.DRAFT)
    rows = list(begun.order_by("-created_at")[:MOST_BATCHES])
    numbers: dict[object, dict[str, int]] = {row.pk: {} for row in rows}
    counted = CancelItem.objects.filter(batch__in=rows).values_list("batch", "state").annotate(number=Count("pk"))
    for batch_id, state, number in counted.order_by("batch", "state"):
        numbers[batch_id][state] = number
    still_active = dict(counted.filter(state=Outcome.CONFIRMED, run__rank=1).values_list("batch", "number"))
    return tuple(
        BatchRow(
            url=reverse("batch", args=[team.slug, row.pk]),
            title=_title_of(row, sum(numbers[row.pk].values())),
            state=row.state,
            who=row.person_label,
            reason=row.reason,
            at=Moment.of(row.started_at),
            counts=state_counts(numbers[row.pk], still_active=still_active.get(row.pk, 0)),
        )
        for row in rows
    )


def state_counts(counts: dict[str, int], *, still_active: int = 0) -> tuple[StateCount, ...]:
    """In the order of `STATE_WORDS`. `still_active`: the confirmed runs that are active again, counted separately."""
    numbers = counts | {Outcome.CONFIRMED: counts.get(Outcome.CONFIRMED, 0) - still_active}
    found = [
        StateCount(state, words.word, numbers[state], words.tone, words.icon)
        for state, words in STATE_WORDS.items()
        if numbers.get(state)
    ]
    alarm = [StateCount("still_active", STILL_ACTIVE, still_active, "bad", "error")] if still_active else []
    return tuple(alarm + found)


def left_out_text(number: int) -> str:
    return (
        "1 more run matches now; it is not included."
        if number == 1
        else f"{number:,} more runs match now; they are not included."
    )


def _title_of(batch: CancelBatch, total: int) -> str:
    runs = f"{total:,} run{'' if total == 1 else 's'}"
    return {
        BatchState.DRAFT: f"Cancel {runs}?",
        BatchState.WORKING: f"Cancelling {runs}",
        BatchState.FINISHED: f"Cancel of {runs}",
        BatchState.ABORTED: f"Aborted cancel of {runs}",
    }[BatchState(batch.state)]


def _sentence_of(batch: CancelBatch, counts: dict[str, int], still_active: int) -> str:
    total, unfinished = sum(counts.values()), _unfinished(counts)
    if batch.state == BatchState.DRAFT:
        return "Nothing has been sent yet. Check the list, then confirm it."
    if unfinished:
        sent = counts.get(ItemState.SENT, 0)
        return f"{total - unfinished:,} of {total:,} done, {sent:,} in progress."
    stopped = _number(counts, Effect.STOPPED) - still_active
    ended = _number(counts, Effect.ENDED)
    rest = total - stopped - ended
    return f"{stopped:,} of {total:,} cancelled, {ended:,} finished first, {rest:,} still running."


def _unfinished(counts: dict[str, int]) -> int:
    return sum(counts.get(state, 0) for state in OPEN_ITEMS)


def _number(counts: dict[str, int], effect: Effect) -> int:
    return sum(counts.get(outcome, 0) for outcome in ITEM_OUTCOMES if CANCEL_FACTS[outcome].effect is effect)


def _took(batch: CancelBatch) -> str:
    if batch.started_at is None or batch.finished_at is None:
        return ""
    return in_words(max(batch.finished_at - batch.started_at, timedelta(seconds=1)))


def _batch_item(item: CancelItem, *, slug: str) -> BatchItem:
    """Expects `run.task` and `cancellation` to be loaded."""
    run = item.run
    word = STILL_ACTIVE if item.state == Outcome.CONFIRMED else STATE_WORDS[item.state].word
    return BatchItem(
        url=reverse("run", args=[slug, run.pk]),
        task=str(run.task),
        run=run.arize_id,
        word=word,
        why=item.cancellation.explanation if item.cancellation else "",
        status=run.status,
        alarm=run.is_active and item.state in _ALARMS,
    )


def _link(batch: CancelBatch, slug: str) -> Link:
    return Link(_title_of(batch, batch.items.count()), reverse("batch", args=[slug, batch.pk]))


def _tasks(batch: CancelBatch) -> tuple[TaskCount, ...]:
    """Tasks with the most runs first."""
    columns = ("run__task__name", "run__task__arize_id", "run__task__space_name")
    by_task = CancelItem.objects.filter(batch=batch).values_list(*columns)
    counted = by_task.annotate(
        all=Count("pk"),
        pending=Count("pk", filter=Q(run__status=Status.PENDING)),
        running=Count("pk", filter=Q(run__status=Status.RUNNING)),
    ).order_by("-all", "run__task__name")
    rows = list(counted[:MOST_TASKS])
    labels = told_apart((arize_id, name, space) for name, arize_id, space, *_ in rows)
    return tuple(
        TaskCount(labels[arize_id], pending, running, number - pending - running)
        for _, arize_id, _, number, pending, running in rows
    )


def _notes(batch: CancelBatch, still_active: int) -> tuple[Message, ...]:
    notes = []
    if still_active:
        they = "it is still active. Check it" if still_active == 1 else "they are still active. Check them"
        text = f"Arize reported {still_active:,} of these runs as cancelled, but {they} in Arize."
        notes.append(Message("error", text))
    if batch.why_aborted:
        notes.append(Message("warning", batch.why_aborted))
    if batch.passed_over:
        more = "more run was requested but is" if batch.passed_over == 1 else "more runs were requested but are"
        notes.append(Message("info", f"{batch.passed_over:,} {more} not pending or running."))
    if batch.left_out:
        notes.append(Message("info", left_out_text(batch.left_out)))
    if batch.state == BatchState.WORKING and batch.finished_at is None:
        notes += _why_it_waits(batch)
    return tuple(notes)


def _why_it_waits(batch: CancelBatch) -> list[Message]:
    now = timezone.now()
    waiting = CancelItem.objects.filter(batch=batch, state=ItemState.QUEUED).order_by()
    keys = Credential.objects.filter(pk__in=waiting.values("run__task__credential"), revoked_at=None)
    paused = CancelPace.objects.filter(credential__in=keys, paused_until__gt=now).select_related("credential")
    held = [(key, key.failing_reason) for key in keys.exclude(failing_since=None)]
    held += [(key, key.backoff_reason) for key in keys.filter(failing_since=None, backoff_until__gt=now)]
    held += [(pace.credential, pace.pause_reason) for pace in paused]
    return [Message("warning", f"Runs of key “{key.name}” are waiting: {why}") for key, why in dict(held).items()]
