"""One cancel of many as its page shows it, and the list of past ones."""

from django.db.models import Count, Q
from django.urls import reverse
from django.utils import timezone

from taskruns.display.batches import (
    TYPED_ABOVE,
    BatchPage,
    BatchRow,
    TaskCount,
    batch_item,
    sentence_of,
    source_of,
    state_counts,
    title_of,
    took,
)
from taskruns.display.words import Link, Message, Moment
from taskruns.models import BatchState, CancelBatch, CancelItem, CancelPace, Credential, ItemState, Status, Team
from taskruns.models.batches import OPEN_ITEMS

from .draft import not_stopped
from .lifecycle import counts_of

NAMED = 200  # runs that were not stopped
TASKS = 200
LISTED = 100


def batch_page(batch: CancelBatch, *, may_act: bool) -> BatchPage:
    slug, counts = batch.team.slug, counts_of(batch)
    total = sum(counts.values())
    open_ = sum(counts.get(state, 0) for state in OPEN_ITEMS)
    is_draft = batch.state == BatchState.DRAFT
    failed = not_stopped(batch)
    goes_on = failed.filter(state=ItemState.CONFIRMED).count()
    named = failed.select_related("run__task", "cancellation").order_by("state", "pk")[:NAMED]
    return BatchPage(
        id=str(batch.pk),
        url=reverse("batch", args=[slug, batch.pk]),
        team=batch.team.name,
        slug=slug,
        state=batch.state,
        title=title_of(batch, total),
        sentence=sentence_of(batch, counts, goes_on),
        source=source_of(batch),
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
        took=took(batch),
        total=total,
        done=total - open_,
        counts=() if is_draft else state_counts(counts, goes_on=goes_on),
        tasks=_tasks(batch) if is_draft else (),
        notes=_notes(batch, goes_on),
        not_stopped=tuple(batch_item(item, slug=slug) for item in named),
        not_stopped_total=failed.count(),
        can_retry=failed.filter(run__rank=1).count() if batch.finished_at else 0,
        may_act=may_act,
        typed=str(total) if total > TYPED_ABOVE else "",
        is_live=not is_draft and batch.finished_at is None,
        confirm_url=reverse("batch-confirm", args=[slug, batch.pk]),
        abort_url=reverse("batch-abort", args=[slug, batch.pk]),
        retry_url=reverse("batch-retry", args=[slug, batch.pk]),
    )


def past(team: Team) -> tuple[BatchRow, ...]:
    """The newest first; drafts that nobody confirmed are none."""
    rows = list(CancelBatch.objects.filter(team=team).exclude(state=BatchState.DRAFT).order_by("-created_at")[:LISTED])
    numbers: dict[object, dict[str, int]] = {row.pk: {} for row in rows}
    counted = CancelItem.objects.filter(batch__in=rows).values_list("batch", "state").annotate(number=Count("pk"))
    for batch_id, state, number in counted.order_by("batch", "state"):
        numbers[batch_id][state] = number
    goes_on = dict(counted.filter(state=ItemState.CONFIRMED, run__rank=1).values_list("batch", "number"))
    return tuple(
        BatchRow(
            url=reverse("batch", args=[team.slug, row.pk]),
            title=title_of(row, sum(numbers[row.pk].values())),
            state=row.state,
            who=row.person_label,
            reason=row.reason,
            at=Moment.of(row.started_at),
            counts=state_counts(numbers[row.pk], goes_on=goes_on.get(row.pk, 0)),
        )
        for row in rows
    )


def _link(batch: CancelBatch, slug: str) -> Link:
    return Link(title_of(batch, batch.items.count()), reverse("batch", args=[slug, batch.pk]))


def _tasks(batch: CancelBatch) -> tuple[TaskCount, ...]:
    """The most runs first."""
    by_task = CancelItem.objects.filter(batch=batch).values_list("run__task__name", "run__task__arize_id")
    counted = by_task.annotate(
        all=Count("pk"),
        pending=Count("pk", filter=Q(run__status=Status.PENDING)),
        running=Count("pk", filter=Q(run__status=Status.RUNNING)),
    ).order_by("-all", "run__task__name")
    return tuple(
        TaskCount(name or arize_id, pending, running, number - pending - running)
        for name, arize_id, number, pending, running in counted[:TASKS]
    )


def _notes(batch: CancelBatch, goes_on: int) -> tuple[Message, ...]:
    notes = []
    if goes_on:
        text = f"{goes_on:,} of these runs go on although Arize said that they were cancelled. Look at them in Arize."
        notes.append(Message("error", text))
    if batch.why_aborted:
        notes.append(Message("warning", batch.why_aborted))
    if batch.passed_over:
        one = batch.passed_over == 1
        text = f"{batch.passed_over:,} more {'was' if one else 'were'} asked for, but {'is' if one else 'are'} not "
        notes.append(Message("info", text + "pending or running and cannot be cancelled."))
    if batch.left_out:
        notes.append(Message("info", left_out_text(batch.left_out)))
    if batch.state == BatchState.WORKING and batch.finished_at is None:
        notes += _why_it_waits(batch)
    return tuple(notes)


def left_out_text(number: int) -> str:
    return (
        "1 more run matches now; it is left out."
        if number == 1
        else f"{number:,} more runs match now; they are left out."
    )


def _why_it_waits(batch: CancelBatch) -> list[Message]:
    now = timezone.now()
    waiting = CancelItem.objects.filter(batch=batch, state=ItemState.QUEUED).order_by()
    keys = Credential.objects.filter(pk__in=waiting.values("run__task__credential"), revoked_at=None)
    paused = CancelPace.objects.filter(credential__in=keys, paused_until__gt=now).select_related("credential")
    held = [(key, key.failing_reason) for key in keys.exclude(failing_since=None)]
    held += [(key, key.backoff_reason) for key in keys.filter(failing_since=None, backoff_until__gt=now)]
    held += [(pace.credential, pace.pause_reason) for pace in paused]
    return [Message("warning", f"The runs of key “{key.name}” wait: {why}") for key, why in dict(held).items()]
