"""What the pages about cancelling many show: the list before it begins, how far it is, and how each run ended."""

from dataclasses import dataclass
from datetime import timedelta

from django.urls import reverse

from taskruns.models import BatchSource, BatchState, CancelBatch, CancelItem, ItemState
from taskruns.models.batches import OPEN_ITEMS

from .words import Link, Message, Moment, in_words

# From here on the number is typed before anything begins.
TYPED_ABOVE = 20
_WORDS: dict[str, tuple[str, str, str]] = {
    ItemState.QUEUED: ("waiting", "quiet", "clock"),
    ItemState.SENT: ("under way", "going", "play"),
    ItemState.CONFIRMED: ("cancelled, Arize confirmed it", "good", "check"),
    ItemState.ALREADY_CANCELLED: ("cancelled already", "good", "check"),
    ItemState.FINISHED_FIRST: ("had already finished", "quiet", "check"),
    ItemState.FAILED_FIRST: ("had already failed", "quiet", "check"),
    ItemState.NOT_NEEDED: ("had ended before its turn, nothing sent", "quiet", "check"),
    ItemState.STILL_RUNNING: ("still running although Arize accepted the cancel", "bad", "error"),
    ItemState.REFUSED: ("refused by Arize", "bad", "error"),
    ItemState.NOT_SENT: ("not sent", "bad", "error"),
    ItemState.UNKNOWN: ("sent, end not known", "bad", "warning"),
    ItemState.LEFT_OUT: ("left out, nothing sent", "bad", "warning"),
}
GOES_ON = "Arize said that it was cancelled, but it goes on"
_SOURCES = {
    BatchSource.SELECTION: "chosen one by one",
    BatchSource.FILTER: "all that matched a filter",
    BatchSource.RETRY: "those that an earlier one did not stop",
    BatchSource.STOP: "the emergency stop",
}


@dataclass(frozen=True, slots=True)
class StateCount:
    """`tone` is good, quiet, going or bad: it drives the colour; the word says it too."""

    state: str
    word: str
    number: int
    tone: str
    icon: str


@dataclass(frozen=True, slots=True)
class TaskCount:
    """How many frozen runs of one task are in which status now."""

    task: str
    pending: int
    running: int
    ended: int


@dataclass(frozen=True, slots=True)
class BatchItem:
    """One run that was not stopped, and why. `alarm`: it goes on although Arize said otherwise."""

    url: str
    task: str
    run: str
    word: str
    why: str
    status: str
    alarm: bool


@dataclass(frozen=True, slots=True)
class BatchPage:
    """`may_act`: the buttons are there. `typed` is the number to type, empty when none is wanted."""

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
    """One past cancel of many in the list."""

    url: str
    title: str
    state: str
    who: str
    reason: str
    at: Moment | None
    counts: tuple[StateCount, ...]


def state_counts(counts: dict[str, int], *, goes_on: int = 0) -> tuple[StateCount, ...]:
    """In the order of the words; runs that go on although they were confirmed are not counted as stopped."""
    numbers = counts | {ItemState.CONFIRMED: counts.get(ItemState.CONFIRMED, 0) - goes_on}
    found = [
        StateCount(state, word, numbers[state], tone, icon)
        for state, (word, tone, icon) in _WORDS.items()
        if numbers.get(state)
    ]
    alarm = [StateCount("goes_on", GOES_ON, goes_on, "bad", "error")] if goes_on else []
    return tuple(alarm + found)


def batch_item(item: CancelItem, *, slug: str) -> BatchItem:
    """Expects `run.task` and `cancellation` to be loaded."""
    run = item.run
    alarm = run.is_active and item.state in {ItemState.CONFIRMED, ItemState.STILL_RUNNING}
    word = GOES_ON if item.state == ItemState.CONFIRMED else _WORDS[item.state][0]
    return BatchItem(
        url=reverse("run", args=[slug, run.pk]),
        task=str(run.task),
        run=run.arize_id,
        word=word,
        why=item.cancellation.explanation if item.cancellation else "",
        status=run.status,
        alarm=alarm,
    )


def title_of(batch: CancelBatch, total: int) -> str:
    runs = f"{total:,} run{'' if total == 1 else 's'}"
    return {
        BatchState.DRAFT: f"Cancel {runs}?",
        BatchState.WORKING: f"Cancelling {runs}",
        BatchState.FINISHED: f"Cancel of {runs}",
        BatchState.ABORTED: f"Aborted cancel of {runs}",
    }[BatchState(batch.state)]


def source_of(batch: CancelBatch) -> str:
    return _SOURCES[BatchSource(batch.source)]


def sentence_of(batch: CancelBatch, counts: dict[str, int], goes_on: int) -> str:
    """The whole of it in one sentence, for who reads nothing else."""
    total = sum(counts.values())
    is_open = sum(counts.get(state, 0) for state in OPEN_ITEMS)
    if batch.state == BatchState.DRAFT:
        return "Nothing has been sent. Look at the list, then confirm it."
    if is_open:
        sent = counts.get(ItemState.SENT, 0)
        return f"{total - is_open:,} of {total:,} have come to their end, {sent:,} are under way."
    stopped = sum(counts.get(state, 0) for state in (ItemState.CONFIRMED, ItemState.ALREADY_CANCELLED)) - goes_on
    ended = sum(
        counts.get(state, 0) for state in (ItemState.FINISHED_FIRST, ItemState.FAILED_FIRST, ItemState.NOT_NEEDED)
    )
    rest = total - stopped - ended
    return f"Of {total:,}: {stopped:,} cancelled, {ended:,} had ended by themselves, {rest:,} not stopped."


def took(batch: CancelBatch) -> str:
    if batch.started_at is None or batch.finished_at is None:
        return ""
    return in_words(max(batch.finished_at - batch.started_at, timedelta(seconds=1)))
